//! `cargo xtask measure-*`: measurements that take too long for the tests. Each writes one page of `docs/results/`.

mod cifar10;
mod conformance;
mod findings;
mod growth;
mod kills;
mod maps;
mod peers;
mod precision;
mod ratios;
mod stage_one;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

pub use cifar10::run as cifar10;
pub use conformance::{DETAILS as CONFORMANCE_DETAILS, run as conformance};
pub use growth::{DETAILS as GROWTH_DETAILS, run as growth};
pub use kills::{DETAILS as KILLS_DETAILS, run as kills};
pub use maps::{DETAILS as MAPS_DETAILS, run as maps};
pub use peers::{DETAILS as PEERS_DETAILS, run as peers};
pub use precision::{DETAILS as PRECISION_DETAILS, run as precision};
pub use ratios::{DETAILS as RATIOS_DETAILS, run as ratios};
pub use stage_one::run as stage_one;

use crate::failure::{At, Failure, Result};
use crate::setup::{self, Wishes};
use crate::workspace::{self, Workspace};

pub const DETAILS: &str = "\
DIR holds CIFAR-10 as images: train/<class>/ and test/<class>/. The work is done in out/, step by step; steps that are done
are not done again, so an interrupted measurement goes on. Remove the folder in out/ to measure anew.";

/// What the real images' pixels are turned into, for every model of the measurements: mean and deviation of CIFAR-10's
/// training images.
const ADAPTER: &str = "\
input:
  mean: [0.4914, 0.4822, 0.4465]
  std: [0.247, 0.2435, 0.2616]
";

/// A folder in which a measurement works, step by step.
struct Bench {
    binary: PathBuf,
    folder: PathBuf,
    data: PathBuf,
}

/// A command of the measurement that was run, now or before.
struct Done {
    /// As a user would type it in the measurement's folder, with `DATA` for the images.
    command: String,
    /// What it printed.
    output: String,
    seconds: f64,
}

impl Bench {
    /// Builds the binary and makes the folder.
    fn new(workspace: &Workspace, name: &str, data: Option<&str>) -> Result<Bench> {
        let data = data.ok_or_else(|| Failure::usage("--data DIR is needed: a folder with train/<class>/ and test/<class>/"))?;
        let data = fs::canonicalize(data).at(Path::new(data))?;
        setup::run(workspace, Wishes { conformance: false, cuda: false })?;
        let built = workspace::build(workspace)?;
        let folder = workspace.root().join("out").join(name);
        fs::create_dir_all(&folder).at(&folder)?;
        // One binary for all steps, whatever is built meanwhile.
        let binary = folder.join("cmira");
        if !binary.exists() {
            fs::copy(&built, &binary).at(&binary)?;
        }
        Ok(Bench { binary, folder, data })
    }

    /// Writes a settings file.
    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(name);
        fs::write(&path, text).at(&path)
    }

    /// Runs `cmira` with the words of `line`, in which `DATA` stands for the images, unless its log is there already.
    fn step(&self, name: &str, line: &str) -> Result<Done> {
        let log = self.folder.join(format!("{name}.json"));
        if let Ok(text) = fs::read_to_string(&log) {
            let value: Value = serde_json::from_str(&text).map_err(Failure::new)?;
            let text = |key: &str| value[key].as_str().unwrap_or_default().to_string();
            return Ok(Done {
                command: text("command"),
                output: text("output"),
                seconds: value["seconds"].as_f64().unwrap_or(0.0),
            });
        }
        eprintln!("==> cmira {line}");
        let data = self.data.to_string_lossy();
        let arguments = line.split_whitespace().map(|word| word.replace("DATA", &data));
        let mut command = Command::new(&self.binary);
        command.args(arguments).current_dir(&self.folder).stdout(Stdio::piped());
        let started = Instant::now();
        let output = command.output_with_stderr()?;
        let done = Done { command: format!("cmira {line}"), output, seconds: started.elapsed().as_secs_f64() };
        let record = serde_json::json!({ "command": done.command, "output": done.output, "seconds": done.seconds });
        fs::write(&log, record.to_string()).at(&log)?;
        Ok(done)
    }

    /// A JSON file that a step wrote.
    fn json(&self, name: &str) -> Result<Value> {
        let path = self.folder.join(name);
        serde_json::from_str(&fs::read_to_string(&path).at(&path)?)
            .map_err(|error| Failure::new(format!("{}: {error}", path.display())))
    }
}

trait OutputWithStderr {
    /// Runs to the end, with stderr passed through, and gives what was printed on stdout.
    fn output_with_stderr(&mut self) -> Result<String>;
}

impl OutputWithStderr for Command {
    fn output_with_stderr(&mut self) -> Result<String> {
        let output = self.stderr(Stdio::inherit()).output().map_err(Failure::new)?;
        if !output.status.success() {
            return Err(Failure::new(format!("{} failed ({})", workspace::describe(self), output.status)));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// A page of `docs/results/`.
struct Page(String);

impl Page {
    fn new(title: &str, command: &str) -> Page {
        let mut page = Page(String::new());
        page.line(&format!("# {title}\n\nMade by `{command}`, on {}.\n", machine()));
        page
    }

    fn line(&mut self, text: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{text}");
    }

    fn table(&mut self, header: &[&str], rows: &[Vec<String>]) {
        self.line(&format!("| {} |", header.join(" | ")));
        self.line(&format!("|{}", "---|".repeat(header.len())));
        for row in rows {
            self.line(&format!("| {} |", row.join(" | ")));
        }
        self.line("");
    }

    /// Every command with its time and what it printed.
    fn steps(&mut self, steps: &[Done]) {
        self.line("## Steps\n\nEach was run in a folder of its own; `DATA` are the images.\n");
        for step in steps {
            let printed = if step.output.starts_with('{') { "" } else { step.output.trim_end() };
            let text = format!("$ {}\n{printed}", step.command);
            self.line(&format!("{:.0} s:\n\n```console\n{}\n```\n", step.seconds, text.trim_end()));
        }
    }

    fn write(&self, workspace: &Workspace, name: &str) -> Result<()> {
        let path = workspace.root().join("docs/results").join(name);
        fs::write(&path, format!("{}\n", self.0.trim_end())).at(&path)?;
        eprintln!("wrote {}", path.display());
        Ok(())
    }
}

/// A number of the results with two decimals, or nothing.
fn number(value: &Value) -> String {
    value.as_f64().map_or_else(String::new, |value| format!("{value:.2}"))
}

/// The processor and how many of its cores there are.
fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).and_then(|rest| rest.split_once(':'));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{cores} cores of {}", model.map_or("an unknown processor", |(_, name)| name.trim()))
}
