//! `cmira export`: a model as it was imported, repaired and trainable, back as a file.

use std::path::PathBuf;

use crate::check;
use crate::cli::common::{self, Compute, Expected, Reading};
use crate::data::Batches;
use crate::error::{Error, ErrorKind, Result};
use crate::graph::{BatchNormRepair, Model};
use crate::onnx;
use crate::tensor::Tensor;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cmira export model.onnx --out repaired.onnx --images photos
  cmira export model.onnx --out weights.safetensors")]
pub struct Args {
    /// The model.
    #[arg(value_name = "MODEL.onnx")]
    model: PathBuf,
    /// Where to write: an ONNX file, or `.safetensors` for parameters and running statistics alone.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// How the model wants its images, and which repairs are made.
    #[arg(long, value_name = "ADAPTER.yaml")]
    adapter: Option<PathBuf>,
    /// Images on which the statistics of batch normalisation are measured, where it is put back.
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    compute: Compute,
}

/// Images on which the written file is compared with the model.
const COMPARED: i64 = 4;

pub fn run(args: &Args) -> Result<()> {
    common::end_on_interrupt();
    let device = args.compute.start()?;
    let adapter = common::adapter(args.adapter.as_deref())?;
    let reporter = args.compute.reporter();
    let file = onnx::read(&args.model, &args.reading.limits()?)?;
    let model = Model::import(file, &common::import_options(&adapter), device)?;
    if args.images.is_none() && adapter.repairs.batch_norm == BatchNormRepair::Reinsert {
        let error = Error::usage(
            "the adapter asks for batch normalisation to be put back, which takes images to measure its statistics on",
        );
        return Err(error.help("give a folder of them with --images"));
    }
    let model = match &args.images {
        None => model,
        Some(folder) => {
            let expected = Expected { classes: None, ..common::expected(&model, &adapter, false)? };
            let images = common::images(folder, &expected, None, &reporter)?;
            common::with_batch_norm(model, &Batches::new(&images, &adapter, device)?)?
        }
    };
    for text in model.report().repairs.iter().chain(&model.report().notes) {
        reporter.note(text);
    }
    if args.out.extension().is_some_and(|extension| extension == "safetensors") {
        model.save_weights(&args.out)?;
        reporter.note(&format!("wrote {}", args.out.display()));
        return Ok(());
    }
    let repairs = model.report().repairs.join("; ");
    let notes = [("version", env!("CARGO_PKG_VERSION")), ("exported_from_sha256", model.sha256()), ("repairs", &repairs)];
    model.save(&args.out, &notes)?;
    let images = sample(&model, adapter.input.image_shape())?;
    let compared = match check::compare_on(&args.out, &model, &images) {
        Ok(parity) => format!("compared with ONNX Runtime: {parity}"),
        Err(error) if error.kind() == ErrorKind::Disagree => {
            return Err(error.help("the file was written; it should not be used"));
        }
        Err(error) => format!("not compared with ONNX Runtime: {error}"),
    };
    reporter.note(&format!("wrote {}; {compared}", args.out.display()));
    Ok(())
}

fn sample(model: &Model, given: Option<[i64; 3]>) -> Result<Tensor> {
    let stated = match model.image_shape() {
        [Some(c), Some(h), Some(w)] => Some([c, h, w]),
        _ => None,
    };
    let [c, h, w] = stated.or(given).ok_or_else(|| {
        Error::usage("the file does not state the size of its images")
            .help("give input.height and input.width in an adapter file")
    })?;
    check::parity::images_for(model, &[COMPARED, c, h, w])
}
