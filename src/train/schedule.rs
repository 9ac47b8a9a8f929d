//! Learning rates over time.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the learning rate falls. Steps are optimiser steps; with S steps an epoch, epoch e begins at step e S.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Schedule {
    /// It does not.
    Constant {},
    /// It is multiplied by `gamma` at the beginning of each of the epochs in `milestones`, counted from 0
    /// (`torch.optim.lr_scheduler.MultiStepLR`).
    Step {
        /// Epochs, in any order, warm-up included.
        milestones: Vec<usize>,
        /// The factor, usually 0.1.
        #[serde(default = "tenth")]
        gamma: f64,
    },
    /// It follows half a cosine from 1 to `floor` times the learning rate, from the end of the warm-up to the end of the last
    /// epoch, step by step (Loshchilov and Hutter 2017, without restarts; `torch.optim.lr_scheduler.CosineAnnealingLR`).
    Cosine {
        /// From 0 to 1.
        #[serde(default)]
        floor: f64,
    },
}

fn tenth() -> f64 {
    0.1
}

/// The extent of a training, in steps and epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Optimiser steps in an epoch, 1 or more.
    pub steps_per_epoch: usize,
    /// Epochs in all.
    pub epochs: usize,
    /// Epochs at the beginning in which the rate climbs in a straight line, reaching its full height at their last step.
    pub warmup_epochs: usize,
}

impl Schedule {
    /// By what the learning rate is multiplied at `step`, counted from 0 over all epochs.
    pub fn factor(&self, step: usize, extent: Extent) -> f64 {
        let warmup = extent.warmup_epochs.saturating_mul(extent.steps_per_epoch);
        if step < warmup {
            return (step + 1) as f64 / warmup as f64;
        }
        match self {
            Schedule::Constant {} => 1.0,
            Schedule::Step { milestones, gamma } => {
                let epoch = step / extent.steps_per_epoch.max(1);
                milestones.iter().filter(|milestone| **milestone <= epoch).fold(1.0, |factor, _| factor * gamma)
            }
            Schedule::Cosine { floor } => {
                let length = extent.epochs.saturating_mul(extent.steps_per_epoch).saturating_sub(warmup).max(1);
                let progress = (step - warmup) as f64 / length as f64;
                floor + (1.0 - floor) * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos()) / 2.0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    // All rates below are those of PyTorch 2.11 at a base rate of 0.1, its scheduler being stepped after every optimiser step.
    fn check(schedule: &Schedule, extent: Extent, expected: &[f64]) {
        for (step, expected) in expected.iter().enumerate() {
            let rate = 0.1 * schedule.factor(step, extent);
            assert!((rate - expected).abs() < 1e-12, "step {step}: {rate} is not {expected}");
        }
    }

    #[test]
    fn cosine_as_in_pytorch() {
        // CosineAnnealingLR(T_max=8, eta_min=0.001)
        let expected = [
            0.1,
            0.0962320368593087,
            0.0855017856687341,
            0.06944282990207196,
            0.0505,
            0.03155717009792806,
            0.0154982143312659,
            0.004767963140691306,
        ];
        check(&Schedule::Cosine { floor: 0.01 }, Extent { steps_per_epoch: 2, epochs: 4, warmup_epochs: 0 }, &expected);
    }

    #[test]
    fn milestones_as_in_pytorch() {
        // MultiStepLR([2, 3], gamma=0.1), one step an epoch; then two steps an epoch.
        let schedule = Schedule::Step { milestones: vec![3, 2], gamma: 0.1 };
        let extent = Extent { steps_per_epoch: 1, epochs: 4, warmup_epochs: 0 };
        check(&schedule, extent, &[0.1, 0.1, 0.01, 0.001]);
        check(&schedule, Extent { steps_per_epoch: 2, ..extent }, &[0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]);
    }

    #[test]
    fn warm_up_as_in_pytorch() {
        // SequentialLR([LinearLR(start_factor=1/4, total_iters=3), CosineAnnealingLR(T_max=6)], milestones=[4])
        let expected = [0.025, 0.05, 0.075, 0.1, 0.1, 0.09330127018922195, 0.075, 0.05, 0.025, 0.006698729810778065];
        check(&Schedule::Cosine { floor: 0.0 }, Extent { steps_per_epoch: 2, epochs: 5, warmup_epochs: 2 }, &expected);
        check(&Schedule::Constant {}, Extent { steps_per_epoch: 2, epochs: 5, warmup_epochs: 1 }, &[0.05, 0.1, 0.1, 0.1]);
    }

    #[test]
    fn settings_are_read_strictly() {
        let read = |text: &str| serde_yaml::from_str::<Schedule>(text);
        assert_eq!(read("{kind: constant}").unwrap(), Schedule::Constant {});
        assert_eq!(read("{kind: cosine}").unwrap(), Schedule::Cosine { floor: 0.0 });
        assert_eq!(read("{kind: step, milestones: [3]}").unwrap(), Schedule::Step { milestones: vec![3], gamma: 0.1 });
        for wrong in ["{kind: constant, gamma: 1}", "{kind: cosine, flor: 0.1}", "{kind: linear}", "{kind: step}"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
