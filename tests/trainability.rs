//! The trainability probe: whatever operator carries a weight, and however the file stores it, the weight is listed as trainable, and
//! its gradient is what central differences say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use cmira::graph::ops::{ALL, all};
use cmira::graph::{Mode, Model};
use cmira::onnx::proto::attribute_proto::AttributeType;
use cmira::onnx::proto::tensor_proto::DataType;
use cmira::onnx::proto::{AttributeProto, GraphProto, NodeProto, TensorProto};
use cmira::onnx::to_proto;
use cmira::tensor::{Device, Kind, Tensor, no_grad, to_f64s};
use common::{model, node, value, weight};

/// How a file stores a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Storage {
    Initializer,
    ConstantNode,
    /// Bytes that are dequantised.
    Dequantised,
    /// Numbers that are quantised and dequantised.
    QuantisedPair,
}

const STORAGES: [Storage; 4] = [Storage::Initializer, Storage::ConstantNode, Storage::Dequantised, Storage::QuantisedPair];

/// One operator and one way to use it. `conv` is a map `[N, 8, 6, 6]` behind a first convolution, `flat` the same as rows.
struct Probe {
    operator: &'static str,
    opset: i64,
    /// Nodes that make `y` out of `conv` or `flat` and the weights `w0`, `w1`, ...
    nodes: Vec<NodeProto>,
    /// Which input of the operator each weight is, and its shape.
    weights: Vec<(usize, Vec<i64>)>,
    constants: Vec<TensorProto>,
}

impl Probe {
    fn new(operator: &'static str, nodes: Vec<NodeProto>, weights: &[(usize, &[i64])]) -> Probe {
        let weights = weights.iter().map(|(position, shape)| (*position, shape.to_vec())).collect();
        Probe { operator, opset: 17, nodes, weights, constants: Vec::new() }
    }

    fn opset(mut self, opset: i64) -> Probe {
        self.opset = opset;
        self
    }

    fn with(mut self, name: &str, constant: &Tensor) -> Probe {
        self.constants.push(to_proto(name, constant).unwrap());
        self
    }
}

fn with_text(mut node: NodeProto, name: &str, text: &str) -> NodeProto {
    let s = text.as_bytes().to_vec();
    node.attribute.push(AttributeProto { name: name.into(), type_: AttributeType::STRING.into(), s, ..Default::default() });
    node
}

