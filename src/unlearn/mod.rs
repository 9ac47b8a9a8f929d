//! Reference unlearning methods, for models whose history has to be known: one file and one row of [`METHODS`] each.
//!
//! A method sees a [`Network`] and sets of samples; it knows nothing of architectures and data sets, so each also runs on an
//! imported model.

use crate::error::{Error, Result};
use crate::train::{Control, History, Network, Samples, TrainSettings};

pub mod calibrate;
mod ga;
mod rt;

pub use calibrate::{Calibration, Candidate, calibrate_ga};

/// Every method, in the order of the paper's Table A2.
pub static METHODS: &[&dyn Method] = &[&rt::Retrain, &ga::GradientAscent];

/// A way to make a network forget.
pub trait Method: Sync {
    /// The paper's abbreviation, such as `RT`.
    fn name(&self) -> &'static str;

    /// One line for a person.
    fn summary(&self) -> &'static str;

    /// What [`run`](Self::run) must be given.
    fn needs(&self) -> Needs;

    /// The paper's settings for CIFAR-10 and ResNet18 (Table A2), and our defaults for those that it does not print.
    fn defaults(&self) -> TrainSettings;

    /// Unlearns in place.
    ///
    /// # Errors
    /// Usage, when a set that the method needs is missing; else as [`fit`](crate::train::fit()).
    fn run(&self, network: &dyn Network, sets: &Sets, settings: &TrainSettings, control: &mut Control) -> Result<History>;
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
    use crate::train::fit;
    use crate::train::testing::{Linear, four, noisy};

    #[test]
    fn methods_are_found_by_name() {
        for row in METHODS {
            assert_eq!(method(&row.name().to_lowercase()).unwrap().name(), row.name());
            row.defaults().check().unwrap();
        }
        let error = method("XX").err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains("RT, GA"), "{error}");
    }

    #[test]
    fn defaults_are_the_papers() {
        // Table A2, CIFAR-10, ResNet18: epochs and learning rate.
        for (name, epochs, learning_rate) in [("RT", 100, 0.1), ("GA", 4, 0.0001)] {
            let defaults = method(name).unwrap().defaults();
            assert_eq!((defaults.epochs, defaults.learning_rate), (epochs, learning_rate));
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
        let settings = TrainSettings { epochs: 3, batch_size: 4, ..method("RT").unwrap().defaults() };
        let sets = Sets { retain: Some(&retain), forget: None };
        method("RT").unwrap().run(&retrained, &sets, &settings, &mut Control::default()).unwrap();
        fit(&trained, &retain, &settings, &mut Control::default()).unwrap();
        assert_eq!(retrained.values(), trained.values());
    }

    #[test]
    fn ascent_forgets_what_was_learned() {
        let (network, data) = (Linear::new(), four());
        let settings = TrainSettings { epochs: 30, batch_size: 4, ..TrainSettings::default() };
        fit(&network, &data, &settings, &mut Control::default()).unwrap();
        assert_eq!(accuracy(&network, &data, 4).unwrap(), 100.0);
        // Also when the settings, read from a file, say nothing of the direction.
        let settings = TrainSettings { learning_rate: 0.3, ..settings };
        let sets = Sets { retain: None, forget: Some(&data) };
        let history = method("GA").unwrap().run(&network, &sets, &settings, &mut Control::default()).unwrap();
        assert!(history.epochs[29].loss > history.epochs[0].loss);
        assert!(accuracy(&network, &data, 4).unwrap() <= 50.0);
    }
}
