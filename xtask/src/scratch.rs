//! A directory of its own for a test.

use std::fs;
use std::path::{Path, PathBuf};

/// Removed when dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    /// An empty directory; the name keeps tests that run at the same time apart.
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("xtask-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}