fn probes() -> Vec<Probe> {
    let ints = |values: &[i64]| Tensor::from_slice(values);
    let ones = || Tensor::ones([8], (Kind::Double, Device::Cpu));
    let channel: &[i64] = &[8, 1, 1];
    let mut probes = vec![
        Probe::new("Conv", vec![node("Conv", &["conv", "w0", "w1"], "y", &[])], &[(1, &[4, 8, 3, 3]), (2, &[4])]),
        Probe::new(
            "ConvTranspose",
            vec![node("ConvTranspose", &["conv", "w0", "w1"], "y", &[])],
            &[(1, &[8, 2, 2, 2]), (2, &[2])],
        ),
        Probe::new("Gemm", vec![node("Gemm", &["flat", "w0", "w1"], "y", &[])], &[(1, &[288, 6]), (2, &[6])]),
        Probe::new(
            "Gemm",
            vec![node("Gemm", &["w0", "flat"], "turned", &[("transB", 1)]), node("Transpose", &["turned"], "y", &[])],
            &[(0, &[6, 288])],
        ),
        // Filters that are standardised: by statistics that the graph computes, and by the node's own.
        Probe::new(
            "Conv",
            vec![
                node("Reshape", &["w0", "rows"], "as_rows", &[]),
                node("ReduceMean", &["as_rows", "both"], "mean", &[("keepdims", 1)]),
                node("Sub", &["as_rows", "mean"], "centred", &[]),
                node("Mul", &["centred", "centred"], "squares", &[]),
                node("ReduceMean", &["squares", "both"], "variance", &[("keepdims", 0)]),
                node("Reshape", &["mean", "flat_shape"], "flat_mean", &[]),
                node("Reshape", &["variance", "flat_shape"], "flat_variance", &[]),
                node("BatchNormalization", &["as_rows", "neutral", "zeros", "flat_mean", "flat_variance"], "normal", &[]),
                node("Reshape", &["normal", "back"], "standard", &[]),
                node("Conv", &["conv", "standard"], "y", &[]),
            ],
            &[(1, &[4, 8, 3, 3])],
        )
        .opset(18)
        .with("rows", &ints(&[1, 4, 72]))
        .with("both", &ints(&[0, 2]))
        .with("flat_shape", &ints(&[4]))
        .with("back", &ints(&[4, 8, 3, 3]))
        .with("neutral", &Tensor::ones([4], (Kind::Double, Device::Cpu)))
        .with("zeros", &Tensor::zeros([4], (Kind::Double, Device::Cpu))),
        Probe::new(
            "Conv",
            vec![
                node("Reshape", &["w0", "rows"], "as_rows", &[]),
                node("ReduceMean", &["as_rows", "both"], "mean", &[("keepdims", 0)]),
                node(
                    "BatchNormalization",
                    &["as_rows", "neutral", "zeros", "mean", "neutral"],
                    "normal",
                    &[("training_mode", 1)],
                ),
                node("Reshape", &["normal", "back"], "standard", &[]),
                node("Conv", &["conv", "standard"], "y", &[]),
            ],
            &[(1, &[4, 8, 3, 3])],
        )
        .opset(18)
        .with("rows", &ints(&[1, 4, 72]))
        .with("both", &ints(&[0, 2]))
        .with("back", &ints(&[4, 8, 3, 3]))
        .with("neutral", &Tensor::ones([4], (Kind::Double, Device::Cpu)))
        .with("zeros", &Tensor::zeros([4], (Kind::Double, Device::Cpu))),
        Probe::new("MatMul", vec![node("MatMul", &["conv", "w0"], "y", &[])], &[(1, &[6, 5])]),
        Probe::new("MatMul", vec![node("MatMul", &["w0", "conv"], "y", &[])], &[(0, &[5, 6])]),
        Probe::new(
            "BatchNormalization",
            vec![node("BatchNormalization", &["conv", "w0", "w1", "mean", "variance"], "y", &[])],
            &[(1, &[8]), (2, &[8])],
        )
        .with("mean", &(ones() * 0.1))
        .with("variance", &ones()),
        Probe::new(
            "LayerNormalization",
            vec![node("LayerNormalization", &["conv", "w0", "w1"], "y", &[])],
            &[(1, &[6]), (2, &[6])],
        ),
        Probe::new("RMSNormalization", vec![node("RMSNormalization", &["conv", "w0"], "y", &[])], &[(1, &[6])]).opset(23),
        Probe::new(
            "GroupNormalization",
            vec![node("GroupNormalization", &["conv", "w0", "w1"], "y", &[("num_groups", 2)])],
            &[(1, &[8]), (2, &[8])],
        )
        .opset(21),
        Probe::new(
            "InstanceNormalization",
            vec![node("InstanceNormalization", &["conv", "w0", "w1"], "y", &[])],
            &[(1, &[8]), (2, &[8])],
        ),
        Probe::new("PRelu", vec![node("PRelu", &["conv", "w0"], "y", &[])], &[(1, channel)]),
        // A class token, repeated to the batch and put beside the map.
        Probe::new(
            "Expand",
            vec![
                node("Shape", &["conv"], "size", &[("end", 1)]),
                node("Concat", &["size", "rest"], "target", &[("axis", 0)]),
                node("Expand", &["w0", "target"], "token", &[]),
                node("Concat", &["token", "conv"], "y", &[("axis", 1)]),
            ],
            &[(0, &[1, 1, 6, 6])],
        )
        .with("rest", &ints(&[1, 6, 6])),
        Probe::new(
            "Tile",
            vec![
                node("Shape", &["conv"], "size", &[("end", 1)]),
                node("Concat", &["size", "rest"], "repeats", &[("axis", 0)]),
                node("Tile", &["w0", "repeats"], "token", &[]),
                node("Concat", &["token", "conv"], "y", &[("axis", 1)]),
            ],
            &[(0, &[1, 1, 6, 6])],
        )
        .with("rest", &ints(&[1, 1, 1])),
        Probe::new(
            "Concat",
            vec![node("Concat", &["w0", "w1"], "both", &[("axis", 0)]), node("Add", &["conv", "both"], "y", &[])],
            &[(0, &[3, 1, 1]), (1, &[5, 1, 1])],
        ),
        Probe::new(
            "Einsum",
            vec![with_text(node("Einsum", &["conv", "w0"], "y", &[]), "equation", "nchw,cd->ndhw")],
            &[(1, &[8, 5])],
        ),
        Probe::new(
            "Einsum",
            vec![with_text(node("Einsum", &["w0", "conv"], "y", &[]), "equation", "cd,nchw->ndhw")],
            &[(0, &[8, 5])],
        ),
        // A table of relative positions.
        Probe::new(
            "Gather",
            vec![node("Gather", &["w0", "index"], "rows", &[]), node("Add", &["conv", "rows"], "y", &[])],
            &[(0, &[5, 6])],
        )
        .with("index", &ints(&[0, 1, 2, 3, 4, 0, 1, 2]).reshape([8, 1])),
    ];
    for (position, inputs) in [(1, ["positive", "w0", "conv"]), (2, ["positive", "conv", "w0"])] {
        let nodes = vec![node("Greater", &["conv", "zero"], "positive", &[]), node("Where", &inputs, "y", &[])];
        let zero = Tensor::zeros([1_i64], (Kind::Double, Device::Cpu));
        probes.push(Probe::new("Where", nodes, &[(position, channel)]).with("zero", &zero));
    }
    let own = |operator: &str, inputs: &[&str], attributes: &[(&str, i64)]| NodeProto {
        domain: "com.microsoft".into(),
        ..node(operator, inputs, "y", attributes)
    };
    probes.push(Probe::new("FusedMatMul", vec![own("FusedMatMul", &["flat", "w0"], &[("transB", 1)])], &[(1, &[6, 288])]));
    probes.push(Probe::new(
        "FusedMatMul",
        vec![
            NodeProto { output: vec!["turned".into()], ..own("FusedMatMul", &["w0", "flat"], &[("transB", 1)]) },
            node("Transpose", &["turned"], "y", &[]),
        ],
        &[(0, &[6, 288])],
    ));
    probes.push(Probe::new(
        "SimplifiedLayerNormalization",
        vec![node("SimplifiedLayerNormalization", &["conv", "w0"], "y", &[])],
        &[(1, &[6])],
    ));
    for operator in ["FastGelu", "BiasGelu"] {
        probes.push(Probe::new(operator, vec![own(operator, &["flat", "w0"], &[])], &[(1, &[288])]));
    }
    for operator in ["Add", "Sub", "Mul", "Div", "Sum", "Mean"] {
        for position in [0, 1] {
            let inputs = if position == 0 { ["w0", "conv"] } else { ["conv", "w0"] };
            probes.push(Probe::new(operator, vec![node(operator, &inputs, "y", &[])], &[(position, channel)]));
        }
    }
    for operator in ["Max", "Min", "Pow"] {
        for position in [0, 1] {
            // Numbers above zero; or on both sides of the weight's, and none of them near.
            let inputs = if position == 0 { ["w0", "e"] } else { ["e", "w0"] };
            let e = if operator == "Pow" {
                vec![node("Exp", &["conv"], "e", &[])]
            } else {
                vec![node("Sign", &["conv"], "sign", &[]), node("Mul", &["sign", "far"], "e", &[])]
            };
            let nodes = e.into_iter().chain([node(operator, &inputs, "y", &[])]).collect();
            let far = Tensor::from_slice(&[3.0_f64]).reshape([0_i64; 0]);
            probes.push(Probe::new(operator, nodes, &[(position, channel)]).with("far", &far));
        }
    }
    for position in 0..4 {
        let mut inputs = ["conv", "conv", "conv", "w0"];
        inputs[position] = "w0";
        let shape: &[i64] = if position == 3 { &[6, 6] } else { &[1, 8, 6, 6] };
        let inputs = &inputs[..if position == 3 { 4 } else { 3 }];
        for opset in [23, 24] {
            probes.push(Probe::new("Attention", vec![node("Attention", inputs, "y", &[])], &[(position, shape)]).opset(opset));
        }
    }
    probes
}

