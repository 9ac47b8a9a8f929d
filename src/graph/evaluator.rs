//! Passes over batches: what a model's tensors are for them, how images lie in memory, and evaluation of many batches with the same weights.

use crate::error::{Error, Result};
use crate::graph::fold::Folds;
use crate::graph::model::{Model, flatten_logits};
use crate::graph::ops::Mode;
use crate::graph::plan::{By, LOGITS};
use crate::graph::precision::Precision;
use crate::tensor::{Device, Tensor, no_grad};

/// A model with its tensors as a pass reads them.
pub(crate) struct Runner<'a> {
    model: &'a Model,
    stored: Vec<Tensor>,
    mode: Mode,
    precision: Precision,
    folds: Option<Folds>,
}

impl<'a> Runner<'a> {
    pub fn new(model: &'a Model, mode: Mode, precision: Precision) -> Result<Runner<'a>> {
        Ok(Runner { stored: model.effective(mode)?, model, mode, precision, folds: None })
    }

    pub fn run(&self, images: &Tensor, result: usize) -> Result<Tensor> {
        let shared = &self.model.shared;
        let images = self.arranged(&images.f_to_kind(shared.input_kind)?)?;
        let count = images.size().first().copied().unwrap_or(0);
        match shared.fixed_batch {
            Some(batch) if count != batch && self.mode == Mode::Train => {
                let reason = format!(
                    "the file fixes its batch size at {batch}, so batch statistics over {count} images cannot be computed"
                );
                Err(Error::unsupported(reason).help("export the model with a dynamic batch dimension"))
            }
            Some(batch) if count != batch => self.run_in_chunks(&images, batch, result),
            _ => self.run_whole(&images, result),
        }
    }

    fn run_whole(&self, images: &Tensor, result: usize) -> Result<Tensor> {
        let by = By { precision: self.precision, folds: self.folds.as_ref() };
        self.model.shared.plan.run_in(by, &self.stored, images, self.mode, result)
    }

    /// Images with a pixel's channels side by side, where what computes on them is faster so.
    fn arranged(&self, images: &Tensor) -> Result<Tensor> {
        if !prefers_channels_last(self.model.device(), self.precision) || images.dim() != 4 {
            return Ok(images.shallow_clone());
        }
        channels_last(images)
    }

    /// Evaluation of a graph that accepts one batch size only; the last chunk is filled up with copies of its last image.
    fn run_in_chunks(&self, images: &Tensor, batch: i64, result: usize) -> Result<Tensor> {
        let count = images.size().first().copied().unwrap_or(0);
        let mut parts = Vec::new();
        let mut start = 0;
        while start < count {
            let here = batch.min(count - start);
            let mut chunk = images.f_narrow(0, start, here)?;
            if here < batch {
                let last = chunk.f_narrow(0, here - 1, 1)?;
                let mut pieces = vec![chunk];
                pieces.extend((here..batch).map(|_| last.shallow_clone()));
                chunk = Tensor::f_cat(&pieces, 0)?;
            }
            parts.push(self.run_whole(&chunk, result)?.f_narrow(0, 0, here)?);
            start += here;
        }
        Ok(Tensor::f_cat(&parts, 0)?)
    }
}

/// See [`Model::evaluator`].
pub struct Evaluator<'a>(Runner<'a>);

impl<'a> Evaluator<'a> {
    pub(crate) fn new(model: &'a Model, precision: Precision) -> Result<Evaluator<'a>> {
        let _guard = no_grad();
        let mut runner = Runner::new(model, Mode::Eval, precision)?;
        // In bfloat16 a bias with the mean in it would be rounded: there, normalisation stays by itself, and computes in float32.
        if precision == Precision::Fp32 {
            runner.folds = Some(Folds::of(&model.shared.plan, &runner.stored)?);
        }
        Ok(Evaluator(runner))
    }

    /// Logits `[N, K]` of images `[N, C, H, W]`, as [`Model::forward`] in [`Mode::Eval`] gives them up to rounding.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn logits(&self, images: &Tensor) -> Result<Tensor> {
        let _guard = no_grad();
        flatten_logits(self.0.run(images, LOGITS)?)
    }
}

/// Whether convolutions are faster where a pixel's channels lie side by side in memory: always on CPUs, on GPUs for what tensor cores do.
pub(crate) fn prefers_channels_last(device: Device, precision: Precision) -> bool {
    device == Device::Cpu || precision == Precision::Bf16
}

/// The same tensor of four axes with the second one innermost in memory.
pub(crate) fn channels_last(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_permute([0, 3, 1, 2])?)
}
