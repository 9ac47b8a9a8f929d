//! `cmira unlearn`: reference methods, on any trained ONNX model.

use std::path::PathBuf;
use std::time::Instant;

use crate::cli::common::{self, Expected, Precise, Reading};
use crate::cli::train::{Hyper, Shown, checkpointed};
use crate::data::{Adapter, Augment, Batches, ImageSet, splits};
use crate::error::{Error, Result};
use crate::files;
use crate::graph::Model;
use crate::harness::unlearning::Scored;
use crate::nets::{self, Backbone, InputShape};
use crate::report::Scores;
use crate::train::samples::resident;
use crate::train::{Control, Event};
use crate::unlearn::{self, Calibration, Method, Sets, Setting, Start, UnlearnSettings, Unlearned, calibrate};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cmira unlearn --model original.onnx --method ft --epochs 10 --data drawn/train --forget-classes disc,ring --out ft.onnx
  cmira unlearn --model original.onnx --method iu --data drawn/train --test drawn/test --forget-classes disc,ring --out iu.onnx
GA, FF and IU choose their strength by the accuracy on the retain set (--calibrate, --margin) unless it is given (--lr for GA, --alpha for
FF and IU). The split is written beside the model as .split.csv, settings, calibration and scores as .unlearning.json.")]
pub struct Args {
    /// The trained model.
    #[arg(long, value_name = "MODEL.onnx")]
    model: PathBuf,
    /// RT (retrain from scratch), FT (fine-tune), GA (gradient ascent), FF (Fisher forgetting), IU (influence unlearning) or WP (weight
    /// pruning).
    #[arg(long)]
    method: String,
    /// The labelled images that the model was trained on.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Labelled images that the model was never trained on, to score on.
    #[arg(long, value_name = "DIR")]
    test: Option<PathBuf>,
    /// Images of each class to use, chosen by --split-seed as in `cmira train`.
    #[arg(long, value_name = "N")]
    per_class: Option<usize>,
    /// Classes of which images are forgotten, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "CLASS")]
    forget_classes: Vec<String>,
    /// The share of each of these classes that is forgotten.
    #[arg(long, default_value_t = 0.5)]
    forget_share: f64,
    /// Seed of the choice of images and of the split; the one that `cmira train` was given.
    #[arg(long, default_value_t = 0)]
    split_seed: u64,
    /// The unlearned model.
    #[arg(long, value_name = "MODEL.onnx")]
    out: PathBuf,
    /// Copy the forgotten images into class folders of a new folder, ready for `cmira audit --forget`.
    #[arg(long, value_name = "DIR")]
    forget_images: Option<PathBuf>,
    /// RT: a reference backbone to train; by default the model's own graph with fresh weights.
    #[arg(long)]
    backbone: Option<Backbone>,
    /// Strength of FF, IU and WP; of FF and IU it is calibrated by default.
    #[arg(long)]
    alpha: Option<f64>,
    /// GA, FF, IU: strengths to choose from, separated by commas; the strongest that keeps the retain accuracy wins.
    #[arg(long, alias = "ga-rates", value_delimiter = ',', value_name = "STRENGTH")]
    calibrate: Vec<f64>,
    /// GA, FF, IU: how many points of accuracy on the retain set may be lost.
    #[arg(long, default_value_t = 10.0)]
    margin: f64,
    /// FF, IU: what is added to the curvature.
    #[arg(long)]
    damping: Option<f64>,
    /// FF, IU: on how many retain images the curvature is measured; 0 for all.
    #[arg(long, value_name = "N")]
    curvature_images: Option<usize>,
    /// WP: the share of the weights that is removed.
    #[arg(long)]
    sparsity: Option<f64>,
    #[command(flatten)]
    hyper: Hyper,
    /// How images are turned into numbers.
    #[arg(long, value_name = "ADAPTER.yaml")]
    adapter: Option<PathBuf>,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    precise: Precise,
    #[command(flatten)]
    shown: Shown,
}

