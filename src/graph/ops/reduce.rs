//! Reductions over axes.

use super::operands::{axes_in, dim, is_whole};
use super::{Kernel, Node, Op, one};
use crate::error::Result;
use crate::tensor::{Kind, Tensor};

/// The rows of this family. The axes were an attribute first: up to opset 12 of ReduceSum and 17 of all others.
pub const OPS: &[Op] = &[
    Op::new("ReduceSum", 1, 1, |node| reduce(node, 13, sum)),
    Op::new("ReduceSum", 13, 2, |node| reduce(node, 13, sum)),
    Op::new("ReduceMean", 1, 1, |node| reduce(node, 18, mean)),
    Op::new("ReduceMean", 18, 2, |node| reduce(node, 18, mean)),
    Op::new("ReduceMax", 1, 1, |node| reduce(node, 18, max)),
    Op::new("ReduceMax", 18, 2, |node| reduce(node, 18, max)),
    Op::new("ReduceMin", 1, 1, |node| reduce(node, 18, min)),
    Op::new("ReduceMin", 18, 2, |node| reduce(node, 18, min)),
    Op::new("ReduceProd", 1, 1, |node| reduce(node, 18, prod)),
    Op::new("ReduceProd", 18, 2, |node| reduce(node, 18, prod)),
    Op::new("ReduceL1", 1, 1, |node| reduce(node, 18, l1)),
    Op::new("ReduceL1", 18, 2, |node| reduce(node, 18, l1)),
    Op::new("ReduceL2", 1, 1, |node| reduce(node, 18, l2)),
    Op::new("ReduceL2", 18, 2, |node| reduce(node, 18, l2)),
    Op::new("ReduceLogSum", 1, 1, |node| reduce(node, 18, log_sum)),
    Op::new("ReduceLogSum", 18, 2, |node| reduce(node, 18, log_sum)),
    Op::new("ReduceLogSumExp", 1, 1, |node| reduce(node, 18, log_sum_exp)),
    Op::new("ReduceLogSumExp", 18, 2, |node| reduce(node, 18, log_sum_exp)),
    Op::new("ReduceSumSquare", 1, 1, |node| reduce(node, 18, sum_square)),
    Op::new("ReduceSumSquare", 18, 2, |node| reduce(node, 18, sum_square)),
];

/// Reduces the named axes (at least one), keeping them with size 1 if asked to.
type Reduction = fn(&Tensor, &[i64], bool) -> Result<Tensor>;

fn reduce(node: &Node<'_>, axes_are_input: i64, run: Reduction) -> Result<Kernel> {
    let keep = node.int_or("keepdims", 1)? != 0;
    let by_input = node.opset >= axes_are_input;
    let attribute = if by_input { None } else { node.ints("axes")? };
    let empty_is_none = by_input && node.flag("noop_with_empty_axes")?;
    one(move |call| {
        let x = call.input(0)?;
        let axes = if by_input { call.optional_ints(1)? } else { attribute.clone() };
        let axes = match axes {
            Some(axes) if !axes.is_empty() => axes_in(&axes, x.dim())?,
            _ if empty_is_none => Vec::new(),
            _ => (0..).take(x.dim()).collect(),
        };
        if axes.is_empty() || x.dim() == 0 {
            // libtorch takes no axes for all axes. Over a new axis of size 1, a reduction is what it is over none.
            return run(&x.f_unsqueeze(0)?, &[0], false);
        }
        run(x, &axes, keep)
    })
}

/// Integers through double precision, for functions that leave the integers on their way.
fn widened(x: &Tensor, run: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let kind = x.f_kind()?;
    if is_whole(kind) { Ok(run(&x.f_to_kind(Kind::Double)?)?.f_to_kind(kind)?) } else { run(x) }
}

fn sum(x: &Tensor, axes: &[i64], keep: bool) -> Result<Tensor> {
    Ok(x.f_sum_dim_intlist(axes, keep, x.f_kind()?)?)
}

fn mean(x: &Tensor, axes: &[i64], keep: bool) -> Result<Tensor> {
    widened(x, |x| Ok(x.f_mean_dim(axes, keep, None::<Kind>)?))
}

fn max(x: &Tensor, axes: &[i64], keep: bool) -> Result<Tensor> {
    match of_nothing(x, axes, keep, least)? {
        Some(result) => Ok(result),
        None => Ok(x.f_amax(axes, keep)?),
    }
}

fn min(x: &Tensor, axes: &[i64], keep: bool) -> Result<Tensor> {
    match of_nothing(x, axes, keep, greatest)? {
        Some(result) => Ok(result),
        None => Ok(x.f_amin(axes, keep)?),
    }
}

/// The result where a reduced axis has size 0, which libtorch refuses.
fn of_nothing(x: &Tensor, axes: &[i64], keep: bool, value: fn(Kind) -> f64) -> Result<Option<Tensor>> {
    let shape = x.size();
    let mut empty = false;
    for &axis in axes {
        empty |= dim(&shape, axis)? == 0;
    }
    if !empty {
        return Ok(None);
    }
    // Summed for the shape alone.
    let kind = x.f_kind()?;
    let shape = x.f_to_kind(Kind::Float)?.f_sum_dim_intlist(axes, keep, None::<Kind>)?.size();
    if kind == Kind::Int64 {
        let bound = if value(kind) < 0.0 { i64::MIN } else { i64::MAX };
        return Ok(Some(Tensor::f_full(shape, bound, (kind, x.device()))?));
    }
    Ok(Some(Tensor::f_full(shape, value(kind), (kind, x.device()))?))
}

fn least(kind: Kind) -> f64 {
    match kind {
        Kind::Bool | Kind::Uint8 => 0.0,
        Kind::Int8 => f64::from(i8::MIN),
        Kind::Int16 => f64::from(i16::MIN),
        Kind::Int => f64::from(i32::MIN),
        _ => f64::NEG_INFINITY,
    }
}

fn greatest(kind: Kind) -> f64 {
    match kind {
        Kind::Bool => 1.0,
        Kind::Uint8 => f64::from(u8::MAX),
        Kind::Int8 => f64::from(i8::MAX),
        Kind::Int16 => f64::from(i16::MAX),
        Kind::Int => f64::from(i32::MAX),
        _ => f64::INFINITY,
    }
}

fn prod(x: &Tensor, axes: &[i64], keep: bool) -> Result<Tensor> {
    let kind = x.f_kind()?;
    let mut sorted = axes.to_vec();
    sorted.sort_unstable();
    sorted.iter().rev().try_fold(x.shallow_clone(), |x, &axis| Ok(x.f_prod_dim_int(axis, keep, kind)?))
}

fn l1(x: &Tensor, axes: &[i64], keep: bool) -> Result<Tensor> {
    sum(&x.f_abs()?, axes, keep)
}

/// libtorch's norm has a gradient at zero, which the root of a sum of squares has not.
fn l2(x: &Tensor, axes: &[i64], keep: bool) -> Result<Tensor> {
    widened(x, |x| Ok(x.f_norm_scalaropt_dim(2, axes, keep)?))
}

fn log_sum(x: &Tensor, axes: &[i64], keep: bool) -> Result<Tensor> {
    widened(x, |x| Ok(sum(x, axes, keep)?.f_log()?))
}

fn log_sum_exp(x: &Tensor, axes: &[i64], keep: bool) -> Result<Tensor> {
    widened(x, |x| Ok(x.f_logsumexp(axes, keep)?))
}

fn sum_square(x: &Tensor, axes: &[i64], keep: bool) -> Result<Tensor> {
    sum(&x.f_mul(x)?, axes, keep)
}
