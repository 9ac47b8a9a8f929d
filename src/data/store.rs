//! [`ImageSet`]: decoded images with their labels, names and the problems met while reading them.

use std::collections::HashSet;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::tensor::{Device, Kind, Tensor, to_u8s};

/// An image, file or line that could not be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Problem {
    /// The file or folder concerned.
    pub path: PathBuf,
    /// What is wrong with it, as a phrase that continues the path.
    pub reason: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.reason)
    }
}

/// Decoded images of one size, with what is known about them. All lists have one entry an image, in the same order.
#[derive(Debug)]
pub struct ImageSet {
    /// `[N, C, H, W]`, unsigned bytes, on the CPU.
    pub images: Tensor,
    /// Positions in `classes`, where known.
    pub labels: Vec<Option<i64>>,
    /// Paths relative to the folder that was read, with `/` between their parts.
    pub names: Vec<String>,
    /// The classes' names; empty if nothing names them.
    pub classes: Vec<String>,
    /// SHA-256 in hexadecimal of size, pixels, labels and names: equal for equal sets, wherever they lie.
    pub sha256: String,
    /// Everything that was found and could not be used. Belongs to the reading: subsets have none.
    pub problems: Vec<Problem>,
    /// Hidden files (`.DS_Store`, `Thumbs.db`...) that were passed over without being called problems.
    pub ignored: usize,
}

impl ImageSet {
    /// Puts a set together and computes its hash.
    ///
    /// # Errors
    /// Data, when `images` is not a byte tensor `[N, C, H, W]` with `C`, `H`, `W` of at least 1, when the lists' lengths are not
    /// N, when a label is negative or (where classes are named) not below their number, or when a name comes twice.
    pub fn new(
        images: Tensor,
        labels: Vec<Option<i64>>,
        names: Vec<String>,
        classes: Vec<String>,
        problems: Vec<Problem>,
    ) -> Result<ImageSet> {
        let images = images.f_to_device(Device::Cpu)?.f_contiguous()?;
        let shape = images.size();
        let [count, sides @ ..] = shape.as_slice() else { return Err(Error::data("images have no dimensions")) };
        if images.f_kind()? != Kind::Uint8 || sides.len() != 3 || sides.iter().any(|side| *side < 1) {
            return Err(Error::data(format!("images have to be bytes [N, C, H, W], not {:?} {shape:?}", images.f_kind()?)));
        }
        if usize::try_from(*count).ok() != Some(labels.len()) || labels.len() != names.len() {
            return Err(Error::data(format!("{count} images have {} labels and {} names", labels.len(), names.len())));
        }
        let classes_known = i64::try_from(classes.len()).ok().filter(|known| *known > 0).unwrap_or(i64::MAX);
        for (label, name) in labels.iter().zip(&names) {
            if let Some(label) = label
                && !(0..classes_known).contains(label)
            {
                return Err(Error::data(format!("label {label} is outside of {} classes", classes.len())).at(name));
            }
        }
        let mut seen = HashSet::with_capacity(names.len());
        if let Some(twice) = names.iter().find(|name| !seen.insert(name.as_str())) {
            return Err(Error::data("comes twice in one image set").at(twice));
        }
        let sha256 = identify(&images, &labels, &names)?;
        Ok(ImageSet { images, labels, names, classes, sha256, problems, ignored: 0 })
    }

    /// Number of images, N.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Number of channels, C: 1 (grey) or 3 (RGB) if read from a folder.
    pub fn channels(&self) -> usize {
        self.side(1)
    }

    /// Image height H in pixels.
    pub fn height(&self) -> usize {
        self.side(2)
    }

    /// Image width W in pixels.
    pub fn width(&self) -> usize {
        self.side(3)
    }

    /// SHA-256 of every image's pixels: equal for equal images, whatever they are called.
    ///
    /// # Errors
    /// Unexpected, when libtorch cannot copy.
    pub fn image_hashes(&self) -> Result<Vec<[u8; 32]>> {
        let size = self.channels() * self.height() * self.width();
        Ok(to_u8s(&self.images)?.chunks_exact(size.max(1)).map(|image| Sha256::digest(image).into()).collect())
    }

    fn side(&self, dimension: usize) -> usize {
        self.images.size().get(dimension).and_then(|side| usize::try_from(*side).ok()).unwrap_or(0)
    }

