//! Tensors whose data lie in another file: only in the model's own directory, and never through links.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Place, Result};
use crate::onnx::Limits;
use crate::onnx::proto::{TensorProto, tensor_proto::DataLocation};
use crate::onnx::tensors;

/// Whether a tensor's data are outside the model file.
pub(crate) fn is_external(proto: &TensorProto) -> bool {
    proto.data_location.enum_value_or_default() == DataLocation::EXTERNAL
}

/// Where a tensor's data are said to lie.
struct Location<'a> {
    file: &'a str,
    offset: u64,
    length: Option<u64>,
}

fn location(proto: &TensorProto) -> Result<Location<'_>> {
    let mut place = Location { file: "", offset: 0, length: None };
    for entry in &proto.external_data {
        let number = || entry.value.parse::<u64>().map_err(|_| Error::malformed(format!("external {} '{}' is not a size", entry.key, entry.value)));
        match entry.key.as_str() {
            "location" => place.file = &entry.value,
            "offset" => place.offset = number()?,
            "length" => place.length = Some(number()?),
            // Checksums and keys of other tools do not change where the bytes are.
            _ => {}
        }
    }
    if place.file.is_empty() {
        return Err(Error::malformed("external data have no location"));
    }
    Ok(place)
}

/// Checks that a tensor's external data lie inside `directory` and have the size that its dimensions need, without reading them.
pub(crate) fn check(proto: &TensorProto, directory: &Path, limits: &Limits) -> Result<u64> {
    let place = location(proto)?;
    let needed = needed_bytes(proto, &place, limits)?;
    let (_, metadata) = open(place.file, directory)?;
    let end = place.offset.checked_add(needed);
    if end.is_none_or(|end| end > metadata.len()) {
        let (offset, size) = (place.offset, metadata.len());
        return Err(Error::malformed(format!("needs {needed} bytes at offset {offset} of '{}', which has {size}", place.file)));
    }
    Ok(needed)
}

/// Reads a tensor's external data.
pub(crate) fn load(proto: &TensorProto, directory: &Path, limits: &Limits) -> Result<Vec<u8>> {
    let needed = check(proto, directory, limits)?;
    let place = location(proto)?;
    let (mut file, _) = open(place.file, directory)?;
    let mut bytes = vec![0; usize::try_from(needed).map_err(Error::malformed)?];
    let read = file.seek(SeekFrom::Start(place.offset)).and_then(|_| file.read_exact(&mut bytes));
    read.map_err(|e| Error::malformed(format!("external data cannot be read: {e}"))).at(|| place.file.to_string())?;
    Ok(bytes)
}

fn needed_bytes(proto: &TensorProto, place: &Location, limits: &Limits) -> Result<u64> {
    let needed = tensors::stored_bytes(proto, limits)?;
    match place.length {
        Some(length) if length != needed => {
            Err(Error::malformed(format!("external data have {length} bytes where the dimensions need {needed}")))
        }
        _ => Ok(needed),
    }
}

/// Opens a file inside `directory`, refusing every way out of it.
fn open(location: &str, directory: &Path) -> Result<(File, Metadata)> {
    let refuse = |reason: &str| Error::malformed(format!("external data at '{location}' are refused: {reason}"));
    let relative = Path::new(location);
    if location.contains(['\\', '\0']) || relative.components().any(|c| !matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err(refuse("the location is absolute or leaves the model's directory"));
    }
    let mut path = PathBuf::from(directory);
    for component in relative.components() {
        path.push(component);
        let metadata = std::fs::symlink_metadata(&path).map_err(|e| refuse(&e.to_string()))?;
        if metadata.file_type().is_symlink() {
            return Err(refuse("a symbolic link is on the way"));
        }
    }
    if !std::fs::symlink_metadata(&path).map_err(|e| refuse(&e.to_string()))?.is_file() {
        return Err(refuse("it is not a regular file"));
    }
    let file = open_without_links(&path).map_err(|e| refuse(&e.to_string()))?;
    // Asked of the open file, so that nobody can exchange it between look and use.
    let metadata = file.metadata().map_err(|e| refuse(&e.to_string()))?;
    if !metadata.is_file() {
        return Err(refuse("it is not a regular file"));
    }
    if link_count(&metadata) > 1 {
        return Err(refuse("it has other names (hard links), so it may belong to something else"));
    }
    Ok((file, metadata))
}

#[cfg(unix)]
fn open_without_links(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    // O_NOFOLLOW and O_NONBLOCK have these values on Linux, the only system that libtorch is provisioned for.
    const O_NOFOLLOW: i32 = 0o400_000;
    const O_NONBLOCK: i32 = 0o4_000;
    OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path)
}

#[cfg(not(unix))]
fn open_without_links(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).open(path)
}

#[cfg(unix)]
fn link_count(metadata: &Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    metadata.nlink()
}

#[cfg(not(unix))]
fn link_count(_metadata: &Metadata) -> u64 {
    1
}
