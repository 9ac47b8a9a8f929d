//! Table 3 (in full: Tables A4 and A5): ablation. A row a data set, backbone and model; Acc, R_R and A_R for every method.

use super::{Table, distinct, methods};
use crate::report::Record;
use crate::report::csv::{percent, text};

/// Makes the table.
pub fn make(records: &[Record]) -> Table {
    let methods = methods(records);
    let mut header = vec!["Dataset".to_string(), "Backbone".to_string(), "Model".to_string()];
    header.extend(methods.iter().flat_map(|m| ["Acc", "R_R", "A_R"].map(|column| format!("{m} {column}"))));
    let mut rows = Vec::new();
    for (dataset, backbone) in distinct(records, |r| (r.dataset.as_str(), r.backbone.as_str())) {
        let here: Vec<&Record> = records.iter().filter(|r| r.dataset == dataset && r.backbone == backbone).collect();
        for model in ["Baseline", "P", "P+U", "P+U+A"] {
            if model != "Baseline" && !here.iter().any(|r| r.variant == model) {
                continue;
            }
            let mut row = vec![text(dataset), text(backbone), model.to_string()];
            for method in &methods {
                let of_method = || here.iter().filter(|r| r.method == *method);
                row.extend(match model {
                    "Baseline" => [percent(of_method().next().and_then(|r| r.acc_u)), String::new(), String::new()],
                    _ => {
                        let found = of_method().find(|r| r.variant == model);
                        [found.and_then(|r| r.acc_a_last), found.and_then(|r| r.r_r), found.and_then(|r| r.a_r)].map(percent)
                    }
                });
            }
            rows.push(row);
        }
    }
    (header.iter().map(|h| text(h)).collect(), rows)
}