    /// Whether every image has a label.
    pub fn labels_known(&self) -> bool {
        self.labels.iter().all(Option::is_some)
    }

    /// Number of images of each class, in the order of `classes`; images without a label count nowhere.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes.len()];
        for label in self.labels.iter().flatten() {
            if let Some(count) = usize::try_from(*label).ok().and_then(|label| counts.get_mut(label)) {
                *count += 1;
            }
        }
        counts
    }

    /// The images at these positions, in this order, as a set of its own with its own hash and without problems.
    ///
    /// # Errors
    /// Data, when a position is not below N or comes twice.
    pub fn subset(&self, indices: &[usize]) -> Result<ImageSet> {
        let mut labels = Vec::with_capacity(indices.len());
        let mut names = Vec::with_capacity(indices.len());
        let mut positions = Vec::with_capacity(indices.len());
        for &index in indices {
            let (Some(label), Some(name), Ok(position)) = (self.labels.get(index), self.names.get(index), i64::try_from(index))
            else {
                return Err(Error::data(format!("there is no image {index} in a set of {}", self.len())));
            };
            labels.push(*label);
            names.push(name.clone());
            positions.push(position);
        }
        let images = self.images.f_index_select(0, &Tensor::f_from_slice(&positions)?)?;
        ImageSet::new(images, labels, names, self.classes.clone(), Vec::new())
    }

    /// One set after the other, with all their problems.
    ///
    /// # Errors
    /// Data, when there is no set, when sizes, channels or classes differ, or when a name comes in two of them.
    pub fn concat(sets: &[&ImageSet]) -> Result<ImageSet> {
        let Some(first) = sets.first() else { return Err(Error::data("there is no image set to concatenate")) };
        for set in sets {
            if set.classes != first.classes {
                return Err(Error::data("image sets with different classes cannot be one set"));
            }
            let shape = |set: &ImageSet| (set.channels(), set.height(), set.width());
            if shape(set) != shape(first) {
                let (ours, theirs) = (shape(first), shape(set));
                return Err(Error::data(format!("image sets of sizes {ours:?} and {theirs:?} (C, H, W) cannot be one set")));
            }
        }
        let images = Tensor::f_cat(&sets.iter().map(|set| &set.images).collect::<Vec<_>>(), 0)?;
        let labels = sets.iter().flat_map(|set| set.labels.iter().copied()).collect();
        let names = sets.iter().flat_map(|set| set.names.iter().cloned()).collect();
        let problems = sets.iter().flat_map(|set| set.problems.iter().cloned()).collect();
        let mut all = ImageSet::new(images, labels, names, first.classes.clone(), problems)?;
        all.ignored = sets.iter().map(|set| set.ignored).sum();
        Ok(all)
    }

    /// All labels, for code that needs every image labelled.
    ///
    /// # Errors
    /// Data, naming the first image without a label.
    pub fn label_list(&self) -> Result<Vec<i64>> {
        let known = |(label, name): (&Option<i64>, &String)| {
            label.ok_or_else(|| Error::data("has no label").at(name).help("labels are needed for every image here"))
        };
        self.labels.iter().zip(&self.names).map(known).collect()
    }

    /// All labels as int64 `[N]` on the CPU.
    ///
    /// # Errors
    /// Data, naming the first image without a label.
    pub fn label_tensor(&self) -> Result<Tensor> {
        Ok(Tensor::f_from_slice(&self.label_list()?)?)
    }
}

fn identify(images: &Tensor, labels: &[Option<i64>], names: &[String]) -> Result<String> {
    let mut hash = Sha256::new();
    for side in images.size() {
        hash.update(side.to_le_bytes());
    }
    hash.update(to_u8s(images)?);
    for label in labels {
        // Labels are never negative, so -1 is free to mean none.
        hash.update(label.unwrap_or(-1).to_le_bytes());
    }
    for name in names {
        hash.update(u64::try_from(name.len()).unwrap_or(u64::MAX).to_le_bytes());
        hash.update(name);
    }
    Ok(hex(&hash.finalize()))
}

