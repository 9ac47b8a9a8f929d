//! Shapes: asking for them and changing them without touching values.

use super::operands::{axes_in, broadcast, dim, elements};
use super::{Call, Flow, InBf16, Kernel, Node, Op, axis_in, one};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("Shape", 1, 1, shape_of).gradients(&[]),
    Op::new("Size", 1, 1, |_| one(|call| Ok(Tensor::f_from_slice(&[elements(&call.input(0)?.size())?])?.f_reshape([0_i64; 0])?)))
        .gradients(&[]),
    Op::new("Reshape", 1, 1, |node| {
        node.ignore("consumed_inputs");
        let Some(shape) = node.ints("shape")? else { return Err(Error::malformed("attribute 'shape' is missing")) };
        one(move |call| reshape(call.input(0)?, &shape, false))
    })
    .flow(Flow::Moves),
    Op::new("Reshape", 5, 2, |node| {
        let allow_zero = node.opset >= 14 && node.flag("allowzero")?;
        one(move |call| reshape(call.input(0)?, &call.ints(1)?, allow_zero))
    })
    .at_least(2)
    .flow(Flow::Moves),
    Op::new("Flatten", 1, 1, flatten).flow(Flow::Moves).in_bf16(InBf16::Follows),
    Op::new("Squeeze", 1, 1, |node| {
        let axes = node.ints("axes")?;
        one(move |call| squeeze(call.input(0)?, axes.as_deref()))
    })
    .flow(Flow::Moves),
    Op::new("Squeeze", 13, 2, |_| one(|call| squeeze(call.input(0)?, call.optional_ints(1)?.as_deref()))).flow(Flow::Moves),
    Op::new("Unsqueeze", 1, 1, |node| {
        let Some(axes) = node.ints("axes")? else { return Err(Error::malformed("attribute 'axes' is missing")) };
        one(move |call| unsqueeze(call.input(0)?, &axes))
    })
    .flow(Flow::Moves),
    Op::new("Unsqueeze", 13, 2, |_| one(|call| unsqueeze(call.input(0)?, &call.ints(1)?))).at_least(2).flow(Flow::Moves),
    Op::new("Transpose", 1, 1, transpose).flow(Flow::Moves),
    Op::new("Expand", 8, 2, |_| one(expand)).at_least(2).weights(&[0]).flow(Flow::Moves),
    Op::new("Tile", 1, 3, |_| one(tile_one_axis)).at_least(3).weights(&[0]).flow(Flow::Moves),
    Op::new("Tile", 6, 2, |_| one(tile)).at_least(2).weights(&[0]).flow(Flow::Moves),
    Op::new("Identity", 1, 1, |_| one(|call| Ok(call.input(0)?.shallow_clone()))).flow(Flow::Moves).in_bf16(InBf16::Follows),
    Op::new("DepthToSpace", 1, 1, |node| {
        let (block, depth_first) = blocks(node)?;
        one(move |call| depth_to_space(call.input(0)?, block, depth_first))
    })
    .flow(Flow::Moves),
    Op::new("SpaceToDepth", 1, 1, |node| {
        let (block, depth_first) = blocks(node)?;
        one(move |call| space_to_depth(call.input(0)?, block, depth_first))
    })
    .flow(Flow::Moves),
];

/// Shapes stay on the CPU, where they are used.
fn shape_of(node: &Node<'_>) -> Result<Kernel> {
    let (start, end) = if node.opset >= 15 { (node.int_or("start", 0)?, node.int("end")?) } else { (0, None) };
    one(move |call| {
        let shape = call.input(0)?.size();
        let rank = i64::try_from(shape.len()).map_err(Error::malformed)?;
        let clamp = |at: i64| usize::try_from(if at < 0 { at.saturating_add(rank) } else { at }.clamp(0, rank)).unwrap_or(0);
        let (start, end) = (clamp(start), end.map_or(shape.len(), clamp));
        Ok(Tensor::f_from_slice(shape.get(start..end).unwrap_or_default())?)
    })
}

/// 0 copies the input's size (unless `allow_zero`), -1 stands for what is left.
fn reshape(x: &Tensor, shape: &[i64], allow_zero: bool) -> Result<Tensor> {
    let from = x.size();
    let mut to = Vec::with_capacity(shape.len());
    for (axis, &size) in shape.iter().enumerate() {
        to.push(match size {
            0 if !allow_zero => *from
                .get(axis)
                .ok_or_else(|| Error::malformed(format!("shape {shape:?} copies axis {axis} of a tensor of shape {from:?}")))?,
            size => size,
        });
    }
    let misfit = || Error::malformed(format!("a tensor of shape {from:?} cannot be reshaped to {shape:?}"));
    let total = elements(&from)?;
    let open: Vec<usize> = (0..to.len()).filter(|&axis| to[axis] == -1).collect();
    if let [axis] = open[..] {
        to[axis] = 1;
        let rest = elements(&to)?;
        to[axis] = total.checked_div(rest).ok_or_else(misfit)?;
    }
    if elements(&to)? != total {
        return Err(misfit());
    }
    Ok(x.f_reshape(to)?)
}

fn flatten(node: &Node<'_>) -> Result<Kernel> {
    let axis = node.int_or("axis", 1)?;
    one(move |call| {
        let x = call.input(0)?;
        let shape = x.size();
        let rank = i64::try_from(shape.len()).map_err(Error::malformed)?;
        let from = if axis < 0 { axis.saturating_add(rank) } else { axis };
        let (before, behind) = usize::try_from(from)
            .ok()
            .and_then(|from| shape.split_at_checked(from))
            .ok_or_else(|| Error::malformed(format!("axis {axis} is outside a tensor of rank {rank}")))?;
        Ok(x.f_reshape([elements(before)?, elements(behind)?])?)
    })
}

