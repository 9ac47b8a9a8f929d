//! Comparisons, logic and Where.

use super::operands::{Align, bound_broadcast, device_of, on};
use super::{ALL, Flow, Kernel, Node, Op, one};
use crate::error::Result;
use crate::tensor::{Kind, Tensor};

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("Equal", 1, 2, |node| binary(node, |a, b| Ok(a.f_eq_tensor(b)?))).at_least(2).gradients(&[]),
    Op::new("Greater", 1, 2, |node| binary(node, |a, b| Ok(a.f_gt_tensor(b)?))).at_least(2).gradients(&[]),
    Op::new("Less", 1, 2, |node| binary(node, |a, b| Ok(a.f_lt_tensor(b)?))).at_least(2).gradients(&[]),
    Op::new("GreaterOrEqual", 12, 2, |node| binary(node, |a, b| Ok(a.f_ge_tensor(b)?))).at_least(2).gradients(&[]),
    Op::new("LessOrEqual", 12, 2, |node| binary(node, |a, b| Ok(a.f_le_tensor(b)?))).at_least(2).gradients(&[]),
    Op::new("And", 1, 2, |node| binary(node, |a, b| Ok(a.f_logical_and(b)?))).at_least(2).gradients(&[]),
    Op::new("Or", 1, 2, |node| binary(node, |a, b| Ok(a.f_logical_or(b)?))).at_least(2).gradients(&[]),
    Op::new("Xor", 1, 2, |node| binary(node, |a, b| Ok(a.f_logical_xor(b)?))).at_least(2).gradients(&[]),
    Op::new("Where", 9, 3, |_| one(choose)).at_least(3).weights(ALL).flow(Flow::Assembles).gradients(&[1, 2]),
];

fn binary(node: &Node<'_>, run: fn(&Tensor, &Tensor) -> Result<Tensor>) -> Result<Kernel> {
    let align = Align::of(node)?;
    one(move |call| {
        let (a, b) = align.pair(call)?;
        run(&a, &b)
    })
}

fn choose(call: &super::Call<'_>) -> Result<Tensor> {
    let (condition, yes, no) = (call.input(0)?, call.input(1)?, call.input(2)?);
    let device = device_of([condition, yes, no]);
    bound_broadcast(&[condition, yes, no])?;
    let condition = on(condition, device)?.f_to_kind(Kind::Bool)?;
    Ok(on(yes, device)?.f_where_self(&condition, &on(no, device)?)?)
}
