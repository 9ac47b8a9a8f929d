//! One row of results: one model attacked by one variant.

use serde::{Deserialize, Serialize};

use crate::attack::Variant;
use crate::error::{Error, Result};
use crate::metrics::paired::{self, Comparison};
use crate::metrics::recovery;

/// What tables call data set, backbone and method of an audited model of which nobody said more.
pub const UNNAMED: [&str; 3] = ["images", "model", "external"];

/// Accuracies of one forgetting class, percent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassRecord {
    /// The class's name.
    pub class: String,
    /// Forget images of this class.
    pub images: usize,
    /// The unlearned model's accuracy before the attack.
    pub acc_u: f64,
    /// The attack model's accuracy at the end.
    pub acc_a: f64,
    /// `acc_a - acc_u`, in points.
    pub r_i: f64,
}

/// Where a number comes from. Nothing here depends on the clock, so that equal runs give equal files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The seed of everything random.
    pub seed: u64,
    /// SHA-256 of all settings of the attack.
    pub settings_sha256: String,
    /// SHA-256 of the audited file.
    pub model_sha256: String,
    /// SHA-256 of the forget set: pixels, labels and names.
    pub forget_sha256: String,
    /// SHA-256 of the probing set.
    pub probe_sha256: String,
    /// SHA-256 of the adapter: how images are turned into numbers decides every figure.
    pub adapter_sha256: String,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Threads of one libtorch operation.
    pub threads: usize,
    /// What the models computed in while they were taught: `fp32` or `bf16`.
    pub precision: String,
    /// This program's version.
    pub cmira: String,
    /// The libtorch version that it was built for.
    pub libtorch: String,
}

/// One model attacked by one variant. Accuracies are top-1 in percent over the forget set; they are empty where its labels are unknown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The data set's name.
    pub dataset: String,
    /// The audited model's backbone.
    pub backbone: String,
    /// The unlearning method: RT, FT, FF, GA, IU, WP, or a name of the user's.
    pub method: String,
    /// `P`, `P+U` or `P+U+A`.
    pub variant: String,
    /// Forget images.
    pub n_forget: usize,
    /// Forget images whose true class is known: what accuracies are computed over.
    pub n_scored: usize,
    /// Probing images.
    pub n_probe: usize,
    /// The unlearned model before the attack.
    pub acc_u: Option<f64>,
    /// The attack model at the end.
    pub acc_a_last: Option<f64>,
    /// The attack model's best iteration, known only to who has the labels.
    pub acc_a_best: Option<f64>,
    /// The unlearned model at the end: it recovers, too.
    pub acc_u_after: Option<f64>,
    /// The unlearned model's best iteration, known only to who has the labels.
    pub acc_u_best: Option<f64>,
    /// `acc_a_last - acc_u`, in points.
    pub r_i: Option<f64>,
    /// `100 r_i / acc_u`, percent.
    pub r_r: Option<f64>,
    /// Growth of the paper's polygon, percent.
    pub a_r: Option<f64>,
    /// Growth of the polygon with one spoke a class, percent.
    pub a_r_geometric: Option<f64>,
    /// Bounds of the 95 % interval of `r_i`, in points.
    pub r_i_low: Option<f64>,
    /// See `r_i_low`.
    pub r_i_high: Option<f64>,
    /// `acc_a_last` minus the control's, in points; empty without a control.
    pub excess: Option<f64>,
    /// `acc_u_after` minus the control's, in points; empty without a control.
    pub excess_u: Option<f64>,
    /// Bounds of the 95 % interval of `excess`, in points.
    pub excess_low: Option<f64>,
    /// See `excess_low`.
    pub excess_high: Option<f64>,
    /// Two-sided p of McNemar's exact test that the attack gets as many images right as the control.
    pub excess_p: Option<f64>,
    /// `acc_a_last` minus that of self-training, in points; empty where that was not run.
    pub excess_self: Option<f64>,
    /// What the control is: a method's name or `probe-only`.
    pub control: Option<String>,
    /// SHA-256 of the control's file.
    pub control_sha256: Option<String>,
    /// Share of forget images on which both models agree at the end, `0..=1`.
    pub agreement_rate: f64,
    /// Iterations of stage 2.
    pub iterations: usize,
    /// Why it ended: `patience`, `iterations` or `no_mutual_stage`.
    pub stop_reason: String,
    /// By forgetting class, in class order.
    pub classes: Vec<ClassRecord>,
    /// Where the numbers come from.
    pub provenance: Provenance,
}

