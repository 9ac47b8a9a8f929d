//! Arithmetic on two or more operands, and Clip.

use super::operands::{Align, bound_broadcast, device_of, is_whole, on, variadic};
use super::{ALL, ByExample, Call, InBf16, Kernel, Link, Node, Op, one};
use crate::error::{Error, Result};
use crate::tensor::{Device, Kind, Tensor, is_float, to_i64s};

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("Add", 1, 2, |node| binary(node, |a, b| Ok(a.f_add(b)?)))
        .at_least(2)
        .weights(ALL)
        .gradients(ALL)
        .by_example(ByExample::Copies)
        .in_bf16(InBf16::Follows)
        .link(|_| Ok(Some(Link::Add))),
    Op::new("Sub", 1, 2, |node| binary(node, |a, b| Ok(a.f_sub(b)?)))
        .at_least(2)
        .weights(ALL)
        .gradients(ALL)
        .by_example(ByExample::Copies),
    Op::new("Mul", 1, 2, |node| binary(node, |a, b| Ok(a.f_mul(b)?)))
        .at_least(2)
        .weights(ALL)
        .gradients(ALL)
        .by_example(ByExample::Copies),
    Op::new("Div", 1, 2, |node| binary(node, div)).at_least(2).weights(ALL).gradients(ALL).by_example(ByExample::Copies),
    Op::new("Pow", 1, 2, |node| binary(node, pow)).at_least(2).weights(ALL).gradients(ALL).by_example(ByExample::Copies),
    Op::new("Mod", 10, 2, modulo).at_least(2).gradients(ALL),
    Op::new("Max", 1, usize::MAX, |node| fold(node, |a, b| Ok(a.f_maximum(b)?))).weights(ALL).gradients(ALL),
    Op::new("Min", 1, usize::MAX, |node| fold(node, |a, b| Ok(a.f_minimum(b)?))).weights(ALL).gradients(ALL),
    Op::new("Sum", 1, usize::MAX, |node| fold(node, |a, b| Ok(a.f_add(b)?))).weights(ALL).gradients(ALL),
    Op::new("Mean", 1, usize::MAX, mean).weights(ALL).gradients(ALL),
    Op::new("Clip", 1, 1, clip_by_attributes),
    Op::new("Clip", 11, 3, |_| one(clip)),
];

fn binary(node: &Node<'_>, run: fn(&Tensor, &Tensor) -> Result<Tensor>) -> Result<Kernel> {
    let align = Align::of(node)?;
    one(move |call| {
        let (a, b) = align.pair(call)?;
        run(&a, &b)
    })
}

/// Whole numbers divide towards zero.
fn div(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if !(is_whole(a.f_kind()?) && is_whole(b.f_kind()?)) {
        return Ok(a.f_div(b)?);
    }
    refuse_overflow(a, b)?;
    Ok(a.f_div_tensor_mode(b, "trunc")?)
}

/// Refuses the least number of a signed type divided by -1: it has no counterpart above zero, ONNX gives it no meaning, and
/// processors end a program that tries.
fn refuse_overflow(a: &Tensor, b: &Tensor) -> Result<()> {
    let least = match a.f_kind()? {
        Kind::Int => i64::from(i32::MIN),
        Kind::Int64 => i64::MIN,
        // Smaller types are divided in registers that hold the result.
        _ => return Ok(()),
    };
    let overflows = a.f_eq(least)?.f_logical_and(&b.f_eq(-1)?)?.f_any()?.f_int64_value(&[])? != 0;
    if overflows { Err(Error::malformed(format!("{least} divided by -1 overflows"))) } else { Ok(()) }
}

/// The result has the base's type, whatever the exponent's is.
fn pow(base: &Tensor, exponent: &Tensor) -> Result<Tensor> {
    let kind = base.f_kind()?;
    // A lone exponent is read, because squaring is far cheaper than the general power and has gradients at zero.
    let lone = exponent.dim() == 0 && exponent.device() == Device::Cpu && !exponent.requires_grad();
    if lone && is_float(kind) {
        let exponent = exponent.f_double_value(&[])?;
        return Ok(base.f_pow_tensor_scalar(exponent)?);
    }
    if is_whole(kind) && !is_whole(exponent.f_kind()?) {
        return Ok(base.f_to_kind(Kind::Double)?.f_pow(&exponent.f_to_kind(Kind::Double)?)?.f_to_kind(kind)?);
    }
    let power = base.f_pow(exponent)?;
    if power.f_kind()? == kind { Ok(power) } else { Ok(power.f_to_kind(kind)?) }
}

