//! Choosing, ordering and counting elements: OneHot, NonZero, Compress, TopK, ArgMax, CumSum and the like.

use super::operands::{device_of, dim, elements, is_whole, new_elements, on};
use super::values::kind_attribute;
use super::{Call, Kernel, Node, Op, axis_in, one};
use crate::error::{Error, Result};
use crate::tensor::{Device, Kind, Tensor, to_f64s, to_i64s};

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("ArgMax", 1, 1, |node| arg(node, Tensor::f_argmax)).gradients(&[]),
    Op::new("ArgMin", 1, 1, |node| arg(node, Tensor::f_argmin)).gradients(&[]),
    Op::new("TopK", 1, 1, |node| {
        let Some(k) = node.int("k")? else { return Err(Error::malformed("attribute 'k' is missing")) };
        top_k(node, Some(k))
    })
    .outputs(2),
    Op::new("TopK", 10, 2, |node| top_k(node, None)).at_least(2).outputs(2),
    Op::new("CumSum", 11, 2, |node| cumulate(node, 0, |x, axis, kind| Ok(x.f_cumsum(axis, kind)?))).at_least(2),
    Op::new("CumProd", 26, 2, |node| cumulate(node, 1, |x, axis, kind| Ok(x.f_cumprod(axis, kind)?))).at_least(2),
    Op::new("OneHot", 9, 3, one_hot).at_least(3).gradients(&[2]),
    Op::new("NonZero", 9, 1, |_| one(|call| Ok(call.input(0)?.f_nonzero()?.f_tr()?))).gradients(&[]),
    Op::new("Compress", 9, 2, compress).at_least(2),
    Op::new("Trilu", 14, 2, trilu),
    Op::new("EyeLike", 9, 1, eye_like).gradients(&[]),
    Op::new("Range", 11, 3, |node| {
        // Halves are always computed in a wider type here.
        node.ignore("stash_type");
        one(range)
    })
    .at_least(3)
    .gradients(&[]),
];

/// Of equal values the first counts, or the last one with `select_last_index` (opset 12).
fn arg<E: Into<Error> + 'static>(
    node: &Node<'_>,
    find: fn(&Tensor, Option<i64>, bool) -> std::result::Result<Tensor, E>,
) -> Result<Kernel> {
    let axis = node.int_or("axis", 0)?;
    let keep = node.int_or("keepdims", 1)? != 0;
    let last = node.opset >= 12 && node.flag("select_last_index")?;
    one(move |call| {
        let x = call.input(0)?;
        let axis = axis_in(axis, x.dim())?;
        if !last {
            return find(x, Some(axis), keep).map_err(Into::into);
        }
        let from_end = find(&x.f_flip([axis])?, Some(axis), keep).map_err(Into::into)?;
        Ok(from_end.f_neg()?.f_add_scalar(dim(&x.size(), axis)? - 1)?)
    })
}

fn top_k(node: &Node<'_>, fixed: Option<i64>) -> Result<Kernel> {
    let axis = node.int_or("axis", -1)?;
    let largest = node.opset < 11 || node.int_or("largest", 1)? != 0;
    // Sorted is one of the orders that unsorted allows.
    node.ignore("sorted");
    Ok(Box::new(move |call| {
        let x = call.input(0)?;
        let axis = axis_in(axis, x.dim())?;
        let k = match fixed {
            Some(k) => k,
            None => match call.ints(1)?[..] {
                [k] => k,
                _ => return Err(Error::malformed("K has to be a single number")),
            },
        };
        if !(0..=dim(&x.size(), axis)?).contains(&k) {
            return Err(Error::malformed(format!("K {k} does not fit an axis of shape {:?}", x.size())));
        }
        // A stable sort, because of equal values the one with the lower index comes first; libtorch's topk does not promise that.
        let (values, places) = x.f_sort_stable(true, axis, largest)?;
        Ok(vec![values.f_narrow(axis, 0, k)?, places.f_narrow(axis, 0, k)?])
    }))
}

fn cumulate(node: &Node<'_>, neutral: i64, run: fn(&Tensor, i64, Kind) -> Result<Tensor>) -> Result<Kernel> {
    let exclusive = node.flag("exclusive")?;
    let reverse = node.flag("reverse")?;
    one(move |call| {
        let x = call.input(0)?;
        let axis = match call.ints(1)?[..] {
            [axis] => axis_in(axis, x.dim())?,
            _ => return Err(Error::malformed("axis has to be a single number")),
        };
        let mut y = if reverse { x.f_flip([axis])? } else { x.shallow_clone() };
        let size = dim(&x.size(), axis)?;
        if exclusive && size > 0 {
            let first = y.f_narrow(axis, 0, 1)?.f_full_like(neutral)?;
            y = Tensor::f_cat(&[first, y.f_narrow(axis, 0, size - 1)?], axis)?;
        }
        y = run(&y, axis, x.f_kind()?)?;
        if reverse { Ok(y.f_flip([axis])?) } else { Ok(y) }
    })
}

