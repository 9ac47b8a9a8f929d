//! What each step of a grid does, and what its result depends on.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::config::{CellUnlearn, Harness};
use super::data::{Split, SplitRecord};
use super::run::{Hooks, Stage};
use super::store::Key;
use crate::attack::{AttackSettings, Progress, Variant};
use crate::data::{Augment, Batches, ImageSet};
use crate::error::{Error, Place, Result};
use crate::graph::Model;
use crate::harness::audit::{self, Audit};
use crate::harness::results::{self, Described};
use crate::harness::unlearning::Scored;
use crate::metrics::accuracy;
use crate::nets::{self, Backbone, InputShape};
use crate::report::{Record, Scores};
use crate::tensor::{Device, device_name, threads};
use crate::train::checkpoint::Checkpoint;
use crate::train::samples::resident;
use crate::train::{self, Control, TrainSettings};
use crate::unlearn::{Calibration, Method, Sets, Setting, Start, Unlearned, calibrate};

/// Where computation happens is part of every result: another device or number of threads gives other last bits.
pub(super) fn compute(device: Device) -> String {
    format!("{} {}", device_name(device), threads())
}

fn json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(Error::unexpected)
}

/// One data set, backbone and seed.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub dataset: String,
    pub backbone: Backbone,
    pub seed: u64,
    pub data: Key,
}

impl Column {
    fn name(&self, what: &str) -> String {
        format!("{what}-{}-{}-{}", self.dataset, self.backbone, self.seed)
    }

    /// The step that trains the original model.
    pub(super) fn train_key(&self, harness: &Harness, record: &SplitRecord, device: Device) -> Result<Key> {
        let settings = json(&harness.training(self.seed))?;
        Ok(Key::new(self.name("train"), &[&self.data.hash, &json(record)?, &settings, &compute(device)]))
    }

    /// The step that unlearns. Retraining does not depend on the original.
    pub(super) fn unlearn_key(&self, method: &dyn Method, cell: &CellUnlearn, train: &Key, device: Device) -> Result<Key> {
        let start = if method.needs().start == Start::Fresh { &self.data.hash } else { &train.hash };
        let name = self.name(&format!("unlearn-{}", method.name().to_lowercase()));
        Ok(Key::new(name, &[start, &json(cell)?, &compute(device)]))
    }

    /// The attack's settings in this column.
    pub(super) fn attack(&self, harness: &Harness) -> AttackSettings {
        AttackSettings { seed: self.seed, backbone: self.backbone, ..harness.attack.clone() }
    }

    /// The step that pretrains the attack model: stage 1 does not depend on what is attacked, nor on the settings of stage 2.
    pub(super) fn stage_one_key(&self, harness: &Harness, device: Device) -> Result<Key> {
        let settings = self.attack(harness);
        let defaults = AttackSettings::default();
        let first = AttackSettings {
            mutual: defaults.mutual,
            iterations: 0,
            patience: defaults.patience,
            stop: defaults.stop,
            confidence_threshold: defaults.confidence_threshold,
            disagreement_share: defaults.disagreement_share,
            mixup_alpha: defaults.mixup_alpha,
            variant: Variant::P,
            ..settings
        };
        Ok(Key::new(self.name("stage-one"), &[&self.data.hash, &json(&first)?, &compute(device)]))
    }

    /// The step that attacks one unlearned model.
    pub(super) fn attack_key(&self, harness: &Harness, method: &dyn Method, unlearn: &Key, stage_one: &Key) -> Result<Key> {
        let name = self.name(&format!("attack-{}", method.name().to_lowercase()));
        let settings = json(&(self.attack(harness), variants(harness)))?;
        Ok(Key::new(name, &[&unlearn.hash, &stage_one.hash, &settings]))
    }
}

/// The variants of the attack that a grid runs.
pub(super) fn variants(harness: &Harness) -> Vec<Variant> {
    if harness.ablation { Variant::ALL.to_vec() } else { vec![harness.attack.variant] }
}

/// What is kept of a trained original model.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Trained {
    pub model_sha256: String,
    pub train_accuracy: f64,
    pub test_accuracy: f64,
}

