//! GA: gradient ascent (Graves et al. 2021; Thudi et al. 2022).

use super::{Method, Needs, Sets, Setting, Start, UnlearnSettings, Unlearned};
use crate::error::Result;
use crate::train::{Control, Direction, Network, Schedule, TrainSettings, fit};

/// Drives the cross-entropy on the forget set up for a few epochs. Nothing holds the rest of the network in place, so the
/// learning rate decides how much of it survives: see [`calibrate`](super::calibrate()).
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

    fn heeds(&self) -> &'static [Setting] {
        &[Setting::Train]
    }

    fn tuned(&self) -> Option<Setting> {
        Some(Setting::LearningRate)
    }

    fn candidates(&self) -> &'static [f64] {
        &[1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2]
    }

    fn defaults(&self) -> UnlearnSettings {
        let train = TrainSettings {
            epochs: 4,
            learning_rate: 1e-4,
            schedule: Schedule::Constant {},
            direction: Direction::Ascend,
            ..TrainSettings::default()
        };
        UnlearnSettings { train, ..UnlearnSettings::default() }
    }

    fn run(&self, network: &dyn Network, sets: &Sets, settings: &UnlearnSettings, control: &mut Control) -> Result<Unlearned> {
        let settings = TrainSettings { direction: Direction::Ascend, ..settings.train.clone() };
        Ok(fit(network, sets.forget(self)?, &settings, control)?.into())
    }
}
