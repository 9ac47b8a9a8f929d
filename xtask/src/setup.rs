//! `cargo xtask setup`: brings what is missing, and leaves alone what the user brought.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::conformance;
use crate::failure::{Failure, Result};
use crate::install::{self, Installer};
use crate::lock::{self, Group, Wheel};
use crate::python::Python;
use crate::workspace::Workspace;

pub const DETAILS: &str = "\
Downloads wheels by name and version with your own pip, checks them against native.lock, and unpacks them below .native/.
Interrupted, it continues where it stopped; run again, it does nothing.

Environment:
  LIBTORCH          the directory of a libtorch 2.11 of yours, with lib/ and include/; none is downloaded then
  ORT_DYLIB_PATH    the libonnxruntime.so of yours; none is downloaded then
  PYTHON            the Python whose pip is used, instead of python3";

/// What is wanted beside libtorch and ONNX Runtime.
#[derive(Clone, Copy)]
pub struct Wishes {
    /// The official ONNX test cases.
    pub conformance: bool,
    /// libtorch's CUDA libraries.
    pub cuda: bool,
}

/// The version that `tch` is written for.
const LIBTORCH_VERSION: &str = "2.11.0";

/// Makes sure that everything wished for is in place.
pub fn run(workspace: &Workspace, wishes: Wishes) -> Result<()> {
    let native = workspace.native();
    let wheels = lock::read(&workspace.root().join("native.lock"))?;

    let libtorch = workspace.users_libtorch();
    let onnxruntime = env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()).map(PathBuf::from);
    if let Some(libtorch) = &libtorch {
        check_libtorch(libtorch)?;
        if wishes.cuda {
            eprintln!("LIBTORCH is set to {}, which has to bring its own CUDA libraries", libtorch.display());
        }
    }
    if let Some(library) = &onnxruntime
        && !library.is_file()
    {
        return Err(Failure::new(format!(
            "ORT_DYLIB_PATH is set to {}, which is no file\n  set it to a libonnxruntime.so, or unset it to have one downloaded",
            library.display()
        )));
    }

    let wanted = |wheel: &&Wheel| match wheel.group {
        Group::Libtorch => libtorch.is_none(),
        Group::Cuda => libtorch.is_none() && wishes.cuda,
        Group::Onnxruntime => onnxruntime.is_none(),
        Group::Conformance => false,
    };
    let is_missing = |wheel: &&Wheel| wanted(wheel) && !install::is_installed(&native, wheel);
    let cases_missing = || wishes.conformance && !conformance::is_written(&native, &wheels);
    if wheels.iter().any(|wheel| is_missing(&wheel)) || cases_missing() {
        check_platform()?;
        let python = Python::find()?;
        let installer = Installer::open(&native)?;
        // Looked for once more, as another `cargo xtask` may have brought it meanwhile.
        let missing: Vec<&Wheel> = wheels.iter().filter(is_missing).collect();
        if !missing.is_empty() {
            installer.install(&missing, &python)?;
        }
        if cases_missing() {
            conformance::write(&installer, &native, &wheels, &python)?;
        }
    }

    let path = |path: &Path| path.strip_prefix(workspace.root()).unwrap_or(path).display().to_string();
    println!("libtorch      {}", path(&libtorch.unwrap_or_else(|| workspace.own_libtorch())));
    println!("ONNX Runtime  {}", path(&onnxruntime.unwrap_or_else(|| native.join("onnxruntime/onnxruntime/capi"))));
    if wishes.conformance {
        println!("ONNX cases    {}", path(&native.join(conformance::DIRECTORY)));
    }
    Ok(())
}

fn check_platform() -> Result<()> {
    if cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")) {
        return Ok(());
    }
    Err(Failure::new(
        "the libraries of native.lock are for Linux on x86_64 with glibc\n  elsewhere set LIBTORCH and ORT_DYLIB_PATH to a libtorch \
         2.11.0 and an ONNX Runtime 1.30 of yours",
    ))
}

/// A libtorch of another version would compile for minutes and then fail with a page of C++.
fn check_libtorch(libtorch: &Path) -> Result<()> {
    let refuse = |reason: String| {
        Failure::new(format!(
            "LIBTORCH is set to {}, {reason}\n  set it to the directory of a libtorch {LIBTORCH_VERSION}, or unset it to have one \
             downloaded",
            libtorch.display()
        ))
    };
    if !libtorch.is_absolute() {
        return Err(refuse("which is no absolute path".to_string()));
    }
    let library = Path::new("lib").join("libtorch_cpu.so");
    if !libtorch.join(&library).is_file() {
        return Err(refuse(format!("which has no {}", library.display())));
    }
    match libtorch_version(libtorch) {
        Some(version) if version == LIBTORCH_VERSION => Ok(()),
        Some(version) => Err(refuse(format!("which is version {version}"))),
        None => Err(refuse("which does not say its version in build-version or include/".to_string())),
    }
}

/// From the file that libtorch's archives have, else from the headers, which are all that a Python package has.
fn libtorch_version(libtorch: &Path) -> Option<String> {
    if let Ok(version) = fs::read_to_string(libtorch.join("build-version")) {
        // `2.11.0+cpu` and the like.
        return version.trim().split('+').next().map(String::from);
    }
    let headers = ["include/torch/headeronly/version.h", "include/torch/csrc/api/include/torch/version.h"];
    headers.iter().find_map(|header| version_of_header(&fs::read_to_string(libtorch.join(header)).ok()?))
}

fn version_of_header(header: &str) -> Option<String> {
    let part = |name: &str| {
        header.lines().find_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["#define", defined, value] if defined == name => Some(value.to_string()),
            _ => None,
        })
    };
    let [major, minor, patch] = ["TORCH_VERSION_MAJOR", "TORCH_VERSION_MINOR", "TORCH_VERSION_PATCH"].map(part);
    Some(format!("{}.{}.{}", major?, minor?, patch?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_libtorch_of_another_version_is_refused_by_its_version() {
        let scratch = Scratch::new("libtorch");
        let libtorch = scratch.path();
        let refusal = || check_libtorch(libtorch).unwrap_err().to_string();
        assert!(refusal().contains("libtorch_cpu.so"));

        fs::create_dir_all(libtorch.join("lib")).unwrap();
        fs::write(libtorch.join("lib/libtorch_cpu.so"), "").unwrap();
        assert!(refusal().contains("does not say its version"));

        let header = libtorch.join("include/torch/headeronly/version.h");
        fs::create_dir_all(header.parent().unwrap()).unwrap();
        let write = |minor| {
            let text = format!(
                "#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR {minor}\n#define TORCH_VERSION_PATCH 0\n\
                 #define TORCH_VERSION \\\n  \"x\"\n"
            );
            fs::write(&header, text).unwrap();
        };
        write(9);
        assert!(refusal().contains("version 2.9.0"));
        write(11);
        check_libtorch(libtorch).unwrap();

        fs::write(libtorch.join("build-version"), "2.12.1+cu130\n").unwrap();
        assert!(refusal().contains("version 2.12.1"));
        fs::write(libtorch.join("build-version"), "2.11.0+cpu\n").unwrap();
        check_libtorch(libtorch).unwrap();
    }
}
