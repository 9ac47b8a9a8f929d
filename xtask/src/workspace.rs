//! Where things are, and how to start cargo so that it does what the same command does in a user's shell.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use crate::failure::{Failure, Result};

/// The repository's root directory.
pub struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// Finds the root from this package's own manifest.
    pub fn open() -> Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        let root = manifest.parent().ok_or_else(|| Failure::new(format!("{} has no parent", manifest.display())))?;
        Ok(Workspace { root: root.to_path_buf() })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Everything that `setup` brings; ignored by git.
    pub fn native(&self) -> PathBuf {
        self.root.join(".native")
    }

    /// The `LIBTORCH` of `.cargo/config.toml`.
    pub fn own_libtorch(&self) -> PathBuf {
        self.native().join("libtorch/torch")
    }

    /// A libtorch that the user chose. (Cargo sets `LIBTORCH` for this program too, to the value of `.cargo/config.toml`.)
    pub fn users_libtorch(&self) -> Option<PathBuf> {
        env::var_os("LIBTORCH").map(PathBuf::from).filter(|path| *path != self.own_libtorch())
    }

    /// A cargo command at the root. What cargo told this program about its own package is taken away, as build scripts that
    /// watch these variables would otherwise run again with each change between `cargo xtask` and plain cargo.
    pub fn cargo(&self) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.root);
        for (name, _) in env::vars_os() {
            let name = name.to_string_lossy();
            let of_this_package = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
            if of_this_package.iter().any(|prefix| name.starts_with(prefix)) {
                command.env_remove(&*name);
            }
        }
        if self.users_libtorch().is_none() {
            command.env_remove("LIBTORCH");
        }
        command
    }
}

/// Builds the product and says where its binary is. It is the same build as that of `cargo test`, which need not be made twice:
/// the time is spent in libtorch, which is optimised anyway.
pub fn build(workspace: &Workspace) -> Result<PathBuf> {
    run(workspace.cargo().arg("build"))?;
    Ok(target(workspace).join("debug/cmira"))
}

/// As [`build`], as it is released: for measurements of speed.
pub fn build_released(workspace: &Workspace) -> Result<PathBuf> {
    run(workspace.cargo().args(["build", "--release"]))?;
    Ok(target(workspace).join("release/cmira"))
}

fn target(workspace: &Workspace) -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    workspace.root().join(target)
}

/// Runs a program to its end, with its output passed through.
///
/// # Errors
/// If it cannot be started, or with its own exit code if it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().map_err(|error| Failure::new(format!("cannot start {program}: {error}")))?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(format!("{} failed ({status})", describe(command))).with_exit_code(exit_code(status)))
}

/// The command as a user would type it.
pub fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    std::iter::once(program).chain(command.get_args()).map(|part| part.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// A program that was ended by a signal has no exit code; shells give 128 and the signal's number.
fn exit_code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
