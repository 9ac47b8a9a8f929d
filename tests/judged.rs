//! What `check` and `audit` make of models that are valid but unusual, and of inputs that are no images.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use cmira::graph::{Mode, Model};
use cmira::onnx::proto::attribute_proto::AttributeType;
use cmira::onnx::proto::tensor_proto::DataType;
use cmira::onnx::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto};
use cmira::onnx::{self, to_proto};
use cmira::tensor::{Device, Kind, Tensor, no_grad};

use common::{Folder, audit, classifier, cmira, node, text, value, weight, weights};

#[test]
fn half_precision_is_compared_in_half_precision() {
    let folder = Folder::new();
    let input = value("images", DataType::FLOAT16, &[-1, 3, 32, 32]);
    let nodes = classifier(vec![node("Relu", &["conv"], "features", &[])]);
    let path = folder.save(nodes, input, DataType::FLOAT16, weights(Kind::Half));
    let (code, stdout, stderr) = cmira(&["check", text(&path), "--json", "--device", "cpu"]);
    assert_eq!(code, 0, "{stderr}");
    let found: serde_json::Value = serde_json::from_str(&stdout).expect("one document");
    assert_eq!(found["parity"]["tolerance"], 1e-2);
    let error = found["parity"]["max_rel"].as_f64().expect("a number");
    // Half precision is used, and used right.
    assert!(error < 5e-3, "{error}");
}

#[test]
fn an_input_that_is_no_batch_of_images_is_refused() {
    let folder = Folder::new();
    let mut sequence = ValueInfoProto { name: "images".into(), ..Default::default() };
    sequence.type_.mut_or_insert_default().mut_sequence_type();
    let untyped = ValueInfoProto { name: "images".into(), ..Default::default() };
    for (input, expected, reason) in [
        (value("images", DataType::FLOAT, &[1, 3, -8, 8]), 3, "declares a dimension of -8"),
        (value("images", DataType::FLOAT, &[1, 3, 0, 8]), 3, "declares a dimension of 0"),
        (value("images", DataType::FLOAT, &[]), 4, "0 dimensions"),
        (value("images", DataType::INT64, &[1, 3, 8, 8]), 4, "not a float type"),
        (sequence, 4, "is no tensor"),
        (untyped, 3, "declares no type"),
    ] {
        let nodes = classifier(vec![node("Relu", &["conv"], "features", &[])]);
        let path = folder.save(nodes, input, DataType::FLOAT, weights(Kind::Float));
        let (code, _, stderr) = cmira(&["check", text(&path), "--device", "cpu"]);
        assert_eq!((code, stderr.lines().count()), (expected, 1), "{stderr}");
        assert!(stderr.contains(reason) && stderr.contains("model.onnx"), "{stderr}");
    }
}

/// BatchNormalization that is left in training mode normalises by the batch in ONNX Runtime, which the attack's evaluation does not.
#[test]
fn a_model_that_onnx_runtime_contradicts_is_not_attacked() {
    let folder = Folder::new();
    let mut normalise = node("BatchNormalization", &["conv", "one", "zero", "mean", "one"], "features", &[("training_mode", 1)]);
    normalise.output.extend(["mean.new".to_string(), "variance.new".to_string()]);
    let mut constants = weights(Kind::Float);
    for (name, number) in [("one", 1.0_f32), ("zero", 0.0), ("mean", 0.25)] {
        constants.push(to_proto(name, &Tensor::from_slice(&[number; 8])).expect("a small tensor"));
    }
    let input = value("images", DataType::FLOAT, &[-1, 3, 32, 32]);
    let path = folder.save(classifier(vec![normalise]), input, DataType::FLOAT, constants);
    let (code, _, stderr) = audit(&folder, &path, 2, &[]);
    assert_eq!(code, 5, "{stderr}");
    assert!(stderr.contains("libtorch and ONNX Runtime disagree on the images"), "{stderr}");
    assert!(!folder.path("out/results.csv").exists());
}

