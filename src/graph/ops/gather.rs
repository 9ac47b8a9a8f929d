//! Reading elements by index.

use super::operands::{device_of, dim, elements, indices, on};
use super::{Call, Kernel, Node, Op, axis_in, one};
use crate::error::{Error, Result};
use crate::tensor::{Device, Kind, Tensor};

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("Gather", 1, 2, gather).at_least(2).weights(&[0]),
    Op::new("GatherElements", 11, 2, gather_elements).at_least(2),
    Op::new("GatherND", 11, 2, gather_nd).at_least(2),
];

fn gather(node: &Node<'_>) -> Result<Kernel> {
    let axis = node.int_or("axis", 0)?;
    one(move |call| {
        let (x, index) = (call.input(0)?, call.input(1)?);
        let shape = x.size();
        let axis = axis_in(axis, shape.len())?;
        let size = dim(&shape, axis)?;
        // A lone index on the CPU is a view: the class token of a vision transformer, one number of a shape.
        if index.dim() == 0 && index.device() == Device::Cpu {
            let at = index.f_int64_value(&[])?;
            if !(-size..size).contains(&at) {
                return Err(Error::malformed(format!("index {at} is outside an axis of size {size}")));
            }
            return Ok(x.f_select(axis, at)?);
        }
        let at = usize::try_from(axis).map_err(Error::malformed)?;
        let mut result = shape;
        result.splice(at..=at, index.size());
        elements(&result)?;
        let device = device_of([x, index]);
        let flat = indices(index, size, device)?.f_reshape([-1])?;
        let picked = on(x, device)?.f_index_select(axis, &flat)?;
        Ok(picked.f_reshape(result)?)
    })
}

fn gather_elements(node: &Node<'_>) -> Result<Kernel> {
    let axis = node.int_or("axis", 0)?;
    one(move |call| {
        let (x, index) = (call.input(0)?, call.input(1)?);
        let axis = axis_in(axis, x.dim())?;
        let device = device_of([x, index]);
        let index = indices(index, dim(&x.size(), axis)?, device)?;
        Ok(on(x, device)?.f_gather(axis, &index, false)?)
    })
}

/// Index tuples `[..., k]` into the first `k` axes of a shape, as row numbers `[rows]` of the tensor flattened over those axes.
pub(super) fn row_numbers(index: &Tensor, sizes: &[i64], device: Device) -> Result<Tensor> {
    let mut rows = Tensor::f_zeros(index.f_select(-1, 0)?.size(), (Kind::Int64, device))?;
    for (place, &size) in (0..).zip(sizes) {
        let at = indices(&index.f_select(-1, place)?, size, device)?;
        rows = rows.f_mul_scalar(size)?.f_add(&at)?;
    }
    Ok(rows.f_reshape([-1])?)
}

/// The last size of an index tensor, which may be at most `most`.
pub(super) fn tuple_length(index: &Tensor, most: usize) -> Result<usize> {
    let length = index.size().last().and_then(|&k| usize::try_from(k).ok()).unwrap_or(0);
    if length == 0 || length > most {
        return Err(Error::malformed(format!("index tuples of length {length} for {most} axes")));
    }
    Ok(length)
}

fn gather_nd(node: &Node<'_>) -> Result<Kernel> {
    let batch = usize::try_from(node.int_or("batch_dims", 0)?).map_err(Error::malformed)?;
    one(move |call| gather_tuples(call, batch))
}

fn gather_tuples(call: &Call<'_>, batch: usize) -> Result<Tensor> {
    let (x, index) = (call.input(0)?, call.input(1)?);
    let (shape, index_shape) = (x.size(), index.size());
    if batch >= index_shape.len() || batch > shape.len() || shape[..batch] != index_shape[..batch] {
        return Err(Error::malformed(format!("batch_dims {batch} does not fit shapes {shape:?} and {index_shape:?}")));
    }
    let length = tuple_length(index, shape.len() - batch)?;
    let (indexed, rest) = (&shape[batch..batch + length], &shape[batch + length..]);
    let mut result = index_shape[..index_shape.len() - 1].to_vec();
    result.extend(rest);
    elements(&result)?;
    let device = device_of([x, index]);
    let (batches, rows) = (elements(&shape[..batch])?, elements(indexed)?);
    let numbers = row_numbers(index, indexed, device)?.f_reshape([batches, -1])?;
    let offsets = Tensor::f_arange(batches, (Kind::Int64, device))?.f_mul_scalar(rows)?.f_unsqueeze(1)?;
    let mut flat = vec![batches * rows];
    flat.extend(rest);
    let picked = on(x, device)?.f_reshape(flat)?.f_index_select(0, &numbers.f_add(&offsets)?.f_reshape([-1])?)?;
    Ok(picked.f_reshape(result)?)
}
