//! Tells the linker and the tests where libtorch will be found at run time, and the binary where to look for ONNX Runtime, so
//! that no variable has to be exported.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

const HELP: &str = "run `cargo xtask setup` first: it brings libtorch into .native/, or set LIBTORCH to the directory of yours";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=native.lock");
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);

    let lock = fs::read_to_string(root.join("native.lock"))?;
    let version = locked_version(&lock, "onnxruntime")?;
    let library = root.join(".native/onnxruntime/onnxruntime/capi").join(format!("libonnxruntime.so.{version}"));
    println!("cargo::rustc-env=CMIRA_ONNXRUNTIME={}", library.display());

    let Some(libtorch) = env::var_os("LIBTORCH").map(PathBuf::from) else {
        println!("cargo::error=libtorch: LIBTORCH is not set ({HELP})");
        return Ok(());
    };
    let libraries = libtorch.join("lib");
    println!("cargo::rerun-if-changed={}", libraries.join("libtorch_cpu.so").display());
    match libraries.canonicalize() {
        Ok(libraries) if libraries.join("libtorch_cpu.so").is_file() => {
            link(&libraries)?;
            compile_kernels(&libtorch);
            link_openmp(&libraries)?;
        }
        _ => println!("cargo::error=libtorch: {} is missing ({HELP})", libraries.join("libtorch_cpu.so").display()),
    }
    Ok(())
}

/// Compiles what the crate has in C++, as the bindings compile theirs: against libtorch's own headers, for its ABI.
fn compile_kernels(libtorch: &Path) {
    const SOURCE: &str = "src/tensor/kernels.cpp";
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=LIBTORCH_CXX11_ABI");
    let abi = env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".to_string());
    let headers = libtorch.join("include");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        // Loops over pixels are all that is in there: slow ones would make every test wait.
        .opt_level(3)
        .warnings(false)
        // libtorch's loops over threads are templates in its headers.
        .flag("-fopenmp")
        .flag(format!("-isystem{}", headers.display()))
        .flag(format!("-isystem{}", headers.join("torch/csrc/api/include").display()))
        .define("_GLIBCXX_USE_CXX11_ABI", abi.as_str())
        .file(SOURCE)
        .compile("cmira_kernels");
}

/// Links the threads that libtorch itself uses, a second set of which would fight with them: the library beside libtorch where there is
/// one, else the compiler's.
fn link_openmp(libraries: &Path) -> Result<(), Box<dyn Error>> {
    let names = fs::read_dir(libraries)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    match names.filter(|name| name.starts_with("libgomp") && name.contains(".so")).min() {
        Some(name) => println!("cargo::rustc-link-lib=dylib:+verbatim={name}"),
        None => println!("cargo::rustc-link-lib=dylib=gomp"),
    }
    Ok(())
}

/// Binaries, examples and integration tests find libtorch by their run path. Documentation tests take no linker arguments from
/// here, but cargo puts every search directory below the target directory on their library path, hence the link.
fn link(libraries: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", libraries.display());
    // Beside an installed binary: `cmira` and `lib/` in one folder.
    println!("cargo::rustc-link-arg=-Wl,-rpath,$ORIGIN/lib");

    let link = PathBuf::from(env::var("OUT_DIR")?).join("libtorch");
    match fs::remove_file(&link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    std::os::unix::fs::symlink(libraries, &link)?;
    println!("cargo::rustc-link-search=native={}", link.display());
    Ok(())
}

/// The version of a package in the lock file, whose lines begin with `group package version`.
fn locked_version<'a>(lock: &'a str, package: &str) -> Result<&'a str, String> {
    lock.lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find_map(|fields| match fields[..] {
            [_, name, version, ..] if name == package => Some(version),
            _ => None,
        })
        .ok_or_else(|| format!("native.lock has no line for {package}"))
}
