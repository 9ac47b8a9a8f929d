//! Tensor values between ONNX and libtorch.
//!
//! Source: `onnx.proto`, `TensorProto`: raw data are little endian; FLOAT16 and BFLOAT16 stand as bits in `int32_data`.

use std::borrow::Cow;

use super::external::Directory;
use super::layout::{Source, element_of, layout};
use super::limits::Limits;
use super::names::quoted;
use super::proto::TensorProto;
use super::proto::tensor_proto::{DataLocation, DataType};
use crate::error::{Error, Place, Result};
use crate::tensor::{Device, Kind, Tensor};

#[cfg(target_endian = "big")]
compile_error!("raw tensor data are handed to libtorch as they are, which is right on little-endian machines only");

/// Two data types of ONNX 1.20 that the generated enumeration does not know yet.
pub(crate) const UINT2: i32 = 25;
pub(crate) const INT2: i32 = 26;

/// The kind of tensor that [`OnnxFile::tensor`](super::OnnxFile::tensor) makes of a data type (`TensorProto.DataType`, as the
/// Cast operator's `to` and value types give it). UINT16 widens to `Int`, UINT32 and UINT64 to `Int64`, integers of 4 and 2 bits
/// to `Int8` and `Uint8`.
///
/// # Errors
/// Unsupported for types that libtorch does not have (strings, complex numbers, FLOAT8E8M0 and floats of fewer than 8 bits);
/// Malformed for numbers that are no data type.
pub fn kind_of(data_type: i32) -> Result<Kind> {
    let element = element_of(data_type)?;
    match <DataType as protobuf::Enum>::from_i32(data_type) {
        None if data_type == UINT2 => Ok(Kind::Uint8),
        None if data_type == INT2 => Ok(Kind::Int8),
        Some(DataType::FLOAT) => Ok(Kind::Float),
        Some(DataType::DOUBLE) => Ok(Kind::Double),
        Some(DataType::FLOAT16) => Ok(Kind::Half),
        Some(DataType::BFLOAT16) => Ok(Kind::BFloat16),
        Some(DataType::FLOAT8E4M3FN) => Ok(Kind::Float8e4m3fn),
        Some(DataType::FLOAT8E4M3FNUZ) => Ok(Kind::Float8e4m3fnuz),
        Some(DataType::FLOAT8E5M2) => Ok(Kind::Float8e5m2),
        Some(DataType::FLOAT8E5M2FNUZ) => Ok(Kind::Float8e5m2fnuz),
        Some(DataType::UINT8 | DataType::UINT4) => Ok(Kind::Uint8),
        Some(DataType::INT8 | DataType::INT4) => Ok(Kind::Int8),
        Some(DataType::INT16) => Ok(Kind::Int16),
        Some(DataType::INT32 | DataType::UINT16) => Ok(Kind::Int),
        Some(DataType::INT64 | DataType::UINT32 | DataType::UINT64) => Ok(Kind::Int64),
        Some(DataType::BOOL) => Ok(Kind::Bool),
        _ => Err(Error::unsupported(format!("data type {} is not supported", element.name))),
    }
}

/// The ONNX data type of a kind of tensor.
///
/// # Errors
/// Unsupported for complex and quantised kinds.
pub fn data_type_of(kind: Kind) -> Result<DataType> {
    match kind {
        Kind::Float => Ok(DataType::FLOAT),
        Kind::Double => Ok(DataType::DOUBLE),
        Kind::Half => Ok(DataType::FLOAT16),
        Kind::BFloat16 => Ok(DataType::BFLOAT16),
        Kind::Float8e4m3fn => Ok(DataType::FLOAT8E4M3FN),
        Kind::Float8e4m3fnuz => Ok(DataType::FLOAT8E4M3FNUZ),
        Kind::Float8e5m2 => Ok(DataType::FLOAT8E5M2),
        Kind::Float8e5m2fnuz => Ok(DataType::FLOAT8E5M2FNUZ),
        Kind::Uint8 => Ok(DataType::UINT8),
        Kind::Int8 => Ok(DataType::INT8),
        Kind::Int16 => Ok(DataType::INT16),
        Kind::Int => Ok(DataType::INT32),
        Kind::Int64 => Ok(DataType::INT64),
        Kind::Bool => Ok(DataType::BOOL),
        other => Err(Error::unsupported(format!("tensors of kind {other:?} cannot be written to ONNX"))),
    }
}

