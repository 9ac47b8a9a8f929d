//! Models go back to files that others can read, and say how they came about.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use cmira::graph::{Mode, Model};
use cmira::onnx::proto::attribute_proto::AttributeType;
use cmira::onnx::proto::tensor_proto::{DataLocation, DataType};
use cmira::onnx::proto::{AttributeProto, ModelProto, StringStringEntryProto};
use cmira::onnx::{self, Limits, to_proto};
use cmira::tensor::{Device, Kind, Tensor, no_grad};
use common::{Folder, classifier, cmira, node, text, value, weight, weights};

fn small(folder: &Folder) -> std::path::PathBuf {
    let nodes = classifier(vec![node("Relu", &["conv"], "features", &[])]);
    let path = folder.save(nodes, value("images", DataType::FLOAT, &[-1, 3, 32, 32]), DataType::FLOAT, weights(Kind::Float));
    let mut model = read(&path);
    let note = |key: &str, value: &str| StringStringEntryProto { key: key.into(), value: value.into(), ..Default::default() };
    model.metadata_props = vec![note("author", "somebody"), note("cmira.version", "from another life")];
    folder.save_model(model)
}

fn read(path: &Path) -> ModelProto {
    onnx::read(path, &Limits::default()).expect("a model").model
}

fn run(arguments: &[&str]) -> String {
    let (code, _, stderr) = cmira(arguments);
    assert_eq!(code, 0, "{stderr}");
    stderr
}

fn scores(path: &Path) -> Tensor {
    let _guard = no_grad();
    let images = cmira::check::parity::random_images(&[3, 3, 32, 32]).unwrap();
    Model::open(path, Device::Cpu).expect("a classifier").forward(&images, Mode::Eval).unwrap()
}

#[test]
fn names_metadata_and_values_are_kept() {
    let folder = Folder::new();
    let (path, out) = (small(&folder), folder.path("out.onnx"));
    let said = run(&["export", text(&path), "--out", text(&out), "--device", "cpu"]);
    assert!(said.contains("compared with ONNX Runtime: largest error"), "{said}");
    let (before, after) = (read(&path), read(&out));
    assert_eq!(before.graph.node, after.graph.node);
    assert_eq!(before.opset_import, after.opset_import);
    let names = |model: &ModelProto| model.graph.initializer.iter().map(|t| t.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&before), names(&after));
    let note = |key: &str| after.metadata_props.iter().filter(|e| e.key == key).map(|e| e.value.as_str()).collect::<Vec<_>>();
    assert_eq!(note("author"), ["somebody"]);
    assert_eq!(note("cmira.version"), [env!("CARGO_PKG_VERSION")], "what an earlier export said is replaced");
    assert_eq!(note("cmira.exported_from_sha256").len(), 1);
    assert_eq!(scores(&path), scores(&out));
}

#[test]
fn external_data_stay_external() {
    let folder = Folder::new();
    let nodes = classifier(vec![node("Relu", &["conv"], "features", &[])]);
    let big = vec![weight("filters", &[64, 3, 3, 3], Kind::Float), weight("weight", &[64, 10], Kind::Float)];
    let path = folder.save(nodes, value("images", DataType::FLOAT, &[-1, 3, 32, 32]), DataType::FLOAT, big);
    let (source, out) = (folder.path("source.onnx"), folder.path("out.onnx"));
    onnx::save_with_data(read(&path), &source).unwrap();
    let locations = |path: &Path| -> BTreeSet<String> {
        let model = read(path);
        let tensors = model.graph.initializer.iter();
        let external = tensors.filter(|tensor| tensor.data_location.enum_value() == Ok(DataLocation::EXTERNAL));
        external.map(|tensor| tensor.external_data[0].value.clone()).collect()
    };
    assert_eq!(locations(&source), BTreeSet::from(["source.onnx.data".to_string()]));
    run(&["export", text(&source), "--out", text(&out), "--device", "cpu"]);
    assert_eq!(locations(&out), BTreeSet::from(["out.onnx.data".to_string()]));
    assert_eq!(scores(&path), scores(&out));
    assert!(std::fs::metadata(&out).unwrap().len() < 4096, "the values are in one file only");
}

