//! Reference unlearning methods, for models whose history has to be known: one file and one row of [`METHODS`] each.
//!
//! A method sees a [`Network`] and sets of samples; it knows nothing of architectures and data sets, so each also runs on an
//! imported model.

use serde::Serialize;

use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor, no_grad};
use crate::train::{Control, History, Network, Samples};

pub mod calibrate;
mod curvature;
mod ff;
mod ft;
mod ga;
mod iu;
mod rt;
mod settings;
mod wp;

pub use calibrate::{Calibration, Candidate, calibrate};
pub use ff::Fisher;
pub use settings::UnlearnSettings;

/// Every method, in the order of the paper's Table A2.
pub static METHODS: &[&dyn Method] =
    &[&rt::Retrain, &ft::FineTune, &ga::GradientAscent, &ff::FisherForgetting, &iu::InfluenceUnlearning, &wp::WeightPruning];

/// A way to make a network forget.
pub trait Method: Sync {
    /// The paper's abbreviation, such as `RT`.
    fn name(&self) -> &'static str;

    /// One line for a person.
    fn summary(&self) -> &'static str;

    /// What [`run`](Self::run) must be given.
    fn needs(&self) -> Needs;

    /// Which settings it heeds.
    fn heeds(&self) -> &'static [Setting];

    /// The setting that decides how much is forgotten and how much else is lost, where the literature leaves its scale open: it is
    /// [calibrated](calibrate()).
    fn tuned(&self) -> Option<Setting> {
        None
    }

    /// Strengths to choose from if nobody names others, for a method with a [tuned](Self::tuned) setting.
    fn candidates(&self) -> &'static [f64] {
        &[]
    }

    /// The paper's settings for CIFAR-10 and ResNet18 (Table A2), and our defaults for those that it does not print.
    fn defaults(&self) -> UnlearnSettings;

    /// Of a method that adds alpha times a step to the weights, whatever alpha is: the step. Nothing is changed.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    fn step(
        &self,
        network: &dyn Network,
        sets: &Sets,
        settings: &UnlearnSettings,
        control: &mut Control,
    ) -> Result<Option<Step>> {
        let _ = (network, sets, settings, control);
        Ok(None)
    }

    /// Unlearns in place; takes the method's step, unless it is one that trains.
    ///
    /// # Errors
    /// Usage, when a set that the method needs is missing or a setting is out of range; else as [`fit`](crate::train::fit()).
    fn run(&self, network: &dyn Network, sets: &Sets, settings: &UnlearnSettings, control: &mut Control) -> Result<Unlearned> {
        let step = self.step(network, sets, settings, control)?;
        step.ok_or_else(|| Error::unexpected(format!("{} has no step", self.name())))?.take(network, settings.alpha)
    }
}

/// A setting that a method may heed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// All of [`UnlearnSettings::train`].
    Train,
    /// Its batch size.
    BatchSize,
    /// Its seed.
    Seed,
    /// Its learning rate.
    LearningRate,
    /// [`UnlearnSettings::alpha`].
    Alpha,
    /// [`UnlearnSettings::damping`].
    Damping,
    /// [`UnlearnSettings::curvature_images`].
    CurvatureImages,
    /// [`UnlearnSettings::sparsity`].
    Sparsity,
}

