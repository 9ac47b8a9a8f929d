//! From a line of the lock file to a checked wheel file in `.native/downloads`. Every state that an interruption can leave is a
//! state that the next run continues from: nothing, a `.part`, a whole file.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use indicatif::DecimalBytes;
use sha2::{Digest, Sha256};

use crate::failure::{At, Failure, Result};
use crate::lock::{PythonVersion, Wheel};
use crate::progress::Progress;
use crate::python::{Python, WHEELS};
use crate::workspace;

/// A wheel and the Python that pip must look for it on behalf of: the libraries are the same whatever runs here.
pub struct Wanted<'a> {
    pub wheel: &'a Wheel,
    pub python: PythonVersion,
}

/// A directory of wheel files, and the Python that fills it.
pub struct Downloads<'a> {
    directory: PathBuf,
    python: &'a Python,
}

/// The exit codes of `wheels.py` that mean something else than "failed".
const NOT_FOUND: i32 = 3;
const LEAVE_TO_PIP: i32 = 4;
const NETWORK_FAILED: i32 = 5;

impl<'a> Downloads<'a> {
    pub fn open(directory: PathBuf, python: &'a Python) -> Result<Self> {
        fs::create_dir_all(&directory).at(&directory)?;
        Ok(Downloads { directory, python })
    }

    /// Gets one wheel after the other and hands its file on.
    pub fn each(&self, wanted: &[Wanted], mut then: impl FnMut(&Wheel, &Path) -> Result<()>) -> Result<()> {
        for (index, next) in wanted.iter().enumerate() {
            let Wheel { package, version, bytes, .. } = next.wheel;
            eprintln!("[{}/{}] {package} {version}, {}", index + 1, wanted.len(), DecimalBytes(*bytes));
            let file = self.obtain(next, &wanted[index..])?;
            then(next.wheel, &file)?;
        }
        Ok(())
    }

    /// The wheel's file, downloaded if it is not here, and its hash checked. The others are for the message if there is no network.
    fn obtain(&self, wanted: &Wanted, all: &[Wanted]) -> Result<PathBuf> {
        let wheel = wanted.wheel;
        let file = self.directory.join(&wheel.file);
        if file.exists() {
            let hint = |failure| Failure::new(format!("{failure}\n  run the same command again to download it"));
            return self.check(wheel, &file).map(|()| file).map_err(hint);
        }
        let part = self.directory.join(format!("{}.part", wheel.file));
        let already = size(&part);
        if already > 0 {
            eprintln!("  continuing at {} of {}", DecimalBytes(already), DecimalBytes(wheel.bytes));
        }
        self.fill(wanted, &part, all)?;
        match self.check(wheel, &part) {
            Ok(()) => {}
            // The old beginning may be at fault, so a whole new download has its chance.
            Err(failure) if already > 0 => {
                eprintln!("  {failure}\n  downloading it again from the start");
                self.fill(wanted, &part, all)?;
                self.check(wheel, &part)?;
            }
            Err(failure) => return Err(failure),
        }
        fs::rename(&part, &file).at(&file)?;
        Ok(file)
    }

    /// Downloads what the part lacks.
    fn fill(&self, wanted: &Wanted, part: &Path, all: &[Wanted]) -> Result<()> {
        let wheel = wanted.wheel;
        if size(part) >= wheel.bytes {
            return Ok(());
        }
        let arguments = [
            "fetch".to_string(),
            wheel.file.clone(),
            requirement(wheel),
            wanted.python.to_string(),
            wheel.platforms().collect::<Vec<_>>().join(","),
            part.display().to_string(),
            wheel.bytes.to_string(),
        ];
        // Begun when the server answers: the time until then must not count as slowness.
        let mut progress: Option<Progress> = None;
        let ending = self.python.run(WHEELS, &arguments, |line| {
            if let Ok(bytes) = line.parse() {
                progress.get_or_insert_with(|| Progress::new(wheel.bytes, bytes)).at(bytes);
            }
        })?;
        drop(progress);
        let reason = ending.errors.trim();
        match ending.exit_code {
            Some(0) => Ok(()),
            Some(NOT_FOUND) => {
                let tried = format!("{} {} {}", self.python.program(), pip_download(wanted).join(" "), requirement(wheel));
                Err(self.unreachable(all, &tried, reason))
            }
            // Such as an index that wants a password, or a certificate that only pip was told to trust.
            Some(LEAVE_TO_PIP) => {
                eprintln!("  {reason}; leaving it to pip");
                self.leave_to_pip(wanted, part, all)
            }
            Some(NETWORK_FAILED) => Err(Failure::new(format!(
                "the download of {} stopped at {} of {}: {reason}\n  run the same command again to continue",
                wheel.file,
                DecimalBytes(size(part)),
                DecimalBytes(wheel.bytes),
            ))),
            _ => Err(Failure::new(format!("cannot download {}: {reason}", wheel.file))),
        }
    }

