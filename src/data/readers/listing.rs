//! What lies in an image folder, before anything is opened.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use crate::data::store::Problem;
use crate::error::{Error, Result};

/// File names of images that can be decoded, in lower case. The content decides about the format.
const EXTENSIONS: [&str; 14] =
    ["png", "jpg", "jpeg", "jpe", "jfif", "bmp", "webp", "tif", "tiff", "gif", "ppm", "pgm", "pbm", "pnm"];

/// The file that labels the images of a flat folder.
pub(super) const LABELS_FILE: &str = "labels.csv";

/// A problem, and whether it cost an image (a stray text file does not).
pub(super) struct Finding {
    pub(super) problem: Problem,
    pub(super) image: bool,
}

impl Finding {
    /// An image that cannot be used.
    pub(super) fn image(path: PathBuf, reason: impl Into<String>) -> Finding {
        Finding { problem: Problem { path, reason: reason.into() }, image: true }
    }

    /// Something else worth reporting.
    pub(super) fn other(path: PathBuf, reason: impl Into<String>) -> Finding {
        Finding { problem: Problem { path, reason: reason.into() }, image: false }
    }
}

/// A file with an image's extension.
pub(super) struct Entry {
    pub(super) path: PathBuf,
    /// Relative to the root, with `/` between its parts.
    pub(super) name: String,
}

/// Everything below a root, in the order of names.
pub(super) struct Listing {
    pub(super) images: Vec<Entry>,
    pub(super) labels_file: Option<PathBuf>,
    /// Names of the folders directly below the root.
    pub(super) folders: Vec<String>,
    pub(super) findings: Vec<Finding>,
    /// Hidden files and folders passed over.
    pub(super) ignored: usize,
    /// Changes when a file appears, disappears, or changes its size or time of modification.
    pub(super) fingerprint: [u8; 32],
    /// Whether everything could be looked at.
    pub(super) complete: bool,
}

/// Lists a folder without following symbolic links.
///
/// # Errors
/// Data, when the root cannot be read or is not a folder.
pub(super) fn list(root: &Path) -> Result<Listing> {
    let metadata = std::fs::metadata(root).map_err(|error| Error::data(error).at(root.display()))?;
    if !metadata.is_dir() {
        return Err(Error::data("is not a folder").at(root.display()));
    }
    let mut listing = Listing {
        images: Vec::new(),
        labels_file: None,
        folders: Vec::new(),
        findings: Vec::new(),
        ignored: 0,
        fingerprint: [0; 32],
        complete: true,
    };
    let mut hash = Sha256::new();
    let mut walk = WalkDir::new(root).min_depth(1).follow_links(false).sort_by_file_name().into_iter();
    while let Some(entry) = walk.next() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                let path = error.path().unwrap_or(root).to_path_buf();
                let reason = error.io_error().map_or_else(|| error.to_string(), ToString::to_string);
                if path == root {
                    return Err(Error::data(reason).at(root.display()));
                }
                listing.complete = false;
                listing.findings.push(Finding::image(path, reason));
                continue;
            }
        };
        if is_hidden(&entry.file_name().to_string_lossy()) {
            listing.ignored += 1;
            if entry.file_type().is_dir() {
                walk.skip_current_dir();
            }
            continue;
        }
        if entry.depth() == 1 && entry.file_name() == LABELS_FILE && !entry.file_type().is_file() {
            let error = Error::data("is not a regular file, so the images' labels cannot be read").at(entry.path().display());
            return Err(error.help("replace it by the file itself, or remove it"));
        }
        listing.add(root, &entry, &mut hash);
    }
    listing.fingerprint = hash.finalize().into();
    Ok(listing)
}

impl Listing {
    fn add(&mut self, root: &Path, entry: &walkdir::DirEntry, hash: &mut Sha256) {
        let path = entry.path().to_path_buf();
        let Some(name) = relative_name(root, &path) else {
            self.complete = false;
            self.findings.push(Finding::image(path, "its name is not UTF-8"));
            return;
        };
        hash.update(u64::try_from(name.len()).unwrap_or(u64::MAX).to_le_bytes());
        hash.update(&name);
        let kind = entry.file_type();
        if kind.is_dir() {
            if entry.depth() == 1 {
                self.folders.push(name);
            } else if has_image_extension(&path) {
                self.findings.push(Finding::other(path, "is a folder, although it is named like an image"));
            }
            return;
        }
        let is_image = has_image_extension(&path);
        if kind.is_symlink() {
            self.findings.push(Finding { image: is_image, ..Finding::other(path, "is a symbolic link, which is not followed") });
            return;
        }
        if !kind.is_file() {
            self.findings.push(Finding { image: is_image, ..Finding::other(path, "is not a regular file") });
            return;
        }
        match entry.metadata() {
            Ok(metadata) => {
                let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
                hash.update(metadata.len().to_le_bytes());
                hash.update(modified.map_or(0, |time| time.as_nanos()).to_le_bytes());
            }
            Err(_) => self.complete = false,
        }
        if name == LABELS_FILE {
            self.labels_file = Some(path);
        } else if is_image {
            self.images.push(Entry { path, name });
        } else {
            self.findings.push(Finding::other(path, "is not an image: its extension is not one of an image format"));
        }
    }
}

/// Files that operating systems leave behind, which nobody means to be images.
fn is_hidden(name: &str) -> bool {
    name.starts_with('.') || ["thumbs.db", "desktop.ini", "__macosx"].contains(&name.to_lowercase().as_str())
}

fn has_image_extension(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()))
}

fn relative_name(root: &Path, path: &Path) -> Option<String> {
    let parts: Option<Vec<&str>> = path.strip_prefix(root).ok()?.iter().map(|part| part.to_str()).collect();
    Some(parts?.join("/"))
}
