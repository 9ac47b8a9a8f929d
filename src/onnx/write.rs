//! Models to files, whole or not at all.

use std::io::Write;
use std::path::Path;

use protobuf::Message;
use sha2::{Digest, Sha256};

use super::names::quoted;
use super::proto::tensor_proto::DataLocation;
use super::proto::{ModelProto, TensorProto};
use super::read::hex;
use super::walk;
use crate::error::{Error, Place, Result};

/// Protobuf's own maximum for one message.
const MAX_BYTES: u64 = i32::MAX as u64;

/// Writes the model to `path`. The file appears under its name when all of it is on the disk, replacing what was there; after
/// a failure the old file is untouched.
///
/// # Errors
/// Unexpected where a tensor still refers to external data, which would be lost in another directory: take the values in first
/// ([`embed_external_data`](super::OnnxFile::embed_external_data)).
/// Unsupported where the model takes 2 GiB or more, which no ONNX file can; Unexpected where the disk does not cooperate.
pub fn save(model: &ModelProto, path: &Path) -> Result<()> {
    save_checked(model, path).at(|| path.display())
}

fn save_checked(model: &ModelProto, path: &Path) -> Result<()> {
    size(model)?;
    let external = |tensor: &&TensorProto| tensor.data_location.enum_value() == Ok(DataLocation::EXTERNAL);
    if let Some(tensor) = walk::tensors(model).into_iter().find(external) {
        return Err(Error::unexpected(format!("tensor {} still refers to external data", quoted(&tensor.name))));
    }
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let io = |error: std::io::Error| Error::unexpected(format!("cannot write the model: {error}"));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".onnx-").suffix(".partial");
    // A temporary file is private by default; this one becomes a file like any other, with the user's umask.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(directory).map_err(io)?;
    model.write_to_writer(file.as_file_mut()).map_err(|error| Error::unexpected(format!("cannot write the model: {error}")))?;
    file.as_file().sync_all().map_err(io)?;
    file.persist(path).map_err(|error| io(error.error))?;
    sync_directory(directory);
    Ok(())
}

/// Makes the new name survive a power cut. Some file systems cannot; the file itself is whole in any case.
fn sync_directory(directory: &Path) {
    #[cfg(unix)]
    if let Ok(directory) = std::fs::File::open(directory) {
        let _ = directory.sync_all();
    }
    #[cfg(not(unix))]
    let _ = directory;
}

/// SHA-256 in hexadecimal and size in bytes of the file that [`save`] would write.
pub(super) fn digest(model: &ModelProto) -> Result<(String, u64)> {
    let bytes = size(model)?;
    let mut hasher = Hasher(Sha256::new());
    model.write_to_writer(&mut hasher).map_err(|error| Error::unexpected(format!("cannot serialise the model: {error}")))?;
    Ok((hex(&hasher.0.finalize()), bytes))
}

fn size(model: &ModelProto) -> Result<u64> {
    match model.compute_size() {
        bytes if bytes <= MAX_BYTES => Ok(bytes),
        bytes => Err(Error::unsupported(format!("the model takes {bytes} bytes, but an ONNX file is limited to {MAX_BYTES}"))
            .help("models of 2 GiB and more need external data, which cmira reads but does not write")),
    }
}

struct Hasher(Sha256);

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
