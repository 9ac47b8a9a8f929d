//! [`fit`]: the one training loop.

use std::time::Instant;

use rand::Rng;
use rand::seq::SliceRandom;

use super::checkpoint::{self, Snapshot};
use super::control::{Control, EpochRecord, Event, History};
use super::loss::cross_entropy;
use super::network::Network;
use super::optim::Sgd;
use super::samples::Samples;
use super::schedule::Extent;
use super::settings::{Direction, TrainSettings};
use crate::error::{Error, Result};
use crate::graph::{Mode, Param};
use crate::tensor::{Kind, Tensor, on_device, rng, seed_libtorch, to_f64s};

/// Trains a network in place on cross-entropy, in [`Mode::Train`].
///
/// With [`Control::checkpoint`] set, a training that was interrupted goes on where it stopped; on the CPU its result is then the
/// same, bit for bit, as without the interruption. Momentum starts at rest in each call, and the order of images and what chance
/// does to them repeat with the seed: who trains one network in several calls gives each its own.
///
/// # Errors
/// Usage, when a setting is out of range, the network has no parameters, or the checkpoint is of another training. Data, when
/// there are no images or not enough for one batch. Unexpected, when the loss is no longer finite. Interrupted, when
/// [`Control::stop`] is set: with a checkpoint, network and file are then both at the end of the last finished epoch.
pub fn fit(network: &dyn Network, data: &dyn Samples, settings: &TrainSettings, control: &mut Control) -> Result<History> {
    fit_adjusted(network, data, settings, control, &mut |_, _| Ok(()))
}

/// Changes the gradients of the loss before each step, one for each parameter and in their order, in an epoch counted from 0:
/// penalties and masks. A gradient that is not defined belongs to a parameter on which the loss does not depend.
pub type Adjust<'a> = dyn FnMut(usize, &mut [Tensor]) -> Result<()> + 'a;

/// As [`fit`], with gradients that are adjusted before each step. A training that is taken up again has to be given the same
/// adjustment.
///
/// # Errors
/// As [`fit`].
pub fn fit_adjusted(
    network: &dyn Network,
    data: &dyn Samples,
    settings: &TrainSettings,
    control: &mut Control,
    adjust: &mut Adjust,
) -> Result<History> {
    settings.check()?;
    if network.params().is_empty() {
        return Err(Error::usage("the model has no trainable parameters"));
    }
    let batches = batch_sizes(data.len(), settings)?;
    let extent = Extent { steps_per_epoch: batches.len(), epochs: settings.epochs, warmup_epochs: settings.warmup_epochs };
    let mut optimiser = Sgd::new(network.params(), settings.momentum, settings.weight_decay, settings.nesterov)?;
    let mut history = History::default();

    let saving = match control.checkpoint.clone() {
        Some(checkpoint) => Some((checkpoint::identity(&checkpoint, settings, data.len())?, checkpoint)),
        None => None,
    };
    if let Some((identity, checkpoint)) = &saving
        && let Some(saved) = checkpoint::load(&checkpoint.path, identity, network, &optimiser)?
    {
        history = saved.restore(network, &mut optimiser)?;
        control.tell(&Event::Resumed { epoch: history.epochs.len(), of: settings.epochs });
    }

    for epoch in history.epochs.len()..settings.epochs {
        // An epoch that is broken off cannot be taken up in its middle, so the way back to its beginning is kept open.
        let before = match (&saving, control.stop) {
            (Some(_), Some(_)) => Some(Snapshot::take(network, &optimiser, &history)?),
            _ => None,
        };
        let Some(record) = run_epoch(network, data, settings, &batches, extent, epoch, &mut optimiser, control, adjust)? else {
            let interrupted = Error::interrupted(format!("stopped in epoch {} of {}", epoch + 1, settings.epochs));
            let (Some((identity, checkpoint)), Some(before)) = (&saving, before) else {
                return Err(interrupted.help("nothing was saved of this training"));
            };
            checkpoint::save(&checkpoint.path, identity, network, &before)?;
            before.restore(network, &mut optimiser)?;
            return Err(interrupted.at(checkpoint.path.display()).help("saved; run the same command again to go on"));
        };
        history.epochs.push(record);
        if let Some((identity, checkpoint)) = &saving
            && (epoch + 1 == settings.epochs || (epoch + 1).checked_rem(checkpoint.every) == Some(0))
        {
            checkpoint::save(&checkpoint.path, identity, network, &Snapshot::take(network, &optimiser, &history)?)?;
        }
    }
    Ok(history)
}

