//! The tables of a grid: the paper's, in its layout, means over seeds; and what an auditor needs beyond them.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::record::{ClassRecord, Record, Scores};
use super::{csv, excess, tables};
use crate::error::{Error, Result};
use crate::files;

/// One model attacked by one variant with one seed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cell {
    /// The numbers.
    pub record: Record,
    /// For every forget image whether the class that the attack gives in the end is right, as `0` and `1`.
    pub right: String,
    /// Where the attack's own results are, below the grid's folder.
    pub folder: String,
}

/// Which data set, backbone and seed a row is of.
#[derive(Debug, Clone)]
pub struct Row<'a> {
    /// The data set's name.
    pub dataset: &'a str,
    /// The backbone's name.
    pub backbone: String,
    /// The seed.
    pub seed: u64,
}

/// One row of `unlearning.csv`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UnlearnRow(Vec<String>);

pub(super) const UNLEARNING: [&str; 10] = [
    "dataset",
    "backbone",
    "seed",
    "method",
    "setting",
    "strength",
    "forget_accuracy",
    "retain_accuracy",
    "test_accuracy",
    "mia_efficacy",
];

/// Columns of Table A1.
pub(super) const SPLIT_COLUMNS: [&str; 8] = ["Dataset", "Seed", "Classes", "D_t", "D_f", "D_r", "D_p", "Forgetting classes"];

/// Columns of Table A2.
pub(super) const METHOD_COLUMNS: [&str; 9] =
    ["Dataset", "Backbone", "Method", "Seed", "N_fc", "Epochs", "Unlearn lr", "Alpha", "Calibrated"];

impl UnlearnRow {
    /// Its cells, as the table has them.
    pub(super) fn cells(&self) -> &[String] {
        &self.0
    }

    /// Of an unlearned model; `strength` is the setting that decides how strong the method was, and its value.
    pub fn of(row: Row, method: &str, scores: &Scores, strength: Option<&(String, f64)>) -> UnlearnRow {
        let mut cells = start(&row, method);
        cells.push(strength.map_or_else(String::new, |(setting, _)| setting.clone()));
        cells.push(csv::number(strength.map(|(_, value)| *value)));
        cells.extend([Some(scores.forget), Some(scores.retain), scores.test, scores.mia_efficacy].map(csv::number));
        UnlearnRow(cells)
    }

    /// Of the original model, which is scored on all it was trained on.
    pub fn original(row: Row, train_accuracy: f64, test_accuracy: f64) -> UnlearnRow {
        let mut cells = start(&row, "original");
        cells.extend([String::new(), String::new(), String::new()]);
        cells.extend([Some(train_accuracy), Some(test_accuracy), None].map(csv::number));
        UnlearnRow(cells)
    }
}

fn start(row: &Row, method: &str) -> Vec<String> {
    vec![csv::text(row.dataset), csv::text(&row.backbone), row.seed.to_string(), csv::text(method)]
}

/// How one seed split a data set: a row of Table A1.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SplitRow {
    /// The data set's name.
    pub dataset: String,
    /// The seed.
    pub seed: u64,
    /// Numbers of images: D_f, D_r and D_p; D_t is the first two together.
    pub images: [usize; 3],
    /// Classes in all.
    pub classes: usize,
    /// The names of those of which images are forgotten.
    pub forgetting: Vec<String>,
}

/// What one method was run with: a row of Table A2.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MethodRow {
    /// The data set's name.
    pub dataset: String,
    /// The backbone's name.
    pub backbone: String,
    /// The method.
    pub method: String,
    /// The seed.
    pub seed: u64,
    /// Images forgotten of each forgetting class.
    pub per_class: usize,
    /// Epochs and learning rate, of methods that train.
    pub training: Option<(usize, f64)>,
    /// Alpha, of methods that have one.
    pub alpha: Option<f64>,
    /// Whether learning rate or alpha was chosen by the accuracy on the retain set.
    pub calibrated: bool,
}

/// Everything that the tables are made of.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Results {
    /// Attacks.
    pub cells: Vec<Cell>,
    /// Scores of models.
    pub unlearned: Vec<UnlearnRow>,
    /// Splits.
    pub splits: Vec<SplitRow>,
    /// Settings of methods.
    pub methods: Vec<MethodRow>,
    /// What a reader should know before relying on the numbers, by step.
    pub notes: Vec<String>,
}

