//! The user's Python: its pip knows their mirrors, proxies and certificates, so nothing here names a host.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use sha2::{Digest, Sha256};

use crate::failure::{At, Failure, Result};
use crate::lock::PythonVersion;
use crate::workspace::{self, Workspace};

/// Finds, fetches and unpacks wheels.
pub const WHEELS: &str = include_str!("wheels.py");

/// A Python that starts and has pip.
pub struct Python {
    program: String,
    /// Of CPython, or none for another implementation or a free-threaded build.
    pub version: Option<PythonVersion>,
    /// What to call it in a message, such as `python3 (3.11.7, pip 23.2.1)`.
    pub description: String,
}

/// How a script ended.
pub struct Ending {
    pub success: bool,
    pub exit_code: Option<i32>,
    /// Its error output, for a message.
    pub errors: String,
}

const ABOUT: &str = "
import sys, sysconfig
try:
    import pip
except ImportError:
    sys.exit(3)
plain = sys.implementation.name == 'cpython' and not sysconfig.get_config_var('Py_GIL_DISABLED')
print('cp%d%d' % sys.version_info[:2] if plain else '-')
print('%s, pip %s' % ('.'.join(map(str, sys.version_info[:3])), pip.__version__))
";

impl Python {
    /// `PYTHON` if it is set, else `python3`, else `python`.
    pub fn find() -> Result<Self> {
        let chosen = env::var("PYTHON").ok().filter(|program| !program.is_empty());
        let candidates = chosen.map_or_else(|| vec!["python3".to_string(), "python".to_string()], |program| vec![program]);
        let mut tried = Vec::new();
        for program in candidates {
            match Command::new(&program).args(["-c", ABOUT]).stdin(Stdio::null()).output() {
                Err(error) => tried.push(format!("{program}: {error}")),
                Ok(output) if output.status.code() == Some(3) => tried.push(format!("{program}: it has no pip")),
                Ok(output) => {
                    let text = String::from_utf8_lossy(&output.stdout).into_owned();
                    let mut lines = text.lines();
                    if let (Some(tag), Some(versions)) = (lines.next(), lines.next()) {
                        let description = format!("{program} ({versions})");
                        return Ok(Python { program, version: PythonVersion::from_tag(tag), description });
                    }
                    tried.push(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()));
                }
            }
        }
        Err(Failure::new(format!(
            "Python with pip is needed to fetch libraries, and none was found\n  tried {}\n  install it (Debian, Ubuntu: python3-pip), \
             or set PYTHON to one that has pip",
            tried.join("\n  tried ")
        )))
    }

    /// One that cannot be run, for tests of what needs none.
    #[cfg(test)]
    pub fn absent() -> Self {
        Python { program: "absent-python".to_string(), version: None, description: "none".to_string() }
    }

    pub fn program(&self) -> &str {
        &self.program
    }

    /// The Python of a virtual environment of that name in .native/adapters/, with what a requirements file lists; made anew when the
    /// file changes.
    pub fn with_packages(&self, workspace: &Workspace, requirements: &Path, name: &str) -> Result<PathBuf> {
        let wanted = fs::read(requirements).at(requirements)?;
        let key: String = Sha256::digest(&wanted).iter().map(|byte| format!("{byte:02x}")).collect();
        let home = workspace.native().join("adapters").join(name);
        let (program, stamp) = (home.join("bin/python"), home.join("requirements.sha256"));
        if fs::read_to_string(&stamp).is_ok_and(|found| found == key) {
            return Ok(program);
        }
        workspace::run(Command::new(&self.program).args(["-m", "venv", "--clear"]).arg(&home))?;
        let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
        workspace::run(Command::new(&program).args(install).arg(requirements))?;
        fs::write(&stamp, key).at(&stamp)?;
        Ok(program)
    }

    /// Runs a script given as text, hands each line of its output to `line`, and collects its error output.
    pub fn run<S: AsRef<OsStr>>(&self, script: &str, arguments: &[S], line: impl FnMut(&str)) -> Result<Ending> {
        self.follow(Command::new(&self.program).arg("-").args(arguments), script, line)
    }

    /// The same with nothing in sight but the standard library: no installed packages, no `PYTHON*` variables.
    pub fn run_isolated<S: AsRef<OsStr>>(&self, script: &str, arguments: &[S], line: impl FnMut(&str)) -> Result<Ending> {
        self.follow(Command::new(&self.program).args(["-I", "-S", "-"]).args(arguments), script, line)
    }

    fn follow(&self, command: &mut Command, script: &str, mut line: impl FnMut(&str)) -> Result<Ending> {
        let cannot = |error: std::io::Error| Failure::new(format!("cannot run {}: {error}", self.program));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(cannot)?;
        if let Some(mut stdin) = child.stdin.take() {
            // Python reads all of it before it runs any of it; one that cannot says so in its error output.
            stdin.write_all(script.as_bytes()).ok();
        }
        // Read on a thread of its own, so that a script that complains at length never waits for a reader.
        let errors = child.stderr.take().map(|mut stderr| {
            std::thread::spawn(move || {
                let mut text = Vec::new();
                stderr.read_to_end(&mut text).ok();
                String::from_utf8_lossy(&text).into_owned()
            })
        });
        if let Some(stdout) = child.stdout.take() {
            for text in BufReader::new(stdout).lines() {
                line(&text.map_err(cannot)?);
            }
        }
        let status = child.wait().map_err(cannot)?;
        let errors = errors.and_then(|thread| thread.join().ok()).unwrap_or_default();
        Ok(Ending { success: status.success(), exit_code: status.code(), errors })
    }
}
