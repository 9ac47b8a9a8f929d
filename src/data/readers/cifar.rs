//! CIFAR-10 and CIFAR-100 as their authors publish them: files of records, a label or two and 3,072 bytes of pixels each.
//!
//! Source: <https://www.cs.toronto.edu/~kriz/cifar.html>, "Binary version".

use std::path::Path;

use super::official::{Records, class_names, read_bounded};
use crate::data::store::ImageSet;
use crate::error::{Error, Result};

/// Bytes of an image: red, green and blue, row by row.
const PIXELS: usize = 3 * 32 * 32;

/// More than ten times the largest official file.
const MAX_FILE_BYTES: u64 = 2 << 30;

/// A variant of the format.
struct Layout {
    /// Bytes of labels before the pixels; the last one counts.
    labels: usize,
    names: &'static str,
    classes: usize,
}

/// Reads the files `data_batch_1.bin` to `data_batch_5.bin`, or `test_batch.bin`, in a folder with `batches.meta.txt`.
///
/// # Errors
/// Data, naming the file: it is missing, ends within a record, or holds a label that is no class.
pub(in crate::data) fn cifar10(root: &Path, train: bool) -> Result<ImageSet> {
    let files: Vec<String> =
        if train { (1..=5).map(|n| format!("data_batch_{n}.bin")).collect() } else { vec!["test_batch.bin".to_string()] };
    read(root, &files, &Layout { labels: 1, names: "batches.meta.txt", classes: 10 })
}

/// Reads `train.bin` or `test.bin` in a folder with `fine_label_names.txt`; labels are the 100 fine ones.
///
/// # Errors
/// As [`cifar10`].
pub(in crate::data) fn cifar100(root: &Path, train: bool) -> Result<ImageSet> {
    let file = if train { "train.bin" } else { "test.bin" };
    read(root, &[file.to_string()], &Layout { labels: 2, names: "fine_label_names.txt", classes: 100 })
}

fn read(root: &Path, files: &[String], layout: &Layout) -> Result<ImageSet> {
    let classes = class_names(&root.join(layout.names), layout.classes)?;
    let mut records = Records::new([3, 32, 32]);
    for file in files {
        let path = root.join(file);
        let bytes = read_bounded(&path, MAX_FILE_BYTES)?;
        let length = layout.labels + PIXELS;
        let (count, rest) = (bytes.len() / length, bytes.len() % length);
        if rest != 0 || count == 0 {
            let reason = format!("holds {} bytes, which is no whole number of records of {length}", bytes.len());
            return Err(Error::data(reason).at(path.display()).help("the file is cut off, or of another data set"));
        }
        for (index, record) in bytes.chunks_exact(length).enumerate() {
            let (labels, pixels) = record.split_at(layout.labels);
            let label = labels.last().copied().unwrap_or(0);
            if usize::from(label) >= layout.classes {
                let reason = format!("record {index} has the label {label}, where there are {} classes", layout.classes);
                return Err(Error::data(reason).at(path.display()));
            }
            records.push(format!("{file}/{index:05}"), i64::from(label), pixels);
        }
    }
    records.finish(classes)
}
