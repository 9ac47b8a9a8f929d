//! How strong a method should be, told by the retain set alone.

use serde::Serialize;

use super::{Method, Sets, Setting, UnlearnSettings, Unlearned};
use crate::error::{Error, ErrorKind, Result};
use crate::graph::State;
use crate::train::evaluate::accuracy;
use crate::train::{Control, Network, TrainSettings};

/// One strength that was tried.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Candidate {
    /// The learning rate, or alpha.
    pub strength: f64,
    /// Top-1 accuracy on the retain set after unlearning, in percent; none when it failed.
    pub retain_accuracy: Option<f64>,
    /// Why it failed, such as a loss that became infinite.
    pub failure: Option<String>,
}

/// How a strength was chosen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Calibration {
    /// What was calibrated: `learning_rate` or `alpha`.
    pub setting: &'static str,
    /// The original network's top-1 accuracy on the retain set, in percent.
    pub original_accuracy: f64,
    /// How many points of it may be lost.
    pub margin: f64,
    /// Everything that was tried, from the weakest to the strongest.
    pub candidates: Vec<Candidate>,
    /// The chosen one.
    pub strength: f64,
}

impl Calibration {
    /// The settings with the chosen strength.
    pub fn apply(&self, method: &dyn Method, settings: &UnlearnSettings) -> UnlearnSettings {
        with_strength(method, settings, self.strength)
    }
}

fn with_strength(method: &dyn Method, settings: &UnlearnSettings, strength: f64) -> UnlearnSettings {
    match method.tuned() {
        Some(Setting::LearningRate) => {
            let train = TrainSettings { learning_rate: strength, ..settings.train.clone() };
            UnlearnSettings { train, ..settings.clone() }
        }
        _ => UnlearnSettings { alpha: strength, ..settings.clone() },
    }
}

/// Runs a method with each candidate for its [tuned](Method::tuned) setting, always from the same original network, and keeps the
/// strongest after which the accuracy on the retain set is at most `margin` points (the rule of this project: 10) below the
/// original's. Neither the forget set's accuracy nor an attack's success is looked at, so the choice cannot favour either.
///
/// The network ends as the chosen candidate left it, and as it was if there is an error. No checkpoint is kept.
///
/// # Errors
/// Usage, when the method has nothing to calibrate, no candidate stays within the margin (each is listed), there is none, or one is
/// not a finite number above zero; else as [`Method::run`], but what fails for one candidate only rules that one out.
pub fn calibrate(
    method: &dyn Method,
    network: &dyn Network,
    sets: &Sets,
    settings: &UnlearnSettings,
    candidates: &[f64],
    margin: f64,
    control: &mut Control,
) -> Result<(Calibration, Unlearned)> {
    let setting = match method.tuned() {
        Some(Setting::LearningRate) => "learning_rate",
        Some(_) => "alpha",
        None => return Err(Error::usage(format!("{} has no strength to calibrate", method.name()))),
    };
    if let Some(wrong) = candidates.iter().find(|strength| !(strength.is_finite() && **strength > 0.0)) {
        return Err(Error::usage(format!("{setting} {wrong} is not a finite number above zero")));
    }
    let original = network.state()?;
    let search = Search { method, network, sets, settings, setting, original: &original };
    match search.run(candidates, margin, control) {
        Ok((calibration, chosen, unlearned)) => {
            network.load_state(&chosen)?;
            Ok((calibration, unlearned))
        }
        Err(error) => {
            network.load_state(&original)?;
            Err(error)
        }
    }
}

struct Search<'a> {
    method: &'a dyn Method,
    network: &'a dyn Network,
    sets: &'a Sets<'a>,
    settings: &'a UnlearnSettings,
    setting: &'static str,
    original: &'a State,
}

