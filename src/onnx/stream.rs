//! One pass over a file: each of its bytes is read once, admitted, hashed by another thread, and then seen by the parser.

use std::fs::{File, Metadata};
use std::io::{self, BufRead, ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};

use sha2::{Digest, Sha256};

use super::admit::Admission;
use super::limits::Limits;
use super::proto::Message;
use super::schema;
use crate::error::{self, Error, Result};

/// How many bytes are read at once: they stay in the cache of the core that reads, scans and parses them.
const PART: usize = 1 << 18;

/// How many parts may wait to be hashed.
const WAITING: usize = 16;

/// A message, and what it was made of.
pub(super) struct Parsed<M> {
    pub message: M,
    /// SHA-256 of all bytes, in lower-case hexadecimal.
    pub sha256: String,
    /// How many bytes there were.
    pub bytes: u64,
}

/// Opens a file to [parse] it, and gives its size.
///
/// # Errors
/// Usage where there is no such file; Malformed where it is not a regular file or is too large.
pub(super) fn open(path: &Path, limits: &Limits) -> Result<(File, u64)> {
    // Before opening, because opening a pipe would wait for its other end.
    regular(&std::fs::metadata(path).map_err(|error| failed(&error))?)?;
    let file = File::open(path).map_err(|error| failed(&error))?;
    let metadata = file.metadata().map_err(|error| failed(&error))?;
    regular(&metadata)?;
    within(metadata.len(), limits)?;
    Ok((file, metadata.len()))
}

/// Refuses models that are larger than a limit.
pub(super) fn within(bytes: u64, limits: &Limits) -> Result<()> {
    let most = limits.file_bytes;
    if bytes > most {
        return Err(Error::malformed(format!("the model's {bytes} bytes are more than {most} (limit file_bytes)")));
    }
    Ok(())
}

/// Reads a message of sort `root` and of `bytes` bytes, which are all that `source` may have. They are not mapped: another process could
/// change them in a memory map after they were scanned.
///
/// # Errors
/// Malformed where the bytes are refused (see [`Admission::advance`]), are no message, or change meanwhile.
pub(super) fn parse<M: Message>(source: impl Read, bytes: u64, root: schema::Message, limits: &Limits) -> Result<Parsed<M>> {
    let (sender, receiver) = mpsc::sync_channel::<(Arc<Vec<u8>>, usize)>(WAITING);
    std::thread::scope(|scope| {
        let hasher = scope.spawn(move || {
            let mut hash = Sha256::new();
            receiver.iter().for_each(|(part, begin)| hash.update(&part[begin..]));
            hex(&hash.finalize())
        });
        let length = usize::try_from(bytes).map_err(Error::malformed)?;
        let mut stream = Stream {
            source,
            left: length,
            admission: Admission::new(root, length, limits),
            part: Arc::default(),
            next: 0,
            admitted: 0,
            parts: sender,
            beginning: Vec::new(),
            refused: None,
        };
        let parsed = stream.message::<M>(root);
        // Without a sender, the thread ends.
        drop(stream);
        let sha256 = hasher.join().map_err(|_| Error::unexpected("hashing the file failed"))?;
        Ok(Parsed { message: parsed?, sha256, bytes })
    })
}

/// Bytes that the parser may see.
struct Stream<'a, R> {
    source: R,
    /// How many bytes have not been read.
    left: usize,
    admission: Admission<'a>,
    /// The bytes at hand. Those before `next` have been parsed; those from `admitted` on are the beginning of a field.
    part: Arc<Vec<u8>>,
    next: usize,
    admitted: usize,
    /// Where parts go to be hashed, from a place in each on.
    parts: SyncSender<(Arc<Vec<u8>>, usize)>,
    /// The very first bytes.
    beginning: Vec<u8>,
    refused: Option<Error>,
}

impl<R: Read> Stream<'_, R> {
    fn message<M: Message>(&mut self, root: schema::Message) -> Result<M> {
        let tensor = matches!(root, schema::Message::Tensor);
        let parsed = {
            let mut input = protobuf::CodedInputStream::from_buf_read(self);
            M::parse_from(&mut input).and_then(|message| input.check_eof().map(|()| message))
        };
        // What the parser says of a refusal is only that there was one.
        let parsed = match self.refused.take() {
            Some(refused) => Err(refused),
            None => parsed
                .map_err(|error| Error::malformed(format!("not an ONNX {}: {error}", if tensor { "tensor" } else { "model" }))),
        };
        parsed.map_err(|error| explain(error, &self.beginning))
    }

    /// Goes on to the next part of which something is admitted, unless there is none.
    fn read_on(&mut self) -> Result<()> {
        while self.next == self.admitted && self.left > 0 {
            let begun = &self.part[self.admitted..];
            let begin = begun.len();
            let more = self.left.min(PART);
            let mut part = Vec::with_capacity(begin + more);
            part.extend_from_slice(begun);
            let read = self.source.by_ref().take(more as u64).read_to_end(&mut part).map_err(|error| failed(&error))?;
            self.left -= read;
            if read < more || self.left == 0 && self.source.read(&mut [0]).map_err(|error| failed(&error))? > 0 {
                return Err(Error::malformed("the file changed while it was read"));
            }
            if self.beginning.is_empty() {
                self.beginning.extend(part.iter().take(64));
            }
            self.admitted = self.admission.advance(&part)?;
            self.part = Arc::new(part);
            self.next = 0;
            // It is there as long as this is.
            let _ = self.parts.send((self.part.clone(), begin));
        }
        Ok(())
    }
}

