//! Whether every trainable parameter is reached by training.

use serde::Serialize;

use crate::check::parity::random_images;
use crate::error::Result;
use crate::graph::{Mode, Model};
use crate::tensor::{Device, Tensor, seed_libtorch};

/// Parameters by what the backward pass gave them; all lists are empty when all is well.
#[derive(Debug, Clone, Serialize)]
pub struct Gradients {
    /// No gradient at all: the output does not depend on these.
    pub missing: Vec<String>,
    /// A gradient that holds an infinity or a NaN.
    pub non_finite: Vec<String>,
    /// A gradient that is zero everywhere.
    pub zero: Vec<String>,
}

impl Gradients {
    /// What is wrong, in a sentence; `None` if nothing is.
    pub fn fault(&self) -> Option<String> {
        [(&self.missing, "no gradient"), (&self.non_finite, "a gradient that is not finite"), (&self.zero, "a gradient of zero")]
            .into_iter()
            .find(|(names, _)| !names.is_empty())
            .map(|(names, what)| format!("{} trainable parameters get {what}, first '{}'", names.len(), names[0]))
    }
}

/// Runs one forward and backward pass of cross-entropy on random images, in [`Mode::Train`] where the batch size allows it, and
/// leaves the model as it was.
pub fn check(model: &Model, image: &[i64; 3]) -> Result<Gradients> {
    let mut found = Gradients { missing: Vec::new(), non_finite: Vec::new(), zero: Vec::new() };
    let trial = model.duplicate()?;
    if trial.params().is_empty() {
        return Ok(found);
    }
    let mode = if trial.shared.fixed_batch.is_some() { Mode::Eval } else { Mode::Train };
    let batch = 4;
    let images = random_images(&[batch, image[0], image[1], image[2]])?.f_to_device(trial.device())?;
    let labels: Vec<i64> = (0..batch).map(|i| i % i64::try_from(trial.classes().max(1)).unwrap_or(1)).collect();
    let labels = Tensor::f_from_slice(&labels)?.f_to_device(trial.device())?;
    seed_libtorch(0);
    let logits = trial.forward(&images, mode)?;
    let loss = logits.f_cross_entropy_loss(&labels, None::<&Tensor>, crate::tensor::Reduction::Mean, -100, 0.0)?;
    loss.f_backward()?;
    for param in trial.params() {
        let gradient = param.tensor.f_grad()?;
        if !gradient.defined() {
            found.missing.push(param.name.clone());
            continue;
        }
        let largest = gradient.f_abs()?.f_max()?.f_to_device(Device::Cpu)?.f_double_value(&[])?;
        if !largest.is_finite() {
            found.non_finite.push(param.name.clone());
        } else if largest == 0.0 {
            found.zero.push(param.name.clone());
        }
    }
    Ok(found)
}
