//! Every setting of the attack, with the paper's values as defaults where it prints them.

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::attack::sets::Selection;
use crate::attack::stopping::StopRule;
use crate::error::{Error, Result};
use crate::nets::Backbone;
use crate::train::{Direction, Schedule, TrainSettings};

/// How far the attack goes: the paper's ablation (Tables 3, A4, A5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
pub enum Variant {
    /// The attack model after stage 1 only: what the probing set alone teaches.
    #[serde(rename = "P")]
    P,
    /// The attack model learns from what it says itself, and the unlearned model has no part in it: self-training, a control that the paper
    /// does not have. Where CMIRA's teachers agree or disagree, here the one teacher agrees with itself on every image. No attack, and so no
    /// setting.
    #[serde(rename = "P+A", skip_deserializing)]
    PA,
    /// The attack model learns from the unlearned model, which stays as it is.
    #[serde(rename = "P+U")]
    PU,
    /// Both models teach each other: CMIRA.
    #[default]
    #[serde(rename = "P+U+A")]
    PUA,
}

impl Variant {
    /// All variants, the most of the attack last.
    pub const ALL: [Variant; 4] = [Variant::P, Variant::PA, Variant::PU, Variant::PUA];

    /// The paper's ablation, in its order.
    pub const ABLATION: [Variant; 3] = [Variant::P, Variant::PU, Variant::PUA];

    /// The paper's name.
    pub fn name(self) -> &'static str {
        match self {
            Variant::P => "P",
            Variant::PA => "P+A",
            Variant::PU => "P+U",
            Variant::PUA => "P+U+A",
        }
    }

    /// The same in words, for who waits for it.
    pub fn about(self) -> &'static str {
        match self {
            Variant::P => "P, what the probing images alone teach",
            Variant::PA => "P+A, the attack model teaches itself",
            Variant::PU => "P+U, the unlearned model teaches the attack model",
            Variant::PUA => "P+U+A, both models teach each other",
        }
    }
}

/// Every setting of the attack. An unknown key in a settings file is refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AttackSettings {
    /// Seeds initial weights, data order, augmentation and mixup. The same seed gives the same results on the CPU.
    pub seed: u64,
    /// The attack model's backbone.
    pub backbone: Backbone,
    /// Width of the attack model's two-layer head.
    pub head_width: usize,
    /// The factor between the 1-Lipschitz head and the softmax. It is fixed, not learned: with every matrix at spectral norm one the
    /// logits would be too small to learn from, and weight decay drives a learned factor to zero. The default was chosen by the
    /// accuracy of stage 1 on held-out probing images, never by the attack's outcome (`docs/results/stage-one.md`).
    pub logit_scale: f64,
    /// Whether every weight matrix of the attack model is divided by its spectral norm.
    pub spectral_norm: bool,
    /// Share of the probing set that stage 1 does not see and is scored on, in `0..1`. 0 trains on all of it, as in the paper.
    pub probe_holdout: f64,
    /// Stage 1: training of the attack model on the probing set. The paper: 200 epochs of SGD at learning rate 0.01.
    #[serde(deserialize_with = "pretrain")]
    pub pretrain: TrainSettings,
    /// Stage 2: training of either model within one iteration. The paper: 10 epochs at learning rate 0.001.
    #[serde(deserialize_with = "mutual")]
    pub mutual: TrainSettings,
    /// Whether training images are cropped at random and mirrored, in both stages. Not printed in the paper.
    pub augment: bool,
    /// The greatest number of iterations of stage 2. The paper: 200.
    pub iterations: usize,
    /// Stage 2 ends when the watched figure has not improved for this many iterations. The paper: 7.
    pub patience: usize,
    /// Which figure is watched.
    pub stop: StopRule,
    /// tau: the least confidence of a teacher for the disagreement set, in `0..=1`. Not printed in the paper. The default asks
    /// that a teacher holds its class for likelier than all others together; models that learn from mixtures of images are
    /// seldom surer than that, and with 0.9 the sets run empty within a few iterations.
    pub confidence_threshold: f32,
    /// The greatest share of the disagreeing images in each disagreement set, in `0..=1`. Not printed in the paper.
    pub disagreement_share: f64,
    /// alpha of Beta(alpha, alpha), from which mixup draws its ratio. 0 switches mixup off. Not printed in the paper.
    pub mixup_alpha: f64,
    /// How far the attack goes.
    pub variant: Variant,
}

impl Default for AttackSettings {
    fn default() -> Self {
        let common = TrainSettings { momentum: 0.9, weight_decay: 5e-4, batch_size: 128, ..TrainSettings::default() };
        let constant = Schedule::Constant {};
        AttackSettings {
            seed: 0,
            backbone: Backbone::Resnet18,
            head_width: 128,
            logit_scale: 5.0,
            spectral_norm: true,
            probe_holdout: 0.0,
            pretrain: TrainSettings { epochs: 200, learning_rate: 0.01, ..common.clone() },
            mutual: TrainSettings { epochs: 10, learning_rate: 0.001, schedule: constant, ..common },
            augment: true,
            iterations: 200,
            patience: 7,
            stop: StopRule::Agreement,
            confidence_threshold: 0.5,
            disagreement_share: 0.1,
            mixup_alpha: 0.75,
            variant: Variant::PUA,
        }
    }
}

