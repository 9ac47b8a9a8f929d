//! Writing a file of several parts so that nobody ever sees half of it.

use std::io::Write;
use std::path::Path;

use crate::error::Result;
use crate::files::Staged;

/// As [`crate::files::write`], without putting the parts together in memory first.
pub(super) fn write_atomically(path: &Path, parts: &[&[u8]]) -> Result<()> {
    Staged::new(path, |file| parts.iter().try_for_each(|part| file.write_all(part)))?.appear()
}
