//! Operators: elementwise arithmetic, with broadcasting.

use super::{ALL, Call, Kernel, Node, Op, axis_in, one};
use crate::error::{Error, Result};
use crate::tensor::{Device, Kind, Tensor, is_float};

/// The rows of this family.
pub const OPS: &[Op] = &[
    binary_row("Add", 1, add_legacy),
    binary_row("Add", 7, add),
    binary_row("Sub", 1, sub_legacy),
    binary_row("Sub", 7, sub),
    binary_row("Mul", 1, mul_legacy),
    binary_row("Mul", 7, mul),
    binary_row("Div", 1, div_legacy),
    binary_row("Div", 7, div),
    Op::new("Pow", 1, 2, pow_legacy).at_least(2).gradients(&[0, 1]),
    Op::new("Pow", 7, 2, pow).at_least(2).gradients(&[0, 1]),
    Op::new("Mod", 10, 2, modulo).at_least(2).gradients(&[]),
    Op::new("Neg", 1, 1, neg),
    Op::new("Abs", 1, 1, abs),
    Op::new("Sqrt", 1, 1, sqrt),
    Op::new("Reciprocal", 1, 1, reciprocal),
    Op::new("Exp", 1, 1, exp),
    Op::new("Log", 1, 1, log),
    Op::new("Floor", 1, 1, floor).gradients(&[]),
    Op::new("Ceil", 1, 1, ceil).gradients(&[]),
    Op::new("Round", 11, 1, round).gradients(&[]),
    Op::new("Sign", 9, 1, sign).gradients(&[]),
    Op::new("Sin", 7, 1, sin),
    Op::new("Cos", 7, 1, cos),
    Op::new("Min", 1, usize::MAX, min).gradients(ALL),
    Op::new("Max", 1, usize::MAX, max).gradients(ALL),
    Op::new("Sum", 1, usize::MAX, sum).weights(ALL).gradients(ALL),
    Op::new("Mean", 1, usize::MAX, mean).weights(ALL).gradients(ALL),
    Op::new("Clip", 1, 1, clip_attributes),
    Op::new("Clip", 11, 3, clip),
];

const fn binary_row(name: &'static str, since: i64, compile: fn(&Node<'_>) -> Result<Kernel>) -> Op {
    Op::new(name, since, 2, compile).at_least(2).weights(ALL).gradients(ALL)
}

/// Both operands on one device: shapes and scalars stay on the host until they meet data.
pub(crate) fn together(a: &Tensor, b: &Tensor) -> Result<(Tensor, Tensor)> {
    let (a, b) = (a.shallow_clone(), b.shallow_clone());
    match (a.device(), b.device()) {
        (x, y) if x == y => Ok((a, b)),
        (Device::Cpu, device) => Ok((a.f_to_device(device)?, b)),
        (device, _) => Ok((a, b.f_to_device(device)?)),
    }
}

type Binary = fn(&Tensor, &Tensor) -> Result<Tensor>;

fn binary(run: Binary) -> Result<Kernel> {
    one(move |call| {
        let (a, b) = together(call.input(0)?, call.input(1)?)?;
        if a.kind() != b.kind() {
            return Err(Error::malformed(format!("operands of kinds {:?} and {:?} cannot be combined", a.kind(), b.kind())));
        }
        run(&a, &b)
    })
}

/// Before opset 7 the second operand is aligned at `axis` and only if `broadcast` is set.
pub(crate) fn legacy(node: &Node, run: Binary) -> Result<Kernel> {
    node.ignore("consumed_inputs");
    let broadcast = node.flag("broadcast")?;
    let axis = node.int("axis")?;
    one(move |call| {
        let (a, b) = together(call.input(0)?, call.input(1)?)?;
        if !broadcast && a.size() != b.size() {
            return Err(Error::malformed(format!("shapes {:?} and {:?} differ and broadcasting is off", a.size(), b.size())));
        }
        let Some(axis) = axis.filter(|_| broadcast) else { return run(&a, &b) };
        let axis = usize::try_from(axis_in(axis, a.dim())?).map_err(Error::malformed)?;
        let mut shape = b.size();
        if axis + shape.len() > a.dim() {
            return Err(Error::malformed(format!("an operand of rank {} at axis {axis} exceeds rank {}", shape.len(), a.dim())));
        }
        shape.resize(a.dim() - axis, 1);
        run(&a, &b.f_reshape(shape.as_slice())?)
    })
}

fn add_of(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Ok(a.f_add(b)?)
}

fn sub_of(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Ok(a.f_sub(b)?)
}

fn mul_of(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Ok(a.f_mul(b)?)
}

/// ONNX divides integers with truncation toward zero.
fn div_of(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if is_float(a.kind()) {
        return Ok(a.f_div(b)?);
    }
    if b.f_eq(0)?.f_any()?.f_int64_value(&[])? != 0 {
        return Err(Error::malformed("integer division by zero"));
    }
    Ok(a.f_div_tensor_mode(b, "trunc")?)
}

fn add(_: &Node) -> Result<Kernel> {
    binary(add_of)
}

fn add_legacy(node: &Node) -> Result<Kernel> {
    legacy(node, add_of)
}

fn sub(_: &Node) -> Result<Kernel> {
    binary(sub_of)
}

fn sub_legacy(node: &Node) -> Result<Kernel> {
    legacy(node, sub_of)
}

fn mul(_: &Node) -> Result<Kernel> {
    binary(mul_of)
}

fn mul_legacy(node: &Node) -> Result<Kernel> {
    legacy(node, mul_of)
}

fn div(_: &Node) -> Result<Kernel> {
    binary(div_of)
}

fn div_legacy(node: &Node) -> Result<Kernel> {
    legacy(node, div_of)
}

