//! `cargo xtask test`: the same checks for a contributor and for continuous integration, one after the other.

use std::env;
use std::ffi::OsString;
use std::time::{Duration, Instant};

use crate::book;
use crate::browser;
use crate::failure::Result;
use crate::setup::{self, Wishes};
use crate::tidy;
use crate::workspace::{Workspace, run};

pub const TEST_DETAILS: &str = "\
Stops at the first step that fails, with that step's exit code. Brings what is missing first, as `setup --tests` does.
All steps build with the same profile, features and flags, so that nothing is compiled twice.";

struct Step {
    name: &'static str,
    run: fn(&Workspace) -> Result<()>,
}

const STEPS: &[Step] = &[
    Step { name: "setup", run: |workspace| setup::run(workspace, Wishes { conformance: true, cuda: false }) },
    Step { name: "fmt", run: |workspace| run(workspace.cargo().args(["fmt", "--all", "--check"])) },
    Step {
        name: "clippy",
        run: |workspace| run(workspace.cargo().args(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"])),
    },
    Step {
        name: "doc",
        run: |workspace| {
            let flags = with_warnings_denied(env::var_os("RUSTDOCFLAGS"));
            run(workspace.cargo().args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", flags))
        },
    },
    // Unit, integration and documentation tests.
    Step { name: "test", run: |workspace| run(workspace.cargo().args(["test", "--workspace", "--no-fail-fast"])) },
    Step { name: "browser", run: browser::run },
    Step { name: "book", run: book::run },
    Step { name: "tidy", run: tidy::run },
];

/// Runs the steps up to the first that fails, and says how each went.
pub fn test(workspace: &Workspace) -> Result<()> {
    let mut times: Vec<(&str, Duration)> = Vec::new();
    let mut outcome = Ok(());
    for (index, step) in STEPS.iter().enumerate() {
        eprintln!("\n==> [{}/{}] {}", index + 1, STEPS.len(), step.name);
        let start = Instant::now();
        outcome = (step.run)(workspace);
        times.push((step.name, start.elapsed()));
        if outcome.is_err() {
            break;
        }
    }
    eprintln!("\n{}", summary(&times, outcome.is_ok()));
    outcome
}

fn summary(times: &[(&str, Duration)], passed: bool) -> String {
    let mut lines = Vec::new();
    for (index, step) in STEPS.iter().enumerate() {
        lines.push(match times.get(index) {
            Some((name, time)) => {
                let result = if passed || index + 1 < times.len() { "passed" } else { "FAILED" };
                format!("{name:<8} {result:<8} {:>7.1} s", time.as_secs_f64())
            }
            None => format!("{:<8} not run", step.name),
        });
    }
    let total: Duration = times.iter().map(|(_, time)| time).sum();
    lines.push(format!("{:<17} {:>7.1} s", "together", total.as_secs_f64()));
    lines.join("\n")
}

fn with_warnings_denied(flags: Option<OsString>) -> OsString {
    let mut flags = flags.unwrap_or_default();
    flags.push(" -D warnings");
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_which_step_failed_and_which_did_not_run() {
        let second = Duration::from_secs(1);
        let text = summary(&[("setup", second), ("fmt", second)], false);
        let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[0], ["setup", "passed", "1.0", "s"]);
        assert_eq!(words[1], ["fmt", "FAILED", "1.0", "s"]);
        assert_eq!(words[2], ["clippy", "not", "run"]);
        assert_eq!(words.last().map(Vec::as_slice), Some(["together", "2.0", "s"].as_slice()));
    }
}
