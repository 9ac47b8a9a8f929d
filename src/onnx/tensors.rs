//! `TensorProto` to tensors and back.

use crate::error::{Error, ErrorKind, Result};
use crate::onnx::Limits;
use crate::onnx::proto::{TensorProto, tensor_proto::DataType};
use crate::tensor::{Device, Kind, Tensor};

/// How a type of ONNX is stored in a file and held in memory.
struct Layout {
    /// Bytes of one element in `raw_data`.
    width: u64,
    kind: Kind,
}

/// The layout of a data type.
///
/// # Errors
/// Malformed, for a code that ONNX does not have; Unsupported, for a type that libtorch does not compute with.
fn layout(proto: &TensorProto) -> Result<(DataType, Layout)> {
    let data_type = <DataType as protobuf::Enum>::from_i32(proto.data_type);
    let Some(data_type) = data_type.filter(|d| *d != DataType::UNDEFINED) else {
        return Err(Error::malformed(format!("there is no data type {}", proto.data_type)));
    };
    let (width, kind) = match data_type {
        DataType::FLOAT => (4, Kind::Float),
        DataType::DOUBLE => (8, Kind::Double),
        DataType::FLOAT16 => (2, Kind::Half),
        DataType::BFLOAT16 => (2, Kind::BFloat16),
        DataType::INT8 => (1, Kind::Int8),
        DataType::UINT8 => (1, Kind::Uint8),
        DataType::INT16 => (2, Kind::Int16),
        DataType::INT32 => (4, Kind::Int),
        DataType::INT64 => (8, Kind::Int64),
        DataType::BOOL => (1, Kind::Bool),
        // libtorch has no arithmetic on these; the next wider kind holds every value, and the operators only need the values.
        DataType::UINT16 => (2, Kind::Int),
        DataType::UINT32 => (4, Kind::Int64),
        DataType::UINT64 => (8, Kind::Int64),
        other => return Err(Error::unsupported(format!("data type {other:?} is not supported"))),
    };
    Ok((data_type, Layout { width, kind }))
}

/// The number of elements, checked.
fn elements(proto: &TensorProto, limits: &Limits) -> Result<u64> {
    if proto.dims.len() > limits.rank {
        return Err(Error::malformed(format!("has rank {}, more than {}", proto.dims.len(), limits.rank)));
    }
    let mut count = 1_u64;
    for &dim in &proto.dims {
        let dim = u64::try_from(dim).map_err(|_| Error::malformed(format!("has the negative dimension {dim}")))?;
        count = count.checked_mul(dim).ok_or_else(|| Error::malformed(format!("has dimensions {:?}, which overflow", proto.dims)))?;
    }
    Ok(count)
}

/// Bytes that a tensor of this type and these dimensions needs, within the limits.
pub(crate) fn stored_bytes(proto: &TensorProto, limits: &Limits) -> Result<u64> {
    let count = elements(proto, limits)?;
    let width = match layout(proto) {
        Ok((_, layout)) => layout.width,
        // Whatever the type is, it cannot be used; its size only has to be plausible.
        Err(error) if error.kind() == ErrorKind::Unsupported => 1,
        Err(error) => return Err(error),
    };
    match count.checked_mul(width) {
        Some(bytes) if bytes <= limits.tensor_bytes => Ok(bytes),
        _ => Err(Error::malformed(format!("has dimensions {:?}, more than the {} bytes that are allowed", proto.dims, limits.tensor_bytes))),
    }
}

/// Checks that the payload has as many elements as the dimensions say, and gives the bytes that it needs.
pub(crate) fn check(proto: &TensorProto, limits: &Limits) -> Result<u64> {
    let bytes = stored_bytes(proto, limits)?;
    let count = elements(proto, limits)?;
    let Ok((data_type, _)) = layout(proto) else { return Ok(bytes) };
    let (found, needed, what) = if proto.raw_data.is_empty() {
        (typed_len(proto, data_type) as u64, count, "elements")
    } else {
        (proto.raw_data.len() as u64, bytes, "bytes")
    };
    if found != needed {
        return Err(Error::malformed(format!("holds {found} {what} where its dimensions {:?} need {needed}", proto.dims)));
    }
    Ok(bytes)
}

/// Elements in the typed field that belongs to a data type.
fn typed_len(proto: &TensorProto, data_type: DataType) -> usize {
    match data_type {
        DataType::FLOAT => proto.float_data.len(),
        DataType::DOUBLE => proto.double_data.len(),
        DataType::INT64 => proto.int64_data.len(),
        DataType::UINT32 | DataType::UINT64 => proto.uint64_data.len(),
        _ => proto.int32_data.len(),
    }
}

/// A CPU tensor out of a message that holds its own data.
///
/// # Errors
/// Malformed, when data and dimensions do not fit; Unsupported, for types that libtorch has not.
pub fn decode(proto: &TensorProto) -> Result<Tensor> {
    let (data_type, layout) = layout(proto)?;
    check(proto, &Limits::default())?;
    if !proto.raw_data.is_empty() {
        return from_bytes(proto, &proto.raw_data);
    }
    let shape = proto.dims.as_slice();
    let low_bits = |v: &i32| (*v as u32 & 0xffff) as u16;
    let tensor = match data_type {
        DataType::FLOAT => Tensor::f_from_slice(&proto.float_data)?,
        DataType::DOUBLE => Tensor::f_from_slice(&proto.double_data)?,
        DataType::INT64 => Tensor::f_from_slice(&proto.int64_data)?,
        DataType::UINT32 | DataType::UINT64 => Tensor::f_from_slice(&unsigned(proto.uint64_data.iter().copied())?)?,
        // Stored as bit patterns in the low half of each number.
        DataType::FLOAT16 | DataType::BFLOAT16 => {
            let bytes: Vec<u8> = proto.int32_data.iter().flat_map(|v| low_bits(v).to_le_bytes()).collect();
            return Ok(Tensor::f_from_data_size(&bytes, shape, layout.kind)?);
        }
        _ => Tensor::f_from_slice(&proto.int32_data)?.f_to_kind(layout.kind)?,
    };
    Ok(tensor.f_view(shape)?)
}

