//! An interrupted audit goes on where it stopped, and ends with the same bytes as one that was not interrupted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use cmira::attack::{AttackSettings, Progress, Variant};
use cmira::data::draw::{DrawOptions, draw};
use cmira::data::{Adapter, FolderOptions, ImageSet, read_folder};
use cmira::error::ErrorKind;
use cmira::graph::Model;
use cmira::harness::audit::{Audit, Outcome, run};
use cmira::harness::kept::Keep;
use cmira::nets::Backbone;
use cmira::tensor::{Device, set_threads};
use cmira::train::TrainSettings;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/witness/small_cnn.onnx");

fn settings() -> AttackSettings {
    let train = |epochs, learning_rate| TrainSettings { epochs, learning_rate, batch_size: 16, ..TrainSettings::default() };
    AttackSettings {
        backbone: Backbone::Resnet8,
        head_width: 16,
        pretrain: train(3, 0.05),
        mutual: train(1, 0.01),
        iterations: 3,
        confidence_threshold: 0.1,
        ..AttackSettings::default()
    }
}

/// Stops after `steps` finished epochs, if that many come.
fn attempt(results: &Path, forget: &ImageSet, probe: &ImageSet, steps: Option<usize>) -> Result<Outcome, cmira::error::Error> {
    set_threads(1);
    let model = Model::open(Path::new(MODEL), Device::Cpu)?;
    let (adapter, settings) = (Adapter::default(), settings());
    let variants = [Variant::PU, Variant::PUA];
    let audit = Audit {
        model: &model,
        forget,
        probe,
        adapter: &adapter,
        settings: &settings,
        variants: &variants,
        results,
        stage_one_of: None,
        device: Device::Cpu,
        keep: Keep::NOTHING,
        identity: None,
    };
    let (stop, seen) = (AtomicBool::new(false), Cell::new(0));
    let mut report = |progress: &Progress| {
        if matches!(progress, Progress::Training { event: cmira::train::Event::Epoch { .. }, .. }) {
            seen.set(seen.get() + 1);
            stop.store(steps == Some(seen.get()), Ordering::SeqCst);
        }
    };
    run(&audit, &mut report, &stop)
}

#[test]
fn interruptions_leave_no_trace_in_the_results() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let options = DrawOptions { train_per_class: 3, test_per_class: 4, ..DrawOptions::default() };
    draw(&folder.path().join("drawn"), &options, &mut |_| ()).expect("images can be drawn");
    let read = |name: &str| {
        read_folder(&folder.path().join("drawn").join(name), &FolderOptions::default(), &mut |_| ()).expect("drawn images")
    };
    let (forget, probe) = (read("train"), read("test"));
    let whole = attempt(&folder.path().join("whole"), &forget, &probe, None).expect("an audit");
    let broken = folder.path().join("broken");
    // Three interruptions in different stages: while pretraining, and in both variants' iterations.
    let mut interruptions = 0;
    let resumed = loop {
        match attempt(&broken, &forget, &probe, (interruptions < 6).then_some(2)) {
            Ok(outcome) => break outcome,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
                assert!(error.to_string().contains("again"), "{error}");
                interruptions += 1;
            }
        }
    };
    assert!(interruptions >= 3, "{interruptions}");
    for (a, b) in whole.variants.iter().zip(&resumed.variants) {
        assert_eq!(a.course.iterations, b.course.iterations);
        assert_eq!(a.course.attack, b.course.attack);
        assert_eq!(a.course.best, b.course.best);
        for ((name, left), (_, right)) in
            a.unlearned.state().expect("a state").0.iter().zip(&b.unlearned.state().expect("a state").0)
        {
            assert!(left.f_equal(right).expect("comparable tensors"), "{name}");
        }
    }
}
