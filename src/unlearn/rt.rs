//! RT: retraining from scratch, the yardstick of the others.

use super::{Method, Needs, Sets, Start};
use crate::error::Result;
use crate::train::{Control, Direction, History, Network, TrainSettings, fit};

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

    fn defaults(&self) -> TrainSettings {
        TrainSettings { epochs: 100, learning_rate: 0.1, ..TrainSettings::default() }
    }

    fn run(&self, network: &dyn Network, sets: &Sets, settings: &TrainSettings, control: &mut Control) -> Result<History> {
        let settings = TrainSettings { direction: Direction::Descend, ..settings.clone() };
        fit(network, sets.retain(self)?, &settings, control)
    }
}
