//! Operators: shapes and rearrangements.

use super::{Call, Flow, Kernel, Node, Op, axis_in, one};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("Shape", 1, 1, shape).gradients(&[]),
    Op::new("Shape", 15, 1, shape).gradients(&[]),
    Op::new("Size", 1, 1, size).gradients(&[]),
    Op::new("Reshape", 1, 1, reshape_attribute).flow(Flow::Moves),
    Op::new("Reshape", 5, 2, reshape).at_least(2).flow(Flow::Moves),
    Op::new("Flatten", 1, 1, flatten).flow(Flow::Moves),
    Op::new("Squeeze", 1, 1, squeeze_attribute).flow(Flow::Moves),
    Op::new("Squeeze", 13, 2, squeeze).flow(Flow::Moves),
    Op::new("Unsqueeze", 1, 1, unsqueeze_attribute).flow(Flow::Moves),
    Op::new("Unsqueeze", 13, 2, unsqueeze).at_least(2).flow(Flow::Moves),
    Op::new("Transpose", 1, 1, transpose).flow(Flow::Moves),
    Op::new("Expand", 8, 2, expand).at_least(2).weights(&[0]).flow(Flow::Moves),
    Op::new("Tile", 6, 2, tile).at_least(2).flow(Flow::Moves),
    Op::new("DepthToSpace", 1, 1, depth_to_space).flow(Flow::Moves),
    Op::new("SpaceToDepth", 1, 1, space_to_depth).flow(Flow::Moves),
];

/// The greatest number of elements that a file's numbers may ask an operator to make.
pub(crate) const MOST_ELEMENTS: i64 = 1 << 31;

/// Refuses a shape with negative or absurdly large dimensions before anything is allocated.
pub(crate) fn admit_shape(shape: &[i64]) -> Result<()> {
    let count = shape.iter().try_fold(1_i64, |count, &d| if d < 0 { None } else { count.checked_mul(d) });
    match count {
        Some(count) if count <= MOST_ELEMENTS => Ok(()),
        _ => Err(Error::malformed(format!("asks for a tensor of shape {shape:?}"))),
    }
}

/// A shape tensor stays on the host: reading it back from an accelerator would stall every step.
fn shape(node: &Node) -> Result<Kernel> {
    let (start, end) = (node.int_or("start", 0)?, node.int("end")?);
    one(move |call| {
        let dims = call.input(0)?.size();
        let rank = i64::try_from(dims.len()).map_err(Error::malformed)?;
        let bound = |v: i64| usize::try_from((if v < 0 { v.saturating_add(rank) } else { v }).clamp(0, rank)).unwrap_or(0);
        let (start, end) = (bound(start), bound(end.unwrap_or(rank)));
        Ok(Tensor::f_from_slice(dims.get(start..end).unwrap_or_default())?)
    })
}

fn size(_: &Node) -> Result<Kernel> {
    one(|call| Ok(Tensor::f_from_slice(&[i64::try_from(call.input(0)?.numel()).map_err(Error::malformed)?])?.f_squeeze()?))
}

fn reshape_to(x: &Tensor, target: &[i64], allow_zero: bool) -> Result<Tensor> {
    let from = x.size();
    let mut shape = Vec::with_capacity(target.len());
    for (axis, &dim) in target.iter().enumerate() {
        shape.push(match dim {
            0 if !allow_zero => {
                *from.get(axis).ok_or_else(|| Error::malformed(format!("a shape of {target:?} copies a missing axis")))?
            }
            dim if dim >= -1 => dim,
            dim => return Err(Error::malformed(format!("a shape with dimension {dim}"))),
        });
    }
    // libtorch cannot infer a dimension of an empty tensor.
    if x.numel() == 0 && shape.contains(&-1) {
        let others: i64 = shape.iter().filter(|&&d| d != -1).product();
        if others != 0 {
            shape.iter_mut().filter(|d| **d == -1).for_each(|d| *d = 0);
        }
    }
    Ok(x.f_reshape(shape.as_slice())?)
}

fn reshape_attribute(node: &Node) -> Result<Kernel> {
    node.ignore("consumed_inputs");
    let target = node.ints("shape")?.ok_or_else(|| Error::malformed("attribute 'shape' is missing"))?;
    one(move |call| reshape_to(call.input(0)?, &target, false))
}

fn reshape(node: &Node) -> Result<Kernel> {
    let allow_zero = node.flag("allowzero")?;
    one(move |call| reshape_to(call.input(0)?, &call.ints(1)?, allow_zero))
}

fn flatten(node: &Node) -> Result<Kernel> {
    let axis = node.int_or("axis", 1)?;
    one(move |call| {
        let x = call.input(0)?;
        let rank = i64::try_from(x.dim()).map_err(Error::malformed)?;
        let axis = if axis < 0 { axis + rank } else { axis };
        let split = usize::try_from(axis).ok().filter(|&a| a <= x.dim());
        let split = split.ok_or_else(|| Error::malformed(format!("axis {axis} is outside a tensor of rank {rank}")))?;
        let size = x.size();
        let (rows, columns): (i64, i64) = (size[..split].iter().product(), size[split..].iter().product());
        Ok(x.f_reshape([rows, columns].as_slice())?)
    })
}

