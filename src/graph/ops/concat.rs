//! Operators: joining and splitting.

use super::{ALL, Flow, Kernel, Node, Op, axis_in, one};
use crate::error::{Error, Result};
use crate::tensor::{Device, Tensor};

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("Concat", 1, usize::MAX, concat).weights(ALL).flow(Flow::MovesAll).gradients(ALL),
    Op::new("Split", 1, 2, split_attribute).outputs(usize::MAX).flow(Flow::Moves),
    Op::new("Split", 13, 2, split).outputs(usize::MAX).flow(Flow::Moves),
];

fn concat(node: &Node) -> Result<Kernel> {
    // Opset 1 gives axis a default of 1; later versions ask for it.
    let axis = match node.int("axis")? {
        Some(axis) => axis,
        None if node.opset < 4 => 1,
        None => return Err(Error::malformed("attribute 'axis' is missing")),
    };
    one(move |call| {
        let mut tensors = Vec::with_capacity(call.inputs.len());
        for index in 0..call.inputs.len() {
            tensors.push(call.input(index)?.shallow_clone());
        }
        let device = tensors.iter().map(Tensor::device).find(|d| *d != Device::Cpu);
        if let Some(device) = device {
            tensors = tensors.into_iter().map(|t| t.f_to_device(device)).collect::<std::result::Result<_, _>>()?;
        }
        let axis = axis_in(axis, tensors.first().map_or(0, Tensor::dim))?;
        Ok(Tensor::f_cat(&tensors, axis)?)
    })
}

fn split_attribute(node: &Node) -> Result<Kernel> {
    let sizes = node.ints("split")?;
    pieces(node, sizes, false)
}

fn split(node: &Node) -> Result<Kernel> {
    pieces(node, None, true)
}

fn pieces(node: &Node, fixed: Option<Vec<i64>>, from_input: bool) -> Result<Kernel> {
    let axis = node.int_or("axis", 0)?;
    let count = match node.int("num_outputs")? {
        Some(count) => usize::try_from(count).map_err(Error::malformed)?,
        None => node.outputs.len(),
    };
    Ok(Box::new(move |call| {
        let x = call.input(0)?;
        let axis = axis_in(axis, x.dim())?;
        let given = if from_input { call.optional_ints(1)? } else { fixed.clone() };
        let total = x.size()[usize::try_from(axis).map_err(Error::malformed)?];
        let sizes = match given {
            Some(sizes) => sizes,
            None => equal_pieces(total, count)?,
        };
        if sizes.iter().any(|&s| s < 0) || sizes.iter().sum::<i64>() != total {
            return Err(Error::malformed(format!("pieces of {sizes:?} do not make {total}")));
        }
        Ok(x.f_split_with_sizes(sizes.as_slice(), axis)?)
    }))
}

/// Equal pieces; the last is smaller where the count does not divide the size (opset 18).
fn equal_pieces(total: i64, count: usize) -> Result<Vec<i64>> {
    let count = i64::try_from(count).map_err(Error::malformed)?;
    if count == 0 {
        return Err(Error::malformed("a split into no pieces"));
    }
    let size = (total + count - 1) / count;
    let sizes: Vec<i64> = (0..count).map(|i| size.min(total - i * size)).collect();
    if sizes.iter().any(|&s| s < 0) {
        Err(Error::malformed(format!("{total} cannot be split into {count} pieces")))
    } else {
        Ok(sizes)
    }
}
