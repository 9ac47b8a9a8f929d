//! The model that the repository ships, trained, unlearned and exported by PyTorch, audited as a user would.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).expect("the file is there")).expect("it is JSON")
}

#[test]
fn the_fixtures_audit_comes_out_as_stored() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().expect("a scratch folder");
    let status = Command::new(env!("CARGO_BIN_EXE_cmira"))
        .current_dir(root)
        .args(["audit", "--model", "fixtures/models/pytorch_ga.onnx", "--adapter", "adapters/pytorch/adapter.yaml"])
        .args(["--forget", "fixtures/images/forget", "--probe", "fixtures/images/probe", "--settings", "fixtures/demo.yaml"])
        .args(["--device", "cpu", "--quiet", "--out"])
        .arg(out.path())
        .status()
        .expect("the binary starts");
    assert!(status.success());
    let run = json(&out.path().join("run.json"));
    let manifest = json(&root.join("fixtures/manifest.json"));
    let expected = json(&root.join("fixtures/expected.json"));

    // What PyTorch measured when it made the model: before the attack nothing is left to chance.
    let acc_u = run["acc_u"].as_f64().expect("a number");
    assert!((acc_u - manifest["accuracy"]["ga"]["forget"].as_f64().expect("a number")).abs() < 0.01, "{acc_u}");
    assert_eq!(run["provenance"]["model_sha256"], manifest["sha256"]["models/pytorch_ga.onnx"]);

    // Training amplifies the last bit, in which processors differ: the file says how far each figure may be away.
    let figures = expected["figures"].as_object().expect("figures by name");
    assert!(!figures.is_empty());
    for (name, figure) in figures {
        let (seen, value) = (run[name].as_f64().expect(name), figure["value"].as_f64().expect(name));
        let within = figure["within"].as_f64().expect(name);
        assert!((seen - value).abs() <= within, "{name} is {seen}, stored is {value} +- {within}");
    }
    for table in ["table1.csv", "table2.csv", "table3.csv", "results.csv", "predictions.csv", "recovered.onnx"] {
        assert!(out.path().join(table).is_file(), "{table}");
    }
}