/// A grid in one document, from which its tables and its page can be made again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Document {
    /// The command that made it, word by word.
    pub command: Vec<String>,
    /// The folder in which it was given.
    #[serde(default)]
    pub working_directory: String,
    /// This program's version.
    pub cmira: String,
    /// Every setting, as the grid's file has them.
    pub settings: serde_json::Value,
    /// What came out.
    pub results: Results,
}

/// The document's name in the folder of a grid.
pub const FILE: &str = "grid.json";

impl Document {
    /// Reads it from the folder of a grid.
    ///
    /// # Errors
    /// Data, where there is none or it is damaged.
    pub fn read(folder: &Path) -> Result<Document> {
        files::read_json(&folder.join(FILE), "run the grid again, with this version: what is done is not done again")
    }

    /// Writes it into the folder of a grid.
    ///
    /// # Errors
    /// Unexpected, when the folder is not writable or the disk is full.
    pub fn write(&self, folder: &Path) -> Result<()> {
        files::write(&folder.join(FILE), &serde_json::to_vec_pretty(self).map_err(Error::unexpected)?)
    }
}

impl Results {
    /// The records of attacks, each with what is beyond its strictest control.
    pub fn records(&self) -> Vec<Record> {
        self.cells.iter().map(|cell| excess::with_excess(cell, &self.cells)).collect()
    }

    /// The same without those of models and attacks that are there to compare with.
    pub fn attacked(&self) -> Vec<Record> {
        self.records().into_iter().filter(|record| !excess::is_control_alone(record)).collect()
    }
}

/// Writes all tables into a folder and gives their paths.
///
/// # Errors
/// Unexpected, when the folder is not writable or the disk is full.
pub fn write_all(folder: &Path, results: &Results) -> Result<Vec<PathBuf>> {
    let cells = results.cells.as_slice();
    // The paper's tables have the paper's methods.
    let (records, attacked) = (results.records(), results.attacked());
    let (mean, deviation) = (summarised(&attacked, mean_of), summarised(&attacked, deviation_of));
    let several = mean.len() < attacked.len();
    let first = |records: &[Record], key: fn(&Record) -> &str, nth: usize| -> Vec<Record> {
        let mut keys: Vec<String> = Vec::new();
        for record in records {
            if !keys.iter().any(|known| known == key(record)) {
                keys.push(key(record).to_string());
            }
        }
        records.iter().filter(|record| keys.get(nth).is_some_and(|wanted| wanted == key(record))).cloned().collect()
    };
    let mut written = Vec::new();
    let mut put = |name: &str, make: tables::Make, records: &[Record]| -> Result<()> {
        let (header, rows) = make(records);
        let header: Vec<&str> = header.iter().map(String::as_str).collect();
        let path = folder.join(name);
        csv::write(&path, &header, &rows)?;
        written.push(path);
        Ok(())
    };
    for (records, suffix) in [(&mean, ""), (&deviation, "_std")] {
        if !suffix.is_empty() && !several {
            continue;
        }
        put(&format!("table1{suffix}.csv"), tables::TABLE1, records)?;
        put(&format!("table2{suffix}.csv"), tables::TABLE2, &first(records, |r| &r.dataset, 0))?;
        put(&format!("table3{suffix}.csv"), tables::TABLE3, &first(records, |r| &r.dataset, 0))?;
        put(&format!("tableA3{suffix}.csv"), tables::TABLE2, records)?;
        put(&format!("tableA4{suffix}.csv"), tables::TABLE3, &first(records, |r| &r.backbone, 0))?;
        put(&format!("tableA5{suffix}.csv"), tables::TABLE3, &first(records, |r| &r.backbone, 1))?;
    }
    put("results.csv", tables::TIDY, &records)?;
    let mut list = |name: &str, header: &[&str], rows: &[Vec<String>]| -> Result<()> {
        let path = folder.join(name);
        csv::write(&path, header, rows)?;
        written.push(path);
        Ok(())
    };
    let rows: Vec<Vec<String>> = results.splits.iter().map(SplitRow::cells).collect();
    list("tableA1.csv", &SPLIT_COLUMNS, &rows)?;
    let rows: Vec<Vec<String>> = results.methods.iter().map(MethodRow::cells).collect();
    list("tableA2.csv", &METHOD_COLUMNS, &rows)?;
    let rows: Vec<Vec<String>> = results.unlearned.iter().map(|row| row.0.clone()).collect();
    list("unlearning.csv", &UNLEARNING, &rows)?;
    list("excess.csv", &excess::COLUMNS, &excess::rows(cells))?;
    Ok(written)
}

