//! Operators: convolutions.

use super::{Call, Kernel, Node, Op, one};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("Conv", 1, 3, conv).at_least(2).weights(&[1, 2]).gradients(&[0, 1, 2]),
    Op::new("ConvTranspose", 1, 3, conv_transpose).at_least(2).weights(&[1, 2]).gradients(&[0, 1, 2]),
];

/// How the borders of a window operator are padded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Padding {
    /// Begin and end of every spatial axis, as `[b1, b2, .., e1, e2, ..]`.
    Explicit(Vec<i64>),
    /// As much as keeps `ceil(size / stride)` outputs; an odd rest goes to the end.
    SameUpper,
    /// The same with an odd rest at the beginning.
    SameLower,
}

impl Padding {
    /// Reads `auto_pad` and `pads`.
    pub(crate) fn of(node: &Node) -> Result<Padding> {
        let pads = node.ints("pads")?;
        match node.text_or("auto_pad", "NOTSET")?.as_str() {
            "NOTSET" | "" => Ok(Padding::Explicit(pads.unwrap_or_default())),
            "VALID" => Ok(Padding::Explicit(Vec::new())),
            "SAME_UPPER" => Ok(Padding::SameUpper),
            "SAME_LOWER" => Ok(Padding::SameLower),
            other => Err(Error::malformed(format!("auto_pad is '{other}'"))),
        }
    }

    /// Begin and end for every spatial axis of an input.
    pub(crate) fn resolve(&self, sizes: &[i64], window: &Window) -> Result<Vec<(i64, i64)>> {
        let n = sizes.len();
        match self {
            Padding::Explicit(pads) if pads.is_empty() => Ok(vec![(0, 0); n]),
            Padding::Explicit(pads) if pads.len() == 2 * n => Ok((0..n).map(|i| (pads[i], pads[i + n])).collect()),
            Padding::Explicit(pads) => Err(Error::malformed(format!("{} pads are given for {n} axes", pads.len()))),
            Padding::SameUpper | Padding::SameLower => Ok((0..n)
                .map(|i| {
                    let outputs = (sizes[i] + window.strides[i] - 1) / window.strides[i];
                    let reach = (window.kernel[i] - 1) * window.dilations[i] + 1;
                    let total = ((outputs - 1) * window.strides[i] + reach - sizes[i]).max(0);
                    let less = total / 2;
                    if *self == Padding::SameUpper { (less, total - less) } else { (total - less, less) }
                })
                .collect()),
        }
    }
}

/// Kernel size, strides and dilations, one number a spatial axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    pub kernel: Vec<i64>,
    pub strides: Vec<i64>,
    pub dilations: Vec<i64>,
}

/// `strides` and `dilations` as far as they are stated.
#[derive(Debug, Clone)]
pub(crate) struct Steps {
    strides: Option<Vec<i64>>,
    dilations: Option<Vec<i64>>,
}

impl Steps {
    pub(crate) fn of(node: &Node) -> Result<Steps> {
        Ok(Steps { strides: node.ints("strides")?, dilations: node.ints("dilations")? })
    }

    /// Fills in ones, and refuses sizes that make no sense.
    pub(crate) fn window(&self, kernel: &[i64]) -> Result<Window> {
        let fill = |given: &Option<Vec<i64>>| given.clone().unwrap_or_else(|| vec![1; kernel.len()]);
        let window = Window { kernel: kernel.to_vec(), strides: fill(&self.strides), dilations: fill(&self.dilations) };
        for (what, values) in [("kernel", &window.kernel), ("strides", &window.strides), ("dilations", &window.dilations)] {
            if values.len() != kernel.len() || values.iter().any(|&v| v <= 0 || v > 1 << 24) {
                return Err(Error::malformed(format!("{what} {values:?} for {} axes", kernel.len())));
            }
        }
        Ok(window)
    }
}

/// Pads spatial axes with a constant; `pads` has one `(begin, end)` an axis.
pub(crate) fn pad_with(x: &Tensor, pads: &[(i64, i64)], value: f64) -> Result<Tensor> {
    // libtorch counts pads from the last axis.
    let flat: Vec<i64> = pads.iter().rev().flat_map(|&(begin, end)| [begin, end]).collect();
    Ok(x.f_pad(flat.as_slice(), "constant", value)?)
}

