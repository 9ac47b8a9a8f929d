//! `cmira run`: the paper's grid.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::attack::Progress;
use crate::cli::board::{Board, Watched};
use crate::cli::common::{self, Compute, Precise};
use crate::cli::progress::rough;
use crate::cli::report;
use crate::error::{Error, Result};
use crate::graph::Computing;
use crate::harness::grid::{self, GridEvent, Harness, Hooks, Message, Workers, Workspace};
use crate::report::pages::Maps;
use crate::tensor::{Device, DeviceChoice, device_name, threads};
use crate::train;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cmira run harness.small.yaml --out small
  cmira run harness.small.yaml --out small --jobs 2
  cmira run harness.yaml --only dataset=cifar10,backbone=resnet18,method=IU
  cmira run harness.yaml --devices cuda:0,cuda:1
Run it again to go on where it ended, however it ended; what is done is not done again. A changed setting redoes what depends on it.")]
pub struct Args {
    /// The grid; its schema for editors is docs/harness.schema.json.
    #[arg(default_value = "harness.yaml", value_name = "HARNESS.yaml")]
    file: PathBuf,
    /// Where results go.
    #[arg(long, default_value = "grid", value_name = "DIR")]
    out: PathBuf,
    /// Run a part: dataset, backbone, method or seed, such as dataset=cifar10,method=IU. RT is run as well, as the control.
    #[arg(long, value_delimiter = ',', value_name = "KEY=VALUE")]
    only: Vec<String>,
    /// How many steps run at once, each in a process of its own; by default one for each of --devices. Threads are shared out among them
    /// unless --threads is given.
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Several devices to spread the steps over, instead of --device.
    #[arg(long, value_delimiter = ',', value_name = "DEVICE", conflicts_with = "device")]
    devices: Vec<DeviceChoice>,
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
    /// Print the JSON Schema of grid files, and do nothing.
    #[arg(long)]
    print_schema: bool,
    /// Run this step alone, as a worker of another process.
    #[arg(long, hide = true, value_name = "FOLDER", requires = "parent")]
    step: Option<String>,
    /// The process whose worker this is.
    #[arg(long, hide = true, value_name = "PID")]
    parent: Option<u32>,
    #[command(flatten)]
    watched: Watched,
    #[command(flatten)]
    precise: Precise,
    #[command(flatten)]
    compute: Compute,
}

/// The grid that a folder was last run with, as it was read and restricted.
const AS_READ: &str = "grid-as-read.yaml";

pub fn run(args: &Args) -> Result<()> {
    common::or_json(args.json, grid(args))
}

fn grid(args: &Args) -> Result<()> {
    if args.print_schema {
        print!("{}", Harness::json_schema());
        return Ok(());
    }
    if let Some(step) = &args.step {
        return as_worker(step, args);
    }
    let harness = harness(args)?;
    let devices = args.compute.start_many(&args.devices, args.jobs)?;
    let Some(&device) = devices.first() else { return Err(Error::usage("--devices names none")) };
    let workspace = Workspace::open(&args.out)?;
    let reporter = args.compute.reporter();
    let started = Instant::now();
    let bar = reporter.bar("grid", "steps");
    let mut state = State::new();
    let mut board = Board::new(&args.watched);
    let mut show = |event: &GridEvent| {
        watch(&mut board, &state.step, event);
        match event {
            GridEvent::Step { name, done, of, skipped } => {
                state.step = (*name).to_string();
                if *skipped {
                    state.begun = Instant::now();
                    state.finished = 0;
                } else {
                    reporter.note(&format!("[{}/{of}] {name}{}", done + 1, state.time_left(of - done)));
                }
                bar.set(*done as u64, *of as u64);
            }
            GridEvent::Finished { .. } => state.finished += 1,
            _ => {}
        }
        bar.message(&state.describe(event));
    };
    let mut hooks = Hooks { report: &mut show, stop: common::listen_for_interrupt() };
    let command = |step: &str, device: Device| worker(step, device, args);
    let workers = Workers { devices, command: &command };
    let workers = Some(&workers).filter(|workers| workers.devices.len() > 1);
    let as_read = serde_yaml::to_string(&harness).map_err(Error::unexpected)?;
    crate::files::write(&args.out.join(AS_READ), as_read.as_bytes())?;
    let computing = Computing { device, precision: args.precise.on(device) };
    let tables = grid::run(&harness, &workspace, computing, workers, &common::command_line(), &mut hooks);
    bar.finish();
    board.warn(&reporter);
    let names: Vec<String> = tables?.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect();
    let written = report::write_page(&args.out, report::Results::Grid, Maps::Drawn, &reporter)?;
    if args.json {
        let paths: Vec<String> = written.iter().map(|path| path.display().to_string()).collect();
        println!(
            "{:#}",
            serde_json::json!({ "out": args.out, "seconds": started.elapsed().as_secs_f64(), "tables": names, "written": paths })
        );
        return Ok(());
    }
    println!("{} in {:.0} s: {}", args.out.display(), started.elapsed().as_secs_f64(), names.join(" "));
    if let Some(page) = written.first() {
        println!("{}: tables and figures to look at", page.display());
    }
    Ok(())
}

fn harness(args: &Args) -> Result<Harness> {
    let mut harness = Harness::read(&args.file)?;
    for text in &args.only {
        let pair = text.split_once('=').ok_or_else(|| Error::usage(format!("--only {text} is not of the form KEY=VALUE")))?;
        harness.restrict(pair.0, pair.1).map_err(|error| error.at("--only"))?;
    }
    Ok(harness)
}