/// A tensor of any device as an ONNX tensor with raw data, detached from its gradient.
///
/// # Errors
/// Unsupported as for [`data_type_of`]; Unexpected where libtorch fails.
pub fn to_proto(name: &str, tensor: &Tensor) -> Result<TensorProto> {
    let encode = || -> Result<TensorProto> {
        let kind = tensor.f_kind()?;
        let data_type = data_type_of(kind)? as i32;
        let flat = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?;
        let mut raw_data = vec![0; flat.numel().saturating_mul(kind.elt_size_in_bytes())];
        flat.f_copy_data_u8(&mut raw_data, flat.numel())?;
        Ok(TensorProto { name: name.to_string(), data_type, dims: tensor.size(), raw_data, ..Default::default() })
    };
    encode().at(|| place(name))
}

/// A CPU tensor out of a message that holds its own values, such as an attribute's.
///
/// # Errors
/// As [`OnnxFile::tensor`](super::OnnxFile::tensor); Malformed, when the values are said to lie in another file.
pub fn from_proto(tensor: &TensorProto) -> Result<Tensor> {
    decode(tensor, &Limits::default(), None)
}

/// See [`OnnxFile::tensor`](super::OnnxFile::tensor).
pub(super) fn decode(tensor: &TensorProto, limits: &Limits, directory: Option<&Directory>) -> Result<Tensor> {
    decode_values(tensor, limits, directory).at(|| place(&tensor.name))
}

fn place(name: &str) -> String {
    if name.is_empty() { "tensor".to_string() } else { format!("tensor {}", quoted(name)) }
}

fn decode_values(tensor: &TensorProto, limits: &Limits, directory: Option<&Directory>) -> Result<Tensor> {
    let layout = layout(tensor, limits)?;
    let kind = kind_of(tensor.data_type)?;
    if layout.elements == 0 {
        return Ok(Tensor::f_zeros(&tensor.dims, (kind, Device::Cpu))?);
    }
    let bytes = match &layout.source {
        Source::Raw => Cow::Borrowed(tensor.raw_data.as_slice()),
        Source::External(reference) => Cow::Owned(directory.ok_or_else(no_directory)?.read(reference)?),
        Source::Typed => Cow::Owned(typed_bytes(tensor)?),
    };
    let bytes = convert(tensor.data_type, bytes, layout.elements)?;
    // libtorch copies as many bytes as shape and kind say, wherever the slice ends.
    if layout.elements.checked_mul(kind.elt_size_in_bytes() as u64) != Some(bytes.len() as u64) {
        return Err(Error::unexpected(format!("{} bytes for {} elements of {kind:?}", bytes.len(), layout.elements)));
    }
    Ok(Tensor::f_from_data_size(&bytes, &tensor.dims, kind)?)
}

fn no_directory() -> Error {
    Error::malformed("its values are external data, but the model has no directory")
}

/// The bytes of a tensor that lie in another file; `None` for every other tensor.
pub(super) fn external_bytes(tensor: &TensorProto, limits: &Limits, directory: Option<&Directory>) -> Result<Option<Vec<u8>>> {
    if tensor.data_location.enum_value_or_default() != DataLocation::EXTERNAL {
        return Ok(None);
    }
    let read = || -> Result<Option<Vec<u8>>> {
        match layout(tensor, limits)?.source {
            Source::External(reference) => Ok(Some(directory.ok_or_else(no_directory)?.read(&reference)?)),
            Source::Raw | Source::Typed => Ok(None),
        }
    };
    read().at(|| place(&tensor.name))
}