/// Nodes and initializers that hold a weight of this name in double precision.
fn stored(name: &str, shape: &[i64], storage: Storage) -> (Vec<NodeProto>, Vec<TensorProto>) {
    let numbers = weight(name, shape, Kind::Double);
    // Away from zero, which Div cannot take.
    let numbers = cmira::onnx::from_proto(&numbers).unwrap() * 0.5 + 0.8;
    let scale = to_proto(&format!("{name}.scale"), &Tensor::from_slice(&[0.01_f32]).reshape([0_i64; 0])).unwrap();
    let dequantised = |source: &str| {
        vec![
            node("DequantizeLinear", &[source, &format!("{name}.scale")], &format!("{name}.float"), &[]),
            node("Cast", &[&format!("{name}.float")], name, &[("to", DataType::DOUBLE as i64)]),
        ]
    };
    match storage {
        Storage::Initializer => (vec![], vec![to_proto(name, &numbers).unwrap()]),
        Storage::ConstantNode => {
            let mut constant = node("Constant", &[], name, &[]);
            constant.attribute.push(AttributeProto {
                name: "value".into(),
                type_: AttributeType::TENSOR.into(),
                t: Some(to_proto("", &numbers).unwrap()).into(),
                ..Default::default()
            });
            (vec![constant], vec![])
        }
        Storage::Dequantised => {
            let bytes = (numbers / 0.01).round().to_kind(Kind::Int8);
            let source = format!("{name}.bytes");
            (dequantised(&source), vec![to_proto(&source, &bytes).unwrap(), scale])
        }
        Storage::QuantisedPair => {
            let (source, bytes) = (format!("{name}.source"), format!("{name}.bytes"));
            let mut nodes = vec![node("QuantizeLinear", &[&source, &format!("{name}.scale")], &bytes, &[])];
            nodes.extend(dequantised(&bytes));
            (nodes, vec![to_proto(&source, &numbers.to_kind(Kind::Float)).unwrap(), scale])
        }
    }
}

