//! Operations on the bits of integers.

use super::operands::Align;
use super::{Call, Op, one};
use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor};

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("BitwiseAnd", 18, 2, |_| one(|call| binary(call, |a, b| Ok(a.f_bitwise_and_tensor(b)?)))).at_least(2).gradients(&[]),
    Op::new("BitwiseOr", 18, 2, |_| one(|call| binary(call, |a, b| Ok(a.f_bitwise_or_tensor(b)?)))).at_least(2).gradients(&[]),
    Op::new("BitwiseXor", 18, 2, |_| one(|call| binary(call, |a, b| Ok(a.f_bitwise_xor_tensor(b)?)))).at_least(2).gradients(&[]),
    Op::new("BitwiseNot", 18, 1, |_| one(not)).gradients(&[]),
    Op::new("BitShift", 11, 2, |node| {
        let direction = node.text_or("direction", "")?;
        match direction.as_str() {
            "LEFT" if node.opset < 28 => one(|call| binary(call, |a, b| left(a, b, false))),
            "LEFT" => one(|call| binary(call, |a, b| left(a, b, true))),
            "RIGHT" => one(|call| binary(call, right)),
            _ => node.unsupported(format!("direction '{direction}'")),
        }
    })
    .at_least(2)
    .gradients(&[]),
];

fn binary(call: &Call<'_>, run: fn(&Tensor, &Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let (a, b) = Align::Numpy.pair(call)?;
    run(&a, &b)
}

/// 32- and 64-bit kinds may hold narrower unsigned integers, whose complement is another number.
fn not(call: &Call<'_>) -> Result<Tensor> {
    let x = call.input(0)?;
    match x.f_kind()? {
        Kind::Int | Kind::Int64 => Err(Error::unsupported("BitwiseNot of 16-, 32- and 64-bit integers is not supported")),
        _ => Ok(x.f_bitwise_not()?),
    }
}

/// Below opset 28 ONNX shifts unsigned integers only, of which those of 16 and 32 bits are held in wider kinds. Where a result
/// would depend on which of two types a kind holds, it is refused.
fn left(a: &Tensor, b: &Tensor, signed: bool) -> Result<Tensor> {
    let shifted = a.f_bitwise_left_shift(b)?;
    let narrow = match shifted.f_kind()? {
        Kind::Int if !signed => return Ok(shifted.f_bitwise_and(0xffff)?),
        Kind::Int => 0xffff,
        Kind::Int64 => 0xffff_ffff,
        _ => return Ok(shifted),
    };
    if shifted.numel() > 0 && (shifted.f_max()?.f_int64_value(&[])? > narrow || shifted.f_min()?.f_int64_value(&[])? < 0) {
        return Err(Error::unsupported(format!("BitShift to the left of {narrow:#x} is not supported")));
    }
    Ok(shifted)
}

fn right(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Ok(a.f_bitwise_right_shift(b)?)
}
