//! The picture that `cmira check --dot` draws.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use cmira::onnx::proto::tensor_proto::DataType;
use cmira::onnx::to_proto;
use cmira::tensor::{Kind, Tensor};
use common::{Folder, cmira, node, text, value, weight};

/// A batch size that was baked in is opened at one Reshape, which is the one in the repairs' colour.
#[test]
fn what_was_repaired_stands_out() {
    let folder = Folder::new();
    let nodes = vec![
        node("Conv", &["images", "filters"], "conv", &[]),
        node("Reshape", &["conv", "shape"], "flat", &[]),
        node("Gemm", &["flat", "a \"quoted\" weight"], "scores", &[]),
    ];
    let constants = vec![
        weight("filters", &[8, 3, 3, 3], Kind::Float),
        to_proto("shape", &Tensor::from_slice(&[1_i64, 288])).unwrap(),
        weight("a \"quoted\" weight", &[288, 10], Kind::Float),
    ];
    let path = folder.save(nodes, value("images", DataType::FLOAT, &[1, 3, 8, 8]), DataType::FLOAT, constants);
    let picture = folder.path("graph.dot");
    let (code, _, stderr) = cmira(&["check", text(&path), "--device", "cpu", "--dot", text(&picture)]);
    assert_eq!(code, 0, "{stderr}");
    let dot = std::fs::read_to_string(&picture).expect("the picture");
    let of = |what: &str| dot.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("no {what} in {dot}"));
    let (repaired, trained) = ("#ffd28a", "#d6ecd2");
    assert!(of("label=\"Reshape").contains(repaired), "{dot}");
    assert!(of("label=\"Conv\\nfilters [8, 3, 3, 3]").contains(trained), "{dot}");
    assert!(of("label=\"Gemm\\na \\\"quoted\\\" weight").contains(trained), "{dot}");
    assert_eq!(dot.matches(" -> ").count(), 4, "image, three nodes, scores: {dot}");
    assert!(of("repairs [").contains("batch size 1"), "{dot}");
    assert!(dot.starts_with("digraph") && dot.trim_end().ends_with('}'));
}

/// A file stands where a folder should be.
#[test]
fn a_picture_that_cannot_be_written_is_an_error() {
    let model = "fixtures/models/pytorch_ga.onnx";
    let (code, _, stderr) = cmira(&["check", model, "--device", "cpu", "--dot", "Cargo.toml/graph.dot"]);
    assert!(code != 0 && stderr.contains("Cargo.toml") && stderr.lines().count() == 1, "{code} {stderr}");
}
