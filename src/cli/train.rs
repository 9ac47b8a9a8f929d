//! `cmira train`: a reference model from scratch.

use std::path::PathBuf;

use crate::cli::board::{Board, Watched};
use crate::cli::common::{self, Compute, Expected, Precise};
use crate::cli::progress::Bar;
use crate::data::{Adapter, Augment, Batches, ImageSet, splits};
use crate::error::{Error, Result};
use crate::graph::Model;
use crate::metrics::accuracy;
use crate::nets::{self, Backbone, InputShape};
use crate::tensor::{Device, no_grad, to_i64s};
use crate::train::checkpoint::Checkpoint;
use crate::train::samples::resident;
use crate::train::{self, Control, Schedule, TrainSettings};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  cmira train --data drawn/train --test drawn/test --backbone resnet8 --epochs 30 --out original.onnx"
)]
pub struct Args {
    /// Labelled training images, a folder for every class.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Labelled images to score on after training.
    #[arg(long, value_name = "DIR")]
    test: Option<PathBuf>,
    /// Images of each class to use, chosen by --split-seed; all by default.
    #[arg(long, value_name = "N")]
    per_class: Option<usize>,
    /// Seed of the choice of images; `cmira unlearn` has to be given the same.
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    split_seed: u64,
    /// The trained model.
    #[arg(long, value_name = "MODEL.onnx")]
    out: PathBuf,
    /// The network.
    #[arg(long, default_value = "resnet8", value_parser = common::backbone())]
    backbone: Backbone,
    #[command(flatten)]
    hyper: Hyper,
    /// How images are turned into numbers.
    #[arg(long, value_name = "ADAPTER.yaml")]
    adapter: Option<PathBuf>,
    #[command(flatten)]
    precise: Precise,
    #[command(flatten)]
    shown: Shown,
}

/// Settings of the training loop that the command line offers.
#[derive(Debug, Clone, clap::Args)]
pub struct Hyper {
    /// Passes over the images. 30 for `cmira train`; the paper's for each method (Table A2, ResNet18 on CIFAR-10).
    #[arg(long)]
    pub epochs: Option<usize>,
    /// Images in a batch.
    #[arg(long, default_value_t = 64)]
    pub batch_size: usize,
    /// Learning rate at the start. 0.05 for `cmira train`, the paper's for each method.
    #[arg(long)]
    pub lr: Option<f64>,
    /// SGD momentum; 0.9 by default.
    #[arg(long)]
    pub momentum: Option<f64>,
    /// Weight decay; 5e-4 by default.
    #[arg(long)]
    pub weight_decay: Option<f64>,
    /// Keep the learning rate constant instead of letting it fall along a cosine.
    #[arg(long)]
    pub constant_lr: bool,
    /// Random crop and flip.
    #[arg(long)]
    pub augment: bool,
    /// Seed of initial weights, order and augmentation.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

impl Hyper {
    /// What chance does to training images.
    pub fn augmentation(&self) -> Augment {
        if self.augment { Augment::default() } else { Augment::NONE }
    }