    /// Slower and without continuation, but able to do whatever the user's pip can.
    fn leave_to_pip(&self, wanted: &Wanted, part: &Path, all: &[Wanted]) -> Result<()> {
        let wheel = wanted.wheel;
        let directory = self.directory.join("pip");
        fs::create_dir_all(&directory).at(&directory)?;
        let requirements = directory.join("requirements.txt");
        let pinned = format!("{} --hash=sha256:{}\n", requirement(wheel), wheel.sha256);
        fs::write(&requirements, pinned).at(&requirements)?;
        let mut command = Command::new(self.python.program());
        command.args(pip_download(wanted)).args(["--no-cache-dir", "--require-hashes", "--requirement"]);
        command.arg(&requirements).arg("--dest").arg(&directory).env("TMPDIR", &directory);
        workspace::run(&mut command)
            .map_err(|_| self.unreachable(all, &workspace::describe(&command), "see its own words above"))?;
        let file = directory.join(&wheel.file);
        fs::rename(&file, part).at(&file)?;
        fs::remove_dir_all(&directory).at(&directory)
    }

    /// Compares the hash, and deletes a file that has another: it would only be in the way.
    fn check(&self, wheel: &Wheel, file: &Path) -> Result<()> {
        let actual = sha256(file)?;
        if actual == wheel.sha256 {
            return Ok(());
        }
        fs::remove_file(file).at(file)?;
        Err(Failure::new(format!(
            "{}: its SHA-256 is {actual}, but native.lock says {}; the file was deleted",
            file.display(),
            wheel.sha256
        )))
    }

    /// What to do where pip finds no way: which files, where they go, and the command that fetches each on another machine.
    fn unreachable(&self, all: &[Wanted], tried: &str, reason: &str) -> Failure {
        let missing = all.iter().filter(|wanted| !self.directory.join(&wanted.wheel.file).exists());
        let files: String = missing
            .map(|wanted| {
                let Wheel { file, bytes, sha256, .. } = wanted.wheel;
                let command = format!("python3 {} {}", pip_download(wanted).join(" "), requirement(wanted.wheel));
                format!("\n\n  {file}\n    {bytes} bytes, SHA-256 {sha256}\n    {command}")
            })
            .collect();
        Failure::new(format!(
            "pip finds no download\n  tried: {tried}\n  with: {}\n  it says: {}\n\nTo bring the files by hand, run these commands on a \
             machine with a network, put the files into\n{}, and run the same task again:{files}",
            self.python.description,
            reason.replace('\n', "\n    "),
            self.directory.display()
        ))
    }
}

/// The size of a file; 0 if there is none.
fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn requirement(wheel: &Wheel) -> String {
    format!("{}=={}", wheel.package, wheel.version)
}

/// The arguments of Python that download wheels for another Python and platform than may run here.
fn pip_download(wanted: &Wanted) -> Vec<String> {
    let mut arguments =
        ["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version"]
            .map(String::from)
            .to_vec();
    arguments.push(wanted.python.to_string());
    for platform in wanted.wheel.platforms() {
        arguments.extend(["--platform".to_string(), platform.to_string()]);
    }
    arguments
}

/// The hash of a file, in lower-case hexadecimal.
fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).at(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            Ok(read) => hash.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::io(path, &error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::Group;
    use crate::scratch::Scratch;

    const NAME: &str = "abc-1-py3-none-any.whl";

    /// A wheel whose file holds `abc`; the hash is the first example of FIPS 180-4's SHA-256.
    fn wheel() -> Wheel {
        Wheel {
            group: Group::Cuda,
            package: "abc".to_string(),
            version: "1".to_string(),
            bytes: 3,
            sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".to_string(),
            file: NAME.to_string(),
        }
    }

    /// What becomes of a directory with that one file, without a Python that could download.
    fn obtain(test: &str, file: &str, content: &str) -> (Result<String>, Vec<String>) {
        let scratch = Scratch::new(test);
        fs::write(scratch.path().join(file), content).unwrap();
        let (python, wheel) = (Python::absent(), wheel());
        let downloads = Downloads::open(scratch.path().to_path_buf(), &python).unwrap();
        let mut obtained = String::new();
        let outcome = downloads.each(&[Wanted { wheel: &wheel, python: PythonVersion { minor: 11 } }], |_, file| {
            obtained = fs::read_to_string(file).at(file)?;
            Ok(())
        });
        let left = fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        (outcome.map(|()| obtained), left.collect())
    }

    #[test]
    fn a_file_brought_by_hand_needs_no_network() {
        let (outcome, left) = obtain("by-hand", NAME, "abc");
        assert_eq!((outcome.unwrap().as_str(), left), ("abc", vec![NAME.to_string()]));
    }

    #[test]
    fn a_part_that_is_whole_becomes_the_file() {
        let (outcome, left) = obtain("whole", &format!("{NAME}.part"), "abc");
        assert_eq!((outcome.unwrap().as_str(), left), ("abc", vec![NAME.to_string()]));
    }

    #[test]
    fn a_file_of_another_hash_is_deleted_and_named() {
        let (outcome, left) = obtain("wrong", NAME, "abd");
        let failure = outcome.unwrap_err().to_string();
        assert!(failure.contains(NAME) && failure.contains("was deleted"), "{failure}");
        assert_eq!(left, [""; 0]);
    }

    #[test]
    fn a_part_of_another_hash_is_deleted_and_begun_again() {
        let (outcome, left) = obtain("wrong-part", &format!("{NAME}.part"), "abd");
        // To begin again takes a Python, which this test has not.
        assert!(outcome.unwrap_err().to_string().contains("cannot run absent-python"));
        assert_eq!(left, [""; 0]);
    }
}
