//! [`UnlearnSettings`].

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::train::TrainSettings;

/// Every setting of a reference method. Which of them a method heeds, [`Method::heeds`](super::Method::heeds) says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UnlearnSettings {
    /// Training, of the methods that train; of the others only its batch size and its seed.
    pub train: TrainSettings,
    /// The strength of FF, IU and WP, 0 or more: alpha of the paper's Table A2. `docs/unlearning.md` says what it multiplies.
    pub alpha: f64,
    /// What FF and IU add to the curvature so that it can be inverted, above 0.
    pub damping: f64,
    /// On how many retain images, chosen by the seed, FF and IU look at the curvature; 0 takes all.
    pub curvature_images: usize,
    /// The share of the prunable weights that WP removes, from 0 to below 1.
    pub sparsity: f64,
}

impl Default for UnlearnSettings {
    fn default() -> Self {
        UnlearnSettings { train: TrainSettings::default(), alpha: 0.0, damping: 1e-8, curvature_images: 0, sparsity: 0.0 }
    }
}

impl UnlearnSettings {
    /// Refuses values outside the ranges of the fields' descriptions.
    ///
    /// # Errors
    /// Usage, naming the field.
    pub fn check(&self) -> Result<()> {
        self.train.check().map_err(|error| error.at("train"))?;
        let refuse =
            |field: &str, value: f64, range: &str| Err(Error::usage(format!("{field} is {value}, it has to be {range}")));
        if !(self.alpha.is_finite() && self.alpha >= 0.0) {
            return refuse("alpha", self.alpha, "0 or more");
        }
        if !(self.damping.is_finite() && self.damping > 0.0) {
            return refuse("damping", self.damping, "above 0");
        }
        if !(0.0..1.0).contains(&self.sparsity) {
            return refuse("sparsity", self.sparsity, "from 0 to below 1");
        }
        Ok(())
    }
}
