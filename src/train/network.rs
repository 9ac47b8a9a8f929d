//! [`Network`]: the little that training needs to know of a model.

use crate::error::Result;
use crate::graph::{ExampleGradients, Mode, Model, Param, Precision, State};
use crate::tensor::Tensor;

/// Gives logits `[N, K]` of images `[N, C, H, W]`.
pub type Logits<'a> = Box<dyn Fn(&Tensor) -> Result<Tensor> + 'a>;

/// Something that gives logits and has parameters: a [`Model`], or a model with a constraint around it.
pub trait Network {
    /// Logits `[N, K]` of normalised images `[N, C, H, W]`.
    ///
    /// # Errors
    /// As [`Model::forward`].
    fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor>;

    /// As [`forward`](Self::forward), in float32 whatever the network is trained in.
    ///
    /// # Errors
    /// As [`Model::forward`].
    fn exact(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        self.forward(images, mode)
    }

    /// Logits of many batches by the weights as they are now, in evaluation, in float32 and without gradients: whatever is reported,
    /// or decided by, is computed so.
    ///
    /// # Errors
    /// As [`Model::evaluator`].
    fn evaluator(&self) -> Result<Logits<'_>> {
        Ok(Box::new(|images| self.exact(images, Mode::Eval)))
    }

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

    /// Gradients in [`Mode::Eval`] of every example by itself; `trial` are some images, two or more where there are, on which a
    /// quicker way may be tried first.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    fn example_gradients(&self, trial: &Tensor) -> Result<Box<dyn ExampleGradients + '_>>;

    /// Called before every epoch: forgets what earlier passes left beside the parameters, so that a training taken up again at an
    /// epoch goes on as if never interrupted.
    fn before_epoch(&self) {}
}

impl Network for Model {
    fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        Model::forward(self, images, mode)
    }

    fn exact(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        self.forward_in(Precision::Fp32, images, mode)
    }

    fn evaluator(&self) -> Result<Logits<'_>> {
        let evaluator = Model::evaluator(self, Precision::Fp32)?;
        Ok(Box::new(move |images| evaluator.logits(images)))
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

    fn example_gradients(&self, trial: &Tensor) -> Result<Box<dyn ExampleGradients + '_>> {
        Model::example_gradients(self, trial)
    }

    fn before_epoch(&self) {
        self.reset_parametrization();
    }
}
