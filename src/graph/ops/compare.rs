//! Operators: comparisons, logic and selection.

use super::arithmetic::{legacy, together};
use super::{ALL, Kernel, Node, Op, one};
use crate::error::Result;
use crate::tensor::Tensor;

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("Equal", 1, 2, equal_legacy).at_least(2).gradients(&[]),
    Op::new("Equal", 7, 2, equal).at_least(2).gradients(&[]),
    Op::new("Less", 1, 2, less_legacy).at_least(2).gradients(&[]),
    Op::new("Less", 7, 2, less).at_least(2).gradients(&[]),
    Op::new("LessOrEqual", 12, 2, less_or_equal).at_least(2).gradients(&[]),
    Op::new("Greater", 1, 2, greater_legacy).at_least(2).gradients(&[]),
    Op::new("Greater", 7, 2, greater).at_least(2).gradients(&[]),
    Op::new("GreaterOrEqual", 12, 2, greater_or_equal).at_least(2).gradients(&[]),
    Op::new("And", 7, 2, and).at_least(2).gradients(&[]),
    Op::new("Or", 7, 2, or).at_least(2).gradients(&[]),
    Op::new("Xor", 7, 2, xor).at_least(2).gradients(&[]),
    Op::new("Not", 1, 1, not).gradients(&[]),
    Op::new("IsNaN", 9, 1, is_nan).gradients(&[]),
    Op::new("Where", 9, 3, select).at_least(3).weights(ALL).gradients(&[1, 2]),
];

type Binary = fn(&Tensor, &Tensor) -> Result<Tensor>;

fn binary(run: Binary) -> Result<Kernel> {
    one(move |call| {
        let (a, b) = together(call.input(0)?, call.input(1)?)?;
        run(&a, &b)
    })
}

const EQUAL: Binary = |a, b| Ok(a.f_eq_tensor(b)?);
const LESS: Binary = |a, b| Ok(a.f_lt_tensor(b)?);
const GREATER: Binary = |a, b| Ok(a.f_gt_tensor(b)?);

fn equal(_: &Node) -> Result<Kernel> {
    binary(EQUAL)
}

fn equal_legacy(node: &Node) -> Result<Kernel> {
    legacy(node, EQUAL)
}

fn less(_: &Node) -> Result<Kernel> {
    binary(LESS)
}

fn less_legacy(node: &Node) -> Result<Kernel> {
    legacy(node, LESS)
}

fn less_or_equal(_: &Node) -> Result<Kernel> {
    binary(|a, b| Ok(a.f_le_tensor(b)?))
}

fn greater(_: &Node) -> Result<Kernel> {
    binary(GREATER)
}

fn greater_legacy(node: &Node) -> Result<Kernel> {
    legacy(node, GREATER)
}

fn greater_or_equal(_: &Node) -> Result<Kernel> {
    binary(|a, b| Ok(a.f_ge_tensor(b)?))
}

fn and(_: &Node) -> Result<Kernel> {
    binary(|a, b| Ok(a.f_logical_and(b)?))
}

fn or(_: &Node) -> Result<Kernel> {
    binary(|a, b| Ok(a.f_logical_or(b)?))
}

fn xor(_: &Node) -> Result<Kernel> {
    binary(|a, b| Ok(a.f_logical_xor(b)?))
}

fn not(_: &Node) -> Result<Kernel> {
    one(|call| Ok(call.input(0)?.f_logical_not()?))
}

fn is_nan(_: &Node) -> Result<Kernel> {
    one(|call| Ok(call.input(0)?.f_isnan()?))
}

fn select(_: &Node) -> Result<Kernel> {
    one(|call| {
        let (a, b) = together(call.input(1)?, call.input(2)?)?;
        let condition = together(call.input(0)?, &a)?.0;
        Ok(a.f_where_self(&condition, &b)?)
    })
}
