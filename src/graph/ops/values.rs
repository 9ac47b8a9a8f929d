//! Tensor attributes and element types, as far as operators need them.

use super::{Node, operands};
use crate::error::{Error, Result};
use crate::onnx::proto::TensorProto;
use crate::onnx::proto::tensor_proto::DataType;
use crate::tensor::{Device, Kind, Tensor};
use protobuf::Enum;

/// libtorch's kind for an ONNX element type. Unsigned 16- and 32-bit integers are held in the next wider signed kind, 64-bit
/// ones in Int64: arithmetic on them is right as long as it does not wrap.
pub(super) fn kind_of(data_type: i32) -> Result<Kind> {
    Ok(match DataType::from_i32(data_type) {
        Some(DataType::FLOAT) => Kind::Float,
        Some(DataType::DOUBLE) => Kind::Double,
        Some(DataType::FLOAT16) => Kind::Half,
        Some(DataType::BFLOAT16) => Kind::BFloat16,
        Some(DataType::BOOL) => Kind::Bool,
        Some(DataType::UINT8) => Kind::Uint8,
        Some(DataType::INT8) => Kind::Int8,
        Some(DataType::INT16) => Kind::Int16,
        Some(DataType::INT32 | DataType::UINT16) => Kind::Int,
        Some(DataType::INT64 | DataType::UINT32 | DataType::UINT64) => Kind::Int64,
        Some(other) => return Err(Error::unsupported(format!("element type {other:?} is not supported"))),
        None => return Err(Error::malformed(format!("{data_type} is no element type"))),
    })
}

/// The bits that an unsigned type held in a wider kind really has.
pub(super) fn unsigned_mask(data_type: i32) -> Option<i64> {
    match DataType::from_i32(data_type) {
        Some(DataType::UINT16) => Some(0xffff),
        Some(DataType::UINT32) => Some(0xffff_ffff),
        _ => None,
    }
}

/// An element type attribute such as `dtype`.
pub(super) fn kind_attribute(node: &Node<'_>, name: &str) -> Result<Option<Kind>> {
    match node.int(name)? {
        None => Ok(None),
        Some(data_type) => kind_of(i32::try_from(data_type).map_err(Error::malformed)?).map(Some),
    }
}

/// Decodes a tensor attribute onto the CPU.
pub(super) fn constant_tensor(proto: &TensorProto) -> Result<Tensor> {
    let kind = kind_of(proto.data_type)?;
    let count = operands::elements(&proto.dims)?;
    let flat = if proto.raw_data.is_empty() && count > 0 { typed(proto)? } else { raw(proto)? };
    if i64::try_from(flat.numel()).ok() != Some(count) {
        return Err(Error::malformed(format!("a tensor of shape {:?} holds {} values", proto.dims, flat.numel())));
    }
    Ok(flat.f_reshape(&proto.dims)?.f_to_kind(kind)?)
}

fn raw(proto: &TensorProto) -> Result<Tensor> {
    let bytes = &proto.raw_data;
    match DataType::from_i32(proto.data_type) {
        Some(DataType::UINT16) => {
            let values: Vec<i64> = bytes.chunks_exact(2).map(|b| i64::from(u16::from_le_bytes([b[0], b[1]]))).collect();
            Ok(Tensor::f_from_slice(&values)?)
        }
        Some(DataType::UINT32) => {
            let values: Vec<i64> =
                bytes.chunks_exact(4).map(|b| i64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect();
            Ok(Tensor::f_from_slice(&values)?)
        }
        _ => {
            let kind = kind_of(proto.data_type)?;
            let count = i64::try_from(bytes.len() / kind.elt_size_in_bytes()).map_err(Error::malformed)?;
            let flat = Tensor::f_zeros([count], (kind, Device::Cpu))?;
            if count == 0 { Ok(flat) } else { Ok(Tensor::f_from_data_size(bytes, &[count], kind)?) }
        }
    }
}

fn typed(proto: &TensorProto) -> Result<Tensor> {
    Ok(match DataType::from_i32(proto.data_type) {
        Some(DataType::FLOAT) => Tensor::f_from_slice(&proto.float_data)?,
        Some(DataType::DOUBLE) => Tensor::f_from_slice(&proto.double_data)?,
        Some(DataType::INT64) => Tensor::f_from_slice(&proto.int64_data)?,
        Some(DataType::UINT32 | DataType::UINT64) => {
            let values: std::result::Result<Vec<i64>, _> = proto.uint64_data.iter().map(|&v| i64::try_from(v)).collect();
            Tensor::f_from_slice(&values.map_err(Error::unsupported)?)?
        }
        Some(DataType::FLOAT16) => {
            let bits = proto.int32_data.iter().map(|&v| u16::try_from(v).map(half::f16::from_bits));
            Tensor::f_from_slice(
                &bits.map(|v| v.map(half::f16::to_f32)).collect::<std::result::Result<Vec<_>, _>>().map_err(Error::malformed)?,
            )?
        }
        Some(DataType::BFLOAT16) => {
            let bits = proto.int32_data.iter().map(|&v| u16::try_from(v).map(half::bf16::from_bits));
            Tensor::f_from_slice(
                &bits.map(|v| v.map(half::bf16::to_f32)).collect::<std::result::Result<Vec<_>, _>>().map_err(Error::malformed)?,
            )?
        }
        _ => Tensor::f_from_slice(&proto.int32_data)?,
    })
}
