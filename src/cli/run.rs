//! `cmira run`: the paper's grid.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::attack::Progress;
use crate::cli::common::{self, Compute};
use crate::error::{Error, Result};
use crate::harness::grid::{self, GridEvent, Harness, Hooks, Workspace};
use crate::train;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cmira run harness.small.yaml --out small
  cmira run harness.yaml --only dataset=cifar10,backbone=resnet18,method=IU
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
    /// Print the JSON Schema of grid files, and do nothing.
    #[arg(long)]
    print_schema: bool,
    #[command(flatten)]
    compute: Compute,
}

pub fn run(args: &Args) -> Result<()> {
    if args.print_schema {
        print!("{}", Harness::json_schema());
        return Ok(());
    }
    let mut harness = Harness::read(&args.file)?;
    for text in &args.only {
        let pair = text.split_once('=').ok_or_else(|| Error::usage(format!("--only {text} is not of the form KEY=VALUE")))?;
        harness.restrict(pair.0, pair.1).map_err(|error| error.at("--only"))?;
    }
    let device = args.compute.start()?;
    let workspace = Workspace::open(&args.out)?;
    let reporter = args.compute.reporter();
    let started = Instant::now();
    let bar = reporter.bar("grid");
    let mut state = State { step: String::new(), begun: Instant::now(), worked: 0, left: 0 };
    let mut show = |event: &GridEvent| {
        if let GridEvent::Step { name, done, of, skipped } = event {
            state.step = (*name).to_string();
            if *skipped {
                state.begun = Instant::now();
                state.worked = 0;
            } else {
                reporter.note(&format!("[{}/{of}] {name}{}", done + 1, state.time_left(of - done)));
                state.worked += 1;
            }
            state.left = of - done;
            bar.set(*done as u64, *of as u64);
        }
        bar.message(&state.describe(event));
    };
    let mut hooks = Hooks { report: &mut show, stop: common::listen_for_interrupt() };
    let written = grid::run(&harness, &workspace, device, &mut hooks);
    bar.finish();
    let names: Vec<String> = written?.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect();
    println!("{} in {:.0} s: {}", args.out.display(), started.elapsed().as_secs_f64(), names.join(" "));
    Ok(())
}

/// How far a grid is, for people.
struct State {
    step: String,
    /// When the first step began that was not done already.
    begun: Instant,
    /// Steps begun since.
    worked: u32,
    left: usize,
}

impl State {
    /// Steps take different times; their mean is all that is known.
    fn time_left(&self, left: usize) -> String {
        if self.worked == 0 {
            return String::new();
        }
        let left = self.begun.elapsed() / self.worked * u32::try_from(left).unwrap_or(u32::MAX);
        format!(", about {} left", rough(left))
    }

    fn describe(&self, event: &GridEvent) -> String {
        let step = &self.step;
        match event {
            GridEvent::Step { .. } => step.clone(),
            GridEvent::Images(progress) => format!("{step}: {} {}/{}", progress.what, progress.done, progress.total),
            GridEvent::Training(train::Event::Epoch { epoch, of, loss, .. }) => {
                format!("{step}: epoch {epoch}/{of}, loss {loss:.3}")
            }
            GridEvent::Training(train::Event::Batch { batch, of, .. }) => format!("{step}: batch {batch}/{of}"),
            GridEvent::Training(train::Event::Resumed { epoch, of }) => format!("{step}: goes on behind epoch {epoch}/{of}"),
            GridEvent::Attack(Progress::Training { model, iteration, event: train::Event::Epoch { epoch, of, .. } }) => {
                format!("{step}: iteration {iteration}, {model}, epoch {epoch}/{of}")
            }
            GridEvent::Attack(Progress::Iteration(line)) => format!("{step}: iteration {} is done", line.iteration),
            GridEvent::Attack(_) => step.clone(),
        }
    }
}

/// A time in the unit that suits it.
fn rough(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..=99 => format!("{seconds} s"),
        seconds @ 100..=5999 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}
