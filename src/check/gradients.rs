//! Whether every trainable parameter is reached by training.

use serde::Serialize;

use crate::check::parity::images_for;
use crate::error::{Error, Result};
use crate::graph::{Mode, Model};
use crate::tensor::{Device, Kind, Tensor, deep_copy, no_grad, seed_libtorch};

/// Parameters by what the backward pass gave them; all lists are empty when all is well.
#[derive(Debug, Clone, Serialize)]
pub struct Gradients {
    /// No gradient at all: the output does not depend on these.
    pub missing: Vec<String>,
    /// A gradient that holds an infinity or a NaN.
    pub non_finite: Vec<String>,
    /// A gradient that is zero everywhere.
    pub zero: Vec<String>,
    /// None because they stand in subgraphs that did not run on these images.
    pub not_run: Vec<String>,
    /// One step of gradient descent along all of them; absent when no gradient is usable, or when weights of half precision are too
    /// coarse for any step that was tried to change the loss.
    pub step: Option<Step>,
}

/// What one step of plain gradient descent did to the loss on the same images.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Step {
    /// The first that lowered the loss of: `loss / |gradient|^2`, by which a straight line would reach zero, at most 1; a tenth of
    /// it; and so on. The smallest tried, if none did.
    pub learning_rate: f64,
    /// Cross-entropy before.
    pub before: f64,
    /// Cross-entropy after.
    pub after: f64,
}

impl Gradients {
    /// Which parameters cannot be trained, in a sentence; `None` if all can be.
    pub fn unreached(&self) -> Option<String> {
        [(&self.missing, "no gradient"), (&self.non_finite, "a gradient that is not finite"), (&self.zero, "a gradient of zero")]
            .into_iter()
            .find(|(names, _)| !names.is_empty())
            .map(|(names, what)| format!("{} trainable parameters get {what}, first '{}'", names.len(), names[0]))
    }

    /// What is wrong, in a sentence; `None` if nothing is.
    pub fn fault(&self) -> Option<String> {
        self.unreached().or_else(|| {
            let step = self.step.filter(|step| step.after.is_nan() || step.after >= step.before)?;
            Some(format!("no step along the gradient lowers the loss: {} becomes {}", step.before, step.after))
        })
    }
}

/// What is said of a model that cannot be trained at all.
pub const NONE: &str = "no gradient passes from the scores to any parameter: the model cannot be trained";

/// Runs one forward and backward pass of cross-entropy on random images, in [`Mode::Train`] where the batch size allows it, and
/// leaves the model as it was.
pub fn check(model: &Model, image: &[i64; 3]) -> Result<Gradients> {
    let mut found = Gradients { missing: Vec::new(), non_finite: Vec::new(), zero: Vec::new(), not_run: Vec::new(), step: None };
    let trial = model.duplicate()?;
    if trial.params().is_empty() {
        return Ok(found);
    }
    let mode = if trial.shared.fixed_batch.is_some() { Mode::Eval } else { Mode::Train };
    let batch = 4;
    let images = images_for(&trial, &[batch, image[0], image[1], image[2]])?.f_to_device(trial.device())?;
    let labels: Vec<i64> = (0..batch).map(|i| i % i64::try_from(trial.classes().max(1)).unwrap_or(1)).collect();
    let labels = Tensor::f_from_slice(&labels)?.f_to_device(trial.device())?;
    let loss_of = |model: &Model| -> Result<Tensor> {
        // Dropout drops the same every time.
        seed_libtorch(0);
        let logits = model.forward(&images, mode)?.f_to_kind(Kind::Float)?;
        Ok(logits.f_cross_entropy_loss(&labels, None::<&Tensor>, crate::tensor::Reduction::Mean, -100, 0.0)?)
    };
    let loss = loss_of(&trial)?;
    if !loss.requires_grad() {
        return Err(Error::unsupported(NONE));
    }
    loss.f_backward()?;
    let conditional = &trial.report().conditional;
    for param in trial.params() {
        let gradient = param.tensor.f_grad()?;
        if !gradient.defined() {
            let list = if conditional.contains(&param.name) { &mut found.not_run } else { &mut found.missing };
            list.push(param.name.clone());
            continue;
        }
        // A parameter of no numbers has nothing to learn.
        if gradient.numel() == 0 {
            continue;
        }
        let largest = gradient.f_abs()?.f_max()?.f_to_device(Device::Cpu)?.f_double_value(&[])?;
        if !largest.is_finite() {
            found.non_finite.push(param.name.clone());
        } else if largest == 0.0 {
            found.zero.push(param.name.clone());
        }
    }
    if found.missing.is_empty() && found.non_finite.is_empty() {
        let step = descend(&trial, loss.f_double_value(&[])?, &loss_of)?;
        let coarse = trial.params().iter().any(|param| matches!(param.tensor.kind(), Kind::Half | Kind::BFloat16));
        found.step = Some(step).filter(|step| !(coarse && step.after == step.before));
    }
    Ok(found)
}

/// Tries ever smaller steps until one lowers the loss, as a gradient promises of small ones.
fn descend(model: &Model, before: f64, loss_of: &dyn Fn(&Model) -> Result<Tensor>) -> Result<Step> {
    let _guard = no_grad();
    let start = model.params().iter().map(|param| deep_copy(&param.tensor)).collect::<Result<Vec<_>>>()?;
    let mut square = 0.0;
    for param in model.params().iter().filter(|param| param.tensor.grad().defined()) {
        square += param.tensor.f_grad()?.f_to_kind(Kind::Double)?.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?;
    }
    let first = (before / square).min(1.0);
    let mut step = Step { learning_rate: first, before, after: f64::NAN };
    for exponent in 0..8 {
        step.learning_rate = first * 0.1_f64.powi(exponent);
        for (param, start) in model.params().iter().zip(&start).filter(|(param, _)| param.tensor.grad().defined()) {
            let moved = start.f_sub(&param.tensor.f_grad()?.f_mul_scalar(step.learning_rate)?)?;
            param.tensor.shallow_clone().f_copy_(&moved)?;
        }
        step.after = loss_of(model)?.f_double_value(&[])?;
        if step.after < before {
            break;
        }
    }
    Ok(step)
}