/// A mask that the graph puts together from constants stands where a bias could stand, but nobody trained it.
#[test]
fn masks_made_of_constants_are_not_trained() {
    let folder = Folder::new();
    let mut constants = weights(Kind::Float);
    constants.push(weight("zeros", &[8, 1, 1], Kind::Float));
    constants.push(weight("updates", &[2, 1, 1], Kind::Float));
    constants.push(to_proto("places", &Tensor::from_slice(&[1_i64, 6]).reshape([2, 1])).expect("a small tensor"));
    let middle =
        vec![node("ScatterND", &["zeros", "places", "updates"], "mask", &[]), node("Add", &["conv", "mask"], "features", &[])];
    let input = value("images", DataType::FLOAT, &[-1, 3, 32, 32]);
    let path = folder.save(classifier(middle), input, DataType::FLOAT, constants);
    let (code, stdout, stderr) = cmira(&["check", text(&path), "--list", "--device", "cpu", "--quiet"]);
    assert_eq!(code, 0, "{stderr}");
    let trainable: Vec<&str> = stdout.lines().filter(|line| line.starts_with("trainable ")).collect();
    assert_eq!(trainable.len(), 2, "{trainable:?}");
    assert!(trainable[0].contains("filters") && trainable[1].contains("weight"), "{trainable:?}");
}

fn with_graph(name: &str, nodes: Vec<NodeProto>, output: &str, initializer: Vec<TensorProto>) -> AttributeProto {
    let output = vec![ValueInfoProto { name: output.into(), ..Default::default() }];
    let graph = GraphProto { name: name.into(), node: nodes, output, initializer, ..Default::default() };
    AttributeProto { name: name.into(), type_: AttributeType::GRAPH.into(), g: Some(graph).into(), ..Default::default() }
}

/// A choice by the brightness of the batch, between what stands in `branch` (from "conv" to "branch") and the convolution's own result.
fn choice(branch: Vec<NodeProto>, initializer: Vec<TensorProto>) -> Vec<NodeProto> {
    let mut choose = node("If", &["bright"], "features", &[]);
    choose.attribute.push(with_graph("then_branch", branch, "branch", initializer));
    choose.attribute.push(with_graph("else_branch", vec![node("Identity", &["conv"], "plain", &[])], "plain", vec![]));
    classifier(vec![
        node("ReduceMean", &["images"], "mean", &[("keepdims", 0)]),
        node("Greater", &["mean", "threshold"], "bright", &[]),
        choose,
    ])
}

fn threshold() -> TensorProto {
    to_proto("threshold", &Tensor::from_slice(&[-100.0_f32]).reshape([0_i64; 0])).expect("a small tensor")
}

#[test]
fn branches_read_the_graph_around_them_and_let_gradients_through() {
    let folder = Folder::new();
    let half = to_proto("half", &Tensor::from_slice(&[0.5_f32])).expect("a small tensor");
    let branch = vec![node("Mul", &["conv", "half"], "scaled", &[]), node("Relu", &["scaled"], "branch", &[])];
    let mut constants = weights(Kind::Float);
    constants.push(threshold());
    let input = value("images", DataType::FLOAT, &[-1, 3, 8, 8]);
    let path = folder.save(choice(branch, vec![half]), input, DataType::FLOAT, constants);
    let (code, stdout, stderr) = cmira(&["check", text(&path), "--json", "--device", "cpu"]);
    assert_eq!(code, 0, "{stderr}");
    let found: serde_json::Value = serde_json::from_str(&stdout).expect("one document");
    assert!(found["parity"]["max_rel"].as_f64().expect("a number") < 1e-5, "{found}");
    assert_eq!(found["operators"]["Relu"], 1, "operators in subgraphs are counted");
}

