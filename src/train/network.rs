//! [`Network`]: the little that training needs to know of a model.

use crate::error::Result;
use crate::graph::{Mode, Model, Param, State};
use crate::tensor::Tensor;

/// Something that gives logits and has parameters: a [`Model`], or a model with a constraint around it.
pub trait Network {
    /// Logits `[N, K]` of normalised images `[N, C, H, W]`.
    ///
    /// # Errors
    /// As [`Model::forward`].
    fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor>;

    /// The trainable leaves, as handles: an in-place update changes the network.
    fn params(&self) -> &[Param];

    /// A deep copy of everything that training changes, except the optimiser's momentum.
    ///
    /// # Errors
    /// Unexpected, when libtorch cannot copy.
    fn state(&self) -> Result<State>;

    /// Copies a state back in.
    ///
    /// # Errors
    /// Data, when names or shapes differ.
    fn load_state(&self, state: &State) -> Result<()>;

    /// Called after every optimiser step, without gradient recording: the place for a constraint on the parameters, such as
    /// a bound on their spectral norms. Does nothing by default.
    ///
    /// # Errors
    /// Whatever the constraint's computation gives.
    fn after_step(&self) -> Result<()> {
        Ok(())
    }
}

impl Network for Model {
    fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        Model::forward(self, images, mode)
    }

    fn params(&self) -> &[Param] {
        Model::params(self)
    }

    fn state(&self) -> Result<State> {
        Model::state(self)
    }

    fn load_state(&self, state: &State) -> Result<()> {
        Model::load_state(self, state)
    }
}
