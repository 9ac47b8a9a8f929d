//! `cmira unlearn`: what is written beside the model, and what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::PathBuf;

use cmira::data::draw::{DrawOptions, draw};
use common::{Folder, cmira, text};
use serde_json::Value;

/// Drawn images and a model that was trained on them for a moment.
fn trained() -> (Folder, PathBuf, PathBuf) {
    let folder = Folder::new();
    let options = DrawOptions { train_per_class: 6, test_per_class: 3, size: 16, ..DrawOptions::default() };
    draw(&folder.path("drawn"), &options, &mut |_| ()).unwrap();
    let (train, model) = (folder.path("drawn/train"), folder.path("original.onnx"));
    let (code, _, errors) =
        cmira(&["train", "--data", text(&train), "--epochs", "2", "--out", text(&model), "--quiet", "--device", "cpu"]);
    assert_eq!(code, 0, "{errors}");
    (folder, train, model)
}

#[test]
fn settings_calibration_and_scores_are_recorded() {
    let (folder, train, model) = trained();
    let (test, out) = (folder.path("drawn/test"), folder.path("ff.onnx"));
    let mut arguments = vec!["unlearn", "--model", text(&model), "--data", text(&train), "--forget-classes", "ring,disc"];
    arguments.extend(["--test", text(&test), "--quiet", "--device", "cpu", "--method", "ff", "--out", text(&out)]);
    let (code, said, errors) = cmira(&[arguments.as_slice(), &["--calibrate", "0.5,1", "--margin", "100"]].concat());
    assert_eq!(code, 0, "{errors}");
    assert!(said.contains("alpha 1: retain accuracy") && said.contains("(chosen)"), "{said}");
    let record: Value = serde_json::from_slice(&std::fs::read(folder.path("ff.unlearning.json")).unwrap()).unwrap();
    assert_eq!(record["method"], "FF");
    assert_eq!(record["calibration"]["strength"], 1.0);
    assert_eq!(record["settings"]["alpha"], 1.0, "the settings are those that were used");
    assert_eq!(record["calibration"]["candidates"].as_array().unwrap().len(), 2);
    for score in ["forget", "retain", "test", "mia_efficacy"] {
        assert!(record["scores"][score].as_f64().is_some_and(|value| (0.0..=100.0).contains(&value)), "{score}");
    }
    // The split can be audited: three of six images of two classes.
    let split = std::fs::read_to_string(folder.path("ff.split.csv")).unwrap();
    assert_eq!(split.lines().filter(|line| line.starts_with("forget,")).count(), 6);
    // Given, the strength is not looked for, and the same one gives the same model.
    let again = folder.path("again.onnx");
    *arguments.last_mut().unwrap() = text(&again);
    let (code, said, errors) = cmira(&[arguments.as_slice(), &["--alpha", "1"]].concat());
    assert_eq!(code, 0, "{errors}");
    assert!(!said.contains("chosen"), "{said}");
    let weights = |path: &PathBuf| {
        let model = cmira::graph::Model::open(path, cmira::tensor::Device::Cpu).unwrap();
        model.params().iter().flat_map(|p| cmira::tensor::to_f32s(&p.tensor).unwrap()).collect::<Vec<f32>>()
    };
    assert!(weights(&again) == weights(&out) && weights(&again) != weights(&model));
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let (folder, train, model) = trained();
    let out = folder.path("x.onnx");
    let refused = |more: &[&str], code: i32, said: &str| {
        let mut arguments = vec!["unlearn", "--model", text(&model), "--out", text(&out), "--quiet", "--device", "cpu"];
        arguments.extend(more);
        let (found, _, errors) = cmira(&arguments);
        assert_eq!(found, code, "{more:?}: {errors}");
        assert!(errors.contains(said), "{more:?}: {errors}");
        assert!(!out.exists(), "{more:?}");
    };
    let data = ["--data", text(&train), "--forget-classes", "ring"];
    let with = |more: &[&'static str]| [data.as_slice(), more].concat();
    refused(&with(&["--method", "ff", "--lr", "0.1"]), 2, "--lr means nothing to FF");
    refused(&with(&["--method", "ga", "--augment"]), 2, "--augment means nothing to GA");
    refused(&with(&["--method", "ft", "--calibrate", "1"]), 2, "--calibrate means nothing to FT");
    refused(&with(&["--method", "iu", "--alpha", "1", "--calibrate", "1"]), 2, "exclude each other");
    refused(&with(&["--method", "wp", "--sparsity", "1"]), 2, "sparsity is 1");
    refused(&with(&["--method", "iu", "--alpha", "1e30"]), 1, "no longer finite");
    refused(&["--data", text(&train), "--method", "ft", "--forget-classes", "disk"], 2, "no class 'disk'");
    // Images of other classes than the model's.
    let one = folder.path("one/a");
    std::fs::create_dir_all(&one).unwrap();
    for entry in std::fs::read_dir(train.join("ring")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), one.join(entry.file_name())).unwrap();
    }
    let images = folder.path("one");
    refused(&["--data", text(&images), "--method", "ft", "--forget-classes", "a"], 6, "10 classes apart and the images have 1");
}