/// A weight in a subgraph is trained, wherever it is stored: inside, as an initializer or a node, or outside and moved on its way.
#[test]
fn weights_of_branches_are_trained_and_exported() {
    let folder = Folder::new();
    let mut constant = node("Constant", &[], "inner.node", &[]);
    let tensor = Some(weight("", &[8, 8, 1, 1], Kind::Float)).into();
    constant.attribute.push(AttributeProto {
        name: "value".into(),
        type_: AttributeType::TENSOR.into(),
        t: tensor,
        ..Default::default()
    });
    let branch = vec![
        constant,
        node("Conv", &["conv", "inner"], "first", &[]),
        node("Conv", &["first", "inner.node"], "second", &[]),
        node("Conv", &["second", "turned"], "third", &[]),
        node("Mul", &["third", "outer.scale"], "branch", &[]),
    ];
    let mut constants = weights(Kind::Float);
    constants.extend([threshold(), weight("outer", &[8, 8, 1, 1], Kind::Float), weight("outer.scale", &[8, 1, 1], Kind::Float)]);
    let input = value("images", DataType::FLOAT, &[-1, 3, 8, 8]);
    let mut nodes = choice(branch, vec![weight("inner", &[8, 8, 1, 1], Kind::Float)]);
    nodes.insert(0, node("Transpose", &["outer"], "turned", &[("perm", 0)]));
    nodes[0].attribute[0].type_ = AttributeType::INTS.into();
    nodes[0].attribute[0].ints = vec![1, 0, 2, 3];
    let path = folder.save(nodes, input, DataType::FLOAT, constants);

    let model = Model::open(&path, Device::Cpu).unwrap();
    let mut names: Vec<&str> = model.params().iter().map(|param| param.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["filters", "inner.lifted", "inner.node.lifted", "outer", "outer.scale", "weight"]);
    let (code, stdout, stderr) = cmira(&["check", text(&path), "--json", "--device", "cpu"]);
    assert_eq!(code, 0, "{stderr}");
    let found: serde_json::Value = serde_json::from_str(&stdout).expect("one document");
    assert_eq!(found["parameters"]["trainable_tensors"], 6, "{found}");

    // A step along the gradient changes what is exported as it changes the model.
    let images = cmira::check::parity::random_images(&[4, 3, 8, 8]).unwrap();
    model.forward(&images, Mode::Train).unwrap().square().sum(Kind::Float).backward();
    for param in model.params() {
        let gradient = param.tensor.grad();
        assert!(gradient.abs().max().double_value(&[]) > 0.0, "{}", param.name);
        let _guard = no_grad();
        let _ = param.tensor.shallow_clone().g_sub_(&(gradient * 1e-3));
    }
    let exported = folder.path("exported.onnx");
    onnx::save(&model.to_onnx().unwrap(), &exported).unwrap();
    let theirs = cmira::check::Witness::open(&exported, model.report()).unwrap().run(&images).unwrap();
    let ours = model.output(&images).unwrap().to_kind(Kind::Double);
    assert!((ours - &theirs).abs().max().double_value(&[]) < 1e-5 * theirs.abs().max().double_value(&[]));
}