/// Replaces external data by the bytes themselves; leaves every other tensor alone.
pub(super) fn embed(tensor: &mut TensorProto, limits: &Limits, directory: Option<&Directory>) -> Result<()> {
    if let Some(bytes) = external_bytes(tensor, limits, directory)? {
        tensor.raw_data = bytes;
        tensor.external_data.clear();
        tensor.data_location = DataLocation::DEFAULT.into();
    }
    Ok(())
}

/// The values of a typed field, as `raw_data` would hold them.
fn typed_bytes(tensor: &TensorProto) -> Result<Vec<u8>> {
    let narrow = |fits: fn(i32) -> Option<[u8; 2]>, width: usize| -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(tensor.int32_data.len() * width);
        for &value in &tensor.int32_data {
            let pair = fits(value).ok_or_else(|| {
                Error::malformed(format!("value {value} in its int32_data does not fit data type {}", tensor.data_type))
            })?;
            bytes.extend_from_slice(&pair[..width]);
        }
        Ok(bytes)
    };
    match <DataType as protobuf::Enum>::from_i32(tensor.data_type) {
        Some(DataType::FLOAT) => Ok(tensor.float_data.iter().flat_map(|value| value.to_le_bytes()).collect()),
        Some(DataType::DOUBLE) => Ok(tensor.double_data.iter().flat_map(|value| value.to_le_bytes()).collect()),
        Some(DataType::INT64) => Ok(tensor.int64_data.iter().flat_map(|value| value.to_le_bytes()).collect()),
        Some(DataType::UINT64) => Ok(tensor.uint64_data.iter().flat_map(|value| value.to_le_bytes()).collect()),
        Some(DataType::INT32) => Ok(tensor.int32_data.iter().flat_map(|value| value.to_le_bytes()).collect()),
        Some(DataType::UINT32) => {
            let mut bytes = Vec::with_capacity(tensor.uint64_data.len().saturating_mul(4));
            for &value in &tensor.uint64_data {
                let value = u32::try_from(value)
                    .map_err(|_| Error::malformed(format!("value {value} in its uint64_data does not fit UINT32")))?;
                bytes.extend_from_slice(&value.to_le_bytes());
            }
            Ok(bytes)
        }
        Some(DataType::UINT16 | DataType::FLOAT16 | DataType::BFLOAT16) => {
            narrow(|value| u16::try_from(value).ok().map(u16::to_le_bytes), 2)
        }
        None if matches!(tensor.data_type, UINT2 | INT2) => narrow(|value| u8::try_from(value).ok().map(|value| [value, 0]), 1),
        Some(DataType::INT16) => narrow(|value| i16::try_from(value).ok().map(i16::to_le_bytes), 2),
        Some(
            DataType::UINT8
            | DataType::FLOAT8E4M3FN
            | DataType::FLOAT8E4M3FNUZ
            | DataType::FLOAT8E5M2
            | DataType::FLOAT8E5M2FNUZ
            | DataType::UINT4
            | DataType::INT4,
        ) => narrow(|value| u8::try_from(value).ok().map(|value| [value, 0]), 1),
        Some(DataType::INT8) => narrow(|value| i8::try_from(value).ok().map(|value| [value.cast_unsigned(), 0]), 1),
        Some(DataType::BOOL) => narrow(|value| Some([u8::from(value != 0), 0]), 1),
        _ => Err(Error::unsupported(format!("data type {} is not supported", tensor.data_type))),
    }
}

