//! What ONNX defines by other operators is rewritten, and means the same: ONNX Runtime is the judge.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;

use cmira::onnx::proto::attribute_proto::AttributeType;
use cmira::onnx::proto::tensor_proto::DataType;
use cmira::onnx::proto::{AttributeProto, FunctionProto, GraphProto, NodeProto, OperatorSetIdProto};
use cmira::tensor::{Kind, Tensor};
use common::{Folder, classifier, cmira, model, node, text, value, weights};

const OWN: &str = "my.functions";

fn opset(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: domain.into(), version, ..Default::default() }
}

/// A node that takes an attribute from the function's caller.
fn referring(mut node: NodeProto, attribute: &str, kind: AttributeType) -> NodeProto {
    let name = attribute.to_string();
    node.attribute.push(AttributeProto { name: name.clone(), ref_attr_name: name, type_: kind.into(), ..Default::default() });
    node
}

fn call(name: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto { domain: OWN.into(), ..node(name, inputs, output, &[]) }
}

fn function(name: &str, inputs: &[&str], outputs: &[&str], nodes: Vec<NodeProto>) -> FunctionProto {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_string()).collect();
    FunctionProto {
        name: name.into(),
        domain: OWN.into(),
        input: names(inputs),
        output: names(outputs),
        node: nodes,
        opset_import: vec![opset("", 17), opset(OWN, 1)],
        ..Default::default()
    }
}

fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { name: name.into(), type_: AttributeType::FLOAT.into(), f, ..Default::default() }
}

fn save(folder: &Folder, nodes: Vec<NodeProto>, functions: Vec<FunctionProto>) -> std::path::PathBuf {
    let graph = GraphProto {
        name: "g".into(),
        node: nodes,
        input: vec![value("images", DataType::FLOAT, &[-1, 3, 32, 32])],
        output: vec![value("scores", DataType::FLOAT, &[-1, 10])],
        initializer: weights(Kind::Float),
        ..Default::default()
    };
    let mut model = model(graph);
    model.opset_import.push(opset(OWN, 1));
    model.functions = functions;
    folder.save_model(model)
}

fn check(path: &Path) -> (i32, serde_json::Value, String) {
    let (code, stdout, stderr) = cmira(&["check", text(path), "--json", "--device", "cpu"]);
    (code, serde_json::from_str(&stdout).expect("one document"), stderr)
}

/// Two calls with different slopes, one by the function's default; one calls another function and has names of its own that the
/// model uses as well.
#[test]
fn functions_are_their_nodes() {
    let folder = Folder::new();
    let mut leaky = call("Activate", &["conv"], "active");
    leaky.attribute.push(float("alpha", 0.3));
    let nodes = classifier(vec![leaky, call("Activate", &["active"], "features")]);
    let mut activate = function(
        "Activate",
        &["x"],
        &["y"],
        vec![referring(node("LeakyRelu", &["x"], "conv", &[]), "alpha", AttributeType::FLOAT), call("Halve", &["conv"], "y")],
    );
    activate.attribute_proto = vec![float("alpha", 0.7)];
    let halve = function(
        "Halve",
        &["x"],
        &["half"],
        vec![
            NodeProto { attribute: vec![float("value_float", 0.5)], ..node("Constant", &[], "factor", &[]) },
            node("Mul", &["x", "factor"], "half", &[]),
        ],
    );
    let path = save(&folder, nodes, vec![activate, halve]);
    let (code, found, stderr) = check(&path);
    assert_eq!(code, 0, "{stderr}");
    assert!(found["parity"]["max_rel"].as_f64().is_some_and(|error| error < 1e-5), "{found}");
    assert_eq!(found["operators"]["my.functions.Activate"], 2, "{found}");
    assert!(found["repairs"].to_string().contains("4 calls of the model's own functions"), "{found}");
}

#[test]
fn functions_without_end_are_refused() {
    let folder = Folder::new();
    let nodes = || classifier(vec![call("F0", &["conv"], "features")]);
    let itself = function("F0", &["x"], &["y"], vec![call("F0", &["x"], "y")]);
    let (code, _, stderr) = check(&save(&folder, nodes(), vec![itself]));
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("call themselves"), "{stderr}");

    // Ten calls each, forty deep: more nodes than there are atoms in the model's computer.
    let many = (0..40).map(|level| {
        let next = format!("F{}", level + 1);
        let names: Vec<String> = std::iter::once("x".into()).chain((0..9).map(|i| format!("v{i}"))).chain(["y".into()]).collect();
        let calls = names.windows(2).map(|pair| call(&next, &[pair[0].as_str()], &pair[1])).collect();
        function(&format!("F{level}"), &["x"], &["y"], calls)
    });
    let last = function("F40", &["x"], &["y"], vec![node("Relu", &["x"], "y", &[])]);
    let (code, _, stderr) = check(&save(&folder, nodes(), many.chain([last]).collect()));
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("nodes"), "{stderr}");
}

#[test]
fn a_function_for_another_opset_is_not_misread() {
    let folder = Folder::new();
    let mut other = function("Activate", &["x"], &["y"], vec![node("Relu", &["x"], "y", &[])]);
    other.opset_import = vec![opset("", 12)];
    let (code, _, stderr) = check(&save(&folder, classifier(vec![call("Activate", &["conv"], "features")]), vec![other]));
    assert_eq!(code, 4, "{stderr}");
    assert!(stderr.contains("opset 12"), "{stderr}");
}

/// Channels are taken apart into a sequence, turned around, and joined, as exporters write loops over `torch.split`.
#[test]
fn sequences_of_known_content_are_their_values() {
    let folder = Folder::new();
    let split = node("SplitToSequence", &["conv", "two"], "pieces", &[("axis", 1)]);
    let at = |position: &str, output: &str| node("SequenceAt", &["pieces", position], output, &[]);
    let middle = vec![
        split,
        at("last", "b"),
        at("first", "a"),
        node("SequenceEmpty", &[], "none", &[]),
        node("SequenceInsert", &["none", "b"], "one", &[]),
        node("SequenceInsert", &["one", "a"], "both", &[]),
        node("ConcatFromSequence", &["both"], "features", &[("axis", 1)]),
    ];
    let mut initializer = weights(Kind::Float);
    for (name, value) in [("two", 4_i64), ("first", -2), ("last", 1)] {
        initializer.push(cmira::onnx::to_proto(name, &Tensor::from_slice(&[value]).reshape([0_i64; 0])).unwrap());
    }
    let graph = GraphProto {
        name: "g".into(),
        node: classifier(middle),
        input: vec![value("images", DataType::FLOAT, &[-1, 3, 32, 32])],
        output: vec![value("scores", DataType::FLOAT, &[-1, 10])],
        value_info: vec![value("conv", DataType::FLOAT, &[-1, 8, 30, 30])],
        initializer,
        ..Default::default()
    };
    let (code, found, stderr) = check(&folder.save_model(model(graph)));
    assert_eq!(code, 0, "{stderr}");
    assert!(found["parity"]["max_rel"].as_f64().is_some_and(|error| error < 1e-5), "{found}");
    assert!(found["repairs"].to_string().contains("7 operations on sequences"), "{found}");
}