fn build(probe: &Probe, storage: Storage) -> Model {
    let mut nodes = vec![node("Conv", &["images", "filters"], "conv", &[]), node("Flatten", &["conv"], "flat", &[])];
    let mut initializer = vec![weight("filters", &[8, 3, 3, 3], Kind::Double)];
    for (number, (_, shape)) in probe.weights.iter().enumerate() {
        let (more, constants) = stored(&format!("w{number}"), shape, storage);
        nodes.extend(more);
        initializer.extend(constants);
    }
    nodes.extend(probe.nodes.clone());
    initializer.extend(probe.constants.clone());
    // Whatever shape `y` has, its mean beside its first numbers are scores.
    nodes.push(node("Flatten", &["y"], "row", &[]));
    let few =
        [("starts", 0_i64), ("ends", 5), ("axes", 1)].map(|(name, value)| to_proto(name, &Tensor::from_slice(&[value])).unwrap());
    initializer.extend(few);
    nodes.push(node("Slice", &["row", "starts", "ends", "axes"], "some", &[]));
    nodes.push(node("ReduceSumSquare", &["row"], "all", &[("keepdims", 1)]));
    nodes.last_mut().unwrap().input.push("axes".into());
    if probe.opset < 18 {
        let last = nodes.last_mut().unwrap();
        last.input.truncate(1);
        let axes = AttributeProto { name: "axes".into(), type_: AttributeType::INTS.into(), ints: vec![1], ..Default::default() };
        last.attribute.push(axes);
    }
    nodes.push(node("Add", &["some", "all"], "scores", &[]));
    let graph = GraphProto {
        name: "probe".into(),
        node: nodes,
        input: vec![value("images", DataType::DOUBLE, &[-1, 3, 8, 8])],
        output: vec![value("scores", DataType::DOUBLE, &[-1, 5])],
        initializer,
        ..Default::default()
    };
    let mut model = model(graph);
    model.opset_import[0].version = probe.opset;
    Model::from_proto(probe.operator, model, Device::Cpu)
        .unwrap_or_else(|error| panic!("{}, {storage:?}: {error}", probe.operator))
}

