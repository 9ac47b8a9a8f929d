//! Writing a file so that nobody ever sees half of it.

use std::io::Write;
use std::path::Path;

use crate::error::{Error, Result};

/// Writes beside the target and renames, so that a reader sees the old file, the new one, or none.
pub(super) fn write_atomically(path: &Path, parts: &[&[u8]]) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        for part in parts {
            file.write_all(part)?;
        }
        file.as_file().sync_all()?;
        // Temporary files are made private; a result is as readable as any other file.
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
        }
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|error| Error::io(path, &error))
}