fn pretrain<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<TrainSettings, D::Error> {
    over("pretrain", AttackSettings::default().pretrain, deserializer)
}

fn mutual<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<TrainSettings, D::Error> {
    over("mutual", AttackSettings::default().mutual, deserializer)
}

/// Settings of one stage, in which what is left out keeps that stage's default, not the training loop's.
fn over<'de, D: Deserializer<'de>>(
    stage: &str,
    default: TrainSettings,
    deserializer: D,
) -> std::result::Result<TrainSettings, D::Error> {
    let given = serde_yaml::Mapping::deserialize(deserializer)?;
    let mut all = match serde_yaml::to_value(default).map_err(D::Error::custom)? {
        serde_yaml::Value::Mapping(all) => all,
        _ => return Err(D::Error::custom("settings are no mapping")),
    };
    all.extend(given);
    serde_yaml::from_value(serde_yaml::Value::Mapping(all)).map_err(|error| D::Error::custom(format!("{stage}: {error}")))
}

impl AttackSettings {
    /// Refuses values that make no sense, naming the key.
    ///
    /// # Errors
    /// Usage.
    pub fn validate(&self) -> Result<()> {
        let share = |key: &str, value: f64| match value {
            v if (0.0..=1.0).contains(&v) => Ok(()),
            v => Err(Error::usage(format!("{key} is {v}, which is not in 0..=1"))),
        };
        share("confidence_threshold", f64::from(self.confidence_threshold))?;
        share("disagreement_share", self.disagreement_share)?;
        share("probe_holdout", self.probe_holdout)?;
        if self.probe_holdout >= 1.0 {
            return Err(Error::usage("probe_holdout leaves nothing to train on"));
        }
        if !(self.mixup_alpha >= 0.0 && self.mixup_alpha.is_finite()) {
            return Err(Error::usage(format!("mixup_alpha is {}, which is not a number of at least 0", self.mixup_alpha)));
        }
        if !(self.logit_scale > 0.0 && self.logit_scale.is_finite()) {
            return Err(Error::usage(format!("logit_scale is {}, which is not a positive number", self.logit_scale)));
        }
        for (stage, plan) in [("pretrain", &self.pretrain), ("mutual", &self.mutual)] {
            plan.check().map_err(|e| e.at(stage))?;
            if plan.seed != 0 {
                return Err(Error::usage("seed is set here, but all seeds of the attack follow from its own").at(stage));
            }
            if plan.direction != Direction::Descend {
                return Err(Error::usage("direction is ascend, but the attack only learns").at(stage));
            }
        }
        if self.head_width == 0 || self.patience == 0 {
            return Err(Error::usage("head_width and patience must be at least 1"));
        }
        Ok(())
    }

    /// How disagreement sets are chosen.
    pub fn selection(&self) -> Selection {
        Selection { confidence_threshold: self.confidence_threshold, share: self.disagreement_share }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(text: &str) -> serde_yaml::Result<AttackSettings> {
        serde_yaml::from_str(text)
    }

    #[test]
    fn every_key_left_out_of_a_stage_keeps_that_stages_default() {
        let default = AttackSettings::default();
        let given = parse("pretrain: {epochs: 7}\nmutual: {batch_size: 9}").unwrap();
        let pretrain = TrainSettings { epochs: 7, ..default.pretrain.clone() };
        let mutual = TrainSettings { batch_size: 9, ..default.mutual.clone() };
        assert_eq!(given, AttackSettings { pretrain, mutual, ..default.clone() });
        assert_eq!(parse(&serde_yaml::to_string(&given).unwrap()).unwrap(), given);
        assert_eq!(parse("{}").unwrap(), default);
    }

    #[test]
    fn unknown_keys_are_refused_with_their_line() {
        let error = parse("seed: 1\npretrain:\n  epoch: 7\n").unwrap_err();
        assert!(error.to_string().contains("pretrain: unknown field `epoch`"), "{error}");
        assert!(error.location().is_some(), "{error}");
        assert!(parse("sed: 1").is_err());
        assert!(parse("variant: P+U").is_ok() && parse("variant: P+A").is_err());
    }

    #[test]
    fn what_a_stage_would_ignore_is_refused() {
        for (text, named) in [("mutual: {seed: 3}", "seed"), ("pretrain: {direction: ascend}", "direction")] {
            let error = parse(text).unwrap().validate().unwrap_err();
            assert!(error.to_string().contains(named), "{error}");
        }
    }
}
