//! GA: gradient ascent (Graves et al. 2021; Thudi et al. 2022).

use super::{Method, Needs, Sets, Start};
use crate::error::Result;
use crate::train::{Control, Direction, History, Network, Schedule, TrainSettings, fit};

/// Drives the cross-entropy on the forget set up for a few epochs. Nothing holds the rest of the network in place, so the
/// learning rate decides how much of it survives: see [`calibrate_ga`](super::calibrate_ga).
pub(super) struct GradientAscent;

impl Method for GradientAscent {
    fn name(&self) -> &'static str {
        "GA"
    }

    fn summary(&self) -> &'static str {
        "drives the loss on the forget set up"
    }

    fn needs(&self) -> Needs {
        Needs { start: Start::Original, retain: false, forget: true }
    }

    fn defaults(&self) -> TrainSettings {
        TrainSettings {
            epochs: 4,
            learning_rate: 1e-4,
            schedule: Schedule::Constant {},
            direction: Direction::Ascend,
            ..TrainSettings::default()
        }
    }

    fn run(&self, network: &dyn Network, sets: &Sets, settings: &TrainSettings, control: &mut Control) -> Result<History> {
        let settings = TrainSettings { direction: Direction::Ascend, ..settings.clone() };
        fit(network, sets.forget(self)?, &settings, control)
    }
}