/// What is written beside the model.
#[derive(serde::Serialize)]
struct Written<'a> {
    method: &'a str,
    settings: &'a UnlearnSettings,
    augmented: bool,
    calibration: Option<&'a Calibration>,
    outcome: &'a Unlearned,
    scores_before: &'a Scores,
    scores: &'a Scores,
    /// Of unlearning alone, calibration included.
    seconds: f64,
    original_sha256: &'a str,
    forget_sha256: &'a str,
    retain_sha256: &'a str,
    device: String,
    threads: usize,
    precision: String,
    cmira: &'a str,
}

pub fn run(args: &Args) -> Result<()> {
    let method = unlearn::method(&args.method)?;
    refuse_unheeded(args, method)?;
    let settings = settings(args, method);
    settings.check()?;
    if let Some(folder) = &args.forget_images {
        common::must_be_new(folder)?;
    }
    let device = args.shown.compute.start()?;
    let reporter = args.shown.compute.reporter();
    let adapter = common::adapter(args.adapter.as_deref())?;
    let original = common::open(&args.model, &adapter, &args.reading, device)?.computing_in(args.precise.on(device))?;
    let expected = common::expected(&original, &adapter, false)?;
    let mut set = common::images(&args.data, &expected, None, &reporter)?;
    if let Some(count) = args.per_class {
        set = set.subset(&splits::per_class_subset(&set.label_list()?, count, args.split_seed)?)?;
    }
    let (classes, named) = (original.classes(), set.classes.len());
    if classes != named {
        let error = Error::data(format!("the model tells {classes} classes apart and the images have {named}"));
        return Err(error.at(args.data.display()).help("they need a folder for every class of the model"));
    }
    let size = Some((set.height(), set.width()));
    let expected = Expected { size, classes: Some(set.classes.clone()), ..expected };
    let test = args.test.as_ref().map(|folder| common::images(folder, &expected, None, &reporter)).transpose()?;
    let classes = class_indices(&args.forget_classes, &set.classes)?;
    let split = splits::forget_half(&set.label_list()?, &classes, args.forget_share, args.split_seed)?;
    let (forget, retain) = (set.subset(&split.forget)?, set.subset(&split.retain)?);
    let split_file = args.out.with_extension("split.csv");
    split.write(&split_file, &set)?;
    let original = common::with_batch_norm(original, &Batches::new(&retain, &adapter, device)?)?;
    for text in original.report().repairs.iter().chain(&original.report().notes) {
        reporter.note(&format!("{}: {text}", args.model.display()));
    }
    let model = start(args, method, &original, &set)?;
    let started = Instant::now();
    let (settings, calibration, outcome) = unlearn(args, method, &settings, &model, [&retain, &forget], &adapter)?;
    let seconds = started.elapsed().as_secs_f64();
    let scored = Scored { forget: &forget, retain: &retain, test: test.as_ref(), adapter: &adapter };
    let (before, after) = (scored.score(&original)?, scored.score(&model)?);
    show(&before, &after, &outcome, seconds);
    if let Some(folder) = &args.forget_images {
        common::copy_images(&args.data, folder, &forget)?;
    }
    let written = Written {
        method: method.name(),
        settings: &settings,
        augmented: args.hyper.augment,
        calibration: calibration.as_ref(),
        outcome: &outcome,
        scores_before: &before,
        scores: &after,
        seconds,
        original_sha256: original.sha256(),
        forget_sha256: &forget.sha256,
        retain_sha256: &retain.sha256,
        device: crate::tensor::device_name(device),
        threads: crate::tensor::threads(),
        precision: original.computing().precision.to_string(),
        cmira: env!("CARGO_PKG_VERSION"),
    };
    let record = args.out.with_extension("unlearning.json");
    files::write(&record, &serde_json::to_vec_pretty(&written).map_err(Error::unexpected)?)?;
    let settings = serde_json::to_string(&settings).map_err(Error::unexpected)?;
    let notes = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("unlearned_by", method.name()),
        ("settings", &settings),
        ("unlearned_from_sha256", original.sha256()),
        ("retain_sha256", &retain.sha256),
        ("forget_sha256", &forget.sha256),
    ];
    model.save(&args.out, &notes)?;
    reporter.note(&format!("wrote {}, {} and {}", args.out.display(), split_file.display(), record.display()));
    Ok(())
}

