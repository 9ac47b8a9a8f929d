//! Networks that round what they compute are compared with ONNX Runtime place by place, so that a small fault is not taken for rounding.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::PathBuf;

use cmira::check::{PARITY_TOLERANCE, Witness, compare_on, parity};
use cmira::error::ErrorKind;
use cmira::graph::Model;
use cmira::onnx::proto::NodeProto;
use cmira::onnx::{self, to_proto};
use cmira::tensor::{Device, Kind, Tensor};
use common::{Folder, network, node, weight};

fn scalar(name: &str, number: f32) -> onnx::proto::TensorProto {
    to_proto(name, &Tensor::from_slice(&[number]).reshape([0_i64; 0])).unwrap()
}

fn rounded(input: &str, output: &str) -> [NodeProto; 2] {
    let bytes = format!("{output}_bytes");
    [
        node("QuantizeLinear", &[input, &format!("{output}_scale"), "zero"], &bytes, &[]),
        node("DequantizeLinear", &[&bytes, &format!("{output}_scale"), "zero"], output, &[]),
    ]
}

/// Two layers between rounded numbers; the scale of the first one's weights is multiplied by `error`, and `lone` is added to the first
/// of them, of which one hidden number of 400 is made.
fn save(folder: &Folder, name: &str, error: f32, lone: i64) -> PathBuf {
    let mut nodes = vec![node("Flatten", &["images"], "flat", &[])];
    nodes.extend(rounded("flat", "x"));
    nodes.push(node("DequantizeLinear", &["first", "first_scale"], "first_float", &[]));
    nodes.push(node("Gemm", &["x", "first_float"], "sums", &[]));
    nodes.push(node("Relu", &["sums"], "relu", &[]));
    nodes.extend(rounded("relu", "hidden"));
    nodes.push(node("Gemm", &["hidden", "weight"], "plain", &[]));
    nodes.extend(rounded("plain", "scores"));
    let first = onnx::from_proto(&weight("first", &[192, 400], Kind::Float)).unwrap();
    let mut first = (first * 200.0).round();
    let _ = first.get(0).get(0).g_add_scalar_(lone);
    first = first.to_kind(Kind::Int8);
    let mut constants = vec![
        to_proto("first", &first).unwrap(),
        scalar("first_scale", 0.005 * error),
        weight("weight", &[400, 10], Kind::Float),
        to_proto("zero", &Tensor::from_slice(&[0_i64]).to_kind(Kind::Int8).reshape([0_i64; 0])).unwrap(),
    ];
    constants.extend([("x_scale", 0.03), ("hidden_scale", 0.05), ("scores_scale", 0.2)].map(|(name, scale)| scalar(name, scale)));
    let path = folder.path(name);
    onnx::save(&network(nodes, constants, 17), &path).unwrap();
    path
}

fn open(path: &std::path::Path) -> Model {
    Model::open(path, Device::Cpu).unwrap()
}

#[test]
fn every_place_is_compared_as_finely_as_without_rounding() {
    let folder = Folder::new();
    let path = save(&folder, "model.onnx", 1.0, 0);
    let model = open(&path);
    let images = parity::random_images(&[50, 3, 8, 8]).unwrap();
    let found = parity::compare(&model, &mut Witness::open(&path, model.report()).unwrap(), &images).unwrap();
    assert!(found.holds(), "{found}");
    assert!(found.tolerance <= PARITY_TOLERANCE);
    let rounding = found.rounding.unwrap();
    assert_eq!((rounding.places, rounding.numbers), (3, 50 * (192 + 400 + 10)));
    assert!(rounding.differ <= 3, "{rounding:?}");
}

/// What is said of a model whose file is then exchanged for another.
fn fault(error: f32, lone: i64) -> String {
    let folder = Folder::new();
    let model = open(&save(&folder, "model.onnx", 1.0, 0));
    let other = save(&folder, "other.onnx", error, lone);
    let error = compare_on(&other, &model, &parity::random_images(&[50, 3, 8, 8]).unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Disagree);
    error.to_string()
}

/// Two parts in a thousand of a scale move no result by more than a step, and a few in a hundred by one.
#[test]
fn a_fault_smaller_than_a_step_is_found_by_how_many_it_moves() {
    let error = fault(1.002, 0);
    assert!(error.contains("'hidden_bytes' differs from ONNX Runtime's in"), "{error}");
}

/// One weight moves one result in 400, by several steps.
#[test]
fn a_fault_in_few_places_is_found_by_how_far_it_moves_them() {
    let error = fault(1.0, 100);
    assert!(error.contains("'hidden_bytes' differs by"), "{error}");
}

/// As PyTorch's exporter writes activations of 7 bits, and weights that are moved on their way to where they are dequantised.
#[test]
fn gradients_pass_cut_off_bytes_and_moved_weights_are_trained() {
    let folder = Folder::new();
    let bytes =
        |name: &str, number: i64| to_proto(name, &Tensor::from_slice(&[number]).to_kind(Kind::Int8).reshape([0_i64; 0])).unwrap();
    let mut turned = node("Transpose", &["first"], "turned", &[]);
    turned.attribute.push(onnx::proto::AttributeProto {
        name: "perm".into(),
        type_: onnx::proto::attribute_proto::AttributeType::INTS.into(),
        ints: vec![1, 0],
        ..Default::default()
    });
    let nodes = vec![
        node("Flatten", &["images"], "flat", &[]),
        turned,
        node("Identity", &["first_scale"], "same_scale", &[]),
        node("DequantizeLinear", &["turned", "same_scale"], "first_float", &[]),
        node("Gemm", &["flat", "first_float"], "sums", &[]),
        node("QuantizeLinear", &["sums", "step", "zero"], "all", &[]),
        node("Clip", &["all", "least", "most"], "cut", &[]),
        node("DequantizeLinear", &["cut", "step", "zero"], "hidden", &[]),
        node("Gemm", &["hidden", "weight"], "scores", &[]),
    ];
    let first = onnx::from_proto(&weight("first", &[40, 192], Kind::Float)).unwrap();
    let constants = vec![
        to_proto("first", &(first * 200.0).round().to_kind(Kind::Int8)).unwrap(),
        scalar("first_scale", 0.005),
        scalar("step", 0.05),
        bytes("zero", 0),
        bytes("least", -30),
        bytes("most", 40),
        weight("weight", &[40, 10], Kind::Float),
    ];
    let path = folder.path("model.onnx");
    onnx::save(&network(nodes, constants, 17), &path).unwrap();
    let (code, stdout, stderr) = common::cmira(&["check", common::text(&path), "--json", "--device", "cpu"]);
    assert_eq!(code, 0, "{stderr}");
    let found: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(found["parameters"]["trainable"], 192 * 40 + 400, "{found}");
}