/// One pass over the data; `None` when it was stopped on the way.
#[allow(clippy::too_many_arguments)]
fn run_epoch(
    network: &dyn Network,
    data: &dyn Samples,
    settings: &TrainSettings,
    batches: &[i64],
    extent: Extent,
    epoch: usize,
    optimiser: &mut Sgd,
    control: &mut Control,
    adjust: &mut Adjust,
) -> Result<Option<EpochRecord>> {
    network.before_epoch();
    let stream = u64::try_from(epoch).map_err(Error::unexpected)?;
    let mut chance = rng(settings.seed, "training: images", stream);
    // Dropout draws from libtorch's own generator.
    seed_libtorch(rng(settings.seed, "training: dropout", stream).random());
    let order = order(data, rng(settings.seed, "training: order", stream))?;
    let started = Instant::now();
    // The sum stays on the device until the epoch ends: to read it earlier would make the device wait.
    let mut total = Tensor::f_zeros([0i64; 0], (Kind::Double, data.device()))?;
    let mut learning_rate = 0.0;
    let mut start = 0;
    for (index, size) in batches.iter().enumerate() {
        if control.stopped() {
            return Ok(None);
        }
        let (images, targets) = data.batch(&order.f_narrow(0, start, *size)?, &mut chance)?;
        start += size;
        let loss = cross_entropy(&network.forward(&images, Mode::Train)?, &targets)?;
        let objective = match settings.direction {
            Direction::Descend => loss.shallow_clone(),
            Direction::Ascend => loss.f_neg()?,
        };
        let step = epoch.saturating_mul(batches.len()).saturating_add(index);
        learning_rate = settings.learning_rate * settings.schedule.factor(step, extent);
        let mut gradients = optimiser.gradients(&objective)?;
        adjust(epoch, &mut gradients)?;
        optimiser.step(gradients, learning_rate)?;
        let summand = loss.f_detach()?.f_to_kind(Kind::Double)?.f_mul_scalar(*size)?.f_to_device(total.device())?;
        total = total.f_add_(&summand)?;
        let (epoch, epochs) = (epoch + 1, settings.epochs);
        control.tell(&Event::Batch { epoch, epochs, batch: index + 1, of: batches.len() });
    }
    let loss = total.f_double_value(&[])? / start as f64;
    let diverged = |what: String| {
        let error = Error::unexpected(format!("{what} in epoch {} of {}", epoch + 1, settings.epochs));
        Err(error.help(format!("lower the learning rate, which was {}", settings.learning_rate)))
    };
    if !loss.is_finite() {
        return diverged(format!("the loss became {loss}"));
    }
    // The losses say nothing of the epoch's last step.
    if let Some(param) = first_not_finite(network)? {
        return diverged(format!("parameter '{param}' became infinite or not a number"));
    }
    let images_per_s = start as f64 / started.elapsed().as_secs_f64();
    control.tell(&Event::Epoch { epoch: epoch + 1, of: settings.epochs, loss, learning_rate, images_per_s });
    Ok(Some(EpochRecord { epoch: epoch + 1, loss, learning_rate }))
}

/// The name of a parameter that holds something else than finite numbers.
fn first_not_finite(network: &dyn Network) -> Result<Option<&str>> {
    let sum = |param: &Param| param.tensor.f_detach()?.f_sum(Kind::Double);
    let sums = network.params().iter().map(sum).collect::<std::result::Result<Vec<_>, _>>()?;
    let sums = to_f64s(&Tensor::f_stack(&sums, 0)?)?;
    Ok(network.params().iter().zip(sums).find(|(_, sum)| !sum.is_finite()).map(|(param, _)| param.name.as_str()))
}

/// The numbers of images in an epoch's batches.
fn batch_sizes(images: usize, settings: &TrainSettings) -> Result<Vec<i64>> {
    let size = settings.batch_size;
    let rest = images % size;
    let mut sizes = vec![i64::try_from(size).map_err(Error::usage)?; images / size];
    if rest > 1 && !settings.drop_last {
        sizes.push(i64::try_from(rest).map_err(Error::usage)?);
    }
    if sizes.is_empty() {
        let error = Error::data(format!("{images} images are too few to train on in batches of {size}"));
        return Err(error.help("two are the least; with drop_last, a full batch"));
    }
    Ok(sizes)
}

/// The positions 0 to N - 1 in random order, where the data want them.
fn order(data: &dyn Samples, mut rng: rand_pcg::Pcg64) -> Result<Tensor> {
    let mut positions: Vec<i64> = (0..).take(data.len()).collect();
    positions.shuffle(&mut rng);
    on_device(&positions, data.device())
}

#[cfg(test)]
mod tests;
