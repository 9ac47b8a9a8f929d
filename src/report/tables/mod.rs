//! The paper's tables, one a file, each made from a list of records.

mod table1;
mod table2;
mod table3;
mod tidy;

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::report::{Record, csv};

/// A table: header and rows of cells.
pub type Table = (Vec<String>, Vec<Vec<String>>);

/// How a table is made.
pub type Make = fn(&[Record]) -> Table;

/// Overall recovery.
pub const TABLE1: Make = table1::make;

/// Recovery by class.
pub const TABLE2: Make = table2::make;

/// Ablation.
pub const TABLE3: Make = table3::make;

/// Everything.
pub const TIDY: Make = tidy::make;

/// Every table: file name and how it is made.
pub const TABLES: &[(&str, Make)] =
    &[("table1.csv", TABLE1), ("table2.csv", TABLE2), ("table3.csv", TABLE3), ("results.csv", TIDY)];

/// Writes every table into a folder, and gives their paths.
///
/// # Errors
/// Unexpected, when the folder is not writable or the disk is full.
pub fn write_all(folder: &Path, records: &[Record]) -> Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    for (name, make) in TABLES {
        let (header, rows) = make(records);
        let header: Vec<&str> = header.iter().map(String::as_str).collect();
        let path = folder.join(name);
        csv::write(&path, &header, &rows)?;
        written.push(path);
    }
    Ok(written)
}

/// The value of a record in the paper's headline tables: all of the attack.
pub(in crate::report) const FULL: &str = "P+U+A";

/// Distinct keys in order of first appearance.
pub(in crate::report) fn distinct<'a, T, K: PartialEq>(records: &'a [T], key: impl Fn(&'a T) -> K) -> Vec<K> {
    let mut keys = Vec::new();
    for record in records {
        let key = key(record);
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

/// Methods that occur, the paper's first.
fn methods(records: &[Record]) -> Vec<&str> {
    let mut methods = distinct(records, |r| r.method.as_str());
    methods.sort_by_key(|m| crate::report::record::method_rank(m));
    methods
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::report::{ClassRecord, Provenance};

    pub(in crate::report) fn record(method: &str, variant: &str, acc_a: f64) -> Record {
        let class =
            |name: &str, acc_u: f64, acc_a: f64| ClassRecord { class: name.into(), images: 10, acc_u, acc_a, r_i: acc_a - acc_u };
        Record {
            dataset: "=drawn".into(),
            backbone: "ResNet8".into(),
            method: method.into(),
            variant: variant.into(),
            n_forget: 20,
            n_scored: 20,
            n_probe: 40,
            acc_u: Some(50.0),
            acc_a_last: Some(acc_a),
            acc_a_best: Some(acc_a),
            acc_u_after: Some(55.0),
            acc_u_best: Some(57.0),
            r_i: Some(acc_a - 50.0),
            r_r: Some(2.0 * (acc_a - 50.0)),
            a_r: Some(12.0),
            a_r_geometric: None,
            r_i_low: None,
            r_i_high: None,
            excess: None,
            excess_u: None,
            excess_low: None,
            excess_high: None,
            excess_p: None,
            excess_self: None,
            control: None,
            control_sha256: None,
            agreement_rate: 0.5,
            iterations: 3,
            stop_reason: "patience".into(),
            classes: vec![class("disc", 40.0, 60.0), class("ring", 60.0, 60.0)],
            provenance: Provenance {
                seed: 1,
                settings_sha256: "s".into(),
                model_sha256: "m".into(),
                forget_sha256: "f".into(),
                probe_sha256: "p".into(),
                adapter_sha256: "a".into(),
                device: "cpu".into(),
                threads: 2,
                precision: "fp32".into(),
                cmira: "0".into(),
                libtorch: "2".into(),
            },
        }
    }

    fn text(name: &str, records: &[Record]) -> String {
        let Some((_, make)) = TABLES.iter().find(|(n, _)| *n == name) else { panic!("{name}") };
        let (header, rows) = make(records);
        let lines: Vec<String> = std::iter::once(header).chain(rows).map(|cells| cells.join(",")).collect();
        lines.join("\n")
    }

    #[test]
    fn table_1_has_a_row_a_backbone_and_three_columns_a_method() {
        let records = [record("GA", "P", 45.0), record("GA", "P+U+A", 60.0), record("RT", "P+U+A", 52.5)];
        let expected = "Dataset,Backbone,RT Acc_U,RT Acc_A,RT R_R,GA Acc_U,GA Acc_A,GA R_R\n\
                        '=drawn,ResNet8,50.00,52.50,5.00,50.00,60.00,20.00";
        assert_eq!(text("table1.csv", &records), expected);
    }

    #[test]
    fn table_2_has_the_classes_of_the_whole_attack() {
        let records = [record("GA", "P", 45.0), record("GA", "P+U+A", 60.0)];
        let expected = "Dataset,Backbone,Method,1 class,1 Acc_U,1 R_I,2 class,2 Acc_U,2 R_I,A_R\n\
                        '=drawn,ResNet8,GA,disc,40.00,20.00,ring,60.00,0.00,12.00";
        assert_eq!(text("table2.csv", &records), expected);
    }

    #[test]
    fn table_3_compares_the_variants_with_the_baseline() {
        let records = [record("GA", "P", 45.0), record("GA", "P+U+A", 60.0)];
        let expected = "Dataset,Backbone,Model,GA Acc,GA R_R,GA A_R\n\
                        '=drawn,ResNet8,Baseline,50.00,,\n\
                        '=drawn,ResNet8,P,45.00,-10.00,12.00\n\
                        '=drawn,ResNet8,P+U+A,60.00,20.00,12.00";
        assert_eq!(text("table3.csv", &records), expected);
    }

    #[test]
    fn results_are_tidy() {
        let text = text("results.csv", &[record("GA", "P+U+A", 60.0)]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[0].starts_with("dataset,backbone,method,variant,class,n_forget,n_scored,n_probe"), "{}", lines[0]);
        assert!(lines[1].starts_with("'=drawn,ResNet8,GA,P+U+A,all,20,20,40,50,60,60,55,57,10,20,12,,"), "{}", lines[1]);
        assert!(lines[2].starts_with("'=drawn,ResNet8,GA,P+U+A,disc,10,10,40,40,60,,,,20,"), "{}", lines[2]);
    }
}