/// The result has the kind of the base; the exponent may have another.
fn pow_of(base: &Tensor, exponent: &Tensor) -> Result<Tensor> {
    if is_float(base.kind()) {
        // The square keeps a gradient at 0 that the general power has not.
        if exponent.numel() == 1 && !exponent.requires_grad() && exponent.f_double_value(&vec![0; exponent.dim()])? == 2.0 {
            let square = base.f_mul(base)?;
            return Ok(if exponent.dim() > base.dim() { square.f_add(&exponent.f_mul_scalar(0.0)?)? } else { square });
        }
        return Ok(base.f_pow(&exponent.f_to_kind(base.kind())?)?);
    }
    if is_float(exponent.kind()) {
        return Ok(base.f_to_kind(Kind::Double)?.f_pow(&exponent.f_to_kind(Kind::Double)?)?.f_to_kind(base.kind())?);
    }
    Ok(base.f_pow(&exponent.f_to_kind(base.kind())?)?)
}

fn pow(_: &Node) -> Result<Kernel> {
    one(|call| {
        let (base, exponent) = together(call.input(0)?, call.input(1)?)?;
        pow_of(&base, &exponent)
    })
}

fn pow_legacy(node: &Node) -> Result<Kernel> {
    legacy(node, pow_of)
}

/// With `fmod` the sign is the dividend's, as in C; without, the divisor's, as in Python.
fn modulo(node: &Node) -> Result<Kernel> {
    let fmod = node.flag("fmod")?;
    one(move |call| {
        let (a, b) = together(call.input(0)?, call.input(1)?)?;
        if !is_float(a.kind()) && b.f_eq(0)?.f_any()?.f_int64_value(&[])? != 0 {
            return Err(Error::malformed("integer division by zero"));
        }
        if !fmod && is_float(a.kind()) {
            return Err(Error::malformed("Mod of floating-point numbers needs fmod = 1"));
        }
        Ok(if fmod { a.f_fmod_tensor(&b)? } else { a.f_remainder_tensor(&b)? })
    })
}

type Unary = fn(&Tensor) -> std::result::Result<Tensor, crate::tensor::TchError>;

fn unary(node: &Node, run: Unary) -> Result<Kernel> {
    node.ignore("consumed_inputs");
    one(move |call| Ok(run(call.input(0)?)?))
}

fn neg(node: &Node) -> Result<Kernel> {
    unary(node, Tensor::f_neg)
}

fn abs(node: &Node) -> Result<Kernel> {
    unary(node, Tensor::f_abs)
}

fn sqrt(node: &Node) -> Result<Kernel> {
    unary(node, Tensor::f_sqrt)
}

fn reciprocal(node: &Node) -> Result<Kernel> {
    unary(node, Tensor::f_reciprocal)
}

fn exp(node: &Node) -> Result<Kernel> {
    unary(node, Tensor::f_exp)
}

fn log(node: &Node) -> Result<Kernel> {
    unary(node, Tensor::f_log)
}

fn floor(node: &Node) -> Result<Kernel> {
    unary(node, Tensor::f_floor)
}

fn ceil(node: &Node) -> Result<Kernel> {
    unary(node, Tensor::f_ceil)
}

/// libtorch rounds halves to even, as ONNX does.
fn round(node: &Node) -> Result<Kernel> {
    unary(node, Tensor::f_round)
}

fn sign(node: &Node) -> Result<Kernel> {
    unary(node, Tensor::f_sign)
}

fn sin(node: &Node) -> Result<Kernel> {
    unary(node, Tensor::f_sin)
}

fn cos(node: &Node) -> Result<Kernel> {
    unary(node, Tensor::f_cos)
}

fn fold_inputs(call: &Call, run: Binary) -> Result<Tensor> {
    let mut result = call.input(0)?.shallow_clone();
    for index in 1..call.inputs.len() {
        let (a, b) = together(&result, call.input(index)?)?;
        result = run(&a, &b)?;
    }
    Ok(result)
}

fn variadic(node: &Node, run: Binary) -> Result<Kernel> {
    node.ignore("consumed_inputs");
    one(move |call| fold_inputs(call, run))
}

fn min(node: &Node) -> Result<Kernel> {
    variadic(node, |a, b| Ok(a.f_minimum(b)?))
}

fn max(node: &Node) -> Result<Kernel> {
    variadic(node, |a, b| Ok(a.f_maximum(b)?))
}

fn sum(node: &Node) -> Result<Kernel> {
    variadic(node, add_of)
}

fn mean(node: &Node) -> Result<Kernel> {
    node.ignore("consumed_inputs");
    one(|call| Ok(fold_inputs(call, add_of)?.f_div_scalar(call.inputs.len() as f64)?))
}

fn clip_attributes(node: &Node) -> Result<Kernel> {
    node.ignore("consumed_inputs");
    let (low, high) = (node.float("min")?, node.float("max")?);
    one(move |call| {
        let mut x = call.input(0)?.shallow_clone();
        if let Some(low) = low {
            x = x.f_clamp_min(low)?;
        }
        if let Some(high) = high {
            x = x.f_clamp_max(high)?;
        }
        Ok(x)
    })
}

/// The upper bound wins where the bounds cross, in ONNX and in libtorch.
fn clip(_: &Node) -> Result<Kernel> {
    one(|call| {
        let x = call.input(0)?;
        let bound = |index: usize| -> Result<Option<Tensor>> { call.optional(index).map(|b| Ok(together(x, b)?.1)).transpose() };
        let (low, high) = (bound(1)?, bound(2)?);
        if low.is_none() && high.is_none() { Ok(x.shallow_clone()) } else { Ok(x.f_clamp_tensor(low, high)?) }
    })
}
