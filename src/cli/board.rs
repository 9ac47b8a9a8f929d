//! TensorBoard's event files, for who wants to watch: records framed as TensorFlow frames them, each a protobuf message `Event` with scalars.
//!
//! <https://github.com/tensorflow/tensorboard/blob/master/tensorboard/compat/proto/event.proto>

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use protobuf::CodedOutputStream;

use crate::attack::Progress;
use crate::cli::progress::Reporter;
use crate::error::{Error, Result};
use crate::train;

/// Where event files go, if they are wanted.
#[derive(Debug, Clone, clap::Args)]
pub struct Watched {
    /// Write TensorBoard event files into this folder while it runs; look at them with `tensorboard --logdir LOGS`.
    #[arg(long, value_name = "LOGS")]
    pub tensorboard: Option<PathBuf>,
}

/// Event files, one for every run that is shown as a curve of its own.
pub struct Board {
    folder: Option<PathBuf>,
    files: BTreeMap<String, File>,
    /// What is shown of, behind the name of the run: variants of the attack follow each other, and each has a curve of its own.
    variant: &'static str,
    /// The first error: it is told once, in the end, and ends nothing.
    failed: Option<Error>,
}

impl Board {
    pub fn new(watched: &Watched) -> Board {
        Board { folder: watched.tensorboard.clone(), files: BTreeMap::new(), variant: "", failed: None }
    }

    /// What happens in an attack.
    pub fn attack(&mut self, run: &str, progress: &Progress) {
        match progress {
            Progress::Variant(variant) => self.variant = variant.name(),
            Progress::Training { model, iteration, event } => self.training(run, model, *iteration, event),
            Progress::Iteration(line) => {
                let step = line.iteration;
                let values = [
                    ("accuracy/attack model", line.acc_a),
                    ("accuracy/unlearned model", line.acc_u),
                    ("agreement", Some(100.0 * line.agreement_rate)),
                    ("sets/agreement", Some(line.agreement as f64)),
                    ("sets/from unlearned model", Some(line.from_unlearned as f64)),
                    ("sets/from attack model", Some(line.from_attack as f64)),
                ];
                for (tag, value) in values {
                    self.scalar(run, tag, step, value);
                }
            }
        }
    }

    /// An epoch of training; `part` is one of several trainings that follow each other, 0 for a single one.
    pub fn training(&mut self, run: &str, model: &str, part: usize, event: &train::Event) {
        if let train::Event::Epoch { epoch, of, loss, .. } = event {
            self.scalar(run, &format!("loss/{model}"), part.saturating_sub(1) * of + epoch, Some(*loss));
        }
    }

    /// Says what went wrong, if anything did.
    pub fn warn(&self, reporter: &Reporter) {
        if let Some(error) = &self.failed {
            reporter.warn(&format!("TensorBoard's files are not complete: {error}"));
        }
    }

    fn scalar(&mut self, run: &str, tag: &str, step: usize, value: Option<f64>) {
        let (Some(folder), Some(value), None) = (self.folder.clone(), value, &self.failed) else { return };
        if let Err(error) = self.write(&folder, run, &scalar(tag, step, value)) {
            self.failed = Some(error);
        }
    }

    fn write(&mut self, folder: &Path, run: &str, event: &[u8]) -> Result<()> {
        let run = if self.variant.is_empty() { run.to_string() } else { format!("{run} {}", self.variant) };
        let folder = folder.join(&run);
        let failed = |error: std::io::Error| Error::io(&folder, &error);
        let file = match self.files.entry(run) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                std::fs::create_dir_all(&folder).map_err(failed)?;
                // By time and process, so that a resumed run has a file of its own.
                let name = format!("events.out.tfevents.{}.{}.cmira", now() as u64, std::process::id());
                let mut file = File::options().create(true).append(true).open(folder.join(name)).map_err(failed)?;
                file.write_all(&framed(&first())).map_err(failed)?;
                place.insert(file)
            }
        };
        file.write_all(&framed(event)).map_err(failed)
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// `Event { wall_time, file_version }`: what every file begins with.
fn first() -> Vec<u8> {
    message(|out| {
        out.write_double(1, now())?;
        out.write_string(3, "brain.Event:2")
    })
}

/// `Event { wall_time, step, summary: { value: { tag, simple_value } } }`.
fn scalar(tag: &str, step: usize, value: f64) -> Vec<u8> {
    let one = message(|out| {
        out.write_string(1, tag)?;
        out.write_float(2, value as f32)
    });
    let summary = message(|out| out.write_bytes(1, &one));
    message(|out| {
        out.write_double(1, now())?;
        out.write_int64(2, i64::try_from(step).unwrap_or(i64::MAX))?;
        out.write_bytes(5, &summary)
    })
}

fn message(fill: impl FnOnce(&mut CodedOutputStream) -> protobuf::Result<()>) -> Vec<u8> {
    let mut bytes = Vec::new();
    {
        let mut out = CodedOutputStream::vec(&mut bytes);
        // A vector takes whatever is written.
        let _ = fill(&mut out).and_then(|()| out.flush());
    }
    bytes
}

/// Length and data, each with its checksum.
fn framed(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(length);
    record.extend(masked(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked(data).to_le_bytes());
    record
}

/// CRC-32C, rotated and shifted, so that data that holds checksums has another one.
fn masked(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_length_data_and_checksums() {
        // The checksum of RFC 3720 that everybody tests with, masked as TensorFlow masks it.
        assert_eq!(masked(b"123456789"), 0xe306_9283_u32.rotate_right(15).wrapping_add(0xa282_ead8));
        let record = framed(b"abc");
        assert_eq!((&record[..8], &record[12..15]), ([3, 0, 0, 0, 0, 0, 0, 0].as_slice(), b"abc".as_slice()));
        assert_eq!(record[15..], masked(b"abc").to_le_bytes());
    }
}
