//! What the readers of published data sets share.

use std::io::Read;
use std::path::Path;

use crate::data::store::ImageSet;
use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor};

/// Lists and annotations are far smaller.
const MAX_TEXT_BYTES: u64 = 64 << 20;

/// The bytes of a file that is not larger than `most`.
pub(super) fn read_bounded(path: &Path, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes));
    read.map_err(|error| Error::data(error).at(path.display()))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > most) {
        return Err(Error::data(format!("is larger than {most} bytes")).at(path.display()));
    }
    Ok(bytes)
}

/// A text file.
pub(super) fn read_text(path: &Path) -> Result<String> {
    let bytes = read_bounded(path, MAX_TEXT_BYTES)?;
    String::from_utf8(bytes).map_err(|_| Error::data("is not UTF-8 text").at(path.display()))
}

/// The names of classes, a line each.
pub(super) fn class_names(path: &Path, count: usize) -> Result<Vec<String>> {
    let names: Vec<String> = read_text(path)?.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect();
    if names.len() != count {
        return Err(Error::data(format!("names {} classes, where there are {count}", names.len())).at(path.display()));
    }
    Ok(names)
}

/// Images of one size that come one after the other.
pub(super) struct Records {
    shape: [usize; 3],
    pixels: Vec<u8>,
    labels: Vec<Option<i64>>,
    names: Vec<String>,
}

impl Records {
    /// Of `[C, H, W]` bytes each.
    pub(super) fn new(shape: [usize; 3]) -> Records {
        Records { shape, pixels: Vec::new(), labels: Vec::new(), names: Vec::new() }
    }

    pub(super) fn push(&mut self, name: String, label: i64, pixels: &[u8]) {
        self.pixels.extend_from_slice(pixels);
        self.labels.push(Some(label));
        self.names.push(name);
    }

    pub(super) fn finish(self, classes: Vec<String>) -> Result<ImageSet> {
        let [c, h, w] = self.shape;
        let shape = [self.names.len(), c, h, w].map(i64::try_from).into_iter().collect::<std::result::Result<Vec<_>, _>>();
        let images = Tensor::f_from_data_size(&self.pixels, &shape.map_err(Error::data)?, Kind::Uint8)?;
        drop(self.pixels);
        ImageSet::new(images, self.labels, self.names, classes, Vec::new())
    }
}
