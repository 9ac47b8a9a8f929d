//! What a `TensorProto` says about itself, checked before a byte of it is converted.

use super::external::Reference;
use super::limits::Limits;
use super::proto::TensorProto;
use super::proto::tensor_proto::DataLocation;
use crate::error::{Error, Result};

/// One of ONNX's element types (`TensorProto.DataType`).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Element {
    /// Its number in the schema.
    pub code: i32,
    /// Its name in the schema.
    pub name: &'static str,
    /// Bits of one element in `raw_data` and in external data; a tensor is padded to whole bytes.
    pub bits: u64,
    field: TypedField,
}

/// The repeated field that holds a type's values where they are not raw bytes, and how many entries they need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TypedField {
    /// `float_data`, so many entries an element.
    Floats(u64),
    /// `double_data`, so many entries an element.
    Doubles(u64),
    /// `int32_data`, so many elements an entry.
    Ints32(u64),
    Ints64,
    Uints64,
    Strings,
}

use TypedField::{Doubles, Floats, Ints32, Ints64, Strings, Uints64};

const fn element(code: i32, name: &'static str, bits: u64, field: TypedField) -> Element {
    Element { code, name, bits, field }
}

/// Every type of ONNX 1.23 (`onnx.proto`, `TensorProto.DataType`, and the comments at its `*_data` fields).
static ELEMENTS: [Element; 28] = [
    element(1, "FLOAT", 32, Floats(1)),
    element(2, "UINT8", 8, Ints32(1)),
    element(3, "INT8", 8, Ints32(1)),
    element(4, "UINT16", 16, Ints32(1)),
    element(5, "INT16", 16, Ints32(1)),
    element(6, "INT32", 32, Ints32(1)),
    element(7, "INT64", 64, Ints64),
    element(8, "STRING", 0, Strings),
    element(9, "BOOL", 8, Ints32(1)),
    element(10, "FLOAT16", 16, Ints32(1)),
    element(11, "DOUBLE", 64, Doubles(1)),
    element(12, "UINT32", 32, Uints64),
    element(13, "UINT64", 64, Uints64),
    element(14, "COMPLEX64", 64, Floats(2)),
    element(15, "COMPLEX128", 128, Doubles(2)),
    element(16, "BFLOAT16", 16, Ints32(1)),
    element(17, "FLOAT8E4M3FN", 8, Ints32(1)),
    element(18, "FLOAT8E4M3FNUZ", 8, Ints32(1)),
    element(19, "FLOAT8E5M2", 8, Ints32(1)),
    element(20, "FLOAT8E5M2FNUZ", 8, Ints32(1)),
    element(21, "UINT4", 4, Ints32(2)),
    element(22, "INT4", 4, Ints32(2)),
    element(23, "FLOAT4E2M1", 4, Ints32(2)),
    element(24, "FLOAT8E8M0", 8, Ints32(1)),
    element(25, "UINT2", 2, Ints32(4)),
    element(26, "INT2", 2, Ints32(4)),
    element(27, "FLOAT6E2M3", 6, Ints32(1)),
    element(28, "FLOAT6E3M2", 6, Ints32(1)),
];

/// The element type of that number.
///
/// # Errors
/// Malformed for 0 ("undefined") and negative numbers, Unsupported for numbers above those of ONNX 1.23.
pub(super) fn element_of(code: i32) -> Result<&'static Element> {
    ELEMENTS.iter().find(|element| element.code == code).ok_or_else(|| match code {
        0 => Error::malformed("its data type is undefined"),
        ..0 => Error::malformed(format!("its data type {code} does not exist")),
        _ => Error::unsupported(format!("its data type {code} is not known to this program")),
    })
}

/// Where a tensor's values are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// In `raw_data`, little endian.
    Raw,
    /// In the repeated field of its type.
    Typed,
    /// In another file.
    External(Reference),
}

/// A tensor's type, shape and size, which agree with its payload.
#[derive(Debug)]
pub(super) struct Layout {
    /// Number of elements; 1 for a scalar.
    pub elements: u64,
    /// Bytes of the values: as raw bytes for every type but strings.
    pub bytes: u64,
    /// Where the values are.
    pub source: Source,
}