/// Indices outside `-depth..depth` give a row of off values.
fn one_hot(node: &Node<'_>) -> Result<Kernel> {
    let axis = node.int_or("axis", -1)?;
    one(move |call| {
        let (index, values) = (call.input(0)?, call.input(2)?);
        let depth = match to_f64s(call.input(1)?)?[..] {
            #[expect(clippy::cast_possible_truncation, reason = "depth may be held in a float; ONNX casts it")]
            [depth] if depth >= 0.0 => depth as i64,
            _ => return Err(Error::malformed("depth has to be a single number that is not negative")),
        };
        let axis = axis_in(axis, index.dim() + 1)?;
        let mut result = index.size();
        result.push(depth);
        elements(&result)?;
        let device = device_of([index, values]);
        let index = on(index, device)?.f_to_kind(Kind::Int64)?.f_unsqueeze(axis)?;
        let index = index.f_add_scalar(depth)?.f_where_self(&index.f_lt(0)?, &index)?;
        let mut ladder = vec![1; result.len()];
        ladder[usize::try_from(axis).map_err(Error::malformed)?] = depth;
        let hot = index.f_eq_tensor(&Tensor::f_arange(depth, (Kind::Int64, device))?.f_reshape(ladder)?)?;
        let values = on(values, device)?;
        Ok(values.f_select(0, 1)?.f_where_self(&hot, &values.f_select(0, 0)?)?)
    })
}

/// The condition may be shorter than the axis; what it does not reach is left out.
fn compress(node: &Node<'_>) -> Result<Kernel> {
    let axis = node.int("axis")?;
    one(move |call| {
        let x = call.input(0)?;
        let (x, axis) = match axis {
            Some(axis) => (x.shallow_clone(), axis_in(axis, x.dim())?),
            None => (x.f_reshape([-1])?, 0),
        };
        let condition = to_i64s(call.input(1)?)?;
        let chosen: Vec<i64> = (0..).zip(&condition).filter(|&(_, &yes)| yes != 0).map(|(at, _)| at).collect();
        let size = dim(&x.size(), axis)?;
        if chosen.last().is_some_and(|&at| at >= size) {
            return Err(Error::malformed(format!("the condition reaches beyond an axis of size {size}")));
        }
        Ok(x.f_index_select(axis, &on(&Tensor::f_from_slice(&chosen)?, x.device())?)?)
    })
}

fn trilu(node: &Node<'_>) -> Result<Kernel> {
    let upper = node.int_or("upper", 1)? != 0;
    one(move |call| {
        let x = call.input(0)?;
        let diagonal = match call.optional_ints(1)?.as_deref() {
            None => 0,
            Some([k]) => *k,
            Some(_) => return Err(Error::malformed("k has to be a single number")),
        };
        Ok(if upper { x.f_triu(diagonal)? } else { x.f_tril(diagonal)? })
    })
}

fn eye_like(node: &Node<'_>) -> Result<Kernel> {
    let kind = kind_attribute(node, "dtype")?;
    let k = node.int_or("k", 0)?;
    one(move |call| {
        let x = call.input(0)?;
        let [rows, columns] = x.size()[..] else { return Err(Error::malformed("EyeLike needs a matrix")) };
        let kind = kind.map_or_else(|| x.f_kind(), Ok)?;
        let row = Tensor::f_arange(rows, (Kind::Int64, x.device()))?.f_add_scalar(k)?.f_unsqueeze(1)?;
        let column = Tensor::f_arange(columns, (Kind::Int64, x.device()))?;
        Ok(row.f_eq_tensor(&column)?.f_to_kind(kind)?)
    })
}

/// `start + i * delta` for `ceil((limit - start) / delta)` values of `i`, on the CPU, where shapes are made.
fn range(call: &Call<'_>) -> Result<Tensor> {
    let kind = call.input(0)?.f_kind()?;
    let single = |values: &[f64]| values.first().copied().ok_or_else(|| Error::malformed("an input of Range is empty"));
    if is_whole(kind) {
        let number = |index: usize| -> Result<i64> {
            call.ints(index)?.first().copied().ok_or_else(|| Error::malformed("an input of Range is empty"))
        };
        let (start, limit, delta) = (number(0)?, number(1)?, number(2)?);
        if delta == 0 {
            return Err(Error::malformed("Range never ends"));
        }
        let (span, wide) = (i128::from(limit) - i128::from(start), i128::from(delta));
        let count = span / wide + i128::from(span % wide != 0 && (span > 0) == (delta > 0));
        let count = i64::try_from(count.max(0)).map_err(Error::malformed)?;
        new_elements(&[count])?;
        let steps = Tensor::f_arange(count, (Kind::Int64, Device::Cpu))?;
        return Ok(steps.f_mul_scalar(delta)?.f_add_scalar(start)?.f_to_kind(kind)?);
    }
    let number = |index: usize| single(&to_f64s(call.input(index)?)?);
    let (start, limit, delta) = (number(0)?, number(1)?, number(2)?);
    let count = ((limit - start) / delta).ceil().max(0.0);
    #[expect(clippy::cast_possible_truncation, reason = "whole; what does not fit is refused")]
    let count = if count.is_finite() { count as i64 } else { i64::MAX };
    new_elements(&[count])?;
    let steps = Tensor::f_arange(count, (Kind::Double, Device::Cpu))?;
    Ok(steps.f_mul_scalar(delta)?.f_add_scalar(start)?.f_to_kind(kind)?)
}
