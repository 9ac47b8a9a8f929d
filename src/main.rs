//! The `cmira` command: see [`cmira::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::SUCCESS
}
