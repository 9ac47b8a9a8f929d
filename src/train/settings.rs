//! [`TrainSettings`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schedule::Schedule;
use crate::error::{Error, Result};

/// Which way the loss is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Down: learning.
    #[default]
    Descend,
    /// Up: unlearning by gradient ascent. Weight decay still pulls towards zero (`maximize=True` of `torch.optim.SGD`).
    Ascend,
}

/// How a network is trained. Crops and mirror images are not here: they belong to the source of the images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSettings {
    /// How often every image is seen. 0 leaves the network as it is. Default 30.
    pub epochs: usize,
    /// Images in one step, 1 or more. Default 128.
    pub batch_size: usize,
    /// The learning rate at its highest, 0 or more. Default 0.1.
    pub learning_rate: f64,
    /// What is kept of the last step's direction, from 0 to below 1. Default 0.9.
    pub momentum: f64,
    /// How much of each parameter is added to its gradient, 0 or more. Default 5e-4.
    pub weight_decay: f64,
    /// Whether momentum looks ahead. Default false.
    pub nesterov: bool,
    /// How the learning rate falls. Default `{kind: cosine}`, down to 0.
    pub schedule: Schedule,
    /// Epochs at the beginning in which the learning rate climbs in a straight line. Default 0.
    pub warmup_epochs: usize,
    /// Which way the loss is driven. Default `descend`.
    pub direction: Direction,
    /// Whether images that do not fill a batch are left out (others in each epoch). A single image that remains is always left
    /// out, because one image has no batch statistics. Default false.
    pub drop_last: bool,
    /// Seeds the order of the images and everything that chance does to them. Default 0.
    pub seed: u64,
}

impl Default for TrainSettings {
    fn default() -> Self {
        TrainSettings {
            epochs: 30,
            batch_size: 128,
            learning_rate: 0.1,
            momentum: 0.9,
            weight_decay: 5e-4,
            nesterov: false,
            schedule: Schedule::Cosine { floor: 0.0 },
            warmup_epochs: 0,
            direction: Direction::Descend,
            drop_last: false,
            seed: 0,
        }
    }
}

impl TrainSettings {
    /// Refuses values outside the ranges of the fields' descriptions.
    ///
    /// # Errors
    /// Usage, naming the field.
    pub fn check(&self) -> Result<()> {
        let from_zero = |value: f64| value.is_finite() && value >= 0.0;
        let refuse = |field: &str, value: &dyn std::fmt::Display, range: &str| {
            Err(Error::usage(format!("{field} is {value}, it has to be {range}")))
        };
        if self.batch_size == 0 {
            return refuse("batch_size", &self.batch_size, "1 or more");
        }
        if !from_zero(self.learning_rate) {
            return refuse("learning_rate", &self.learning_rate, "0 or more");
        }
        if !(0.0..1.0).contains(&self.momentum) {
            return refuse("momentum", &self.momentum, "from 0 to below 1");
        }
        if !from_zero(self.weight_decay) {
            return refuse("weight_decay", &self.weight_decay, "0 or more");
        }
        if self.nesterov && self.momentum == 0.0 {
            return refuse("nesterov", &self.nesterov, "false without momentum");
        }
        match self.schedule {
            Schedule::Step { gamma, .. } if !from_zero(gamma) => refuse("schedule.gamma", &gamma, "0 or more"),
            Schedule::Cosine { floor } if !(0.0..=1.0).contains(&floor) => refuse("schedule.floor", &floor, "from 0 to 1"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn what_is_left_out_is_the_default() {
        let settings: TrainSettings = serde_yaml::from_str("{learning_rate: 0.01, direction: ascend}").unwrap();
        assert_eq!(settings, TrainSettings { learning_rate: 0.01, direction: Direction::Ascend, ..TrainSettings::default() });
        assert!(serde_yaml::from_str::<TrainSettings>("{learningrate: 0.01}").is_err());
        let written = serde_yaml::to_string(&settings).unwrap();
        assert_eq!(serde_yaml::from_str::<TrainSettings>(&written).unwrap(), settings);
    }

    #[test]
    fn values_out_of_range_are_named() {
        let default = TrainSettings::default;
        default().check().unwrap();
        let wrong = [
            ("batch_size", TrainSettings { batch_size: 0, ..default() }),
            ("learning_rate", TrainSettings { learning_rate: f64::NAN, ..default() }),
            ("learning_rate", TrainSettings { learning_rate: -0.1, ..default() }),
            ("momentum", TrainSettings { momentum: 1.0, ..default() }),
            ("weight_decay", TrainSettings { weight_decay: f64::INFINITY, ..default() }),
            ("nesterov", TrainSettings { nesterov: true, momentum: 0.0, ..default() }),
            ("schedule.floor", TrainSettings { schedule: Schedule::Cosine { floor: 2.0 }, ..default() }),
            ("schedule.gamma", TrainSettings { schedule: Schedule::Step { milestones: vec![], gamma: -1.0 }, ..default() }),
        ];
        for (field, settings) in wrong {
            let error = settings.check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.to_string().starts_with(field), "{error}");
        }
    }
}
