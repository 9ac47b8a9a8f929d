//! Development tasks, as `cargo xtask TASK`. This package builds without libtorch, because it is what brings libtorch.

mod book;
mod browser;
mod conformance;
mod demo;
mod download;
mod failure;
mod fixtures;
mod install;
mod lock;
mod measure;
mod progress;
mod python;
#[cfg(test)]
mod scratch;
mod setup;
mod stamp;
mod steps;
mod tidy;
mod workspace;

use std::process::ExitCode;

use failure::{Failure, Result};
use workspace::Workspace;

/// One task: everything that the command line and its help know about it.
struct Task {
    name: &'static str,
    flags: &'static [Flag],
    /// One line for the list of tasks.
    about: &'static str,
    /// What `--help` adds to it.
    details: &'static str,
    run: fn(&Workspace, &Flags) -> Result<()>,
}

struct Flag {
    name: &'static str,
    /// What stands behind it on the command line, if anything does.
    value: Option<&'static str>,
    about: &'static str,
}

/// The flags that were given to a task, with their values.
struct Flags(Vec<(&'static str, String)>);

impl Flags {
    fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(given, _)| *given == name).map(|(_, value)| value.as_str())
    }
}

/// Where real images are, for measurements.
const DATA: Flag = Flag { name: "--data", value: Some("DIR"), about: "CIFAR-10 as images, train/<class>/ and test/<class>/" };

