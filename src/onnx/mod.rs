//! ONNX files in and out. What comes in is untrusted.

/// The generated protobuf types.
pub mod proto {
    pub use onnx_protobuf::*;
}
