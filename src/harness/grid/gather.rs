//! From finished steps to what the tables are made of.

use super::column::Column;
use super::config::Harness;
use super::plan::{PROBE_ONLY, Plan, Step, Work};
use super::steps::{Attacked, Trained, UnlearnedModel};
use super::store::Workspace;
use crate::error::{Error, Result};
use crate::report::grid::{Cell, MethodRow, Results, Row, SplitRow, UnlearnRow};
use crate::unlearn::{Method, Setting};

/// Reads what all steps left, in the plan's order.
pub(super) fn gather(harness: &Harness, workspace: &Workspace, plan: &Plan) -> Result<Results> {
    let mut results = Results::default();
    let mut split = None;
    for (place, column) in plan.columns.iter().enumerate() {
        // Backbones share a split.
        if split.replace(&column.data) != Some(&column.data) {
            results.splits.push(split_row(harness, column));
        }
        for step in plan.steps.iter().filter(|step| step.column == place) {
            add(harness, workspace, column, step, &mut results)?;
        }
    }
    Ok(results)
}

fn add(harness: &Harness, workspace: &Workspace, column: &Column, step: &Step, results: &mut Results) -> Result<()> {
    let missing = || Error::unexpected("is not done after all").at(&step.key.name);
    match step.work {
        Work::Original => {
            let trained = workspace.done::<Trained>(&step.key)?.ok_or_else(missing)?.result;
            let row = UnlearnRow::original(column.row(), trained.train_accuracy, trained.test_accuracy);
            results.unlearned.push(row);
        }
        Work::ProbeOnly => {
            let made = workspace.done::<UnlearnedModel>(&step.key)?.ok_or_else(missing)?.result;
            results.unlearned.push(UnlearnRow::of(column.row(), PROBE_ONLY, &made.scores, None));
        }
        Work::Unlearn { method, .. } => {
            let made = workspace.done::<UnlearnedModel>(&step.key)?.ok_or_else(missing)?.result;
            let strength = made.strength.as_ref();
            results.methods.push(method_row(harness, column, method, strength));
            results.unlearned.push(UnlearnRow::of(column.row(), method.name(), &made.scores, strength));
        }
        // It is part of every attack.
        Work::StageOne { .. } => {}
        Work::SelfTraining { .. } | Work::Attack { .. } => {
            let attacked = workspace.done::<Attacked>(&step.key)?.ok_or_else(missing)?.result;
            let folder = format!("steps/{}", step.key.folder());
            let cells = attacked.records.into_iter().zip(attacked.right);
            results.cells.extend(cells.map(|(record, right)| Cell { record, right, folder: folder.clone() }));
            results.notes.extend(attacked.notes.iter().map(|note| format!("{}: {note}", step.key.name)));
        }
    }
    Ok(())
}

fn split_row(harness: &Harness, column: &Column) -> SplitRow {
    SplitRow {
        dataset: column.dataset.clone(),
        seed: column.seed,
        images: [column.record.n_forget, column.record.n_retain, column.record.n_probe],
        classes: column.record.classes,
        forgetting: harness.datasets.get(column.entry).map_or_else(Vec::new, |entry| entry.forget_classes.clone()),
    }
}

fn method_row(harness: &Harness, column: &Column, method: &dyn Method, strength: Option<&(String, f64)>) -> MethodRow {
    let cell = harness.unlearning(&column.dataset, column.backbone, method, column.seed);
    let chosen = |setting: &str| strength.filter(|(name, _)| name == setting).map(|(_, value)| *value);
    let settings = &cell.settings;
    let rate = chosen("learning_rate").unwrap_or(settings.train.learning_rate);
    let forgetting = harness.datasets.get(column.entry).map_or(1, |entry| entry.forget_classes.len());
    let trains = method.heeds().contains(&Setting::Train);
    MethodRow {
        dataset: column.dataset.clone(),
        backbone: column.backbone.to_string(),
        method: method.name().to_string(),
        seed: column.seed,
        per_class: column.record.n_forget / forgetting.max(1),
        training: trains.then_some((settings.train.epochs, rate)),
        alpha: method.heeds().contains(&Setting::Alpha).then(|| chosen("alpha").unwrap_or(settings.alpha)),
        calibrated: cell.calibrate.is_some(),
    }
}

impl Column {
    fn row(&self) -> Row<'_> {
        Row { dataset: &self.dataset, backbone: self.backbone.to_string(), seed: self.seed }
    }
}