fn squeeze_axes(x: &Tensor, axes: Option<&[i64]>) -> Result<Tensor> {
    let Some(axes) = axes else { return Ok(x.f_squeeze()?) };
    let mut wrapped = axes.iter().map(|&a| axis_in(a, x.dim())).collect::<Result<Vec<_>>>()?;
    wrapped.sort_unstable();
    let mut result = x.shallow_clone();
    for &axis in wrapped.iter().rev() {
        if x.size()[usize::try_from(axis).map_err(Error::malformed)?] != 1 {
            return Err(Error::malformed(format!("axis {axis} of shape {:?} cannot be squeezed", x.size())));
        }
        result = result.f_squeeze_dim(axis)?;
    }
    Ok(result)
}

fn squeeze_attribute(node: &Node) -> Result<Kernel> {
    let axes = node.ints("axes")?;
    one(move |call| squeeze_axes(call.input(0)?, axes.as_deref()))
}

fn squeeze(_: &Node) -> Result<Kernel> {
    one(|call| squeeze_axes(call.input(0)?, call.optional_ints(1)?.as_deref()))
}

fn unsqueeze_axes(x: &Tensor, axes: &[i64]) -> Result<Tensor> {
    let rank = x.dim() + axes.len();
    let mut wrapped = axes.iter().map(|&a| axis_in(a, rank)).collect::<Result<Vec<_>>>()?;
    wrapped.sort_unstable();
    if wrapped.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Error::malformed(format!("axes {axes:?} name one axis twice")));
    }
    let mut result = x.shallow_clone();
    for &axis in &wrapped {
        result = result.f_unsqueeze(axis)?;
    }
    Ok(result)
}

fn unsqueeze_attribute(node: &Node) -> Result<Kernel> {
    let axes = node.ints("axes")?.ok_or_else(|| Error::malformed("attribute 'axes' is missing"))?;
    one(move |call| unsqueeze_axes(call.input(0)?, &axes))
}

fn unsqueeze(_: &Node) -> Result<Kernel> {
    one(|call| unsqueeze_axes(call.input(0)?, &call.ints(1)?))
}

fn transpose(node: &Node) -> Result<Kernel> {
    let order = node.ints("perm")?;
    one(move |call| {
        let x = call.input(0)?;
        let rank = i64::try_from(x.dim()).map_err(Error::malformed)?;
        match &order {
            Some(order) => Ok(x.f_permute(order.as_slice())?),
            None => Ok(x.f_permute((0..rank).rev().collect::<Vec<_>>().as_slice())?),
        }
    })
}

/// Unlike libtorch's expand, the target may have ones where the input is larger, and fewer axes than the input.
fn expand(_: &Node) -> Result<Kernel> {
    one(|call: &Call| {
        let (x, target) = (call.input(0)?, call.ints(1)?);
        let from = x.size();
        let rank = from.len().max(target.len());
        let at = |dims: &[i64], axis: usize| if axis + dims.len() < rank { 1 } else { dims[axis + dims.len() - rank] };
        let mut shape = Vec::with_capacity(rank);
        for axis in 0..rank {
            shape.push(match (at(&from, axis), at(&target, axis)) {
                (a, b) if a == b || b == 1 => a,
                (1, b) => b,
                (a, b) => return Err(Error::malformed(format!("{a} cannot be expanded to {b}"))),
            });
        }
        admit_shape(&shape)?;
        Ok(x.f_expand(shape.as_slice(), false)?)
    })
}

fn tile(_: &Node) -> Result<Kernel> {
    one(|call| {
        let (x, repeats) = (call.input(0)?, call.ints(1)?);
        if repeats.len() != x.dim() {
            return Err(Error::malformed(format!("{} repeats for rank {}", repeats.len(), x.dim())));
        }
        let shape: Vec<i64> = x.size().iter().zip(&repeats).map(|(&d, &r)| d.saturating_mul(r)).collect();
        admit_shape(&shape)?;
        Ok(x.f_repeat(repeats.as_slice())?)
    })
}

/// Block size and the four dimensions of an image tensor.
fn blocks(node: &Node) -> Result<i64> {
    node.int("blocksize")?.filter(|&b| b > 0).ok_or_else(|| Error::malformed("attribute 'blocksize' is missing or not positive"))
}

fn image_dims(x: &Tensor) -> Result<[i64; 4]> {
    x.size().try_into().map_err(|dims: Vec<i64>| Error::malformed(format!("shape {dims:?} where [N, C, H, W] is expected")))
}

fn depth_to_space(node: &Node) -> Result<Kernel> {
    let b = blocks(node)?;
    let column_first = match node.text_or("mode", "DCR")?.as_str() {
        "DCR" => false,
        "CRD" => true,
        other => return Err(Error::malformed(format!("mode is '{other}'"))),
    };
    one(move |call| {
        let x = call.input(0)?;
        let [n, c, h, w] = image_dims(x)?;
        let (split, order) = if column_first {
            ([n, c / (b * b), b, b, h, w], [0, 1, 4, 2, 5, 3])
        } else {
            ([n, b, b, c / (b * b), h, w], [0, 3, 4, 1, 5, 2])
        };
        Ok(x.f_reshape(split.as_slice())?.f_permute(order.as_slice())?.f_reshape([n, c / (b * b), h * b, w * b].as_slice())?)
    })
}

fn space_to_depth(node: &Node) -> Result<Kernel> {
    let b = blocks(node)?;
    one(move |call| {
        let x = call.input(0)?;
        let [n, c, h, w] = image_dims(x)?;
        let split = x.f_reshape([n, c, h / b, b, w / b, b].as_slice())?;
        Ok(split.f_permute([0, 3, 5, 1, 2, 4].as_slice())?.f_reshape([n, c * b * b, h / b, w / b].as_slice())?)
    })
}