fn squeeze(x: &Tensor, axes: Option<&[i64]>) -> Result<Tensor> {
    let shape = x.size();
    let Some(axes) = axes else { return Ok(x.f_squeeze()?) };
    let axes = axes_in(axes, shape.len())?;
    for &axis in &axes {
        if !shape.is_empty() && dim(&shape, axis)? != 1 {
            return Err(Error::malformed(format!("axis {axis} of shape {shape:?} is not of size 1")));
        }
    }
    // One by one from the back: a view, whatever the strides are.
    let mut axes = axes;
    axes.sort_unstable();
    Ok(axes.iter().rev().try_fold(x.shallow_clone(), |x, &axis| x.f_squeeze_dim(axis))?)
}

/// The axes count in the output.
/// Axes of a tensor that a node makes; libtorch's own limit for most operators.
const MOST_AXES: usize = 64;

fn unsqueeze(x: &Tensor, axes: &[i64]) -> Result<Tensor> {
    if x.dim() + axes.len() > MOST_AXES {
        return Err(Error::malformed(format!(
            "{} axes are more than the {MOST_AXES} that a tensor may have",
            x.dim() + axes.len()
        )));
    }
    let mut axes = axes_in(axes, x.dim() + axes.len())?;
    axes.sort_unstable();
    Ok(axes.iter().try_fold(x.shallow_clone(), |x, &axis| x.f_unsqueeze(axis))?)
}

fn transpose(node: &Node<'_>) -> Result<Kernel> {
    let perm = node.ints("perm")?;
    one(move |call| {
        let x = call.input(0)?;
        let rank = x.dim();
        match &perm {
            Some(perm) if perm.len() != rank => {
                Err(Error::malformed(format!("perm {perm:?} does not permute a tensor of rank {rank}")))
            }
            Some(perm) => Ok(x.f_permute(axes_in(perm, rank)?)?),
            None => Ok(x.f_permute((0..i64::try_from(rank).map_err(Error::malformed)?).rev().collect::<Vec<_>>())?),
        }
    })
}

fn expand(call: &Call<'_>) -> Result<Tensor> {
    let x = call.input(0)?;
    let shape = broadcast(&x.size(), &call.ints(1)?)?;
    elements(&shape)?;
    Ok(x.f_expand(shape, false)?)
}

fn tile(call: &Call<'_>) -> Result<Tensor> {
    let x = call.input(0)?;
    let repeats = call.ints(1)?;
    if repeats.len() != x.dim() {
        return Err(Error::malformed(format!("{} repeats for a tensor of rank {}", repeats.len(), x.dim())));
    }
    repeated(x, &repeats)
}

/// Opset 1 repeats along one axis.
fn tile_one_axis(call: &Call<'_>) -> Result<Tensor> {
    let x = call.input(0)?;
    let number = |index: usize| -> Result<i64> {
        let value = call.optional_number(index)?.ok_or_else(|| Error::malformed(format!("input {index} is missing")))?;
        #[expect(clippy::cast_possible_truncation, reason = "both are whole numbers held in the data's type")]
        Ok(value as i64)
    };
    let axis = usize::try_from(axis_in(number(2)?, x.dim())?).map_err(Error::malformed)?;
    let mut repeats = vec![1; x.dim()];
    if let Some(slot) = repeats.get_mut(axis) {
        *slot = number(1)?;
    }
    repeated(x, &repeats)
}

fn repeated(x: &Tensor, repeats: &[i64]) -> Result<Tensor> {
    let sizes: Option<Vec<i64>> = x.size().iter().zip(repeats).map(|(&size, &times)| size.checked_mul(times)).collect();
    elements(&sizes.ok_or_else(|| Error::malformed(format!("repeats {repeats:?} are too large")))?)?;
    Ok(x.f_repeat(repeats)?)
}

/// The block size and whether the block's axes stand before the depth (`DCR`) or behind it (`CRD`).
fn blocks(node: &Node<'_>) -> Result<(i64, bool)> {
    let block = node.int_or("blocksize", 0)?;
    if !(1..1 << 16).contains(&block) {
        return Err(Error::malformed(format!("blocksize {block} is not in 1..65536")));
    }
    match node.text_or("mode", "DCR")?.as_str() {
        "DCR" => Ok((block, true)),
        "CRD" => Ok((block, false)),
        mode => node.unsupported(format!("mode '{mode}'")),
    }
}

fn depth_to_space(x: &Tensor, block: i64, depth_first: bool) -> Result<Tensor> {
    let [n, c, h, w] = image_shape(x)?;
    let depth = c / block.saturating_mul(block);
    let split = if depth_first {
        x.f_reshape([n, block, block, depth, h, w])?.f_permute([0, 3, 4, 1, 5, 2])?
    } else {
        x.f_reshape([n, depth, block, block, h, w])?.f_permute([0, 1, 4, 2, 5, 3])?
    };
    Ok(split.f_reshape([n, depth, h * block, w * block])?)
}

fn space_to_depth(x: &Tensor, block: i64, depth_first: bool) -> Result<Tensor> {
    let [n, c, h, w] = image_shape(x)?;
    let split = x.f_reshape([n, c, h / block, block, w / block, block])?;
    let order = if depth_first { [0, 3, 5, 1, 2, 4] } else { [0, 1, 3, 5, 2, 4] };
    Ok(split.f_permute(order)?.f_reshape([n, c * block * block, h / block, w / block])?)
}

fn image_shape(x: &Tensor) -> Result<[i64; 4]> {
    let shape = x.size();
    shape.try_into().map_err(|shape: Vec<i64>| Error::malformed(format!("shape {shape:?} is not [N, C, H, W]")))
}
