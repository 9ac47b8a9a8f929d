//! The folder of a grid: one run at a time, a folder for every step, finished ones marked.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Place, Result};
use crate::files;

/// A folder that one run works in, by itself or through worker processes.
pub struct Workspace {
    root: PathBuf,
    /// Held as long as the process lives; the system lets go of it however that ends.
    _lock: File,
}

/// Locked by the run that has the folder.
const RUN: &str = "lock";

/// Shared by the run's workers, which may outlive it for the moment that they need to save.
const WORKERS: &str = "workers.lock";

/// What a finished step left.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Done<T> {
    /// The step's key in full.
    pub key: String,
    /// Seconds that it took, without what was done before an interruption.
    pub seconds: f64,
    /// What later steps and the tables read.
    pub result: T,
}

impl Workspace {
    /// Opens or makes a folder, for one run alone. Waits for workers of a run that was killed.
    ///
    /// # Errors
    /// Usage, when another run is at work in it.
    pub fn open(root: &Path) -> Result<Workspace> {
        std::fs::create_dir_all(root.join("steps")).map_err(|error| Error::io(root, &error))?;
        let lock = lock_file(root, RUN)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::usage("another run is at work in this folder")
                    .at(root.display())
                    .help("wait for it to end, or choose another --out"));
            }
            Err(TryLockError::Error(error)) => return Err(Error::io(&root.join(RUN), &error)),
        }
        let workers = lock_file(root, WORKERS)?;
        workers.lock().map_err(|error| Error::io(&root.join(WORKERS), &error))?;
        Ok(Workspace { root: root.to_path_buf(), _lock: lock })
    }

    /// Opens a folder as a worker of the run that has it.
    ///
    /// # Errors
    /// Unexpected, where the folder is not there.
    pub fn join(root: &Path) -> Result<Workspace> {
        let lock = lock_file(root, WORKERS)?;
        lock.lock_shared().map_err(|error| Error::io(&root.join(WORKERS), &error))?;
        Ok(Workspace { root: root.to_path_buf(), _lock: lock })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A step's folder.
    pub(super) fn folder(&self, step: &Key) -> PathBuf {
        self.root.join("steps").join(step.folder())
    }

    /// What a step left, if it is finished.
    pub(super) fn done<T: DeserializeOwned>(&self, step: &Key) -> Result<Option<Done<T>>> {
        let path = self.folder(step).join("done.json");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(&path, &error)),
        };
        let done: Done<T> = serde_json::from_slice(&bytes)
            .map_err(|error| Error::data(format!("is damaged: {error}")).at(path.display()).help("delete the step's folder"))?;
        if done.key != step.hash {
            return Err(Error::data("belongs to another step").at(path.display()).help("delete the step's folder"));
        }
        Ok(Some(done))
    }

    /// Does a step, unless it is done: `work` gets its folder, which may hold what an interrupted run left.
    pub(super) fn step<T: Serialize + DeserializeOwned>(
        &self,
        step: &Key,
        work: impl FnOnce(&Path) -> Result<T>,
    ) -> Result<Done<T>> {
        if let Some(done) = self.done(step)? {
            return Ok(done);
        }
        let folder = self.folder(step);
        std::fs::create_dir_all(&folder).map_err(|error| Error::io(&folder, &error))?;
        clear_partial(&folder)?;
        let started = std::time::Instant::now();
        let result = work(&folder).at(|| &step.name)?;
        let done = Done { key: step.hash.clone(), seconds: started.elapsed().as_secs_f64(), result };
        files::write(&folder.join("done.json"), &serde_json::to_vec_pretty(&done).map_err(Error::unexpected)?)?;
        Ok(done)
    }
}

fn lock_file(root: &Path, name: &str) -> Result<File> {
    let path = root.join(name);
    File::options().create(true).truncate(false).write(true).open(&path).map_err(|error| Error::io(&path, &error))
}

/// Removes hidden files that a process left which was killed while it wrote them.
fn clear_partial(folder: &Path) -> Result<()> {
    for entry in walkdir::WalkDir::new(folder).into_iter().filter_map(std::result::Result::ok) {
        let name = entry.file_name().to_string_lossy();
        if name.starts_with(".cmira-") && name.ends_with(".partial") {
            std::fs::remove_file(entry.path()).map_err(|error| Error::io(entry.path(), &error))?;
        }
    }
    Ok(())
}

/// What a step is, and a hash of everything that its result depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    /// A name for people, such as `attack-drawn-resnet8-ga-0`.
    pub name: String,
    /// SHA-256 in hexadecimal.
    pub hash: String,
}

impl Key {
    /// `inputs` are everything that the result depends on, in words or as JSON; this program's version belongs to it anyway.
    pub(super) fn new(name: String, inputs: &[&str]) -> Key {
        let parts: Vec<&str> = [env!("CARGO_PKG_VERSION"), &name].into_iter().chain(inputs.iter().copied()).collect();
        let hash = files::digest(&parts);
        Key { name, hash }
    }

    /// The name of a folder, whatever the name for people is.
    pub(super) fn folder(&self) -> String {
        let plain: String = self.name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
        format!("{}-{}", plain.chars().take(80).collect::<String>(), &self.hash[..12])
    }
}
