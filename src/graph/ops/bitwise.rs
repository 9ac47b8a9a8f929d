//! Operations on the bits of integers.

use super::operands::pair;
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
            "LEFT" => one(|call| binary(call, left)),
            "RIGHT" => one(|call| binary(call, right)),
            _ => node.unsupported(format!("direction '{direction}'")),
        }
    })
    .at_least(2)
    .gradients(&[]),
];

fn binary(call: &Call<'_>, run: fn(&Tensor, &Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let (a, b) = pair(call)?;
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

/// ONNX shifts unsigned integers only; those of 16 and 32 bits are held in wider kinds.
fn left(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let shifted = a.f_bitwise_left_shift(b)?;
    match shifted.f_kind()? {
        Kind::Int => Ok(shifted.f_bitwise_and(0xffff)?),
        Kind::Int64 if shifted.numel() > 0 => {
            let beyond = shifted.f_max()?.f_int64_value(&[])? > 0xffff_ffff || shifted.f_min()?.f_int64_value(&[])? < 0;
            if beyond { Err(Error::unsupported("BitShift beyond 32 bits is not supported")) } else { Ok(shifted) }
        }
        _ => Ok(shifted),
    }
}

fn right(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Ok(a.f_bitwise_right_shift(b)?)
}