/// Reads what `tensor` says about itself and checks it against the payload that it carries. An external file is not opened.
///
/// # Errors
/// Malformed where dimensions are negative, their product overflows or breaks a limit, or the payload is not exactly as long
/// as type and shape require; Unsupported for segments and for data types from the future.
pub(super) fn layout(tensor: &TensorProto, limits: &Limits) -> Result<Layout> {
    let element = element_of(tensor.data_type)?;
    if tensor.segment.is_some() {
        return Err(Error::unsupported("it is stored in segments"));
    }
    let elements = element_count(&tensor.dims, limits)?;
    let bytes = if element.field == Strings {
        tensor.string_data.iter().fold(0_u64, |sum, text| sum.saturating_add(text.len() as u64))
    } else {
        let bits = u128::from(elements) * u128::from(element.bits);
        u64::try_from(bits.div_ceil(8)).unwrap_or(u64::MAX)
    };
    if bytes > limits.tensor_bytes {
        let limit = limits.tensor_bytes;
        return Err(Error::malformed(format!("its shape {:?} takes more than {limit} bytes (limit tensor_bytes)", tensor.dims)));
    }
    let source = source(tensor, element, elements, bytes)?;
    Ok(Layout { elements, bytes, source })
}

/// The product of the dimensions. Dimensions beside a zero are multiplied as well: libtorch computes strides from them.
pub(super) fn element_count(dims: &[i64], limits: &Limits) -> Result<u64> {
    if dims.len() > limits.rank {
        return Err(Error::malformed(format!("it has {} dimensions, more than {} (limit rank)", dims.len(), limits.rank)));
    }
    let mut span = 1_i64;
    let mut empty = false;
    for &dim in dims {
        if dim < 0 {
            return Err(Error::malformed(format!("its shape {dims:?} has a negative dimension")));
        }
        empty |= dim == 0;
        span = span.checked_mul(dim.max(1)).ok_or_else(|| too_large(dims))?;
    }
    Ok(if empty { 0 } else { span.unsigned_abs() })
}

fn too_large(dims: &[i64]) -> Error {
    Error::malformed(format!("its shape {dims:?} has more elements than a 64-bit number can count"))
}

