//! From a path, or a model in memory, to an [`OnnxFile`] that the rest of the crate may rely on.

use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::external::Directory;
use super::limits::Limits;
use super::proto;
use super::stream::{self, Parsed, hex};
use super::{attributes, schema, tensors, verify, walk, write};
use crate::error::{Error, Place, Result};
use crate::tensor::Tensor;

/// A model that has passed every check, and where it came from.
///
/// In `model`, every attribute that holds anything has a type and every opset that old files imply is written down; names are
/// unique where ONNX wants them to be; every tensor's type and shape agree with the values it carries. Nothing is said about
/// the order of nodes or the existence of operators.
#[derive(Debug, Clone)]
pub struct OnnxFile {
    /// The file, as it was named.
    pub path: PathBuf,
    /// SHA-256 of the `.onnx` file's bytes, in lower-case hexadecimal. External data are not part of it.
    pub sha256: String,
    /// Size of the `.onnx` file in bytes, external data apart.
    pub bytes: u64,
    /// The parsed model.
    pub model: proto::ModelProto,
    pub(super) limits: Limits,
    pub(super) directory: Option<Directory>,
}

/// Reads an ONNX file that nobody vouches for.
///
/// # Errors
/// Usage where there is no such file; Malformed where it is not a regular file, breaks a limit, or breaks ONNX's rules;
/// Unsupported where it is newer than this program. The message names the file, and the node or tensor.
pub fn read(path: &Path, limits: &Limits) -> Result<OnnxFile> {
    read_checked(path, limits).at(|| path.display())
}

/// Reads the bytes of an ONNX file that nobody vouches for, without a file. `name` stands for the path. External data are
/// refused: there is no directory for them to lie in.
///
/// # Errors
/// Those of [`read`].
pub fn from_bytes(name: &str, bytes: Vec<u8>, limits: &Limits) -> Result<OnnxFile> {
    let read = || -> Result<OnnxFile> {
        let size = bytes.len() as u64;
        stream::within(size, limits)?;
        checked(Path::new(name), bytes.as_slice(), size, limits, None)
    };
    read().at(|| name)
}

/// Makes an [`OnnxFile`] of a model in memory, with the same checks and the SHA-256 that its file will have. `name` stands
/// for the path. External data are refused: there is no directory for them to lie in.
///
/// # Errors
/// Those of [`read`], and Unsupported where the model would be larger than protobuf allows.
pub fn from_model(name: &str, mut model: proto::ModelProto, limits: &Limits) -> Result<OnnxFile> {
    let finish = |model: &mut proto::ModelProto| {
        check(model, limits, None)?;
        write::digest(model)
    };
    let (sha256, bytes) = finish(&mut model).at(|| name)?;
    stream::within(bytes, limits).at(|| name)?;
    Ok(OnnxFile { path: PathBuf::from(name), sha256, bytes, model, limits: limits.clone(), directory: None })
}

/// Reads a file that holds one `TensorProto`, as the inputs and outputs of ONNX's test cases do, and returns its name and values.
///
/// # Errors
/// Those of [`read`] and of [`OnnxFile::tensor`]; external data are refused.
pub fn read_tensor(path: &Path, limits: &Limits) -> Result<(String, Tensor)> {
    let read = || -> Result<(String, Tensor)> {
        let (file, size) = stream::open(path, limits)?;
        let tensor = stream::parse::<proto::TensorProto>(file, size, schema::Message::Tensor, limits)?.message;
        let values = tensors::decode(&tensor, limits, None)?;
        Ok((tensor.name, values))
    };
    read().at(|| path.display())
}

impl OnnxFile {
    /// The limit that this file was read with; see [`Limits::image_numbers`].
    pub fn image_numbers(&self) -> u64 {
        self.limits.image_numbers
    }

    /// The values of `tensor`, a part of this model, as a tensor on the CPU with its shape.
    ///
    /// The kind is ONNX's own where libtorch has it (see [`kind_of`](super::kind_of)); UINT16 becomes `Int`, UINT32 and UINT64
    /// become `Int64`. Booleans are true for every byte but 0.
    ///
    /// # Errors
    /// Unsupported for strings, complex numbers, FLOAT8E8M0, floats of fewer than 8 bits, and UINT64 values
    /// above `i64::MAX`; Malformed where a value does not fit its type, or external data have changed since they were checked.
    /// The message names the tensor but not the model file, which the caller knows.
    pub fn tensor(&self, tensor: &proto::TensorProto) -> Result<Tensor> {
        tensors::decode(tensor, &self.limits, self.directory.as_ref())
    }

    /// [`sha256`](Self::sha256); with `+` and the SHA-256 of all external data where there are any, which the first does not cover.
    ///
    /// # Errors
    /// Those of reading external data.
    pub fn identity(&self) -> Result<String> {
        let mut hash = Sha256::new();
        let mut any = false;
        for tensor in walk::tensors(&self.model) {
            if let Some(bytes) = tensors::external_bytes(tensor, &self.limits, self.directory.as_ref())? {
                any = true;
                hash.update(bytes);
            }
        }
        Ok(if any { format!("{}+{}", self.sha256, hex(&hash.finalize())) } else { self.sha256.clone() })
    }

    /// Takes the values of all external data into the model, so that it can be [saved](super::save) anywhere.
    ///
    /// # Errors
    /// Those of reading external data; the model then keeps the references that were not yet replaced.
    pub fn embed_external_data(&mut self) -> Result<()> {
        let OnnxFile { model, limits, directory, .. } = self;
        walk::tensors_mut(model, &mut |tensor| tensors::embed(tensor, limits, directory.as_ref()))
    }
}

fn read_checked(path: &Path, limits: &Limits) -> Result<OnnxFile> {
    let (file, size) = stream::open(path, limits)?;
    checked(path, file, size, limits, Some(Directory::of(path)))
}

fn checked(path: &Path, source: impl Read, size: u64, limits: &Limits, directory: Option<Directory>) -> Result<OnnxFile> {
    if size == 0 {
        return Err(Error::malformed("the file is empty"));
    }
    let Parsed { message: mut model, sha256, bytes } = stream::parse(source, size, schema::Message::Model, limits)?;
    check(&mut model, limits, directory.as_ref())?;
    Ok(OnnxFile { path: path.to_path_buf(), sha256, bytes, model, limits: limits.clone(), directory })
}

fn check(model: &mut proto::ModelProto, limits: &Limits, directory: Option<&Directory>) -> Result<()> {
    attributes::complete(model)?;
    verify::verify(model, limits, directory)
}