/// A CPU tensor out of raw little-endian bytes, of the type and dimensions that `proto` states.
pub(crate) fn from_bytes(proto: &TensorProto, bytes: &[u8]) -> Result<Tensor> {
    let (data_type, layout) = layout(proto)?;
    let shape = proto.dims.as_slice();
    let tensor = match data_type {
        DataType::UINT16 => {
            let values: Vec<i32> = bytes.as_chunks::<2>().0.iter().map(|b| i32::from(u16::from_le_bytes(*b))).collect();
            Tensor::f_from_slice(&values)?.f_view(shape)?
        }
        DataType::UINT32 => {
            let values: Vec<i64> = bytes.as_chunks::<4>().0.iter().map(|b| i64::from(u32::from_le_bytes(*b))).collect();
            Tensor::f_from_slice(&values)?.f_view(shape)?
        }
        DataType::UINT64 => {
            let values = unsigned(bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)))?;
            Tensor::f_from_slice(&values)?.f_view(shape)?
        }
        // Any byte but 0 and 1 would be undefined behaviour in libtorch's booleans.
        DataType::BOOL => Tensor::f_from_data_size(bytes, shape, Kind::Uint8)?.f_ne(0)?,
        _ => Tensor::f_from_data_size(bytes, shape, layout.kind)?,
    };
    Ok(tensor)
}

fn unsigned(values: impl Iterator<Item = u64>) -> Result<Vec<i64>> {
    values.map(|v| i64::try_from(v).map_err(|_| Error::unsupported(format!("the unsigned number {v} is above 2^63 - 1")))).collect()
}

/// The message of a tensor on any device, detached, as little-endian `raw_data`.
///
/// # Errors
/// Unsupported, for kinds that ONNX has not.
pub fn to_proto(name: &str, tensor: &Tensor) -> Result<TensorProto> {
    let data_type = match tensor.kind() {
        Kind::Float => DataType::FLOAT,
        Kind::Double => DataType::DOUBLE,
        Kind::Half => DataType::FLOAT16,
        Kind::BFloat16 => DataType::BFLOAT16,
        Kind::Int8 => DataType::INT8,
        Kind::Uint8 => DataType::UINT8,
        Kind::Int16 => DataType::INT16,
        Kind::Int => DataType::INT32,
        Kind::Int64 => DataType::INT64,
        Kind::Bool => DataType::BOOL,
        other => return Err(Error::unsupported(format!("tensors of kind {other:?} cannot be written as ONNX"))),
    };
    let host = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?;
    let count = host.numel();
    let mut raw_data = vec![0_u8; count.saturating_mul(host.kind().elt_size_in_bytes())];
    host.f_copy_data_u8(&mut raw_data, count)?;
    Ok(TensorProto { name: name.to_string(), dims: tensor.size(), data_type: data_type as i32, raw_data, ..Default::default() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tensor::{to_f64s, to_i64s};

    fn proto(data_type: DataType, dims: &[i64]) -> TensorProto {
        TensorProto { dims: dims.to_vec(), data_type: data_type as i32, name: "t".into(), ..Default::default() }
    }

    #[test]
    fn every_kind_survives_the_round_trip() {
        let values = Tensor::f_from_slice(&[0.0_f32, 1.0, 2.5, -3.0]).unwrap().f_view([2, 2]).unwrap();
        let kinds = [Kind::Float, Kind::Double, Kind::Half, Kind::BFloat16, Kind::Int8, Kind::Int16, Kind::Int, Kind::Int64, Kind::Bool];
        for kind in kinds {
            let tensor = values.f_to_kind(kind).unwrap();
            let back = decode(&to_proto("t", &tensor).unwrap()).unwrap();
            assert_eq!((back.kind(), back.size()), (kind, vec![2, 2]));
            assert_eq!(to_f64s(&back).unwrap(), to_f64s(&tensor).unwrap());
        }
    }

    #[test]
    fn typed_fields_are_read() {
        let mut half = proto(DataType::FLOAT16, &[2]);
        half.int32_data = vec![0x3c00, 0xc000];
        assert_eq!(to_f64s(&decode(&half).unwrap()).unwrap(), [1.0, -2.0]);
        let mut wide = proto(DataType::UINT64, &[1]);
        wide.uint64_data = vec![7];
        assert_eq!(to_i64s(&decode(&wide).unwrap()).unwrap(), [7]);
        wide.uint64_data = vec![u64::MAX];
        assert_eq!(decode(&wide).unwrap_err().kind(), ErrorKind::Unsupported);
        let mut scalar = proto(DataType::FLOAT, &[]);
        scalar.float_data = vec![4.0];
        assert_eq!(decode(&scalar).unwrap().size(), Vec::<i64>::new());
    }

    #[test]
    fn dimensions_must_fit_the_payload() {
        for dims in [vec![3], vec![-1], vec![i64::MAX, i64::MAX], vec![1 << 40], vec![1; 17], vec![0]] {
            let mut bad = proto(DataType::FLOAT, &dims);
            bad.raw_data = vec![0; 8];
            assert_eq!(decode(&bad).unwrap_err().kind(), ErrorKind::Malformed, "{dims:?}");
        }
    }
}
