//! ONNX Runtime as an independent witness.
