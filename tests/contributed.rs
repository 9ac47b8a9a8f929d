//! Graphs that ONNX Runtime's optimiser has been over: operators of its own domain, judged by ONNX Runtime.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use cmira::onnx::proto::attribute_proto::AttributeType;
use cmira::onnx::proto::{AttributeProto, NodeProto, OperatorSetIdProto, TensorProto};
use cmira::onnx::to_proto;
use cmira::tensor::{Kind, Tensor};
use common::{Folder, cmira, node, text, weight};

fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { name: name.into(), type_: AttributeType::FLOAT.into(), f, ..Default::default() }
}

fn words(name: &str, text: &str) -> AttributeProto {
    AttributeProto { name: name.into(), type_: AttributeType::STRING.into(), s: text.as_bytes().to_vec(), ..Default::default() }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { name: name.into(), type_: AttributeType::INTS.into(), ints: values.to_vec(), ..Default::default() }
}

/// A node of ONNX Runtime's domain.
fn own(op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto { domain: "com.microsoft".into(), attribute, ..node(op, inputs, output, &[]) }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), type_: AttributeType::INT.into(), i, ..Default::default() }
}

/// `middle` makes "mixed" out of "tokens" `[N, 36, 8]`, which a convolution gives, and what the classifier reads is their mean.
fn network(middle: Vec<NodeProto>, constants: Vec<TensorProto>, opset: i64) -> cmira::onnx::proto::ModelProto {
    let mut nodes = vec![
        node("Conv", &["images", "filters"], "conv", &[]),
        node("Reshape", &["conv", "rows"], "flat", &[]),
        NodeProto { attribute: vec![ints("perm", &[0, 2, 1])], ..node("Transpose", &["flat"], "tokens", &[]) },
    ];
    nodes.extend(middle);
    nodes.push(NodeProto {
        attribute: vec![ints("axes", &[1]), int("keepdims", 0)],
        ..node("ReduceMean", &["mixed"], "mean", &[])
    });
    nodes.push(node("Gemm", &["mean", "weight"], "scores", &[]));
    let mut initializer = vec![
        weight("filters", &[8, 3, 3, 3], Kind::Float),
        weight("weight", &[8, 10], Kind::Float),
        to_proto("rows", &Tensor::from_slice(&[0_i64, 8, -1])).unwrap(),
    ];
    initializer.extend(constants);
    common::network(nodes, initializer, opset)
}

/// Parity with ONNX Runtime in three batch sizes, and gradients for these many numbers beside the first and the last weight.
fn believed(model: cmira::onnx::proto::ModelProto, trainable: i64) {
    let folder = Folder::new();
    let (code, stdout, stderr) = cmira(&["check", text(&folder.save_model(model)), "--json", "--device", "cpu"]);
    assert_eq!(code, 0, "{stderr}\n{stdout}");
    let found: serde_json::Value = serde_json::from_str(&stdout).expect("one document");
    assert_eq!(found["parameters"]["trainable"], 8 * 27 + 80 + trainable, "{found}");
    assert!(found["parity"]["max_rel"].as_f64().is_some_and(|rel| rel < 1e-5), "{found}");
}

fn w(name: &str, shape: &[i64]) -> TensorProto {
    weight(name, shape, Kind::Float)
}