/// The command that runs one step of this grid in a process of its own: from the grid as it was read, whatever becomes of its file.
fn worker(step: &str, device: Device, args: &Args) -> Result<Command> {
    // The program that runs, also where its file was replaced meanwhile.
    let itself = std::path::Path::new("/proc/self/exe");
    let program = if itself.exists() { itself.to_path_buf() } else { std::env::current_exe().map_err(Error::unexpected)? };
    let mut command = Command::new(program);
    command.arg("run").arg(args.out.join(AS_READ)).arg("--out").arg(&args.out).args(["--step", step, "--quiet"]);
    command.args(["--device", &device_name(device), "--threads", &threads().to_string()]);
    command.args(["--precision", &args.precise.on(device).to_string()]);
    command.args(["--parent", &std::process::id().to_string()]);
    if let Some(folder) = &args.watched.tensorboard {
        command.arg("--tensorboard").arg(folder);
    }
    Ok(command)
}

/// Does one step, and tells the process that asked for it how far it is.
fn as_worker(step: &str, args: &Args) -> Result<()> {
    common::stop_when_input_closes();
    let say = |message: &Message| {
        // Who does not listen any more has closed the input as well, which ends this.
        let _ = writeln!(std::io::stdout(), "{}", message.line());
    };
    let work = || -> Result<()> {
        let harness = harness(args)?;
        let device = args.compute.start()?;
        let workspace = Workspace::join(&args.out)?;
        if args.parent.is_some_and(orphaned_from) {
            return Err(Error::interrupted("the process that this was a worker of has ended"));
        }
        let mut state = State::new();
        let mut last = Instant::now();
        let mut board = Board::new(&args.watched);
        let mut show = |event: &GridEvent| {
            watch(&mut board, step, event);
            if last.elapsed() >= Duration::from_millis(250) {
                last = Instant::now();
                say(&Message::Working(state.describe(event)));
            }
        };
        let mut hooks = Hooks { report: &mut show, stop: common::listen_for_interrupt() };
        let computing = Computing { device, precision: args.precise.on(device) };
        grid::run_step(&harness, &workspace, step, computing, &mut hooks)
    };
    work().inspect_err(|error| say(&Message::Failed { exit_code: error.kind().exit_code(), reason: error.to_string() }))
}

/// Whether this process is no longer a child of that one: another run may have the folder by now.
fn orphaned_from(parent: u32) -> bool {
    #[cfg(unix)]
    return std::os::unix::process::parent_id() != parent;
    #[cfg(not(unix))]
    return false;
}

/// Tells TensorBoard of a step's training or attack.
fn watch(board: &mut Board, step: &str, event: &GridEvent) {
    match event {
        GridEvent::Training(event) => board.training(step, "training", 0, event),
        GridEvent::Attack(progress) => board.attack(step, progress),
        _ => {}
    }
}

/// How far a grid is, for people.
struct State {
    /// How far each step is that a worker does.
    texts: BTreeMap<String, String>,
    /// The step that this process does.
    step: String,
    /// When the first step began that was not done already.
    begun: Instant,
    /// Steps finished since.
    finished: u32,
}

impl State {
    fn new() -> State {
        State { texts: BTreeMap::new(), step: String::new(), begun: Instant::now(), finished: 0 }
    }

    /// Steps take different times; their mean is all that is known.
    fn time_left(&self, left: usize) -> String {
        if self.finished == 0 {
            return String::new();
        }
        let left = self.begun.elapsed() / self.finished * u32::try_from(left).unwrap_or(u32::MAX);
        format!(", about {} left", rough(left))
    }

    fn describe(&mut self, event: &GridEvent) -> String {
        let done = match event {
            GridEvent::Working { name, text } => {
                self.texts.insert((*name).to_string(), (*text).to_string());
                None
            }
            GridEvent::Finished { name } => {
                self.texts.remove(*name);
                None
            }
            GridEvent::Step { .. } => None,
            GridEvent::Images(progress) => Some(format!("{} {}/{}", progress.what, progress.done, progress.total)),
            GridEvent::Training(train::Event::Epoch { epoch, of, loss, .. }) => {
                Some(format!("epoch {epoch}/{of}, loss {loss:.3}"))
            }
            GridEvent::Training(train::Event::Batch { batch, of, .. }) => Some(format!("batch {batch}/{of}")),
            GridEvent::Training(train::Event::Resumed { epoch, of }) => Some(format!("goes on behind epoch {epoch}/{of}")),
            GridEvent::Attack(Progress::Training { model, iteration, event: train::Event::Epoch { epoch, of, .. } }) => {
                Some(format!("iteration {iteration}, {model}, epoch {epoch}/{of}"))
            }
            GridEvent::Attack(Progress::Iteration(line)) => Some(format!("iteration {} is done", line.iteration)),
            GridEvent::Attack(_) => None,
        };
        if !self.texts.is_empty() {
            let all: Vec<String> = self.texts.iter().map(|(name, text)| format!("{name}: {text}")).collect();
            return all.join("; ");
        }
        match (self.step.is_empty(), done) {
            (true, done) => done.unwrap_or_default(),
            (false, None) => self.step.clone(),
            (false, Some(done)) => format!("{}: {done}", self.step),
        }
    }
}
