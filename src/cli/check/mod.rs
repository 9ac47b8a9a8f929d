//! `cmira check`: whether an import can be believed.

mod text;

use std::path::{Path, PathBuf};

use crate::check::{self, Check, OnClass, OnImages};
use crate::cli::common::{self, Compute, Expected, Reading};
use crate::data::{Adapter, Batches, ImageSet};
use crate::error::{Error, Result};
use crate::files;
use crate::graph::Model;
use crate::metrics::accuracy;
use crate::onnx;
use crate::report::summary::spread;
use crate::tensor::{Device, to_i64s};
use crate::train;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cmira check model.onnx --images photos --adapter adapter.yaml
  cmira check model.onnx --dot graph.dot && dot -Tsvg graph.dot > graph.svg")]
pub struct Args {
    /// The model.
    #[arg(value_name = "MODEL.onnx")]
    model: PathBuf,
    /// How the model wants its images: size, scaling, mean, standard deviation.
    #[arg(long, value_name = "ADAPTER.yaml")]
    adapter: Option<PathBuf>,
    /// Compare with ONNX Runtime on the images of this folder as well.
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// List every stored tensor: trainable, running statistic, or frozen with the reason.
    #[arg(long)]
    list: bool,
    /// Print a first adapter file for the model instead, with what the graph tells, and what the folders of --images are called.
    #[arg(long, conflicts_with_all = ["json", "list"])]
    suggest: bool,
    /// Draw the graph as it was imported into this file, for Graphviz, with what was repaired in colour (`dot -Tsvg graph.dot`).
    #[arg(long, value_name = "FILE", conflicts_with = "suggest")]
    dot: Option<PathBuf>,
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    compute: Compute,
}

/// At most this many labelled images of the folder are given to the model.
const MOST_LABELLED: usize = 2_000;

/// At most this many images of the folder are compared.
const MOST_IMAGES: usize = 200;

pub fn run(args: &Args) -> Result<()> {
    common::end_on_interrupt();
    if args.suggest {
        args.compute.start()?;
        let options = common::import_options(&common::adapter(args.adapter.as_deref())?);
        let model = Model::import(onnx::read(&args.model, &args.reading.limits()?)?, &options, Device::Cpu)?;
        let folders = args.images.as_deref().map_or_else(|| Ok(Vec::new()), folders_in)?;
        print!("{}", check::suggest::adapter(&model, &folders));
        return Ok(());
    }
    let outcome = common::or_json(args.json, inspect(args))?;
    if args.json {
        let json = serde_json::to_string_pretty(&outcome).map_err(Error::unexpected)?;
        println!("{json}");
    } else {
        print!("{}", text::summary(&outcome));
        if args.list {
            print!("{}", outcome.import.as_ref().map_or_else(String::new, text::list));
        }
    }
    outcome.verdict().map_or(Ok(()), Err)
}

/// The folders in a folder, in the order of their names.
fn folders_in(folder: &Path) -> Result<Vec<String>> {
    let failed = |error: std::io::Error| Error::data(error).at(folder.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().map_err(failed)?.is_dir() && !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn inspect(args: &Args) -> Result<Check> {
    let (check, model) = inspect_model(args)?;
    if let (Some(path), Some(model)) = (&args.dot, model) {
        let file = onnx::read(&args.model, &args.reading.limits()?)?;
        files::write(path, check::draw::dot(&file.model, &model)?.as_bytes())?;
    }
    Ok(check)
}

fn inspect_model(args: &Args) -> Result<(Check, Option<Model>)> {
    let device = args.compute.start()?;
    let adapter = common::adapter(args.adapter.as_deref())?;
    let options = common::import_options(&adapter);
    let reporter = args.compute.reporter();
    let mut labelled = None;
    let images = match &args.images {
        None => None,
        Some(folder) => {
            let model = Model::import(onnx::read(&args.model, &args.reading.limits()?)?, &options, Device::Cpu)?;
            let expected = common::expected(&model, &adapter, false)?;
            let classes = expected.classes.clone();
            let set = common::images(folder, &Expected { classes: None, ..expected }, None, &reporter)?;
            let batches = Batches::new(&set, &adapter, Device::Cpu)?;
            let first = batches.range(0, i64::try_from(set.len().min(MOST_IMAGES)).map_err(Error::unexpected)?)?;
            labelled = Some((set, classes));
            Some(first)
        }
    };
    let bar = reporter.wait(&format!("importing {} and comparing it", args.model.display()));
    let checked = check::check(&args.model, &args.reading.limits()?, &options, images.as_ref(), device);
    bar.finish();
    let (mut check, model) = checked?;
    if let (Some((set, classes)), Some(model)) = (&labelled, &model) {
        check.accuracy = accuracy_on(model, set, classes.as_deref(), &adapter)?;
        let looked_at = check.accuracy.as_ref().map_or(0, |found| found.images);
        let labelled = set.labels.iter().flatten().count().min(MOST_LABELLED);
        if looked_at < labelled {
            reporter.warn(&format!(
                "{} of {labelled} labelled images are in folders that are no class of the model, as the adapter or the file names its classes: \
                 an audit would refuse them",
                labelled - looked_at
            ));
        }
    }
    Ok((check, model))
}

/// Accuracy on what is labelled of a folder, if its classes are the model's: by name, or in alphabetical order where nothing names them.
fn accuracy_on(model: &Model, set: &ImageSet, classes: Option<&[String]>, adapter: &Adapter) -> Result<Option<OnImages>> {
    let classes = classes.unwrap_or(&set.classes);
    if classes.len() != model.classes() {
        return Ok(None);
    }
    let place = |label: &Option<i64>| {
        let name = set.classes.get(usize::try_from((*label)?).ok()?)?;
        classes.iter().position(|class| class == name).and_then(|place| i64::try_from(place).ok())
    };
    let truth: Vec<Option<i64>> = set.labels.iter().map(place).collect();
    let chosen: Vec<usize> = (0..set.len()).filter(|image| truth[*image].is_some()).collect();
    let chosen: Vec<usize> = spread(chosen.len(), MOST_LABELLED).into_iter().map(|place| chosen[place]).collect();
    if chosen.is_empty() {
        return Ok(None);
    }
    let images = Batches::new(&set.subset(&chosen)?, adapter, model.device())?;
    let predicted = to_i64s(&train::evaluate::logits(model, &images, 100)?.f_argmax(-1, false)?)?;
    let truth: Vec<Option<i64>> = chosen.iter().map(|&image| truth[image]).collect();
    let name = |class: i64| usize::try_from(class).ok().and_then(|place| classes.get(place)).cloned().unwrap_or_default();
    let exchanged = accuracy::exchanged(&predicted, &truth).into_iter().map(|(a, b)| (name(a), name(b))).collect();
    let on_class =
        |(class, tally): (i64, accuracy::Tally)| OnClass { class: name(class), images: tally.total, accuracy: tally.percent() };
    let by_class = accuracy::by_class(&predicted, &truth).into_iter().map(on_class).collect();
    Ok(accuracy::top1(&predicted, &truth).map(|tally| OnImages {
        images: tally.total,
        accuracy: tally.percent(),
        chance: 100.0 / classes.len() as f64,
        classes: by_class,
        exchanged,
    }))
}
