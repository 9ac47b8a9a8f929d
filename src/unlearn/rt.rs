//! RT: retraining from scratch, the yardstick of the others.

use super::{Method, Needs, Sets, Setting, Start, UnlearnSettings, Unlearned};
use crate::error::Result;
use crate::train::{Control, Direction, Network, TrainSettings, fit};

/// Trains a freshly initialised network on the retain set alone: the forget set has never been seen.
pub(super) struct Retrain;

impl Method for Retrain {
    fn name(&self) -> &'static str {
        "RT"
    }

    fn summary(&self) -> &'static str {
        "retrains from scratch on the retain set"
    }

    fn needs(&self) -> Needs {
        Needs { start: Start::Fresh, retain: true, forget: false }
    }

    fn heeds(&self) -> &'static [Setting] {
        &[Setting::Train]
    }

    fn defaults(&self) -> UnlearnSettings {
        let train = TrainSettings { epochs: 100, learning_rate: 0.1, ..TrainSettings::default() };
        UnlearnSettings { train, ..UnlearnSettings::default() }
    }

    fn run(&self, network: &dyn Network, sets: &Sets, settings: &UnlearnSettings, control: &mut Control) -> Result<Unlearned> {
        let settings = TrainSettings { direction: Direction::Descend, ..settings.train.clone() };
        Ok(fit(network, sets.retain(self)?, &settings, control)?.into())
    }
}
