//! Operators: reductions.

use super::{Call, Kernel, Node, Op, axis_in, one};
use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor, is_float};

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("ReduceMean", 1, 1, mean_attribute),
    Op::new("ReduceMean", 18, 2, mean),
    Op::new("ReduceSum", 1, 1, sum_attribute),
    Op::new("ReduceSum", 13, 2, sum),
    Op::new("ReduceMax", 1, 1, max_attribute),
    Op::new("ReduceMax", 18, 2, max),
    Op::new("ReduceMin", 1, 1, min_attribute),
    Op::new("ReduceMin", 18, 2, min),
    Op::new("ReduceProd", 1, 1, prod_attribute),
    Op::new("ReduceProd", 18, 2, prod),
    Op::new("ReduceL1", 1, 1, l1_attribute),
    Op::new("ReduceL1", 18, 2, l1),
    Op::new("ReduceL2", 1, 1, l2_attribute),
    Op::new("ReduceL2", 18, 2, l2),
    Op::new("ReduceSumSquare", 1, 1, sum_square_attribute),
    Op::new("ReduceSumSquare", 18, 2, sum_square),
    Op::new("ReduceLogSum", 1, 1, log_sum_attribute),
    Op::new("ReduceLogSum", 18, 2, log_sum),
    Op::new("ReduceLogSumExp", 1, 1, log_sum_exp_attribute),
    Op::new("ReduceLogSumExp", 18, 2, log_sum_exp),
    Op::new("ArgMax", 1, 1, arg_max).gradients(&[]),
    Op::new("ArgMin", 1, 1, arg_min).gradients(&[]),
    Op::new("CumSum", 11, 2, cumulative_sum).at_least(2),
    Op::new("TopK", 1, 1, top_k_attribute).outputs(2),
    Op::new("TopK", 10, 2, top_k).at_least(2).outputs(2),
];

/// Reduces over the given axes, keeping them as ones.
type Reduction = fn(&Tensor, &[i64]) -> Result<Tensor>;

/// Axes as an attribute (before opset 13 or 18); absent means all.
fn by_attribute(node: &Node, run: Reduction) -> Result<Kernel> {
    let axes = node.ints("axes")?;
    let keep = node.int_or("keepdims", 1)? != 0;
    one(move |call| reduce(call.input(0)?, axes.as_deref(), keep, false, run))
}

/// Axes as an input; absent or empty means all, unless `noop_with_empty_axes`.
fn by_input(node: &Node, run: Reduction) -> Result<Kernel> {
    let noop = node.flag("noop_with_empty_axes")?;
    let keep = node.int_or("keepdims", 1)? != 0;
    one(move |call: &Call| reduce(call.input(0)?, call.optional_ints(1)?.as_deref(), keep, noop, run))
}

fn reduce(x: &Tensor, axes: Option<&[i64]>, keep: bool, noop: bool, run: Reduction) -> Result<Tensor> {
    let rank = i64::try_from(x.dim()).map_err(Error::malformed)?;
    let axes: Vec<i64> = match axes {
        Some(axes) if !axes.is_empty() => axes.iter().map(|&a| axis_in(a, x.dim())).collect::<Result<_>>()?,
        // Without axes the elementwise part of the reduction still applies.
        _ if noop => return run(&x.f_unsqueeze(-1)?, &[rank])?.f_squeeze_dim(-1).map_err(Error::from),
        _ => (0..rank).collect(),
    };
    let reduced = if axes.is_empty() { run(&x.f_unsqueeze(-1)?, &[0])?.f_squeeze_dim(-1)? } else { run(x, &axes)? };
    if keep || axes.is_empty() {
        return Ok(reduced);
    }
    let left: Vec<i64> =
        (0..rank).filter(|a| !axes.contains(a)).map(|a| reduced.size()[usize::try_from(a).unwrap_or(0)]).collect();
    Ok(reduced.f_reshape(left.as_slice())?)
}

/// Integers are reduced in 64 bits and brought back.
fn in_kind(x: &Tensor, run: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    Ok(run(x)?.f_to_kind(x.kind())?)
}

/// Functions that libtorch has for floats only.
fn in_floats(x: &Tensor, run: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    if is_float(x.kind()) { run(x) } else { Ok(run(&x.f_to_kind(Kind::Double)?)?.f_to_kind(x.kind())?) }
}

const MEAN: Reduction = |x, axes| in_floats(x, |x| Ok(x.f_mean_dim(axes, true, None::<Kind>)?));
const SUM: Reduction = |x, axes| in_kind(x, |x| Ok(x.f_sum_dim_intlist(axes, true, None::<Kind>)?));
const MAX: Reduction = |x, axes| Ok(x.f_amax(axes, true)?);
const MIN: Reduction = |x, axes| Ok(x.f_amin(axes, true)?);
const L1: Reduction = |x, axes| SUM(&x.f_abs()?, axes);
const SUM_SQUARE: Reduction = |x, axes| SUM(&x.f_mul(x)?, axes);
const L2: Reduction = |x, axes| in_floats(x, |x| Ok(SUM_SQUARE(x, axes)?.f_sqrt()?));
const LOG_SUM: Reduction = |x, axes| in_floats(x, |x| Ok(SUM(x, axes)?.f_log()?));
const LOG_SUM_EXP: Reduction = |x, axes| in_floats(x, |x| Ok(x.f_logsumexp(axes, true)?));
const PROD: Reduction = |x, axes| {
    in_kind(x, |x| {
        let mut result = x.shallow_clone();
        for &axis in axes {
            result = result.f_prod_dim_int(axis, true, None::<Kind>)?;
        }
        Ok(result)
    })
};

