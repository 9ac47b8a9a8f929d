//! `cmira unlearn`: reference methods, on any trained ONNX model.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::cli::common::{self, Compute, Expected};
use crate::cli::train::{Hyper, accuracy_percent, fit, labels};
use crate::data::splits;
use crate::error::{Error, Result};
use crate::graph::Model;
use crate::nets::{self, Backbone, InputShape};
use crate::onnx;
use crate::unlearn::ga;

/// A reference method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MethodName {
    /// Retrain from scratch on the retain set.
    Rt,
    /// Gradient ascent on the forget set, as strong as the retain set allows.
    Ga,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  cmira unlearn --model original.onnx --method ga --data drawn/train --forget-classes disc,ring --out ga.onnx
The split is written beside the model as <out>.forget.csv and <out>.retain.csv.")]
pub struct Args {
    /// The trained model (for RT only its classes and image size are used).
    #[arg(long, value_name = "MODEL.onnx")]
    model: PathBuf,
    /// The method.
    #[arg(long, value_enum)]
    method: MethodName,
    /// The labelled images that the model was trained on.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Images of each class to use, chosen by the seed as in `cmira train`.
    #[arg(long, value_name = "N")]
    per_class: Option<usize>,
    /// Classes of which images are forgotten, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "CLASS")]
    forget_classes: Vec<String>,
    /// The share of each of these classes that is forgotten.
    #[arg(long, default_value_t = 0.5)]
    forget_share: f64,
    /// Seed of the split.
    #[arg(long, default_value_t = 0)]
    split_seed: u64,
    /// The unlearned model.
    #[arg(long, value_name = "MODEL.onnx")]
    out: PathBuf,
    /// RT: the backbone to retrain.
    #[arg(long, default_value = "resnet8")]
    backbone: Backbone,
    /// GA: learning rates to choose from; the strongest that keeps the retain accuracy wins.
    #[arg(long, value_delimiter = ',', default_values_t = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2], value_name = "LR")]
    ga_rates: Vec<f64>,
    /// GA: epochs over the forget set. The paper: 4 or 5.
    #[arg(long, default_value_t = 4)]
    ga_epochs: usize,
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
    let device = args.compute.start()?;
    let reporter = args.compute.reporter();
    let adapter = common::adapter(args.adapter.as_deref())?;
    let channels = adapter.input.channels.unwrap_or(3);
    let expected = Expected { size: None, channels, classes: adapter.classes.clone(), resize: false };
    let mut set = common::images(&args.data, &expected, None, &reporter)?;
    if let Some(count) = args.per_class {
        set = set.subset(&splits::per_class_subset(&labels(&set)?, count, args.hyper.seed)?)?;
    }
    let classes = class_indices(&args.forget_classes, &set.classes)?;
    let split = splits::forget_half(&labels(&set)?, &classes, args.forget_share, args.split_seed)?;
    let (forget, retain) = (set.subset(&split.forget)?, set.subset(&split.retain)?);
    splits::write_index(&beside(&args.out, "forget.csv"), &set, &split.forget)?;
    splits::write_index(&beside(&args.out, "retain.csv"), &set, &split.retain)?;
    let original = Model::open(&args.model, device)?;
    let model = match args.method {
        MethodName::Rt => {
            let number = |n: usize| i64::try_from(n).map_err(Error::unexpected);
            let input = InputShape { channels: number(set.channels())?, height: number(set.height())?, width: number(set.width())? };
            let proto = nets::classifier(args.backbone, input, original.classes(), args.hyper.seed)?;
            let model = Model::from_proto("new model", proto, device)?;
            fit(&model, &retain, &adapter, &args.hyper.settings(), &args.out, &args.compute)?;
            model
        }
        MethodName::Ga => {
            let bar = reporter.bar("gradient ascent");
            let settings = ga::Settings { epochs: args.ga_epochs, batch_size: args.hyper.batch_size, seed: args.hyper.seed };
            let choice = ga::calibrate(&original, &retain, &forget, &adapter, &args.ga_rates, args.margin, &settings, common::listen_for_interrupt())?;
            bar.finish();
            for tried in &choice.tried {
                let mark = if Some(tried.lr) == choice.chosen { " (chosen)" } else { "" };
                reporter.note(&format!("lr {:.0e}: retain accuracy {:.2} %{mark}", tried.lr, tried.retain_accuracy));
            }
            choice.model
        }
    };
    for (name, set) in [("forget", &forget), ("retain", &retain)] {
        let (before, after) = (accuracy_percent(&original, set, &adapter, device)?, accuracy_percent(&model, set, &adapter, device)?);
        reporter.note(&format!("accuracy on the {name} set: {before:.2} % before, {after:.2} % after"));
    }
    onnx::write::save(&model.to_onnx()?, &args.out)?;
    reporter.note(&format!("wrote {}", args.out.display()));
    Ok(())
}

fn class_indices(names: &[String], classes: &[String]) -> Result<Vec<i64>> {
    if names.is_empty() {
        return Err(Error::usage("--forget-classes names no class"));
    }
    let find = |name: &String| {
        let index = classes.iter().position(|c| c == name).and_then(|i| i64::try_from(i).ok());
        index.ok_or_else(|| Error::usage(format!("there is no class '{name}'")).help(format!("the classes are {}", classes.join(", "))))
    };
    names.iter().map(find).collect()
}

fn beside(out: &Path, extension: &str) -> PathBuf {
    out.with_extension(extension)
}
