//! The models that the repository ships, trained, unlearned and exported by the frameworks that people use, audited as a user would.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).expect("the file is there")).expect("it is JSON")
}

fn manifest() -> Value {
    serde_yaml::from_str(&std::fs::read_to_string(root().join("fixtures/manifest.yaml")).expect("the file is there"))
        .expect("YAML")
}

/// One audit uses every core; two at once slow each other down many times.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs the audit of one fixture and compares it with what is stored.
fn audit(name: &str) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let expected = &json(&root().join("fixtures/expected.json"))[name];
    let text = |key: &str| expected[key].as_str().expect(key);
    let framework = text("framework");
    let out = tempfile::tempdir().expect("a scratch folder");
    let output = Command::new(env!("CARGO_BIN_EXE_cmira"))
        .current_dir(root())
        .args(["audit", "--model", &format!("fixtures/models/{name}.onnx")])
        .args(["--adapter", &format!("adapters/{framework}/adapter.yaml")])
        .args(["--forget", "fixtures/images/forget", "--probe", "fixtures/images/probe"])
        .args(["--settings", &format!("fixtures/{}", text("settings"))])
        .args(["--device", "cpu", "--quiet", "--no-control", "--out"])
        .arg(out.path())
        .output()
        .expect("the binary starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let run = json(&out.path().join("run.json"));

    // What the framework itself measured when it made the model: before the attack nothing is left to chance.
    let manifest = &manifest()[framework];
    let (measured, sha256) = match framework {
        "pytorch" => (&manifest["accuracy"]["ga"]["forget"], &manifest["sha256"]["models/pytorch_ga.onnx"]),
        _ => (&manifest["accuracy"]["unlearned"]["forget"], &manifest["sha256"]),
    };
    let acc_u = run["acc_u"].as_f64().expect("a number");
    assert!((acc_u - measured.as_f64().expect("a number")).abs() < 0.01, "{acc_u} instead of {measured}");
    assert_eq!(run["provenance"]["model_sha256"], *sha256);

    // Training amplifies the last bit, in which processors differ: the file says how far each figure may be away.
    let figures = expected["figures"].as_object().expect("figures by name");
    assert!(!figures.is_empty());
    for (figure, stored) in figures {
        let (seen, value) = (run[figure].as_f64().expect(figure), stored["value"].as_f64().expect(figure));
        let within = stored["within"].as_f64().expect(figure);
        assert!((seen - value).abs() <= within, "{figure} is {seen}, stored is {value} +- {within}");
    }
    for table in ["table1.csv", "table2.csv", "table3.csv", "results.csv", "predictions.csv", "recovered.onnx"] {
        assert!(out.path().join(table).is_file(), "{table}");
    }
}

#[test]
fn a_model_from_pytorch() {
    audit("pytorch_ga");
}

/// Channels last, bytes scaled inside, normalisation folded away, a softmax at the end.
#[test]
fn a_model_from_keras() {
    audit("keras_ga");
}

/// Channels last, in a recent opset.
#[test]
fn a_model_from_jax() {
    audit("jax_ga");
}

/// Normalisation kept, in an old opset.
#[test]
fn a_model_from_paddle() {
    audit("paddle_ga");
}

/// Rows of numbers, a scaler, labels and a map of probabilities.
#[test]
fn a_model_from_scikit_learn() {
    audit("sklearn_rt");
}

#[test]
fn every_fixture_is_audited_and_accounted_for() {
    let expected = json(&root().join("fixtures/expected.json"));
    for entry in std::fs::read_dir(root().join("fixtures/models")).expect("the folder") {
        let name = entry.expect("an entry").file_name().to_string_lossy().replace(".onnx", "");
        // The retrained model is the control of the demonstration.
        assert!(name == "pytorch_rt" || expected[&name].is_object(), "{name}");
    }
}
