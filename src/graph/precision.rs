//! What a forward pass is computed in: single precision, or bfloat16 where an operator's row allows it.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::tensor::{Device, Kind, Tensor, device_kind, multiplies_bf16, threads};

/// What a model computes in.
///
/// Parameters, running statistics, gradients as the optimiser sees them, logits and losses are float32 either way. In
/// [`Bf16`](Precision::Bf16) convolutions and matrix products take operands rounded to bfloat16 (8 bits of exponent, 8 of significand),
/// accumulate in float32, and round their result; what lies between two of them, such as normalisation and activations, keeps its values
/// in bfloat16 and computes in float32 inside. Which operators do what is in their rows: [`InBf16`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Everything in the kinds that the file states.
    #[default]
    Fp32,
    /// See the type.
    Bf16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Precision::Fp32 => "fp32",
            Precision::Bf16 => "bf16",
        })
    }
}

/// What the user asked for with `--precision`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PrecisionChoice {
    /// bfloat16 where the device multiplies it faster than float32, else float32.
    #[default]
    Auto,
    /// The precision of that name.
    Named(Precision),
}

impl FromStr for PrecisionChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(PrecisionChoice::Auto),
            "fp32" => Ok(PrecisionChoice::Named(Precision::Fp32)),
            "bf16" => Ok(PrecisionChoice::Named(Precision::Bf16)),
            other => Err(Error::usage(format!("unknown precision '{other}'")).help("one of auto, fp32, bf16")),
        }
    }
}

impl PrecisionChoice {
    /// The precision that this is on a device.
    pub fn on(self, device: Device) -> Precision {
        match self {
            PrecisionChoice::Named(precision) => precision,
            PrecisionChoice::Auto if multiplies_bf16(device) => Precision::Bf16,
            PrecisionChoice::Auto => Precision::Fp32,
        }
    }
}

/// What a model is computed on and in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Computing {
    /// Where.
    pub device: Device,
    /// In what.
    pub precision: Precision,
}

impl Computing {
    /// What decides the last bits of results: the kind of device, the number of threads, and the precision where it is not the file's.
    /// Which of several GPUs it is does not.
    pub fn name(self) -> String {
        let mut name = format!("{} {}", device_kind(self.device), threads());
        if self.precision != Precision::Fp32 {
            name.push_str(&format!(" {}", self.precision));
        }
        name
    }
}

/// How an operator behaves in a pass of [`Precision::Bf16`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InBf16 {
    /// Takes float32: operands in bfloat16 are widened first. What does not say otherwise is on the safe side.
    #[default]
    Widens,
    /// Takes what it is given: bfloat16 stays bfloat16.
    Follows,
    /// Takes bfloat16: operands in float32 are rounded first.
    Narrows,
}

impl InBf16 {
    /// As it is for operands of which the first has this shape. What has one row for each image is the end of a classifier: products of it
    /// cost next to nothing, and scores that lie close together would be rounded into one.
    pub(crate) fn for_rows(self, shape: &[i64], images: Option<i64>) -> InBf16 {
        match (self, shape) {
            (InBf16::Narrows, [rows, _]) if Some(*rows) == images => InBf16::Widens,
            _ => self,
        }
    }

    /// The operand as the operator wants it, where that is another than it is.
    pub(crate) fn prepared(self, operand: &Tensor) -> Result<Option<Tensor>> {
        let kind = operand.f_kind()?;
        Ok(match (self, kind) {
            (InBf16::Widens, Kind::BFloat16) => Some(operand.f_to_kind(Kind::Float)?),
            (InBf16::Narrows, Kind::Float) => Some(operand.f_to_kind(Kind::BFloat16)?),
            _ => None,
        })
    }
}
