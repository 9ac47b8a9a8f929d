//! Runs a grid, step by step.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::config::{DatasetEntry, Harness};
use super::data::{self, Split, SplitRecord};
use super::steps::{self, Attacked, Column, Trained, UnlearnedModel};
use super::store::{Key, Workspace};
use crate::attack;
use crate::error::{Error, Result};
use crate::report::grid::{self as tables, Cell, MethodRow, Results, SplitRow, UnlearnRow};
use crate::tensor::Device;
use crate::train;
use crate::unlearn::{self, Method, Setting};

/// What happens while a grid runs.
#[derive(Debug)]
pub enum GridEvent<'a> {
    /// A step begins, or was found done.
    Step {
        /// Its name.
        name: &'a str,
        /// Steps that are finished before it.
        done: usize,
        /// Steps in all.
        of: usize,
        /// Whether it was done before.
        skipped: bool,
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
}

/// Runs what of a grid is not done yet, then writes all tables into the folder. Gives the tables' file names.
///
/// # Errors
/// Interrupted, when it was asked to stop: run it again to go on. Else what a step raises; steps that are done stay done.
pub fn run(harness: &Harness, workspace: &Workspace, device: Device, hooks: &mut Hooks) -> Result<Vec<PathBuf>> {
    let mut runner = Runner { harness, workspace, device, done: 0, of: count(harness), results: Results::default() };
    for dataset in &harness.datasets {
        for &seed in &harness.seeds {
            runner.split(dataset, seed, hooks)?;
        }
    }
    tables::write_all(workspace.root(), &runner.results)
}

/// Steps of a grid.
fn count(harness: &Harness) -> usize {
    let columns = harness.seeds.len() * harness.datasets.len() * harness.backbones.len();
    harness.seeds.len() * harness.datasets.len() + columns * (2 + 2 * harness.methods.len())
}

struct Runner<'a> {
    harness: &'a Harness,
    workspace: &'a Workspace,
    device: Device,
    done: usize,
    of: usize,
    results: Results,
}

/// What every cell of a column starts from.
#[derive(Clone, Copy)]
struct Start<'a> {
    train: &'a Key,
    original: &'a Path,
    stage_one: &'a Key,
    stage_one_folder: &'a Path,
}

/// Images that are read at most once, and only if a step needs them.
struct Lazy<'a> {
    entry: &'a DatasetEntry,
    seed: u64,
    scratch: PathBuf,
    split: Option<Split>,
}

impl Lazy<'_> {
    fn get(&mut self, hooks: &mut Hooks) -> Result<&Split> {
        if self.split.is_none() {
            let mut show = |progress| (hooks.report)(&GridEvent::Images(progress));
            self.split = Some(data::read(self.entry, self.seed, &self.scratch, &mut show)?);
        }
        self.split.as_ref().ok_or_else(|| Error::unexpected("images were read and are not there"))
    }
}

