//! One external model, audited end to end. No original model is needed anywhere.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use crate::attack::cmira::{self, Evidence, Score};
use crate::attack::{AttackSettings, Course, Hooks, Progress, StopReason, StopRule, Variant};
use crate::check::gradients;
use crate::data::{Adapter, Batches, ImageSet, splits};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::files;
use crate::graph::{Mode, Model};
use crate::harness::kept::Keep;
use crate::harness::state::Store;
use crate::metrics::accuracy;
use crate::nets::InputShape;
use crate::tensor::{Device, Kind, Tensor};
use crate::train::checkpoint::Checkpoint;
use crate::train::{self, Control};

/// What is audited, with what.
#[derive(Clone, Copy)]
pub struct Audit<'a> {
    /// The unlearned model `M_U`; its weights are not changed.
    pub model: &'a Model,
    /// The images that should be forgotten, `X_f`; labels are used for scoring only.
    pub forget: &'a ImageSet,
    /// The labelled probing set `D_p`.
    pub probe: &'a ImageSet,
    /// How the model wants its images.
    pub adapter: &'a Adapter,
    /// Every setting of the attack.
    pub settings: &'a AttackSettings,
    /// The variants to run, in any order; all share stage 1.
    pub variants: &'a [Variant],
    /// Where results and the state of an unfinished audit are kept.
    pub results: &'a Path,
    /// Results of another audit with the same probing set and settings, whose stage 1 is taken over: it does not depend on the model.
    pub stage_one_of: Option<&'a Path>,
    /// Where to compute.
    pub device: Device,
    /// What is kept of images beside tables.
    pub keep: Keep,
    /// What makes this audit the one that an unfinished state belongs to, where that is less or more than model, images and settings.
    pub identity: Option<&'a str>,
}

/// How one variant of the attack went.
pub struct VariantOutcome {
    /// Which one.
    pub variant: Variant,
    /// Its course; the first line is the state after stage 1.
    pub course: Course,
    /// Why it ended.
    pub stop: StopReason,
    /// The attack model at the end.
    pub attack: Model,
    /// The unlearned model at the end.
    pub unlearned: Model,
}

/// How an audit went.
pub struct Outcome {
    /// By variant, in the paper's order.
    pub variants: Vec<VariantOutcome>,
    /// The attack model after stage 1.
    pub pretrained: Model,
    /// The audited model's own accuracy on the probing images before the attack, percent.
    pub own_accuracy: Option<f64>,
    /// Pairs of classes whose probing images the audited model mostly takes for each other.
    pub exchanged: Vec<(i64, i64)>,
    /// Accuracy of the attack model after stage 1 on the probing images that it was trained on, percent.
    pub learned_accuracy: Option<f64>,
    /// Stage 1's accuracy on held-out probing images, percent, if any were held out.
    pub holdout_accuracy: Option<f64>,
    /// Largest singular value of any weight matrix of the attack model after stage 1, by decomposition; empty without normalisation.
    pub largest_spectral_norm: Option<f64>,
    /// Images that are in both sets, pixel by pixel: the probing set then teaches what should have been forgotten.
    pub shared_images: usize,
    /// Wall-clock time that the audit took in all its runs, in seconds.
    pub seconds: f64,
}

/// Refuses inputs that cannot belong together, before any work is done.
///
/// # Errors
/// Data, when class counts differ or a probing image has no label; Usage, for settings that make no sense or a missing label that the oracle
/// rule needs; Unsupported, for a model that cannot be trained.
pub fn admit(audit: &Audit) -> Result<()> {
    audit.settings.validate()?;
    admit_images(audit)?;
    try_out(audit).at(|| "the model")?;
    if audit.settings.stop == StopRule::Oracle && !audit.forget.labels_known() {
        let error = Error::usage("the oracle stopping rule needs a label for every forget image");
        return Err(error.help("use `stop: agreement`, or label the images"));
    }
    Ok(())
}

/// Refuses sets of images that the attack cannot be run on.
fn admit_images(audit: &Audit) -> Result<()> {
    let (classes, named) = (audit.model.classes(), audit.probe.classes.len());
    if classes != named {
        let error = Error::data(format!("the model tells {classes} classes apart and the probing set has {named}"));
        return Err(
            error.help("the probing set needs a folder for every class, or an adapter file with `classes:` in the model's order")
        );
    }
    audit.probe.label_list().map_err(|e| e.at("the probing set").help("every probing image needs a label"))?;
    if audit.forget.is_empty() {
        return Err(Error::data("there are no forget images"));
    }
    if let Some(class) = empty_class(audit.probe)? {
        return Err(Error::data(format!("the probing set has no usable image of class '{class}'"))
            .help("every class of the model needs some"));
    }
    Ok(())
}

