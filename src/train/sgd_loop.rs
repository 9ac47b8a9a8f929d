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
use crate::tensor::{Kind, Tensor, rng, seed_libtorch, to_f64s};

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
        let Some(record) = run_epoch(network, data, settings, &batches, extent, epoch, &mut optimiser, control)? else {
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
        let gradients = optimiser.gradients(&objective)?;
        optimiser.step(gradients, learning_rate)?;
        let summand = loss.f_detach()?.f_to_kind(Kind::Double)?.f_mul_scalar(*size)?.f_to_device(total.device())?;
        total = total.f_add_(&summand)?;
        control.tell(&Event::Batch { epoch: epoch + 1, batch: index + 1, of: batches.len() });
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
    Ok(Tensor::f_from_slice(&positions)?.f_to_device(data.device())?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::error::ErrorKind;
    use crate::train::Checkpoint;
    use crate::train::samples::{Images, Labelled, Targets};
    use crate::train::testing::{Counting, Linear, four, noisy};

    fn close<T: Copy + Into<f64>>(actual: &[T], expected: &[f64]) {
        assert_eq!(actual.len(), expected.len());
        let near = |(a, b): (&T, &f64)| ((*a).into() - b).abs() < 2e-6;
        assert!(actual.iter().zip(expected).all(near), "{:?}", actual.iter().map(|a| (*a).into()).collect::<Vec<f64>>());
    }

    /// Five epochs of full-batch softmax regression in PyTorch 2.11: `SGD(lr=0.2, momentum=0.9, weight_decay=0.01)` with
    /// `CosineAnnealingLR(T_max=5)`, descending and with `maximize=True`; losses, then W and b.
    #[test]
    fn both_directions_as_in_pytorch() {
        let expected: [(Direction, [f64; 5], [f64; 8]); 2] = [
            (
                Direction::Descend,
                [0.581_041_99, 0.523_711_56, 0.442_455_08, 0.377_432_38, 0.342_340_74],
                [
                    -0.124_363_49,
                    -0.080_006_67,
                    0.632_714_51,
                    0.223_152_03,
                    -0.018_781_91,
                    -0.435_137_45,
                    0.025_710_81,
                    0.023_683_45,
                ],
            ),
            (
                Direction::Ascend,
                [0.581_041_99, 0.644_513_73, 0.773_933_53, 0.939_603_92, 1.073_484_78],
                [
                    0.335_548_19,
                    -0.385_757_6,
                    -0.125_371_56,
                    -0.236_759_6,
                    0.286_969_07,
                    0.322_948_69,
                    -0.084_230_14,
                    0.133_624_43,
                ],
            ),
        ];
        for (direction, losses, values) in expected {
            let settings = TrainSettings {
                epochs: 5,
                batch_size: 4,
                learning_rate: 0.2,
                weight_decay: 0.01,
                direction,
                ..TrainSettings::default()
            };
            let network = Linear::new();
            let history = fit(&network, &four(), &settings, &mut Control::default()).unwrap();
            close(&history.epochs.iter().map(|record| record.loss).collect::<Vec<_>>(), &losses);
            close(&network.values(), &values);
            assert_eq!(network.steps.get(), 5);
        }
    }

    fn settings(epochs: usize) -> TrainSettings {
        TrainSettings { epochs, batch_size: 4, seed: 3, ..TrainSettings::default() }
    }

    fn checkpoint(folder: &tempfile::TempDir) -> Checkpoint {
        Checkpoint { path: folder.path().join("deeper").join("training.safetensors"), every: 1, fingerprint: "a".to_string() }
    }

    #[test]
    fn an_interrupted_training_ends_in_the_same_bits() {
        let data = noisy(19);
        let whole = Linear::new();
        let history = fit(&whole, &data, &settings(6), &mut Control::default()).unwrap();

        for (stop_epoch, stop_batch) in [(1, 1), (1, 3), (4, 2), (6, 4)] {
            let folder = tempfile::tempdir().unwrap();
            let stop = AtomicBool::new(false);
            let broken = Linear::new();
            let mut pull = |event: &Event| {
                if matches!(event, Event::Batch { epoch, batch, .. } if (*epoch, *batch) == (stop_epoch, stop_batch)) {
                    stop.store(true, Ordering::Relaxed);
                }
            };
            let mut control = Control { on_event: Some(&mut pull), stop: Some(&stop), checkpoint: Some(checkpoint(&folder)) };
            let error = fit(&broken, &data, &settings(6), &mut control).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Interrupted);
            assert!(error.to_string().contains(&format!("epoch {stop_epoch} of 6")), "{error}");

            let resumed = Linear::new();
            let mut first = None;
            let mut remember = |event: &Event| _ = first.get_or_insert_with(|| event.clone());
            let mut control = Control { on_event: Some(&mut remember), stop: None, checkpoint: Some(checkpoint(&folder)) };
            assert_eq!(fit(&resumed, &data, &settings(6), &mut control).unwrap(), history);
            assert_eq!(resumed.values(), whole.values());
            assert_eq!(first, Some(Event::Resumed { epoch: stop_epoch - 1, of: 6 }));

            // Done is done: a third call reads the result and trains no more.
            let read = Linear::new();
            let mut control = Control { checkpoint: Some(checkpoint(&folder)), ..Control::default() };
            assert_eq!(fit(&read, &data, &settings(6), &mut control).unwrap(), history);
            assert_eq!((read.values(), read.steps.get()), (whole.values(), 0));
        }
    }

    #[test]
    fn an_interrupted_network_is_at_the_end_of_an_epoch() {
        let folder = tempfile::tempdir().unwrap();
        let two = Linear::new();
        let constant = |epochs| TrainSettings { schedule: crate::train::Schedule::Constant {}, ..settings(epochs) };
        fit(&two, &noisy(19), &constant(2), &mut Control::default()).unwrap();
        let stop = AtomicBool::new(false);
        let mut pull = |event: &Event| stop.store(matches!(event, Event::Batch { epoch: 3, .. }), Ordering::Relaxed);
        let mut control = Control { on_event: Some(&mut pull), stop: Some(&stop), checkpoint: Some(checkpoint(&folder)) };
        let network = Linear::new();
        assert!(fit(&network, &noisy(19), &constant(9), &mut control).is_err());
        assert_eq!(network.values(), two.values());
    }

    #[test]
    fn without_a_checkpoint_an_interruption_says_that_nothing_is_saved() {
        let stop = AtomicBool::new(true);
        let mut control = Control { stop: Some(&stop), ..Control::default() };
        let error = fit(&Linear::new(), &noisy(8), &settings(2), &mut control).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted);
        assert!(error.to_string().contains("nothing was saved"), "{error}");
    }

    #[test]
    fn checkpoints_of_other_trainings_and_damaged_ones_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let run = |settings: &TrainSettings, images: usize, fingerprint: &str| {
            let checkpoint = Checkpoint { fingerprint: fingerprint.to_string(), ..checkpoint(&folder) };
            let mut control = Control { checkpoint: Some(checkpoint), ..Control::default() };
            fit(&Linear::new(), &noisy(images), settings, &mut control)
        };
        run(&settings(1), 19, "a").unwrap();
        for error in [
            run(&settings(2), 19, "a").unwrap_err(),
            run(&settings(1), 20, "a").unwrap_err(),
            run(&settings(1), 19, "b").unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.to_string().contains("training.safetensors"), "{error}");
        }
        let path = checkpoint(&folder).path;
        let bytes = std::fs::read(&path).unwrap();
        for length in [0, 7, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..length]).unwrap();
            assert_eq!(run(&settings(1), 19, "a").unwrap_err().kind(), ErrorKind::Data);
        }
    }

    #[test]
    fn a_diverging_training_names_the_epoch() {
        // One step multiplies a weight by -1e30; single precision ends at 3e38.
        let wild = TrainSettings { learning_rate: 2e33, ..settings(5) };
        let error = fit(&Linear::new(), &noisy(8), &wild, &mut Control::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unexpected);
        assert!(error.to_string().contains("epoch 1 of 5") && error.to_string().contains("lower the learning rate"), "{error}");
        // The only step of the only epoch ruins the weights behind the loss.
        let wild = TrainSettings { learning_rate: 1e300, batch_size: 8, ..settings(1) };
        let error = fit(&Linear::new(), &noisy(8), &wild, &mut Control::default()).unwrap_err();
        assert!(error.to_string().contains("parameter 'weight'"), "{error}");
    }

    #[test]
    fn batches_are_cut_as_the_settings_say() {
        let sizes = |images: usize, drop_last: bool| {
            let data = Counting(noisy(images), Default::default());
            fit(&Linear::new(), &data, &TrainSettings { drop_last, ..settings(1) }, &mut Control::default())
                .map(|_| data.1.take())
        };
        assert_eq!(sizes(8, false).unwrap(), [4, 4]);
        assert_eq!(sizes(10, false).unwrap(), [4, 4, 2]);
        assert_eq!(sizes(10, true).unwrap(), [4, 4]);
        assert_eq!(sizes(9, false).unwrap(), [4, 4]);
        assert_eq!(sizes(3, false).unwrap(), [3]);
        for error in [sizes(3, true).unwrap_err(), sizes(1, false).unwrap_err(), sizes(0, false).unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Data);
        }
    }

    #[test]
    fn an_epoch_shows_every_image_once_in_an_order_of_its_own() {
        let seen = std::cell::RefCell::new(Vec::new());
        let images = |indices: &Tensor, _: Option<&mut rand_pcg::Pcg64>| {
            seen.borrow_mut().extend(crate::tensor::to_i64s(indices)?);
            Ok(Tensor::f_zeros([indices.size()[0], 3, 1, 1], (Kind::Float, crate::tensor::Device::Cpu))?)
        };
        let data = Labelled::new(Targets::hard(&[0; 12], 2, crate::tensor::Device::Cpu).unwrap(), images);
        assert_eq!(data.len(), 12);
        fit(&Linear::new(), &data, &settings(2), &mut Control::default()).unwrap();
        let (first, second) = (seen.borrow()[..12].to_vec(), seen.borrow()[12..].to_vec());
        assert_ne!(first, second);
        for mut epoch in [first, second] {
            epoch.sort_unstable();
            assert_eq!(epoch, (0..12).collect::<Vec<i64>>());
        }
    }

    #[test]
    fn events_count_batches_and_epochs() {
        let mut events = Vec::new();
        let mut listen = |event: &Event| events.push(event.clone());
        let mut control = Control { on_event: Some(&mut listen), ..Control::default() };
        let history = fit(&Linear::new(), &noisy(8), &settings(2), &mut control).unwrap();
        assert_eq!(events.len(), 6);
        assert_eq!(events[1], Event::Batch { epoch: 1, batch: 2, of: 2 });
        let Event::Epoch { epoch, of, loss, images_per_s, .. } = &events[5] else { panic!("{:?}", events[5]) };
        assert_eq!((*epoch, *of, *loss), (2, 2, history.epochs[1].loss));
        assert!(*images_per_s > 0.0);
    }
}
