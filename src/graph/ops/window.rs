//! Sliding windows: what Conv, ConvTranspose and the pools share. Attributes are read once, sizes resolved at run time.

use super::Node;
use super::operands::elements;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// `auto_pad` and `pads`.
#[derive(Debug, Clone)]
pub(super) enum Padding {
    /// Begins, then ends, of all spatial axes; `None` for zeros (also `auto_pad` VALID).
    Explicit(Option<Vec<i64>>),
    /// As much as makes the output's size the input's divided by the stride; an odd one goes to the end.
    SameUpper,
    /// As [`SameUpper`](Self::SameUpper), but an odd one goes to the beginning.
    SameLower,
}

/// The window attributes of a node.
#[derive(Debug, Clone)]
pub(super) struct Window {
    /// `kernel_shape`; Conv may leave it out.
    pub kernel: Option<Vec<i64>>,
    strides: Option<Vec<i64>>,
    dilations: Option<Vec<i64>>,
    /// How the input is padded.
    pub padding: Padding,
}

/// A window over an input of known size, one entry for each spatial axis.
#[derive(Debug, Clone)]
pub(super) struct Geometry {
    /// Kernel sizes.
    pub kernel: Vec<i64>,
    /// Strides, at least 1.
    pub strides: Vec<i64>,
    /// Dilations, at least 1.
    pub dilations: Vec<i64>,
    /// Padding in front, at least 0.
    pub begin: Vec<i64>,
    /// Padding behind, at least 0.
    pub end: Vec<i64>,
}

/// Far above any real window, and low enough that no product of two such numbers overflows.
const LARGEST: i64 = 1 << 24;

/// Checks that a list of window numbers lies between `least` and 2^24.
pub(super) fn bounded(name: &str, values: Option<Vec<i64>>, least: i64) -> Result<Option<Vec<i64>>> {
    match &values {
        Some(found) if found.iter().any(|value| !(least..=LARGEST).contains(value)) => {
            Err(Error::malformed(format!("attribute '{name}' is {found:?}, but has to lie in {least}..{LARGEST}")))
        }
        _ => Ok(values),
    }
}

impl Window {
    /// Reads `kernel_shape`, `strides`, `dilations`, `pads` and `auto_pad`.
    pub(super) fn of(node: &Node<'_>) -> Result<Window> {
        let pads = node.ints("pads")?;
        if pads.iter().flatten().any(|&pad| pad < 0) {
            return node.unsupported("negative pads");
        }
        let pads = bounded("pads", pads, 0)?;
        let padding = match node.text_or("auto_pad", "NOTSET")?.as_str() {
            "NOTSET" | "" => Padding::Explicit(pads),
            _ if pads.iter().flatten().any(|&pad| pad != 0) => return node.unsupported("both pads and auto_pad"),
            "VALID" => Padding::Explicit(None),
            "SAME_UPPER" => Padding::SameUpper,
            "SAME_LOWER" => Padding::SameLower,
            other => return node.unsupported(format!("auto_pad '{other}'")),
        };
        Ok(Window {
            kernel: bounded("kernel_shape", node.ints("kernel_shape")?, 1)?,
            strides: bounded("strides", node.ints("strides")?, 1)?,
            dilations: bounded("dilations", node.ints("dilations")?, 1)?,
            padding,
        })
    }

    /// Strides and dilations for as many axes as the kernel has, before any padding is known.
    pub(super) fn steps(&self, kernel: &[i64]) -> Result<Geometry> {
        let rank = kernel.len();
        let ones = |values: &Option<Vec<i64>>| values.clone().unwrap_or_else(|| vec![1; rank]);
        let (strides, mut dilations) = (ones(&self.strides), ones(&self.dilations));
        if strides.len() != rank || dilations.len() != rank || self.kernel.as_deref().is_some_and(|named| named != kernel) {
            return Err(Error::malformed(format!("the window's attributes do not fit a kernel of shape {kernel:?}")));
        }
        if kernel.iter().any(|size| !(1..=LARGEST).contains(size)) {
            return Err(Error::malformed(format!("no kernel can have shape {kernel:?}")));
        }
        // Between the places of a window of one place there is nothing; what oneDNN (3.10) does with such a distance can end the process.
        dilations.iter_mut().zip(kernel).filter(|(_, size)| **size == 1).for_each(|(dilation, _)| *dilation = 1);
        Ok(Geometry { kernel: kernel.to_vec(), strides, dilations, begin: vec![0; rank], end: vec![0; rank] })
    }

