//! Table 1: overall recovery. A row a data set and backbone; Acc_U, Acc_A and R_R for every method.

use super::{FULL, Table, distinct, methods};
use crate::report::Record;
use crate::report::csv::{percent, text};

/// Makes the table.
pub fn make(records: &[Record]) -> Table {
    let methods = methods(records);
    let mut header = vec!["Dataset".to_string(), "Backbone".to_string()];
    header.extend(methods.iter().flat_map(|m| ["Acc_U", "Acc_A", "R_R"].map(|column| format!("{m} {column}"))));
    let rows = distinct(records, |r| (r.dataset.as_str(), r.backbone.as_str())).into_iter().map(|(dataset, backbone)| {
        let mut row = vec![text(dataset), text(backbone)];
        for method in &methods {
            let found = records
                .iter()
                .find(|r| (r.dataset == dataset && r.backbone == backbone) && r.method == *method && r.variant == FULL);
            row.extend([found.and_then(|r| r.acc_u), found.and_then(|r| r.acc_a_last), found.and_then(|r| r.r_r)].map(percent));
        }
        row
    });
    (header.iter().map(|h| text(h)).collect(), rows.collect())
}
