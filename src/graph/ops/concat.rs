//! Concat and Split.

use super::operands::{dim, elements, variadic};
use super::{ALL, Flow, Kernel, Node, Op, axis_in, one};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("Concat", 1, usize::MAX, |node| concat(node.int_or("axis", 1)?)).flow(Flow::MovesAll).weights(ALL).gradients(ALL),
    Op::new("Concat", 4, usize::MAX, |node| match node.int("axis")? {
        Some(axis) => concat(axis),
        None => Err(Error::malformed("attribute 'axis' is missing")),
    })
    .flow(Flow::MovesAll)
    .weights(ALL)
    .gradients(ALL),
    // Opset 1 has the sizes as an attribute or as an input.
    Op::new("Split", 1, 2, split).outputs(usize::MAX).flow(Flow::Moves),
    Op::new("Split", 2, 1, split).outputs(usize::MAX).flow(Flow::Moves),
    Op::new("Split", 13, 2, split).outputs(usize::MAX).flow(Flow::Moves),
];

fn concat(axis: i64) -> Result<Kernel> {
    one(move |call| {
        let parts = variadic(call)?;
        let rank = parts.first().map_or(0, Tensor::dim);
        // libtorch lets an empty tensor of rank 1 stand beside any other; ONNX does not.
        if parts.iter().any(|part| part.dim() != rank) {
            return Err(Error::malformed("the inputs differ in rank"));
        }
        // A few thousand names of one tensor in a file are as many copies of it here.
        let numbers: Vec<i64> = parts
            .iter()
            .map(|part| i64::try_from(part.numel()))
            .collect::<std::result::Result<_, _>>()
            .map_err(Error::malformed)?;
        elements(&[numbers.iter().sum()])?;
        Ok(Tensor::f_cat(&parts, axis_in(axis, rank)?)?)
    })
}

fn split(node: &Node<'_>) -> Result<Kernel> {
    let axis = node.int_or("axis", 0)?;
    let attribute = if node.opset < 13 { node.ints("split")? } else { None };
    let wanted = i64::try_from(node.outputs.len()).map_err(Error::malformed)?;
    let (parts, even) = match if node.opset >= 18 { node.int("num_outputs")? } else { None } {
        Some(parts) if parts != wanted => {
            return Err(Error::malformed(format!("num_outputs is {parts}, but the node has {wanted} outputs")));
        }
        Some(parts) => (parts, false),
        None => (wanted, true),
    };
    Ok(Box::new(move |call| {
        let x = call.input(0)?;
        let axis = axis_in(axis, x.dim())?;
        let size = dim(&x.size(), axis)?;
        let sizes = match call.optional_ints(1)?.or_else(|| attribute.clone()) {
            Some(sizes) => sizes,
            None => parts_of(size, parts, even)?,
        };
        let total = sizes.iter().try_fold(0_i64, |total, &part| if part < 0 { None } else { total.checked_add(part) });
        if total != Some(size) || i64::try_from(sizes.len()).ok() != Some(wanted) {
            return Err(Error::malformed(format!("{sizes:?} do not split an axis of size {size} into {wanted} outputs")));
        }
        Ok(x.f_split_with_sizes(sizes, axis)?)
    }))
}

/// Equal parts; with `num_outputs` (opset 18) the last one may be smaller.
fn parts_of(size: i64, parts: i64, even: bool) -> Result<Vec<i64>> {
    if parts <= 0 || (even && size % parts != 0) {
        return Err(Error::malformed(format!("an axis of size {size} does not split into {parts} equal parts")));
    }
    let part = size.div_euclid(parts) + i64::from(size % parts != 0);
    Ok((0..parts).map(|index| part.min(size - index * part).max(0)).collect())
}