    /// The settings of the loop; what is neither given nor has a default on the command line is taken from `defaults`.
    pub fn settings(&self, defaults: &TrainSettings) -> TrainSettings {
        TrainSettings {
            epochs: self.epochs.unwrap_or(defaults.epochs),
            batch_size: self.batch_size,
            learning_rate: self.lr.unwrap_or(defaults.learning_rate),
            momentum: self.momentum.unwrap_or(defaults.momentum),
            weight_decay: self.weight_decay.unwrap_or(defaults.weight_decay),
            schedule: if self.constant_lr { Schedule::Constant {} } else { defaults.schedule.clone() },
            seed: self.seed,
            ..defaults.clone()
        }
    }
}

pub fn run(args: &Args) -> Result<()> {
    let device = args.shown.compute.start()?;
    let reporter = args.shown.compute.reporter();
    let adapter = common::adapter(args.adapter.as_deref())?;
    let channels = adapter.input.channels.unwrap_or(3);
    let expected = Expected { size: None, channels, classes: adapter.classes.clone(), resize: false };
    let mut set = common::images(&args.data, &expected, None, &reporter)?;
    if let Some(count) = args.per_class {
        set = set.subset(&splits::per_class_subset(&set.label_list()?, count, args.split_seed)?)?;
    }
    let input = InputShape { channels: set.channels(), height: set.height(), width: set.width() };
    let proto = nets::classifier(args.backbone, input, set.classes.len(), args.hyper.seed)?;
    let model = Model::from_proto("new model", proto, device)?.computing_in(args.precise.on(device))?;
    let settings = args.hyper.settings(&TrainSettings { learning_rate: 0.05, ..TrainSettings::default() });
    fit(&model, &set, &adapter, &settings, args.hyper.augmentation(), &args.out, &args.shown)?;
    let accuracy_on = |set: &ImageSet| accuracy_percent(&model, set, &adapter, device);
    println!("accuracy on the training images: {:.2} %", accuracy_on(&set)?);
    if let Some(folder) = &args.test {
        let expected =
            Expected { size: Some((set.height(), set.width())), channels, classes: Some(set.classes.clone()), resize: false };
        let test = common::images(folder, &expected, None, &reporter)?;
        println!("accuracy on the test images: {:.2} %", accuracy_on(&test)?);
    }
    let settings = serde_json::to_string(&settings).map_err(Error::unexpected)?;
    let data = &set.sha256;
    model.save(&args.out, &[("version", env!("CARGO_PKG_VERSION")), ("trained_on_sha256", data), ("settings", &settings)])?;
    reporter.note(&format!("wrote {}", args.out.display()));
    Ok(())
}

/// Where a training runs, and where it shows itself.
#[derive(Debug, Clone, clap::Args)]
pub struct Shown {
    #[command(flatten)]
    pub watched: Watched,
    #[command(flatten)]
    pub compute: Compute,
}

/// Trains with a bar, a checkpoint beside `out` and Ctrl-C.
fn fit(
    model: &Model,
    set: &ImageSet,
    adapter: &Adapter,
    settings: &TrainSettings,
    augment: Augment,
    out: &std::path::Path,
    shown: &Shown,
) -> Result<()> {
    let batches = Batches::new(set, adapter, model.device())?;
    let samples = resident(&batches, &set.label_list()?, model.classes(), augment)?;
    // Everything that the loop's own settings do not say.
    let inputs = serde_json::to_string(&(adapter, augment)).map_err(Error::unexpected)?;
    let fingerprint = format!("{} {} {} {inputs}", set.sha256, model.sha256(), model.computing().precision);
    checkpointed("training", fingerprint, out, shown, &mut |control| train::fit(model, &samples, settings, control).map(drop))
}

/// Runs a training with a bar, with a checkpoint beside `out` that is gone when it is done, and with Ctrl-C.
pub fn checkpointed(
    what: &str,
    fingerprint: String,
    out: &std::path::Path,
    shown: &Shown,
    work: &mut dyn FnMut(&mut Control) -> Result<()>,
) -> Result<()> {
    let reporter = shown.compute.reporter();
    let bar = reporter.bar(what, "batches");
    let mut board = Board::new(&shown.watched);
    let mut show = |event: &train::Event| {
        board.training(what, what, 0, event);
        show_training(&bar, what, event);
    };
    let path = out.with_extension("checkpoint.safetensors");
    let checkpoint = Checkpoint { path: path.clone(), every: 5, fingerprint };
    let mut control =
        Control { on_event: Some(&mut show), stop: Some(common::listen_for_interrupt()), checkpoint: Some(checkpoint) };
    let result = work(&mut control);
    bar.finish();
    board.warn(&reporter);
    result?;
    // The finished model itself is about to be written. Without an epoch there is no checkpoint.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&path, &error)),
        _ => Ok(()),
    }
}

/// Moves a bar by epochs, and within one by batches.
pub fn show_training(bar: &Bar, what: &str, event: &train::Event) {
    match event {
        train::Event::Epoch { epoch, of, loss, .. } => bar.message(&format!("{what}, {epoch}/{of} epochs, loss {loss:.4}")),
        train::Event::Resumed { .. } => {}
        train::Event::Batch { epoch, epochs, batch, of } => bar.batch(*epoch, *epochs, *batch, *of),
    }
}

/// Top-1 accuracy of a model on a labelled set, percent.
pub fn accuracy_percent(model: &Model, set: &ImageSet, adapter: &Adapter, device: Device) -> Result<f64> {
    let _guard = no_grad();
    let batches = Batches::new(set, adapter, device)?;
    let logits = train::evaluate::logits(model, &batches, 500)?;
    let classes = to_i64s(&logits.f_argmax(-1, false)?)?;
    Ok(accuracy::top1(&classes, &set.labels).map_or(f64::NAN, |a| a.percent()))
}
