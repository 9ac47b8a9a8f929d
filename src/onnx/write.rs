//! Models to files, whole or not at all.

use std::io::Write;
use std::path::Path;

use protobuf::Message;
use sha2::{Digest, Sha256};

use super::names::quoted;
use super::proto::tensor_proto::DataLocation;
use super::proto::{ModelProto, StringStringEntryProto, TensorProto};
use super::stream::hex;
use super::walk;
use crate::error::{Error, Place, Result};
use crate::files::Staged;

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
    admissible(model).at(|| path.display())?;
    staged(model, path)?.appear()
}

/// Writes the model with its larger tensors in one file beside it, named like it with `.data` behind. Both are on the disk before
/// either appears; an old model goes before the new data come, so that nobody ever finds one model's graph with another's values.
///
/// # Errors
/// As [`save`]; after a failure the old files are untouched, unless they could not be replaced.
pub fn save_with_data(mut model: ModelProto, path: &Path) -> Result<()> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("model.onnx");
    let location = format!("{name}.data");
    let mut write = || -> Result<()> {
        let mut data = Vec::new();
        if let Some(graph) = model.graph.as_mut() {
            graph.initializer.iter_mut().for_each(|tensor| externalise(tensor, &location, &mut data));
        }
        size(&model).at(|| path.display())?;
        let beside = path.with_file_name(&location);
        let values = Staged::new(&beside, |file| file.write_all(&data))?;
        let graph = staged(&model, path)?;
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(path, &error)),
            _ => {}
        }
        values.appear()?;
        graph.appear()
    };
    write()
}

fn staged(model: &ModelProto, path: &Path) -> Result<Staged> {
    Staged::new(path, |file| model.write_to_writer(file).map_err(std::io::Error::other))
}

/// Bytes that a tensor needs to be worth a place in the file of data.
const SMALLEST_EXTERNAL: usize = 1024;

/// Where the values of each tensor start: what the onnx package writes, so that they can be mapped into memory.
const ALIGNMENT: usize = 4096;

fn externalise(tensor: &mut TensorProto, location: &str, data: &mut Vec<u8>) {
    if tensor.raw_data.len() < SMALLEST_EXTERNAL {
        return;
    }
    data.resize(data.len().next_multiple_of(ALIGNMENT), 0);
    let entry = |key: &str, value: String| StringStringEntryProto { key: key.into(), value, ..Default::default() };
    tensor.external_data = vec![
        entry("location", location.to_string()),
        entry("offset", data.len().to_string()),
        entry("length", tensor.raw_data.len().to_string()),
    ];
    tensor.data_location = DataLocation::EXTERNAL.into();
    data.append(&mut tensor.raw_data);
}

/// Says in a model's metadata how it came about: keys begin with `cmira.`, and replace what an earlier export said.
pub fn annotate(model: &mut ModelProto, notes: &[(&str, &str)]) {
    model.metadata_props.retain(|entry| !entry.key.starts_with("cmira."));
    model.metadata_props.extend(notes.iter().map(|(key, value)| StringStringEntryProto {
        key: format!("cmira.{key}"),
        value: (*value).to_string(),
        ..Default::default()
    }));
}

fn admissible(model: &ModelProto) -> Result<()> {
    size(model)?;
    let external = |tensor: &&TensorProto| tensor.data_location.enum_value() == Ok(DataLocation::EXTERNAL);
    if let Some(tensor) = walk::tensors(model).into_iter().find(external) {
        return Err(Error::unexpected(format!("tensor {} still refers to external data", quoted(&tensor.name))));
    }
    Ok(())
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
            .help("models of 2 GiB and more need external data")),
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
