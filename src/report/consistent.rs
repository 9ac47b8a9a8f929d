//! Whether what an audit left in its folder belongs together: a file that was cut off, or is of another audit, must not become a page.

use std::path::Path;

use super::read::{CourseLine, Predicted};
use super::{Record, verdict as words};
use crate::error::{Error, Result};

/// What to do about files that contradict each other.
const RUN_AGAIN: &str = "cut off, of another audit, or changed by hand: run the audit again";

/// Numbers that were printed in full and are sums of few terms differ by less.
const ROUNDING: f64 = 1e-6;

fn contradicts(folder: &Path, file: &str, what: impl std::fmt::Display) -> Result<()> {
    Err(Error::data(what).at(folder.join(file).display()).help(RUN_AGAIN))
}

fn equal(a: Option<f64>, b: Option<f64>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() < ROUNDING,
        (a, b) => a.is_none() && b.is_none(),
    }
}

/// Predictions are of all forget images, and give the accuracies that the results have.
///
/// # Errors
/// Data, naming the file.
pub fn predictions(folder: &Path, record: &Record, images: &[Predicted]) -> Result<()> {
    const FILE: &str = "predictions.csv";
    if images.len() != record.n_forget {
        return contradicts(folder, FILE, format!("has {} of {} forget images", images.len(), record.n_forget));
    }
    let accuracy = |class: fn(&Predicted) -> usize| {
        let known: Vec<bool> = images.iter().filter_map(|image| Some(class(image) == image.truth?)).collect();
        let right = known.iter().filter(|right| **right).count();
        (!known.is_empty()).then(|| 100.0 * right as f64 / known.len() as f64)
    };
    // Self-training has no model that it attacks, and so no accuracy of one.
    let unlearned = record.acc_u.is_none() || equal(record.acc_u, accuracy(|image| image.unlearned.class));
    let after = record.acc_u_after.is_none() || equal(record.acc_u_after, accuracy(|image| image.unlearned_after.class));
    if unlearned && after && equal(record.acc_a_last, accuracy(|image| image.recovered.class)) {
        Ok(())
    } else {
        contradicts(folder, FILE, "gives other accuracies than run.json has")
    }
}

/// The course of every variant is whole, and ends with the accuracies that the results have.
///
/// # Errors
/// Data, naming the file.
pub fn courses(folder: &Path, records: &[Record], lines: &[CourseLine]) -> Result<()> {
    const FILE: &str = "iterations.csv";
    for record in records {
        let of: Vec<&CourseLine> = lines.iter().filter(|line| line.variant == record.variant).collect();
        let whole = of.len() == record.iterations + 1 && of.iter().enumerate().all(|(place, line)| line.iteration == place);
        if !whole {
            let what = format!("does not have the {} iterations of {} that run.json has", record.iterations, record.variant);
            return contradicts(folder, FILE, what);
        }
        if !of.last().is_some_and(|last| equal(last.acc_a, record.acc_a_last)) {
            return contradicts(folder, FILE, format!("ends {} with another accuracy than run.json has", record.variant));
        }
    }
    Ok(())
}

/// Recovery is what the accuracies give, and the verdict says what the excess does.
///
/// # Errors
/// Data, naming the file.
pub fn verdict(folder: &Path, record: &Record, said: Option<&String>) -> Result<()> {
    const FILE: &str = super::summary::FILE;
    let gain = record.acc_u.zip(record.acc_a_last).map(|(acc_u, acc_a)| acc_a - acc_u);
    let by_class = record.classes.iter().all(|class| (class.acc_a - class.acc_u - class.r_i).abs() < ROUNDING);
    if !equal(record.r_i, gain) || !by_class {
        return contradicts(folder, FILE, "has another R_I than its accuracies give");
    }
    let excess = record.excess_low.zip(record.excess_high).zip(record.excess_p);
    let expected = excess.zip(record.control.as_deref()).map(|((excess, p), control)| words::begins(excess, p, control));
    match (said, expected) {
        (Some(said), Some(expected)) if !said.starts_with(expected) => {
            contradicts(folder, FILE, "has a verdict that its numbers do not give")
        }
        (None, Some(_)) => contradicts(folder, FILE, "has an excess over a control and no verdict on it"),
        _ => Ok(()),
    }
}
