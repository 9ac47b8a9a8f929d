//! Reference backbones, built as ONNX graphs.
