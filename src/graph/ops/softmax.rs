//! Operators: softmax and its relatives.

use super::{Kernel, Node, Op, axis_in, one};
use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor};

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("Softmax", 1, 1, softmax_flat),
    Op::new("Softmax", 13, 1, softmax),
    Op::new("LogSoftmax", 1, 1, log_softmax_flat),
    Op::new("LogSoftmax", 13, 1, log_softmax),
];

type Function = fn(&Tensor, i64) -> Result<Tensor>;

const SOFTMAX: Function = |x, axis| Ok(x.f_softmax(axis, None::<Kind>)?);
const LOG_SOFTMAX: Function = |x, axis| Ok(x.f_log_softmax(axis, None::<Kind>)?);

/// From opset 13 along one axis.
fn along_axis(node: &Node, run: Function) -> Result<Kernel> {
    let axis = node.int_or("axis", -1)?;
    one(move |call| {
        let x = call.input(0)?;
        run(x, axis_in(axis, x.dim())?)
    })
}

/// Before opset 13 over everything from `axis` on, taken as one row.
fn flattened(node: &Node, run: Function) -> Result<Kernel> {
    let axis = node.int_or("axis", 1)?;
    one(move |call| {
        let x = call.input(0)?;
        let split = usize::try_from(axis_in(axis, x.dim())?).map_err(Error::malformed)?;
        let size = x.size();
        let (rows, columns): (i64, i64) = (size[..split].iter().product(), size[split..].iter().product());
        Ok(run(&x.f_reshape([rows, columns].as_slice())?, 1)?.f_reshape(size.as_slice())?)
    })
}

fn softmax(node: &Node) -> Result<Kernel> {
    along_axis(node, SOFTMAX)
}

fn softmax_flat(node: &Node) -> Result<Kernel> {
    flattened(node, SOFTMAX)
}

fn log_softmax(node: &Node) -> Result<Kernel> {
    along_axis(node, LOG_SOFTMAX)
}

fn log_softmax_flat(node: &Node) -> Result<Kernel> {
    flattened(node, LOG_SOFTMAX)
}
