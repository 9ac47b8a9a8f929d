//! Runs a grid: step by step in this process, or several at a time in worker processes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::config::{DatasetEntry, Harness};
use super::data::{self, Split, SplitRecord};
use super::gather::gather;
use super::plan::{self, Plan, Step, Work};
use super::steps::{self, Attacked, Site, Trained, UnlearnedModel};
use super::store::{Key, Workspace};
use super::workers::{self, Workers};
use crate::attack;
use crate::error::{Error, Result};
use crate::graph::Computing;
use crate::report::grid::{self as tables, Document};
use crate::train;

/// What happens while a grid runs.
#[derive(Debug)]
pub enum GridEvent<'a> {
    /// A step begins, or was found done.
    Step {
        /// Its name.
        name: &'a str,
        /// Its place among all steps, from 0.
        done: usize,
        /// Steps in all.
        of: usize,
        /// Whether it was done before.
        skipped: bool,
    },
    /// A step that began has ended, whether done or not.
    Finished {
        /// Its name.
        name: &'a str,
    },
    /// A worker says how far its step is.
    Working {
        /// The step's name.
        name: &'a str,
        /// How far, in words.
        text: &'a str,
    },
    /// Images are read.
    Images(crate::data::Progress),
    /// A model is trained.
    Training(&'a train::Event),
    /// A model is attacked.
    Attack(&'a attack::Progress<'a>),
}

/// How a caller follows and stops a grid.
pub struct Hooks<'a> {
    /// Is told what happens.
    pub report: &'a mut dyn FnMut(&GridEvent),
    /// Set from outside to stop; what was done is kept.
    pub stop: &'a AtomicBool,
}

pub(super) enum Stage<'a> {
    Training(&'a train::Event),
    Attack(&'a attack::Progress<'a>),
}

impl Hooks<'_> {
    pub(super) fn stage(&mut self, stage: Stage) {
        match stage {
            Stage::Training(event) => (self.report)(&GridEvent::Training(event)),
            Stage::Attack(progress) => (self.report)(&GridEvent::Attack(progress)),
        }
    }

    /// # Errors
    /// Interrupted, when the caller wants to stop.
    pub(super) fn go_on(&self) -> Result<()> {
        if self.stop.load(Ordering::SeqCst) {
            return Err(
                Error::interrupted("interrupted; everything that is done is kept").help("run the same command again to go on")
            );
        }
        Ok(())
    }
}

/// Runs what of a grid is not done yet, then writes all tables into the folder. Gives the tables' file names. With `workers`, several
/// steps run at once; results are the same. `command` is what was given on the command line.
///
/// # Errors
/// Interrupted, when it was asked to stop: run it again to go on. Else what a step raises; steps that are done stay done.
pub fn run(
    harness: &Harness,
    workspace: &Workspace,
    computing: Computing,
    workers: Option<&Workers>,
    command: &[String],
    hooks: &mut Hooks,
) -> Result<Vec<PathBuf>> {
    let splits = harness.datasets.len() * harness.seeds.len();
    let of = splits * (1 + plan::steps_per_split(harness));
    let mut images = Images { harness, workspace, fingerprints: BTreeMap::new(), kept: None };
    images.clear_partial()?;
    let mut read = Vec::new();
    for entry in 0..harness.datasets.len() {
        for &seed in &harness.seeds {
            let key = images.key(entry, seed)?;
            hooks.go_on()?;
            let skipped = workspace.done::<SplitRecord>(&key)?.is_some();
            (hooks.report)(&GridEvent::Step { name: &key.name, done: read.len(), of, skipped });
            let record = workspace.step(&key, |folder| images.write_indices(entry, seed, folder, hooks))?.result;
            read.push((entry, seed, key, record));
        }
    }
    let plan = Plan::of(harness, &read, computing)?;
    match workers {
        Some(workers) => {
            // They read their own.
            images.kept = None;
            workers::run(&plan, workspace, workers, splits, hooks)?;
        }
        None => {
            for (place, step) in plan.steps.iter().enumerate() {
                hooks.go_on()?;
                let skipped = settled(workspace, step)?;
                (hooks.report)(&GridEvent::Step { name: &step.key.name, done: splits + place, of, skipped });
                if !skipped {
                    execute(harness, workspace, &plan, step, computing, &mut images, hooks)?;
                    (hooks.report)(&GridEvent::Finished { name: &step.key.name });
                }
            }
        }
    }
    write_times(workspace, &plan)?;
    let document = Document {
        command: command.to_vec(),
        working_directory: crate::files::working_directory(),
        cmira: env!("CARGO_PKG_VERSION").to_string(),
        settings: serde_json::to_value(harness).map_err(Error::unexpected)?,
        results: gather(harness, workspace, &plan)?,
    };
    document.write(workspace.root())?;
    tables::write_all(workspace.root(), &document.results)
}

