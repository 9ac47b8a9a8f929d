//! ONNX files in and out. What comes in is untrusted.
//!
//! Bytes pass four gates, each of which sees only what the one before let through:
//!
//! 1. `admit`: the wire format, scanned without recursion, so that nothing in a file can overflow the stack or make the
//!    parser allocate far more than the file's own size;
//! 2. the protobuf parser, which `stream` shows only what was admitted;
//! 3. `verify`: the rules that every ONNX model keeps (one graph, opsets, values defined once, attributes that carry what
//!    they say), and every tensor's sizes with overflow-safe arithmetic (`layout`), external data included (`external`);
//! 4. [`OnnxFile::tensor`]: the values themselves, when somebody asks for them.
//!
//! ```no_run
//! use cmira::onnx::{self, Limits};
//!
//! let file = onnx::read("model.onnx".as_ref(), &Limits::default())?;
//! for initializer in &file.model.graph.initializer {
//!     println!("{} {:?}", initializer.name, file.tensor(initializer)?.size());
//! }
//! onnx::save(&file.model, "copy.onnx".as_ref())?;
//! # Ok::<(), cmira::error::Error>(())
//! ```

/// The generated protobuf types.
pub mod proto {
    pub use onnx_protobuf::*;
}

mod admit;
mod attributes;
mod external;
mod layout;
mod limits;
mod names;
mod read;
mod schema;
mod stream;
mod tensors;
mod verify;
mod walk;
mod write;

pub use limits::Limits;
pub use read::{OnnxFile, from_bytes, from_model, read, read_tensor};
pub(crate) use tensors::{INT2, UINT2};
pub use tensors::{data_type_of, from_proto, kind_of, to_proto};
pub use write::{annotate, save, save_with_data};
