//! A side branch: whether an import can be believed. ONNX Runtime is the independent witness of the forward pass, and every
//! trainable parameter has to receive a finite gradient that is not zero.

pub mod conformance;
pub mod draw;
pub mod gradients;
mod memory;
pub mod parity;
mod rounding;
pub mod suggest;
pub mod witness;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use crate::error::{Error, ErrorKind, Place, Result};
use crate::graph::import::{self, Survey};
use crate::graph::{self, ImportOptions, ImportReport, Model, Unsupported};
use crate::onnx::{self, Limits};
use crate::tensor::{Device, Tensor};

pub use gradients::Gradients;
pub use parity::Parity;
pub use rounding::Rounding;
pub use witness::Witness;

/// The largest error relative to the largest output that counts as agreement with ONNX Runtime.
pub const PARITY_TOLERANCE: f64 = 1e-4;

/// The same for models that hold weights or take images in half precision (11 bits).
pub const HALF_TOLERANCE: f64 = 1e-2;

/// The same for bfloat16 (8 bits).
pub const BFLOAT16_TOLERANCE: f64 = 8e-2;

/// Batch sizes on which parity is shown, whatever batch the file was exported with.
pub const BATCHES: [i64; 3] = [1, 2, 7];

/// Images at a time on which statistics are measured.
const STATISTICS_BATCH: i64 = 50;

/// Everything that `cmira check` says about a model. Scripts rely on these names.
#[derive(Debug, Serialize)]
pub struct Check {
    /// The file.
    pub model: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// The standard domain's opset.
    pub opset: i64,
    /// Operator counts.
    pub operators: BTreeMap<String, usize>,
    /// How many parameters are trained and how many constants are not.
    pub parameters: ParameterCounts,
    /// Agreement with ONNX Runtime over all batches; absent when the model cannot be run.
    pub parity: Option<Parity>,
    /// Largest relative error by batch size.
    pub batches: BTreeMap<String, f64>,
    /// Agreement on the given images; absent when none were given.
    pub images: Option<Parity>,
    /// How many of the given images whose class is known the model gets right; absent when none were given, or their folders are not the
    /// model's classes.
    pub accuracy: Option<OnImages>,
    /// What the backward pass gave; absent when the model cannot be run.
    pub gradients: Option<Gradients>,
    /// What the import changed.
    pub repairs: Vec<String>,
    /// Nodes that cannot be run.
    pub unsupported: Vec<Unsupported>,
    /// Seconds from file to trainable model.
    pub import_s: f64,
    /// Memory that this took at its height beyond what the program had before, in MB; absent where the system does not tell.
    pub import_peak_mb: Option<f64>,
    /// The whole summary of the import.
    pub import: Option<ImportReport>,
}

/// Accuracy on labelled images: much less than the model is said to have means that its adapter is wrong.
#[derive(Debug, Clone, Serialize)]
pub struct OnImages {
    /// Labelled images that were looked at.
    pub images: usize,
    /// Top-1, percent.
    pub accuracy: f64,
    /// What guessing gives, percent.
    pub chance: f64,
    /// The same of every class that has images, in the model's order.
    pub classes: Vec<OnClass>,
    /// Pairs of classes whose images are mostly taken for each other.
    pub exchanged: Vec<(String, String)>,
}

impl OnImages {
    /// Whether the adapter looks wrong, if the model should know these images.
    pub fn is_suspect(&self) -> bool {
        self.accuracy < 2.0 * self.chance || !self.exchanged.is_empty()
    }
}

/// Accuracy on the images of one class. Classes whose order is wrong show here where the mean does not.
#[derive(Debug, Clone, Serialize)]
pub struct OnClass {
    /// Its name.
    pub class: String,
    /// Images that were looked at.
    pub images: usize,
    /// Top-1, percent.
    pub accuracy: f64,
}

/// Counts of stored numbers.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub struct ParameterCounts {
    /// Trainable numbers.
    pub trainable: i64,
    /// Frozen numbers, running statistics among them.
    pub frozen: i64,
    /// Trainable tensors.
    pub trainable_tensors: usize,
    /// Frozen tensors.
    pub frozen_tensors: usize,
}

impl ParameterCounts {
    fn of(report: &ImportReport) -> ParameterCounts {
        let count = |tensors: &[crate::graph::TensorInfo]| tensors.iter().map(|t| t.shape.iter().product::<i64>()).sum::<i64>();
        ParameterCounts {
            trainable: count(&report.trainable),
            frozen: count(&report.buffers) + count(&report.frozen),
            trainable_tensors: report.trainable.len(),
            frozen_tensors: report.buffers.len() + report.frozen.len(),
        }
    }
}

impl Check {
    /// The error that this outcome stands for: unsupported nodes first, then wrong numbers, then gradients. `None` if all is well.
    pub fn verdict(&self) -> Option<Error> {
        if let Some(first) = self.unsupported.first() {
            let more = self.unsupported.len() - 1;
            let error = Error::unsupported(&first.reason).at(&first.node).at(&self.model);
            return Some(if more > 0 { error.help(format!("and {more} more nodes")) } else { error });
        }
        for (parity, what) in [(&self.parity, "random inputs"), (&self.images, "the given images")] {
            if let Some(parity) = parity
                && !parity.holds()
            {
                let reason = format!("libtorch and ONNX Runtime disagree on {what}: {parity}");
                return Some(Error::disagree(reason).at(&self.model));
            }
        }
        if self.parameters.trainable_tensors == 0 {
            return Some(Error::unsupported("the model has no trainable parameter").at(&self.model));
        }
        let gradients = self.gradients.as_ref()?;
        gradients.fault().map(|reason| Error::disagree(reason).at(&self.model))
    }
}