impl Runner<'_> {
    /// Says that a step begins or is done, and counts it.
    fn tell(&mut self, name: &str, skipped: bool, hooks: &mut Hooks) -> Result<()> {
        if hooks.stop.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(
                Error::interrupted("interrupted; everything that is done is kept").help("run the same command again to go on")
            );
        }
        (hooks.report)(&GridEvent::Step { name, done: self.done, of: self.of, skipped });
        self.done += 1;
        Ok(())
    }

    /// All columns of one data set and seed.
    fn split(&mut self, entry: &DatasetEntry, seed: u64, hooks: &mut Hooks) -> Result<()> {
        let inputs = serde_json::to_string(entry).map_err(Error::unexpected)?;
        let drawn = data::fingerprint(&entry.source)?;
        let key = Key::new(format!("data-{}-{seed}", entry.name), &[&inputs, &drawn]);
        // By what is drawn, so that other drawings are never taken for these; and by a name that leads nowhere else.
        let scratch = self.workspace.root().join("images").join(Key::new(entry.name.clone(), &[&drawn]).folder());
        let mut images = Lazy { entry, seed, scratch, split: None };
        self.tell(&key.name, self.workspace.done::<SplitRecord>(&key)?.is_some(), hooks)?;
        let record = self.workspace.step(&key, |folder| {
            let split = images.get(hooks)?;
            let write = |name: &str, set: &crate::data::ImageSet, role: &str| {
                let all: Vec<usize> = (0..set.len()).collect();
                crate::data::splits::write_indices(&folder.join(name), set, &[(role, &all)])
            };
            write("forget.csv", &split.forget, "forget")?;
            write("retain.csv", &split.retain, "retain")?;
            write("probe.csv", &split.probe, "probe")?;
            Ok(split.record())
        })?;
        self.results.splits.push(SplitRow {
            dataset: entry.name.clone(),
            seed,
            images: [record.result.n_forget, record.result.n_retain, record.result.n_probe],
            classes: record.result.classes,
            forgetting: entry.forget_classes.clone(),
        });
        for &backbone in &self.harness.backbones {
            let column = Column { dataset: entry.name.clone(), backbone, seed, data: key.clone() };
            self.column(&column, &record.result, &mut images, hooks)?;
        }
        Ok(())
    }

    fn column(&mut self, column: &Column, record: &SplitRecord, images: &mut Lazy, hooks: &mut Hooks) -> Result<()> {
        let (harness, workspace, device) = (self.harness, self.workspace, self.device);
        let train = column.train_key(harness, record, device)?;
        self.tell(&train.name, workspace.done::<Trained>(&train)?.is_some(), hooks)?;
        let trained = workspace.step(&train, |folder| {
            let split = images.get(hooks)?;
            steps::train_original(column, &train, &harness.training(column.seed), split, folder, device, hooks)
        })?;
        let original = steps::model_file(&workspace.folder(&train));
        self.results.unlearned.push(UnlearnRow::original(
            column.row(),
            trained.result.train_accuracy,
            trained.result.test_accuracy,
        ));

        let stage_one = column.stage_one_key(harness, device)?;
        self.tell(&stage_one.name, workspace.done::<Attacked>(&stage_one)?.is_some(), hooks)?;
        workspace
            .step(&stage_one, |folder| steps::stage_one(column, harness, &original, images.get(hooks)?, folder, device, hooks))?;
        let stage_one_folder = workspace.folder(&stage_one);

        for name in &harness.methods {
            let method = unlearn::method(name)?;
            let start = Start { train: &train, original: &original, stage_one: &stage_one, stage_one_folder: &stage_one_folder };
            self.cell(column, method, record, &start, images, hooks)?;
        }
        Ok(())
    }

    fn cell(
        &mut self,
        column: &Column,
        method: &dyn Method,
        record: &SplitRecord,
        start: &Start,
        images: &mut Lazy,
        hooks: &mut Hooks,
    ) -> Result<()> {
        let (harness, workspace, device) = (self.harness, self.workspace, self.device);
        let Start { train, original, stage_one, stage_one_folder } = *start;
        let cell = harness.unlearning(&column.dataset, column.backbone, method, column.seed);
        let step = column.unlearn_key(method, &cell, train, device)?;
        self.tell(&step.name, workspace.done::<UnlearnedModel>(&step)?.is_some(), hooks)?;
        let made = workspace.step(&step, |folder| {
            let split = images.get(hooks)?;
            steps::unlearn(column, &step, method, &cell, original, split, folder, device, hooks)
        })?;
        let model = steps::model_file(&workspace.folder(&step));
        let trains = method.heeds().contains(&Setting::Train);
        let strength = made.result.strength.as_ref();
        let chosen = |setting: &str| strength.filter(|(name, _)| name == setting).map(|(_, value)| *value);
        let settings = &cell.settings;
        let rate = chosen("learning_rate").unwrap_or(settings.train.learning_rate);
        let forgetting = harness.datasets.iter().find(|entry| entry.name == column.dataset).map_or(1, |e| e.forget_classes.len());
        self.results.methods.push(MethodRow {
            dataset: column.dataset.clone(),
            backbone: column.backbone.to_string(),
            method: method.name().to_string(),
            seed: column.seed,
            per_class: record.n_forget / forgetting.max(1),
            training: trains.then_some((settings.train.epochs, rate)),
            alpha: method.heeds().contains(&Setting::Alpha).then(|| chosen("alpha").unwrap_or(settings.alpha)),
            calibrated: cell.calibrate.is_some(),
        });
        self.results.unlearned.push(UnlearnRow::of(
            column.row(),
            method.name(),
            &made.result.scores,
            made.result.strength.as_ref(),
        ));

        let attack = column.attack_key(harness, method, &step, stage_one)?;
        self.tell(&attack.name, workspace.done::<Attacked>(&attack)?.is_some(), hooks)?;
        let attacked = workspace.step(&attack, |folder| {
            let (split, variants) = (images.get(hooks)?, steps::variants(harness));
            let from = Some(stage_one_folder);
            steps::attack(column, harness, method.name(), &model, split, folder, from, &variants, device, hooks)
        })?;
        // What a resumed attack needs goes when it is done, and not before: whoever is killed in between has either the one or the other.
        let state = workspace.folder(&attack).join("state");
        if state.exists() {
            std::fs::remove_dir_all(&state).map_err(|error| Error::io(&state, &error))?;
        }
        self.results
            .cells
            .extend(attacked.result.records.into_iter().zip(attacked.result.right).map(|(record, right)| Cell { record, right }));
        Ok(())
    }
}

impl Column {
    fn row(&self) -> tables::Row<'_> {
        tables::Row { dataset: &self.dataset, backbone: self.backbone.to_string(), seed: self.seed }
    }
}
