//! How far libtorch's output is from ONNX Runtime's.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::check::rounding::{self, Rounding};
use crate::check::witness::Witness;
use crate::check::{BFLOAT16_TOLERANCE, HALF_TOLERANCE, PARITY_TOLERANCE};
use crate::error::{Error, Result};
use crate::graph::Model;
use crate::tensor::{Device, Kind, Tensor, no_grad, rng, to_f64s};

/// Agreement on a set of images.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
    /// Of a model that rounds on the way, how that compares. Its outputs are then those of runs that go on, at every such place, from
    /// what ONNX Runtime has there.
    pub rounding: Option<Rounding>,
}

impl Parity {
    /// Whether the difference is within the tolerance, every arg-max is the same, and what is rounded on the way is as well.
    pub fn holds(&self) -> bool {
        self.max_rel <= self.tolerance && self.argmax_agreement >= 1.0 && self.fault().is_none()
    }

    fn fault(&self) -> Option<&String> {
        self.rounding.as_ref()?.fault.as_ref()
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
            rounding: match (&self.rounding, &other.rounding) {
                (Some(one), Some(other)) => Some(one.and(other)),
                (one, other) => one.clone().or_else(|| other.clone()),
            },
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
        )?;
        self.fault().map_or(Ok(()), |fault| write!(f, "; {fault}"))
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

/// [Random images](random_images) as a model takes them: bytes, where its file takes whole numbers.
pub fn images_for(model: &Model, shape: &[i64]) -> Result<Tensor> {
    let images = random_images(shape)?;
    if !model.report().whole_numbers {
        return Ok(images);
    }
    Ok(images.f_mul_scalar(64.0)?.f_add_scalar(128.0)?.f_round()?.f_clamp(0.0, 255.0)?)
}

/// Runs both on the same images and compares the file's first output.
///
/// # Errors
/// Disagree, when the shapes differ; what either of the two raises.
pub fn compare(model: &Model, witness: &mut Witness, images: &Tensor) -> Result<Parity> {
    let _guard = no_grad();
    let tolerance = tolerance(model);
    let (ours, theirs, rounding, noise) = if model.report().rounded.is_empty() {
        let ours = model.output(&images.f_to_device(model.device())?)?.f_to_device(Device::Cpu)?;
        (ours, witness.run(images)?, None, 0.0)
    } else {
        let led = rounding::compare(model, witness, images, tolerance)?;
        (led.ours, led.theirs, Some(led.rounding), led.noise)
    };
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
    let tolerance = tolerance.max(noise);
    // Which of two classes within the noise comes first says nothing.
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
        rounding,
    })
}

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
