//! The one model type: an ONNX graph as a compiled plan over libtorch tensors, with its parameters as trainable leaves.

pub mod model;
pub mod ops;

pub use model::{Model, Param, State};
pub use ops::Mode;
