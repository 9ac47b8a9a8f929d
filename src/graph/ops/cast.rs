//! Operators: changes of element type, and constants.

use super::{Flow, Kernel, Node, Op, one};
use crate::error::{Error, Result};
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::{from_proto, kind_of};
use crate::tensor::{Device, Kind, Tensor, is_float};

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("Cast", 1, 1, cast_by_name).flow(Flow::Moves),
    Op::new("Cast", 6, 1, cast).flow(Flow::Moves),
    Op::new("CastLike", 15, 2, cast_like).at_least(2).flow(Flow::Moves),
    Op::new("Identity", 1, 1, identity).flow(Flow::Moves),
    Op::new("Constant", 1, 0, constant).gradients(&[]),
    Op::new("ConstantOfShape", 9, 1, constant_of_shape).gradients(&[]),
];

/// The kind that a cast's target stands for.
fn target(code: i64) -> Result<Kind> {
    kind_of(i32::try_from(code).map_err(|_| Error::malformed(format!("there is no data type {code}")))?)
}

fn to_kind(x: &Tensor, kind: Kind) -> Result<Tensor> {
    if x.kind() == kind {
        return Ok(x.shallow_clone());
    }
    // What a number out of range becomes is left open by C++, and differs between processors.
    let to_small_int = is_float(x.kind()) && matches!(kind, Kind::Int8 | Kind::Uint8 | Kind::Int16);
    let x = if to_small_int { x.f_to_kind(Kind::Int64)? } else { x.shallow_clone() };
    Ok(if kind == Kind::Bool { x.f_ne(0)? } else { x.f_to_kind(kind)? })
}

fn cast(node: &Node) -> Result<Kernel> {
    node.ignore("saturate");
    node.ignore("round_mode");
    let to = node.int("to")?.ok_or_else(|| Error::malformed("attribute 'to' is missing"))?;
    let kind = target(to)?;
    one(move |call| to_kind(call.input(0)?, kind))
}

/// Opset 1 names the type in words.
fn cast_by_name(node: &Node) -> Result<Kernel> {
    let name = node.text("to")?.ok_or_else(|| Error::malformed("attribute 'to' is missing"))?;
    let data_type = <DataType as protobuf::Enum>::from_str(&name.to_uppercase());
    let data_type = data_type.ok_or_else(|| Error::malformed(format!("there is no data type '{name}'")))?;
    let kind = target(data_type as i64)?;
    one(move |call| to_kind(call.input(0)?, kind))
}

fn cast_like(node: &Node) -> Result<Kernel> {
    node.ignore("saturate");
    node.ignore("round_mode");
    one(|call| to_kind(call.input(0)?, call.input(1)?.kind()))
}

fn identity(_: &Node) -> Result<Kernel> {
    one(|call| Ok(call.input(0)?.shallow_clone()))
}

/// A kernel may be moved between threads, a tensor may not be shared by them: it is kept behind a lock.
fn always(tensor: Tensor) -> Result<Kernel> {
    let tensor = std::sync::Mutex::new(tensor);
    one(move |_| match tensor.lock() {
        Ok(tensor) => Ok(tensor.shallow_clone()),
        Err(_) => Err(Error::unexpected("another thread failed while it read this constant")),
    })
}

fn constant(node: &Node) -> Result<Kernel> {
    if let Some(proto) = node.tensor("value")? {
        return always(from_proto(proto)?);
    }
    if let Some(value) = node.float("value_float")? {
        // The attribute is a 32-bit float, so nothing is lost on the way back.
        #[allow(clippy::cast_possible_truncation)]
        return always(Tensor::f_from_slice(&[value as f32])?.f_squeeze()?);
    }
    if let Some(values) = node.floats("value_floats")? {
        #[allow(clippy::cast_possible_truncation)]
        let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
        return always(Tensor::f_from_slice(&values)?);
    }
    if let Some(value) = node.int("value_int")? {
        return always(Tensor::f_from_slice(&[value])?.f_squeeze()?);
    }
    if let Some(values) = node.ints("value_ints")? {
        return always(Tensor::f_from_slice(&values)?);
    }
    node.unsupported("a sparse or text value")
}

fn constant_of_shape(node: &Node) -> Result<Kernel> {
    let value = match node.tensor("value")? {
        Some(proto) => from_proto(proto)?,
        None => Tensor::f_from_slice(&[0.0_f32])?,
    };
    if value.numel() != 1 {
        return Err(Error::malformed(format!("the value has {} elements where one is expected", value.numel())));
    }
    let (kind, value) = (value.kind(), value.f_reshape([1].as_slice())?);
    let fill = value.f_to_kind(Kind::Double)?.f_double_value(&[0])?;
    let fill_int = if is_float(kind) { 0 } else { value.f_to_kind(Kind::Int64)?.f_int64_value(&[0])? };
    one(move |call| {
        let shape = call.ints(0)?;
        super::shape::admit_shape(&shape)?;
        let filled = if is_float(kind) {
            Tensor::f_full(shape.as_slice(), fill, (Kind::Double, Device::Cpu))?
        } else {
            Tensor::f_full(shape.as_slice(), fill_int, (Kind::Int64, Device::Cpu))?
        };
        Ok(filled.f_to_kind(kind)?)
    })
}
