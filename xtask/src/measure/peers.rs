//! Speed beside what a user would do instead.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{OutputWithStderr, Page};
use crate::failure::{Failure, Result};
use crate::python::Python;
use crate::setup::{self, Wishes};
use crate::workspace::{self, Workspace};

pub const DETAILS: &str = "\
Exports networks with PyTorch's TorchScript exporter, then runs `cmira bench`, the peer and ONNX Runtime on the same files in turn, N rounds
of all of them. The peer is a script that takes MODEL.onnx, --batch, --images, --epochs, --threads, --dtype fp32|bf16, --channels-last and
--compile, and prints import_s, train_images_per_s, eval_images_per_s and peak_rss_mb as a line of JSON. Leave the machine alone meanwhile.";

/// Threads of everybody.
const THREADS: &str = "2";

/// One model in batches of one size.
struct Race {
    model: &'static str,
    title: &'static str,
    batch: &'static str,
    images: &'static str,
}

const RACES: [Race; 3] = [
    Race { model: "resnet18", title: "ResNet18, 32 x 32", batch: "64", images: "512" },
    Race { model: "resnet18", title: "ResNet18, 32 x 32", batch: "128", images: "512" },
    Race { model: "small", title: "the demonstration's ResNet8, 32 x 32", batch: "64", images: "2048" },
];

/// Who runs.
struct Runner {
    name: &'static str,
    program: Program,
    arguments: &'static [&'static str],
}

#[derive(Clone, Copy, PartialEq)]
enum Program {
    Ours,
    Peer,
    Runtime,
}

