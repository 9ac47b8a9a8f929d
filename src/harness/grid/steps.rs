//! What each step of a grid does.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::column::{Column, variants};
use super::config::Harness;
use super::data::Split;
use super::plan::Target;
use super::run::{Hooks, Stage};
use super::store::Key;
use crate::attack::{AttackSettings, Progress, Variant};
use crate::data::{Augment, Batches, ImageSet};
use crate::error::{Error, Place, Result};
use crate::graph::{Computing, Model};
use crate::harness::audit::{self, Audit};
use crate::harness::kept::Keep;
use crate::harness::results::{self, Described};
use crate::harness::unlearning::Scored;
use crate::metrics::accuracy;
use crate::nets::{self, InputShape};
use crate::report::verdict::SELF_TRAINING;
use crate::report::{Record, Scores};
use crate::tensor::{Device, device_kind};
use crate::train::checkpoint::Checkpoint;
use crate::train::samples::resident;
use crate::train::{self, Control};
use crate::unlearn::{Calibration, Method, Sets, Setting, Unlearned, calibrate};

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

/// Where a step works, and with what.
pub(super) struct Site<'a> {
    pub harness: &'a Harness,
    pub column: &'a Column,
    pub step: &'a Key,
    pub split: &'a Split,
    /// Its folder, which may hold what an interrupted run left.
    pub folder: &'a Path,
    pub computing: Computing,
}

fn fresh(site: &Site) -> Result<Model> {
    let set = &site.split.probe;
    let input = InputShape { channels: set.channels(), height: set.height(), width: set.width() };
    let proto = nets::classifier(site.column.backbone, input, set.classes.len(), site.column.seed)?;
    Model::from_proto("new model", proto, site.computing.device)?.computing_in(site.computing.precision)
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
fn save(model: &Model, site: &Site) -> Result<String> {
    let path = model_file(site.folder);
    let step = site.step;
    model.save(&path, &[("version", env!("CARGO_PKG_VERSION")), ("step", &step.name), ("step_sha256", &step.hash)])?;
    Ok(Model::open(&path, Device::Cpu)?.sha256().to_string())
}

/// Runs `work` with a checkpoint that goes when it is done.
fn checkpointed<T>(site: &Site, hooks: &mut Hooks, work: impl FnOnce(&mut Control) -> Result<T>) -> Result<T> {
    let path = site.folder.join("training.checkpoint.safetensors");
    let checkpoint = Checkpoint { path: path.clone(), every: 1, fingerprint: site.step.hash.clone() };
    let stop = hooks.stop;
    let mut show = |event: &train::Event| hooks.stage(Stage::Training(event));
    let result = work(&mut Control { on_event: Some(&mut show), stop: Some(stop), checkpoint: Some(checkpoint) })?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&path, &error)),
        _ => Ok(result),
    }
}

/// Trains a fresh model on a set as original models are trained.
fn train_on(set: &ImageSet, site: &Site, hooks: &mut Hooks) -> Result<Model> {
    let (settings, augment) = site.harness.training(site.column.seed);
    let model = fresh(site)?;
    let images = Batches::new(set, &site.split.adapter, model.device())?;
    let samples = resident(&images, &set.label_list()?, model.classes(), augmentation(augment))?;
    checkpointed(site, hooks, |control| train::fit(&model, &samples, &settings, control))?;
    Ok(model)
}

/// Trains an original model, on D_t.
pub(super) fn train_original(site: &Site, hooks: &mut Hooks) -> Result<Trained> {
    let split = site.split;
    let model = train_on(&split.train, site, hooks)?;
    Ok(Trained {
        train_accuracy: accuracy_of(&model, &split.train, split)?,
        test_accuracy: accuracy_of(&model, &split.probe, split)?,
        model_sha256: save(&model, site)?,
    })
}

/// Trains a model on D_p alone. It has no test set: its accuracy there is that on the probing images, which it knows.
pub(super) fn train_probe_only(site: &Site, hooks: &mut Hooks) -> Result<UnlearnedModel> {
    let split = site.split;
    let model = train_on(&split.probe, site, hooks)?;
    let scored = Scored { forget: &split.forget, retain: &split.retain, test: Some(&split.probe), adapter: &split.adapter };
    Ok(UnlearnedModel {
        // Whoever has seen the test images tells nothing about membership by them.
        scores: Scores { mia_efficacy: None, ..scored.score(&model)? },
        strength: None,
        notes: serde_json::Value::Null,
        model_sha256: save(&model, site)?,
    })
}