impl SplitRow {
    pub(super) fn cells(&self) -> Vec<String> {
        let [forget, retain, probe] = self.images;
        let mut row = vec![csv::text(&self.dataset), self.seed.to_string()];
        row.extend([self.classes, forget + retain, forget, retain, probe].map(|count| count.to_string()));
        row.push(csv::text(&self.forgetting.join(", ")));
        row
    }
}

impl MethodRow {
    pub(super) fn cells(&self) -> Vec<String> {
        let mut row = [&self.dataset, &self.backbone, &self.method].map(|name| csv::text(name)).to_vec();
        row.extend([self.seed.to_string(), self.per_class.to_string()]);
        row.push(self.training.map_or_else(String::new, |(epochs, _)| epochs.to_string()));
        row.extend([self.training.map(|(_, rate)| rate), self.alpha].map(csv::number));
        row.push(if self.calibrated { "yes" } else { "no" }.to_string());
        row
    }
}

pub(super) fn mean_of(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Of a sample: n - 1 in the denominator; none for a single value.
pub(super) fn deviation_of(values: &[f64]) -> Option<f64> {
    let mean = mean_of(values).filter(|_| values.len() > 1)?;
    Some((values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (values.len() - 1) as f64).sqrt())
}

/// One record for all seeds of a data set, backbone, method and variant. Rates are means of rates, not rates of means.
pub(super) fn summarised(records: &[Record], of: fn(&[f64]) -> Option<f64>) -> Vec<Record> {
    let same = |a: &Record, b: &Record| {
        a.dataset == b.dataset && a.backbone == b.backbone && a.method == b.method && a.variant == b.variant
    };
    let mut done: Vec<Record> = Vec::new();
    for record in records {
        if done.iter().any(|other| same(other, record)) {
            continue;
        }
        let all: Vec<&Record> = records.iter().filter(|other| same(other, record)).collect();
        // A mean of fewer seeds would look like any other.
        let over = |get: fn(&Record) -> Option<f64>| of(&all.iter().map(|r| get(r)).collect::<Option<Vec<f64>>>()?);
        let classes = record.classes.iter().map(|class| {
            let here: Vec<&ClassRecord> =
                all.iter().flat_map(|r| &r.classes).filter(|other| other.class == class.class).collect();
            let over =
                |get: fn(&ClassRecord) -> f64| of(&here.iter().map(|class| get(class)).collect::<Vec<f64>>()).unwrap_or(f64::NAN);
            let (acc_u, acc_a, r_i) = (over(|c| c.acc_u), over(|c| c.acc_a), over(|c| c.r_i));
            ClassRecord { class: class.class.clone(), images: class.images, acc_u, acc_a, r_i }
        });
        done.push(Record {
            acc_u: over(|r| r.acc_u),
            acc_a_last: over(|r| r.acc_a_last),
            acc_a_best: over(|r| r.acc_a_best),
            acc_u_after: over(|r| r.acc_u_after),
            acc_u_best: over(|r| r.acc_u_best),
            r_i: over(|r| r.r_i),
            r_r: over(|r| r.r_r),
            a_r: over(|r| r.a_r),
            a_r_geometric: over(|r| r.a_r_geometric),
            excess: over(|r| r.excess),
            excess_u: over(|r| r.excess_u),
            excess_self: over(|r| r.excess_self),
            classes: classes.collect(),
            ..record.clone()
        });
    }
    done
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::report::excess::tests::cells;

    #[test]
    fn several_seeds_give_means_and_deviations() {
        let records: Vec<Record> = cells().iter().map(|cell| excess::with_excess(cell, &cells())).collect();
        let of = |records: &[Record]| {
            records.iter().find(|r| r.method == "RT" && r.variant == "P+U+A").map(|r| (r.acc_a_last, r.excess)).unwrap()
        };
        assert_eq!(of(&summarised(&records, mean_of)), (Some(25.0), None));
        // 20 and 30: the square root of 50.
        assert_eq!(of(&summarised(&records, deviation_of)), (Some(50.0_f64.sqrt()), None));
        let mean = summarised(&records, mean_of);
        assert_eq!(mean.len(), 4);
        let iu = mean.iter().find(|r| r.method == "IU" && r.variant == "P+U+A").unwrap();
        assert_eq!((iu.acc_a_last, iu.excess), (Some(50.0), Some(25.0)));
    }
}
