//! What kernels do with their operands before computing: bring them to one device, broadcast, and check shapes.

use std::cell::Cell;

use super::{Call, Kernel, Node, one};
use crate::error::{Error, Result};
use crate::tensor::{Device, Kind, Tensor};

/// Shapes and indices live on the CPU even where the model does not, so operands can come from two devices: this is the one
/// to compute on, the first accelerator that holds an operand.
pub(super) fn device_of<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Device {
    tensors.into_iter().map(Tensor::device).find(|device| *device != Device::Cpu).unwrap_or(Device::Cpu)
}

/// The tensor on `device`.
pub(super) fn on(tensor: &Tensor, device: Device) -> Result<Tensor> {
    if tensor.device() == device { Ok(tensor.shallow_clone()) } else { Ok(tensor.f_to_device(device)?) }
}

/// Inputs 0 and 1 on one device.
pub(super) fn pair(call: &Call<'_>) -> Result<(Tensor, Tensor)> {
    let (a, b) = (call.input(0)?, call.input(1)?);
    let device = device_of([a, b]);
    Ok((on(a, device)?, on(b, device)?))
}

/// All inputs of a variadic operator on one device.
pub(super) fn variadic(call: &Call<'_>) -> Result<Vec<Tensor>> {
    let device = device_of(call.inputs.iter().copied().flatten());
    (0..call.inputs.len()).map(|index| on(call.input(index)?, device)).collect()
}

/// An operator of one input without attributes (but for `consumed_inputs`, a hint about memory in opsets below 6).
pub(super) fn unary<E: Into<Error> + 'static>(
    node: &Node<'_>,
    run: fn(&Tensor) -> std::result::Result<Tensor, E>,
) -> Result<Kernel> {
    node.ignore("consumed_inputs");
    one(move |call| run(call.input(0)?).map_err(Into::into))
}

/// The shape that two shapes broadcast to, as NumPy does it.
pub(super) fn broadcast(a: &[i64], b: &[i64]) -> Result<Vec<i64>> {
    let rank = a.len().max(b.len());
    let at = |shape: &[i64], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |i| shape[i]);
    (0..rank)
        .map(|axis| match (at(a, axis), at(b, axis)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => Err(Error::malformed(format!("shapes {a:?} and {b:?} do not broadcast"))),
        })
        .collect()
}

/// Refuses operands that broadcast to a tensor larger than [`elements`] allows: two thin ones can. Shapes that do not fit are
/// libtorch's to refuse.
pub(super) fn bound_broadcast(operands: &[&Tensor]) -> Result<()> {
    let mut shape: Vec<i64> = Vec::new();
    for operand in operands {
        let sizes = operand.size();
        let more = sizes.len().saturating_sub(shape.len());
        shape.splice(0..0, std::iter::repeat_n(1, more));
        for (size, own) in shape.iter_mut().rev().zip(sizes.iter().rev()) {
            *size = if *own == 0 || *size == 0 { 0 } else { (*size).max(*own) };
        }
    }
    elements(&shape).map(drop)
}

/// How operand B of a binary operator is laid along operand A.
#[derive(Debug, Clone, Copy)]
pub(super) enum Align {
    /// Both ways, as NumPy does it (opset 7 and above).
    Numpy,
    /// Not at all: `broadcast` is 0 (below opset 7).
    Same,
    /// B's axes are A's last ones (below opset 7).
    Suffix,
    /// B's axes are A's from this one on (below opset 7).
    At(i64),
}

impl Align {
    /// Reads the attributes `broadcast` and `axis` that stood for broadcasting below opset 7.
    pub(super) fn of(node: &Node<'_>) -> Result<Align> {
        if node.opset >= 7 {
            return Ok(Align::Numpy);
        }
        node.ignore("consumed_inputs");
        let axis = node.int("axis")?;
        Ok(match (node.flag("broadcast")?, axis) {
            (false, _) => Align::Same,
            (true, None) => Align::Suffix,
            (true, Some(axis)) => Align::At(axis),
        })
    }