fn source(tensor: &TensorProto, element: &Element, elements: u64, bytes: u64) -> Result<Source> {
    let lists = [
        ("float_data", tensor.float_data.len()),
        ("double_data", tensor.double_data.len()),
        ("int32_data", tensor.int32_data.len()),
        ("int64_data", tensor.int64_data.len()),
        ("uint64_data", tensor.uint64_data.len()),
        ("string_data", tensor.string_data.len()),
    ];
    let (own, wanted) = match element.field {
        Floats(entries) => (0, elements.saturating_mul(entries)),
        Doubles(entries) => (1, elements.saturating_mul(entries)),
        Ints32(packed) => (2, elements.div_ceil(packed)),
        Ints64 => (3, elements),
        Uints64 => (4, elements),
        Strings => (5, elements),
    };
    let stray = |except: Option<usize>| lists.iter().enumerate().find(|(index, list)| Some(*index) != except && list.1 > 0);
    let conflict = |a: &str, b: &str| Error::malformed(format!("its values are given twice, in {a} and in {b}"));
    let shape = &tensor.dims;

    match tensor.data_location.enum_value() {
        Ok(DataLocation::DEFAULT) => {}
        Ok(DataLocation::EXTERNAL) => {
            if !tensor.raw_data.is_empty() {
                return Err(conflict("an external file", "raw_data"));
            }
            if let Some((_, list)) = stray(None) {
                return Err(conflict("an external file", list.0));
            }
            if element.field == Strings {
                return Err(Error::malformed("strings cannot be external data"));
            }
            return Reference::parse(&tensor.external_data, bytes).map(Source::External);
        }
        Err(code) => return Err(Error::malformed(format!("its data location {code} does not exist"))),
    }
    if !tensor.raw_data.is_empty() {
        if let Some((_, list)) = stray(None) {
            return Err(conflict("raw_data", list.0));
        }
        if element.field == Strings {
            return Err(Error::malformed("strings cannot be raw data"));
        }
        let held = tensor.raw_data.len() as u64;
        if held != bytes {
            return Err(Error::malformed(format!(
                "its raw_data holds {held} bytes, but shape {shape:?} of {} needs {bytes}",
                element.name
            )));
        }
        return Ok(Source::Raw);
    }
    if let Some((_, list)) = stray(Some(own)) {
        return Err(Error::malformed(format!("its values are in {}, where {} does not keep them", list.0, element.name)));
    }
    let (field, held) = lists[own];
    if held as u64 != wanted {
        return Err(Error::malformed(format!(
            "its {field} holds {held} values, but shape {shape:?} of {} needs {wanted}",
            element.name
        )));
    }
    Ok(Source::Typed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn verdict(tensor: &TensorProto) -> String {
        match layout(tensor, &Limits::default()) {
            Ok(layout) => format!("{} elements, {} bytes", layout.elements, layout.bytes),
            Err(error) => error.to_string(),
        }
    }

    fn floats(dims: &[i64], raw: usize) -> TensorProto {
        TensorProto { data_type: 1, dims: dims.to_vec(), raw_data: vec![0; raw], ..Default::default() }
    }

    #[test]
    fn sizes_agree_with_the_payload() {
        assert_eq!(verdict(&floats(&[2, 3], 24)), "6 elements, 24 bytes");
        assert_eq!(verdict(&floats(&[], 4)), "1 elements, 4 bytes");
        assert_eq!(verdict(&floats(&[0, 5], 0)), "0 elements, 0 bytes");
        assert!(verdict(&floats(&[2, 3], 23)).contains("holds 23 bytes, but shape [2, 3] of FLOAT needs 24"));
        assert!(verdict(&floats(&[2, 3], 28)).contains("holds 28 bytes"));
        assert!(verdict(&floats(&[0], 4)).contains("holds 4 bytes"));
        assert!(verdict(&floats(&[2], 0)).contains("float_data holds 0 values"));
    }

    #[test]
    fn impossible_shapes_are_refused() {
        assert!(verdict(&floats(&[-1], 0)).contains("negative"));
        assert!(verdict(&floats(&[i64::MIN, 0], 0)).contains("negative"));
        assert!(verdict(&floats(&[i64::MAX, i64::MAX], 0)).contains("64-bit"));
        assert!(verdict(&floats(&[0, i64::MAX, i64::MAX], 0)).contains("64-bit"));
        assert!(verdict(&floats(&[i64::MAX], 0)).contains("limit tensor_bytes"));
        assert!(verdict(&floats(&[1 << 40], 0)).contains("limit tensor_bytes"));
        assert!(verdict(&floats(&[1; 17], 4)).contains("limit rank"));
    }

    #[test]
    fn packed_types_count_whole_bytes_and_entries() {
        let raw = |data_type, length| TensorProto { data_type, dims: vec![5], raw_data: vec![0; length], ..Default::default() };
        for (data_type, length) in [(21, 3), (22, 3), (23, 3), (25, 2), (26, 2), (27, 4), (14, 40), (15, 80), (17, 5)] {
            assert!(layout(&raw(data_type, length), &Limits::default()).is_ok(), "type {data_type}");
            assert!(layout(&raw(data_type, length + 1), &Limits::default()).is_err(), "type {data_type}");
        }
        let typed = TensorProto { data_type: 22, dims: vec![5], int32_data: vec![0; 3], ..Default::default() };
        assert!(layout(&typed, &Limits::default()).is_ok());
    }

    #[test]
    fn data_types_outside_the_schema_are_refused() {
        let typed = |data_type| TensorProto { data_type, ..Default::default() };
        assert!(verdict(&typed(0)).contains("undefined"));
        assert!(verdict(&typed(-3)).contains("does not exist"));
        assert!(verdict(&typed(29)).contains("not known"));
    }

    #[test]
    fn values_in_two_places_are_refused() {
        let both = TensorProto { float_data: vec![1.0], ..floats(&[1], 4) };
        assert!(verdict(&both).contains("given twice, in raw_data and in float_data"));
        let wrong = TensorProto { data_type: 1, int64_data: vec![1], ..Default::default() };
        assert!(verdict(&wrong).contains("where FLOAT does not keep them"));
    }
}
