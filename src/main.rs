//! The `cmira` command: see [`cmira::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    cmira::tensor::keep_freed_memory();
    cmira::cli::run(std::env::args_os())
}
