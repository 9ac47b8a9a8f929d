//! Changes of element type.

use super::operands::is_whole;
use super::values::{held_range, kind_of};
use super::{Call, Flow, Kernel, Node, Op, one};
use crate::error::{Error, Result};
use crate::onnx::proto::tensor_proto::DataType;
use crate::tensor::{Kind, Tensor};
use protobuf::Enum;

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("Cast", 1, 1, |node| {
        let name = node.text_or("to", "")?;
        match DataType::from_str(&name) {
            Some(data_type) => to(data_type.value(), true),
            None => node.unsupported(format!("to '{name}'")),
        }
    })
    .flow(Flow::Moves),
    Op::new("Cast", 6, 1, cast).flow(Flow::Moves),
    Op::new("CastLike", 15, 2, |node| {
        let saturate = saturates(node)?;
        match node.input_type(1) {
            Some(data_type) => to(data_type, saturate),
            // Which of several types a kind stands for is not known here; values within range are right either way.
            None => one(move |call| narrowed(call.input(0)?, call.input(1)?.f_kind()?, saturate)),
        }
    })
    .at_least(2)
    .flow(Flow::Moves),
    Op::new("BitCast", 26, 1, bit_cast).gradients(&[]),
];

/// Whether what is beyond an 8-bit float's range becomes its largest number.
fn saturates(node: &Node<'_>) -> Result<bool> {
    // Speaks of FLOAT8E8M0 only, which is refused as an element type.
    node.ignore("round_mode");
    Ok(node.int_or("saturate", 1)? != 0)
}

fn cast(node: &Node<'_>) -> Result<Kernel> {
    let saturate = saturates(node)?;
    let Some(data_type) = node.int("to")? else { return Err(Error::malformed("attribute 'to' is missing")) };
    to(i32::try_from(data_type).map_err(Error::malformed)?, saturate)
}

fn to(data_type: i32, saturate: bool) -> Result<Kernel> {
    let kind = kind_of(data_type)?;
    let range = held_range(data_type);
    one(move |call| {
        let x = call.input(0)?;
        match range {
            // Through Int64, so that what does not fit wraps instead of being clamped or undefined.
            Some((least, bits)) => {
                let wrapped = convert(x, Kind::Int64)?.f_sub_scalar(least)?.f_bitwise_and((1_i64 << bits) - 1)?;
                Ok(wrapped.f_add_scalar(least)?.f_to_kind(kind)?)
            }
            None => narrowed(x, kind, saturate),
        }
    })
}

/// As [`convert`], and to 8-bit floats. Also for QuantizeLinear.
pub(super) fn narrowed(x: &Tensor, kind: Kind, saturate: bool) -> Result<Tensor> {
    let Some(largest) = largest_small_float(kind) else { return convert(x, kind) };
    let x = x.f_to_kind(Kind::Float)?;
    let x = if saturate { x.f_clamp(-largest, largest)? } else { x };
    Ok(x.f_to_kind(kind)?)
}

/// The largest number that an 8-bit float holds; `None` for other kinds.
pub(super) fn largest_small_float(kind: Kind) -> Option<f64> {
    match kind {
        Kind::Float8e4m3fn => Some(448.0),
        Kind::Float8e4m3fnuz => Some(240.0),
        Kind::Float8e5m2 | Kind::Float8e5m2fnuz => Some(57344.0),
        _ => None,
    }
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

/// onnx: BitCast-26: the same bits as another type of the same width.
fn bit_cast(node: &Node<'_>) -> Result<Kernel> {
    let Some(to_type) = node.int("to")? else { return Err(Error::malformed("attribute 'to' is missing")) };
    let to_type = i32::try_from(to_type).map_err(Error::malformed)?;
    let (kind, bits) = (kind_of(to_type)?, bits_of(to_type)?);
    let source = node.input_type(0).map(bits_of).transpose()?;
    let narrow = to(to_type, true)?;
    one(move |call| {
        let x = call.input(0)?;
        let from = x.f_kind()?;
        let given = source.unwrap_or(from.elt_size_in_bytes() * 8);
        let signed = match bits {
            8 => Kind::Int8,
            16 => Kind::Int16,
            32 => Kind::Int,
            64 => Kind::Int64,
            _ => return Err(Error::unsupported(format!("BitCast of {bits} bits is not supported"))),
        };
        if given != bits {
            return Err(Error::malformed(format!("{given} bits cannot be cast to {bits}")));
        }
        let raw = if is_whole(from) { x.f_to_kind(Kind::Int64)?.f_to_kind(signed)? } else { x.f_view_dtype(signed)? };
        if !is_whole(kind) || kind == Kind::Bool {
            return Ok(raw.f_view_dtype(kind)?);
        }
        let call = Call { inputs: &[Some(&raw)], mode: call.mode };
        narrow(&call)?.into_iter().next().ok_or_else(|| Error::unexpected("a cast without a result"))
    })
}

/// How many bits an element of an ONNX type has.
fn bits_of(data_type: i32) -> Result<usize> {
    match held_range(data_type) {
        Some((_, bits)) => usize::try_from(bits).map_err(Error::malformed),
        None => Ok(kind_of(data_type)?.elt_size_in_bytes() * 8),
    }
}
