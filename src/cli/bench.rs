//! `cmira bench`: how fast a model is trained and evaluated on this machine.

use std::path::PathBuf;

use crate::cli::common::{self, Compute, Precise, Reading};
use crate::error::{Error, Result};
use crate::graph::Model;
use crate::harness::bench::{self, Work};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  cmira bench model.onnx --batch 128 --threads 2
Images and labels are random: what is learned means nothing, and nothing is written.")]
pub struct Args {
    /// The model.
    #[arg(value_name = "MODEL.onnx")]
    model: PathBuf,
    /// How the model wants its images, and which repairs are made.
    #[arg(long, value_name = "ADAPTER.yaml")]
    adapter: Option<PathBuf>,
    /// Images of a batch.
    #[arg(long, default_value_t = 128, value_name = "N")]
    batch: usize,
    /// Images of an epoch.
    #[arg(long, default_value_t = 1024, value_name = "N")]
    images: usize,
    /// Epochs that are timed, behind one that is not.
    #[arg(long, default_value_t = 3, value_name = "N")]
    epochs: usize,
    /// Crop and mirror the training images, as the attack does by default.
    #[arg(long)]
    augment: bool,
    /// Divide every weight by its spectral norm, as the attack model's are.
    #[arg(long)]
    spectral_norm: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    precise: Precise,
    #[command(flatten)]
    compute: Compute,
}

pub fn run(args: &Args) -> Result<()> {
    common::or_json(args.json, time(args))
}

fn time(args: &Args) -> Result<()> {
    common::end_on_interrupt();
    let device = args.compute.start()?;
    let adapter = common::adapter(args.adapter.as_deref())?;
    let work = Work {
        batch: args.batch,
        images: args.images,
        epochs: args.epochs,
        augment: args.augment,
        spectral_norm: args.spectral_norm,
    };
    let precision = args.precise.on(device);
    let open = || -> Result<Model> { common::open(&args.model, &adapter, &args.reading, device)?.computing_in(precision) };
    let found = bench::run(&open, &work, device)?;
    if args.json {
        println!("{}", serde_json::to_string(&found).map_err(Error::unexpected)?);
        return Ok(());
    }
    println!("import      {:>10.3} s", found.import_s);
    println!("training    {:>10.1} images/s in batches of {}", found.train_images_per_s, found.batch);
    println!("evaluation  {:>10.1} images/s", found.eval_images_per_s);
    if let Some(peak) = found.peak_rss_mb {
        println!("memory      {peak:>10} MiB at most");
    }
    let share = 3.0 * found.train_images_per_s * found.cost.multiplications as f64 / 1e9 / found.multiply_gmacs_per_s;
    println!(
        "limits      {:>10.0} billion multiplications/s, of which training does {:.0} %; {:.0} GB/s copied",
        found.multiply_gmacs_per_s,
        100.0 * share,
        found.copy_gb_per_s
    );
    println!("on {} in {}, {} threads an operation", found.device, found.precision, found.threads);
    Ok(())
}
