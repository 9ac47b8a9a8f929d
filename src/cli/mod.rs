//! The command line: arguments in, results out; one file a command. Only this module prints.

mod audit;
mod bench;
mod board;
mod check;
mod common;
mod conformance;
mod data;
mod export;
mod operators;
mod progress;
mod report;
mod run;
mod settings;
mod shell;
mod train;
mod unlearn;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{CommandFactory, Parser, Subcommand};

use crate::error::{ErrorKind, Result};
use crate::harness::results::LIBTORCH;
use crate::tensor::{guarded, silence_guarded_panics};

/// Audits image classifiers that are said to have unlearned some of their training images.
#[derive(Debug, Parser)]
#[command(
    name = "cmira",
    version,
    long_version = LONG_VERSION.as_str(),
    max_term_width = 110,
    after_help = "Example:
  cmira check model.onnx
  cmira audit --model model.onnx --forget images/forget --probe images/probe --out audit

Exit codes: 0 done; 1 unexpected; 2 wrong usage; 3 malformed model; 4 unsupported model; 5 results disagree; 6 data problem; 130 interrupted."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Import a model and show whether the import can be believed: operators, parameters, parity with ONNX Runtime, gradients.
    Check(check::Args),
    /// Attack one model and report how much of the forgotten class membership comes back.
    Audit(audit::Args),
    /// Write a model as it was imported, with its repairs, as ONNX; or its weights alone as safetensors.
    Export(export::Args),
    /// Time a model's training and evaluation on this machine.
    Bench(bench::Args),
    /// Run ONNX's own test cases, one line each.
    Conformance(conformance::Args),
    /// Print every supported operator: opsets, weights, gradients; and what is left out, and why.
    Operators(operators::Args),
    /// Make and look at data sets.
    Data(data::Args),
    /// Train a reference model from scratch.
    Train(train::Args),
    /// Unlearn images with a reference method.
    Unlearn(unlearn::Args),
    /// Make tables, figures and page again, from results alone; a comparison with the paper, a workbook.
    Report(report::Args),
    /// Run the paper's grid: train, unlearn and attack every combination, and write all tables.
    Run(run::Args),
    /// Print what a shell needs to complete commands.
    Completions(shell::Completions),
    /// Write manual pages.
    Man(shell::Man),
}

/// With what the program was built from and for.
static LONG_VERSION: LazyLock<String> = LazyLock::new(|| {
    let operators: std::collections::BTreeSet<&str> = crate::graph::ops::all().map(|op| op.name).collect();
    format!(
        "{}\nlibtorch {LIBTORCH}, on CPUs, and on CUDA where its libraries are beside it\nONNX Runtime as witness of every import\n{} ONNX \
         operators, {} unlearning methods\nbuilt for {} on {}, {}",
        env!("CARGO_PKG_VERSION"),
        operators.len(),
        crate::unlearn::METHODS.len(),
        std::env::consts::OS,
        std::env::consts::ARCH,
        if cfg!(debug_assertions) { "for debugging" } else { "for release" },
    )
});

/// Runs one command and gives the process exit code.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no failures. Nothing can be done if the terminal is gone.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(ErrorKind::Usage.exit_code()) } else { ExitCode::SUCCESS };
        }
    };
    silence_guarded_panics();
    // As other programs do: end quietly when nobody reads any more, instead of failing to print.
    // SAFETY: sets a signal's disposition to the system's default; nothing else runs yet.
    #[cfg(unix)]
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
    match guarded(|| dispatch(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.kind().exit_code())
        }
    }
}

fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Check(args) => check::run(&args),
        Command::Audit(args) => audit::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Conformance(args) => conformance::run(&args),
        Command::Operators(args) => {
            operators::run(&args);
            Ok(())
        }
        Command::Data(args) => data::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Unlearn(args) => unlearn::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Completions(args) => shell::completions(&args, Cli::command()),
        Command::Man(args) => shell::man(&args, Cli::command()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn every_command(command: &clap::Command, see: &mut dyn FnMut(&clap::Command)) {
        see(command);
        command.get_subcommands().for_each(|inner| every_command(inner, see));
    }

    #[test]
    fn every_command_has_an_example_and_a_manual_page() {
        Cli::command().debug_assert();
        let mut names = Vec::new();
        every_command(&Cli::command(), &mut |command| {
            let said = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(said.contains("Example") && said.contains("cmira "), "{}", command.get_name());
            names.push(command.get_name().to_string());
        });
        let folder = tempfile::tempdir().unwrap();
        shell::write_pages(folder.path(), Cli::command()).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), names.len());
        let page = std::fs::read_to_string(folder.path().join("cmira-data-draw.1")).unwrap();
        assert!(page.contains("cmira data draw drawn") && page.contains("train\\-per\\-class"), "{page}");
    }
}
