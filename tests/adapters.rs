//! Adapter files: their schema, the ones that the repository ships, and the ones that are suggested.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;

use cmira::data::Adapter;
use common::{cmira, text};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_schema_is_up_to_date() {
    let path = root().join("docs/adapter.schema.json");
    if std::env::var_os("CMIRA_BLESS").is_some() {
        std::fs::write(&path, Adapter::json_schema()).expect("the folder is writable");
    }
    let stored = std::fs::read_to_string(&path).expect("the schema");
    assert!(stored == Adapter::json_schema(), "`CMIRA_BLESS=1 cargo test --test adapters` makes it anew");
    for field in ["batch_norm", "flat_nhwc", "log_probabilities", "additionalProperties"] {
        assert!(stored.contains(field), "{field}");
    }
}

#[test]
fn every_adapter_that_is_shipped_is_valid() {
    let mut count = 0;
    for entry in std::fs::read_dir(root().join("adapters")).expect("the folder") {
        let path = entry.expect("an entry").path().join("adapter.yaml");
        if path.is_file() {
            let adapter = Adapter::read(&path).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(adapter.classes.map(|classes| classes.len()), Some(10), "{}", path.display());
            count += 1;
        }
    }
    assert_eq!(count, 5);
}

/// What is suggested for a model can be used as it is, and says what the graph tells.
#[test]
fn a_first_adapter_is_suggested() {
    let folder = tempfile::tempdir().unwrap();
    for (fixture, told) in [
        ("keras_ga", &["layout: nhwc", "scale: 1\n", "output: probabilities", "batch_norm: reinsert"][..]),
        ("jax_ga", &["layout: nhwc", "mean: [0.5, 0.5, 0.5]", "output: logits"]),
        ("pytorch_ga", &["channels: 3", "height: 32", "output: logits"]),
    ] {
        let model = root().join(format!("fixtures/models/{fixture}.onnx"));
        let (code, suggested, stderr) = cmira(&["check", text(&model), "--suggest"]);
        assert_eq!(code, 0, "{stderr}");
        for line in told {
            assert!(suggested.contains(line), "{fixture}: '{line}' is missing in\n{suggested}");
        }
        let file = folder.path().join("adapter.yaml");
        std::fs::write(&file, &suggested).unwrap();
        assert_eq!(Adapter::read(&file).unwrap().classes.unwrap().len(), 10);
        let (code, _, stderr) = cmira(&["check", text(&model), "--adapter", text(&file), "--json", "--device", "cpu"]);
        assert_eq!(code, 0, "{stderr}");
    }
}