/// The first class without an image.
fn empty_class(set: &ImageSet) -> Result<Option<&str>> {
    let labels = set.label_list()?;
    let empty = |class: &usize| !labels.iter().any(|&label| usize::try_from(label) == Ok(*class));
    Ok((0..set.classes.len()).find(empty).map(|class| set.classes[class].as_str()))
}

/// Runs the model and its gradients once on forget images, so that what is wrong with it is found before the attack model is
/// pretrained.
fn try_out(audit: &Audit) -> Result<()> {
    if let Some(batch) = audit.model.fixed_batch() {
        let error = Error::unsupported(format!("runs on batches of {batch} only, so it cannot be trained"));
        return Err(error.help("export it with a dynamic batch dimension"));
    }
    let trial = audit.model.duplicate()?;
    if trial.params().is_empty() {
        return Err(Error::unsupported("has no trainable parameter"));
    }
    let few: Vec<usize> = (0..audit.forget.len().min(4)).collect();
    let images = Batches::new(&audit.forget.subset(&few)?, audit.adapter, audit.device)?;
    let images = images.range(0, i64::try_from(few.len()).map_err(Error::unexpected)?)?;
    // One image has no batch statistics.
    let images = if few.len() == 1 { Tensor::f_cat(&[&images, &images], 0)? } else { images };
    for mode in [Mode::Eval, Mode::Train] {
        let logits = trial.forward(&images, mode)?;
        if logits.size() != [images.size()[0], i64::try_from(trial.classes()).map_err(Error::unexpected)?] {
            return Err(Error::unsupported(format!("the output has shape {:?} for {} images", logits.size(), images.size()[0])));
        }
        if mode == Mode::Train {
            if !logits.requires_grad() {
                return Err(Error::unsupported(gradients::NONE));
            }
            logits.f_sum(Kind::Float)?.f_backward()?;
        } else if !logits.f_isfinite()?.f_all()?.f_int64_value(&[]).map(|all| all != 0)? {
            return Err(Error::malformed("its outputs are not finite numbers"));
        }
    }
    Ok(())
}

/// Runs the attack, continuing from the state in the results folder if there is one.
///
/// # Errors
/// Interrupted, with the state saved, when `stop` is set; Usage, when the folder holds another audit's state.
pub fn run(audit: &Audit, report: &mut dyn FnMut(&Progress), stop: &AtomicBool) -> Result<Outcome> {
    admit(audit)?;
    let store = Store::open(audit.results, &identity(audit)?)?;
    let probe_labels = audit.probe.label_list()?;
    let forget = Batches::new(audit.forget, audit.adapter, audit.device)?;
    let images = Batches::new(audit.probe, audit.adapter, audit.device)?.join(&forget)?;
    let evidence = Evidence { images: &images, forget: &forget, probe_labels: &probe_labels };
    let input = InputShape { channels: audit.probe.channels(), height: audit.probe.height(), width: audit.probe.width() };
    let truth = &audit.forget.labels;
    let score = |classes: &[i64]| accuracy::top1(classes, truth).map_or(f64::NAN, |a| a.percent());
    let score: Option<&Score> = if truth.iter().any(Option::is_some) { Some(&score) } else { None };

    let (train_rows, held_out) = splits::holdout(&probe_labels, audit.settings.probe_holdout, audit.settings.seed)?;
    let pretrained = cmira::attack_model(audit.settings, input, audit.model.classes(), audit.model.computing())?;
    if let Some(other) = audit.stage_one_of {
        store.adopt_model("pretrained", other)?;
    }
    if !store.load_model("pretrained", &pretrained)? {
        let rows: Vec<i64> = train_rows.iter().map(|&r| i64::try_from(r).map_err(Error::unexpected)).collect::<Result<_>>()?;
        let mut forward = |event: &train::Event| report(&Progress::Training { model: "pretrain", iteration: 0, event });
        let checkpoint = Checkpoint { path: store.checkpoint("pretrained"), every: 10, fingerprint: String::new() };
        let mut control = Control { on_event: Some(&mut forward), stop: Some(stop), checkpoint: Some(checkpoint) };
        cmira::pretrain(&pretrained, &evidence, &rows, audit.settings, &mut control).map_err(interrupted)?;
        store.save_model("pretrained", &pretrained)?;
    }
    pretrained.reset_parametrization();
    let learned_accuracy = probe_accuracy(&pretrained, audit, &probe_labels, &train_rows)?;
    let holdout_accuracy = probe_accuracy(&pretrained, audit, &probe_labels, &held_out)?;
    let everything: Vec<usize> = (0..audit.probe.len()).collect();
    let own = predicted(audit.model, audit, &everything)?;
    let own_accuracy = accuracy::top1(&own, &audit.probe.labels).map(accuracy::Tally::percent);
    let exchanged = accuracy::exchanged(&own, &audit.probe.labels);
    let largest_spectral_norm = if audit.settings.spectral_norm { Some(largest_norm(&pretrained)?) } else { None };

    let mut variants = Vec::new();
    for variant in Variant::ALL.into_iter().filter(|v| audit.variants.contains(v)) {
        variants.push(one_variant(audit, &store, variant, &pretrained, &evidence, score, report, stop)?);
    }
    let shared_images = shared_images(audit.forget, audit.probe)?;
    Ok(Outcome {
        variants,
        pretrained,
        own_accuracy,
        exchanged,
        learned_accuracy,
        holdout_accuracy,
        largest_spectral_norm,
        shared_images,
        seconds: store.seconds(),
    })
}