    /// The window over an input with these spatial sizes.
    pub(super) fn over(&self, spatial: &[i64], kernel: &[i64]) -> Result<Geometry> {
        let mut geometry = self.steps(kernel)?;
        let rank = kernel.len();
        if spatial.len() != rank {
            return Err(Error::malformed(format!("a kernel of shape {kernel:?} on an input with spatial shape {spatial:?}")));
        }
        match &self.padding {
            Padding::Explicit(None) => {}
            Padding::Explicit(Some(pads)) => {
                if pads.len() != 2 * rank {
                    return Err(Error::malformed(format!("{} pads for {rank} spatial axes", pads.len())));
                }
                geometry.begin.copy_from_slice(&pads[..rank]);
                geometry.end.copy_from_slice(&pads[rank..]);
            }
            Padding::SameUpper | Padding::SameLower => {
                for (axis, &size) in spatial.iter().enumerate() {
                    let stride = geometry.strides[axis];
                    let outputs = size / stride + i64::from(size % stride != 0);
                    let total = ((outputs - 1) * stride + geometry.extent(axis) - size).max(0);
                    let (less, more) = (total / 2, total - total / 2);
                    let lower = matches!(self.padding, Padding::SameLower);
                    (geometry.begin[axis], geometry.end[axis]) = if lower { (more, less) } else { (less, more) };
                }
            }
        }
        Ok(geometry)
    }
}

impl Geometry {
    /// How far the dilated kernel reaches along an axis.
    pub(super) fn extent(&self, axis: usize) -> i64 {
        (self.kernel[axis] - 1) * self.dilations[axis] + 1
    }

    /// Whether every axis is padded alike on both sides.
    pub(super) fn is_symmetric(&self) -> bool {
        self.begin == self.end
    }

    /// Output sizes of a pool. With `ceil`, a last window counts that starts inside the input or its front padding.
    pub(super) fn outputs(&self, spatial: &[i64], ceil: bool) -> Result<Vec<i64>> {
        (0..self.kernel.len())
            .map(|axis| {
                let (begin, stride) = (self.begin[axis], self.strides[axis]);
                let room = spatial[axis] + begin + self.end[axis] - self.extent(axis);
                if room < 0 {
                    return Err(Error::malformed(format!(
                        "a window of extent {} does not fit an axis of size {}",
                        self.extent(axis),
                        spatial[axis] + begin + self.end[axis]
                    )));
                }
                let mut last = room / stride;
                if ceil && room % stride != 0 && (last + 1) * stride < spatial[axis] + begin {
                    last += 1;
                }
                Ok(last + 1)
            })
            .collect()
    }

    /// Pads behind that let the last of `outputs` windows end inside the padded input.
    pub(super) fn end_for(&self, spatial: &[i64], outputs: &[i64]) -> Vec<i64> {
        (0..self.kernel.len())
            .map(|axis| {
                let needed = (outputs[axis] - 1) * self.strides[axis] + self.extent(axis);
                (needed - spatial[axis] - self.begin[axis]).max(self.end[axis])
            })
            .collect()
    }
}

/// Pads the last axes by constant values; negative pads crop.
pub(super) fn pad(x: &Tensor, begin: &[i64], end: &[i64], value: f64) -> Result<Tensor> {
    if begin.iter().chain(end).all(|&pad| pad == 0) {
        return Ok(x.shallow_clone());
    }
    let mut shape = x.size();
    for ((size, begin), end) in shape.iter_mut().rev().zip(begin.iter().rev()).zip(end.iter().rev()) {
        *size = size.saturating_add(*begin).saturating_add(*end);
    }
    elements(&shape)?;
    // libtorch wants the last axis first.
    let pads: Vec<i64> = begin.iter().zip(end).rev().flat_map(|(&begin, &end)| [begin, end]).collect();
    Ok(x.f_pad(pads, "constant", value)?)
}

/// The spatial sizes of a tensor `[N, C, spatial...]`.
pub(super) fn spatial(x: &Tensor) -> Result<Vec<i64>> {
    let shape = x.size();
    match shape.get(2..) {
        Some(spatial) if !spatial.is_empty() => Ok(spatial.to_vec()),
        _ => Err(Error::malformed(format!("shape {shape:?} is not [N, C, spatial...]"))),
    }
}

/// Places of a kernel that are looked at one by one.
const MOST_PLACES: i64 = 1 << 14;

/// For each place in the kernel, what it meets under all windows: `kernel.product()` views of shape `[N, C, outputs...]` into
/// an input that is padded already.
pub(super) fn views(padded: &Tensor, geometry: &Geometry, outputs: &[i64]) -> Result<Vec<Tensor>> {
    let places = geometry.kernel.iter().try_fold(1_i64, |total, &size| total.checked_mul(size));
    if places.is_none_or(|places| places > MOST_PLACES) {
        let reason =
            format!("a kernel of {:?} is not supported with these pads: more than {MOST_PLACES} places", geometry.kernel);
        return Err(Error::unsupported(reason));
    }
    let mut views = vec![padded.shallow_clone()];
    for (axis, &count) in outputs.iter().enumerate() {
        let dim = i64::try_from(axis + 2).map_err(Error::malformed)?;
        let (stride, dilation) = (geometry.strides[axis], geometry.dilations[axis]);
        let mut finer = Vec::with_capacity(views.len());
        for view in &views {
            for place in 0..geometry.kernel[axis] {
                let start = place * dilation;
                finer.push(view.f_slice(dim, start, start + (count - 1) * stride + 1, stride)?);
            }
        }
        views = finer;
    }
    Ok(views)
}
