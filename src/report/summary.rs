//! [`Summary`]: an audit in one document, `run.json`, from which its tables and its page can be made again.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::record::{Provenance, Record};
use crate::attack::{AttackSettings, StopReason, StopRule};
use crate::check::Parity;
use crate::data::Adapter;
use crate::error::{Error, Result};
use crate::files;

/// The document's name in the folder of an audit.
pub const FILE: &str = "run.json";

/// The headline of an audit: what `--json` prints. Accuracies are top-1 in percent, empty without labels.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Summary {
    /// The command that made it, word by word; empty for a step of a grid.
    pub command: Vec<String>,
    /// The folder in which it was given; empty for a step of a grid.
    #[serde(default)]
    pub working_directory: String,
    /// The audited file, as it was named; empty for a step of a grid.
    pub model_file: String,
    /// See [`Record::acc_u`].
    pub acc_u: Option<f64>,
    /// See [`Record::acc_a_last`].
    pub acc_a_last: Option<f64>,
    /// See [`Record::acc_a_best`].
    pub acc_a_best: Option<f64>,
    /// See [`Record::acc_u_after`].
    pub acc_u_after: Option<f64>,
    /// See [`Record::r_i`].
    pub r_i: Option<f64>,
    /// See [`Record::r_r`].
    pub r_r: Option<f64>,
    /// See [`Record::a_r`].
    pub a_r: Option<f64>,
    /// See [`Record::a_r_geometric`].
    pub a_r_geometric: Option<f64>,
    /// See [`Record::acc_u_best`].
    pub acc_u_best: Option<f64>,
    /// See [`Record::excess`].
    pub excess: Option<f64>,
    /// See [`Record::excess_low`].
    pub excess_low: Option<f64>,
    /// See [`Record::excess_high`].
    pub excess_high: Option<f64>,
    /// See [`Record::excess_p`].
    pub excess_p: Option<f64>,
    /// See [`Record::excess_u`].
    pub excess_u: Option<f64>,
    /// See [`Record::excess_self`].
    pub excess_self: Option<f64>,
    /// See [`Record::control`].
    pub control: Option<String>,
    /// See [`Record::control_sha256`].
    pub control_sha256: Option<String>,
    /// The folder of the control's own results, below that of this audit.
    pub control_folder: Option<String>,
    /// See [`Record::agreement_rate`].
    pub agreement_rate: f64,
    /// Iterations of stage 2.
    pub iterations: usize,
    /// Why it ended.
    pub stop_reason: String,
    /// The audited model's own accuracy on the probing images before the attack, percent.
    pub probe_accuracy: Option<f64>,
    /// The attack model's accuracy after stage 1 on the probing images that it was trained on, percent.
    pub probe_learned_accuracy: Option<f64>,
    /// Stage 1's accuracy on held-out probing images, percent.
    pub probe_holdout_accuracy: Option<f64>,
    /// Largest singular value of any weight matrix of the attack model after stage 1.
    pub largest_spectral_norm: Option<f64>,
    /// Forget images that are in the probing set as well.
    pub shared_images: usize,
    /// Class names in the order of the model's outputs.
    pub classes: Vec<String>,
    /// How images were turned into numbers.
    pub adapter: Adapter,
    /// The import's agreement with ONNX Runtime on the first forget images; empty where a note says why it was not compared.
    pub parity: Option<Parity>,
    /// What the import changed in the audited model so that it can be trained.
    pub repairs: Vec<String>,
    /// Parameters of the audited model that were trained.
    pub trainable: usize,
    /// Files that could not be used, by set; each was named on stderr.
    pub left_out: LeftOut,
    /// Every setting of the attack.
    pub settings: AttackSettings,
    /// Where the numbers come from.
    pub provenance: Provenance,
    /// Every variant that was run.
    pub records: Vec<Record>,
    /// What comes back beyond each control, in words: effect, interval and control.
    pub verdicts: Vec<String>,
    /// What a reader should know before relying on the numbers, in words.
    pub notes: Vec<String>,
    /// The pictures of forget images that were kept, if any were.
    pub thumbnails: Option<Thumbnails>,
    /// The features of images that were kept, if any were.
    pub features: Option<KeptFeatures>,
    /// Seconds of wall-clock time that it took in all its runs, without its control; 0 for a step of a grid, whose times are elsewhere.
    pub seconds: f64,
}

/// How many image files were left out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LeftOut {
    /// Of the forget set.
    pub forget: usize,
    /// Of the probing set.
    pub probe: usize,
}

/// Small pictures of forget images, side by side in one file: the first of evenly many images, row by row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Thumbnails {
    /// The file's name.
    pub file: String,
    /// Of one picture, in pixels.
    pub width: u32,
    /// Of one picture, in pixels.
    pub height: u32,
    /// Pictures in a row.
    pub columns: u32,
    /// Pictures in all.
    pub count: usize,
}

/// What models make of images in front of their last layer: one tensor `[n, d]` a model, of the same images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeptFeatures {
    /// The file with the tensors, `unlearned`, `pretrained`, `attack`, and `unlearned_after` where the unlearned model was taught.
    pub file: String,
    /// The table that says which image a row is of.
    pub rows: String,
    /// Forget images.
    pub forget: usize,
    /// Probing images.
    pub probe: usize,
}

impl Summary {
    /// When the attack ended, and why, in words.
    pub fn ended(&self) -> String {
        let count = |number: usize| if number == 1 { "1 iteration".to_string() } else { format!("{number} iterations") };
        let why = match StopReason::named(&self.stop_reason) {
            Some(StopReason::Patience) => {
                let watched = match self.settings.stop {
                    StopRule::Agreement => "the agreement of both models",
                    StopRule::Oracle => "the accuracy of the attack model",
                };
                format!(", because {watched} had not grown for {}", count(self.settings.patience))
            }
            Some(StopReason::Iterations) => ", because the settings allow no more".to_string(),
            Some(StopReason::NoMutualStage) => ", because this variant of the attack has none".to_string(),
            None => String::new(),
        };
        format!("{}{why}", count(self.iterations))
    }

    /// Reads it from the folder of an audit.
    ///
    /// # Errors
    /// Data, where there is none or it is damaged.
    pub fn read(folder: &Path) -> Result<Summary> {
        files::read_json(&folder.join(FILE), "run the audit again, with this version")
    }

    /// Writes it into the folder of an audit.
    ///
    /// # Errors
    /// Unexpected, when the folder is not writable or the disk is full.
    pub fn write(&self, folder: &Path) -> Result<()> {
        files::write(&folder.join(FILE), &serde_json::to_vec_pretty(self).map_err(Error::unexpected)?)
    }
}

/// The images of which something is kept, where not all of it is: `most` of `all`, evenly spread, in order.
pub fn spread(all: usize, most: usize) -> Vec<usize> {
    let count = all.min(most);
    // u128: a product of two sizes.
    (0..count).map(|place| (place as u128 * all as u128 / count as u128) as usize).collect()
}