fn mean_attribute(node: &Node) -> Result<Kernel> {
    by_attribute(node, MEAN)
}

fn mean(node: &Node) -> Result<Kernel> {
    by_input(node, MEAN)
}

fn sum_attribute(node: &Node) -> Result<Kernel> {
    by_attribute(node, SUM)
}

fn sum(node: &Node) -> Result<Kernel> {
    by_input(node, SUM)
}

fn max_attribute(node: &Node) -> Result<Kernel> {
    by_attribute(node, MAX)
}

fn max(node: &Node) -> Result<Kernel> {
    by_input(node, MAX)
}

fn min_attribute(node: &Node) -> Result<Kernel> {
    by_attribute(node, MIN)
}

fn min(node: &Node) -> Result<Kernel> {
    by_input(node, MIN)
}

fn prod_attribute(node: &Node) -> Result<Kernel> {
    by_attribute(node, PROD)
}

fn prod(node: &Node) -> Result<Kernel> {
    by_input(node, PROD)
}

fn l1_attribute(node: &Node) -> Result<Kernel> {
    by_attribute(node, L1)
}

fn l1(node: &Node) -> Result<Kernel> {
    by_input(node, L1)
}

fn l2_attribute(node: &Node) -> Result<Kernel> {
    by_attribute(node, L2)
}

fn l2(node: &Node) -> Result<Kernel> {
    by_input(node, L2)
}

fn sum_square_attribute(node: &Node) -> Result<Kernel> {
    by_attribute(node, SUM_SQUARE)
}

fn sum_square(node: &Node) -> Result<Kernel> {
    by_input(node, SUM_SQUARE)
}

fn log_sum_attribute(node: &Node) -> Result<Kernel> {
    by_attribute(node, LOG_SUM)
}

fn log_sum(node: &Node) -> Result<Kernel> {
    by_input(node, LOG_SUM)
}

fn log_sum_exp_attribute(node: &Node) -> Result<Kernel> {
    by_attribute(node, LOG_SUM_EXP)
}

fn log_sum_exp(node: &Node) -> Result<Kernel> {
    by_input(node, LOG_SUM_EXP)
}

fn arg_max(node: &Node) -> Result<Kernel> {
    arg_extremum(node, |x, axis| Ok(x.f_argmax(axis, true)?))
}

fn arg_min(node: &Node) -> Result<Kernel> {
    arg_extremum(node, |x, axis| Ok(x.f_argmin(axis, true)?))
}

fn arg_extremum(node: &Node, run: fn(&Tensor, i64) -> Result<Tensor>) -> Result<Kernel> {
    let axis = node.int_or("axis", 0)?;
    let keep = node.int_or("keepdims", 1)? != 0;
    let last = node.flag("select_last_index")?;
    one(move |call| {
        let x = call.input(0)?;
        let axis = axis_in(axis, x.dim())?;
        let found = if last {
            let size = x.size().get(usize::try_from(axis).map_err(Error::malformed)?).copied().unwrap_or(1);
            run(&x.f_flip([axis].as_slice())?, axis)?.f_neg()?.f_add_scalar(size - 1)?
        } else {
            run(x, axis)?
        };
        Ok(if keep { found } else { found.f_squeeze_dim(axis)? })
    })
}

fn cumulative_sum(node: &Node) -> Result<Kernel> {
    let (exclusive, reverse) = (node.flag("exclusive")?, node.flag("reverse")?);
    one(move |call: &Call| {
        let x = call.input(0)?;
        let axis = call.ints(1)?.first().copied().ok_or_else(|| Error::malformed("the axis is empty"))?;
        let axis = axis_in(axis, x.dim())?;
        let ordered = if reverse { x.f_flip([axis].as_slice())? } else { x.shallow_clone() };
        let mut sums = ordered.f_cumsum(axis, x.kind())?;
        if exclusive {
            sums = sums.f_sub(&ordered)?;
        }
        Ok(if reverse { sums.f_flip([axis].as_slice())? } else { sums })
    })
}

fn top_k_of(call: &Call, k: i64, axis: i64, largest: bool) -> Result<Vec<Tensor>> {
    let x = call.input(0)?;
    let axis = axis_in(axis, x.dim())?;
    // A stable sort gives the lowest index first among equals, as the operator's page asks.
    let (values, indices) = x.f_sort_stable(true, axis, largest)?;
    let size = x.size().get(usize::try_from(axis).map_err(Error::malformed)?).copied().unwrap_or(0);
    if k < 0 || k > size {
        return Err(Error::malformed(format!("the {k} largest of {size}")));
    }
    Ok(vec![values.f_narrow(axis, 0, k)?, indices.f_narrow(axis, 0, k)?])
}

fn top_k_attribute(node: &Node) -> Result<Kernel> {
    let k = node.int("k")?.ok_or_else(|| Error::malformed("attribute 'k' is missing"))?;
    let axis = node.int_or("axis", -1)?;
    Ok(Box::new(move |call| top_k_of(call, k, axis, true)))
}

fn top_k(node: &Node) -> Result<Kernel> {
    let axis = node.int_or("axis", -1)?;
    let largest = node.int_or("largest", 1)? != 0;
    // The result is sorted in any case.
    node.ignore("sorted");
    Ok(Box::new(move |call| {
        let k = call.ints(1)?.first().copied().ok_or_else(|| Error::malformed("k is empty"))?;
        top_k_of(call, k, axis, largest)
    }))
}
