//! Changes of element type.

use super::operands::is_whole;
use super::values::{kind_of, unsigned_mask};
use super::{Flow, Kernel, Node, Op, one};
use crate::error::{Error, Result};
use crate::onnx::proto::tensor_proto::DataType;
use crate::tensor::{Kind, Tensor};
use protobuf::Enum;

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("Cast", 1, 1, |node| {
        let name = node.text_or("to", "")?;
        match DataType::from_str(&name) {
            Some(data_type) => to(data_type.value()),
            None => node.unsupported(format!("to '{name}'")),
        }
    })
    .flow(Flow::Moves),
    Op::new("Cast", 6, 1, cast).flow(Flow::Moves),
    Op::new("CastLike", 15, 2, |node| {
        eight_bit_only(node);
        // Which unsigned type a wider kind stands for is not known here; values within range are right either way.
        one(|call| convert(call.input(0)?, call.input(1)?.f_kind()?))
    })
    .at_least(2)
    .flow(Flow::Moves),
];

/// `saturate` and `round_mode` speak of 8-bit floats only, which are refused as element types.
fn eight_bit_only(node: &Node<'_>) {
    node.ignore("saturate");
    node.ignore("round_mode");
}

fn cast(node: &Node<'_>) -> Result<Kernel> {
    eight_bit_only(node);
    let Some(data_type) = node.int("to")? else { return Err(Error::malformed("attribute 'to' is missing")) };
    to(i32::try_from(data_type).map_err(Error::malformed)?)
}

fn to(data_type: i32) -> Result<Kernel> {
    let kind = kind_of(data_type)?;
    let mask = unsigned_mask(data_type);
    one(move |call| {
        let x = call.input(0)?;
        match mask {
            // Through Int64, so that what does not fit wraps instead of being clamped or undefined.
            Some(mask) => Ok(convert(x, Kind::Int64)?.f_bitwise_and(mask)?.f_to_kind(kind)?),
            None => convert(x, kind),
        }
    })
}

/// Floats lose their fraction on the way to an integer.
fn convert(x: &Tensor, kind: Kind) -> Result<Tensor> {
    let from = x.f_kind()?;
    if from == kind {
        return Ok(x.shallow_clone());
    }
    // A float beyond a narrow integer's range is undefined in C; through Int64 it wraps on every machine.
    if !is_whole(from) && matches!(kind, Kind::Uint8 | Kind::Int8 | Kind::Int16) {
        return Ok(x.f_to_kind(Kind::Int64)?.f_to_kind(kind)?);
    }
    Ok(x.f_to_kind(kind)?)
}
