//! ONNX files in and out. What comes in is untrusted.
//!
//! [`read()`] goes from the outside in: the size on disk, then the wire format byte by byte without recursion ([`admit`]), then
//! protobuf, then the model's own promises (unique names, dimensions that match their payload). Only then is a tensor made.

pub mod admit;
mod external;
mod limits;
mod model;
pub mod tensors;
pub mod write;

use std::io::Read;
use std::path::{Path, PathBuf};

use protobuf::Message;
use sha2::{Digest, Sha256};

use crate::error::{Error, Place, Result};
use crate::tensor::Tensor;

pub use limits::Limits;

/// The generated protobuf types.
pub mod proto {
    pub use onnx_protobuf::*;
}

/// A model that has passed every check that needs no execution.
pub struct OnnxFile {
    /// Where it was read from; a name for models made in memory.
    pub path: PathBuf,
    /// SHA-256 of the file's bytes, in hexadecimal.
    pub sha256: String,
    /// Size of the file in bytes, without external data.
    pub bytes: u64,
    /// The parsed model.
    pub model: proto::ModelProto,
    /// Where external data may lie; `None` for models made in memory.
    directory: Option<PathBuf>,
    limits: Limits,
}

impl OnnxFile {
    /// A CPU tensor of the kind that `proto` states, from its own or from external data.
    ///
    /// # Errors
    /// Malformed, when the data do not fit the dimensions; Unsupported, for types that libtorch has not.
    pub fn tensor(&self, proto: &proto::TensorProto) -> Result<Tensor> {
        let decoded = if external::is_external(proto) {
            let directory = self.directory.as_deref().ok_or_else(|| Error::malformed("a model in memory cannot refer to other files"));
            directory.and_then(|directory| external::load(proto, directory, &self.limits)).and_then(|bytes| tensors::from_bytes(proto, &bytes))
        } else {
            tensors::decode(proto)
        };
        decoded.at(|| format!("tensor '{}'", proto.name))
    }
}

/// Reads and checks a file.
///
/// # Errors
/// Malformed, naming file, node or tensor, and the reason; Unexpected, when the file cannot be read at all.
pub fn read(path: &Path, limits: &Limits) -> Result<OnnxFile> {
    let bytes = read_bytes(path, limits)?;
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    from_bytes(path, &bytes, Some(directory), limits).at(|| path.display().to_string())
}

/// Checks a model that is already in memory; `name` stands for the file in errors. It may not refer to external data.
///
/// # Errors
/// As [`read()`].
pub fn from_model(name: &str, model: proto::ModelProto, limits: &Limits) -> Result<OnnxFile> {
    let bytes = model.write_to_bytes().map_err(|e| Error::malformed(e).at(name))?;
    model::check(&model, None, limits).at(|| name.to_string())?;
    Ok(OnnxFile {
        path: PathBuf::from(name),
        sha256: format!("{:x}", Sha256::digest(&bytes)),
        bytes: bytes.len() as u64,
        model,
        directory: None,
        limits: limits.clone(),
    })
}

fn from_bytes(path: &Path, bytes: &[u8], directory: Option<&Path>, limits: &Limits) -> Result<OnnxFile> {
    if bytes.is_empty() {
        return Err(Error::malformed("the file is empty"));
    }
    admit::scan(bytes, limits)?;
    let model = proto::ModelProto::parse_from_bytes(bytes).map_err(|e| Error::malformed(format!("not an ONNX model: {e}")))?;
    model::check(&model, directory, limits)?;
    Ok(OnnxFile {
        path: path.to_path_buf(),
        sha256: format!("{:x}", Sha256::digest(bytes)),
        bytes: bytes.len() as u64,
        model,
        directory: directory.map(Path::to_path_buf),
        limits: limits.clone(),
    })
}

/// Reads a regular file of admissible size. The size is taken from the open file and enforced while reading: a file that grows is refused.
fn read_bytes(path: &Path, limits: &Limits) -> Result<Vec<u8>> {
    let failed = |e: std::io::Error| {
        let error = Error::io(path, &e);
        if e.kind() == std::io::ErrorKind::NotFound { error.with_kind(crate::error::ErrorKind::Usage) } else { error }
    };
    // Looked at before it is opened, because opening a named pipe waits for a writer.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(Error::malformed("is not a regular file").at(path.display()));
    }
    let file = std::fs::File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let too_large = || Error::malformed(format!("has more than the {} bytes that are allowed", limits.file_bytes)).at(path.display());
    if size > limits.file_bytes {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).map_err(|_| too_large())?);
    file.take(limits.file_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limits.file_bytes { Err(too_large()) } else { Ok(bytes) }
}
