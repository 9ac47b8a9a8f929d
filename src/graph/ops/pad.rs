//! Padding and cropping.

use super::operands::{axes_in, dim, elements, on};
use super::{Call, Flow, Kernel, Node, Op, one};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("Pad", 1, 1, |node| by_attributes(node, "paddings")).flow(Flow::Moves),
    Op::new("Pad", 2, 1, |node| by_attributes(node, "pads")).flow(Flow::Moves),
    Op::new("Pad", 11, 4, by_inputs).at_least(2).flow(Flow::Moves),
    Op::new("CenterCropPad", 18, 2, center_crop_pad).at_least(2).flow(Flow::Moves),
];

/// What stands outside of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outside {
    Constant,
    /// Mirrored at the first and last element, which are not repeated.
    Reflect,
    /// The first or last element.
    Edge,
    /// The data again.
    Wrap,
}

fn outside(node: &Node<'_>) -> Result<Outside> {
    Ok(match node.text_or("mode", "constant")?.as_str() {
        "constant" => Outside::Constant,
        "reflect" => Outside::Reflect,
        "edge" => Outside::Edge,
        "wrap" if node.opset >= 19 => Outside::Wrap,
        other => return node.unsupported(format!("mode '{other}'")),
    })
}

fn by_attributes(node: &Node<'_>, name: &str) -> Result<Kernel> {
    let outside = outside(node)?;
    let value = node.float_or("value", 0.0)?;
    let Some(pads) = node.ints(name)? else { return Err(Error::malformed(format!("attribute '{name}' is missing"))) };
    one(move |call| pad(call.input(0)?, &pads, None, outside, value))
}

fn by_inputs(node: &Node<'_>) -> Result<Kernel> {
    let outside = outside(node)?;
    one(move |call: &Call<'_>| {
        let value = if outside == Outside::Constant { call.optional_number(2)? } else { None };
        pad(call.input(0)?, &call.ints(1)?, call.optional_ints(3)?.as_deref(), outside, value.unwrap_or(0.0))
    })
}

fn pad(x: &Tensor, pads: &[i64], axes: Option<&[i64]>, outside: Outside, value: f64) -> Result<Tensor> {
    let rank = x.dim();
    let axes = match axes {
        Some(axes) => axes_in(axes, rank)?,
        None => (0..).take(rank).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return Err(Error::malformed(format!("{} pads for {} axes", pads.len(), axes.len())));
    }
    let (begins, ends) = pads.split_at(axes.len());
    let shape = x.size();
    let mut result = shape.clone();
    for ((&axis, &begin), &end) in axes.iter().zip(begins).zip(ends) {
        let padded = dim(&shape, axis)?.checked_add(begin).and_then(|size| size.checked_add(end));
        let slot = usize::try_from(axis).ok().and_then(|axis| result.get_mut(axis));
        if let (Some(slot), Some(padded)) = (slot, padded.filter(|&size| size >= 0)) {
            *slot = padded;
        } else {
            return Err(Error::malformed(format!("pads {begin} and {end} do not fit shape {shape:?}")));
        }
    }
    elements(&result)?;
    if outside == Outside::Constant {
        // libtorch wants the last axis first.
        let mut reversed = vec![0; 2 * rank];
        for ((&axis, &begin), &end) in axes.iter().zip(begins).zip(ends) {
            let behind = usize::try_from(axis).map_err(Error::malformed)?;
            let at = 2 * (rank - 1 - behind);
            (reversed[at], reversed[at + 1]) = (begin, end);
        }
        return Ok(x.f_pad(reversed, "constant", value)?);
    }
    let mut x = x.shallow_clone();
    for ((&axis, &begin), &end) in axes.iter().zip(begins).zip(ends) {
        if begin != 0 || end != 0 {
            x = along(&x, axis, begin, end, outside)?;
        }
    }
    Ok(x)
}

/// Picks the elements by index: libtorch's own reflection and replication know the last axes only.
fn along(x: &Tensor, axis: i64, begin: i64, end: i64, outside: Outside) -> Result<Tensor> {
    if begin.signum() * end.signum() < 0 {
        return Err(Error::unsupported("Pad that crops one side of an axis and extends the other is not supported"));
    }
    let size = dim(&x.size(), axis)?;
    if size == 0 {
        return Err(Error::malformed("an empty axis has no values to pad with"));
    }
    let period = 2 * (size - 1);
    let index: Vec<i64> = (-begin..size + end)
        .map(|at| match outside {
            Outside::Reflect if period == 0 => 0,
            Outside::Reflect => {
                let at = at.rem_euclid(period);
                at.min(period - at)
            }
            Outside::Wrap => at.rem_euclid(size),
            Outside::Edge | Outside::Constant => at.clamp(0, size - 1),
        })
        .collect();
    Ok(x.f_index_select(axis, &on(&Tensor::f_from_slice(&index)?, x.device())?)?)
}

/// An odd number of elements is cropped from, or padded at, the end.
fn center_crop_pad(node: &Node<'_>) -> Result<Kernel> {
    let axes = node.ints("axes")?;
    one(move |call| {
        let x = call.input(0)?;
        let target = call.ints(1)?;
        let axes = match &axes {
            Some(axes) => axes_in(axes, x.dim())?,
            None => (0..).take(x.dim()).collect(),
        };
        if axes.len() != target.len() || target.iter().any(|size| !(0..i64::MAX / 4).contains(size)) {
            return Err(Error::malformed(format!("shape {target:?} for {} axes", axes.len())));
        }
        let shape = x.size();
        let mut begins = Vec::with_capacity(axes.len());
        let mut ends = Vec::with_capacity(axes.len());
        for (&axis, &target) in axes.iter().zip(&target) {
            let more = target - dim(&shape, axis)?;
            begins.push(more / 2);
            ends.push(more - more / 2);
        }
        begins.extend(ends);
        pad(x, &begins, Some(&axes), Outside::Constant, 0.0)
    })
}
