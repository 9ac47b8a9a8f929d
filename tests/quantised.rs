//! Networks that round what they compute: ONNX Runtime's results, gradients that pass, and weights that are trained as floats.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use cmira::check::witness::Witness;
use cmira::graph::{ImportOptions, Mode, Model, QuantizationRepair, Repairs};
use cmira::onnx::proto::tensor_proto::DataType;
use cmira::onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto};
use cmira::onnx::{self, Limits, to_proto};
use cmira::tensor::{Device, Kind, Tensor, no_grad, rng};
use common::{Folder, classifier, cmira, model, network, node, text, value, weight};

fn scalar(name: &str, number: f32) -> TensorProto {
    to_proto(name, &Tensor::from_slice(&[number]).reshape([0_i64; 0])).unwrap()
}

fn zero(name: &str, number: i64, kind: Kind) -> TensorProto {
    to_proto(name, &Tensor::from_slice(&[number]).to_kind(kind).reshape([0_i64; 0])).unwrap()
}

/// Integers between -100 and 100 that follow no pattern.
fn integers(name: &str, shape: &[i64]) -> TensorProto {
    let numbers = onnx::from_proto(&weight(name, shape, Kind::Float)).unwrap();
    to_proto(name, &(numbers * 200.0).round().to_kind(Kind::Int8)).unwrap()
}

fn domain(mut node: NodeProto, domain: &str) -> NodeProto {
    node.domain = domain.into();
    node
}

fn save(folder: &Folder, nodes: Vec<NodeProto>, initializer: Vec<TensorProto>) -> std::path::PathBuf {
    folder.save_model(network(nodes, initializer, 17))
}

/// What `cmira check` says, which is that the import can be believed.
fn believed(path: &std::path::Path) -> serde_json::Value {
    let (code, stdout, stderr) = cmira(&["check", text(path), "--json", "--device", "cpu"]);
    assert_eq!(code, 0, "{stderr}\n{stdout}");
    serde_json::from_str(&stdout).expect("one document")
}

/// A convolution between rounded numbers, and rounded features that are moved as integers before they are floats again.
fn rounded_network() -> (Vec<NodeProto>, Vec<TensorProto>) {
    let mut nodes = vec![
        node("QuantizeLinear", &["images", "image_scale", "image_zero"], "image_bytes", &[]),
        node("DequantizeLinear", &["image_bytes", "image_scale", "image_zero"], "rounded", &[]),
        node("DequantizeLinear", &["filter_bytes", "filter_scale", "filter_zero"], "filters", &[]),
    ];
    let middle = vec![
        node("Relu", &["conv"], "relu", &[]),
        node("QuantizeLinear", &["relu", "scale", "zero"], "bytes", &[]),
        node("Transpose", &["bytes"], "turned", &[]),
        node("Transpose", &["turned"], "back", &[]),
        node("DequantizeLinear", &["back", "scale", "zero"], "features", &[]),
    ];
    nodes.extend(classifier(middle));
    for node in nodes.iter_mut().filter(|node| node.op_type == "Conv") {
        node.input[0] = "rounded".into();
    }
    let constants = vec![
        scalar("image_scale", 0.03),
        zero("image_zero", 120, Kind::Uint8),
        integers("filter_bytes", &[8, 3, 3, 3]),
        scalar("filter_scale", 0.005),
        zero("filter_zero", 0, Kind::Int8),
        scalar("scale", 0.02),
        zero("zero", 3, Kind::Uint8),
        weight("weight", &[8, 10], Kind::Float),
    ];
    (nodes, constants)
}

#[test]
fn gradients_pass_through_rounding_and_numbers_stay_those_of_onnx_runtime() {
    let folder = Folder::new();
    let (nodes, constants) = rounded_network();
    let found = believed(&save(&folder, nodes, constants));
    assert_eq!(found["parameters"]["trainable"], 8 * 27 + 80, "{found}");
}

