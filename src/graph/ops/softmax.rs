//! Softmax, LogSoftmax and Hardmax.

use super::{Kernel, Node, Op, axis_in, one};
use crate::error::Result;
use crate::tensor::{Device, Kind, Tensor};

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("Softmax", 1, 1, |node| flattened(node, softmax)),
    Op::new("Softmax", 13, 1, |node| along(node, softmax)),
    Op::new("LogSoftmax", 1, 1, |node| flattened(node, |x, axis| Ok(x.f_log_softmax(axis, None::<Kind>)?))),
    Op::new("LogSoftmax", 13, 1, |node| along(node, |x, axis| Ok(x.f_log_softmax(axis, None::<Kind>)?))),
    Op::new("Hardmax", 1, 1, |node| flattened(node, hardmax)).gradients(&[]),
    Op::new("Hardmax", 13, 1, |node| along(node, hardmax)).gradients(&[]),
];

fn along(node: &Node<'_>, run: fn(&Tensor, i64) -> Result<Tensor>) -> Result<Kernel> {
    let axis = node.int_or("axis", -1)?;
    one(move |call| {
        let x = call.input(0)?;
        run(x, axis_in(axis, x.dim())?)
    })
}

/// Below opset 13 all axes from `axis` on are one.
fn flattened(node: &Node<'_>, run: fn(&Tensor, i64) -> Result<Tensor>) -> Result<Kernel> {
    let axis = node.int_or("axis", 1)?;
    one(move |call| {
        let x = call.input(0)?;
        let shape = x.size();
        let axis = axis_in(axis, shape.len())?;
        let from = usize::try_from(axis).unwrap_or(0);
        if from + 1 == shape.len() {
            return run(x, axis);
        }
        let (before, behind) = shape.split_at(from);
        let flat = x.f_reshape([before.iter().product::<i64>(), behind.iter().product()])?;
        Ok(run(&flat, 1)?.f_reshape(shape)?)
    })
}

/// In half precision on the CPU by the operator's definition, every step rounded: libtorch's own kernel there is up to two
/// neighbouring numbers away from it, more than ONNX's cases grant.
fn softmax(x: &Tensor, axis: i64) -> Result<Tensor> {
    if x.f_kind()? != Kind::Half || x.device() != Device::Cpu || x.numel() == 0 {
        return Ok(x.f_softmax(axis, None::<Kind>)?);
    }
    let powers = x.f_sub(&x.f_amax([axis], true)?)?.f_exp()?;
    Ok(powers.f_div(&powers.f_sum_dim_intlist(&[axis][..], true, None::<Kind>)?)?)
}

/// One at the first of the largest values, zero elsewhere.
fn hardmax(x: &Tensor, axis: i64) -> Result<Tensor> {
    let largest = x.f_argmax(axis, true)?;
    let one = Tensor::f_ones([1_i64; 0], (x.f_kind()?, Device::Cpu))?.f_to_device(x.device())?;
    Ok(x.f_zeros_like()?.f_scatter(axis, &largest, &one.f_expand_as(&largest)?)?)
}
