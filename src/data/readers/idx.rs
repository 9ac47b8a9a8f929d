//! Fashion-MNIST in its IDX files, packed by gzip or not.
//!
//! Source: <https://github.com/zalandoresearch/fashion-mnist>; the format is that of MNIST, <http://yann.lecun.com/exdb/mnist/>.

use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::official::{Records, read_bounded};
use crate::data::store::ImageSet;
use crate::error::{Error, Result};

/// The classes in the order of their numbers, with an underscore where the authors have a slash: names become folders.
const CLASSES: [&str; 10] =
    ["T-shirt_top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

/// Ten times the largest official file, unpacked: a packed file can ask for any amount.
const MAX_BYTES: u64 = 512 << 20;

/// The largest dimension that is believed.
const MAX_SIZE: usize = 1 << 24;

/// Reads `train-images-idx3-ubyte` and `train-labels-idx1-ubyte`, or the same of `t10k`, each with or without `.gz`.
///
/// # Errors
/// Data, naming the file: it is missing, is no IDX file of bytes, is shorter or longer than its header says, cannot be unpacked, or images
/// and labels differ in number.
pub(in crate::data) fn fmnist(root: &Path, train: bool) -> Result<ImageSet> {
    let part = if train { "train" } else { "t10k" };
    let images = Idx::read(&find(root, &format!("{part}-images-idx3-ubyte"))?, 3)?;
    let labels = Idx::read(&find(root, &format!("{part}-labels-idx1-ubyte"))?, 1)?;
    let (&[count, height, width], &[known]) = (images.sizes.as_slice(), labels.sizes.as_slice()) else {
        return Err(Error::unexpected("an IDX file has other dimensions than it was read for"));
    };
    if count != known {
        return Err(Error::data(format!("holds {known} labels, where there are {count} images")).at(labels.path.display()));
    }
    let mut records = Records::new([1, height, width]);
    for (index, (pixels, &label)) in images.content().chunks_exact(height * width).zip(labels.content()).enumerate() {
        if usize::from(label) >= CLASSES.len() {
            let reason = format!("image {index} has the label {label}, where there are {} classes", CLASSES.len());
            return Err(Error::data(reason).at(labels.path.display()));
        }
        records.push(format!("{part}/{index:05}"), i64::from(label), pixels);
    }
    records.finish(CLASSES.map(String::from).to_vec())
}

fn find(root: &Path, name: &str) -> Result<PathBuf> {
    let plain = root.join(name);
    let packed = root.join(format!("{name}.gz"));
    [&plain, &packed].into_iter().find(|path| path.is_file()).cloned().ok_or_else(|| {
        Error::data("is not there, packed (.gz) or not").at(plain.display()).help("`cmira data fetch fmnist` gets it")
    })
}

/// An array of unsigned bytes: two zeros, the type 8, the number of dimensions, each as four bytes (big endian), then the numbers.
struct Idx {
    path: PathBuf,
    bytes: Vec<u8>,
    sizes: Vec<usize>,
}

impl Idx {
    fn read(path: &Path, dimensions: u8) -> Result<Idx> {
        let mut bytes = read_bounded(path, MAX_BYTES)?;
        if path.extension().is_some_and(|extension| extension == "gz") {
            bytes = unpack(path, &bytes)?;
        }
        let refuse = |reason: String| Err(Error::data(reason).at(path.display()));
        let (Some(magic), true) = (bytes.first_chunk::<4>(), bytes.len() >= header(dimensions)) else {
            return refuse(format!("is shorter than the header of an IDX file: {} bytes", bytes.len()));
        };
        if *magic != [0, 0, 8, dimensions] {
            return refuse(format!("is no IDX file of bytes with {dimensions} dimensions: it begins with {magic:02x?}"));
        }
        let sizes: Vec<usize> = bytes[4..header(dimensions)]
            .chunks_exact(4)
            // Chunks of four are four bytes; 32 bits fit.
            .map(|size| size.iter().fold(0_usize, |value, &byte| (value << 8) | usize::from(byte)))
            .collect();
        let stated = sizes.iter().try_fold(1_usize, |total, &size| total.checked_mul(size).filter(|_| size <= MAX_SIZE));
        let held = bytes.len() - header(dimensions);
        match stated {
            Some(stated) if stated == held && stated > 0 => Ok(Idx { path: path.to_path_buf(), bytes, sizes }),
            _ => refuse(format!("states {sizes:?} and holds {held} bytes behind its header")),
        }
    }

    fn content(&self) -> &[u8] {
        &self.bytes[self.bytes.len() - self.sizes.iter().product::<usize>()..]
    }
}

fn header(dimensions: u8) -> usize {
    4 + 4 * usize::from(dimensions)
}

fn unpack(path: &Path, packed: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = MultiGzDecoder::new(packed).take(MAX_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| Error::data(format!("cannot be unpacked: {error}")).at(path.display()))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_BYTES) {
        return Err(Error::data(format!("unpacks to more than {MAX_BYTES} bytes")).at(path.display()));
    }
    Ok(bytes)
}