/// Refuses options that would change nothing.
fn refuse_unheeded(args: &Args, method: &dyn Method) -> Result<()> {
    let heeds = |setting| method.heeds().contains(&setting);
    let trains = heeds(Setting::Train);
    let hyper = &args.hyper;
    let learns = trains && method.needs().retain;
    let options = [
        ("--epochs", hyper.epochs.is_some(), trains),
        ("--lr", hyper.lr.is_some(), trains),
        ("--momentum", hyper.momentum.is_some(), trains),
        ("--weight-decay", hyper.weight_decay.is_some(), trains),
        ("--constant-lr", hyper.constant_lr, learns),
        ("--augment", hyper.augment, learns),
        ("--backbone", args.backbone.is_some(), method.needs().start == Start::Fresh),
        ("--alpha", args.alpha.is_some(), heeds(Setting::Alpha)),
        ("--damping", args.damping.is_some(), heeds(Setting::Damping)),
        ("--curvature-images", args.curvature_images.is_some(), heeds(Setting::CurvatureImages)),
        ("--sparsity", args.sparsity.is_some(), heeds(Setting::Sparsity)),
        ("--calibrate", !args.calibrate.is_empty(), method.tuned().is_some()),
    ];
    if let Some((option, ..)) = options.iter().find(|(_, given, heeded)| *given && !heeded) {
        return Err(Error::usage(format!("{option} means nothing to {}", method.name())).help("leave it out"));
    }
    let fixed = match method.tuned() {
        Some(Setting::LearningRate) => hyper.lr.map(|_| "--lr"),
        Some(_) => args.alpha.map(|_| "--alpha"),
        None => None,
    };
    match fixed {
        Some(option) if !args.calibrate.is_empty() => Err(Error::usage(format!(
            "{option} and --calibrate exclude each other: one gives the strength, the other looks for it"
        ))),
        _ => Ok(()),
    }
}

fn settings(args: &Args, method: &dyn Method) -> UnlearnSettings {
    let defaults = method.defaults();
    UnlearnSettings {
        train: args.hyper.settings(&defaults.train),
        alpha: args.alpha.unwrap_or(defaults.alpha),
        damping: args.damping.unwrap_or(defaults.damping),
        curvature_images: args.curvature_images.unwrap_or(defaults.curvature_images),
        sparsity: args.sparsity.unwrap_or(defaults.sparsity),
    }
}

/// The model that the method starts from.
fn start(args: &Args, method: &dyn Method, original: &Model, set: &ImageSet) -> Result<Model> {
    match (method.needs().start, args.backbone) {
        (Start::Original, _) => original.duplicate(),
        (Start::Fresh, None) => {
            let model = original.duplicate()?;
            model.reinitialise(args.hyper.seed)?;
            Ok(model)
        }
        (Start::Fresh, Some(backbone)) => {
            let input = InputShape { channels: set.channels(), height: set.height(), width: set.width() };
            let proto = nets::classifier(backbone, input, original.classes(), args.hyper.seed)?;
            Model::from_proto("new model", proto, original.device())?.computing_in(original.computing().precision)
        }
    }
}

