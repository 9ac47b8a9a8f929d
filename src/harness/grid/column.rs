//! One data set, seed and backbone: what its steps are called, and what their results depend on.

use serde::Serialize;

use super::config::{CellUnlearn, Harness};
use super::data::SplitRecord;
use super::plan::Target;
use super::store::Key;
use crate::attack::{AttackSettings, Variant};
use crate::error::{Error, Result};
use crate::graph::Computing;
use crate::nets::Backbone;
use crate::unlearn::{Method, Start};

fn json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(Error::unexpected)
}

/// One data set, seed and backbone.
#[derive(Debug, Clone)]
pub(super) struct Column {
    /// The data set's place in the file.
    pub entry: usize,
    /// Its name.
    pub dataset: String,
    pub backbone: Backbone,
    pub seed: u64,
    /// The step that read the images, and what it found.
    pub data: Key,
    pub record: SplitRecord,
    /// How images are turned into numbers, as JSON.
    adapter: String,
}

impl Column {
    pub(super) fn new(
        harness: &Harness,
        entry: usize,
        backbone: Backbone,
        seed: u64,
        data: Key,
        record: SplitRecord,
    ) -> Result<Column> {
        let found = harness.datasets.get(entry).ok_or_else(|| Error::unexpected("a data set that is not in the grid"))?;
        let (dataset, adapter) = (found.name.clone(), json(&found.adapter())?);
        Ok(Column { entry, dataset, backbone, seed, data, record, adapter })
    }

    fn name(&self, what: &str) -> String {
        format!("{what}-{}-{}-{}", self.dataset, self.backbone, self.seed)
    }

    /// What a step reads of the images: sets by their content, wherever they lie, and how they are turned into numbers.
    fn reads(&self, sets: &[&String]) -> Result<String> {
        json(&(sets, &self.record.shape, self.record.classes, &self.adapter))
    }

    /// The step that trains the original model.
    pub(super) fn train_key(&self, harness: &Harness, computing: Computing) -> Result<Key> {
        let record = &self.record;
        let images = self.reads(&[&record.train_sha256, &record.probe_sha256])?;
        let settings = json(&harness.training(self.seed))?;
        Ok(Key::new(self.name("train"), &[&images, &settings, &computing.name()]))
    }

    /// The step that trains a model on the probing set alone.
    pub(super) fn probe_only_key(&self, harness: &Harness, computing: Computing) -> Result<Key> {
        let settings = json(&harness.training(self.seed))?;
        Ok(Key::new(self.name("probe-only"), &[&self.scored()?, &settings, &computing.name()]))
    }

    /// The step that unlearns. Retraining does not depend on the original.
    pub(super) fn unlearn_key(&self, method: &dyn Method, cell: &CellUnlearn, train: &Key, computing: Computing) -> Result<Key> {
        let start = if method.needs().start == Start::Fresh { "" } else { &train.hash };
        let name = self.name(&format!("unlearn-{}", method.name().to_lowercase()));
        Ok(Key::new(name, &[start, &self.scored()?, &json(cell)?, &computing.name()]))
    }

    /// The sets on which unlearned models are scored.
    fn scored(&self) -> Result<String> {
        let record = &self.record;
        self.reads(&[&record.retain_sha256, &record.forget_sha256, &record.probe_sha256])
    }

    /// The attack's settings in this column.
    pub(super) fn attack(&self, harness: &Harness) -> AttackSettings {
        AttackSettings { seed: self.seed, backbone: self.backbone, ..harness.attack.clone() }
    }

    /// The settings that stage 1 depends on: not on what is attacked, nor on the settings of stage 2.
    pub(super) fn stage_one(&self, harness: &Harness) -> AttackSettings {
        let settings = self.attack(harness);
        let defaults = AttackSettings::default();
        AttackSettings {
            mutual: defaults.mutual,
            iterations: 0,
            patience: defaults.patience,
            stop: defaults.stop,
            confidence_threshold: defaults.confidence_threshold,
            disagreement_share: defaults.disagreement_share,
            mixup_alpha: defaults.mixup_alpha,
            variant: Variant::P,
            ..settings
        }
    }

    /// The step that pretrains the attack model.
    pub(super) fn stage_one_key(&self, harness: &Harness, computing: Computing) -> Result<Key> {
        let (images, settings) = (self.reads(&[&self.record.probe_sha256])?, json(&self.stage_one(harness))?);
        Ok(Key::new(self.name("stage-one"), &[&images, &settings, &computing.name()]))
    }

    /// The step that attacks one model.
    pub(super) fn attack_key(&self, harness: &Harness, target: Target, model: &Key, stage_one: &Key) -> Result<Key> {
        let name = self.name(&format!("attack-{}", target.name().to_lowercase()));
        let settings = json(&(self.attack(harness), variants(harness), harness.features))?;
        Ok(Key::new(name, &[&model.hash, &stage_one.hash, &self.record.forget_sha256, &settings]))
    }

    /// The settings that self-training depends on. The sets' share and threshold do not matter: it never disagrees.
    pub(super) fn self_training(&self, harness: &Harness) -> AttackSettings {
        let defaults = AttackSettings::default();
        AttackSettings {
            variant: Variant::PA,
            confidence_threshold: defaults.confidence_threshold,
            disagreement_share: defaults.disagreement_share,
            ..self.attack(harness)
        }
    }

    /// The step that lets the pretrained attack model teach itself.
    pub(super) fn self_training_key(&self, harness: &Harness, stage_one: &Key) -> Result<Key> {
        let settings = json(&self.self_training(harness))?;
        Ok(Key::new(self.name("self-training"), &[&stage_one.hash, &self.record.forget_sha256, &settings]))
    }
}

/// Whether any attack has a teacher, whose place self-training could take.
pub(super) fn taught(harness: &Harness) -> bool {
    variants(harness).iter().any(|variant| *variant != Variant::P)
}

/// The variants of the attack that a grid runs.
pub(super) fn variants(harness: &Harness) -> Vec<Variant> {
    if harness.ablation { Variant::ABLATION.to_vec() } else { vec![harness.attack.variant] }
}