impl<R: Read> BufRead for Stream<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if let Err(error) = self.read_on() {
            self.refused = Some(error);
            return Err(io::Error::other("refused"));
        }
        Ok(&self.part[self.next..self.admitted])
    }

    fn consume(&mut self, count: usize) {
        self.next = (self.next + count).min(self.admitted);
    }
}

impl<R: Read> Read for Stream<'_, R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(target)?;
        self.consume(count);
        Ok(count)
    }
}

/// Says what the file seems to be, where it plainly is something else.
fn explain(error: Error, beginning: &[u8]) -> Error {
    let known: [(&[u8], &str); 5] = [
        (b"PK\x03\x04", "it looks like a zip archive, such as a PyTorch checkpoint; export the model to ONNX first"),
        (b"\x80\x02", "it looks like a Python pickle, such as a PyTorch checkpoint; export the model to ONNX first"),
        (b"\x89HDF", "it looks like an HDF5 file, such as a Keras model; export the model to ONNX first"),
        (b"version https://git-lfs", "it is a Git LFS pointer; fetch the file itself with `git lfs pull`"),
        (b"<", "it looks like a web page; was the download refused?"),
    ];
    match known.iter().find(|(start, _)| beginning.starts_with(start)) {
        Some((_, help)) => error.help(help),
        None => error,
    }
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

fn failed(error: &io::Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::NotADirectory | ErrorKind::InvalidFilename => {
            Error::usage(error)
        }
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
    use crate::onnx::proto::TensorProto;

    fn tensor(size: usize) -> TensorProto {
        let raw_data = (0..size).map(|i| (i * i % 251) as u8).collect();
        let dims = vec![i64::try_from(size).unwrap()];
        TensorProto { name: "t".to_string(), data_type: 2, dims, raw_data, ..Default::default() }
    }

    fn parsed(bytes: &[u8], stated: u64) -> Result<Parsed<TensorProto>> {
        parse(bytes, stated, schema::Message::Tensor, &Limits::default())
    }

    #[test]
    fn messages_of_all_sizes_are_read_and_hashed_whole() {
        for size in [0, 1, PART - 30, PART - 10, PART - 1, PART, PART + 1, 20 * PART + 7] {
            let message = tensor(size);
            let bytes = message.write_to_bytes().unwrap();
            let found = parsed(&bytes, bytes.len() as u64).unwrap();
            assert!(found.message == message, "{size}");
            assert_eq!((found.sha256, found.bytes), (hex(&Sha256::digest(&bytes)), bytes.len() as u64), "{size}");
        }
    }

    #[test]
    fn many_small_fields_are_read_across_parts() {
        // Of five bytes each, so that parts end in the middle of some.
        let message = TensorProto { string_data: vec![b"abc".to_vec(); PART], ..Default::default() };
        let bytes = message.write_to_bytes().unwrap();
        let found = parsed(&bytes, bytes.len() as u64).unwrap();
        assert!(found.message == message);
        assert_eq!(found.sha256, hex(&Sha256::digest(&bytes)));
    }

    #[test]
    fn sources_of_another_size_are_refused() {
        for size in [10, 3 * PART] {
            let bytes = tensor(size).write_to_bytes().unwrap();
            for stated in [bytes.len() - 1, bytes.len() + 1, bytes.len() + 2 * PART] {
                assert!(parsed(&bytes, stated as u64).is_err(), "{size} stated as {stated}");
            }
        }
    }

    #[test]
    fn what_a_file_grows_by_is_not_left_out() {
        let first = tensor(10).write_to_bytes().unwrap();
        let more = TensorProto { name: "more".to_string(), ..Default::default() }.write_to_bytes().unwrap();
        let error = parsed(&[first.as_slice(), &more].concat(), first.len() as u64).err().unwrap().to_string();
        assert!(error.contains("changed while it was read"), "{error}");
    }

    #[test]
    fn what_is_refused_late_is_refused_all_the_same() {
        let mut bytes = tensor(3 * PART).write_to_bytes().unwrap();
        bytes.push(0x0b);
        let error = parsed(&bytes, bytes.len() as u64).err().unwrap().to_string();
        assert!(error.contains("a group, which ONNX never uses"), "{error}");
    }
}
