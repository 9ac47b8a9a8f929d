//! What was installed and from what, so that a second run does nothing and a new version leaves no old file behind.

use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::{At, Result};

/// A finished installation: the key of its source and the files that it put below a directory.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    pub key: String,
    /// Relative to the directory that the stamp is about.
    pub files: Vec<String>,
}

impl Stamp {
    /// The stamp in that file; an empty one, which no key equals, if there is none or it cannot be read.
    pub fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_default();
        let mut lines = text.lines().map(String::from);
        Stamp { key: lines.next().unwrap_or_default(), files: lines.collect() }
    }

    /// Writes it whole or not at all.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = self.key.clone();
        for file in &self.files {
            text.push('\n');
            text.push_str(file);
        }
        text.push('\n');
        let unfinished = path.with_extension("new");
        fs::write(&unfinished, text).at(&unfinished)?;
        fs::rename(&unfinished, path).at(path)
    }

    /// Whether this was made from the source of that key and every file is still there.
    pub fn holds(&self, key: &str, directory: &Path) -> bool {
        self.key == key && self.files.iter().all(|file| directory.join(file).exists())
    }

    /// The files of this stamp that another does not have.
    pub fn without<'a>(&'a self, other: &'a Stamp) -> impl Iterator<Item = &'a String> {
        let kept: std::collections::HashSet<_> = other.files.iter().collect();
        self.files.iter().filter(move |file| !kept.contains(file))
    }
}

/// Where the stamp of an installation of that name is.
pub fn path(native: &Path, name: &str) -> PathBuf {
    native.join("stamps").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn holds_only_for_the_same_source_with_all_files_in_place() {
        let scratch = Scratch::new("stamp");
        let path = scratch.path().join("a");
        fs::write(scratch.path().join("file"), "").unwrap();
        assert!(!Stamp::read(&path).holds("key", scratch.path()));

        let stamp = Stamp { key: "key".to_string(), files: vec!["file".to_string()] };
        stamp.write(&path).unwrap();
        assert_eq!(Stamp::read(&path), stamp);
        assert!(Stamp::read(&path).holds("key", scratch.path()));
        assert!(!Stamp::read(&path).holds("other", scratch.path()));
        fs::remove_file(scratch.path().join("file")).unwrap();
        assert!(!Stamp::read(&path).holds("key", scratch.path()));
    }
}