const fn runner(name: &'static str, program: Program, arguments: &'static [&'static str]) -> Runner {
    Runner { name, program, arguments }
}

/// The first is the default of ours, and the first of the peer's is the peer's default.
const RUNNERS: [Runner; 7] = [
    runner("cmira", Program::Ours, &["--precision", "auto"]),
    runner("cmira, fp32", Program::Ours, &["--precision", "fp32"]),
    runner("PyTorch", Program::Peer, &[]),
    runner("PyTorch, channels last", Program::Peer, &["--channels-last"]),
    runner("PyTorch, bf16, channels last", Program::Peer, &["--dtype", "bf16", "--channels-last"]),
    runner("PyTorch, bf16, channels last, compiled", Program::Peer, &["--dtype", "bf16", "--channels-last", "--compile"]),
    runner("ONNX Runtime", Program::Runtime, &[]),
];

/// The figures, by their names in what runners print.
const FIGURES: [(&str, &str, usize); 4] = [
    ("import_s", "import, s", 3),
    ("train_images_per_s", "training, images/s", 1),
    ("eval_images_per_s", "evaluation, images/s", 1),
    ("peak_rss_mb", "memory, MiB", 0),
];

struct Field {
    binary: PathBuf,
    python: PathBuf,
    adapter: PathBuf,
    peer: PathBuf,
    models: PathBuf,
}

/// Writes docs/results/speed.md.
pub fn run(workspace: &Workspace, peer: Option<&str>, rounds: Option<&str>) -> Result<()> {
    let rounds: usize = rounds.unwrap_or("3").parse().map_err(|_| Failure::usage("--rounds wants a number"))?;
    let peer = peer.map_or_else(|| workspace.root().join("../shared/bench/peer_pytorch.py"), PathBuf::from);
    if rounds == 0 || !peer.is_file() {
        return Err(Failure::usage(format!("{} is not there, or there are no rounds: give --peer FILE", peer.display())));
    }
    setup::run(workspace, Wishes { conformance: false, cuda: false })?;
    let adapter = workspace.root().join("adapters/pytorch");
    let python = Python::find()?.with_packages(workspace, &adapter.join("race-requirements.txt"), "race")?;
    let models = workspace.native().join("race");
    let field = Field { binary: workspace::build_released(workspace)?, python, adapter, peer, models };
    if RACES.iter().any(|race| !field.models.join(format!("{}.onnx", race.model)).is_file()) {
        workspace::run(Command::new(&field.python).arg(field.adapter.join("race_models.py")).arg(&field.models))?;
    }
    let mut page = Page::new("Speed beside PyTorch and ONNX Runtime", &format!("cargo xtask bench-peer --rounds {rounds}"));
    page.line(
        "The peer imports the same file by onnx2torch 1.5.15 and trains it in PyTorch 2.11.0: forward, cross-entropy on mixed-up label \
         distributions, backward, SGD with momentum and weight decay, one inner epoch of mutual distillation. Evaluation is a pass \
         without gradients; ONNX Runtime 1.30.0 does that alone. Two threads everywhere, medians of the rounds with the least and the most \
         in brackets; in each round everybody runs once, one after the other, in a process of its own. cmira computes in bfloat16 by \
         default on processors that multiply it, and so is its evaluation here, while audits report by float32, the second line; its import \
         finds out how many classes there are and whether any batch size runs, which onnx2torch does not look at, and its memory is that of \
         the whole process.\n",
    );
    for race in &RACES {
        eprintln!("==> {} in batches of {}", race.title, race.batch);
        let mut seen: Vec<Vec<Value>> = RUNNERS.iter().map(|_| Vec::new()).collect();
        for round in 1..=rounds {
            for (runner, seen) in RUNNERS.iter().zip(&mut seen) {
                eprintln!("    {round}/{rounds} {}", runner.name);
                seen.push(field.time(runner, race)?);
            }
        }
        section(&mut page, race, &seen);
    }
    page.write(workspace, "speed.md")
}

impl Field {
    fn time(&self, runner: &Runner, race: &Race) -> Result<Value> {
        let model = self.models.join(format!("{}.onnx", race.model));
        let mut command = match runner.program {
            Program::Ours => {
                let mut command = Command::new(&self.binary);
                command.args(["bench", "--json", "--device", "cpu"]);
                command
            }
            Program::Peer => python(&self.python, &self.peer),
            Program::Runtime => python(&self.python, &self.adapter.join("runtime_bench.py")),
        };
        command.arg(model).args(["--batch", race.batch, "--images", race.images, "--epochs", "3", "--threads", THREADS]);
        let printed = command.args(runner.arguments).output_with_stderr()?;
        let line = printed.lines().rev().find(|line| line.starts_with('{')).unwrap_or_default();
        serde_json::from_str(line).map_err(|error| Failure::new(format!("{}: {error}", runner.name)))
    }
}

fn python(program: &Path, script: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("-W").arg("ignore").arg(script);
    command
}

fn section(page: &mut Page, race: &Race, seen: &[Vec<Value>]) {
    page.line(&format!("## {} in batches of {}\n", race.title, race.batch));
    let medians: Vec<[Option<f64>; 4]> =
        seen.iter().map(|rounds| FIGURES.map(|(key, ..)| middle(&values(rounds, key)))).collect();
    let rows: Vec<Vec<String>> = RUNNERS
        .iter()
        .zip(seen)
        .map(|(runner, rounds)| {
            let figures = FIGURES.iter().map(|(key, _, decimals)| shown(&values(rounds, key), *decimals));
            std::iter::once(runner.name.to_string()).chain(figures).collect()
        })
        .collect();
    let header: Vec<&str> = std::iter::once("").chain(FIGURES.iter().map(|(_, title, _)| *title)).collect();
    page.table(&header, &rows);
    let of = |place: usize, figure: usize| medians[place][figure].unwrap_or(f64::NAN);
    let places = |program: Program| (0..RUNNERS.len()).filter(move |&place| RUNNERS[place].program == program);
    let best = |figure: usize| places(Program::Peer).map(|place| of(place, figure)).fold(f64::NAN, f64::max);
    let (default, runtime) = (2, RUNNERS.len() - 1);
    page.table(
        &["cmira over", "import", "training", "evaluation", "memory"],
        &[
            vec![
                "PyTorch's default".into(),
                format!("{:.2} x as fast", of(default, 0) / of(0, 0)),
                format!("{:.2} x", of(0, 1) / of(default, 1)),
                format!("{:.2} x", of(0, 2) / of(default, 2)),
                format!("{:.2} of it", of(0, 3) / of(default, 3)),
            ],
            vec![
                "PyTorch's best of each".into(),
                String::new(),
                format!("{:.2} x", of(0, 1) / best(1)),
                format!("{:.2} x", of(0, 2) / best(2)),
                format!(
                    "{:.2} of the least",
                    of(0, 3) / places(Program::Peer).map(|place| of(place, 3)).fold(f64::NAN, f64::min)
                ),
            ],
            vec![
                "ONNX Runtime, both in fp32".into(),
                String::new(),
                String::new(),
                format!("{:.2} x", of(1, 2) / of(runtime, 2)),
                String::new(),
            ],
        ],
    );
}

fn values(rounds: &[Value], key: &str) -> Vec<f64> {
    rounds.iter().filter_map(|round| round[key].as_f64()).collect()
}

fn shown(values: &[f64], decimals: usize) -> String {
    let Some(median) = middle(values) else { return String::new() };
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{median:.decimals$} ({least:.decimals$} to {most:.decimals$})")
}

/// The median; of an even number the mean of the two in the middle.
pub fn middle(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => sorted.get(half).copied(),
        _ => Some(f64::midpoint(sorted[half - 1], sorted[half])),
    }
}
