//! The one model type: an ONNX graph as a compiled plan over libtorch tensors, with its parameters as trainable leaves.

mod body;
pub mod by_example;
mod chain;
mod cost;
mod export;
mod findings;
mod fresh;
pub mod import;
mod input;
mod ir;
mod layout;
mod lower;
pub mod model;
mod nodes;
pub mod ops;
mod options;
mod order;
mod params;
mod passes;
mod plan;
mod precision;
mod program;

pub use by_example::{ExampleGradients, OneByOne};
pub use cost::Cost;
pub use import::{ImportReport, TensorInfo};
pub use ir::Unsupported;
pub use layout::Layout;
pub use lower::{Lowered, lower};
pub use model::{Model, Param, Parametrization, State};
pub use ops::Mode;
pub use options::{BatchNormRepair, BatchSizeRepair, ImportOptions, QuantizationRepair, Repairs};
pub use passes::head::Head;
pub use precision::{Computing, Precision, PrecisionChoice};
pub use program::Program;
