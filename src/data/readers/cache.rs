//! A decoded image set in one file, so that a folder is decoded once.
//!
//! Layout: [`MAGIC`], SHA-256 of the description, its length (u64, little endian), the description (JSON), the pixels. The
//! description holds the set's own hash, which covers the pixels; so every byte is checked when the file is read.

use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::data::files::write_atomically;
use crate::data::store::{ImageSet, Problem};
use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor, to_u8s};

const MAGIC: &[u8; 8] = b"cmiraim1";

#[derive(Serialize, Deserialize)]
struct Description {
    /// What the set was made from; another key means that the cache is stale.
    key: String,
    shape: [i64; 4],
    labels: Vec<Option<i64>>,
    names: Vec<String>,
    classes: Vec<String>,
    /// Paths relative to the root, so that they can be shown below the root as the user names it.
    problems: Vec<(String, String)>,
    ignored: usize,
    sha256: String,
}

/// The cached set, or nothing if there is none, it is stale, or it is damaged in any way.
pub(super) fn load(path: &Path, key: &str, root: &Path) -> Option<ImageSet> {
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.read_to_end(&mut bytes).ok()?;
    let rest = bytes.strip_prefix(MAGIC)?;
    let (hash, rest) = rest.split_at_checked(32)?;
    let (length, rest) = rest.split_at_checked(8)?;
    let length = usize::try_from(u64::from_le_bytes(length.try_into().ok()?)).ok()?;
    let (description, pixels) = rest.split_at_checked(length)?;
    if Sha256::digest(description).as_slice() != hash {
        return None;
    }
    let it: Description = serde_json::from_slice(description).ok()?;
    let size = it.shape.iter().try_fold(1usize, |product, side| product.checked_mul(usize::try_from(*side).ok()?))?;
    if it.key != key || size != pixels.len() {
        return None;
    }
    let images = Tensor::f_from_data_size(pixels, &it.shape, Kind::Uint8).ok()?;
    let problems = it.problems.into_iter().map(|(path, reason)| Problem { path: root.join(path), reason }).collect();
    let mut set = ImageSet::new(images, it.labels, it.names, it.classes, problems).ok()?;
    set.ignored = it.ignored;
    (set.sha256 == it.sha256).then_some(set)
}

/// Writes a set. Of writers at the same time the last one wins, with a whole file.
///
/// # Errors
/// Unexpected, when the folder cannot be made or the file cannot be written.
pub(super) fn save(path: &Path, key: &str, root: &Path, set: &ImageSet) -> Result<()> {
    let shape = <[i64; 4]>::try_from(set.images.size()).map_err(|shape| Error::unexpected(format!("shape {shape:?}")))?;
    let relative = |problem: &Problem| {
        let path = problem.path.strip_prefix(root).unwrap_or(&problem.path);
        (path.to_string_lossy().into_owned(), problem.reason.clone())
    };
    let description = Description {
        key: key.to_string(),
        shape,
        labels: set.labels.clone(),
        names: set.names.clone(),
        classes: set.classes.clone(),
        problems: set.problems.iter().map(relative).collect(),
        ignored: set.ignored,
        sha256: set.sha256.clone(),
    };
    let description = serde_json::to_vec(&description).map_err(Error::unexpected)?;
    let length = u64::try_from(description.len()).map_err(Error::unexpected)?.to_le_bytes();
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, &error))?;
    }
    write_atomically(path, &[MAGIC, &Sha256::digest(&description), &length, &description, &to_u8s(&set.images)?])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn set() -> ImageSet {
        let images = Tensor::f_from_data_size(&[1, 2, 3, 4, 5, 6], &[2, 3, 1, 1], Kind::Uint8).unwrap();
        let problems = vec![Problem { path: "root/a/x.png".into(), reason: "is empty".into() }];
        let names = vec!["a/0.png".into(), "b/1.png".into()];
        let mut set = ImageSet::new(images, vec![Some(0), None], names, vec!["a".into(), "b".into()], problems).unwrap();
        set.ignored = 3;
        set
    }

    #[test]
    fn everything_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/set.images");
        save(&path, "key", Path::new("root"), &set()).unwrap();
        let again = load(&path, "key", Path::new("moved")).unwrap();
        assert_eq!(again.images, set().images);
        assert_eq!((again.labels, again.names, again.classes), (set().labels, set().names, set().classes));
        assert_eq!((again.sha256, again.ignored), (set().sha256, 3));
        assert_eq!(again.problems[0].path, Path::new("moved/a/x.png"));
        assert!(load(&path, "another key", Path::new("root")).is_none());
        assert!(load(Path::new("missing"), "key", Path::new("root")).is_none());
    }

    #[test]
    fn any_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("set.images");
        save(&path, "key", Path::new("root"), &set()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for position in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[position] ^= 0x40;
            std::fs::write(&path, &damaged).unwrap();
            assert!(load(&path, "key", Path::new("root")).is_none(), "byte {position} of {}", whole.len());
            std::fs::write(&path, &whole[..position]).unwrap();
            assert!(load(&path, "key", Path::new("root")).is_none(), "cut at {position} of {}", whole.len());
        }
        std::fs::write(&path, [&whole[..], &[0]].concat()).unwrap();
        assert!(load(&path, "key", Path::new("root")).is_none());
    }
}