/// The straight-through estimator: what lies within the type's range has the gradient that it would have without rounding, what lies
/// beyond has none.
#[test]
fn the_gradient_is_that_of_the_network_without_rounding_within_the_range() {
    let folder = Folder::new();
    let build = |rounds: bool| {
        let mut nodes = vec![node("Flatten", &["images"], "flat", &[]), node("Gemm", &["flat", "first"], "hidden", &[])];
        if rounds {
            nodes.push(node("QuantizeLinear", &["hidden", "scale", "zero"], "bytes", &[]));
            nodes.push(node("DequantizeLinear", &["bytes", "scale", "zero"], "features", &[]));
        } else {
            // The range of the type, [-128, 127] steps.
            nodes.push(node("Clip", &["hidden", "least", "greatest"], "features", &[]));
        }
        nodes.push(node("Gemm", &["features", "weight"], "scores", &[]));
        let mut constants = vec![weight("first", &[192, 6], Kind::Float), weight("weight", &[6, 10], Kind::Float)];
        if rounds {
            constants.extend([scalar("scale", 0.01), zero("zero", 0, Kind::Int8)]);
        } else {
            constants.extend([scalar("least", -1.28), scalar("greatest", 1.27)]);
        }
        Model::open(&save(&folder, nodes, constants), Device::Cpu).unwrap()
    };
    let images = images(4);
    let gradient = |model: &Model| {
        let logits = model.forward(&images, Mode::Eval).unwrap();
        // Weights of the sum that do not depend on the rounding.
        logits.g_mul(&Tensor::arange(10, (Kind::Float, Device::Cpu)).sin()).sum(Kind::Float).backward();
        model.params().iter().find(|param| param.name == "first").unwrap().tensor.grad()
    };
    let (rounded, clipped) = (gradient(&build(true)), gradient(&build(false)));
    assert!(rounded.abs().max().double_value(&[]) > 0.1);
    assert!((rounded - clipped).abs().max().double_value(&[]) < 1e-5);
}

fn images(count: i64) -> Tensor {
    use rand::Rng;
    let mut rng = rng(3, "test images", 0);
    let numbers: Vec<f32> = (0..count * 192).map(|_| rng.random::<f32>() * 4.0 - 2.0).collect();
    Tensor::from_slice(&numbers).reshape([count, 3, 8, 8])
}

/// On request, weights are rounded in every pass: a change of less than half a step does nothing, but is not lost.
#[test]
fn fake_quantisation_keeps_weights_on_their_steps() {
    let folder = Folder::new();
    let (nodes, constants) = rounded_network();
    let path = save(&folder, nodes, constants);
    let import = |quantization: QuantizationRepair| {
        let repairs = Repairs { quantization, ..Default::default() };
        let options = ImportOptions { repairs, ..Default::default() };
        Model::import(onnx::read(&path, &Limits::default()).unwrap(), &options, Device::Cpu).unwrap()
    };
    let (free, fake) = (import(QuantizationRepair::Dequantize), import(QuantizationRepair::Fake));
    let images = images(3);
    let before = fake.forward(&images, Mode::Eval).unwrap();
    assert!((&before - free.forward(&images, Mode::Eval).unwrap()).abs().max().double_value(&[]) < 1e-6);

    let nudge = |model: &Model, by: f64| {
        let _guard = no_grad();
        let filters = model.params().iter().find(|param| param.tensor.dim() == 4).expect("filters");
        let _ = filters.tensor.shallow_clone().g_add_scalar_(by);
    };
    // 0.4 of a step, then together 0.8 of one.
    nudge(&fake, 0.002);
    nudge(&free, 0.002);
    assert!((fake.forward(&images, Mode::Eval).unwrap() - &before).abs().max().double_value(&[]) < 1e-6);
    assert!((free.forward(&images, Mode::Eval).unwrap() - &before).abs().max().double_value(&[]) > 1e-3);
    nudge(&fake, 0.002);
    let after = fake.forward(&images, Mode::Eval).unwrap();
    assert!((&after - &before).abs().max().double_value(&[]) > 1e-3);
    after.sum(Kind::Float).backward();
    for param in fake.params() {
        assert!(param.tensor.grad().abs().max().double_value(&[]) > 0.0, "{}", param.name);
    }

    // What is exported rounds as well, and is what ONNX Runtime computes.
    let exported = folder.path("exported.onnx");
    onnx::save(&fake.to_onnx().unwrap(), &exported).unwrap();
    believed(&exported);
    let again = Model::open(&exported, Device::Cpu).unwrap();
    assert!((again.forward(&images, Mode::Eval).unwrap() - after).abs().max().double_value(&[]) < 1e-5);
}

