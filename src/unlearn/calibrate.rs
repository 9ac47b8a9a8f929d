//! How strong gradient ascent should be, told by the retain set alone.

use serde::Serialize;

use super::{Method, Sets, ga::GradientAscent};
use crate::error::{Error, ErrorKind, Result};
use crate::graph::State;
use crate::train::evaluate::accuracy;
use crate::train::{Control, Network, Samples, TrainSettings};

/// One learning rate that was tried.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Candidate {
    /// The learning rate.
    pub learning_rate: f64,
    /// Top-1 accuracy on the retain set after gradient ascent, in percent; none when training failed.
    pub retain_accuracy: Option<f64>,
    /// Why training failed, such as a loss that became infinite.
    pub failure: Option<String>,
}

/// How a learning rate was chosen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Calibration {
    /// The original network's top-1 accuracy on the retain set, in percent.
    pub original_accuracy: f64,
    /// How many points of it may be lost.
    pub margin: f64,
    /// Everything that was tried, from the weakest to the strongest.
    pub candidates: Vec<Candidate>,
    /// The chosen learning rate.
    pub learning_rate: f64,
}

/// Runs gradient ascent on the forget set with each candidate learning rate, always from the same original network, and keeps
/// the strongest whose accuracy on the retain set is at most `margin` points (the rule of this project: 10) below the
/// original's. Neither the forget set's accuracy nor an attack's success is looked at, so the choice cannot favour either.
///
/// The network ends as the chosen candidate left it, and as it was if there is an error. No checkpoint is kept.
///
/// # Errors
/// Usage, when no candidate stays within the margin (each is listed), there is none, or one is not a finite number above zero;
/// else as [`fit`](crate::train::fit()), but training that fails for one candidate only rules that one out.
pub fn calibrate_ga(
    network: &dyn Network,
    retain: &dyn Samples,
    forget: &dyn Samples,
    settings: &TrainSettings,
    candidates: &[f64],
    margin: f64,
    control: &mut Control,
) -> Result<Calibration> {
    if let Some(wrong) = candidates.iter().find(|rate| !(rate.is_finite() && **rate > 0.0)) {
        return Err(Error::usage(format!("a learning rate of {wrong} is not a finite number above zero")));
    }
    let original = network.state()?;
    let result = search(network, &original, retain, forget, settings, candidates, margin, control);
    let (calibration, chosen) = match result {
        Ok(found) => found,
        Err(error) => {
            network.load_state(&original)?;
            return Err(error);
        }
    };
    network.load_state(&chosen)?;
    Ok(calibration)
}

#[allow(clippy::too_many_arguments)]
fn search(
    network: &dyn Network,
    original: &State,
    retain: &dyn Samples,
    forget: &dyn Samples,
    settings: &TrainSettings,
    candidates: &[f64],
    margin: f64,
    control: &mut Control,
) -> Result<(Calibration, State)> {
    let original_accuracy = accuracy(network, retain, settings.batch_size)?;
    let mut rates = candidates.to_vec();
    rates.sort_by(f64::total_cmp);
    let mut tried = Vec::new();
    let mut chosen = None;
    for learning_rate in rates {
        network.load_state(original)?;
        let settings = TrainSettings { learning_rate, ..settings.clone() };
        let sets = Sets { retain: None, forget: Some(forget) };
        let (retain_accuracy, failure) = match GradientAscent.run(network, &sets, &settings, &mut control.part()) {
            Ok(_) => (Some(accuracy(network, retain, settings.batch_size)?), None),
            Err(error) if error.kind() == ErrorKind::Unexpected => (None, Some(error.to_string())),
            Err(error) => return Err(error),
        };
        // Stronger ones come later and replace it.
        if retain_accuracy.is_some_and(|accuracy| accuracy >= original_accuracy - margin) {
            chosen = Some((learning_rate, network.state()?));
        }
        tried.push(Candidate { learning_rate, retain_accuracy, failure });
    }
    let Some((learning_rate, state)) = chosen else {
        let list = |candidate: &Candidate| {
            let result = candidate.retain_accuracy.map_or("failed".to_string(), |accuracy| format!("{accuracy:.2} %"));
            format!("{}: {result}", candidate.learning_rate)
        };
        let list: Vec<String> = tried.iter().map(list).collect();
        let reason = format!("no learning rate for GA keeps the retain set within {margin} points of {original_accuracy:.2} %");
        return Err(Error::usage(format!("{reason} ({})", list.join(", "))).help("try smaller ones"));
    };
    Ok((Calibration { original_accuracy, margin, candidates: tried, learning_rate }, state))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::tensor::{Device, Tensor};
    use crate::train::testing::{Linear, four};
    use crate::train::{Held, Targets, fit};

    /// A network that knows the four images, whose first is to be forgotten: what drives its loss up also harms the rest.
    fn original() -> (Linear, impl Samples, TrainSettings) {
        let network = Linear::new();
        let settings = TrainSettings { epochs: 30, batch_size: 4, weight_decay: 0.0, ..TrainSettings::default() };
        fit(&network, &four(), &settings, &mut Control::default()).unwrap();
        let images = Tensor::f_from_slice(&[1.0f32, 0.0, 2.0, 1.0, 0.0, 2.0]).unwrap().f_reshape([2, 3, 1, 1]).unwrap();
        let forget = Held::new(images, Targets::hard(&[0, 0], 2, Device::Cpu).unwrap()).unwrap();
        (network, forget, GradientAscent.defaults())
    }

    #[test]
    fn the_strongest_that_the_retain_set_bears_is_kept() {
        let (network, forget, settings) = original();
        let candidates = [30.0, 1e-6, 1e300, 1e-3];
        let calibration =
            calibrate_ga(&network, &four(), &forget, &settings, &candidates, 10.0, &mut Control::default()).unwrap();
        assert_eq!(calibration.original_accuracy, 100.0);
        let rates: Vec<f64> = calibration.candidates.iter().map(|candidate| candidate.learning_rate).collect();
        assert_eq!(rates, [1e-6, 1e-3, 30.0, 1e300]);
        assert!(calibration.candidates[2].retain_accuracy.unwrap() < 90.0);
        assert!(calibration.candidates[3].retain_accuracy.is_none() && calibration.candidates[3].failure.is_some());
        assert_eq!(calibration.learning_rate, 1e-3);

        // The network is the one that the chosen rate alone would have made.
        let (expected, forget, settings) = original();
        let settings = TrainSettings { learning_rate: 1e-3, ..settings };
        let sets = Sets { retain: None, forget: Some(&forget) };
        GradientAscent.run(&expected, &sets, &settings, &mut Control::default()).unwrap();
        assert_eq!(network.values(), expected.values());
    }

    #[test]
    fn when_none_will_do_the_network_stays_the_original() {
        let (network, forget, settings) = original();
        let before = network.values();
        for candidates in [&[30.0, 100.0][..], &[], &[-1.0], &[f64::NAN]] {
            let error = calibrate_ga(&network, &four(), &forget, &settings, candidates, 10.0, &mut Control::default());
            assert_eq!(error.unwrap_err().kind(), ErrorKind::Usage);
            assert_eq!(network.values(), before);
        }
    }
}
