//! From a line of the lock file to a checked wheel file in `.native/downloads`. Every state that an interruption can leave is a
//! state that the next run continues from: nothing, a `.part`, a whole file.

use std::collections::HashMap;
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
    /// Where pip found each file name. A file that it did not find an address for is left to pip to download.
    addresses: HashMap<String, String>,
}

/// The exit codes of `wheels.py` that mean something else than "failed".
const PIP_TOO_OLD: i32 = 3;
const SERVER_REFUSED: i32 = 4;
const NETWORK_FAILED: i32 = 5;

impl<'a> Downloads<'a> {
    pub fn open(directory: PathBuf, python: &'a Python) -> Result<Self> {
        fs::create_dir_all(&directory).at(&directory)?;
        Ok(Downloads { directory, python, addresses: HashMap::new() })
    }

    /// Asks pip where the files are that are not here yet, all at once because each question takes seconds.
    pub fn locate(&mut self, wanted: &[Wanted]) -> Result<()> {
        let missing: Vec<&Wanted> = wanted.iter().filter(|wanted| !self.is_here(wanted.wheel)).collect();
        let mut pythons: Vec<PythonVersion> = missing.iter().map(|wanted| wanted.python).collect();
        pythons.sort_unstable();
        pythons.dedup();
        for python in pythons {
            let wheels: Vec<&Wheel> =
                missing.iter().filter(|wanted| wanted.python == python).map(|wanted| wanted.wheel).collect();
            eprintln!("asking pip for {}", wheels.iter().map(|wheel| requirement(wheel)).collect::<Vec<_>>().join(", "));
            let report = self.directory.join("pip-report.json").display().to_string();
            let mut platforms: Vec<&str> = wheels.iter().flat_map(|wheel| wheel.platforms()).collect();
            platforms.sort_unstable();
            platforms.dedup();
            let mut arguments = vec!["locate".to_string(), report, python.to_string(), platforms.join(",")];
            arguments.extend(wheels.iter().map(|wheel| requirement(wheel)));
            let ending = self.python.run(WHEELS, &arguments, |line| {
                if let Some((file, address)) = line.split_once('\t') {
                    self.addresses.insert(file.to_string(), address.to_string());
                }
            })?;
            if !ending.success && ending.exit_code != Some(PIP_TOO_OLD) {
                let tried = format!("{} -m pip install --dry-run {}", self.python.program(), arguments[4..].join(" "));
                return Err(unreachable(&self.directory, &missing, &tried, &self.python.description, &ending.errors));
            }
        }
        Ok(())
    }

    /// The wheel's file, downloaded if it is not here, and its hash checked.
    pub fn obtain(&self, wanted: &Wanted) -> Result<PathBuf> {
        let wheel = wanted.wheel;
        let file = self.directory.join(&wheel.file);
        if file.exists() {
            let hint = |failure| Failure::new(format!("{failure}\n  run the same command again to download it"));
            return self.check(wheel, &file).map(|()| file).map_err(hint);
        }
        let part = self.directory.join(format!("{}.part", wheel.file));
        let already = fs::metadata(&part).map_or(0, |metadata| metadata.len());
        if already > 0 {
            eprintln!("  continuing at {} of {}", DecimalBytes(already), DecimalBytes(wheel.bytes));
        }
        self.fill(wanted, &part)?;
        match self.check(wheel, &part) {
            Ok(()) => {}
            // The old beginning may be at fault, so a whole new download has its chance.
            Err(failure) if already > 0 => {
                eprintln!("  {failure}\n  downloading it again from the start");
                self.fill(wanted, &part)?;
                self.check(wheel, &part)?;
            }
            Err(failure) => return Err(failure),
        }
        fs::rename(&part, &file).at(&file)?;
        Ok(file)
    }

    fn is_here(&self, wheel: &Wheel) -> bool {
        let whole = |name: &str| fs::metadata(self.directory.join(name)).is_ok_and(|file| file.len() >= wheel.bytes);
        self.directory.join(&wheel.file).exists() || whole(&format!("{}.part", wheel.file))
    }