impl Search<'_> {
    fn run(&self, candidates: &[f64], margin: f64, control: &mut Control) -> Result<(Calibration, State, Unlearned)> {
        let (network, batch_size) = (self.network, self.settings.train.batch_size);
        let retain = self.sets.retain(self.method)?;
        let original_accuracy = accuracy(network, retain, batch_size)?;
        let mut strengths = candidates.to_vec();
        strengths.sort_by(f64::total_cmp);
        // What alpha only multiplies is computed once.
        let step = self.method.step(network, self.sets, self.settings, &mut control.part())?;
        let mut tried = Vec::new();
        let mut chosen = None;
        for strength in strengths {
            network.load_state(self.original)?;
            let settings = with_strength(self.method, self.settings, strength);
            let done = match &step {
                Some(step) => step.take(network, strength),
                None => self.method.run(network, self.sets, &settings, &mut control.part()),
            };
            match done {
                Ok(unlearned) => {
                    let kept = accuracy(network, retain, batch_size)?;
                    // Stronger ones come later and replace it.
                    if kept >= original_accuracy - margin {
                        chosen = Some((strength, network.state()?, unlearned));
                    }
                    tried.push(Candidate { strength, retain_accuracy: Some(kept), failure: None });
                }
                Err(error) if error.kind() == ErrorKind::Unexpected => {
                    tried.push(Candidate { strength, retain_accuracy: None, failure: Some(error.to_string()) });
                }
                Err(error) => return Err(error),
            }
        }
        let (setting, candidates) = (self.setting, tried);
        let Some((strength, state, unlearned)) = chosen else {
            let list = |candidate: &Candidate| {
                let result = candidate.retain_accuracy.map_or("failed".to_string(), |accuracy| format!("{accuracy:.2} %"));
                format!("{}: {result}", candidate.strength)
            };
            let list: Vec<String> = candidates.iter().map(list).collect();
            let name = self.method.name();
            let reason =
                format!("no {setting} for {name} keeps the retain set within {margin} points of {original_accuracy:.2} %");
            return Err(Error::usage(format!("{reason} ({})", list.join(", "))).help("try smaller ones"));
        };
        Ok((Calibration { setting, original_accuracy, margin, candidates, strength }, state, unlearned))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::tensor::{Device, Tensor};
    use crate::train::testing::{Linear, four};
    use crate::train::{Held, Samples, Targets, fit};
    use crate::unlearn::method;

    /// A network that knows the four images, whose first is to be forgotten: what drives its loss up also harms the rest.
    fn original() -> (Linear, impl Samples, impl Samples) {
        let network = Linear::new();
        let settings = TrainSettings { epochs: 30, batch_size: 4, weight_decay: 0.0, ..TrainSettings::default() };
        fit(&network, &four(), &settings, &mut Control::default()).unwrap();
        let images = Tensor::f_from_slice(&[1.0f32, 0.0, 2.0, 1.0, 0.0, 2.0]).unwrap().f_reshape([2, 3, 1, 1]).unwrap();
        let forget = Held::new(images, Targets::hard(&[0, 0], 2, Device::Cpu).unwrap()).unwrap();
        (network, four(), forget)
    }

    #[test]
    fn the_strongest_that_the_retain_set_bears_is_kept() {
        let method = method("GA").unwrap();
        let (network, retain, forget) = original();
        let sets = Sets { retain: Some(&retain), forget: Some(&forget) };
        let settings = method.defaults();
        let candidates = [30.0, 1e-6, 1e300, 1e-3];
        let (calibration, unlearned) =
            calibrate(method, &network, &sets, &settings, &candidates, 10.0, &mut Control::default()).unwrap();
        assert_eq!((calibration.original_accuracy, calibration.setting), (100.0, "learning_rate"));
        let rates: Vec<f64> = calibration.candidates.iter().map(|candidate| candidate.strength).collect();
        assert_eq!(rates, [1e-6, 1e-3, 30.0, 1e300]);
        assert!(calibration.candidates[2].retain_accuracy.unwrap() < 90.0);
        assert!(calibration.candidates[3].retain_accuracy.is_none() && calibration.candidates[3].failure.is_some());
        assert_eq!(calibration.strength, 1e-3);

        // The network is the one that the chosen rate alone would have made.
        let (expected, ..) = original();
        let settings = calibration.apply(method, &settings);
        assert_eq!(settings.train.learning_rate, 1e-3);
        assert_eq!(method.run(&expected, &sets, &settings, &mut Control::default()).unwrap(), unlearned);
        assert_eq!(network.values(), expected.values());
    }

    #[test]
    fn a_step_is_computed_once_and_taken_from_the_original_each_time() {
        for name in ["FF", "IU"] {
            let method = method(name).unwrap();
            let (network, retain, forget) = original();
            let sets = Sets { retain: Some(&retain), forget: Some(&forget) };
            let settings = method.defaults();
            // The last is no candidate: with it the weights are no numbers.
            let candidates = [1e-3, 1e-2, f64::MAX];
            let (calibration, _) =
                calibrate(method, &network, &sets, &settings, &candidates, 10.0, &mut Control::default()).unwrap();
            assert_eq!((calibration.strength, calibration.setting), (1e-2, "alpha"), "{name}");
            assert!(calibration.candidates[2].failure.is_some(), "{name}");
            let (expected, ..) = original();
            let settings = calibration.apply(method, &settings);
            method.run(&expected, &sets, &settings, &mut Control::default()).unwrap();
            assert_eq!(network.values(), expected.values(), "{name}");
        }
    }

    #[test]
    fn when_none_will_do_the_network_stays_the_original() {
        let (network, retain, forget) = original();
        let sets = Sets { retain: Some(&retain), forget: Some(&forget) };
        let before = network.values();
        let refused = |name: &str, candidates: &[f64]| {
            let method = method(name).unwrap();
            let settings = method.defaults();
            let error = calibrate(method, &network, &sets, &settings, candidates, 10.0, &mut Control::default());
            assert_eq!(error.unwrap_err().kind(), ErrorKind::Usage);
            assert_eq!(network.values(), before);
        };
        for candidates in [&[30.0, 100.0][..], &[], &[-1.0], &[f64::NAN]] {
            refused("GA", candidates);
        }
        // Nothing to calibrate.
        refused("FT", &[0.1]);
    }
}
