//! Writing models.

use std::io::Write;
use std::path::Path;

use protobuf::Message;

use crate::error::{Error, Result};
use crate::onnx::proto::ModelProto;

/// Protobuf's own limit on one message.
const MOST_BYTES: usize = i32::MAX as usize;

/// Writes a model so that either the old or the new file is there, never half of one.
///
/// # Errors
/// Unexpected, when the disk is full or the folder is not writable; Unsupported, above 2 GiB.
pub fn save(model: &ModelProto, path: &Path) -> Result<()> {
    let bytes = model.write_to_bytes().map_err(|e| Error::unexpected(e).at(path.display()))?;
    if bytes.len() > MOST_BYTES {
        let error = Error::unsupported(format!("the model has {} bytes; protobuf cannot hold more than {MOST_BYTES}", bytes.len()));
        return Err(error.at(path.display()));
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, &e))?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(|e| Error::io(folder, &e))?;
    file.write_all(&bytes).and_then(|()| file.as_file().sync_all()).map_err(|e| Error::io(path, &e))?;
    file.persist(path).map_err(|e| Error::io(path, &e.error))?;
    Ok(())
}
