//! `cmira unlearn`: reference methods, on any trained ONNX model.

use std::path::PathBuf;

use crate::cli::common::{self, Compute, Expected};
use crate::cli::train::{Hyper, accuracy_percent, fit};
use crate::data::{Adapter, Augment, Batches, ImageSet, splits};
use crate::error::{Error, Result};
use crate::graph::Model;
use crate::nets::{self, Backbone, InputShape};
use crate::train::Control;
use crate::train::samples::resident;
use crate::unlearn::{self, Method, Start, calibrate_ga};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  cmira unlearn --model original.onnx --method ga --data drawn/train --forget-classes disc,ring --out ga.onnx
The split is written beside the model, with the extension .split.csv.")]
pub struct Args {
    /// The trained model (for RT only its classes and image size are used).
    #[arg(long, value_name = "MODEL.onnx")]
    model: PathBuf,
    /// The method: RT (retrain from scratch) or GA (gradient ascent).
    #[arg(long)]
    method: String,
    /// The labelled images that the model was trained on.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
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
    /// RT: the backbone to retrain.
    #[arg(long, default_value = "resnet8")]
    backbone: Backbone,
    /// GA: learning rates to choose from; the strongest that keeps the retain accuracy wins.
    #[arg(long, value_delimiter = ',', default_values_t = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2], value_name = "LR")]
    ga_rates: Vec<f64>,
    /// GA: how many points of accuracy on the retain set may be lost.
    #[arg(long, default_value_t = 10.0)]
    margin: f64,
    #[command(flatten)]
    hyper: Hyper,
    /// How images are turned into numbers.
    #[arg(long, value_name = "ADAPTER.yaml")]
    adapter: Option<PathBuf>,
    #[command(flatten)]
    compute: Compute,
}

pub fn run(args: &Args) -> Result<()> {
    let method = unlearn::method(&args.method)?;
    let start = method.needs().start;
    if start == Start::Original && (args.hyper.lr.is_some() || args.hyper.augment || args.hyper.constant_lr) {
        let error = Error::usage(format!("--lr, --augment and --constant-lr mean nothing to {}", method.name()));
        return Err(error.help("its learning rate is constant and chosen among --ga-rates"));
    }
    if let Some(folder) = &args.forget_images {
        common::must_be_new(folder)?;
    }
    let device = args.compute.start()?;
    let reporter = args.compute.reporter();
    let adapter = common::adapter(args.adapter.as_deref())?;
    let original = Model::open(&args.model, device)?;
    let channels = adapter.input.channels.unwrap_or(3);
    let expected = Expected { size: None, channels, classes: adapter.classes.clone(), resize: false };
    let mut set = common::images(&args.data, &expected, None, &reporter)?;
    if let Some(count) = args.per_class {
        set = set.subset(&splits::per_class_subset(&set.label_list()?, count, args.split_seed)?)?;
    }
    let classes = class_indices(&args.forget_classes, &set.classes)?;
    let split = splits::forget_half(&set.label_list()?, &classes, args.forget_share, args.split_seed)?;
    let (forget, retain) = (set.subset(&split.forget)?, set.subset(&split.retain)?);
    let split_file = args.out.with_extension("split.csv");
    split.write(&split_file, &set)?;
    let model = match start {
        Start::Fresh => {
            let input = InputShape { channels: set.channels(), height: set.height(), width: set.width() };
            let proto = nets::classifier(args.backbone, input, original.classes(), args.hyper.seed)?;
            let model = Model::from_proto("new model", proto, device)?;
            let settings = args.hyper.settings(&method.defaults());
            fit(&model, &retain, &adapter, &settings, args.hyper.augmentation(), &args.out, &args.compute)?;
            model
        }
        Start::Original => ascend(args, method, &original, &retain, &forget, &adapter)?,
    };
    for (name, set) in [("forget", &forget), ("retain", &retain)] {
        let (before, after) =
            (accuracy_percent(&original, set, &adapter, device)?, accuracy_percent(&model, set, &adapter, device)?);
        println!("accuracy on the {name} set: {before:.2} % before, {after:.2} % after");
    }
    if let Some(folder) = &args.forget_images {
        common::copy_images(&args.data, folder, &forget)?;
    }
    let notes = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("unlearned_by", method.name()),
        ("unlearned_from_sha256", original.sha256()),
        ("retain_sha256", &retain.sha256),
        ("forget_sha256", &forget.sha256),
    ];
    model.save(&args.out, &notes)?;
    reporter.note(&format!("wrote {} and {}", args.out.display(), split_file.display()));
    Ok(())
}

/// Gradient ascent from the original model, at the strongest learning rate that the retain set allows.
fn ascend(
    args: &Args,
    method: &dyn Method,
    original: &Model,
    retain: &ImageSet,
    forget: &ImageSet,
    adapter: &Adapter,
) -> Result<Model> {
    let model = original.duplicate()?;
    let (retain_images, forget_images) =
        (Batches::new(retain, adapter, model.device())?, Batches::new(forget, adapter, model.device())?);
    let retain = resident(&retain_images, &retain.label_list()?, model.classes(), Augment::NONE)?;
    let forget = resident(&forget_images, &forget.label_list()?, model.classes(), Augment::NONE)?;
    let settings = args.hyper.settings(&method.defaults());
    let mut control = Control { on_event: None, stop: Some(common::listen_for_interrupt()), checkpoint: None };
    let chosen = calibrate_ga(&model, &retain, &forget, &settings, &args.ga_rates, args.margin, &mut control)?;
    for candidate in &chosen.candidates {
        let mark = if candidate.learning_rate == chosen.learning_rate { " (chosen)" } else { "" };
        let outcome = match (&candidate.retain_accuracy, &candidate.failure) {
            (Some(accuracy), _) => format!("retain accuracy {accuracy:.2} %"),
            (None, Some(failure)) => failure.clone(),
            (None, None) => "not tried".to_string(),
        };
        println!("learning rate {:e}: {outcome}{mark}", candidate.learning_rate);
    }
    Ok(model)
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