/// How long each step took, in a file of its own: equal runs give equal tables, and take different times.
fn write_times(workspace: &Workspace, plan: &Plan) -> Result<()> {
    let mut times = serde_json::Map::new();
    for step in &plan.steps {
        if let Some(done) = workspace.done::<serde_json::Value>(&step.key)? {
            times.insert(step.key.name.clone(), done.seconds.into());
        }
    }
    let text = serde_json::to_vec_pretty(&times).map_err(Error::unexpected)?;
    crate::files::write(&workspace.root().join("times.json"), &text)
}

/// Runs one step of a grid, whose name and hash is `wanted`, as a worker. All that it needs has to be done.
///
/// # Errors
/// Usage, when the grid has no such step; what the step raises.
pub fn run_step(harness: &Harness, workspace: &Workspace, wanted: &str, computing: Computing, hooks: &mut Hooks) -> Result<()> {
    let mut images = Images { harness, workspace, fingerprints: BTreeMap::new(), kept: None };
    let mut read = Vec::new();
    for entry in 0..harness.datasets.len() {
        for &seed in &harness.seeds {
            let key = images.key(entry, seed)?;
            // Other data sets may not be read yet: their steps are not wanted either.
            if let Some(done) = workspace.done::<SplitRecord>(&key)? {
                read.push((entry, seed, key, done.result));
            }
        }
    }
    let plan = Plan::of(harness, &read, computing)?;
    let step = plan.steps.iter().find(|step| step.key.folder() == wanted);
    let step = step.ok_or_else(|| Error::usage(format!("the grid has no step {wanted} now")))?;
    execute(harness, workspace, &plan, step, computing, &mut images, hooks)
}

/// Whether a step was finished, by whomever.
pub(super) fn is_done(workspace: &Workspace, step: &Step) -> Result<bool> {
    Ok(match step.work {
        Work::Original => workspace.done::<Trained>(&step.key)?.is_some(),
        Work::ProbeOnly | Work::Unlearn { .. } => workspace.done::<UnlearnedModel>(&step.key)?.is_some(),
        Work::StageOne { .. } | Work::SelfTraining { .. } | Work::Attack { .. } => {
            workspace.done::<Attacked>(&step.key)?.is_some()
        }
    })
}

/// Whether a step was finished; if so, nothing is left of what only an unfinished one needs.
pub(super) fn settled(workspace: &Workspace, step: &Step) -> Result<bool> {
    let done = is_done(workspace, step)?;
    if done && matches!(step.work, Work::SelfTraining { .. } | Work::Attack { .. }) {
        forget_state(&workspace.folder(&step.key))?;
    }
    Ok(done)
}

fn execute(
    harness: &Harness,
    workspace: &Workspace,
    plan: &Plan,
    step: &Step,
    computing: Computing,
    images: &mut Images,
    hooks: &mut Hooks,
) -> Result<()> {
    let column = plan.columns.get(step.column).ok_or_else(|| Error::unexpected("a step without a column"))?;
    let split = images.get(column.entry, column.seed, hooks)?;
    if split.record() != column.record {
        let error = Error::data("the images are not those that were split when the grid began").at(&column.dataset);
        return Err(error.help("put them back, or delete the step of that name to split them anew"));
    }
    let folder_of = |place: usize| -> Result<PathBuf> {
        let step = plan.steps.get(place).ok_or_else(|| Error::unexpected("a step that is not in the plan"))?;
        Ok(workspace.folder(&step.key))
    };
    let model_of = |place: usize| folder_of(place).map(|folder| steps::model_file(&folder));
    let (key, folder) = (&step.key, workspace.folder(&step.key));
    let site = Site { harness, column, step: key, split, folder: &folder, computing };
    match step.work {
        Work::Original => drop(workspace.step(key, |_| steps::train_original(&site, hooks))?),
        Work::ProbeOnly => drop(workspace.step(key, |_| steps::train_probe_only(&site, hooks))?),
        Work::Unlearn { method, from } => {
            let original = from.map(model_of).transpose()?;
            drop(workspace.step(key, |_| steps::unlearn(method, original.as_deref(), &site, hooks))?);
        }
        Work::StageOne { original } => {
            let original = model_of(original)?;
            drop(workspace.step(key, |_| steps::stage_one(&original, &site, hooks))?);
        }
        Work::SelfTraining { original, stage_one } => {
            let (original, first) = (model_of(original)?, folder_of(stage_one)?);
            drop(workspace.step(key, |_| steps::self_training(&original, &first, &site, hooks))?);
            forget_state(&folder)?;
        }
        Work::Attack { target, model, stage_one } => {
            let (model, first) = (model_of(model)?, folder_of(stage_one)?);
            drop(workspace.step(key, |_| steps::attack_all(target, &model, &first, &site, hooks))?);
            forget_state(&folder)?;
        }
    }
    Ok(())
}

