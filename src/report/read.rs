//! What an audit left in its folder, read back.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::csv;
use crate::error::{Error, Result};
use crate::files;

/// What to do about a table that is not as this version writes it.
const CHANGED: &str = "results of another version, or changed by hand: run the audit again";

/// More than any attack has, and fewer than a figure cannot hold.
const MOST_ITERATIONS: usize = 100_000;

/// A line of `iterations.csv`: the state after an iteration of one variant.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct CourseLine {
    /// `P`, `P+U`, `P+U+A` or `P+A`.
    pub variant: String,
    /// 0 after stage 1.
    pub iteration: usize,
    /// The attack model's accuracy on the forget set, percent; empty without labels.
    pub acc_a: Option<f64>,
    /// The unlearned model's.
    pub acc_u: Option<f64>,
    /// Share of forget images on which both agree, `0..=1`.
    pub agreement_rate: f64,
    /// Size of the agreement set that the iteration trained on.
    pub agreement: usize,
    /// Size of the unlearned model's disagreement set.
    pub from_unlearned: usize,
    /// Size of the attack model's disagreement set.
    pub from_attack: usize,
    /// Mean loss of the attack model in its last epoch.
    pub loss_a: Option<f64>,
    /// Mean loss of the unlearned model in its last epoch.
    pub loss_u: Option<f64>,
}

/// A class, and how surely a model gives it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Said {
    /// Its place among all classes.
    pub class: usize,
    /// `0..=1`.
    pub confidence: f64,
}

/// A line of `predictions.csv`.
#[derive(Debug, Clone, PartialEq)]
pub struct Predicted {
    /// The image's name.
    pub image: String,
    /// Its class, if it is known.
    pub truth: Option<usize>,
    /// `M_U` before the attack.
    pub unlearned: Said,
    /// `M_A` after stage 1.
    pub pretrained: Said,
    /// `M_A` in the end.
    pub recovered: Said,
    /// `M_U` in the end.
    pub unlearned_after: Said,
}

/// Lines of `iterations.csv` in the folder of an audit.
///
/// # Errors
/// Data, naming file and line.
pub fn course(folder: &Path) -> Result<Vec<CourseLine>> {
    let path = files::below(folder, "iterations.csv")?;
    let lines: Vec<CourseLine> = table(&path)?;
    for (line, number) in lines.iter().zip(2..) {
        let accuracies = [line.acc_a, line.acc_u].into_iter().flatten().all(|accuracy| (0.0..=100.0).contains(&accuracy));
        if !accuracies || !(0.0..=1.0).contains(&line.agreement_rate) || line.iteration > MOST_ITERATIONS {
            return Err(Error::data(format!("line {number}: a number is out of its range")).at(path.display()).help(CHANGED));
        }
    }
    Ok(lines)
}

/// A row of `predictions.csv` as it is written.
#[derive(Deserialize)]
struct Row {
    image: String,
    truth: String,
    unlearned_label: String,
    unlearned_confidence: f64,
    pretrained_label: String,
    pretrained_confidence: f64,
    recovered_label: String,
    recovered_confidence: f64,
    unlearned_after_label: String,
    unlearned_after_confidence: f64,
}

/// Lines of `predictions.csv` in the folder of an audit of these classes.
///
/// # Errors
/// Data, naming file and line.
pub fn predictions(folder: &Path, classes: &[String]) -> Result<Vec<Predicted>> {
    let path = files::below(folder, "predictions.csv")?;
    // Tables hold names as spreadsheets may have them.
    let places: HashMap<String, usize> = classes.iter().enumerate().map(|(place, name)| (csv::text(name), place)).collect();
    let rows: Vec<Row> = table(&path)?;
    let read = |(row, line): (Row, usize)| {
        let class = |name: &str| {
            let known = places.get(name).copied();
            known.ok_or_else(|| Error::data(format!("line {line}: there is no class '{name}'")).at(path.display()))
        };
        let said = |label: &str, confidence: f64| -> Result<Said> {
            // Sums of probabilities may be a rounding above 1.
            if !(0.0..=1.0 + 1e-6).contains(&confidence) {
                let error = Error::data(format!("line {line}: {confidence} is no confidence"));
                return Err(error.at(path.display()).help(CHANGED));
            }
            Ok(Said { class: class(label)?, confidence })
        };
        Ok(Predicted {
            truth: if row.truth.is_empty() { None } else { Some(class(&row.truth)?) },
            unlearned: said(&row.unlearned_label, row.unlearned_confidence)?,
            pretrained: said(&row.pretrained_label, row.pretrained_confidence)?,
            recovered: said(&row.recovered_label, row.recovered_confidence)?,
            unlearned_after: said(&row.unlearned_after_label, row.unlearned_after_confidence)?,
            image: row.image,
        })
    };
    rows.into_iter().zip(2..).map(read).collect()
}

/// A row of `features.csv`: which image a row of the features is of.
#[derive(Debug, Clone, Deserialize)]
pub struct FeatureRow {
    /// `forget` or `probe`.
    pub set: String,
    /// The image's name.
    pub image: String,
    /// Its class's name, as tables have it; empty if it is not known.
    pub class: String,
}

/// All rows of a table with a header.
///
/// # Errors
/// Data, naming file and line.
pub fn table<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let failed = |error: ::csv::Error| Error::data(error).at(path.display()).help(CHANGED);
    let rows = ::csv::Reader::from_path(path).map_err(failed)?.into_deserialize().collect::<std::result::Result<Vec<T>, _>>();
    rows.map_err(failed)
}