/// Integers that something is computed with stay integers, with their own overflow.
#[test]
fn integers_that_are_computed_with_stay_integers() {
    let folder = Folder::new();
    let (mut nodes, constants) = rounded_network();
    let turned = nodes.iter().position(|node| node.output == ["turned"]).unwrap();
    nodes[turned] = node("Add", &["bytes", "bytes"], "turned", &[]);
    nodes[turned + 1] = node("Identity", &["turned"], "back", &[]);
    let model = Model::open(&save(&folder, nodes, constants), Device::Cpu).unwrap();
    let images = images(2);
    let logits = model.forward(&images, Mode::Eval).unwrap();
    assert!(logits.isfinite().all().int64_value(&[]) == 1);
    // No gradient reaches what is in front of them, and the check says so.
    let (code, _, stderr) = cmira(&["check", text(&folder.path("model.onnx")), "--device", "cpu"]);
    assert_eq!(code, 5, "{stderr}");
    assert!(stderr.contains("no gradient"), "{stderr}");
}

#[test]
fn products_of_integers_train_in_the_size_of_weights() {
    let folder = Folder::new();
    // As ONNX Runtime's dynamic quantisation writes a linear layer.
    let mut multiplied = node("DynamicQuantizeLinear", &["flat"], "bytes", &[]);
    multiplied.output = ["bytes", "bytes_scale", "bytes_zero"].map(String::from).to_vec();
    let nodes = vec![
        node("Conv", &["images", "filters"], "conv", &[]),
        node("Flatten", &["conv"], "flat", &[]),
        multiplied,
        node("MatMulInteger", &["bytes", "weight_bytes", "bytes_zero", "weight_zero"], "product", &[]),
        node("Cast", &["product"], "floats", &[("to", DataType::FLOAT as i64)]),
        node("Mul", &["bytes_scale", "weight_scale"], "scales", &[]),
        node("Mul", &["floats", "scales"], "scores", &[]),
    ];
    let constants = vec![
        weight("filters", &[8, 3, 3, 3], Kind::Float),
        integers("weight_bytes", &[288, 10]),
        zero("weight_zero", 2, Kind::Int8),
        scalar("weight_scale", 0.004),
    ];
    let path = save(&folder, nodes, constants);
    let found = believed(&path);
    assert_eq!(found["parameters"]["trainable"], 8 * 27 + 2880, "{found}");
    let model = Model::open(&path, Device::Cpu).unwrap();
    let largest = |shape: &[i64]| {
        let param = model.params().iter().find(|param| param.tensor.size() == shape).expect("the weight");
        param.tensor.abs().max().double_value(&[])
    };
    assert!((0.2..0.5).contains(&largest(&[288, 10])), "weights as they act, not as they are stored");
}

