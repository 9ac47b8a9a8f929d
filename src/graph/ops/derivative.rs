//! Gradient: the derivative of one value of the graph by others, as a part of the graph.

use super::{Kernel, Node, Op, one};
use crate::error::{Error, Result};
use crate::tensor::{TchError, Tensor};

/// The rows of this family. Behind a node's own inputs stands the value that is differentiated, its attribute `y`.
pub const OPS: &[Op] =
    &[Op::new("Gradient", 1, usize::MAX, gradient).domain("ai.onnx.preview.training").outputs(usize::MAX).gradients(&[])];

/// Not an operator of ONNX: stands behind every value by which something is differentiated, so that libtorch records what becomes of it.
pub(crate) const TRACKED: Op = Op::new("(tracked)", 1, 1, tracked);

fn tracked(_: &Node<'_>) -> Result<Kernel> {
    one(|call| {
        let value = call.input(0)?;
        if value.requires_grad() { Ok(value.shallow_clone()) } else { Ok(value.f_detach()?.f_set_requires_grad(true)?) }
    })
}

/// onnx: ai.onnx.preview.training.Gradient-1. Inputs are the values of `xs`, then those of `zs`, which stand for themselves here.
fn gradient(node: &Node<'_>) -> Result<Kernel> {
    let by = node.texts("xs")?.unwrap_or_default().len();
    let others = node.texts("zs")?.unwrap_or_default().len();
    node.ignore("y");
    if by == 0 || node.inputs.len() != by + others {
        return Err(Error::malformed(format!("{} inputs for {by} xs and {others} zs", node.inputs.len())));
    }
    Ok(Box::new(move |call| {
        let y = call.input(by + others)?;
        if !y.requires_grad() {
            return Err(Error::unsupported("a derivative is asked for where none is recorded"));
        }
        let xs = (0..by).map(|index| call.input(index)).collect::<Result<Vec<&Tensor>>>()?;
        let total = y.f_sum(y.f_kind()?)?;
        let found: std::result::Result<Vec<Tensor>, TchError> = Tensor::f_run_backward(&[total], &xs, true, true);
        Ok(found?)
    }))
}