#[test]
fn weights_alone_are_safetensors() {
    let folder = Folder::new();
    let (path, out) = (small(&folder), folder.path("weights.safetensors"));
    run(&["export", text(&path), "--out", text(&out), "--device", "cpu"]);
    let stored = Tensor::read_safetensors(&out).expect("safetensors");
    let names: BTreeSet<&str> = stored.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, BTreeSet::from(["filters", "weight"]));
    let (code, _, stderr) = cmira(&["export", text(&path), "--out", "/nowhere/weights.safetensors", "--device", "cpu"]);
    assert!(code != 0 && stderr.contains("/nowhere"), "{stderr}");
}

/// Protobuf's third edition leaves a zero out, and the checker of the onnx package then finds no value in the attribute.
#[test]
fn a_constant_of_zero_keeps_its_value() {
    let folder = Folder::new();
    let mut zero = node("Constant", &[], "axis", &[]);
    zero.attribute.push(AttributeProto {
        name: "value_int".into(),
        type_: AttributeType::INT.into(),
        i: 0,
        ..Default::default()
    });
    // Indices of channels, in their own order.
    let mut initializer = weights(Kind::Float);
    initializer.push(to_proto("order", &Tensor::arange(8, (Kind::Int64, Device::Cpu))).unwrap());
    let nodes = classifier(vec![
        zero,
        node("Add", &["order", "axis"], "moved", &[]),
        node("Gather", &["conv", "moved"], "features", &[("axis", 1)]),
    ]);
    let path = folder.save(nodes, value("images", DataType::FLOAT, &[-1, 3, 32, 32]), DataType::FLOAT, initializer);
    let out = folder.path("out.onnx");
    run(&["export", text(&path), "--out", text(&out), "--device", "cpu"]);
    let model = read(&out);
    let constant = model.graph.node.iter().find(|node| node.op_type == "Constant").expect("the constant");
    assert_eq!(constant.attribute[0].name, "value");
    assert_eq!(scores(&path), scores(&out));
}

/// A statistic that the graph computes from constants is a tensor of its own by the time the model goes back.
#[test]
fn a_statistic_that_was_computed_is_not_defined_twice() {
    let folder = Folder::new();
    let mut initializer = weights(Kind::Float);
    let ones = Tensor::ones([8], (Kind::Float, Device::Cpu));
    for (name, tensor) in [("scale", &ones), ("variance", &(&ones * 2.0)), ("half", &(&ones * 0.5)), ("offset", &(&ones * 0.1))] {
        initializer.push(to_proto(name, tensor).unwrap());
    }
    let nodes = classifier(vec![
        node("Sub", &["half", "offset"], "mean", &[]),
        node("BatchNormalization", &["conv", "scale", "offset", "mean", "variance"], "features", &[]),
    ]);
    let path = folder.save(nodes, value("images", DataType::FLOAT, &[-1, 3, 32, 32]), DataType::FLOAT, initializer);
    let out = folder.path("out.onnx");
    let said = run(&["export", text(&path), "--out", text(&out), "--device", "cpu"]);
    assert!(said.contains("compared with ONNX Runtime: largest error"), "{said}");
    assert_eq!(scores(&path), scores(&out));
}

/// Tools write nodes in any order; the standard wants each behind what it reads.
#[test]
fn nodes_are_written_in_order() {
    let folder = Folder::new();
    let mut nodes = classifier(vec![node("Relu", &["conv"], "features", &[])]);
    nodes.reverse();
    let path = folder.save(nodes, value("images", DataType::FLOAT, &[-1, 3, 32, 32]), DataType::FLOAT, weights(Kind::Float));
    let out = folder.path("out.onnx");
    run(&["export", text(&path), "--out", text(&out), "--device", "cpu"]);
    let order: Vec<String> = read(&out).graph.node.iter().map(|node| node.op_type.clone()).collect();
    assert_eq!(order, ["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]);
    assert_eq!(scores(&path), scores(&out));
}