/// Unlearns from an original model, or trains anew where there is none.
pub(super) fn unlearn(method: &dyn Method, original: Option<&Path>, site: &Site, hooks: &mut Hooks) -> Result<UnlearnedModel> {
    let &Site { harness, column, split, computing, .. } = site;
    let cell = harness.unlearning(&column.dataset, column.backbone, method, column.seed);
    let model = match original {
        None => fresh(site)?,
        Some(path) => Model::open(path, computing.device)?.computing_in(computing.precision)?,
    };
    let images = [&split.retain, &split.forget].map(|set| Batches::new(set, &split.adapter, model.device()));
    let [retain_images, forget_images] = images;
    let (retain_images, forget_images) = (retain_images?, forget_images?);
    let retain = resident(&retain_images, &split.retain.label_list()?, model.classes(), augmentation(cell.augment))?;
    let forget = resident(&forget_images, &split.forget.label_list()?, model.classes(), Augment::NONE)?;
    let sets = Sets { retain: Some(&retain), forget: Some(&forget) };
    let (calibration, outcome): (Option<Calibration>, Unlearned) = match &cell.calibrate {
        None => (None, checkpointed(site, hooks, |control| method.run(&model, &sets, &cell.settings, control))?),
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
        model_sha256: save(&model, site)?,
    })
}

/// Pretrains the attack model, by an audit that goes no further.
pub(super) fn stage_one(original: &Path, site: &Site, hooks: &mut Hooks) -> Result<Attacked> {
    let settings = site.column.stage_one(site.harness);
    attack("original", original, None, (&settings, &[Variant::P], Keep::NOTHING), site, hooks)
}

/// Lets the attack model teach itself. The audit has to have a model, which has no part in it.
pub(super) fn self_training(original: &Path, stage_one: &Path, site: &Site, hooks: &mut Hooks) -> Result<Attacked> {
    let settings = site.column.self_training(site.harness);
    attack(SELF_TRAINING, original, Some(stage_one), (&settings, &[Variant::PA], Keep::NOTHING), site, hooks)
}

/// Attacks one model with all of the grid's variants.
pub(super) fn attack_all(target: Target, model: &Path, stage_one: &Path, site: &Site, hooks: &mut Hooks) -> Result<Attacked> {
    let settings = site.column.attack(site.harness);
    // Images are those of the split, however many models are attacked with them.
    let keep = Keep { features: site.harness.features, pictures: 0 };
    attack(target.name(), model, Some(stage_one), (&settings, &variants(site.harness), keep), site, hooks)
}

fn attack(
    name: &str,
    model: &Path,
    stage_one_of: Option<&Path>,
    (settings, variants, keep): (&AttackSettings, &[Variant], Keep),
    site: &Site,
    hooks: &mut Hooks,
) -> Result<Attacked> {
    let &Site { column, split, folder, computing: Computing { device, precision }, .. } = site;
    let model = Model::open(model, device).at(|| model.display())?.computing_in(precision)?;
    let audit = Audit {
        model: &model,
        forget: &split.forget,
        probe: &split.probe,
        adapter: &split.adapter,
        settings,
        variants,
        results: folder,
        stage_one_of,
        device,
        keep,
        // The step's key has everything that its result depends on, and nothing else.
        identity: Some(&site.step.hash),
    };
    let stop = hooks.stop;
    let mut show = |progress: &Progress| hooks.stage(Stage::Attack(progress));
    let outcome = audit::run(&audit, &mut show, stop)?;
    let backbone = column.backbone.to_string();
    let described = Described {
        dataset: &column.dataset,
        backbone: &backbone,
        method: name,
        device,
        parity: None,
        notes: Vec::new(),
        command: &[],
        working_directory: "",
        model_file: "",
    };
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
    let mut records = summary.records;
    for record in &mut records {
        // Which of several devices a step came to is nobody's choice.
        record.provenance.device = device_kind(device);
    }
    Ok(Attacked { records, right, notes })
}