#[test]
fn fused_convolutions_and_products() {
    for (activation, parameters) in [
        ("Relu", vec![]),
        ("LeakyRelu", vec![0.2]),
        ("Clip", vec![-0.1, 0.3]),
        ("HardSigmoid", vec![0.3, 0.4]),
        ("HardSwish", vec![]),
    ] {
        let floats = AttributeProto {
            name: "activation_params".into(),
            type_: AttributeType::FLOATS.into(),
            floats: parameters.clone(),
            ..Default::default()
        };
        let mut attributes = vec![words("activation", activation), ints("pads", &[1, 1, 1, 1])];
        if !parameters.is_empty() {
            attributes.push(floats);
        }
        let middle = vec![
            own("FusedConv", &["conv", "inner", "bias"], "fused", attributes),
            node("Reshape", &["fused", "rows"], "again", &[]),
            NodeProto { attribute: vec![ints("perm", &[0, 2, 1])], ..node("Transpose", &["again"], "turned", &[]) },
            node("Add", &["turned", "tokens"], "mixed", &[]),
        ];
        believed(network(middle, vec![w("inner", &[8, 8, 3, 3]), w("bias", &[8])], 17), 8 * 72 + 8);
    }
    let product = vec![
        own("FusedMatMul", &["tokens", "square"], "first", vec![int("transB", 1), float("alpha", 0.5)]),
        own("FusedMatMul", &["first", "tokens"], "scores_of", vec![int("transB", 1)]),
        own("FusedMatMul", &["scores_of", "tokens"], "mixed", vec![int("transA", 1), float("alpha", 0.1)]),
    ];
    believed(network(product, vec![w("square", &[8, 8])], 17), 64);
    let gemm = vec![
        node("Reshape", &["tokens", "long"], "long_tokens", &[]),
        own(
            "FusedGemm",
            &["long_tokens", "square", "bias"],
            "dense",
            vec![words("activation", "LeakyRelu"), float("activation_alpha", 0.3), int("transB", 1), float("alpha", 0.7)],
        ),
        node("Reshape", &["dense", "short"], "mixed", &[]),
    ];
    let shapes = [("long", vec![-1_i64, 8]), ("short", vec![-1, 36, 8])]
        .map(|(name, shape)| to_proto(name, &Tensor::from_slice(&shape)).unwrap());
    believed(network(gemm, [w("square", &[8, 8]), w("bias", &[8])].into_iter().chain(shapes).collect(), 17), 72);
}

#[test]
fn normalisations_of_sums() {
    for opset in [13, 17] {
        let mut skip = own(
            "SkipLayerNormalization",
            &["tokens", "turned", "scale", "shift", "bias"],
            "normal",
            vec![float("epsilon", 1e-6)],
        );
        skip.output = ["normal", "", "", "sum"].map(String::from).to_vec();
        let middle = vec![
            node("Mul", &["tokens", "factor"], "turned", &[]),
            skip,
            NodeProto {
                attribute: vec![int("axis", -1)],
                ..node("LayerNormalization", &["sum", "scale2", "shift2"], "second", &[])
            },
            node("Add", &["normal", "second"], "mixed", &[]),
        ];
        let constants = ["factor", "scale", "shift", "bias", "scale2", "shift2"].map(|name| w(name, &[8]));
        believed(network(middle, constants.to_vec(), opset), 48);
    }
    let simplified = vec![
        own("SkipSimplifiedLayerNormalization", &["tokens", "tokens", "scale"], "normal", vec![float("epsilon", 1e-6)]),
        NodeProto {
            attribute: vec![int("axis", -1)],
            ..node("SimplifiedLayerNormalization", &["normal", "scale2"], "mixed", &[])
        },
    ];
    believed(network(simplified, vec![w("scale", &[8]), w("scale2", &[8])], 17), 16);
}

#[test]
fn activations() {
    let middle = vec![
        own("Gelu", &["tokens"], "a", vec![]),
        own("BiasGelu", &["a", "bias"], "b", vec![]),
        own("FastGelu", &["b", "bias2"], "c", vec![]),
        own("QuickGelu", &["c"], "d", vec![float("alpha", 1.5)]),
        own("FastGelu", &["d"], "mixed", vec![]),
    ];
    believed(network(middle, vec![w("bias", &[8]), w("bias2", &[8])], 17), 16);
}