/// `fmod` 1 gives C's fmod (sign of the dividend), 0 the floored remainder (sign of the divisor).
fn modulo(node: &Node<'_>) -> Result<Kernel> {
    let truncated = node.flag("fmod")?;
    let opset = node.opset;
    binary_with(move |a, b| {
        if !truncated && opset < 28 && is_float(a.f_kind()?) {
            return Err(Error::malformed("Mod of floating-point operands needs fmod 1"));
        }
        refuse_overflow(a, b)?;
        if truncated {
            return Ok(a.f_fmod_tensor(b)?);
        }
        Ok(a.f_remainder_tensor(b)?)
    })
}

fn binary_with(run: impl Fn(&Tensor, &Tensor) -> Result<Tensor> + Send + Sync + 'static) -> Result<Kernel> {
    one(move |call| {
        let (a, b) = Align::Numpy.pair(call)?;
        run(&a, &b)
    })
}

fn fold(node: &Node<'_>, run: fn(&Tensor, &Tensor) -> Result<Tensor>) -> Result<Kernel> {
    node.ignore("consumed_inputs");
    one(move |call| folded(call, run))
}

fn folded(call: &Call<'_>, run: fn(&Tensor, &Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let mut operands = variadic(call)?.into_iter();
    let first = operands.next().ok_or_else(|| Error::malformed("no inputs"))?;
    operands.try_fold(first, |total, operand| {
        bound_broadcast(&[&total, &operand])?;
        run(&total, &operand)
    })
}

fn mean(node: &Node<'_>) -> Result<Kernel> {
    node.ignore("consumed_inputs");
    one(|call| {
        let sum = folded(call, |a, b| Ok(a.f_add(b)?))?;
        Ok(sum.f_div_scalar(i64::try_from(call.inputs.len()).map_err(Error::malformed)?)?)
    })
}

fn clip_by_attributes(node: &Node<'_>) -> Result<Kernel> {
    node.ignore("consumed_inputs");
    let min = node.float_or("min", f64::from(f32::MIN))?;
    let max = node.float_or("max", f64::from(f32::MAX))?;
    one(move |call| Ok(call.input(0)?.f_clamp(min, max)?))
}

/// Where `min` is above `max`, the result is `max`, in ONNX and libtorch alike.
fn clip(call: &Call<'_>) -> Result<Tensor> {
    let x = call.input(0)?;
    let (min, max) = (call.optional(1), call.optional(2));
    let bounds = || min.into_iter().chain(max);
    if bounds().any(|bound| bound.numel() != 1) {
        return Err(Error::malformed("min and max have to be scalars"));
    }
    if bounds().any(|bound| bound.device() != Device::Cpu) {
        // Reading a bound would wait for the accelerator.
        let device = device_of(bounds().chain([x]));
        let bound = |tensor: Option<&Tensor>| -> Result<Option<Tensor>> {
            tensor.map(|tensor| Ok(on(tensor, device)?.f_reshape([0_i64; 0])?)).transpose()
        };
        return Ok(on(x, device)?.f_clamp_tensor(bound(min)?, bound(max)?)?);
    }
    if is_whole(x.f_kind()?) {
        let number = |bound: Option<&Tensor>| -> Result<Option<i64>> {
            Ok(bound.map(to_i64s).transpose()?.and_then(|values| values.first().copied()))
        };
        return Ok(match (number(min)?, number(max)?) {
            (Some(min), Some(max)) => x.f_clamp(min, max)?,
            (Some(min), None) => x.f_clamp_min(min)?,
            (None, Some(max)) => x.f_clamp_max(max)?,
            (None, None) => x.shallow_clone(),
        });
    }
    let (min, max) = (call.optional_number(1)?, call.optional_number(2)?);
    Ok(match (min, max) {
        (Some(min), Some(max)) => x.f_clamp(min, max)?,
        (Some(min), None) => x.f_clamp_min(min)?,
        (None, Some(max)) => x.f_clamp_max(max)?,
        (None, None) => x.shallow_clone(),
    })
}
