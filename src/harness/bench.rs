//! How fast a model is trained and evaluated here: the inner loop of the attack's second stage, on images that mean nothing.

use std::path::Path;
use std::time::Instant;

use rand::RngCore;
use serde::Serialize;

use crate::attack::mixup::{Mixture, one_hot};
use crate::attack::spectral::SpectralNorm;
use crate::data::{Adapter, Augment, Batches, ImageSet};
use crate::error::{Error, Result};
use crate::graph::{Cost, Model, Precision};
use crate::tensor::{Device, Kind, Tensor, device_name, rng, synchronise, threads};
use crate::train::network::Logits;
use crate::train::{self, Control, Event, Schedule, TrainSettings};

/// What is timed.
#[derive(Debug, Clone)]
pub struct Work {
    /// Images of a training batch, and of an evaluation batch.
    pub batch: usize,
    /// Images of an epoch; the last batch is left out where it is not whole.
    pub images: usize,
    /// Epochs that are timed, behind one that is not.
    pub epochs: usize,
    /// Whether images are cropped at random and mirrored, as the attack does by default.
    pub augment: bool,
    /// Whether weights are divided by their spectral norms, as the attack model's are.
    pub spectral_norm: bool,
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// Seconds from the file to a trainable graph on the device.
    pub import_s: f64,
    /// Images a second of an inner epoch of mutual distillation: mixup, forward, cross-entropy on label distributions, backward, SGD with
    /// momentum and weight decay. The median epoch.
    pub train_images_per_s: f64,
    /// Images a second in evaluation mode without gradients, in the same precision. The median pass. (Audits evaluate in float32.)
    pub eval_images_per_s: f64,
    /// What one image costs, counted.
    pub cost: Cost,
    /// Billions of multiplications with an addition that a product of square matrices does in a second, in the model's precision.
    pub multiply_gmacs_per_s: f64,
    /// Billions of bytes that are read and written in a second where one tensor is copied to another.
    pub copy_gb_per_s: f64,
    /// The most memory that the process had, in MiB, before the two limits were measured.
    pub peak_rss_mb: Option<u64>,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Threads of one libtorch operation.
    pub threads: usize,
    /// What the model computed in: `fp32` or `bf16`.
    pub precision: String,
    /// See [`Work::batch`].
    pub batch: usize,
    /// See [`Work::images`].
    pub images: usize,
    /// This program's version.
    pub cmira: String,
}

/// Imports the model by `import` and times it.
///
/// # Errors
/// Usage, where there is no whole batch or the image's size is not known; what import and training raise.
pub fn run(import: &dyn Fn() -> Result<Model>, work: &Work, device: Device) -> Result<Measured> {
    let count = work.images / work.batch.max(1) * work.batch.max(1);
    if count == 0 || work.epochs == 0 {
        return Err(Error::usage(format!("{} images are no batch of {}, or no epoch is timed", work.images, work.batch)));
    }
    let started = Instant::now();
    let mut model = import()?;
    synchronise(device);
    let import_s = started.elapsed().as_secs_f64();
    if work.spectral_norm {
        let norm = SpectralNorm::new(model.params());
        model.set_parametrization(Box::new(norm));
    }
    let (images, labels) = drawn(&model, count, device)?;
    let augment = if work.augment { Augment::default() } else { Augment::NONE };
    let rows: Vec<i64> = (0..).take(count).collect();
    let samples = Mixture::new(&images, &rows, labels, 0.75, augment)?;
    let settings = TrainSettings {
        epochs: 1 + work.epochs,
        batch_size: work.batch,
        learning_rate: 1e-3,
        momentum: 0.9,
        weight_decay: 5e-4,
        schedule: Schedule::Constant {},
        ..TrainSettings::default()
    };
    let mut rates = Vec::new();
    let mut note = |event: &Event| {
        if let Event::Epoch { images_per_s, .. } = event {
            rates.push(*images_per_s);
        }
    };
    train::fit(&model, &samples, &settings, &mut Control { on_event: Some(&mut note), stop: None, checkpoint: None })?;
    let mut passes = Vec::new();
    for _ in 0..=work.epochs {
        let started = Instant::now();
        let evaluator = model.evaluator(model.computing().precision)?;
        let logits: Logits<'_> = Box::new(|images| evaluator.logits(images));
        let _ = train::evaluate::in_batches(&images, work.batch, &logits)?;
        synchronise(device);
        passes.push(count as f64 / started.elapsed().as_secs_f64());
    }
    let peak_rss_mb = peak_memory();
    let [channels, height, width] = model.image_shape().map(|side| side.unwrap_or(1));
    Ok(Measured {
        cost: model.cost([channels, height, width])?,
        multiply_gmacs_per_s: multiplication_rate(device, model.computing().precision)?,
        copy_gb_per_s: copy_rate(device)?,
        import_s,
        train_images_per_s: median(rates.split_off(1)),
        eval_images_per_s: median(passes.split_off(1)),
        peak_rss_mb,
        device: device_name(device),
        threads: threads(),
        precision: model.computing().precision.to_string(),
        batch: work.batch,
        images: count,
        cmira: env!("CARGO_PKG_VERSION").to_string(),
    })
}

