//! `cmira check`: whether an import can be believed.

use std::path::PathBuf;

use crate::check::{self, Check};
use crate::cli::common::{self, Compute, Expected, Reading};
use crate::data::Batches;
use crate::error::{Error, ErrorKind, Result, readable};
use crate::graph::{ImportReport, Model, TensorInfo};
use crate::onnx;
use crate::tensor::Device;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  cmira check model.onnx --images photos --adapter adapter.yaml")]
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
    /// Print a first adapter file for the model instead, with what the graph tells.
    #[arg(long, conflicts_with_all = ["json", "list", "images"])]
    suggest: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    compute: Compute,
}

/// At most this many images of the folder are compared.
const MOST_IMAGES: usize = 200;

pub fn run(args: &Args) -> Result<()> {
    if args.suggest {
        args.compute.start()?;
        let options = common::import_options(&common::adapter(args.adapter.as_deref())?);
        let model = Model::import(onnx::read(&args.model, &args.reading.limits()?)?, &options, Device::Cpu)?;
        print!("{}", check::suggest::adapter(&model));
        return Ok(());
    }
    let outcome = common::or_json(args.json, inspect(args))?;
    if args.json {
        let json = serde_json::to_string_pretty(&outcome).map_err(Error::unexpected)?;
        println!("{json}");
    } else {
        print!("{}", text(&outcome));
        if args.list {
            print!("{}", outcome.import.as_ref().map_or_else(String::new, list));
        }
    }
    outcome.verdict().map_or(Ok(()), Err)
}

fn inspect(args: &Args) -> Result<Check> {
    let device = args.compute.start()?;
    let adapter = common::adapter(args.adapter.as_deref())?;
    let options = common::import_options(&adapter);
    let reporter = args.compute.reporter();
    let images = match &args.images {
        None => None,
        Some(folder) => {
            let model = Model::import(onnx::read(&args.model, &args.reading.limits()?)?, &options, Device::Cpu)?;
            let expected = Expected { classes: None, ..common::expected(&model, &adapter, false) };
            let set = common::images(folder, &expected, None, &reporter)?;
            let batches = Batches::new(&set, &adapter, Device::Cpu)?;
            Some(batches.range(0, i64::try_from(set.len().min(MOST_IMAGES)).map_err(Error::unexpected)?)?)
        }
    };
    check::check(&args.model, &args.reading.limits()?, &options, images.as_ref(), device)
}

fn text(check: &Check) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    let mut line = |text: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}", readable(&text));
    };
    line(format!("{} (SHA-256 {})", check.model, check.sha256));
    if !check.unsupported.is_empty() {
        line(format!("cannot be imported: {} nodes are not supported", check.unsupported.len()));
        for node in &check.unsupported {
            line(format!("  {}: {}", node.node, node.reason));
        }
        return out;
    }
    let operators: Vec<String> = check.operators.iter().map(|(name, count)| format!("{name} {count}")).collect();
    let memory = check.import_peak_mb.map_or_else(String::new, |peak| format!(" and {peak:.0} MB"));
    line(format!("imported in {:.2} s{memory}, opset {}", check.import_s, check.opset));
    for (index, chunk) in wrap(&operators, 96).into_iter().enumerate() {
        line(format!("{} {chunk}", if index == 0 { "operators: " } else { "           " }));
    }
    let p = &check.parameters;
    line(format!("trainable:  {} numbers in {} tensors", p.trainable, p.trainable_tensors));
    line(format!("frozen:     {} numbers in {} tensors", p.frozen, p.frozen_tensors));
    if let Some(import) = &check.import {
        line(format!("            of these {} running statistics", import.buffers.len()));
        let float_like = import.frozen.iter().filter(|t| !matches!(t.reason, "integer" | "boolean" | "a single number"));
        for tensor in float_like.take(20) {
            line(format!("            {}: {}", name_and_shape(tensor), tensor.reason));
        }
        line(format!(
            "output:     {}",
            serde_json::to_value(import.head).map_or_else(|_| String::new(), |v| v.as_str().unwrap_or("").to_string())
        ));
        for output in &import.unused_outputs {
            line(format!("            output '{output}' is not used"));
        }
    }
    for repair in &check.repairs {
        line(format!("repaired:   {repair}"));
    }
    for note in check.import.iter().flat_map(|import| &import.notes) {
        line(format!("note:       {note}"));
    }
    if let Some(parity) = &check.parity {
        line(format!("parity:     {parity}, {} random images", parity.images));
        let batches: Vec<String> = check.batches.iter().map(|(batch, error)| format!("{batch}: {error:.2e}")).collect();
        line(format!("            by batch size {}", batches.join(", ")));
    }
    if let Some(parity) = &check.images {
        line(format!("on images:  {parity}, {} images", parity.images));
    }
    if let Some(gradients) = &check.gradients {
        let text = gradients.fault().unwrap_or_else(|| "finite and not zero for every trainable parameter".to_string());
        line(format!("gradients:  {text}"));
        if let Some(step) = gradients.step {
            let check::gradients::Step { learning_rate, before, after } = step;
            line(format!("            one step of {learning_rate:.1e} takes the loss from {before:.4} to {after:.4}"));
        }
    }
    let verdict = match check.verdict().map(|e| e.kind()) {
        None => "can be believed",
        Some(ErrorKind::Disagree) => "cannot be believed",
        Some(_) => "cannot be used",
    };
    line(format!("verdict:    this import {verdict}"));
    out
}

/// One line for every stored tensor.
fn list(import: &ImportReport) -> String {
    let trainable = import.trainable.iter().map(|t| ("trainable", t));
    let buffers = import.buffers.iter().map(|t| ("statistic", t));
    let frozen = import.frozen.iter().map(|t| ("frozen", t));
    let line = |(role, tensor): (&str, &TensorInfo)| {
        let reason = if tensor.reason.is_empty() { String::new() } else { format!("  {}", tensor.reason) };
        format!("{}\n", readable(&format!("{role:<10} {}{reason}", name_and_shape(tensor))))
    };
    trainable.chain(buffers).chain(frozen).map(line).collect()
}

fn name_and_shape(tensor: &TensorInfo) -> String {
    format!("{} {:?}", tensor.name, tensor.shape)
}

/// Joins words with commas into lines of at most `width` characters.
fn wrap(words: &[String], width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() + 2 <= width => {
                line.push_str(", ");
                line.push_str(word);
            }
            _ => lines.push(word.clone()),
        }
    }
    lines
}