/// Unlearns in place, with a strength that is given or looked for; gives the settings that it was done with.
fn unlearn(
    args: &Args,
    method: &dyn Method,
    settings: &UnlearnSettings,
    model: &Model,
    [retain, forget]: [&ImageSet; 2],
    adapter: &Adapter,
) -> Result<(UnlearnSettings, Option<Calibration>, Unlearned)> {
    let device = model.device();
    let augment = args.hyper.augmentation();
    let (retain_images, forget_images) = (Batches::new(retain, adapter, device)?, Batches::new(forget, adapter, device)?);
    let retain_samples = resident(&retain_images, &retain.label_list()?, model.classes(), augment)?;
    let forget_samples = resident(&forget_images, &forget.label_list()?, model.classes(), Augment::NONE)?;
    let sets = Sets { retain: Some(&retain_samples), forget: Some(&forget_samples) };
    let what = format!("unlearning by {}", method.name());
    let given = match method.tuned() {
        Some(Setting::LearningRate) => args.hyper.lr.is_some(),
        Some(_) => args.alpha.is_some(),
        None => true,
    };
    if given && method.heeds().contains(&Setting::Train) {
        let inputs = serde_json::to_string(&(adapter, augment, settings)).map_err(Error::unexpected)?;
        let fingerprint = format!("{} {} {} {} {inputs}", method.name(), retain.sha256, forget.sha256, model.sha256());
        let mut outcome = Unlearned::default();
        checkpointed(&what, fingerprint, &args.out, &args.shown, &mut |control| {
            outcome = method.run(model, &sets, settings, control)?;
            Ok(())
        })?;
        return Ok((settings.clone(), None, outcome));
    }
    let bar = args.shown.compute.reporter().bar(&what, "batches");
    let mut show = |event: &Event| {
        if let Event::Batch { batch, of, .. } = event {
            bar.set(*batch as u64, *of as u64);
        }
    };
    let mut control = Control { on_event: Some(&mut show), stop: Some(common::listen_for_interrupt()), checkpoint: None };
    if given {
        let outcome = method.run(model, &sets, settings, &mut control);
        bar.finish();
        return Ok((settings.clone(), None, outcome?));
    }
    let candidates = if args.calibrate.is_empty() { method.candidates() } else { &args.calibrate };
    let found = calibrate(method, model, &sets, settings, candidates, args.margin, &mut control);
    bar.finish();
    let (chosen, outcome) = found?;
    for candidate in &chosen.candidates {
        let mark = if candidate.strength == chosen.strength { " (chosen)" } else { "" };
        let result = match (&candidate.retain_accuracy, &candidate.failure) {
            (Some(accuracy), _) => format!("retain accuracy {accuracy:.2} %"),
            (None, Some(failure)) => failure.clone(),
            (None, None) => "not tried".to_string(),
        };
        println!("{} {}: {result}{mark}", chosen.setting, candidate.strength);
    }
    Ok((chosen.apply(method, settings), Some(chosen), outcome))
}

fn show(before: &Scores, after: &Scores, outcome: &Unlearned, seconds: f64) {
    let rows = [
        ("accuracy on the forget set", Some(before.forget), Some(after.forget)),
        ("accuracy on the retain set", Some(before.retain), Some(after.retain)),
        ("accuracy on the test images", before.test, after.test),
        ("forget images taken for unseen", before.mia_efficacy, after.mia_efficacy),
    ];
    for (name, before, after) in rows {
        if let (Some(before), Some(after)) = (before, after) {
            println!("{name}: {before:.2} % before, {after:.2} % after");
        }
    }
    for (name, value) in &outcome.notes {
        println!("{name}: {value:.6}");
    }
    println!("unlearned in {seconds:.1} s");
}

fn class_indices(names: &[String], classes: &[String]) -> Result<Vec<i64>> {
    if names.is_empty() {
        return Err(Error::usage("--forget-classes names no class"));
    }
    let find = |name: &String| {
        let index = classes.iter().position(|c| c == name).and_then(|i| i64::try_from(i).ok());
        index.ok_or_else(|| {
            Error::usage(format!("there is no class '{name}'")).help(format!("the classes are {}", classes.join(", ")))
        })
    };
    names.iter().map(find).collect()
}
