//! A grid as a list of steps with their keys, and what each needs. Whoever runs them, in whichever order, gets the same results.

use super::column::{Column, taught};
use super::config::Harness;
use super::data::SplitRecord;
use super::store::Key;
use crate::error::Result;
use crate::graph::Computing;
use crate::unlearn::{self, Method, Start};

/// Which model an attack is on.
#[derive(Clone, Copy)]
pub(super) enum Target {
    /// One that a method unlearned.
    Unlearned(&'static dyn Method),
    /// One that was trained on the probing set and knows nothing else.
    ProbeOnly,
}

impl Target {
    /// What tables call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Target::Unlearned(method) => method.name(),
            Target::ProbeOnly => PROBE_ONLY,
        }
    }
}

/// What tables call a model that was trained on the probing set alone.
pub(super) const PROBE_ONLY: &str = crate::report::verdict::PROBE_ONLY;

/// What a step does. Numbers are places of other steps in the plan.
#[derive(Clone, Copy)]
pub(super) enum Work {
    /// Trains an original model on D_t.
    Original,
    /// Trains a model on D_p alone, as original models are trained.
    ProbeOnly,
    /// Pretrains the attack model.
    StageOne { original: usize },
    /// Lets the pretrained attack model teach itself.
    SelfTraining { original: usize, stage_one: usize },
    /// Unlearns; `from` is the original model, and for retraining none.
    Unlearn { method: &'static dyn Method, from: Option<usize> },
    /// Attacks.
    Attack { target: Target, model: usize, stage_one: usize },
}

impl Work {
    /// The steps that have to be done before.
    pub(super) fn needs(self) -> Vec<usize> {
        match self {
            Work::Original | Work::ProbeOnly => Vec::new(),
            Work::StageOne { original } => vec![original],
            Work::SelfTraining { original, stage_one } => vec![original, stage_one],
            Work::Unlearn { from, .. } => from.into_iter().collect(),
            Work::Attack { model, stage_one, .. } => vec![model, stage_one],
        }
    }
}

/// One step.
pub(super) struct Step {
    /// Its name, and a hash of what its result depends on.
    pub key: Key,
    /// Its place in the list of columns.
    pub column: usize,
    /// What it does.
    pub work: Work,
}

/// All steps of a grid but those that read images, which come before: keys depend on what was read.
pub(super) struct Plan {
    /// Every data set, seed and backbone.
    pub columns: Vec<Column>,
    /// What has to be done, so that no step comes before one that it needs.
    pub steps: Vec<Step>,
}

/// How many steps a grid has for a data set and seed, apart from reading its images.
pub(super) fn steps_per_split(harness: &Harness) -> usize {
    harness.backbones.len() * (4 + usize::from(taught(harness)) + 2 * harness.methods.len())
}

impl Plan {
    /// Lists the steps; `splits` are the data sets as the seeds split them, with the place of each in the file.
    pub(super) fn of(harness: &Harness, splits: &[(usize, u64, Key, SplitRecord)], computing: Computing) -> Result<Plan> {
        let mut plan = Plan { columns: Vec::new(), steps: Vec::new() };
        for (entry, seed, data, record) in splits {
            for &backbone in &harness.backbones {
                plan.column(harness, Column::new(harness, *entry, backbone, *seed, data.clone(), record.clone())?, computing)?;
            }
        }
        Ok(plan)
    }

    fn column(&mut self, harness: &Harness, column: Column, computing: Computing) -> Result<()> {
        let place = self.columns.len();
        let steps = &mut self.steps;
        let mut add = |key: Key, work: Work| {
            steps.push(Step { key, column: place, work });
            steps.len() - 1
        };
        let train = column.train_key(harness, computing)?;
        let original = add(train.clone(), Work::Original);
        let first = column.stage_one_key(harness, computing)?;
        let stage_one = add(first.clone(), Work::StageOne { original });
        for name in &harness.methods {
            let method = unlearn::method(name)?;
            let cell = harness.unlearning(&column.dataset, column.backbone, method, column.seed);
            let key = column.unlearn_key(method, &cell, &train, computing)?;
            let from = (method.needs().start == Start::Original).then_some(original);
            let model = add(key.clone(), Work::Unlearn { method, from });
            let target = Target::Unlearned(method);
            add(column.attack_key(harness, target, &key, &first)?, Work::Attack { target, model, stage_one });
        }
        let key = column.probe_only_key(harness, computing)?;
        let model = add(key.clone(), Work::ProbeOnly);
        let target = Target::ProbeOnly;
        add(column.attack_key(harness, target, &key, &first)?, Work::Attack { target, model, stage_one });
        if taught(harness) {
            add(column.self_training_key(harness, &first)?, Work::SelfTraining { original, stage_one });
        }
        self.columns.push(column);
        Ok(())
    }
}