/// What is kept of an unlearned model.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct UnlearnedModel {
    pub model_sha256: String,
    pub scores: Scores,
    /// The strength that was used, and which setting it is; none for methods without.
    pub strength: Option<(String, f64)>,
    /// The whole calibration, and what else the method says, for people.
    pub notes: serde_json::Value,
}

/// What is kept of an attack.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Attacked {
    pub records: Vec<Record>,
    /// By variant in the order of the records: for every forget image whether the attack's class at the end is right, as `0` and `1`.
    pub right: Vec<String>,
    /// What a reader should know before relying on the numbers.
    pub notes: Vec<String>,
}

/// The model file of a step's folder.
pub(super) fn model_file(folder: &Path) -> std::path::PathBuf {
    folder.join("model.onnx")
}

fn fresh(column: &Column, split: &Split, device: Device) -> Result<Model> {
    let set = &split.probe;
    let input = InputShape { channels: set.channels(), height: set.height(), width: set.width() };
    let proto = nets::classifier(column.backbone, input, set.classes.len(), column.seed)?;
    Model::from_proto("new model", proto, device)
}

fn augmentation(wanted: bool) -> Augment {
    if wanted { Augment::default() } else { Augment::NONE }
}

fn accuracy_of(model: &Model, set: &ImageSet, split: &Split) -> Result<f64> {
    let _guard = crate::tensor::no_grad();
    let logits = train::evaluate::logits(model, &Batches::new(set, &split.adapter, model.device())?, 500)?;
    let predicted = crate::tensor::to_i64s(&logits.f_argmax(-1, false)?)?;
    Ok(accuracy::top1(&predicted, &set.labels).map_or(f64::NAN, |tally| tally.percent()))
}

/// Saves a model with what it came from; gives the file's SHA-256.
fn save(model: &Model, folder: &Path, step: &Key) -> Result<String> {
    let path = model_file(folder);
    model.save(&path, &[("version", env!("CARGO_PKG_VERSION")), ("step", &step.name), ("step_sha256", &step.hash)])?;
    Ok(Model::open(&path, Device::Cpu)?.sha256().to_string())
}

/// Runs `work` with a checkpoint that goes when it is done.
fn checkpointed<T>(folder: &Path, step: &Key, hooks: &mut Hooks, work: impl FnOnce(&mut Control) -> Result<T>) -> Result<T> {
    let path = folder.join("training.checkpoint.safetensors");
    let checkpoint = Checkpoint { path: path.clone(), every: 1, fingerprint: step.hash.clone() };
    let stop = hooks.stop;
    let mut show = |event: &train::Event| hooks.stage(Stage::Training(event));
    let result = work(&mut Control { on_event: Some(&mut show), stop: Some(stop), checkpoint: Some(checkpoint) })?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&path, &error)),
        _ => Ok(result),
    }
}

/// Trains an original model.
pub(super) fn train_original(
    column: &Column,
    step: &Key,
    (settings, augment): &(TrainSettings, bool),
    split: &Split,
    folder: &Path,
    device: Device,
    hooks: &mut Hooks,
) -> Result<Trained> {
    let model = fresh(column, split, device)?;
    let images = Batches::new(&split.train, &split.adapter, device)?;
    let samples = resident(&images, &split.train.label_list()?, model.classes(), augmentation(*augment))?;
    checkpointed(folder, step, hooks, |control| train::fit(&model, &samples, settings, control))?;
    Ok(Trained {
        train_accuracy: accuracy_of(&model, &split.train, split)?,
        test_accuracy: accuracy_of(&model, &split.probe, split)?,
        model_sha256: save(&model, folder, step)?,
    })
}