#[test]
fn attention() {
    let packed_at = |opset: i64, attributes: Vec<AttributeProto>| {
        let middle = vec![own("Attention", &["tokens", "qkv", "bias"], "mixed", attributes)];
        network(middle, vec![w("qkv", &[8, 24]), w("bias", &[24])], opset)
    };
    let packed = |attributes: Vec<AttributeProto>| packed_at(17, attributes);
    for opset in [12, 13, 17] {
        believed(packed_at(opset, vec![int("num_heads", 2)]), 8 * 24 + 24);
    }
    believed(packed(vec![int("num_heads", 4), float("scale", 0.3), ints("qkv_hidden_sizes", &[8, 8, 8])]), 8 * 24 + 24);
    let separate = vec![
        node("MatMul", &["tokens", "k"], "keys", &[]),
        node("MatMul", &["tokens", "v"], "values", &[]),
        own("MultiHeadAttention", &["tokens", "keys", "values", "bias"], "mixed", vec![int("num_heads", 2)]),
    ];
    believed(network(separate, vec![w("k", &[8, 8]), w("v", &[8, 8]), w("bias", &[24])], 17), 128 + 24);
}

/// Names that a file has already are not given again.
#[test]
fn names_stay_unique() {
    let middle = vec![
        node("Identity", &["tokens"], "mixed/matmul1", &[]),
        own("Attention", &["mixed/matmul1", "qkv", "bias"], "mixed", vec![int("num_heads", 2)]),
    ];
    believed(network(middle, vec![w("qkv", &[8, 24]), w("bias", &[24])], 17), 8 * 24 + 24);
}

/// Sizes that do not fit are the file's fault.
#[test]
fn sizes_that_do_not_fit_are_malformed() {
    let product = |n: i64| {
        let attributes = vec![int("K", 8), int("N", n), int("bits", 4), int("block_size", 16)];
        own("MatMulNBits", &["tokens", "packed", "scales"], "mixed", attributes)
    };
    let packed = to_proto("packed", &Tensor::zeros([8, 1, 8], (Kind::Uint8, cmira::tensor::Device::Cpu))).unwrap();
    for node in [product(1 << 28), product(9), own("Attention", &["tokens", "qkv", "bias"], "mixed", vec![int("num_heads", 3)])] {
        let constants = vec![packed.clone(), w("scales", &[8]), w("qkv", &[8, 24]), w("bias", &[24])];
        let folder = Folder::new();
        let (code, _, stderr) =
            cmira(&["check", text(&folder.save_model(network(vec![node], constants, 17))), "--device", "cpu"]);
        assert_eq!((code, stderr.lines().count()), (3, 1), "{stderr}");
    }
}

/// What is not known is refused by name, never guessed.
#[test]
fn settings_that_are_not_known_are_refused() {
    let cases = [
        (own("FusedConv", &["conv", "inner"], "mixed", vec![words("activation", "Mish")]), "activation 'Mish'"),
        (own("Attention", &["tokens", "qkv", "bias", "mask"], "mixed", vec![int("num_heads", 2)]), "with a mask"),
        (
            own("Attention", &["tokens", "qkv", "bias"], "mixed", vec![int("num_heads", 2), int("unidirectional", 1)]),
            "looks back only",
        ),
        (own("SkipLayerNormalization", &["tokens", "tokens", "scale"], "mixed", vec![int("novelty", 1)]), "'novelty'"),
        (own("ReorderInput", &["tokens"], "mixed", vec![]), "ReorderInput"),
    ];
    for (mut node, reason) in cases {
        if node.op_type == "ReorderInput" {
            node.domain = "com.microsoft.nchwc".into();
        }
        let constants = vec![
            w("inner", &[8, 8, 1, 1]),
            w("qkv", &[8, 24]),
            w("bias", &[24]),
            w("scale", &[8]),
            to_proto("mask", &Tensor::from_slice(&[36_i32])).unwrap(),
        ];
        let mut model = network(vec![node], constants, 17);
        model.opset_import.push(OperatorSetIdProto { domain: "com.microsoft.nchwc".into(), version: 1, ..Default::default() });
        let folder = Folder::new();
        let (code, _, stderr) = cmira(&["check", text(&folder.save_model(model)), "--device", "cpu"]);
        assert_eq!((code, stderr.lines().count()), (4, 1), "{stderr}");
        assert!(stderr.contains(reason), "{stderr}");
    }
}