/// Imports a model and looks at it from all sides. `images` are normalised images `[N, C, H, W]`, if the user gave any.
///
/// # Errors
/// Malformed files, a missing ONNX Runtime, or a failing node. Disagreement is not an error here: see [`Check::verdict`].
///
/// The model is given as well, where the file could be imported.
pub fn check(
    path: &Path,
    limits: &Limits,
    options: &ImportOptions,
    images: Option<&Tensor>,
    device: Device,
) -> Result<(Check, Option<Model>)> {
    let before = memory::resident();
    let started = Instant::now();
    let model = match Model::import(onnx::read(path, limits)?, options, device) {
        Ok(model) => model,
        // An import ends at the first node that it cannot do; a list of all of them says more.
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            let file = graph::lower(onnx::read(path, limits)?)?;
            let survey = import::survey(&file, options).at(|| path.display().to_string())?;
            return if survey.unsupported.is_empty() { Err(error) } else { Ok((refused(path, file.sha256(), survey), None)) };
        }
        Err(error) => return Err(error),
    };
    let import_s = started.elapsed().as_secs_f64();
    let import_peak_mb = memory::peak().zip(before).map(|(peak, before)| (peak - before).max(0.0));
    let model = match images {
        Some(images) => {
            let pieces = images.f_split(STATISTICS_BATCH, 0)?;
            model.with_batch_norm(&mut pieces.into_iter().map(|piece| Ok(piece.f_to_device(device)?)))?
        }
        None => model,
    };
    let report = model.report().clone();
    let [c, h, w] = known_shape(&model, options, images).at(|| path.display().to_string())?;
    // ONNX Runtime is opened by files only that have proved to run: its own faults can end the process.
    let one = parity::images_for(&model, &[1, c, h, w])?.f_to_device(device)?;
    let _ = model.output(&one).at(|| path.display().to_string())?;
    let mut witness = Witness::open(path, model.report())?;
    let mut batches = BTreeMap::new();
    let mut parity: Option<Parity> = None;
    for batch in BATCHES {
        let random = parity::images_for(&model, &[batch, c, h, w])?;
        let compared = parity::compare(&model, &mut witness, &random).at(|| format!("batch of {batch}"));
        let one = compared.at(|| path.display())?;
        batches.insert(batch.to_string(), one.max_rel);
        parity = Some(parity.map_or(one.clone(), |all| all.and(&one)));
    }
    let on_images = images.map(|images| parity::compare(&model, &mut witness, images)).transpose().at(|| path.display())?;
    let gradients = gradients::check(&model, &[c, h, w]).at(|| path.display())?;
    let check = Check {
        model: path.display().to_string(),
        sha256: model.sha256().to_string(),
        opset: report.opset,
        operators: report.operators.clone(),
        parameters: ParameterCounts::of(&report),
        parity,
        batches,
        images: on_images,
        accuracy: None,
        gradients: Some(gradients),
        repairs: report.repairs.clone(),
        unsupported: Vec::new(),
        import_s,
        import_peak_mb,
        import: Some(report),
    };
    Ok((check, Some(model)))
}

/// Compares an imported model with ONNX Runtime on a few images, before numbers about it are believed.
///
/// # Errors
/// Disagree, when the two differ; Unsupported, when ONNX Runtime cannot run the file; Usage, when ONNX Runtime is missing.
pub fn compare_on(path: &Path, model: &Model, images: &Tensor) -> Result<Parity> {
    let compared = || -> Result<Parity> {
        // ONNX Runtime is opened by files only that have proved to run.
        let _ = model.output(&images.f_to_device(model.device())?)?;
        let parity = parity::compare(model, &mut Witness::open(path, model.report())?, images)?;
        if parity.holds() {
            return Ok(parity);
        }
        Err(Error::disagree(format!("libtorch and ONNX Runtime disagree on the images: {parity}")))
    };
    compared().at(|| path.display())
}

fn refused(path: &Path, sha256: &str, survey: Survey) -> Check {
    Check {
        model: path.display().to_string(),
        sha256: sha256.to_string(),
        opset: survey.opset,
        operators: survey.operators,
        parameters: ParameterCounts::default(),
        parity: None,
        batches: BTreeMap::new(),
        images: None,
        accuracy: None,
        gradients: None,
        repairs: Vec::new(),
        unsupported: survey.unsupported,
        import_s: 0.0,
        import_peak_mb: None,
        import: None,
    }
}

fn known_shape(model: &Model, options: &ImportOptions, images: Option<&Tensor>) -> Result<[i64; 3]> {
    if let [Some(c), Some(h), Some(w)] = model.image_shape() {
        return Ok([c, h, w]);
    }
    if let Some(image) = options.image {
        return Ok(image);
    }
    match images.map(Tensor::size).as_deref() {
        Some([_, c, h, w]) => Ok([*c, *h, *w]),
        _ => Err(Error::usage("the file does not state the size of its images")
            .help("give input.height and input.width in an adapter file")),
    }
}
