//! Why a task stopped, and the exit code that belongs to it.

use std::fmt;
use std::path::Path;

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Failure>;

/// A failure that its reader can act on: the first line says what and why, further lines what to do.
#[derive(Debug)]
pub struct Failure {
    text: String,
    exit_code: u8,
}

impl Failure {
    pub fn new(text: impl fmt::Display) -> Self {
        Failure { text: text.to_string(), exit_code: 1 }
    }

    pub fn usage(text: impl fmt::Display) -> Self {
        Failure { text: text.to_string(), exit_code: 2 }
    }

    /// A failed file operation.
    pub fn io(path: &Path, error: &std::io::Error) -> Self {
        Failure::new(format!("{}: {error}", path.display()))
    }

    /// Keeps the exit code of a program that failed.
    #[must_use]
    pub fn with_exit_code(mut self, exit_code: u8) -> Self {
        self.exit_code = exit_code;
        self
    }

    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Names the file of a failed operation on its way up.
pub trait At<T> {
    /// Adds the path if this is an error.
    fn at(self, path: &Path) -> Result<T>;
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, path: &Path) -> Result<T> {
        self.map_err(|error| Failure::io(path, &error))
    }
}