#[allow(clippy::too_many_arguments)]
fn one_variant(
    audit: &Audit,
    store: &Store,
    variant: Variant,
    pretrained: &Model,
    evidence: &Evidence,
    score: Option<&Score>,
    report: &mut dyn FnMut(&Progress),
    stop: &AtomicBool,
) -> Result<VariantOutcome> {
    let settings = AttackSettings { variant, ..audit.settings.clone() };
    let mut attack = pretrained.duplicate()?;
    cmira::normalise(&mut attack, &settings);
    let unlearned = audit.model.duplicate()?;
    let mut course = match store.load_course(variant.name(), &attack, &unlearned)? {
        Some(course) => course,
        None => cmira::begin(&attack, &unlearned, evidence, variant, score)?,
    };
    report(&Progress::Variant(variant));
    let mut save = |course: &Course| -> Result<()> {
        store.save_course(variant.name(), course, &attack, &unlearned)?;
        if stop.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(stopped());
        }
        Ok(())
    };
    let mut hooks = Hooks { report, save: &mut save, stop };
    cmira::distil(&attack, &unlearned, evidence, &settings, score, &mut course, &mut hooks).map_err(interrupted)?;
    let stop = course.stop.unwrap_or(StopReason::Iterations);
    Ok(VariantOutcome { variant, course, stop, attack, unlearned })
}

/// The same words wherever an audit is interrupted.
pub(super) fn interrupted(error: Error) -> Error {
    if error.kind() == ErrorKind::Interrupted { stopped() } else { error }
}

fn stopped() -> Error {
    Error::interrupted("interrupted; the state is saved").help("run the same command again to go on")
}

/// What makes two audits the same: resuming mixes nothing that differs in any of these.
fn identity(audit: &Audit) -> Result<String> {
    if let Some(identity) = audit.identity {
        return Ok(format!("{identity}\n"));
    }
    let settings = serde_json::to_string(audit.settings).map_err(Error::unexpected)?;
    let adapter = serde_json::to_string(audit.adapter).map_err(Error::unexpected)?;
    // Device and threads change the last bits, so what was begun with some is not mixed with others.
    let compute = audit.model.computing().name();
    // Line by line, so that it can be said what differs.
    let parts = [
        ("model", audit.model.sha256()),
        ("forget images", &audit.forget.sha256),
        ("probing images", &audit.probe.sha256),
        ("settings", &files::digest(&[&settings])),
        ("adapter", &files::digest(&[&adapter])),
        ("device or threads", &compute),
        ("version of cmira", env!("CARGO_PKG_VERSION")),
    ];
    Ok(parts.map(|(name, value)| format!("{name}: {value}\n")).concat())
}

/// Accuracy of a model on some of the probing images, percent; empty for none.
fn probe_accuracy(model: &Model, audit: &Audit, labels: &[i64], rows: &[usize]) -> Result<Option<f64>> {
    if rows.is_empty() {
        return Ok(None);
    }
    let truth: Vec<Option<i64>> = rows.iter().map(|&r| Some(labels[r])).collect();
    Ok(accuracy::top1(&predicted(model, audit, rows)?, &truth).map(|a| a.percent()))
}

/// What a model says of some of the probing images.
fn predicted(model: &Model, audit: &Audit, rows: &[usize]) -> Result<Vec<i64>> {
    let images = Batches::new(&audit.probe.subset(rows)?, audit.adapter, audit.device)?;
    let logits = train::evaluate::logits(model, &images, 500)?;
    crate::tensor::to_i64s(&logits.f_argmax(-1, false)?)
}

fn largest_norm(model: &Model) -> Result<f64> {
    let mut largest = 0.0_f64;
    for (is_matrix, tensor) in model.effective_params()? {
        if is_matrix {
            largest = largest.max(crate::attack::spectral::measured_norm(&tensor)?);
        }
    }
    Ok(largest)
}

/// Images of the first set that are in the second one as well.
fn shared_images(forget: &ImageSet, probe: &ImageSet) -> Result<usize> {
    let known: HashSet<[u8; 32]> = probe.image_hashes()?.into_iter().collect();
    Ok(forget.image_hashes()?.iter().filter(|hash| known.contains(*hash)).count())
}
