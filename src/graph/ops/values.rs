//! Tensor attributes and element types, as far as operators need them.

use super::Node;
use crate::error::{Error, Result};
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::{INT2, UINT2};
use crate::tensor::Kind;
use protobuf::Enum;

pub(super) use crate::onnx::{from_proto as constant_tensor, kind_of};

/// The least number of an integer type that is held in a wider kind, and how many bits it really has.
pub(super) fn held_range(data_type: i32) -> Option<(i64, u32)> {
    match DataType::from_i32(data_type) {
        Some(DataType::UINT16) => Some((0, 16)),
        Some(DataType::UINT32) => Some((0, 32)),
        Some(DataType::UINT4) => Some((0, 4)),
        None if data_type == UINT2 => Some((0, 2)),
        None if data_type == INT2 => Some((-2, 2)),
        Some(DataType::INT4) => Some((-8, 4)),
        _ => None,
    }
}

/// An element type attribute such as `dtype`.
pub(super) fn kind_attribute(node: &Node<'_>, name: &str) -> Result<Option<Kind>> {
    match node.int(name)? {
        // Zero stands for no type.
        None | Some(0) => Ok(None),
        Some(data_type) => kind_of(i32::try_from(data_type).map_err(Error::malformed)?).map(Some),
    }
}