/// A branch that the images do not take leaves its weights without gradients, which is no fault of the import.
#[test]
fn a_branch_that_is_not_taken_is_said() {
    let folder = Folder::new();
    let mut constants = weights(Kind::Float);
    constants.push(to_proto("threshold", &Tensor::from_slice(&[100.0_f32]).reshape([0_i64; 0])).expect("a small tensor"));
    let branch = vec![node("Conv", &["conv", "inner"], "branch", &[])];
    let nodes = choice(branch, vec![weight("inner", &[8, 8, 1, 1], Kind::Float)]);
    let path = folder.save(nodes, value("images", DataType::FLOAT, &[-1, 3, 8, 8]), DataType::FLOAT, constants);
    let (code, stdout, stderr) = cmira(&["check", text(&path), "--json", "--device", "cpu"]);
    assert_eq!(code, 0, "{stderr}");
    let found: serde_json::Value = serde_json::from_str(&stdout).expect("one document");
    assert_eq!(found["gradients"]["not_run"].to_string(), r#"["inner.lifted"]"#, "{found}");
}

/// What is computed once, and away from where weights stand, is listed by the names in the file.
#[test]
fn constants_that_are_used_up_are_listed() {
    let folder = Folder::new();
    let mut constants = weights(Kind::Float);
    constants.push(weight("written", &[2, 4], Kind::Float));
    constants.push(to_proto("row", &Tensor::from_slice(&[8_i64, 1, 1])).expect("a small tensor"));
    let middle = vec![
        node("Reshape", &["written", "row"], "column", &[]),
        node("Greater", &["conv", "column"], "above", &[]),
        node("Where", &["above", "conv", "zero"], "features", &[]),
    ];
    constants.push(to_proto("zero", &Tensor::from_slice(&[0.0_f32]).reshape([0_i64; 0])).expect("a small tensor"));
    let path = folder.save(classifier(middle), value("images", DataType::FLOAT, &[-1, 3, 8, 8]), DataType::FLOAT, constants);
    let (code, stdout, stderr) = cmira(&["check", text(&path), "--list", "--device", "cpu"]);
    assert_eq!(code, 0, "{stderr}");
    let own = |line: &&str| line.starts_with("frozen") && line.contains("written") && line.contains("served only to compute");
    assert_eq!(stdout.lines().filter(own).count(), 1, "{stdout}");
}

/// Integers that a branch dequantises are listed, and their scale is no weight.
#[test]
fn scales_inside_a_branch_are_not_trained() {
    let folder = Folder::new();
    let integers = onnx::from_proto(&weight("integers", &[8, 8, 1, 1], Kind::Float)).expect("a small tensor");
    let inside = vec![
        to_proto("integers", &(integers * 200.0).round().to_kind(Kind::Int8)).expect("a small tensor"),
        to_proto("step", &Tensor::from_slice(&[0.005_f32]).reshape([0_i64; 0])).expect("a small tensor"),
    ];
    let branch =
        vec![node("DequantizeLinear", &["integers", "step"], "inner", &[]), node("Conv", &["conv", "inner"], "branch", &[])];
    let mut constants = weights(Kind::Float);
    constants.push(threshold());
    let path = folder.save(choice(branch, inside), value("images", DataType::FLOAT, &[-1, 3, 8, 8]), DataType::FLOAT, constants);
    let model = Model::open(&path, Device::Cpu).unwrap();
    let names: Vec<&str> = model.params().iter().map(|param| param.name.as_str()).collect();
    assert_eq!(names, ["filters", "weight"]);
    assert!(model.report().frozen.iter().any(|tensor| tensor.name == "integers"), "{:?}", model.report().frozen);
}

/// What an operator takes as its weight is trained, also if it was put together; a mask with infinities is not.
#[test]
fn weights_put_together_by_a_condition_are_trained() {
    let folder = Folder::new();
    let tensor = |name: &str, tensor: &Tensor| to_proto(name, tensor).expect("a small tensor");
    let mask = Tensor::from_slice(&[true, false]).repeat([4]);
    let infinite = Tensor::from_slice(&[0.0_f32, f32::NEG_INFINITY]).repeat([5]);
    let mut nodes = classifier(vec![node("Relu", &["conv"], "features", &[])]);
    let last = nodes.last_mut().expect("the scores");
    last.input[1] = "chosen".into();
    last.output[0] = "sums".into();
    nodes.insert(0, node("Where", &["mask", "one", "other"], "chosen", &[]));
    nodes.push(node("Max", &["sums", "infinite"], "scores", &[]));
    let constants = vec![
        weight("filters", &[8, 3, 3, 3], Kind::Float),
        tensor("mask", &mask.reshape([8, 1])),
        weight("one", &[8, 10], Kind::Float),
        weight("other", &[8, 10], Kind::Float),
        tensor("infinite", &infinite),
    ];
    let path = folder.save(nodes, value("images", DataType::FLOAT, &[-1, 3, 8, 8]), DataType::FLOAT, constants);
    let model = Model::open(&path, Device::Cpu).unwrap();
    let names: Vec<&str> = model.params().iter().map(|param| param.name.as_str()).collect();
    assert_eq!(names, ["filters", "one", "other"]);
    let frozen = model.report().frozen.iter().find(|tensor| tensor.name == "infinite").expect("a line of its own");
    assert!(frozen.reason.contains("a mask"), "{frozen:?}");
}

/// Hours of work on a model that cannot change would end in nothing.
#[test]
fn a_model_that_no_gradient_reaches_is_not_attacked() {
    let folder = Folder::new();
    let middle = vec![
        node("Cast", &["conv"], "whole", &[("to", DataType::INT32 as i64)]),
        node("Cast", &["whole"], "features", &[("to", DataType::FLOAT as i64)]),
    ];
    let mut nodes = classifier(middle);
    nodes.last_mut().expect("the scores").output[0] = "sums".into();
    nodes.push(node("Cast", &["sums"], "cut", &[("to", DataType::INT32 as i64)]));
    nodes.push(node("Cast", &["cut"], "scores", &[("to", DataType::FLOAT as i64)]));
    let path = folder.save(nodes, value("images", DataType::FLOAT, &[-1, 3, 32, 32]), DataType::FLOAT, weights(Kind::Float));
    let (code, _, stderr) = audit(&folder, &path, 1, &[]);
    assert_eq!(code, 4, "{stderr}");
    assert!(stderr.contains("no gradient passes"), "{stderr}");
}

#[test]
fn an_endless_loop_is_refused() {
    let folder = Folder::new();
    let mut endless = node("Loop", &["", "go", "conv"], "features", &[]);
    let mut body = with_graph("body", vec![], "still", vec![]);
    let graph = body.g.as_mut().expect("just made");
    for name in ["round", "still", "carried"] {
        graph.input.push(ValueInfoProto { name: name.into(), ..Default::default() });
    }
    graph.output.push(ValueInfoProto { name: "carried".into(), ..Default::default() });
    endless.attribute.push(body);
    let mut constants = weights(Kind::Float);
    constants.push(to_proto("go", &Tensor::from_slice(&[true])).expect("a small tensor"));
    let input = value("images", DataType::FLOAT, &[-1, 3, 8, 8]);
    let path = folder.save(classifier(vec![endless]), input, DataType::FLOAT, constants);
    let (code, _, stderr) = cmira(&["check", text(&path), "--device", "cpu"]);
    assert_eq!((code, stderr.lines().count()), (3, 1), "{stderr}");
    assert!(stderr.contains("a loop of more than"), "{stderr}");
}

/// Weights as most quantised files have them: integers with a scale for each filter, or floats that are rounded in the graph.
#[test]
fn quantised_weights_are_trained_as_floats_and_exported() {
    let folder = Folder::new();
    let tensor = |name: &str, tensor: &Tensor| to_proto(name, tensor).expect("a small tensor");
    let filters = Tensor::arange(8 * 27, (Kind::Int64, Device::Cpu)).remainder(251) - 125;
    let constants = vec![
        tensor("integers", &filters.reshape([8, 3, 3, 3]).to_kind(Kind::Int8)),
        tensor("scales", &Tensor::linspace(0.002, 0.004, 8, (Kind::Float, Device::Cpu))),
        tensor("zeros", &Tensor::zeros([8], (Kind::Int8, Device::Cpu))),
        weight("floats", &[8, 10], Kind::Float),
        tensor("step", &Tensor::from_slice(&[0.005_f32]).reshape([0_i64; 0])),
        tensor("zero", &Tensor::zeros([0_i64; 0], (Kind::Int8, Device::Cpu))),
    ];
    let mut nodes = vec![
        node("DequantizeLinear", &["integers", "scales", "zeros"], "filters", &[("axis", 0)]),
        node("QuantizeLinear", &["floats", "step", "zero"], "rounded", &[]),
        node("DequantizeLinear", &["rounded", "step", "zero"], "weight", &[]),
    ];
    nodes.extend(classifier(vec![node("Relu", &["conv"], "features", &[])]));
    let input = value("images", DataType::FLOAT, &[-1, 3, 8, 8]);
    let path = folder.save(nodes, input, DataType::FLOAT, constants);
    let (code, stdout, stderr) = cmira(&["check", text(&path), "--json", "--device", "cpu"]);
    assert_eq!(code, 0, "{stderr}");
    let found: serde_json::Value = serde_json::from_str(&stdout).expect("one document");
    assert_eq!(found["parameters"]["trainable"], 8 * 27 + 80, "{found}");
    assert!(found["repairs"][0].as_str().is_some_and(|text| text.starts_with("2 quantised weights")), "{found}");

    // What training changes is in the exported file, which ONNX Runtime runs.
    let model = Model::open(&path, Device::Cpu).expect("the model");
    let images = Tensor::ones([2, 3, 8, 8], (Kind::Float, Device::Cpu));
    let before = model.forward(&images, Mode::Eval).expect("logits");
    {
        let _guard = no_grad();
        for param in model.params() {
            let _ = param.tensor.shallow_clone().g_mul_scalar_(0.5);
        }
    }
    let exported = folder.path("exported.onnx");
    onnx::save(&model.to_onnx().expect("a graph"), &exported).expect("the scratch folder is writable");
    let (code, _, stderr) = cmira(&["check", text(&exported), "--device", "cpu"]);
    assert_eq!(code, 0, "{stderr}");
    let again = Model::open(&exported, Device::Cpu).expect("the exported model");
    let after = again.forward(&images, Mode::Eval).expect("logits");
    assert!((after - before * 0.25).abs().max().double_value(&[]) < 1e-5);
}