/// What a method adds to the weights for alpha 1.
#[derive(Debug)]
pub struct Step {
    /// One for each parameter and of its shape, in double precision.
    pub change: Vec<Tensor>,
    /// What can be said of it in numbers, by name.
    pub notes: Vec<(&'static str, f64)>,
}

impl Step {
    /// Adds it `alpha` times.
    ///
    /// # Errors
    /// Unexpected, when a parameter does not stay a finite number.
    pub fn take(&self, network: &dyn Network, alpha: f64) -> Result<Unlearned> {
        let _guard = no_grad();
        let (mut squares, mut numbers) = (0.0, 0.0);
        for (param, change) in network.params().iter().zip(&self.change) {
            let change = change.f_mul_scalar(alpha)?;
            squares += change.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?;
            numbers += change.numel() as f64;
            let _ = param.tensor.shallow_clone().f_add_(&change.f_to_kind(param.tensor.f_kind()?)?)?;
        }
        let change = (squares / f64::max(numbers, 1.0)).sqrt();
        if !change.is_finite() {
            return Err(Error::unexpected(format!("with alpha {alpha} the weights change by {change}")));
        }
        let notes = [("root mean square change of a weight", change)].into_iter().chain(self.notes.iter().copied()).collect();
        Ok(Unlearned { history: History::default(), notes })
    }
}

/// How a method went.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Unlearned {
    /// The log of its training; empty for methods that do not train.
    pub history: History,
    /// What else can be said of it in numbers, by name.
    pub notes: Vec<(&'static str, f64)>,
}

impl Unlearned {
    fn note(&mut self, name: &'static str, value: f64) {
        self.notes.push((name, value));
    }
}

impl From<History> for Unlearned {
    fn from(history: History) -> Self {
        Unlearned { history, notes: Vec::new() }
    }
}

/// What a method has to be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// The network that it starts from.
    pub start: Start,
    /// Whether it looks at the retain set `D_r`.
    pub retain: bool,
    /// Whether it looks at the forget set `D_f`.
    pub forget: bool,
}

/// The network that a method starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Freshly initialised: it has never seen an image.
    Fresh,
    /// The original model, trained on all images.
    Original,
}

/// The images that are at hand.
#[derive(Clone, Copy, Default)]
pub struct Sets<'a> {
    /// The retain set `D_r`: training images that are to be kept.
    pub retain: Option<&'a dyn Samples>,
    /// The forget set `D_f`: training images that are to be forgotten, with their true labels.
    pub forget: Option<&'a dyn Samples>,
}

impl<'a> Sets<'a> {
    /// Refuses what does not suffice for a method, so that a caller can find out before the work begins.
    ///
    /// # Errors
    /// Usage, naming the method and the set.
    pub fn check(&self, method: &dyn Method) -> Result<()> {
        let needs = method.needs();
        if needs.retain {
            self.retain(method)?;
        }
        if needs.forget {
            self.forget(method)?;
        }
        Ok(())
    }

    fn retain(&self, method: &dyn Method) -> Result<&'a dyn Samples> {
        self.retain.ok_or_else(|| Error::usage(format!("{} needs the retain set", method.name())))
    }

    fn forget(&self, method: &dyn Method) -> Result<&'a dyn Samples> {
        self.forget.ok_or_else(|| Error::usage(format!("{} needs the forget set", method.name())))
    }
}

