//! The official ONNX test cases as folders, for `cmira conformance` and the tests.

use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::failure::{At, Failure, Result};
use crate::install::{self, Installer};
use crate::lock::{Group, Wheel};
use crate::python::Python;
use crate::stamp::{self, Stamp};

/// Where the cases are, below `.native/`: `KIND/CASE/model.onnx` and so on.
pub const DIRECTORY: &str = "conformance";

/// The cases of onnx 1.23.2, by kind. A version that has others has to be looked at before it is taken.
const KINDS: [(&str, usize); 5] =
    [("node", 1884), ("simple", 23), ("pytorch-operator", 35), ("pytorch-converted", 82), ("light", 9)];

const SCRIPT: &str = include_str!("../conformance_cases.py");

/// Whether every case of the locked version is there.
pub fn is_written(native: &Path, wheels: &[Wheel]) -> bool {
    Stamp::read(&stamp::path(native, DIRECTORY)).key == key(wheels) && is_complete(&native.join(DIRECTORY))
}

/// Lets the onnx package write its cases, and puts them into place when all are written.
pub fn write(installer: &Installer, native: &Path, wheels: &[Wheel], python: &Python) -> Result<()> {
    let of_group: Vec<&Wheel> = wheels.iter().filter(|wheel| wheel.group == Group::Conformance).collect();
    let packages = distinct(&of_group);
    let version = python.version.filter(|version| {
        packages.iter().all(|package| of_group.iter().any(|wheel| wheel.package == *package && wheel.runs_on(*version)))
    });
    let Some(version) = version else {
        return Err(Failure::new(format!(
            "the official ONNX cases are written by the onnx package, which native.lock has for CPython 3.10 to 3.14, not for {}\n  set \
             PYTHON to one of these (everything else works with any Python; only the tests need the cases)",
            python.description
        )));
    };
    let chosen: Vec<&Wheel> = of_group.into_iter().filter(|wheel| wheel.runs_on(version)).collect();
    let packages = installer.unpack_for_now(&chosen, python, version)?;

    eprintln!("writing the official ONNX cases");
    let cases = installer.scratch().join(DIRECTORY);
    let mut written = 0_usize;
    let ending = python.run_isolated(SCRIPT, &[&packages, &cases], |_| written += 1)?;
    if !ending.success {
        return Err(Failure::new(format!("the onnx package cannot write its cases:\n{}", ending.errors.trim())));
    }
    if !is_complete(&cases) {
        let expected: usize = KINDS.iter().map(|(_, count)| count).sum();
        return Err(Failure::new(format!("the onnx package wrote {written} cases instead of {expected}")));
    }
    let destination = native.join(DIRECTORY);
    install::remove(&destination)?;
    fs::rename(&cases, &destination).at(&destination)?;
    Stamp { key: key(wheels), files: Vec::new() }.write(&stamp::path(native, DIRECTORY))?;
    installer.discard(&chosen)
}

fn distinct<'a>(wheels: &[&'a Wheel]) -> Vec<&'a str> {
    let mut packages: Vec<&str> = wheels.iter().map(|wheel| wheel.package.as_str()).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn is_complete(directory: &Path) -> bool {
    KINDS.iter().all(|(kind, count)| fs::read_dir(directory.join(kind)).is_ok_and(|cases| cases.count() == *count))
}

/// The cases come from one package's version and the script. Which Python ran it makes no difference, so hashes of wheels, which
/// depend on that, have no part in it.
fn key(wheels: &[Wheel]) -> String {
    let version = wheels.iter().find(|wheel| wheel.package == "onnx").map_or("", |wheel| &wheel.version);
    let script: String = Sha256::digest(SCRIPT).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("onnx {version} {script}")
}
