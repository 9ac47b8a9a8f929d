//! Constant and ConstantOfShape.

use std::sync::Mutex;

use super::operands::new_elements;
use super::values::constant_tensor;
use super::{Flow, Kernel, Node, Op, one};
use crate::error::{Error, Result};
use crate::tensor::{Device, Kind, Tensor};

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("Constant", 1, 0, |node| fixed(constant(node)?)).gradients(&[]),
    Op::new("ConstantOfShape", 9, 1, constant_of_shape).gradients(&[]).flow(Flow::Computes),
];

/// The value of a Constant node, on the CPU. Opset 12 brought attributes for plain numbers.
///
/// # Errors
/// Malformed without a value; unsupported for text and sparse tensors.
pub fn constant(node: &Node<'_>) -> Result<Tensor> {
    if let Some(tensor) = node.tensor("value")? {
        return constant_tensor(tensor);
    }
    if let Some(value) = node.float("value_float")? {
        return Ok(Tensor::f_from_slice(&[value])?.f_to_kind(Kind::Float)?.f_reshape([0_i64; 0])?);
    }
    if let Some(value) = node.int("value_int")? {
        return Ok(Tensor::f_from_slice(&[value])?.f_reshape([0_i64; 0])?);
    }
    if let Some(values) = node.floats("value_floats")? {
        return Ok(Tensor::f_from_slice(&values)?.f_to_kind(Kind::Float)?);
    }
    if let Some(values) = node.ints("value_ints")? {
        return Ok(Tensor::f_from_slice(&values)?);
    }
    for name in ["sparse_value", "value_string", "value_strings"] {
        if node.has(name) {
            return node.unsupported(format!("attribute '{name}'"));
        }
    }
    Err(Error::malformed("a constant without a value"))
}

fn fixed(tensor: Tensor) -> Result<Kernel> {
    // A lock, because libtorch's tensors may go to another thread but not be shared by two.
    let tensor = Mutex::new(tensor);
    one(move |_| Ok(tensor.lock().map_err(|_| Error::unexpected("a constant was lost"))?.shallow_clone()))
}

fn constant_of_shape(node: &Node<'_>) -> Result<Kernel> {
    let value = match node.tensor("value")? {
        Some(tensor) => constant_tensor(tensor)?,
        None => Tensor::f_zeros([1], (Kind::Float, Device::Cpu))?,
    };
    if value.numel() != 1 {
        return Err(Error::malformed(format!("the value of ConstantOfShape holds {} numbers", value.numel())));
    }
    let value = Mutex::new(value.f_reshape([0_i64; 0])?);
    one(move |call| {
        let shape = call.ints(0)?;
        new_elements(&shape)?;
        let value = value.lock().map_err(|_| Error::unexpected("a constant was lost"))?;
        Ok(value.f_expand(shape, false)?.f_contiguous()?)
    })
}
