//! Wheels into `.native/`: only the members that are used, in the wheels' own relative layout, because libtorch's libraries
//! find each other by it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::download::{Downloads, Wanted};
use crate::failure::{At, Failure, Result};
use crate::lock::{Group, PythonVersion, Wheel};
use crate::python::{Python, WHEELS};
use crate::stamp::{self, Stamp};

/// The only one that changes `.native/`, until it is dropped or the program ends, however it ends.
pub struct Installer {
    native: PathBuf,
    _lock: File,
}

impl Installer {
    /// Waits while another `cargo xtask` is at it, and clears away what an interrupted one left half done.
    pub fn open(native: &Path) -> Result<Self> {
        fs::create_dir_all(native).at(native)?;
        let path = native.join("lock");
        let lock = File::create(&path).at(&path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                eprintln!("another `cargo xtask` is setting up; waiting for it");
                lock.lock().at(&path)?;
            }
            Err(TryLockError::Error(error)) => return Err(Failure::io(&path, &error)),
        }
        let installer = Installer { native: native.to_path_buf(), _lock: lock };
        remove(&installer.scratch())?;
        let stamps = native.join("stamps");
        fs::create_dir_all(&stamps).at(&stamps)?;
        Ok(installer)
    }

    /// Downloads and installs the wheels, each of which is done and remembered by itself.
    pub fn install(&self, wheels: &[&Wheel], python: &Python) -> Result<()> {
        let wanted: Vec<Wanted> =
            wheels.iter().map(|wheel| Wanted { wheel, python: wheel.python().unwrap_or(LIBRARIES_PYTHON) }).collect();
        Downloads::open(self.downloads(), python)?.each(&wanted, |wheel, file| {
            self.put(wheel, file, python)?;
            fs::remove_file(file).at(file)
        })
    }

    /// Downloads wheels and unpacks them whole into one scratch directory, for use in this run only. The files stay in
    /// `.native/downloads` until [`Installer::discard`].
    pub fn unpack_for_now(&self, wheels: &[&Wheel], python: &Python, version: PythonVersion) -> Result<PathBuf> {
        let wanted: Vec<Wanted> = wheels.iter().map(|wheel| Wanted { wheel, python: version }).collect();
        let directory = self.scratch().join("packages");
        Downloads::open(self.downloads(), python)?
            .each(&wanted, |_, file| unpack(file, &directory, &["*"], python).map(|_| ()))?;
        Ok(directory)
    }

    /// Deletes the downloaded files of these wheels.
    pub fn discard(&self, wheels: &[&Wheel]) -> Result<()> {
        wheels.iter().try_for_each(|wheel| remove(&self.downloads().join(&wheel.file)))
    }

    /// A directory on the same file system as everything else here, empty when a task begins.
    pub fn scratch(&self) -> PathBuf {
        self.native.join("unfinished")
    }

    fn downloads(&self) -> PathBuf {
        self.native.join("downloads")
    }

    /// Unpacks beside the destination and renames, so that no program ever maps half a library. Interrupted, it is done again.
    fn put(&self, wheel: &Wheel, file: &Path, python: &Python) -> Result<()> {
        let recipe = recipe(wheel.group).ok_or_else(|| Failure::new(format!("{} is not for installing", wheel.file)))?;
        eprintln!("  unpacking");
        let unpacked = self.scratch().join(&wheel.package);
        let files = unpack(file, &unpacked, recipe.members, python)?;
        if files.is_empty() {
            return Err(Failure::new(format!("{} has none of {}", wheel.file, recipe.members.join(" "))));
        }
        let destination = self.native.join(recipe.directory);
        let path = stamp::path(&self.native, &wheel.package);
        let old = Stamp::read(&path);
        let new = Stamp { key: key(wheel, &recipe), files };
        merge(&unpacked, &destination)?;
        for file in old.without(&new) {
            remove(&destination.join(file))?;
        }
        new.write(&path)?;
        remove(&unpacked)
    }
}