/// Some function of the scores that treats each of them differently.
fn loss(model: &Model) -> Tensor {
    let images = cmira::check::parity::random_images(&[3, 3, 8, 8]).unwrap().to_kind(Kind::Double);
    let scores = model.forward(&images, Mode::Eval).unwrap();
    let factors = Tensor::arange(scores.numel() as i64, (Kind::Double, Device::Cpu)).reshape(scores.size()) * 0.1 + 0.3;
    (scores * factors).sum(Kind::Double)
}

/// The largest difference between gradient and central differences over some of a parameter's numbers, by the largest gradient.
fn worst(model: &Model, param: &Tensor, step: f64) -> f64 {
    let gradient = to_f64s(&param.grad()).unwrap();
    let _guard = no_grad();
    let flat = param.view([-1]);
    let count = flat.size()[0];
    let largest = gradient.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
    assert!(largest > 0.0, "no gradient at all");
    let mut worst = 0.0_f64;
    for index in (0..count).step_by(usize::try_from(count / 12).unwrap().max(1)) {
        let shifted = |by: f64| {
            let mut place = flat.narrow(0, index, 1);
            let _ = place.g_add_scalar_(by);
            let value = loss(model).double_value(&[]);
            let _ = place.g_add_scalar_(-by);
            value
        };
        let difference = (shifted(step) - shifted(-step)) / (2.0 * step);
        worst = worst.max((difference - gradient[usize::try_from(index).unwrap()]).abs() / largest);
    }
    worst
}

#[test]
fn every_weight_is_trainable_however_it_is_stored() {
    let mut shown: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    let mut count = 0;
    for probe in probes() {
        for storage in STORAGES {
            let model = build(&probe, storage);
            let listed: Vec<&str> = model.report().trainable.iter().map(|tensor| tensor.name.as_str()).collect();
            loss(&model).backward();
            for (number, (position, shape)) in probe.weights.iter().enumerate() {
                let at = format!("input {position} of {}, {storage:?}", probe.operator);
                // What is dequantised is known by what DequantizeLinear gives.
                let name = match storage {
                    Storage::Initializer | Storage::ConstantNode => format!("w{number}"),
                    Storage::Dequantised | Storage::QuantisedPair => format!("w{number}.float"),
                };
                assert!(listed.contains(&name.as_str()), "{at}: {listed:?}");
                let param = model.params().iter().find(|param| param.name == name).expect(&at);
                assert_eq!(param.tensor.size(), *shape, "{at}");
                // What is dequantised is held in single precision, where a step has to be larger.
                let (step, tolerance) = if param.tensor.kind() == Kind::Double { (1e-5, 1e-6) } else { (1.0 / 1024.0, 1e-3) };
                let found = worst(&model, &param.tensor, step);
                assert!(found < tolerance, "{at}: {found}");
                shown.entry(probe.operator).or_default().insert(*position);
                count += 1;
            }
        }
    }
    for op in all().filter(|op| !op.weights.is_empty()) {
        // Further operands of Einsum and Sum are as the first two; Where takes a condition first.
        let promised: &[usize] = match op.name {
            "Where" => &[1, 2],
            "Einsum" => &[0, 1],
            _ if op.weights == ALL => &[0, 1],
            _ => op.weights,
        };
        for position in promised {
            let known = shown.get(op.name).is_some_and(|shown| shown.contains(position));
            assert!(known, "{} promises to train input {position}, and no probe shows it", op.name);
        }
    }
    println!("{count} weights of {} operators", shown.len());
}

