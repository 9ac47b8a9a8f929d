//! Files that appear whole or not at all; and what their makers share: a hash of what they depend on, and cells that no spreadsheet runs.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Writes bytes so that either the old file or the new one is there, never half of one. The folder is made if it is not there.
///
/// # Errors
/// Unexpected, naming the file or folder, when the folder is not writable or the disk is full.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = folder_of(path);
    std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, &error))?;
    Staged::new(path, |file| file.write_all(bytes))?.appear()
}

/// Reads a JSON document of ours; `help` says what to do without it.
///
/// # Errors
/// Data, naming the file, where it is not there, is damaged or is of another form.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path, help: &str) -> Result<T> {
    let bytes = std::fs::read(path).map_err(|error| Error::data(error).at(path.display()).help(help))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::data(format!("is damaged: {error}")).at(path.display()).help(help))
}

/// The path of something below a folder, by a name that a document in the folder gives. Whoever wrote that document leads nowhere else.
///
/// # Errors
/// Data, where the name leads out of the folder, or to what is neither a file nor a folder.
pub fn below(folder: &Path, name: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    let inside = !name.is_empty() && Path::new(name).components().all(|part| matches!(part, std::path::Component::Normal(_)));
    let refuse = |reason: &str| Err(Error::data(reason).at(path.display()));
    if !inside {
        return refuse("leads out of the results folder");
    }
    // A link that leads away, a device or a pipe would be read just as well.
    match (path.canonicalize(), folder.canonicalize()) {
        (Ok(found), Ok(root)) if !found.starts_with(&root) => refuse("leads out of the results folder"),
        (Ok(found), _) if !found.is_file() && !found.is_dir() => refuse("is no file"),
        _ => Ok(path),
    }
}

/// Makes a folder that nobody but its owner can look into, unless it is there already, as its owner wants it.
///
/// # Errors
/// Unexpected, naming the folder.
pub fn private_folder(path: &Path) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let failed = |error: std::io::Error| Error::io(path, &error);
    std::fs::create_dir_all(folder_of(path)).map_err(failed)?;
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(failed(error)),
        _ => Ok(()),
    }
}

/// Lets nobody but its owner read a file. What can be recovered tells as much about people as their images do.
///
/// # Errors
/// Unexpected, naming the file.
pub fn make_private(path: &Path) -> Result<()> {
    #[cfg(unix)]
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .map_err(|error| Error::io(path, &error))?;
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

/// The folder from which relative paths are taken; nothing where the system does not say.
pub fn working_directory() -> String {
    std::env::current_dir().map(|folder| folder.display().to_string()).unwrap_or_default()
}

/// SHA-256 in hexadecimal of several texts, told apart however they are cut.
pub fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    format!("{:x}", hash.finalize())
}

/// Whether a spreadsheet would take a text for a formula.
pub fn is_formula(text: &str) -> bool {
    text.starts_with(['=', '+', '-', '@', '\t', '\r'])
}

/// Hidden files that are being written or wait to appear.
static HIDDEN: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Removes the hidden files of all that has not appeared yet: for a process that is about to end, whatever its threads are doing.
pub fn discard_hidden() {
    for path in std::mem::take(&mut *hidden()) {
        // It may have appeared this moment.
        let _ = std::fs::remove_file(path);
    }
}

fn hidden() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    // A set of paths is whole whatever happened to a thread that held it.
    HIDDEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file that is on the disk with all that is in it, under a hidden name of its own beside the one that it will have. It goes if it
/// does not [appear](Staged::appear).
pub struct Staged {
    file: tempfile::NamedTempFile,
    path: PathBuf,
    _listed: Listed,
}

/// A hidden file's place in the list.
struct Listed(PathBuf);

impl Drop for Listed {
    fn drop(&mut self) {
        hidden().remove(&self.0);
    }
}

impl Staged {
    /// Lets `fill` write the file.
    ///
    /// # Errors
    /// Unexpected, naming the file, where the disk does not cooperate.
    pub fn new(path: &Path, fill: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<Staged> {
        Staged::with_path(path, |_, file| fill(file).map_err(|error| Error::io(path, &error)))
    }

    /// As [`new`](Self::new), for a library that wants the hidden file's path.
    ///
    /// # Errors
    /// Those of `fill` as well.
    pub fn with_path(path: &Path, fill: impl FnOnce(&Path, &mut File) -> Result<()>) -> Result<Staged> {
        let failed = |error: std::io::Error| Error::io(path, &error);
        let mut builder = tempfile::Builder::new();
        builder.prefix(".cmira-").suffix(".partial");
        // A temporary file is private by default; this one becomes a file like any other, with the user's umask.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(folder_of(path)).map_err(failed)?;
        let listed = Listed(file.path().to_path_buf());
        hidden().insert(listed.0.clone());
        fill(&listed.0, file.as_file_mut())?;
        file.as_file().sync_all().map_err(failed)?;
        Ok(Staged { file, path: path.to_path_buf(), _listed: listed })
    }

    /// Gives the file its name, in place of what had it.
    ///
    /// # Errors
    /// Unexpected, naming the file.
    pub fn appear(self) -> Result<()> {
        let Staged { file, path, _listed } = self;
        file.persist(&path).map_err(|error| Error::io(&path, &error.error))?;
        // Makes the new name survive a power cut. Some file systems cannot; the file itself is whole in any case.
        #[cfg(unix)]
        if let Ok(folder) = File::open(folder_of(&path)) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_fails_leaves_the_old_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("inner/file");
        write(&path, b"old").unwrap();
        assert!(Staged::new(&path, |_| Err(std::io::Error::other("no more room"))).is_err());
        drop(Staged::new(&path, |file| file.write_all(b"new")).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path().join("inner")).unwrap().count(), 1);
        write(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }

    #[cfg(unix)]
    #[test]
    fn files_can_be_read_by_whom_the_umask_lets() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (ours, plain) = (folder.path().join("ours"), folder.path().join("plain"));
        write(&ours, b"").unwrap();
        std::fs::write(&plain, b"").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&plain));
    }
}
