//! Tensor attributes and element types, as far as operators need them.

use super::Node;
use crate::error::{Error, Result};
use crate::onnx::proto::tensor_proto::DataType;
use crate::tensor::Kind;
use protobuf::Enum;

pub(super) use crate::onnx::{from_proto as constant_tensor, kind_of};

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