fn conv(node: &Node) -> Result<Kernel> {
    let padding = Padding::of(node)?;
    let steps = Steps::of(node)?;
    let group = node.int_or("group", 1)?;
    let kernel_shape = node.ints("kernel_shape")?;
    one(move |call: &Call| {
        let (x, weight, bias) = (call.input(0)?, call.input(1)?, call.optional(2));
        let size = weight.size();
        let spatial = size.get(2..).filter(|s| !s.is_empty() && x.dim() == size.len());
        let spatial =
            spatial.ok_or_else(|| Error::malformed(format!("input of rank {} and weight of shape {size:?}", x.dim())))?;
        if kernel_shape.as_deref().is_some_and(|stated| stated != spatial) {
            return Err(Error::malformed(format!("kernel_shape {kernel_shape:?} differs from the weight's {spatial:?}")));
        }
        let window = steps.window(spatial)?;
        let pads = padding.resolve(&x.size()[2..], &window)?;
        let even = pads.iter().all(|(begin, end)| begin == end && *begin >= 0);
        let begins: Vec<i64> = pads.iter().map(|p| if even { p.0 } else { 0 }).collect();
        let padded = if even { x.shallow_clone() } else { pad_with(x, &pads, 0.0)? };
        let zeros = vec![0; begins.len()];
        Ok(padded.f_convolution(
            weight,
            bias,
            window.strides.as_slice(),
            begins.as_slice(),
            window.dilations.as_slice(),
            false,
            zeros.as_slice(),
            group,
        )?)
    })
}

fn conv_transpose(node: &Node) -> Result<Kernel> {
    let padding = Padding::of(node)?;
    let steps = Steps::of(node)?;
    let group = node.int_or("group", 1)?;
    let output_padding = node.ints("output_padding")?;
    let output_shape = node.ints("output_shape")?;
    node.ignore("kernel_shape");
    one(move |call: &Call| {
        let (x, weight, bias) = (call.input(0)?, call.input(1)?, call.optional(2));
        let size = weight.size();
        let spatial = size.get(2..).filter(|s| !s.is_empty() && x.dim() == size.len());
        let spatial =
            spatial.ok_or_else(|| Error::malformed(format!("input of rank {} and weight of shape {size:?}", x.dim())))?;
        let window = steps.window(spatial)?;
        let axes = spatial.len();
        let extra = output_padding.clone().unwrap_or_else(|| vec![0; axes]);
        let input = &x.size()[2..];
        let full = |i: usize| (input[i] - 1) * window.strides[i] + (window.kernel[i] - 1) * window.dilations[i] + 1 + extra[i];
        let pads: Vec<(i64, i64)> = match (&output_shape, &padding) {
            (Some(shape), padding) if shape.len() == axes => {
                split_total((0..axes).map(|i| full(i) - shape[i]), *padding == Padding::SameUpper)
            }
            (Some(shape), _) => return Err(Error::malformed(format!("output_shape {shape:?} for {axes} axes"))),
            (None, Padding::Explicit(_)) => padding.resolve(input, &window)?,
            (None, padding) => {
                split_total((0..axes).map(|i| full(i) - input[i] * window.strides[i]), *padding == Padding::SameUpper)
            }
        };
        let zeros = vec![0; axes];
        // Computed without padding, then cropped: begin and end may differ, which libtorch cannot express.
        let whole = x.f_convolution(
            weight,
            bias,
            window.strides.as_slice(),
            zeros.as_slice(),
            window.dilations.as_slice(),
            true,
            zeros.as_slice(),
            group,
        )?;
        let crop: Vec<(i64, i64)> = pads.iter().zip(&extra).map(|(&(begin, end), &extra)| (-begin, extra - end)).collect();
        if crop.iter().all(|&c| c == (0, 0)) {
            return Ok(whole);
        }
        let cropped = pad_with(&whole, &crop, 0.0)?;
        match bias {
            // Positions that no input reaches hold the bias alone.
            Some(bias) if crop.iter().any(|c| c.1 > 0 || c.0 > 0) => {
                let mut shape = vec![1; x.dim()];
                shape[1] = -1;
                let bias = bias.f_view(shape.as_slice())?;
                Ok(pad_with(&whole.f_sub(&bias)?, &crop, 0.0)?.f_add(&bias)?)
            }
            _ => Ok(cropped),
        }
    })
}

/// Splits a total padding of each axis; the odd one goes to the end for SAME_UPPER, else to the beginning.
fn split_total(totals: impl Iterator<Item = i64>, upper: bool) -> Vec<(i64, i64)> {
    totals
        .map(|total| {
            let half = total / 2;
            if upper { (half, total - half) } else { (total - half, half) }
        })
        .collect()
}