/// Random bytes as images, and random classes.
fn drawn(model: &Model, count: usize, device: Device) -> Result<(Batches, Tensor)> {
    let mut shape = vec![count];
    for side in model.image_shape() {
        let side = side.and_then(|side| usize::try_from(side).ok());
        shape.push(
            side.ok_or_else(|| Error::usage("the file does not say how large its images are").help("say it in an adapter file"))?,
        );
    }
    let numbers = shape.iter().try_fold(1_usize, |all, side| all.checked_mul(*side));
    let numbers = numbers.ok_or_else(|| Error::usage("so many images of this size are too many numbers"))?;
    let mut bytes = vec![0; numbers];
    let mut chance = rng(0, "images to time", 0);
    chance.fill_bytes(&mut bytes);
    let sides: Vec<i64> = shape.iter().map(|side| i64::try_from(*side).map_err(Error::usage)).collect::<Result<_>>()?;
    let images = Tensor::f_from_data_size(&bytes, &sides, Kind::Uint8)?;
    let names = (0..count).map(|index| index.to_string()).collect();
    let set = ImageSet::new(images, vec![None; count], names, Vec::new(), Vec::new())?;
    let classes = i64::try_from(model.classes()).map_err(Error::unexpected)?;
    let labels: Vec<i64> = (0..count).map(|_| i64::from(chance.next_u32()) % classes).collect();
    Ok((Batches::new(&set, &Adapter::default(), device)?, one_hot(&labels, model.classes())?.f_to_device(device)?))
}

/// How fast a device multiplies: the limit for convolutions, which are products of matrices.
fn multiplication_rate(device: Device, precision: Precision) -> Result<f64> {
    let side: i64 = if device.is_cuda() { 8192 } else { 2048 };
    let kind = if precision == Precision::Bf16 { Kind::BFloat16 } else { Kind::Float };
    let [a, b] = [Tensor::f_rand([side, side], (kind, device))?, Tensor::f_rand([side, side], (kind, device))?];
    let seconds = fastest(device, &|| Ok(a.f_mm(&b).map(drop)?))?;
    Ok((side as f64).powi(3) / seconds / 1e9)
}

/// How fast a device moves what does not fit into its caches: the limit for everything else.
fn copy_rate(device: Device) -> Result<f64> {
    let numbers: i64 = 1 << 26;
    let from = Tensor::f_zeros([numbers], (Kind::Float, device))?;
    let to = from.f_ones_like()?;
    let seconds = fastest(device, &|| Ok(to.shallow_clone().f_copy_(&from)?))?;
    Ok(2.0 * 4.0 * numbers as f64 / seconds / 1e9)
}

/// The shortest of several times that a piece of work takes.
fn fastest(device: Device, work: &dyn Fn() -> Result<()>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..8 {
        let started = Instant::now();
        work()?;
        synchronise(device);
        best = best.min(started.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    if values.len() % 2 == 1 { at(middle) } else { f64::midpoint(at(middle.wrapping_sub(1)), at(middle)) }
}

/// The most memory that this process had, in MiB, where the system says so.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string(Path::new("/proc/self/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib / 1024)
}