/// A classifier with these nodes between the images and `y`, which is `[N, 5]`.
fn with_expression(nodes: Vec<NodeProto>, initializer: Vec<TensorProto>) -> Model {
    let last = node("Gemm", &["flat", "matrix"], "scores", &[]);
    let all = [node("Flatten", &["images"], "flat", &[])].into_iter().chain(nodes).chain([last]).collect();
    let graph = GraphProto {
        name: "expression".into(),
        node: all,
        input: vec![value("images", DataType::FLOAT, &[-1, 1, 2, 3])],
        output: vec![value("scores", DataType::FLOAT, &[-1, 5])],
        initializer,
        ..Default::default()
    };
    Model::from_proto("expression", model(graph), Device::Cpu).unwrap()
}

fn names(model: &Model) -> Vec<String> {
    model.report().trainable.iter().map(|tensor| tensor.name.clone()).collect()
}

/// Exponents, epsilons and masks in what weights are computed from were chosen, not trained.
#[test]
fn what_an_author_chose_inside_a_weight_stays() {
    let float = |name: &str, values: &[f32], shape: &[i64]| to_proto(name, &Tensor::from_slice(values).reshape(shape)).unwrap();
    let mask: Vec<f32> = (0..30).map(|i| if i % 4 == 0 { 0.0 } else { 1.0 }).collect();
    let model = with_expression(
        vec![
            node("Mul", &["w", "mask"], "pruned", &[]),
            node("Pow", &["pruned", "two"], "squares", &[]),
            node("ReduceSum", &["squares", "axis"], "sum", &[("keepdims", 1)]),
            node("Add", &["sum", "epsilon"], "positive", &[]),
            node("Sqrt", &["positive"], "length", &[]),
            node("Div", &["pruned", "length"], "unit", &[]),
            node("Mul", &["unit", "gain"], "matrix", &[]),
        ],
        vec![
            weight("w", &[6, 5], Kind::Float),
            weight("gain", &[1, 5], Kind::Float),
            float("mask", &mask, &[6, 5]),
            float("two", &[2.0], &[]),
            float("epsilon", &[1e-5], &[1]),
            to_proto("axis", &Tensor::from_slice(&[0_i64])).unwrap(),
        ],
    );
    assert_eq!(names(&model), ["w", "gain"]);
    let frozen: Vec<&str> = model.report().frozen.iter().map(|tensor| tensor.name.as_str()).collect();
    for chosen in ["mask", "two", "epsilon"] {
        assert!(frozen.contains(&chosen), "{chosen}: {frozen:?}");
    }
}

/// Bytes that the graph casts and scales itself are weights; zeros and ones are a mask.
#[test]
fn bytes_that_are_cast_are_trained() {
    let cast = |input: &str, output: &str| node("Cast", &[input], output, &[("to", DataType::FLOAT as i64)]);
    let bytes: Vec<i8> = (0..30).map(|i| (i * 37 % 101) as i8 - 50).collect();
    let ones: Vec<i8> = (0..30).map(|i| i8::from(i % 3 != 0)).collect();
    let stored = |name: &str, values: &[i8]| to_proto(name, &Tensor::from_slice(values).reshape([6, 5])).unwrap();
    let scale: Vec<f32> = (1..6).map(|i| i as f32 / 64.0).collect();
    let model = with_expression(
        vec![
            cast("bytes", "float"),
            node("Mul", &["float", "scale"], "scaled", &[]),
            cast("ones", "mask"),
            node("Mul", &["scaled", "mask"], "matrix", &[]),
        ],
        vec![
            stored("bytes", &bytes),
            stored("ones", &ones),
            to_proto("scale", &Tensor::from_slice(&scale).reshape([1, 5])).unwrap(),
        ],
    );
    assert_eq!(names(&model), ["scaled"], "the scale is part of it");
    let values = to_f64s(&model.params()[0].tensor).unwrap();
    assert!(values.iter().zip(&bytes).enumerate().all(|(i, (v, b))| (v - f64::from(*b) * f64::from(scale[i % 5])).abs() < 1e-6));
}