    /// Inputs 0 and 1 on one device and shaped so that libtorch's broadcasting does the rest.
    pub(super) fn pair(self, call: &Call<'_>) -> Result<(Tensor, Tensor)> {
        let (a, b) = pair(call)?;
        match self {
            Align::Numpy => {
                bound_broadcast(&[&a, &b])?;
                Ok((a, b))
            }
            Align::Same if a.size() == b.size() => Ok((a, b)),
            Align::Same => Err(mismatch(&a, &b)),
            Align::Suffix if b.dim() <= a.dim() => {
                bound_broadcast(&[&a, &b])?;
                Ok((a, b))
            }
            Align::Suffix => Err(mismatch(&a, &b)),
            Align::At(axis) => {
                let axis = super::axis_in(axis, a.dim())?;
                let axis = usize::try_from(axis).map_err(Error::malformed)?;
                let behind = a.dim().checked_sub(axis + b.dim()).ok_or_else(|| mismatch(&a, &b))?;
                let mut shape = b.size();
                shape.extend(std::iter::repeat_n(1, behind));
                let b = b.f_reshape(shape)?;
                bound_broadcast(&[&a, &b])?;
                Ok((a, b))
            }
        }
    }
}

fn mismatch(a: &Tensor, b: &Tensor) -> Error {
    Error::malformed(format!("shapes {:?} and {:?} do not fit", a.size(), b.size()))
}

/// Axes in `0..rank`, each at most once.
pub(super) fn axes_in(axes: &[i64], rank: usize) -> Result<Vec<i64>> {
    let mut found = Vec::with_capacity(axes.len());
    for &axis in axes {
        let axis = super::axis_in(axis, rank)?;
        if found.contains(&axis) {
            return Err(Error::malformed(format!("axis {axis} is named twice")));
        }
        found.push(axis);
    }
    Ok(found)
}

/// The size of a tensor along an axis in `0..rank`.
pub(super) fn dim(shape: &[i64], axis: i64) -> Result<i64> {
    usize::try_from(axis)
        .ok()
        .and_then(|axis| shape.get(axis).copied())
        .ok_or_else(|| Error::malformed(format!("axis {axis} is outside shape {shape:?}")))
}

/// The number of elements of a shape that a file asks for.
///
/// # Errors
/// Malformed for negative sizes and for more elements than any activation of a classifier has (2^31), or than
/// [`with_at_most`] allows.
pub(super) fn elements(shape: &[i64]) -> Result<i64> {
    at_most(shape, MOST_ELEMENTS.get())
}

thread_local! {
    static MOST_ELEMENTS: Cell<i64> = const { Cell::new(1 << 31) };
}

/// Runs something with a lower limit for tensors that nodes make, as when a file is tried for the first time.
pub(crate) fn with_at_most<T>(limit: i64, work: impl FnOnce() -> T) -> T {
    let before = MOST_ELEMENTS.replace(limit);
    let result = work();
    MOST_ELEMENTS.set(before);
    result
}

/// As [`elements`] for a tensor that is made of nothing but its shape, where a few bytes of a file can ask for any amount of
/// memory: at most 2^27, enough for the weights of a first fully connected layer.
pub(super) fn new_elements(shape: &[i64]) -> Result<i64> {
    at_most(shape, MOST_ELEMENTS.get().min(1 << 27))
}

fn at_most(shape: &[i64], limit: i64) -> Result<i64> {
    if let Some(size) = shape.iter().find(|&&size| size < 0) {
        return Err(Error::malformed(format!("a tensor of shape {shape:?} is refused: {size} is negative")));
    }
    shape
        .iter()
        .try_fold(1_i64, |total, &size| total.checked_mul(size))
        .filter(|&total| total <= limit)
        .ok_or_else(|| Error::malformed(format!("a tensor of shape {shape:?} is refused: it may hold {limit} elements")))
}

/// Whether a kind holds whole numbers or booleans.
pub(super) fn is_whole(kind: Kind) -> bool {
    matches!(kind, Kind::Uint8 | Kind::Int8 | Kind::Int16 | Kind::Int | Kind::Int64 | Kind::Bool)
}

/// Indices from a file or from another node as an Int64 tensor on `device`: negative ones count from the end of `size`.
///
/// # Errors
/// Malformed for an index outside `-size..size`, where the indices are on the CPU; those on an accelerator are not copied back.
pub(super) fn indices(tensor: &Tensor, size: i64, device: Device) -> Result<Tensor> {
    let tensor = tensor.f_to_kind(Kind::Int64)?;
    if tensor.device() == Device::Cpu && tensor.numel() > 0 {
        let (low, high) = (tensor.f_min()?.f_int64_value(&[])?, tensor.f_max()?.f_int64_value(&[])?);
        if low < -size || high >= size {
            let wrong = if low < -size { low } else { high };
            return Err(Error::malformed(format!("index {wrong} is outside an axis of size {size}")));
        }
        if low >= 0 {
            return on(&tensor, device);
        }
    }
    let wrapped = tensor.f_add_scalar(size)?.f_where_self(&tensor.f_lt(0)?, &tensor)?;
    on(&wrapped, device)
}
