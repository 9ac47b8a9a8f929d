//! When the attack ends: the watched figure has not improved for a number of iterations.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which figure is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StopRule {
    /// The share of forget images on which both models agree. Needs no labels, so it is the default of an audit.
    #[default]
    Agreement,
    /// The attack model's accuracy on the forget set, as in the paper. Needs the true labels, which a real attacker has not.
    Oracle,
}

/// Why the attack ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The watched figure had not improved for the set number of iterations.
    Patience,
    /// The greatest number of iterations was reached.
    Iterations,
    /// The variant has no second stage.
    NoMutualStage,
}

impl StopReason {
    /// The reason that results call so.
    pub fn named(name: &str) -> Option<StopReason> {
        [StopReason::Patience, StopReason::Iterations, StopReason::NoMutualStage].into_iter().find(|one| one.to_string() == name)
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StopReason::Patience => "patience",
            StopReason::Iterations => "iterations",
            StopReason::NoMutualStage => "no_mutual_stage",
        })
    }
}

/// Watches one figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Stopper {
    patience: usize,
    best: f64,
    since_best: usize,
}

impl Stopper {
    /// Starts with the figure before the first iteration.
    pub fn new(patience: usize, start: f64) -> Stopper {
        Stopper { patience, best: start, since_best: 0 }
    }

    /// Takes the figure of the iteration that just ended; true when it is time to stop. Only a strict improvement counts.
    pub fn stop_after(&mut self, figure: f64) -> bool {
        if figure > self.best {
            self.best = figure;
            self.since_best = 0;
        } else {
            self.since_best += 1;
        }
        self.since_best >= self.patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_after_patience_without_improvement() {
        let mut stopper = Stopper::new(3, 0.5);
        let figures = [0.6, 0.6, 0.59, 0.61, 0.61, 0.61, 0.61];
        let stops: Vec<bool> = figures.iter().map(|&f| stopper.stop_after(f)).collect();
        assert_eq!(stops, [false, false, false, false, false, false, true]);
    }
}