impl Record {
    /// Compares the attack with the same attack on a control: `own` and `others` say of every image whether either gets it right. Gives the
    /// comparison, if there are images.
    pub fn compare_with(&mut self, control: &Record, own: &[bool], others: &[bool]) -> Option<Comparison> {
        let beyond = |own: Option<f64>, other: Option<f64>| own.zip(other).map(|(own, other)| recovery::excess(own, other));
        self.excess = beyond(self.acc_a_last, control.acc_a_last);
        self.excess_u = beyond(self.acc_u_after, control.acc_u_after);
        let compared = paired::compare(others, own);
        self.excess_low = compared.map(|found| found.interval.0);
        self.excess_high = compared.map(|found| found.interval.1);
        self.excess_p = compared.map(|found| found.p);
        self.control = Some(control.method.clone());
        self.control_sha256 = Some(control.provenance.model_sha256.clone());
        compared
    }

    /// Compares the attack with the attack model that taught itself. Without a teacher there is nothing to compare.
    pub fn compare_with_self(&mut self, alone: &Record) {
        if self.is_taught() {
            self.excess_self = self.acc_a_last.zip(alone.acc_a_last).map(|(own, alone)| recovery::excess(own, alone));
        }
    }

    /// Whether all numbers are within their ranges, as every record is that this program writes.
    ///
    /// # Errors
    /// Data, where a record that was read was not written by it.
    pub fn check(&self) -> Result<()> {
        let within =
            |values: &[Option<f64>], low: f64, high: f64| values.iter().flatten().all(|value| (low..=high).contains(value));
        let accuracies = [self.acc_u, self.acc_a_last, self.acc_a_best, self.acc_u_after, self.acc_u_best];
        let points = [
            self.r_i,
            self.r_i_low,
            self.r_i_high,
            self.excess,
            self.excess_low,
            self.excess_high,
            self.excess_u,
            self.excess_self,
        ];
        let growth = [self.r_r, self.a_r, self.a_r_geometric];
        let class = |class: &ClassRecord| {
            within(&[Some(class.acc_u), Some(class.acc_a)], 0.0, 100.0) && within(&[Some(class.r_i)], -100.0, 100.0)
        };
        // The bounds of an interval may lie a little outside of what they bound.
        let fine = within(&accuracies, 0.0, 100.0)
            && within(&points, -200.0, 200.0)
            && within(&growth, -100.0, f64::MAX)
            && within(&[Some(self.agreement_rate)], 0.0, 1.0)
            && self.classes.iter().all(class);
        if fine { Ok(()) } else { Err(Error::data(format!("a number of {}, {} is out of its range", self.method, self.variant))) }
    }

    /// Whether the attacked model taught the attack model anything.
    pub fn is_taught(&self) -> bool {
        [Variant::PU, Variant::PUA].map(Variant::name).contains(&self.variant.as_str())
    }

    /// Without what concerns an attacked model: for self-training, which has none.
    pub fn without_model(self) -> Record {
        Record {
            acc_u: None,
            acc_u_after: None,
            acc_u_best: None,
            r_i: None,
            r_r: None,
            a_r: None,
            a_r_geometric: None,
            r_i_low: None,
            r_i_high: None,
            classes: Vec::new(),
            provenance: Provenance { model_sha256: String::new(), ..self.provenance },
            ..self
        }
    }
}

/// Scores of one model; accuracies are top-1 in percent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// On the forget set `D_f`; 100 less this is Jia's unlearning accuracy UA.
    pub forget: f64,
    /// On the retain set `D_r` (RA).
    pub retain: f64,
    /// On images that were never trained on (TA).
    pub test: Option<f64>,
    /// The share of forget images that a confidence-based membership inference takes for unseen ones, percent; see
    /// [`efficacy`](crate::metrics::membership::efficacy).
    pub mia_efficacy: Option<f64>,
}

/// The paper's methods in the order of its Table 1.
pub const METHODS: [&str; 6] = ["RT", "FT", "FF", "GA", "IU", "WP"];

/// Where a method stands in a table: the paper's first, in its order, then others by name.
pub fn method_rank(method: &str) -> (usize, &str) {
    (METHODS.iter().position(|m| *m == method).unwrap_or(METHODS.len()), method)
}
