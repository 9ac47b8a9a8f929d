//! Slice.

use super::operands::{axes_in, dim};
use super::{Call, Flow, Op, one};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("Slice", 1, 1, |node| {
        let required = |name: &str| -> Result<Vec<i64>> {
            node.ints(name)?.ok_or_else(|| Error::malformed(format!("attribute '{name}' is missing")))
        };
        let (starts, ends, axes) = (required("starts")?, required("ends")?, node.ints("axes")?);
        one(move |call| slice(call.input(0)?, &starts, &ends, axes.as_deref(), None))
    })
    .flow(Flow::Moves),
    Op::new("Slice", 10, 5, |_| one(by_inputs)).at_least(3).flow(Flow::Moves),
];

fn by_inputs(call: &Call<'_>) -> Result<Tensor> {
    let (axes, steps) = (call.optional_ints(3)?, call.optional_ints(4)?);
    slice(call.input(0)?, &call.ints(1)?, &call.ints(2)?, axes.as_deref(), steps.as_deref())
}

fn slice(x: &Tensor, starts: &[i64], ends: &[i64], axes: Option<&[i64]>, steps: Option<&[i64]>) -> Result<Tensor> {
    let count = starts.len();
    let axes = match axes {
        Some(axes) => axes_in(axes, x.dim())?,
        None => (0..i64::try_from(count).map_err(Error::malformed)?).collect(),
    };
    if ends.len() != count || axes.len() != count || steps.is_some_and(|steps| steps.len() != count) {
        return Err(Error::malformed("starts, ends, axes and steps differ in length"));
    }
    let shape = x.size();
    let mut x = x.shallow_clone();
    for (index, &axis) in axes.iter().enumerate() {
        let size = dim(&shape, axis)?;
        let step = steps.map_or(1, |steps| steps[index]);
        x = along(&x, axis, size, starts[index], ends[index], step)?;
    }
    Ok(x)
}

/// libtorch slices forwards only: backwards is the same elements forwards, flipped.
fn along(x: &Tensor, axis: i64, size: i64, start: i64, end: i64, step: i64) -> Result<Tensor> {
    let wrap = |at: i64| if at < 0 { at.saturating_add(size) } else { at };
    if step > 0 {
        let (start, end) = (wrap(start).clamp(0, size), wrap(end).clamp(0, size));
        return Ok(x.f_slice(axis, start, end.max(start), step)?);
    }
    let stride = step.checked_neg().filter(|&stride| stride > 0).ok_or_else(|| Error::malformed(format!("step {step}")))?;
    let (start, end) = (wrap(start).clamp(0.min(size - 1), size - 1), wrap(end).clamp(-1, size - 1));
    if start <= end {
        return Ok(x.f_slice(axis, 0, 0, 1)?);
    }
    let last = start - (start - end - 1) / stride * stride;
    Ok(x.f_slice(axis, last, start + 1, stride)?.f_flip([axis])?)
}
