//! Operators: padding.

use super::{Call, Flow, Kernel, Node, Op, axis_in, one};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("Pad", 1, 1, pad_attributes).flow(Flow::Moves),
    Op::new("Pad", 2, 1, pad_attributes).flow(Flow::Moves),
    Op::new("Pad", 11, 4, pad).at_least(2).flow(Flow::Moves),
];

/// What stands where the padding goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fill {
    Constant,
    Reflect,
    Edge,
    Wrap,
}

fn fill(node: &Node) -> Result<Fill> {
    Ok(match node.text_or("mode", "constant")?.as_str() {
        "constant" => Fill::Constant,
        "reflect" => Fill::Reflect,
        "edge" => Fill::Edge,
        "wrap" => Fill::Wrap,
        other => return Err(Error::malformed(format!("mode is '{other}'"))),
    })
}

fn pad_attributes(node: &Node) -> Result<Kernel> {
    let fill = fill(node)?;
    let name = if node.opset < 2 { "paddings" } else { "pads" };
    let pads = node.ints(name)?.ok_or_else(|| Error::malformed(format!("attribute '{name}' is missing")))?;
    let value = node.float_or("value", 0.0)?;
    one(move |call| {
        let x = call.input(0)?;
        apply(x, &pairs(&pads, None, x.dim())?, fill, value)
    })
}

fn pad(node: &Node) -> Result<Kernel> {
    let fill = fill(node)?;
    one(move |call: &Call| {
        let x = call.input(0)?;
        let pads = pairs(&call.ints(1)?, call.optional_ints(3)?.as_deref(), x.dim())?;
        apply(x, &pads, fill, call.optional_number(2)?.unwrap_or(0.0))
    })
}

/// `(begin, end)` for every axis of the tensor.
fn pairs(pads: &[i64], axes: Option<&[i64]>, rank: usize) -> Result<Vec<(i64, i64)>> {
    let count = axes.map_or(rank, <[i64]>::len);
    if pads.len() != 2 * count {
        return Err(Error::malformed(format!("{} pads are given for {count} axes", pads.len())));
    }
    let mut pairs = vec![(0, 0); rank];
    for i in 0..count {
        let axis = match axes {
            Some(axes) => usize::try_from(axis_in(axes[i], rank)?).map_err(Error::malformed)?,
            None => i,
        };
        pairs[axis] = (pads[i], pads[i + count]);
    }
    Ok(pairs)
}

fn apply(x: &Tensor, pads: &[(i64, i64)], fill: Fill, value: f64) -> Result<Tensor> {
    let mut shape = x.size();
    for (size, &(begin, end)) in shape.iter_mut().zip(pads) {
        *size = size.saturating_add(begin).saturating_add(end);
    }
    super::shape::admit_shape(&shape)?;
    if fill == Fill::Constant {
        return super::conv::pad_with(x, pads, value);
    }
    // Gathered axis by axis: libtorch's own modes stop at three axes and refuse what reaches round more than once.
    let mut result = x.shallow_clone();
    for (axis, &(begin, end)) in pads.iter().enumerate().filter(|(_, p)| **p != (0, 0)) {
        let size = x.size()[axis];
        if size == 0 {
            return Err(Error::malformed("an empty axis cannot be padded with its own values"));
        }
        let source = |i: i64| match fill {
            Fill::Edge | Fill::Constant => i.clamp(0, size - 1),
            Fill::Wrap => i.rem_euclid(size),
            Fill::Reflect if size == 1 => 0,
            Fill::Reflect => {
                let folded = i.rem_euclid(2 * (size - 1));
                folded.min(2 * (size - 1) - folded)
            }
        };
        let indices: Vec<i64> = (-begin..size + end).map(source).collect();
        let indices = Tensor::f_from_slice(&indices)?.f_to_device(x.device())?;
        result = result.f_index_select(i64::try_from(axis).map_err(Error::malformed)?, &indices)?;
    }
    Ok(result)
}