/// No stored weight is left without a line, whatever becomes of it.
#[test]
fn what_the_scores_are_not_made_of_is_listed() {
    let model = with_expression(
        vec![node("Identity", &["w"], "matrix", &[]), node("Gemm", &["flat", "aside"], "other", &[])],
        vec![weight("w", &[6, 5], Kind::Float), weight("aside", &[6, 2], Kind::Float), weight("nobody", &[3], Kind::Float)],
    );
    assert_eq!(names(&model), ["w"]);
    let frozen: Vec<(&str, &str)> = model.report().frozen.iter().map(|t| (t.name.as_str(), t.reason)).collect();
    assert_eq!(frozen, [("aside", "the scores are not made of it"), ("nobody", "the scores are not made of it")]);
}

/// One number can be all that a layer has.
#[test]
fn layers_of_one_output_are_trained_whole() {
    let gate = |nodes: Vec<NodeProto>| {
        let initializer = vec![
            weight("column", &[6, 1], Kind::Float),
            to_proto("gate_bias", &Tensor::from_slice(&[0.25_f32])).unwrap(),
            weight("direction", &[1, 5], Kind::Float),
            to_proto("gain", &Tensor::from_slice(&[1.5_f32]).reshape([1, 1])).unwrap(),
        ];
        let all = [node("Flatten", &["images"], "flat", &[])].into_iter().chain(nodes).collect();
        let graph = GraphProto {
            name: "gate".into(),
            node: all,
            input: vec![value("images", DataType::FLOAT, &[-1, 1, 2, 3])],
            output: vec![value("scores", DataType::FLOAT, &[-1, 5])],
            initializer,
            ..Default::default()
        };
        names(&Model::from_proto("gate", common::model(graph), Device::Cpu).unwrap())
    };
    let nodes = vec![
        node("MatMul", &["flat", "column"], "gate", &[]),
        node("Add", &["gate", "gate_bias"], "gated", &[]),
        node("Mul", &["direction", "gain"], "row", &[]),
        node("MatMul", &["gated", "row"], "scores", &[]),
    ];
    assert_eq!(gate(nodes), ["column", "gate_bias", "direction", "gain"]);
}

/// Numbers are stored once, whoever uses them: that a statistic is computed with one that a filter is computed with as well makes the
/// normalisation no part of the filter.
#[test]
fn statistics_that_share_a_number_with_a_filter_stay_running() {
    let ones = Tensor::ones([4], (Kind::Float, Device::Cpu));
    let initializer = vec![
        weight("filter", &[4, 1, 1, 1], Kind::Float),
        to_proto("two", &Tensor::from_slice(&[2.0_f32])).unwrap(),
        to_proto("half", &(&ones * 0.5)).unwrap(),
        to_proto("ones", &ones).unwrap(),
        weight("matrix", &[24, 5], Kind::Float),
    ];
    let graph = GraphProto {
        name: "shared".into(),
        node: vec![
            node("Mul", &["filter", "two"], "scaled", &[]),
            node("Conv", &["images", "scaled"], "map", &[]),
            node("Mul", &["half", "two"], "variance", &[]),
            node("BatchNormalization", &["map", "ones", "half", "half", "variance"], "normal", &[]),
            node("Flatten", &["normal"], "rows", &[]),
            node("MatMul", &["rows", "matrix"], "scores", &[]),
        ],
        input: vec![value("images", DataType::FLOAT, &[-1, 1, 2, 3])],
        output: vec![value("scores", DataType::FLOAT, &[-1, 5])],
        initializer,
        ..Default::default()
    };
    let model = Model::from_proto("shared", model(graph), Device::Cpu).unwrap();
    assert_eq!(model.buffers().count(), 2);
}