/// What a resumed attack needs goes when it is done, and not before: whoever is killed in between has either the one or the other.
fn forget_state(folder: &Path) -> Result<()> {
    let state = folder.join("state");
    if state.exists() {
        std::fs::remove_dir_all(&state).map_err(|error| Error::io(&state, &error))?;
    }
    Ok(())
}

/// Changes when what is kept of a split changes its form.
const SPLIT_RECORD: &str = "split record 2";

/// The images of the grid, of which the last used are kept. They are read when a step needs them, and not before.
struct Images<'a> {
    harness: &'a Harness,
    workspace: &'a Workspace,
    /// By data set: looking at all files of one takes a while.
    fingerprints: BTreeMap<usize, String>,
    kept: Option<((usize, u64), Split)>,
}

impl Images<'_> {
    fn entry(&self, entry: usize) -> Result<&DatasetEntry> {
        self.harness.datasets.get(entry).ok_or_else(|| Error::unexpected("a data set that is not in the grid"))
    }

    /// Removes drawings that a process left which was killed while it drew.
    fn clear_partial(&self) -> Result<()> {
        let folder = self.workspace.root().join("images");
        let entries = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(|error| Error::io(&folder, &error))?,
        };
        for entry in entries {
            let path = entry.map_err(|error| Error::io(&folder, &error))?.path();
            if path.extension().is_some_and(|extension| extension == "partial") {
                std::fs::remove_dir_all(&path).map_err(|error| Error::io(&path, &error))?;
            }
        }
        Ok(())
    }

    fn fingerprint(&mut self, place: usize) -> Result<String> {
        if let Some(known) = self.fingerprints.get(&place) {
            return Ok(known.clone());
        }
        let found = data::fingerprint(&self.entry(place)?.source)?;
        self.fingerprints.insert(place, found.clone());
        Ok(found)
    }

    fn key(&mut self, place: usize, seed: u64) -> Result<Key> {
        let fingerprint = self.fingerprint(place)?;
        let entry = self.entry(place)?;
        let inputs = serde_json::to_string(entry).map_err(Error::unexpected)?;
        Ok(Key::new(format!("data-{}-{seed}", entry.name), &[SPLIT_RECORD, &inputs, &fingerprint]))
    }

    fn get(&mut self, place: usize, seed: u64, hooks: &mut Hooks) -> Result<&Split> {
        if self.kept.as_ref().is_none_or(|(key, _)| *key != (place, seed)) {
            let fingerprint = self.fingerprint(place)?;
            let entry = self.entry(place)?;
            // By what is drawn, so that other drawings are never taken for these; and by a name that leads nowhere else.
            let drawn = Key::new(entry.name.clone(), &[&fingerprint]);
            let scratch = self.workspace.root().join("images").join(drawn.folder());
            let mut show = |progress| (hooks.report)(&GridEvent::Images(progress));
            let split = data::read(entry, seed, &scratch, &mut show)?;
            self.kept = Some(((place, seed), split));
        }
        self.kept.as_ref().map(|(_, split)| split).ok_or_else(|| Error::unexpected("images were read and are not there"))
    }

    /// Writes which image is in which set, so that a split can be audited.
    fn write_indices(&mut self, entry: usize, seed: u64, folder: &Path, hooks: &mut Hooks) -> Result<SplitRecord> {
        let split = self.get(entry, seed, hooks)?;
        for (name, set, role) in [
            ("forget.csv", &split.forget, "forget"),
            ("retain.csv", &split.retain, "retain"),
            ("probe.csv", &split.probe, "probe"),
        ] {
            let all: Vec<usize> = (0..set.len()).collect();
            crate::data::splits::write_indices(&folder.join(name), set, &[(role, &all)])?;
        }
        Ok(split.record())
    }
}
