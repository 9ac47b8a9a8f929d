//! Tensor values in files beside the model. The model may name files in its own directory and nowhere else.
//!
//! Source: ONNX's "External Data" page, and the refusals of symbolic and hard links that the onnx package itself makes.

use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use super::names::quoted;
use super::proto::StringStringEntryProto;
use crate::error::{Error, Place, Result};

/// Bytes of a location. File systems allow more with many folders, but no exporter writes them.
const LONGEST_LOCATION: usize = 1024;

/// Where a tensor's bytes are: a file in the model's directory, and a range in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    location: String,
    offset: u64,
    length: u64,
}

impl Reference {
    /// Reads the entries of `external_data` for a tensor of `bytes` bytes. Keys other than location, offset and length
    /// (checksum, and what some writers add) are ignored, as ONNX Runtime ignores them.
    ///
    /// # Errors
    /// Malformed where the location is missing, a key is given twice, a number is not plain decimal digits, or the length is
    /// not the tensor's.
    pub fn parse(entries: &[StringStringEntryProto], bytes: u64) -> Result<Reference> {
        let value = |key: &str| -> Result<Option<&str>> {
            let mut values = entries.iter().filter(|entry| entry.key == key).map(|entry| entry.value.as_str());
            match (values.next(), values.next()) {
                (_, Some(_)) => Err(Error::malformed(format!("its external data names a second {key}"))),
                (value, None) => Ok(value),
            }
        };
        let number = |key: &str| -> Result<Option<u64>> {
            let Some(text) = value(key)? else { return Ok(None) };
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            match text.parse() {
                Ok(number) if digits => Ok(Some(number)),
                _ => Err(Error::malformed(format!("the {key} {} of its external data is not a plain number", quoted(text)))),
            }
        };
        let location = value("location")?.ok_or_else(|| Error::malformed("its external data has no location"))?.to_string();
        let offset = number("offset")?.unwrap_or(0);
        let length = number("length")?.unwrap_or(bytes);
        if length != bytes {
            return Err(Error::malformed(format!("its external data has {length} bytes, but type and shape need {bytes}")));
        }
        Ok(Reference { location, offset, length })
    }

    /// The path components below the model's directory.
    fn components(&self) -> Result<Vec<&std::ffi::OsStr>> {
        let refuse = |why: &str| {
            Error::malformed(format!("external data {} {why}", quoted(&self.location)))
                .help("external data must lie in the model's own directory")
        };
        if self.location.len() > LONGEST_LOCATION {
            return Err(refuse("is too long a name"));
        }
        if self.location.contains('\0') {
            return Err(refuse("has a zero byte in its name"));
        }
        let mut names = Vec::new();
        for component in Path::new(&self.location).components() {
            match component {
                Component::Normal(name) => names.push(name),
                Component::CurDir => {}
                Component::ParentDir => return Err(refuse("leaves the directory with '..'")),
                Component::RootDir | Component::Prefix(_) => return Err(refuse("is an absolute path")),
            }
        }
        if names.is_empty() {
            return Err(refuse("names no file"));
        }
        Ok(names)
    }
}

/// The directory that a model's external data lie in.
#[derive(Debug, Clone)]
pub(super) struct Directory(PathBuf);

impl Directory {
    /// The directory of the model file at `path`.
    pub fn of(path: &Path) -> Directory {
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => Directory(parent.to_path_buf()),
            _ => Directory(PathBuf::from(".")),
        }
    }

    /// Checks that the reference is to a range of a regular file in this directory.
    ///
    /// # Errors
    /// Malformed for a path that is absolute or holds `..`, for symbolic links in any component, hard links, anything that is
    /// not a regular file, a missing file, and a range outside the file.
    pub fn check(&self, reference: &Reference) -> Result<()> {
        self.open(reference).map(drop)
    }

    /// Reads the referenced bytes, and nothing else of the file.
    ///
    /// # Errors
    /// Those of [`check`](Self::check); Unexpected where reading fails.
    pub fn read(&self, reference: &Reference) -> Result<Vec<u8>> {
        let (mut file, path) = self.open(reference)?;
        let length = usize::try_from(reference.length).map_err(|_| Error::malformed("more bytes than memory can address"))?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length).map_err(|error| Error::unexpected(error).at(path.display()))?;
        file.seek(SeekFrom::Start(reference.offset)).map_err(|error| Error::io(&path, &error))?;
        file.take(reference.length).read_to_end(&mut bytes).map_err(|error| Error::io(&path, &error))?;
        if bytes.len() != length {
            return Err(Error::malformed("the file became shorter while it was read").at(path.display()));
        }
        Ok(bytes)
    }

    /// Every component is looked at without following links, and what is opened must be the very file that was looked at:
    /// a link that is put in its place in between has another identity.
    fn open(&self, reference: &Reference) -> Result<(File, PathBuf)> {
        let names = reference.components()?;
        let mut path = self.0.clone();
        let mut seen = None;
        for (index, name) in names.iter().enumerate() {
            path.push(name);
            let metadata = std::fs::symlink_metadata(&path).map_err(|error| missing(&path, &error))?;
            check_component(&metadata, index + 1 == names.len()).at(|| path.display())?;
            seen = Some(metadata);
        }
        let file = File::open(&path).map_err(|error| missing(&path, &error))?;
        let opened = file.metadata().map_err(|error| Error::io(&path, &error))?;
        check_component(&opened, true).at(|| path.display())?;
        if !seen.is_some_and(|seen| same_file(&seen, &opened)) {
            return Err(Error::malformed("the file was replaced while it was opened").at(path.display()));
        }
        let end = reference.offset.checked_add(reference.length);
        if end.is_none_or(|end| end > opened.len()) {
            return Err(Error::malformed(format!(
                "{} bytes from offset {} are wanted, but the file has {}",
                reference.length,
                reference.offset,
                opened.len()
            ))
            .at(path.display()));
        }
        Ok((file, path))
    }
}

/// The model names the file, so that a name that leads nowhere is the model's fault, whatever the system says of it.
fn missing(path: &Path, error: &std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => Error::malformed("the model's external data are missing")
            .at(path.display())
            .help("keep the model's data files in its directory, under the names that the model gives them"),
        ErrorKind::PermissionDenied => Error::usage(error).at(path.display()),
        _ => Error::malformed(error).at(path.display()),
    }
}

fn check_component(metadata: &Metadata, is_last: bool) -> Result<()> {
    let kind = metadata.file_type();
    if kind.is_symlink() {
        return Err(Error::malformed("external data may not be reached through a symbolic link")
            .help("put a copy of the file in its place"));
    }
    if !is_last {
        return if kind.is_dir() { Ok(()) } else { Err(Error::malformed("not a directory")) };
    }
    if !kind.is_file() {
        return Err(Error::malformed("external data must be a regular file"));
    }
    if has_other_names(metadata) {
        return Err(Error::malformed("external data may not be a hard link to a file with other names")
            .help("put a copy of the file in its place"));
    }
    Ok(())
}

#[cfg(unix)]
fn has_other_names(metadata: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    metadata.nlink() > 1
}

#[cfg(unix)]
fn same_file(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
fn has_other_names(_metadata: &Metadata) -> bool {
    false
}

#[cfg(not(unix))]
fn same_file(a: &Metadata, b: &Metadata) -> bool {
    a.len() == b.len() && a.modified().ok() == b.modified().ok()
}
