//! Table 2 (in full: Table A3): recovery by class. A row an attacked model; Acc_U and R_I for every forgetting class, then A_R.

use super::{FULL, Table};
use crate::report::Record;
use crate::report::csv::{percent, text};

/// Makes the table.
pub fn make(records: &[Record]) -> Table {
    let full: Vec<&Record> = records.iter().filter(|r| r.variant == FULL).collect();
    let most = full.iter().map(|r| r.classes.len()).max().unwrap_or(0);
    let mut header = vec!["Dataset".to_string(), "Backbone".to_string(), "Method".to_string()];
    header.extend((1..=most).flat_map(|n| ["class", "Acc_U", "R_I"].map(|column| format!("{n} {column}"))));
    header.push("A_R".to_string());
    let rows = full.into_iter().map(|record| {
        let mut row = vec![text(&record.dataset), text(&record.backbone), text(&record.method)];
        for index in 0..most {
            match record.classes.get(index) {
                Some(class) => row.extend([text(&class.class), percent(Some(class.acc_u)), percent(Some(class.r_i))]),
                None => row.extend([String::new(), String::new(), String::new()]),
            }
        }
        row.push(percent(record.a_r));
        row
    });
    (header, rows.collect())
}