/// A graph of operators on quantised tensors, as ONNX Runtime's static quantisation writes it.
#[test]
fn quantised_operators_are_read_as_what_they_stand_for() {
    let folder = Folder::new();
    let microsoft = |op: &str, inputs: &[&str], output: &str, attributes: &[(&str, i64)]| {
        domain(node(op, inputs, output, attributes), "com.microsoft")
    };
    let nodes = vec![
        node("QuantizeLinear", &["images", "s0", "z0"], "x0", &[]),
        node("QLinearConv", &["x0", "s0", "z0", "filters", "filter_scales", "filter_zeros", "s1", "z1", "bias"], "x1", &[]),
        microsoft("QLinearLeakyRelu", &["x1", "s1", "z1", "s1", "z1"], "x2", &[]),
        microsoft("QLinearAdd", &["x1", "s1", "z1", "x2", "s1", "z1", "s2", "z2"], "x3", &[]),
        microsoft("QLinearMul", &["x3", "s2", "z2", "x1", "s1", "z1", "s2", "z2"], "x4", &[]),
        microsoft("QLinearSigmoid", &["x4", "s2", "z2", "s3", "z3"], "x5", &[]),
        microsoft("QLinearConcat", &["s2", "z2", "x5", "s3", "z3", "x4", "s2", "z2"], "x6", &[("axis", 1)]),
        node("MaxPool", &["x6"], "x7", &[]),
        microsoft("QLinearGlobalAveragePool", &["x7", "s2", "z2", "s2", "z2"], "x8", &[("channels_last", 0)]),
        node("Flatten", &["x8"], "x9", &[]),
        microsoft(
            "QGemm",
            &["x9", "s2", "z2", "weight", "weight_scale", "weight_zero", "weight_bias"],
            "scores",
            &[("transB", 1)],
        ),
    ];
    let mut nodes = nodes;
    for node in &mut nodes {
        if node.op_type == "MaxPool" {
            node.attribute.push(onnx::proto::AttributeProto {
                name: "kernel_shape".into(),
                type_: onnx::proto::attribute_proto::AttributeType::INTS.into(),
                ints: vec![2, 2],
                ..Default::default()
            });
        }
    }
    let scales = Tensor::linspace(0.002, 0.006, 8, (Kind::Float, Device::Cpu));
    let biases = Tensor::arange(8, (Kind::Int, Device::Cpu)) * 300;
    let constants = vec![
        scalar("s0", 0.03),
        zero("z0", 120, Kind::Uint8),
        scalar("s1", 0.06),
        zero("z1", 128, Kind::Uint8),
        scalar("s2", 0.1),
        zero("z2", 130, Kind::Uint8),
        scalar("s3", 0.004),
        zero("z3", 0, Kind::Uint8),
        integers("filters", &[8, 3, 3, 3]),
        to_proto("filter_scales", &scales).unwrap(),
        to_proto("filter_zeros", &Tensor::zeros([8], (Kind::Int8, Device::Cpu))).unwrap(),
        to_proto("bias", &biases).unwrap(),
        integers("weight", &[10, 16]),
        scalar("weight_scale", 0.01),
        zero("weight_zero", 0, Kind::Int8),
        to_proto("weight_bias", &(Tensor::arange(10, (Kind::Int, Device::Cpu)) * 50 - 200)).unwrap(),
    ];
    let found = believed(&save(&folder, nodes, constants));
    assert_eq!(found["parameters"]["trainable"], 8 * 27 + 8 + 160 + 10, "{found}");
    let repairs = found["repairs"].to_string();
    assert!(repairs.contains("1 QLinearConv") && repairs.contains("1 QGemm"), "{repairs}");
}

/// Weights of four bits, two in a byte, with a zero point for each block.
#[test]
fn weights_of_few_bits_are_unpacked() {
    let folder = Folder::new();
    let bytes = |name: &str, shape: &[i64]| {
        let numbers = onnx::from_proto(&weight(name, shape, Kind::Float)).unwrap();
        to_proto(name, &((numbers + 0.5) * 255.0).to_kind(Kind::Uint8)).unwrap()
    };
    let attributes = [("K", 192), ("N", 10), ("bits", 4), ("block_size", 32)];
    let product = node("MatMulNBits", &["flat", "weight", "scales", "zeros"], "scores", &attributes);
    let nodes = vec![node("Flatten", &["images"], "flat", &[]), domain(product, "com.microsoft")];
    let scales = onnx::from_proto(&weight("scales", &[60], Kind::Float)).unwrap() * 0.02 + 0.03;
    let constants = vec![bytes("weight", &[10, 6, 16]), to_proto("scales", &scales).unwrap(), bytes("zeros", &[30])];
    let found = believed(&save(&folder, nodes, constants));
    assert_eq!(found["parameters"]["trainable"], 1920, "{found}");
}

/// The model that `ModelProto` holds, after ONNX Runtime's own rules for opsets: files may use its domain without naming it.
#[test]
fn onnx_runtimes_domain_needs_no_import() {
    let folder = Folder::new();
    let mut middle = node("Gelu", &["conv"], "features", &[]);
    middle.domain = "com.microsoft".into();
    let graph = GraphProto {
        name: "g".into(),
        node: classifier(vec![middle]),
        input: vec![value("images", DataType::FLOAT, &[-1, 3, 8, 8])],
        output: vec![value("scores", DataType::FLOAT, &[-1, 10])],
        initializer: common::weights(Kind::Float),
        ..Default::default()
    };
    let model: ModelProto = model(graph);
    assert_eq!(model.opset_import.len(), 1);
    believed(&folder.save_model(model));
}

