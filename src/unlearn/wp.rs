//! WP: weight pruning, then sparsity-regularised fine-tuning (Jia et al. 2023; the paper's FT_Prune).

use super::{Method, Needs, Sets, Setting, Start, UnlearnSettings, Unlearned};
use crate::error::{Error, Result};
use crate::graph::Param;
use crate::tensor::{Device, Kind, Tensor, no_grad};
use crate::train::sgd_loop::fit_adjusted;
use crate::train::{Control, Direction, Network, TrainSettings};

/// Removes the smallest weights at once, then fine-tunes what is left on the retain set with an l1 penalty of strength
/// `alpha (1 - epoch / epochs)` on all parameters. Removed weights stay zero.
pub(super) struct WeightPruning;

impl Method for WeightPruning {
    fn name(&self) -> &'static str {
        "WP"
    }

    fn summary(&self) -> &'static str {
        "prunes, then trains on with an l1 penalty on the retain set"
    }

    fn needs(&self) -> Needs {
        Needs { start: Start::Original, retain: true, forget: false }
    }

    fn heeds(&self) -> &'static [Setting] {
        &[Setting::Train, Setting::Alpha, Setting::Sparsity]
    }

    fn defaults(&self) -> UnlearnSettings {
        let train = TrainSettings { epochs: 50, learning_rate: 0.01, ..TrainSettings::default() };
        UnlearnSettings { train, alpha: 0.005, sparsity: 0.95, ..UnlearnSettings::default() }
    }

    fn run(&self, network: &dyn Network, sets: &Sets, settings: &UnlearnSettings, control: &mut Control) -> Result<Unlearned> {
        settings.check()?;
        let retain = sets.retain(self)?;
        let masks = masks(network.params(), settings.sparsity)?;
        for (param, mask) in network.params().iter().zip(&masks) {
            let _guard = no_grad();
            if let Some(mask) = mask {
                let _ = param.tensor.shallow_clone().f_mul_(mask)?;
            }
        }
        let train = TrainSettings { direction: Direction::Descend, ..settings.train.clone() };
        let epochs = train.epochs.max(1) as f64;
        let history = fit_adjusted(network, retain, &train, control, &mut |epoch, gradients| {
            let _guard = no_grad();
            let strength = settings.alpha * (1.0 - epoch as f64 / epochs);
            for ((param, mask), gradient) in network.params().iter().zip(&masks).zip(gradients) {
                if !gradient.defined() {
                    continue;
                }
                // Weight decay and momentum leave a zero without a gradient where it is.
                *gradient = gradient.f_add(&param.tensor.f_sign()?.f_mul_scalar(strength)?)?;
                if let Some(mask) = mask {
                    *gradient = gradient.f_mul(mask)?;
                }
            }
            Ok(())
        })?;
        let mut unlearned = Unlearned::from(history);
        unlearned.note("share of zeros among the prunable weights", zeros(network.params(), &masks)?);
        Ok(unlearned)
    }
}

/// 1 where a weight stays and 0 where it goes, for the parameters that are pruned: the convolutions' filters, or the other weight
/// matrices of a network without convolutions. Together the smallest `share` of these weights go, rounded down to a whole number; of
/// weights of the same size those first that come first.
fn masks(params: &[Param], share: f64) -> Result<Vec<Option<Tensor>>> {
    let _guard = no_grad();
    let is_filter = |param: &Param| param.is_weight_matrix && param.tensor.dim() > 2;
    let has_filters = params.iter().any(is_filter);
    let pruned = |param: &Param| if has_filters { is_filter(param) } else { param.is_weight_matrix };
    let sizes = params.iter().filter(|param| pruned(param)).map(|param| -> Result<Tensor> {
        Ok(param.tensor.f_detach()?.f_abs()?.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?.f_flatten(0, -1)?)
    });
    let sizes = sizes.collect::<Result<Vec<_>>>()?;
    if sizes.is_empty() {
        return Err(Error::unsupported("the model has no weight matrix to prune"));
    }
    let sizes = Tensor::f_cat(&sizes, 0)?;
    // A share below 1 of a number of weights is a number again.
    let count = (sizes.numel() as f64 * share).floor() as i64;
    let smallest = sizes.f_argsort_stable(true, 0, false)?.f_narrow(0, 0, count)?;
    let mask = sizes.f_ones_like()?.f_index_fill(0, &smallest, 0.0)?;
    let mut start = 0;
    let mut masks = Vec::with_capacity(params.len());
    for param in params {
        masks.push(if pruned(param) {
            let length = i64::try_from(param.tensor.numel()).map_err(Error::unexpected)?;
            let own = mask.f_narrow(0, start, length)?.f_reshape(param.tensor.size())?;
            start += length;
            Some(own.f_to_kind(param.tensor.f_kind()?)?.f_to_device(param.tensor.device())?)
        } else {
            None
        });
    }
    Ok(masks)
}

/// The share of zeros among what has a mask.
fn zeros(params: &[Param], masks: &[Option<Tensor>]) -> Result<f64> {
    let (mut zeros, mut all) = (0.0, 0.0);
    for (param, _) in params.iter().zip(masks).filter(|(_, mask)| mask.is_some()) {
        zeros += param.tensor.f_eq(0.0)?.f_sum(Kind::Double)?.f_double_value(&[])?;
        all += param.tensor.numel() as f64;
    }
    Ok(zeros / all)
}