/// Looks a method up by its name, in capitals or not.
///
/// # Errors
/// Usage, listing the names.
pub fn method(name: &str) -> Result<&'static dyn Method> {
    METHODS.iter().copied().find(|method| method.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
        let names: Vec<&str> = METHODS.iter().map(|method| method.name()).collect();
        Error::usage(format!("unknown unlearning method '{name}'")).help(format!("one of {}", names.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::error::ErrorKind;
    use crate::train::evaluate::accuracy;
    use crate::train::testing::{Linear, four, noisy};
    use crate::train::{TrainSettings, fit};

    #[test]
    fn methods_are_found_by_name() {
        for row in METHODS {
            assert_eq!(method(&row.name().to_lowercase()).unwrap().name(), row.name());
            row.defaults().check().unwrap();
            assert_eq!(row.tuned().is_some(), !row.candidates().is_empty(), "{}", row.name());
        }
        let error = method("XX").err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains("RT, FT, GA, FF, IU, WP"), "{error}");
    }

    #[test]
    fn defaults_are_the_papers() {
        // Table A2, CIFAR-10, ResNet18: epochs and learning rate of those that train, alpha of those that have one.
        for (name, epochs, learning_rate) in [("RT", 100, 0.1), ("FT", 100, 0.1), ("GA", 4, 0.0001), ("WP", 50, 0.01)] {
            let train = method(name).unwrap().defaults().train;
            assert_eq!((train.epochs, train.learning_rate), (epochs, learning_rate), "{name}");
        }
        for (name, alpha) in [("FF", 16.5), ("IU", 16.0), ("WP", 0.005)] {
            assert_eq!(method(name).unwrap().defaults().alpha, alpha, "{name}");
        }
    }

    #[test]
    fn a_missing_set_is_refused_early() {
        let data = four();
        let only_retain = Sets { retain: Some(&data), forget: None };
        only_retain.check(method("RT").unwrap()).unwrap();
        let gradient_ascent = method("GA").unwrap();
        let checked = only_retain.check(gradient_ascent).unwrap_err();
        let settings = gradient_ascent.defaults();
        let run = gradient_ascent.run(&Linear::new(), &only_retain, &settings, &mut Control::default()).unwrap_err();
        for error in [checked, run] {
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.to_string().contains("GA needs the forget set"), "{error}");
        }
    }

    #[test]
    fn retraining_is_training_on_the_retain_set() {
        let (retrained, trained, retain) = (Linear::new(), Linear::new(), noisy(20));
        let train = TrainSettings { epochs: 3, batch_size: 4, ..method("RT").unwrap().defaults().train };
        let settings = UnlearnSettings { train, ..UnlearnSettings::default() };
        let sets = Sets { retain: Some(&retain), forget: None };
        method("RT").unwrap().run(&retrained, &sets, &settings, &mut Control::default()).unwrap();
        fit(&trained, &retain, &settings.train, &mut Control::default()).unwrap();
        assert_eq!(retrained.values(), trained.values());
    }

    #[test]
    fn ascent_forgets_what_was_learned() {
        let (network, data) = (Linear::new(), four());
        let settings = TrainSettings { epochs: 30, batch_size: 4, ..TrainSettings::default() };
        fit(&network, &data, &settings, &mut Control::default()).unwrap();
        assert_eq!(accuracy(&network, &data, 4).unwrap(), 100.0);
        // Also when the settings, read from a file, say nothing of the direction.
        let settings = UnlearnSettings { train: TrainSettings { learning_rate: 0.3, ..settings }, ..UnlearnSettings::default() };
        let sets = Sets { retain: None, forget: Some(&data) };
        let unlearned = method("GA").unwrap().run(&network, &sets, &settings, &mut Control::default()).unwrap();
        assert!(unlearned.history.epochs[29].loss > unlearned.history.epochs[0].loss);
        assert!(accuracy(&network, &data, 4).unwrap() <= 50.0);
    }
    #[test]
    fn strengths_out_of_range_are_refused() {
        let data = four();
        let sets = Sets { retain: Some(&data), forget: Some(&data) };
        for (name, field, settings) in [
            ("FF", "damping", UnlearnSettings { damping: 0.0, ..method("FF").unwrap().defaults() }),
            ("IU", "alpha", UnlearnSettings { alpha: f64::NAN, ..method("IU").unwrap().defaults() }),
            ("WP", "sparsity", UnlearnSettings { sparsity: 1.0, ..method("WP").unwrap().defaults() }),
        ] {
            let network = Linear::new();
            let before = network.values();
            let error = method(name).unwrap().run(&network, &sets, &settings, &mut Control::default()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.to_string().contains(field), "{error}");
            assert_eq!(network.values(), before);
        }
    }

    #[test]
    fn steps_can_be_interrupted_and_leave_the_network_as_it_was() {
        let data = noisy(20);
        let sets = Sets { retain: Some(&data), forget: Some(&data) };
        let stop = std::sync::atomic::AtomicBool::new(true);
        for name in ["FF", "IU"] {
            let network = Linear::new();
            let before = network.values();
            let mut control = Control { stop: Some(&stop), ..Control::default() };
            let settings = method(name).unwrap().defaults();
            let error = method(name).unwrap().run(&network, &sets, &settings, &mut control).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Interrupted);
            assert_eq!(network.values(), before);
        }
    }

    #[test]
    fn one_seed_gives_one_noise() {
        let data = noisy(20);
        let sets = Sets { retain: Some(&data), forget: None };
        let after = |seed| {
            let network = Linear::new();
            let defaults = method("FF").unwrap().defaults();
            let settings = UnlearnSettings { train: TrainSettings { seed, ..defaults.train.clone() }, ..defaults };
            method("FF").unwrap().run(&network, &sets, &settings, &mut Control::default()).unwrap();
            network.values()
        };
        assert_eq!(after(1), after(1));
        assert_ne!(after(1), after(2));
    }
}