    /// Downloads what the part lacks.
    fn fill(&self, wanted: &Wanted, part: &Path) -> Result<()> {
        let wheel = wanted.wheel;
        let have = || fs::metadata(part).map_or(0, |metadata| metadata.len());
        if have() >= wheel.bytes {
            return Ok(());
        }
        let Some(address) = self.addresses.get(&wheel.file) else {
            return self.leave_to_pip(wanted, part);
        };
        let arguments = ["fetch".to_string(), address.clone(), part.display().to_string(), wheel.bytes.to_string()];
        let mut progress = Progress::new(wheel.bytes, have());
        let ending = self.python.run(WHEELS, &arguments, |line| {
            if let Ok(bytes) = line.parse() {
                progress.at(bytes);
            }
        })?;
        drop(progress);
        match ending.exit_code {
            Some(0) => Ok(()),
            // Such as an index that wants a password, or a certificate that only pip was told to trust.
            Some(SERVER_REFUSED) => {
                eprintln!("  {}; leaving it to pip", ending.errors.trim());
                self.leave_to_pip(wanted, part)
            }
            Some(NETWORK_FAILED) => Err(Failure::new(format!(
                "the download of {} stopped at {} of {}: {}\n  run the same command again to continue",
                wheel.file,
                DecimalBytes(have()),
                DecimalBytes(wheel.bytes),
                ending.errors.trim()
            ))),
            _ => Err(Failure::new(format!("cannot download {}: {}", wheel.file, ending.errors.trim()))),
        }
    }

    /// Slower and without continuation, but able to do whatever the user's pip can.
    fn leave_to_pip(&self, wanted: &Wanted, part: &Path) -> Result<()> {
        let wheel = wanted.wheel;
        let directory = self.directory.join("pip");
        fs::create_dir_all(&directory).at(&directory)?;
        let requirements = directory.join("requirements.txt");
        let pinned = format!("{} --hash=sha256:{}\n", requirement(wheel), wheel.sha256);
        fs::write(&requirements, pinned).at(&requirements)?;
        let mut command = Command::new(self.python.program());
        command.args(download_arguments(wanted)).args(["--no-cache-dir", "--require-hashes", "--requirement"]);
        command.arg(&requirements).arg("--dest").arg(&directory).env("TMPDIR", &directory);
        workspace::run(&mut command).map_err(|failure| {
            let tried = workspace::describe(&command);
            unreachable(&self.directory, &[wanted], &tried, &self.python.description, &failure.to_string())
        })?;
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
}

fn requirement(wheel: &Wheel) -> String {
    format!("{}=={}", wheel.package, wheel.version)
}

fn download_arguments(wanted: &Wanted) -> Vec<String> {
    let mut arguments: Vec<String> =
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

/// What to do where pip finds no way: which files, where they go, and the command that fetches each on another machine.
fn unreachable(directory: &Path, missing: &[&Wanted], tried: &str, python: &str, errors: &str) -> Failure {
    // Before its last words pip repeats itself with each attempt.
    let errors: Vec<&str> = errors.trim().lines().collect();
    let errors = &errors[errors.len().saturating_sub(4)..];
    let files: String = missing
        .iter()
        .map(|wanted| {
            let Wheel { file, bytes, sha256, .. } = wanted.wheel;
            let command = format!("python3 {} {}", download_arguments(wanted).join(" "), requirement(wanted.wheel));
            format!("\n\n  {file}\n    {bytes} bytes, SHA-256 {sha256}\n    {command}")
        })
        .collect();
    Failure::new(format!(
        "pip finds no download\n  tried: {tried}\n  with: {python}\n  it says: {}\n\nTo bring the files by hand, run these commands on \
         a machine with a network, put the files into\n{}, and run the same task again:{files}",
        errors.join("\n    "),
        directory.display()
    ))
}