/// Bytes as ONNX stores them to bytes as libtorch's kind for that type holds them.
fn convert(data_type: i32, bytes: Cow<'_, [u8]>, elements: u64) -> Result<Cow<'_, [u8]>> {
    match <DataType as protobuf::Enum>::from_i32(data_type) {
        Some(DataType::UINT4) => Ok(Cow::Owned(unpacked(&bytes, elements, 4, false))),
        Some(DataType::INT4) => Ok(Cow::Owned(unpacked(&bytes, elements, 4, true))),
        None if data_type == UINT2 => Ok(Cow::Owned(unpacked(&bytes, elements, 2, false))),
        None if data_type == INT2 => Ok(Cow::Owned(unpacked(&bytes, elements, 2, true))),
        // libtorch counts on a boolean's byte being 0 or 1.
        Some(DataType::BOOL) => Ok(Cow::Owned(bytes.iter().map(|&byte| u8::from(byte != 0)).collect())),
        Some(DataType::UINT16) => Ok(Cow::Owned(
            bytes.as_chunks().0.iter().flat_map(|&pair| i32::from(u16::from_le_bytes(pair)).to_le_bytes()).collect(),
        )),
        Some(DataType::UINT32) => Ok(Cow::Owned(
            bytes.as_chunks().0.iter().flat_map(|&word| i64::from(u32::from_le_bytes(word)).to_le_bytes()).collect(),
        )),
        Some(DataType::UINT64) => {
            let beyond = |value: &u64| i64::try_from(*value).is_err();
            match bytes.as_chunks().0.iter().map(|&word| u64::from_le_bytes(word)).find(beyond) {
                Some(value) => Err(Error::unsupported(format!("its UINT64 value {value} is beyond {}", i64::MAX))),
                None => Ok(bytes),
            }
        }
        _ => Ok(bytes),
    }
}

/// Integers of 4 or 2 bits, the first one in a byte's lowest bits, as a byte each.
fn unpacked(bytes: &[u8], elements: u64, bits: u32, signed: bool) -> Vec<u8> {
    let unused = 8 - bits;
    let all = bytes.iter().flat_map(|&byte| (0..8 / bits).map(move |place| byte >> (place * bits) << unused));
    let widened = all.map(|high| if signed { (high.cast_signed() >> unused).cast_unsigned() } else { high >> unused });
    widened.take(usize::try_from(elements).unwrap_or(usize::MAX)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::error::ErrorKind;
    use crate::tensor::{to_f64s, to_i64s};

    fn decoded(tensor: &TensorProto) -> Result<Tensor> {
        decode(tensor, &Limits::default(), None)
    }

    fn raw(data_type: DataType, dims: &[i64], raw_data: &[u8]) -> TensorProto {
        TensorProto { data_type: data_type as i32, dims: dims.to_vec(), raw_data: raw_data.to_vec(), ..Default::default() }
    }

    fn ints(data_type: DataType, values: &[i32]) -> TensorProto {
        let dims = vec![i64::try_from(values.len()).unwrap()];
        TensorProto { data_type: data_type as i32, dims, int32_data: values.to_vec(), ..Default::default() }
    }

    fn floats_of(tensor: &TensorProto) -> (Kind, Vec<f64>) {
        let tensor = decoded(tensor).unwrap();
        (tensor.f_kind().unwrap(), to_f64s(&tensor).unwrap())
    }

    fn ints_of(tensor: &TensorProto) -> (Kind, Vec<i64>) {
        let tensor = decoded(tensor).unwrap();
        (tensor.f_kind().unwrap(), to_i64s(&tensor).unwrap())
    }

    /// Bit patterns from IEEE 754: half 3c00 is 1, c100 is -2.5, 7bff is 65504; bfloat16 is the upper half of a float.
    #[test]
    fn floats_have_the_values_of_their_bits() {
        let half = vec![1.0, -2.5, 65504.0];
        assert_eq!(floats_of(&ints(DataType::FLOAT16, &[0x3c00, 0xc100, 0x7bff])), (Kind::Half, half.clone()));
        assert_eq!(floats_of(&raw(DataType::FLOAT16, &[3], &[0, 0x3c, 0, 0xc1, 0xff, 0x7b])), (Kind::Half, half));
        let brain = (Kind::BFloat16, vec![1.0, -3.140625]);
        assert_eq!(floats_of(&ints(DataType::BFLOAT16, &[0x3f80, 0xc049])), brain);
        assert_eq!(floats_of(&raw(DataType::BFLOAT16, &[2], &[0x80, 0x3f, 0x49, 0xc0])), brain);
        assert_eq!(floats_of(&raw(DataType::FLOAT, &[], &[0, 0, 0x20, 0xc0])), (Kind::Float, vec![-2.5]));
        assert_eq!(floats_of(&raw(DataType::DOUBLE, &[1], &[0, 0, 0, 0, 0, 0, 4, 0xc0])), (Kind::Double, vec![-2.5]));
        let typed = TensorProto { data_type: 1, dims: vec![2], float_data: vec![1.5, -0.25], ..Default::default() };
        assert_eq!(floats_of(&typed), (Kind::Float, vec![1.5, -0.25]));
        let typed = TensorProto { data_type: 11, dims: vec![1], double_data: vec![1e300], ..Default::default() };
        assert_eq!(floats_of(&typed), (Kind::Double, vec![1e300]));
    }

    #[test]
    fn integers_have_their_values_in_both_encodings() {
        assert_eq!(ints_of(&ints(DataType::INT8, &[-128, 127])), (Kind::Int8, vec![-128, 127]));
        assert_eq!(ints_of(&raw(DataType::INT8, &[2], &[0x80, 0x7f])), (Kind::Int8, vec![-128, 127]));
        assert_eq!(ints_of(&ints(DataType::UINT8, &[0, 255])), (Kind::Uint8, vec![0, 255]));
        assert_eq!(ints_of(&ints(DataType::INT16, &[-32768])), (Kind::Int16, vec![-32768]));
        assert_eq!(ints_of(&raw(DataType::INT16, &[1], &[0, 0x80])), (Kind::Int16, vec![-32768]));
        assert_eq!(ints_of(&ints(DataType::INT32, &[i32::MIN])), (Kind::Int, vec![i64::from(i32::MIN)]));
        let long = TensorProto { data_type: 7, dims: vec![1], int64_data: vec![i64::MIN], ..Default::default() };
        assert_eq!(ints_of(&long), (Kind::Int64, vec![i64::MIN]));
        assert_eq!(ints_of(&ints(DataType::BOOL, &[0, 1, 2])), (Kind::Bool, vec![0, 1, 1]));
        assert_eq!(ints_of(&raw(DataType::BOOL, &[3], &[0, 1, 0xff])), (Kind::Bool, vec![0, 1, 1]));
    }

    /// onnx.proto: of two elements in a byte the first is in the lower half, and so on for four.
    #[test]
    fn packed_integers_are_unpacked() {
        let packed = |data_type, count: i64| raw(data_type, &[count], &[0x8f, 0x07]);
        let bits = |data_type| TensorProto { data_type, dims: vec![6], raw_data: vec![0x8f, 0x07], ..Default::default() };
        assert_eq!(ints_of(&packed(DataType::UINT4, 3)), (Kind::Uint8, vec![15, 8, 7]));
        assert_eq!(ints_of(&packed(DataType::INT4, 3)), (Kind::Int8, vec![-1, -8, 7]));
        assert_eq!(ints_of(&bits(UINT2)), (Kind::Uint8, vec![3, 3, 0, 2, 3, 1]));
        assert_eq!(ints_of(&bits(INT2)), (Kind::Int8, vec![-1, -1, 0, -2, -1, 1]));
        let typed = TensorProto { data_type: 22, dims: vec![3], int32_data: vec![0x8f, 0x07], ..Default::default() };
        assert_eq!(ints_of(&typed), (Kind::Int8, vec![-1, -8, 7]));
    }

    /// Bit patterns from the ONNX documentation's page on 8-bit floats.
    #[test]
    fn eight_bit_floats_have_the_values_of_their_bits() {
        assert_eq!(floats_of(&raw(DataType::FLOAT8E4M3FN, &[3], &[0x38, 0x7e, 0xb8])).1, [1.0, 448.0, -1.0]);
        assert_eq!(floats_of(&raw(DataType::FLOAT8E4M3FNUZ, &[2], &[0x40, 0x7f])).1, [1.0, 240.0]);
        assert_eq!(floats_of(&raw(DataType::FLOAT8E5M2, &[2], &[0x3c, 0x7b])).1, [1.0, 57344.0]);
        assert_eq!(floats_of(&ints(DataType::FLOAT8E5M2FNUZ, &[0x40, 0x7f])).1, [1.0, 57344.0]);
    }

    #[test]
    fn unsigned_integers_widen() {
        assert_eq!(ints_of(&ints(DataType::UINT16, &[65535])), (Kind::Int, vec![65535]));
        assert_eq!(ints_of(&raw(DataType::UINT16, &[1], &[0xff, 0xff])), (Kind::Int, vec![65535]));
        assert_eq!(ints_of(&raw(DataType::UINT32, &[1], &[0xff; 4])), (Kind::Int64, vec![4_294_967_295]));
        let word = |data_type: i32, value| TensorProto { data_type, uint64_data: vec![value], ..Default::default() };
        assert_eq!(ints_of(&word(12, 4_294_967_295)), (Kind::Int64, vec![4_294_967_295]));
        assert_eq!(ints_of(&word(13, 1 << 62)), (Kind::Int64, vec![1 << 62]));
        assert_eq!(decoded(&word(13, 1 << 63)).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(decoded(&word(12, 1 << 32)).unwrap_err().kind(), ErrorKind::Malformed);
    }

    #[test]
    fn values_that_do_not_fit_their_type_are_malformed() {
        for tensor in [
            ints(DataType::INT8, &[128]),
            ints(DataType::UINT8, &[-1]),
            ints(DataType::INT16, &[40_000]),
            ints(DataType::UINT16, &[-1]),
            ints(DataType::FLOAT16, &[1 << 16]),
        ] {
            assert_eq!(decoded(&tensor).unwrap_err().kind(), ErrorKind::Malformed, "{tensor:?}");
        }
    }

    #[test]
    fn scalars_and_empty_tensors_keep_their_shapes() {
        assert_eq!(decoded(&raw(DataType::FLOAT, &[], &[0; 4])).unwrap().size(), Vec::<i64>::new());
        assert_eq!(decoded(&raw(DataType::FLOAT, &[0], &[])).unwrap().size(), [0]);
        assert_eq!(decoded(&raw(DataType::INT64, &[2, 0, 3], &[])).unwrap().size(), [2, 0, 3]);
    }

    #[test]
    fn types_that_libtorch_lacks_are_unsupported() {
        let text = TensorProto { data_type: 8, dims: vec![1], string_data: vec![b"a".to_vec()], ..Default::default() };
        assert_eq!(decoded(&text).unwrap_err().kind(), ErrorKind::Unsupported);
        for (data_type, bytes) in [(14, 8), (15, 16), (23, 1), (24, 1), (27, 1), (28, 1)] {
            let tensor = TensorProto { data_type, raw_data: vec![0; bytes], ..Default::default() };
            assert_eq!(decoded(&tensor).unwrap_err().kind(), ErrorKind::Unsupported, "{data_type}");
        }
    }

    #[test]
    fn every_kind_survives_a_round_trip() {
        let values = Tensor::f_from_slice(&[0.0_f32, 1.0, 2.0, 3.0, 100.0, 0.5]).unwrap().f_reshape([2, 3]).unwrap();
        for kind in [
            Kind::Float,
            Kind::Double,
            Kind::Half,
            Kind::BFloat16,
            Kind::Int8,
            Kind::Uint8,
            Kind::Int16,
            Kind::Int,
            Kind::Int64,
            Kind::Bool,
        ] {
            let tensor = values.f_to_kind(kind).unwrap();
            let back = decoded(&to_proto("t", &tensor).unwrap()).unwrap();
            assert_eq!((back.f_kind().unwrap(), back.size()), (kind, vec![2, 3]));
            assert!(back.f_equal(&tensor).unwrap(), "{kind:?}");
        }
    }

    #[test]
    fn transposed_tensors_with_gradients_are_written_in_their_own_order() {
        let tensor = Tensor::f_from_slice(&[1.0_f32, 2.0, 3.0, 4.0]).unwrap().f_reshape([2, 2]).unwrap();
        let tensor = tensor.f_tr().unwrap().f_set_requires_grad(true).unwrap();
        let proto = to_proto("w", &tensor).unwrap();
        assert_eq!((proto.name.as_str(), proto.data_type, proto.dims.as_slice()), ("w", 1, [2, 2].as_slice()));
        assert_eq!(floats_of(&proto).1, [1.0, 3.0, 2.0, 4.0]);
    }
}
