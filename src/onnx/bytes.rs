//! A file's bytes and their SHA-256. Both take time with large files, so that one goes on beside the other.

use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use sha2::{Digest, Sha256};

use super::limits::Limits;
use super::read::too_large;
use crate::error::{self, Error, Result};

/// How many bytes are handed over to be hashed at once.
const PART: usize = 1 << 20;

/// Bytes, of which some at the beginning may have been hashed already.
pub(super) struct Bytes {
    pub bytes: Vec<u8>,
    hash: Sha256,
    hashed: usize,
}

impl Bytes {
    /// Bytes that are there already.
    pub fn of(bytes: Vec<u8>) -> Bytes {
        Bytes { bytes, hash: Sha256::new(), hashed: 0 }
    }

    /// The whole file in memory of our own: in a memory map, another process could change the bytes after they were scanned.
    ///
    /// # Errors
    /// Usage where there is no such file; Malformed where it is not a regular file, is too large, or changes meanwhile.
    pub fn read(path: &Path, limits: &Limits) -> Result<Bytes> {
        // Before opening, because opening a pipe would wait for its other end.
        let metadata = std::fs::metadata(path).map_err(|error| io(&error))?;
        regular(&metadata)?;
        let mut file = File::open(path).map_err(|error| io(&error))?;
        let metadata = file.metadata().map_err(|error| io(&error))?;
        regular(&metadata)?;
        if metadata.len() > limits.file_bytes {
            return Err(too_large(metadata.len(), limits));
        }
        let mut bytes = zeros(usize::try_from(metadata.len()).unwrap_or(usize::MAX))?;
        let (hash, hashed) = fill(&mut bytes, &mut file)?;
        if file.read(&mut [0]).map_err(|error| io(&error))? > 0 {
            return Err(changed());
        }
        Ok(Bytes { bytes, hash, hashed })
    }

    /// SHA-256 of all bytes, in lower-case hexadecimal.
    pub fn sha256(&self) -> String {
        let mut hash = self.hash.clone();
        hash.update(&self.bytes[self.hashed..]);
        hex(&hash.finalize())
    }
}

/// Reads as many bytes as there is room for. A thread hashes what has been read, and stops where the last byte is there: what is left
/// can then be hashed beside something else.
fn fill(bytes: &mut [u8], file: &mut File) -> Result<(Sha256, usize)> {
    let complete = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (parts, received) = mpsc::channel::<&[u8]>();
        let hasher = (bytes.len() > PART).then(|| {
            scope.spawn(|| {
                let (mut hash, mut hashed) = (Sha256::new(), 0);
                for part in received {
                    if complete.load(Ordering::Relaxed) {
                        break;
                    }
                    hash.update(part);
                    hashed += part.len();
                }
                (hash, hashed)
            })
        });
        let result = bytes.chunks_mut(PART).try_for_each(|part| {
            file.read_exact(part)
                .map_err(|error| if error.kind() == ErrorKind::UnexpectedEof { changed() } else { io(&error) })?;
            // Without a thread nobody receives, and everything is hashed later.
            let _ = parts.send(part);
            Ok(())
        });
        complete.store(true, Ordering::Relaxed);
        drop(parts);
        let hashed = hasher.map(|hasher| hasher.join().map_err(|_| Error::unexpected("hashing the file failed"))).transpose()?;
        result.map(|()| hashed.unwrap_or((Sha256::new(), 0)))
    })
}

/// Zeros that take memory when they are overwritten. They cannot be asked for in a way that may fail, but their memory can.
fn zeros(count: usize) -> Result<Vec<u8>> {
    let mut memory: Vec<u8> = Vec::new();
    memory.try_reserve_exact(count).map_err(|error| Error::unexpected(format!("no memory for the file: {error}")))?;
    drop(memory);
    Ok(vec![0; count])
}

fn regular(metadata: &Metadata) -> Result<()> {
    if metadata.is_dir() {
        return Err(Error::malformed("a directory, not an ONNX file"));
    }
    if !metadata.is_file() {
        return Err(Error::malformed("not a regular file"));
    }
    Ok(())
}

fn changed() -> Error {
    Error::malformed("the file changed while it was read")
}

fn io(error: &std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::PermissionDenied => Error::usage(error),
        _ => Error::new(error::ErrorKind::Unexpected, error),
    }
}

/// Lower-case hexadecimal.
pub(super) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_hash_is_that_of_all_bytes_whatever_was_hashed_when() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for size in [0, 1, PART - 1, PART, PART + 1, 5 * PART + 7] {
            let content: Vec<u8> = (0..size).map(|i| (i * i % 251) as u8).collect();
            std::fs::write(&path, &content).unwrap();
            let read = Bytes::read(&path, &Limits::default()).unwrap();
            assert_eq!(read.bytes, content);
            assert_eq!(read.sha256(), hex(&Sha256::digest(&content)), "{size} bytes, {} of them early", read.hashed);
        }
    }
}
