//! Operators: matrix products.

use super::arithmetic::together;
use super::{ALL, Call, Kernel, Node, Op, one};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("MatMul", 1, 2, matmul).at_least(2).weights(&[0, 1]).gradients(&[0, 1]),
    Op::new("Gemm", 1, 3, gemm).at_least(3).weights(&[0, 1, 2]).gradients(&[0, 1, 2]),
    Op::new("Gemm", 11, 3, gemm).at_least(2).weights(&[0, 1, 2]).gradients(&[0, 1, 2]),
    Op::new("Einsum", 12, usize::MAX, einsum).weights(&[0, 1, 2, 3]).gradients(ALL),
];

fn matmul(_: &Node) -> Result<Kernel> {
    one(|call| {
        let (a, b) = together(call.input(0)?, call.input(1)?)?;
        Ok(a.f_matmul(&b)?)
    })
}

fn gemm(node: &Node) -> Result<Kernel> {
    node.ignore("broadcast");
    let (alpha, beta) = (node.float_or("alpha", 1.0)?, node.float_or("beta", 1.0)?);
    let (transpose_a, transpose_b) = (node.flag("transA")?, node.flag("transB")?);
    one(move |call: &Call| {
        let (a, b, c) = (call.input(0)?, call.input(1)?, call.optional(2));
        if a.dim() != 2 || b.dim() != 2 {
            return Err(Error::malformed(format!("matrices of rank {} and {}", a.dim(), b.dim())));
        }
        let a = if transpose_a { a.f_transpose(0, 1)? } else { a.shallow_clone() };
        // The ordinary linear layer takes libtorch's fused path.
        if transpose_b && alpha == 1.0 && beta == 1.0 && c.is_none_or(|c| c.dim() == 1 && c.numel() as i64 == b.size()[0]) {
            return Ok(a.f_linear(b, c)?);
        }
        let b = if transpose_b { b.f_transpose(0, 1)? } else { b.shallow_clone() };
        let mut product = a.f_matmul(&b)?;
        if alpha != 1.0 {
            product = scale(&product, alpha)?;
        }
        match c {
            None => Ok(product),
            Some(c) if beta == 1.0 => Ok(product.f_add(c)?),
            Some(c) => Ok(product.f_add(&scale(c, beta)?)?),
        }
    })
}

fn scale(tensor: &Tensor, factor: f64) -> Result<Tensor> {
    Ok(tensor.f_mul_scalar(factor)?.f_to_kind(tensor.kind())?)
}

fn einsum(node: &Node) -> Result<Kernel> {
    let equation = node.text("equation")?.ok_or_else(|| Error::malformed("attribute 'equation' is missing"))?;
    one(move |call| {
        let mut tensors = Vec::with_capacity(call.inputs.len());
        for index in 0..call.inputs.len() {
            tensors.push(call.input(index)?.shallow_clone());
        }
        Ok(Tensor::f_einsum(&equation, &tensors, None::<i64>)?)
    })
}