/// Unlearns from an original model, or trains anew.
#[allow(clippy::too_many_arguments)]
pub(super) fn unlearn(
    column: &Column,
    step: &Key,
    method: &dyn Method,
    cell: &CellUnlearn,
    original: &Path,
    split: &Split,
    folder: &Path,
    device: Device,
    hooks: &mut Hooks,
) -> Result<UnlearnedModel> {
    let model = match method.needs().start {
        Start::Fresh => fresh(column, split, device)?,
        Start::Original => Model::open(original, device)?,
    };
    let images = [&split.retain, &split.forget].map(|set| Batches::new(set, &split.adapter, device));
    let [retain_images, forget_images] = images;
    let (retain_images, forget_images) = (retain_images?, forget_images?);
    let retain = resident(&retain_images, &split.retain.label_list()?, model.classes(), augmentation(cell.augment))?;
    let forget = resident(&forget_images, &split.forget.label_list()?, model.classes(), Augment::NONE)?;
    let sets = Sets { retain: Some(&retain), forget: Some(&forget) };
    let (calibration, outcome): (Option<Calibration>, Unlearned) = match &cell.calibrate {
        None => (None, checkpointed(folder, step, hooks, |control| method.run(&model, &sets, &cell.settings, control))?),
        Some(candidates) => {
            let stop = hooks.stop;
            let mut show = |event: &train::Event| hooks.stage(Stage::Training(event));
            let mut control = Control { on_event: Some(&mut show), stop: Some(stop), checkpoint: None };
            let (found, outcome) = calibrate(method, &model, &sets, &cell.settings, candidates, cell.margin, &mut control)?;
            (Some(found), outcome)
        }
    };
    let scored = Scored { forget: &split.forget, retain: &split.retain, test: Some(&split.probe), adapter: &split.adapter };
    let strength = match &calibration {
        Some(found) => Some((found.setting.to_string(), found.strength)),
        None if method.heeds().contains(&Setting::Alpha) => Some(("alpha".to_string(), cell.settings.alpha)),
        None if method.tuned() == Some(Setting::LearningRate) => {
            Some(("learning_rate".to_string(), cell.settings.train.learning_rate))
        }
        None => None,
    };
    Ok(UnlearnedModel {
        scores: scored.score(&model)?,
        strength,
        notes: serde_json::json!({ "calibration": calibration, "outcome": outcome.notes, "settings": cell }),
        model_sha256: save(&model, folder, step)?,
    })
}

/// Pretrains the attack model, by an audit that goes no further.
pub(super) fn stage_one(
    column: &Column,
    harness: &Harness,
    original: &Path,
    split: &Split,
    folder: &Path,
    device: Device,
    hooks: &mut Hooks,
) -> Result<Attacked> {
    attack(column, harness, "original", original, split, folder, None, &[Variant::P], device, hooks)
}

/// Attacks one model.
#[allow(clippy::too_many_arguments)]
pub(super) fn attack(
    column: &Column,
    harness: &Harness,
    method: &str,
    model: &Path,
    split: &Split,
    folder: &Path,
    stage_one_of: Option<&Path>,
    variants: &[Variant],
    device: Device,
    hooks: &mut Hooks,
) -> Result<Attacked> {
    let model = Model::open(model, device).at(|| model.display())?;
    let settings = column.attack(harness);
    let audit = Audit {
        model: &model,
        forget: &split.forget,
        probe: &split.probe,
        adapter: &split.adapter,
        settings: &settings,
        variants,
        results: folder,
        stage_one_of,
        device,
    };
    let stop = hooks.stop;
    let mut show = |progress: &Progress| hooks.stage(Stage::Attack(progress));
    let outcome = audit::run(&audit, &mut show, stop)?;
    let backbone = column.backbone.to_string();
    let described = Described { dataset: &column.dataset, backbone: &backbone, method, device, parity: None, notes: Vec::new() };
    let mut notes = Vec::new();
    if outcome.shared_images > 0 {
        notes.push(format!("{} forget images are in the probing set as well", outcome.shared_images));
    }
    // Seconds differ from run to run, and have no place in what has to come out the same.
    let summary = results::write(&audit, &outcome, &described, 0.0)?;
    let right = |classes: &[i64]| -> String {
        classes.iter().zip(&split.forget.labels).map(|(class, truth)| if Some(*class) == *truth { '1' } else { '0' }).collect()
    };
    notes.extend(summary.notes);
    let right = outcome.variants.iter().map(|variant| right(&variant.course.attack.classes)).collect();
    Ok(Attacked { records: summary.records, right, notes })
}