/// What somebody else reads keeps its value: here the product before it is scaled is the file's first output, and the scores.
#[test]
fn scales_stay_where_something_else_reads_the_product() {
    let folder = Folder::new();
    let mut multiplied = node("DynamicQuantizeLinear", &["flat"], "bytes", &[]);
    multiplied.output = ["bytes", "bytes_scale", "bytes_zero"].map(String::from).to_vec();
    let nodes = vec![
        node("Flatten", &["images"], "flat", &[]),
        multiplied,
        node("MatMulInteger", &["bytes", "weight_bytes", "bytes_zero"], "product", &[]),
        node("Cast", &["product"], "scores", &[("to", DataType::FLOAT as i64)]),
        node("Mul", &["bytes_scale", "weight_scale"], "scales", &[]),
        node("Mul", &["scores", "scales"], "scaled", &[]),
    ];
    let constants = vec![integers("weight_bytes", &[192, 10]), scalar("weight_scale", 0.004)];
    let mut proto = network(nodes, constants, 17);
    proto.graph.as_mut().unwrap().output.push(value("scaled", DataType::FLOAT, &[-1, 10]));
    let path = folder.save_model(proto);
    let model = Model::open(&path, Device::Cpu).unwrap();
    let images = images(1);
    let theirs = Witness::open(&path, model.report()).unwrap().run(&images).unwrap();
    let ours = model.output(&images).unwrap().to_kind(Kind::Double);
    assert!((ours - &theirs).abs().max().double_value(&[]) <= 1e-6 * theirs.abs().max().double_value(&[]));
}

/// A dead activation in front of a dynamically quantised product gives zeros, not numbers that are none.
#[test]
fn zeros_can_be_quantised_dynamically() {
    let folder = Folder::new();
    let mut multiplied = node("DynamicQuantizeLinear", &["dead"], "bytes", &[]);
    multiplied.output = ["bytes", "bytes_scale", "bytes_zero"].map(String::from).to_vec();
    let nodes = vec![
        node("Flatten", &["images"], "flat", &[]),
        node("Mul", &["flat", "nothing"], "dead", &[]),
        multiplied,
        node("DequantizeLinear", &["bytes", "bytes_scale", "bytes_zero"], "floats", &[]),
        node("Gemm", &["floats", "weight", "bias"], "scores", &[]),
    ];
    let constants = vec![scalar("nothing", 0.0), weight("weight", &[192, 10], Kind::Float), weight("bias", &[10], Kind::Float)];
    let model = Model::open(&save(&folder, nodes, constants), Device::Cpu).unwrap();
    let logits = model.forward(&images(2), Mode::Eval).unwrap();
    assert_eq!(logits.isfinite().all().int64_value(&[]), 1);
}

/// Types of two bytes, and a scale for each filter, without a zero point in the file.
#[test]
fn fake_quantisation_finds_a_zero_point_that_fits() {
    for kind in [Kind::Int8, Kind::Int16] {
        let folder = Folder::new();
        let filters = onnx::from_proto(&weight("filters", &[8, 3, 3, 3], Kind::Float)).unwrap();
        let scales = Tensor::linspace(0.004, 0.008, 8, (Kind::Float, Device::Cpu));
        let mut nodes = vec![node("DequantizeLinear", &["bytes", "scales"], "filters", &[("axis", 0)])];
        nodes.extend(classifier(vec![node("Relu", &["conv"], "features", &[])]));
        let constants = vec![
            to_proto("bytes", &(filters * 200.0).round().to_kind(kind)).unwrap(),
            to_proto("scales", &scales).unwrap(),
            weight("weight", &[8, 10], Kind::Float),
        ];
        let path = folder.save_model(network(nodes, constants, 21));
        let repairs = Repairs { quantization: QuantizationRepair::Fake, ..Default::default() };
        let options = ImportOptions { repairs, ..Default::default() };
        let model = Model::import(onnx::read(&path, &Limits::default()).unwrap(), &options, Device::Cpu).unwrap();
        let exported = folder.path("exported.onnx");
        onnx::save(&model.to_onnx().unwrap(), &exported).unwrap();
        let again = Witness::open(&exported, model.report()).unwrap().run(&images(2)).unwrap();
        let ours = model.output(&images(2)).unwrap().to_kind(Kind::Double);
        assert!((ours - again).abs().max().double_value(&[]) < 1e-5, "{kind:?}");
    }
}