/// Bytes as lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::error::ErrorKind;

    fn set(count: i64) -> ImageSet {
        let pixels: Vec<u8> = (0..count * 12).map(|value| value as u8).collect();
        let images = Tensor::f_from_data_size(&pixels, &[count, 3, 2, 2], Kind::Uint8).unwrap();
        let names = (0..count).map(|index| format!("{index}.png")).collect();
        let labels = (0..count).map(|index| Some(index % 2)).collect();
        ImageSet::new(images, labels, names, vec!["a".into(), "b".into()], Vec::new()).unwrap()
    }

    fn first_bytes(set: &ImageSet) -> Vec<u8> {
        to_u8s(&set.images).unwrap().iter().step_by(12).copied().collect()
    }

    #[test]
    fn a_subset_keeps_the_order_asked_for() {
        let subset = set(4).subset(&[3, 0]).unwrap();
        assert_eq!(subset.names, ["3.png", "0.png"]);
        assert_eq!(subset.labels, [Some(1), Some(0)]);
        assert_eq!(first_bytes(&subset), [36, 0]);
        assert_eq!(set(4).subset(&[]).unwrap().len(), 0);
        assert_eq!(set(4).subset(&[4]).unwrap_err().kind(), ErrorKind::Data);
        assert!(set(4).subset(&[1, 1]).is_err());
    }

    #[test]
    fn parts_put_together_again_are_the_same_set() {
        let whole = set(4);
        let halves = [whole.subset(&[0, 1]).unwrap(), whole.subset(&[2, 3]).unwrap()];
        let again = ImageSet::concat(&[&halves[0], &halves[1]]).unwrap();
        assert_eq!(again.sha256, whole.sha256);
        assert_eq!((again.len(), again.channels(), again.height(), again.width()), (4, 3, 2, 2));
        assert!(ImageSet::concat(&[&whole, &halves[0]]).unwrap_err().to_string().contains("0.png"));
        assert!(ImageSet::concat(&[]).is_err());
    }

    #[test]
    fn the_hash_sees_pixels_labels_and_names() {
        let plain = set(2);
        let mut pixels = to_u8s(&plain.images).unwrap();
        pixels[5] += 1;
        let shape = [2, 3, 2, 2];
        let image = |bytes: &[u8]| Tensor::f_from_data_size(bytes, &shape, Kind::Uint8).unwrap();
        let make = |images, labels: &[Option<i64>], names: [&str; 2]| {
            let names = names.map(String::from).to_vec();
            ImageSet::new(images, labels.to_vec(), names, plain.classes.clone(), Vec::new()).unwrap().sha256
        };
        let same = plain.images.shallow_clone();
        assert_eq!(make(same.shallow_clone(), &plain.labels, ["0.png", "1.png"]), plain.sha256);
        assert_ne!(make(image(&pixels), &plain.labels, ["0.png", "1.png"]), plain.sha256);
        assert_ne!(make(same.shallow_clone(), &[Some(0), None], ["0.png", "1.png"]), plain.sha256);
        assert_ne!(make(same, &plain.labels, ["0.png", "2.png"]), plain.sha256);
    }

    #[test]
    fn inconsistent_sets_are_refused() {
        let images = || Tensor::f_from_data_size(&[0; 12], &[1, 3, 2, 2], Kind::Uint8).unwrap();
        let new = |images, labels: &[Option<i64>], classes: &[&str]| {
            let classes = classes.iter().map(|class| class.to_string()).collect();
            ImageSet::new(images, labels.to_vec(), vec!["x.png".into()], classes, Vec::new()).map_err(|error| error.kind())
        };
        assert_eq!(new(images(), &[], &[]).unwrap_err(), ErrorKind::Data);
        assert_eq!(new(images(), &[Some(1)], &["a"]).unwrap_err(), ErrorKind::Data);
        assert_eq!(new(images(), &[Some(-1)], &[]).unwrap_err(), ErrorKind::Data);
        assert_eq!(new(images().f_to_kind(Kind::Float).unwrap(), &[None], &[]).unwrap_err(), ErrorKind::Data);
        assert_eq!(new(images().f_reshape([12]).unwrap(), &[None], &[]).unwrap_err(), ErrorKind::Data);
    }

    #[test]
    fn labels_as_a_tensor_need_every_label() {
        let mut some = set(3);
        assert_eq!(crate::tensor::to_i64s(&some.label_tensor().unwrap()).unwrap(), [0, 1, 0]);
        assert_eq!(some.class_counts(), [2, 1]);
        assert!(some.labels_known());
        some.labels[1] = None;
        let error = some.label_tensor().unwrap_err();
        assert!(error.to_string().starts_with("1.png: has no label"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Data);
        assert!(!some.labels_known());
    }
}
