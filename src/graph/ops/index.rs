//! Operators: taking parts of tensors by index.

use super::{Flow, Kernel, Node, Op, axis_in, one};
use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor};

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("Gather", 1, 2, gather).at_least(2).weights(&[0]).flow(Flow::Moves),
    Op::new("GatherElements", 11, 2, gather_elements).at_least(2).weights(&[0]).flow(Flow::Moves),
    Op::new("Slice", 1, 1, slice_attributes).flow(Flow::Moves),
    Op::new("Slice", 10, 5, slice).at_least(3).flow(Flow::Moves),
    Op::new("Trilu", 14, 2, trilu).flow(Flow::Moves),
    Op::new("Range", 11, 3, range).at_least(3).gradients(&[]),
];

/// Indices in `-size..size` as indices in `0..size`, on the data's device.
fn wrap_indices(indices: &Tensor, size: i64, data: &Tensor) -> Result<Tensor> {
    let indices = indices.f_to_kind(Kind::Int64)?;
    if indices.device() == crate::tensor::Device::Cpu && indices.numel() > 0 {
        let (low, high) = (indices.f_min()?.f_int64_value(&[])?, indices.f_max()?.f_int64_value(&[])?);
        if low < -size || high >= size {
            return Err(Error::malformed(format!("indices from {low} to {high} are outside an axis of {size}")));
        }
        if low >= 0 {
            return Ok(indices.f_to_device(data.device())?);
        }
    }
    let wrapped = indices.f_add_scalar(size)?.f_where_self(&indices.f_lt(0)?, &indices)?;
    Ok(wrapped.f_to_device(data.device())?)
}

fn gather(node: &Node) -> Result<Kernel> {
    let axis = node.int_or("axis", 0)?;
    one(move |call| {
        let (data, indices) = (call.input(0)?, call.input(1)?);
        let axis = axis_in(axis, data.dim())?;
        let at = usize::try_from(axis).map_err(Error::malformed)?;
        let size = data.size().get(at).copied().ok_or_else(|| Error::malformed("Gather from a scalar"))?;
        let wrapped = wrap_indices(indices, size, data)?;
        let taken = data.f_index_select(axis, &wrapped.f_reshape([-1].as_slice())?)?;
        let mut shape = data.size()[..at].to_vec();
        shape.extend(indices.size());
        shape.extend(&data.size()[at + 1..]);
        Ok(taken.f_reshape(shape.as_slice())?)
    })
}

fn gather_elements(node: &Node) -> Result<Kernel> {
    let axis = node.int_or("axis", 0)?;
    one(move |call| {
        let (data, indices) = (call.input(0)?, call.input(1)?);
        let axis = axis_in(axis, data.dim())?;
        let size = data.size().get(usize::try_from(axis).map_err(Error::malformed)?).copied().unwrap_or(1);
        Ok(data.f_gather(axis, &wrap_indices(indices, size, data)?, false)?)
    })
}

/// One axis of a slice, as ONNX states it.
struct Cut {
    axis: i64,
    start: i64,
    end: i64,
    step: i64,
}

fn cuts(rank: usize, starts: &[i64], ends: &[i64], axes: Option<&[i64]>, steps: Option<&[i64]>) -> Result<Vec<Cut>> {
    let n = starts.len();
    let lengths = [ends.len(), axes.map_or(n, <[i64]>::len), steps.map_or(n, <[i64]>::len)];
    if lengths.iter().any(|&l| l != n) {
        return Err(Error::malformed(format!("{n} starts with {lengths:?} ends, axes and steps")));
    }
    (0..n)
        .map(|i| {
            let axis = axis_in(axes.map_or(i64::try_from(i).unwrap_or(i64::MAX), |axes| axes[i]), rank)?;
            Ok(Cut { axis, start: starts[i], end: ends[i], step: steps.map_or(1, |steps| steps[i]) })
        })
        .collect()
}

fn cut_out(data: &Tensor, cuts: &[Cut]) -> Result<Tensor> {
    let mut result = data.shallow_clone();
    for cut in cuts {
        let size = result.size()[usize::try_from(cut.axis).map_err(Error::malformed)?];
        let from_end = |v: i64| if v < 0 { v.saturating_add(size) } else { v };
        if cut.step > 0 {
            let (start, end) = (from_end(cut.start).clamp(0, size), from_end(cut.end).clamp(0, size));
            result = result.f_slice(cut.axis, start, end.max(start), cut.step)?;
        } else if cut.step < 0 {
            // libtorch has no negative steps: the indices are listed.
            let (start, end) = (from_end(cut.start).clamp(-1, size - 1), from_end(cut.end).clamp(-1, size - 1));
            let step = usize::try_from(cut.step.unsigned_abs()).map_err(Error::malformed)?;
            let indices: Vec<i64> = (end + 1..=start).rev().step_by(step).collect();
            result = result.f_index_select(cut.axis, &Tensor::f_from_slice(&indices)?.f_to_device(result.device())?)?;
        } else {
            return Err(Error::malformed("a slice with step 0"));
        }
    }
    Ok(result)
}

fn slice_attributes(node: &Node) -> Result<Kernel> {
    let (starts, ends, axes) =
        (node.ints("starts")?.unwrap_or_default(), node.ints("ends")?.unwrap_or_default(), node.ints("axes")?);
    one(move |call| {
        let data = call.input(0)?;
        cut_out(data, &cuts(data.dim(), &starts, &ends, axes.as_deref(), None)?)
    })
}

fn slice(_: &Node) -> Result<Kernel> {
    one(|call| {
        let data = call.input(0)?;
        let (starts, ends, axes, steps) = (call.ints(1)?, call.ints(2)?, call.optional_ints(3)?, call.optional_ints(4)?);
        cut_out(data, &cuts(data.dim(), &starts, &ends, axes.as_deref(), steps.as_deref())?)
    })
}

fn trilu(node: &Node) -> Result<Kernel> {
    let upper = node.int_or("upper", 1)? != 0;
    one(move |call| {
        let diagonal = call.optional_ints(1)?.and_then(|k| k.first().copied()).unwrap_or(0);
        Ok(if upper { call.input(0)?.f_triu(diagonal)? } else { call.input(0)?.f_tril(diagonal)? })
    })
}

fn range(_: &Node) -> Result<Kernel> {
    one(|call| {
        let kind = call.input(0)?.kind();
        let number = |index: usize| call.optional_number(index).map(|v| v.unwrap_or(0.0));
        let (start, limit, delta) = (number(0)?, number(1)?, number(2)?);
        let count = ((limit - start) / delta).ceil().max(0.0);
        if !count.is_finite() || count > super::shape::MOST_ELEMENTS as f64 {
            return Err(Error::malformed(format!("a range from {start} to {limit} in steps of {delta}")));
        }
        // Truncation is exact here: the count is a whole number in range.
        #[allow(clippy::cast_possible_truncation)]
        let steps = Tensor::f_arange(count as i64, (Kind::Double, crate::tensor::Device::Cpu))?;
        Ok(steps.f_mul_scalar(delta)?.f_add_scalar(start)?.f_to_kind(kind)?)
    })
}
