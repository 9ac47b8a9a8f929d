#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::error::ErrorKind;
use crate::graph::Model;
use crate::nets::InputShape;
use crate::tensor::Device;
use crate::train::Checkpoint;
use crate::train::evaluate::accuracy;
use crate::train::samples::{Held, Images, Labelled, Targets};
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
            [-0.124_363_49, -0.080_006_67, 0.632_714_51, 0.223_152_03, -0.018_781_91, -0.435_137_45, 0.025_710_81, 0.023_683_45],
        ),
        (
            Direction::Ascend,
            [0.581_041_99, 0.644_513_73, 0.773_933_53, 0.939_603_92, 1.073_484_78],
            [0.335_548_19, -0.385_757_6, -0.125_371_56, -0.236_759_6, 0.286_969_07, 0.322_948_69, -0.084_230_14, 0.133_624_43],
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
        fit(&Linear::new(), &data, &TrainSettings { drop_last, ..settings(1) }, &mut Control::default()).map(|_| data.1.take())
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
        Ok(Tensor::f_zeros([indices.size()[0], 3, 1, 1], (Kind::Float, Device::Cpu))?)
    };
    let data = Labelled::new(Targets::hard(&[0; 12], 2, Device::Cpu).unwrap(), images);
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
    assert_eq!(events[1], Event::Batch { epoch: 1, epochs: 2, batch: 2, of: 2 });
    let Event::Epoch { epoch, of, loss, images_per_s, .. } = &events[5] else { panic!("{:?}", events[5]) };
    assert_eq!((*epoch, *of, *loss), (2, 2, history.epochs[1].loss));
    assert!(*images_per_s > 0.0);
}

/// Thirty-two images of three classes, told apart by the brightest of eight by eight pixels' channels.
fn small_images() -> impl Samples {
    use rand::Rng;
    let mut rng = rng(5, "small images", 0);
    let labels: Vec<usize> = (0..32).map(|index| index % 3).collect();
    let mut pixels = Vec::new();
    for label in &labels {
        for channel in 0..3 {
            pixels.extend((0..64).map(|_| rng.random::<f32>() + if channel == *label { 0.5 } else { 0.0 }));
        }
    }
    let images = Tensor::f_from_slice(&pixels).unwrap().f_reshape([32, 3, 8, 8]).unwrap();
    Held::new(images, Targets::hard(&labels, 3, Device::Cpu).unwrap()).unwrap()
}

fn small_resnet() -> Model {
    let input = InputShape { channels: 3, height: 8, width: 8 };
    let proto = crate::nets::resnet::resnet8(input, 3, 4, 1).unwrap();
    Model::from_proto("small ResNet", proto, Device::Cpu).unwrap()
}

fn bits(model: &Model) -> Vec<(String, Vec<f32>)> {
    let state = model.state().unwrap().0;
    state.iter().map(|(name, tensor)| (name.clone(), crate::tensor::to_f32s(tensor).unwrap())).collect()
}

#[test]
fn a_resnet_learns_and_forgets() {
    let (model, data) = (small_resnet(), small_images());
    let settings = TrainSettings { batch_size: 8, ..settings(15) };
    let learned = fit(&model, &data, &settings, &mut Control::default()).unwrap();
    assert!(learned.epochs[14].loss < 0.5 * learned.epochs[0].loss, "{learned:?}");
    assert!(accuracy(&model, &data, 10).unwrap() > 90.0);
    let ascent = TrainSettings { direction: Direction::Ascend, learning_rate: 0.3, epochs: 8, ..settings };
    let forgotten = fit(&model, &data, &ascent, &mut Control::default()).unwrap();
    assert!(forgotten.epochs[7].loss > forgotten.epochs[0].loss, "{forgotten:?}");
    assert!(accuracy(&model, &data, 10).unwrap() < 60.0);
}

#[test]
fn an_interrupted_resnet_ends_in_the_same_bits() {
    let (data, settings) = (small_images(), TrainSettings { batch_size: 8, ..settings(3) });
    let (whole, resumed) = (small_resnet(), small_resnet());
    let history = fit(&whole, &data, &settings, &mut Control::default()).unwrap();
    let (folder, stop) = (tempfile::tempdir().unwrap(), AtomicBool::new(false));
    let mut pull = |event: &Event| stop.store(matches!(event, Event::Batch { epoch: 2, .. }), Ordering::Relaxed);
    let mut control = Control { on_event: Some(&mut pull), stop: Some(&stop), checkpoint: Some(checkpoint(&folder)) };
    assert!(fit(&small_resnet(), &data, &settings, &mut control).is_err());
    let mut control = Control { checkpoint: Some(checkpoint(&folder)), ..Control::default() };
    assert_eq!(fit(&resumed, &data, &settings, &mut control).unwrap(), history);
    assert_eq!(bits(&resumed), bits(&whole));
}