impl Drop for Installer {
    fn drop(&mut self) {
        // What remains does no harm: the next run clears it away.
        remove(&self.scratch()).ok();
    }
}

/// torch's and ONNX Runtime's libraries come in wheels for this Python; the others are for any.
const LIBRARIES_PYTHON: PythonVersion = PythonVersion { minor: 11 };

struct Recipe {
    /// Below `.native/`.
    directory: &'static str,
    /// Patterns of member names; with `!` in front, of what to leave out.
    members: &'static [&'static str],
}

/// What becomes of a group's wheels; nothing lasting of those that only write the test cases.
fn recipe(group: Group) -> Option<Recipe> {
    match group {
        // Headers of torch to compile against; of CUDA only what is loaded at run time.
        Group::Libtorch | Group::Cuda => Some(Recipe {
            directory: "libtorch",
            members: &["torch/lib/*", "torch/include/*", "nvidia/*/lib/*", "*.dist-info/*", "!*.a", "!*/libtorch_python.so"],
        }),
        Group::Onnxruntime => Some(Recipe {
            directory: "onnxruntime",
            members: &["onnxruntime/capi/libonnxruntime*", "onnxruntime/LICENSE", "onnxruntime/Third*", "*.dist-info/*"],
        }),
        Group::Conformance => None,
    }
}

/// Whether the wheel is installed and complete.
pub fn is_installed(native: &Path, wheel: &Wheel) -> bool {
    recipe(wheel.group).is_some_and(|recipe| {
        Stamp::read(&stamp::path(native, &wheel.package)).holds(&key(wheel, &recipe), &native.join(recipe.directory))
    })
}

/// Changes with the wheel and with what is taken from it.
fn key(wheel: &Wheel, recipe: &Recipe) -> String {
    format!("{} {}", wheel.sha256, recipe.members.join(" "))
}

/// The names of the members that were written.
fn unpack(wheel: &Path, directory: &Path, members: &[&str], python: &Python) -> Result<Vec<String>> {
    let mut arguments = vec!["unpack".to_string(), wheel.display().to_string(), directory.display().to_string()];
    arguments.extend(members.iter().map(ToString::to_string));
    let mut files = Vec::new();
    let ending = python.run(WHEELS, &arguments, |line| files.push(line.to_string()))?;
    if ending.success {
        return Ok(files);
    }
    Err(Failure::new(format!("cannot unpack {}: {}", wheel.display(), ending.errors.trim())))
}

/// Moves a tree into another that may have some of its directories and files already.
fn merge(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() || !to.exists() {
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).at(parent)?;
        }
        return fs::rename(from, to).at(to);
    }
    for entry in fs::read_dir(from).at(from)? {
        let name = entry.at(from)?.file_name();
        merge(&from.join(&name), &to.join(&name))?;
    }
    Ok(())
}

/// Removes a file or a whole directory; it is no failure if it is not there.
pub fn remove(path: &Path) -> Result<()> {
    let outcome = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Failure::io(path, &error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn merging_keeps_what_is_there_and_replaces_what_is_new() {
        let scratch = Scratch::new("merge");
        let [from, to] = ["from", "to"].map(|name| scratch.path().join(name));
        for (path, text) in [
            (from.join("nvidia/cu13/lib/a.so"), "new"),
            (from.join("nvidia/cudnn/lib/c.so"), "c"),
            (to.join("nvidia/cu13/lib/a.so"), "old"),
            (to.join("nvidia/cu13/lib/b.so"), "b"),
        ] {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        merge(&from, &to).unwrap();
        let read = |name: &str| fs::read_to_string(to.join("nvidia").join(name)).unwrap();
        assert_eq!([read("cu13/lib/a.so"), read("cu13/lib/b.so"), read("cudnn/lib/c.so")], ["new", "b", "c"]);
    }
}