const TASKS: &[Task] = &[
    Task {
        name: "setup",
        flags: &[
            Flag { name: "--tests", value: None, about: "also the official ONNX test cases (needs Python 3.10 to 3.14)" },
            Flag {
                name: "--cuda",
                value: None,
                about: "also the CUDA libraries that libtorch needs on an NVIDIA GPU (about 2 GB to download)",
            },
        ],
        about: "Brings libtorch and ONNX Runtime into .native/",
        details: setup::DETAILS,
        run: |workspace, flags| {
            setup::run(workspace, setup::Wishes { conformance: flags.has("--tests"), cuda: flags.has("--cuda") })
        },
    },
    Task {
        name: "test",
        flags: &[],
        about: "Checks everything: formatting, lints, documentation, tests, tidiness",
        details: steps::TEST_DETAILS,
        run: |workspace, _| steps::test(workspace),
    },
    Task {
        name: "demo",
        flags: &[],
        about: "Audits the example model in fixtures/ and says where the results are",
        details: "Brings what is missing, as `setup` does, and builds the binary first.",
        run: |workspace, _| demo::run(workspace),
    },
    Task {
        name: "test-browser",
        flags: &[],
        about: "Opens report pages in headless Chromium and uses them",
        details: browser::DETAILS,
        run: |workspace, _| browser::run(workspace),
    },
    Task {
        name: "book",
        flags: &[],
        about: "Builds docs/ into out/book and checks its links",
        details: book::DETAILS,
        run: |workspace, _| book::run(workspace),
    },
    Task {
        name: "fixtures",
        flags: &[Flag { name: "--only", value: Some("FRAMEWORK"), about: "one of pytorch, keras, jax, paddle, sklearn" }],
        about: "Makes the models in fixtures/ anew, with the frameworks' own tools (half an hour)",
        details: fixtures::DETAILS,
        run: |workspace, flags| fixtures::run(workspace, flags.value("--only")),
    },
    Task {
        name: "conformance",
        flags: &[Flag { name: "--bless", value: None, about: "store which cases are refused" }],
        about: "Runs ONNX's own test cases and writes docs/results/conformance.md",
        details: measure::CONFORMANCE_DETAILS,
        run: |workspace, flags| measure::conformance(workspace, flags.has("--bless")),
    },
    Task {
        name: "measure-stage-one",
        flags: &[DATA],
        about: "Measures stage 1 on real images and writes docs/results/stage-one.md (an hour)",
        details: measure::DETAILS,
        run: |workspace, flags| measure::stage_one(workspace, flags.value("--data")),
    },
    Task {
        name: "measure-cifar10",
        flags: &[DATA],
        about: "Runs harness.cifar10-cpu.yaml on real images and writes docs/results/cifar10-cpu.md (two hours)",
        details: measure::DETAILS,
        run: |workspace, flags| measure::cifar10(workspace, flags.value("--data")),
    },
    Task {
        name: "measure-kills",
        flags: &[],
        about: "Kills the small grid at random moments and writes docs/results/grid.md (five minutes)",
        details: measure::KILLS_DETAILS,
        run: |workspace, _| measure::kills(workspace),
    },
    Task {
        name: "measure-maps",
        flags: &[],
        about: "Compares how features separate classes before and after attacks, and writes docs/results/maps.md (ten minutes)",
        details: measure::MAPS_DETAILS,
        run: |workspace, _| measure::maps(workspace),
    },
    Task {
        name: "measure-precision",
        flags: &[],
        about: "Audits by five seeds in float32 and bfloat16 and writes docs/results/precision.md (six minutes)",
        details: measure::PRECISION_DETAILS,
        run: |workspace, _| measure::precision(workspace),
    },
    Task {
        name: "measure-growth",
        flags: &[],
        about: "Measures how cost grows and writes docs/results/growth.md with a plot (ten minutes)",
        details: measure::GROWTH_DETAILS,
        run: |workspace, _| measure::growth(workspace),
    },
    Task {
        name: "bench-peer",
        flags: &[
            Flag { name: "--peer", value: Some("FILE"), about: "the peer's script (../shared/bench/peer_pytorch.py)" },
            Flag { name: "--rounds", value: Some("N"), about: "how often each is run (3)" },
        ],
        about: "Races PyTorch with onnx2torch, and ONNX Runtime, and writes docs/results/speed.md (half an hour)",
        details: measure::PEERS_DETAILS,
        run: |workspace, flags| measure::peers(workspace, flags.value("--peer"), flags.value("--rounds")),
    },
    Task {
        name: "bench",
        flags: &[
            Flag { name: "--check", value: None, about: "compare with the ratios that are stored" },
            Flag { name: "--bless", value: None, about: "store the ratios" },
        ],
        about: "Measures speeds as ratios of each other, which slower processors share (five minutes)",
        details: measure::RATIOS_DETAILS,
        run: |workspace, flags| measure::ratios(workspace, flags.has("--check"), flags.has("--bless")),
    },
    Task {
        name: "tidy",
        flags: &[],
        about: "Checks the order of modules, file lengths, machine paths, generated files",
        details: tidy::DETAILS,
        run: |workspace, _| tidy::run(workspace),
    },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<()> {
    let Some((name, rest)) = arguments.split_first() else {
        return Err(Failure::usage(format!("no task given\n\n{}", overview())));
    };
    if is_help(name) {
        println!("{}", overview());
        return Ok(());
    }
    let task = TASKS
        .iter()
        .find(|task| task.name == name)
        .ok_or_else(|| Failure::usage(format!("there is no task '{name}'\n\n{}", overview())))?;
    if rest.iter().any(|argument| is_help(argument)) {
        println!("{}", help(task));
        return Ok(());
    }
    let mut flags = Vec::new();
    let mut rest = rest.iter();
    while let Some(argument) = rest.next() {
        let flag = task.flags.iter().find(|flag| flag.name == argument);
        let flag = flag.ok_or_else(|| Failure::usage(format!("'{name}' does not take '{argument}'\n\n{}", help(task))))?;
        let value = match flag.value {
            None => String::new(),
            Some(what) => {
                rest.next().ok_or_else(|| Failure::usage(format!("{argument} needs {what}\n\n{}", help(task))))?.clone()
            }
        };
        flags.push((flag.name, value));
    }
    (task.run)(&Workspace::open()?, &Flags(flags))
}

fn is_help(argument: &str) -> bool {
    matches!(argument, "--help" | "-h" | "help")
}

fn overview() -> String {
    let tasks: String = TASKS.iter().map(|task| format!("\n  {:<18} {}", task.name, task.about)).collect();
    format!("Usage: cargo xtask TASK [FLAGS]\n\nTasks:{tasks}\n\n`cargo xtask TASK --help` says more.")
}

fn help(task: &Task) -> String {
    let typed = |flag: &Flag| flag.value.map_or_else(|| flag.name.to_string(), |value| format!("{} {value}", flag.name));
    let usage: String = task.flags.iter().map(|flag| format!(" [{}]", typed(flag))).collect();
    let flags: String = task.flags.iter().map(|flag| format!("\n  {:<10} {}", typed(flag), flag.about)).collect();
    let flags = if flags.is_empty() { flags } else { format!("\n\nFlags:{flags}") };
    format!("{}.\n\nUsage: cargo xtask {}{usage}{flags}\n\n{}", task.about, task.name, task.details)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_usage_names_the_argument_and_exits_with_2() {
        for (arguments, named) in [
            (vec![], "no task"),
            (vec!["brew"], "'brew'"),
            (vec!["test", "--cuda"], "'--cuda'"),
            (vec!["measure-cifar10", "--data"], "DIR"),
        ] {
            let arguments: Vec<String> = arguments.into_iter().map(String::from).collect();
            let failure = dispatch(&arguments).unwrap_err();
            assert!(failure.to_string().contains(named), "{failure}");
            assert_eq!(failure.exit_code(), 2);
        }
    }
}
