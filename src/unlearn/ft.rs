//! FT: fine-tuning (Warnecke et al. 2021; Golatkar et al. 2020, as a baseline).

use super::{Method, Needs, Sets, Setting, Start, UnlearnSettings, Unlearned};
use crate::error::Result;
use crate::train::{Control, Direction, Network, TrainSettings, fit};

/// Trains the original model further on the retain set alone, at a learning rate that is high enough to forget the rest.
pub(super) struct FineTune;

impl Method for FineTune {
    fn name(&self) -> &'static str {
        "FT"
    }

    fn summary(&self) -> &'static str {
        "trains on, on the retain set alone"
    }

    fn needs(&self) -> Needs {
        Needs { start: Start::Original, retain: true, forget: false }
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
