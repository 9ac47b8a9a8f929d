//! How far libtorch's output is from ONNX Runtime's.

use std::fmt;

use serde::Serialize;

use crate::check::witness::Witness;
use crate::check::{BFLOAT16_TOLERANCE, HALF_TOLERANCE, PARITY_TOLERANCE};
use crate::error::{Error, Result};
use crate::graph::Model;
use crate::graph::ops::quant::jittered;
use crate::tensor::{Device, Kind, Tensor, no_grad, rng, to_f64s};

/// Agreement on a set of images.
#[derive(Debug, Clone, Serialize)]
pub struct Parity {
    /// Largest absolute difference.
    pub max_abs: f64,
    /// Largest absolute difference divided by the largest absolute output.
    pub max_rel: f64,
    /// Share of images on which the arg-max is the same, in `0..=1`.
    pub argmax_agreement: f64,
    /// How many images were compared.
    pub images: usize,
    /// The largest `max_rel` that counts as agreement, by the model's precision; see [`PARITY_TOLERANCE`].
    pub tolerance: f64,
}

impl Parity {
    /// Whether the difference is within the tolerance and every arg-max is the same.
    pub fn holds(&self) -> bool {
        self.max_rel <= self.tolerance && self.argmax_agreement >= 1.0
    }

    /// Both comparisons in one.
    pub fn and(&self, other: &Parity) -> Parity {
        let images = self.images + other.images;
        let weighted = self.argmax_agreement * self.images as f64 + other.argmax_agreement * other.images as f64;
        Parity {
            max_abs: self.max_abs.max(other.max_abs),
            max_rel: self.max_rel.max(other.max_rel),
            argmax_agreement: weighted / images as f64,
            images,
            tolerance: self.tolerance.max(other.tolerance),
        }
    }
}

impl fmt::Display for Parity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let agreement = 100.0 * self.argmax_agreement;
        write!(
            f,
            "largest error {:.2e} ({:.2e} of the largest output), arg-max equal on {agreement:.1} %",
            self.max_abs, self.max_rel
        )
    }
}

/// Standard normal images of a shape `[N, C, H, W]`, the same on every machine.
pub fn random_images(shape: &[i64]) -> Result<Tensor> {
    use rand_distr::{Distribution, StandardNormal};
    let count: i64 = shape.iter().product();
    let mut rng = rng(1, "parity images", 0);
    let values: Vec<f32> = (0..count).map(|_| StandardNormal.sample(&mut rng)).collect();
    Ok(Tensor::f_from_slice(&values)?.f_view(shape)?)
}

/// Runs both on the same images and compares the file's first output.
///
/// # Errors
/// Disagree, when the shapes differ; what either of the two raises.
pub fn compare(model: &Model, witness: &mut Witness, images: &Tensor) -> Result<Parity> {
    let _guard = no_grad();
    let given = &images.f_to_device(model.device())?;
    let ours = model.output(given)?.f_to_device(Device::Cpu)?;
    let theirs = witness.run(images)?;
    if ours.size() != theirs.size() {
        return Err(Error::disagree(format!("libtorch gives shape {:?}, ONNX Runtime {:?}", ours.size(), theirs.size())));
    }
    let images = usize::try_from(ours.size().first().copied().unwrap_or(0)).unwrap_or(0);
    let (ours, theirs) = (to_f64s(&ours)?, to_f64s(&theirs)?);
    let largest = theirs.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
    let mut max_abs = 0.0_f64;
    for (a, b) in ours.iter().zip(&theirs) {
        // NaN on one side only would vanish in max().
        let difference = if a.is_finite() && b.is_finite() {
            (a - b).abs()
        } else if a.to_bits() == b.to_bits() {
            0.0
        } else {
            f64::INFINITY
        };
        max_abs = max_abs.max(difference);
    }
    let classes = ours.len().checked_div(images).unwrap_or(0);
    let noise = if model.report().rounds { noise(model, given, largest)? } else { 0.0 };
    let tolerance = tolerance(model).max(noise);
    // Outputs that are rounded to steps are often equal: which of them comes first says nothing.
    let near = if noise > 0.0 { tolerance * largest } else { 0.0 };
    let agree = |i: &usize| {
        let (ours, theirs) = (&ours[i * classes..(i + 1) * classes], &theirs[i * classes..(i + 1) * classes]);
        let (a, b) = (arg_max(ours), arg_max(theirs));
        a == b || a.zip(b).is_some_and(|(a, b)| theirs[b] - theirs[a] < near)
    };
    Ok(Parity {
        max_abs,
        max_rel: max_abs / largest.max(f64::MIN_POSITIVE),
        argmax_agreement: (0..images).filter(agree).count() as f64 / images.max(1) as f64,
        images,
        tolerance,
    })
}

/// By how much, relative to the largest output, the outputs of a model that rounds its own intermediate results move when the numbers
/// that are rounded are [a little off](jittered); twice the largest of a few such moves. Where a number lies at the edge between two
/// steps, two engines that add up in different orders take different ones, and the rest of the network carries it on: no comparison
/// can be finer than that.
fn noise(model: &Model, images: &Tensor, largest: f64) -> Result<f64> {
    let outputs = || -> Result<Vec<f64>> { to_f64s(&model.output(images)?.f_to_device(Device::Cpu)?) };
    let still = outputs()?;
    let mut moved = 0.0_f64;
    for seed in 0..TRIALS {
        let off = jittered(seed, outputs)?;
        moved = still.iter().zip(&off).fold(moved, |moved, (a, b)| moved.max((a - b).abs()));
    }
    Ok((2.0 * moved / largest.max(f64::MIN_POSITIVE)).min(COARSEST))
}

/// How many runs [`noise`] is measured by.
const TRIALS: u8 = 4;

/// A tolerance above this would let anything pass.
const COARSEST: f64 = 0.3;

/// Two engines that round at every layer differ by some roundings: a half keeps 11 bits, a bfloat16 8, where a float keeps 24.
fn tolerance(model: &Model) -> f64 {
    let kinds = model.params().iter().map(|param| param.tensor.kind()).chain([model.shared.input_kind]);
    kinds.fold(PARITY_TOLERANCE, |tolerance, kind| match kind {
        Kind::Half => tolerance.max(HALF_TOLERANCE),
        Kind::BFloat16 => tolerance.max(BFLOAT16_TOLERANCE),
        _ => tolerance,
    })
}

fn arg_max(values: &[f64]) -> Option<usize> {
    (0..values.len()).reduce(|best, i| if values[i] > values[best] { i } else { best })
}
