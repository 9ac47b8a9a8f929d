//! Graphs into which an exporter has baked the batch size: freed where that is possible, judged by ONNX Runtime one exported batch
//! at a time, trained, and handed back free.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;

use cmira::check::witness::Witness;
use cmira::graph::{Mode, Model};
use cmira::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use cmira::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, attribute_proto::AttributeType, tensor_proto::DataType, type_proto,
};
use cmira::onnx::{self, to_proto};
use cmira::tensor::{Device, Kind, Tensor, to_f32s};

const CHANNELS: i64 = 3;
const SIDE: i64 = 4;
const PIXELS: i64 = CHANNELS * SIDE * SIDE;

fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: op.into(),
        input: inputs.iter().map(|i| (*i).to_string()).collect(),
        output: vec![output.into()],
        ..Default::default()
    }
}

fn with_axis(mut node: NodeProto, axis: i64) -> NodeProto {
    node.attribute.push(AttributeProto { name: "axis".into(), type_: AttributeType::INT.into(), i: axis, ..Default::default() });
    node
}

fn value(name: &str, dims: &[i64]) -> ValueInfoProto {
    let dim = dims.iter().map(|&d| Dimension { value: Some(dimension::Value::DimValue(d)), ..Default::default() }).collect();
    let shape = TensorShapeProto { dim, ..Default::default() };
    let tensor = type_proto::Tensor { elem_type: DataType::FLOAT as i32, shape: Some(shape).into(), ..Default::default() };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { name: name.into(), type_: Some(kind).into(), ..Default::default() }
}

fn integers(name: &str, values: &[i64], shape: &[i64]) -> TensorProto {
    to_proto(name, &Tensor::from_slice(values).reshape(shape)).unwrap()
}

/// Numbers without a pattern that a wrong order of images or pixels would keep.
fn floats(shape: &[i64]) -> Tensor {
    let count: i64 = shape.iter().product();
    Tensor::arange(count, (Kind::Float, Device::Cpu)).multiply_scalar(0.71).sin().reshape(shape)
}

/// A classifier from images `[batch, 3, 4, 4]` whose last node is a linear layer over `features` of `width` numbers an image.
fn classifier(batch: i64, mut nodes: Vec<NodeProto>, mut constants: Vec<TensorProto>, width: i64) -> ModelProto {
    nodes.push(node("Gemm", &["features", "weight", "bias"], "logits"));
    constants.push(to_proto("weight", &floats(&[width, 5])).unwrap());
    constants.push(to_proto("bias", &floats(&[5])).unwrap());
    let graph = GraphProto {
        name: "baked".into(),
        node: nodes,
        input: vec![value("images", &[batch, CHANNELS, SIDE, SIDE])],
        output: vec![value("logits", &[batch, 5])],
        initializer: constants,
        ..Default::default()
    };
    let opset = OperatorSetIdProto { version: 17, ..Default::default() };
    ModelProto { ir_version: 8, graph: Some(graph).into(), opset_import: vec![opset], ..Default::default() }
}

fn worst_difference(a: &Tensor, b: &Tensor) -> f32 {
    let (a, b) = (to_f32s(a).unwrap(), to_f32s(b).unwrap());
    assert_eq!(a.len(), b.len());
    a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Below opset 18, axes are an attribute.
fn over_last_axis(mut node: NodeProto) -> NodeProto {
    node.input.truncate(1);
    let axes = AttributeProto { name: "axes".into(), type_: AttributeType::INTS.into(), ints: vec![1], ..Default::default() };
    node.attribute.push(axes);
    node
}

struct Scene {
    folder: tempfile::TempDir,
    proto: ModelProto,
}

impl Scene {
    fn new(proto: ModelProto) -> Scene {
        Scene { folder: tempfile::tempdir().unwrap(), proto }
    }

    fn save(&self, name: &str, proto: &ModelProto) -> PathBuf {
        let path = self.folder.path().join(name);
        onnx::save(proto, &path).unwrap();
        path
    }

    fn import(&self) -> Model {
        Model::open(&self.save("baked.onnx", &self.proto), Device::Cpu).unwrap()
    }

    /// What ONNX Runtime makes of the exported file, a baked batch at a time, is what the model and its export give in one go.
    fn runs_on_any_batch(&self) {
        let model = self.import();
        assert_eq!(model.fixed_batch(), None);
        assert_eq!(model.report().repairs.len(), 1, "{:?}", model.report().repairs);
        let mut baked = Witness::open(&self.folder.path().join("baked.onnx"), model.report()).unwrap();
        let mut freed = Witness::open(&self.save("freed.onnx", &model.to_onnx().unwrap()), model.report()).unwrap();
        for count in [1, 2, 5, 12] {
            let images = floats(&[count, CHANNELS, SIDE, SIDE]);
            let expected = baked.run(&images).unwrap();
            for (what, actual) in
                [("model", model.forward(&images, Mode::Train).unwrap()), ("export", freed.run(&images).unwrap())]
            {
                assert_eq!(actual.size(), [count, 5], "{what}");
                let worst = worst_difference(&actual, &expected);
                assert!(worst < 1e-5, "{what}, {count} images: {worst}");
            }
        }
    }
}

#[test]
fn a_reshape_to_the_exported_batch_is_freed() {
    for batch in [1, 2] {
        let target = integers("target", &[batch, PIXELS], &[2]);
        let nodes = vec![node("Reshape", &["images", "target"], "features")];
        Scene::new(classifier(batch, nodes, vec![target], PIXELS)).runs_on_any_batch();
    }
}

#[test]
fn a_class_token_of_the_exported_batch_is_repeated() {
    let token = to_proto("token", &floats(&[1, CHANNELS, SIDE, 1])).unwrap();
    let nodes = vec![with_axis(node("Concat", &["token", "images"], "longer"), 3), node("Flatten", &["longer"], "features")];
    Scene::new(classifier(1, nodes, vec![token], CHANNELS * SIDE * (SIDE + 1))).runs_on_any_batch();
}

#[test]
fn a_class_token_that_is_expanded_first_is_repeated() {
    let token = to_proto("token", &floats(&[1, 1, SIDE, 1])).unwrap();
    let shape = integers("shape", &[1, CHANNELS, SIDE, 1], &[4]);
    let nodes = vec![
        node("Expand", &["token", "shape"], "expanded"),
        // Behind a weighted node, where constants are taken for parameters and are not folded.
        node("Conv", &["images", "kernel"], "filtered"),
        with_axis(node("Concat", &["expanded", "filtered"], "longer"), 3),
        node("Flatten", &["longer"], "features"),
    ];
    let kernel = to_proto("kernel", &floats(&[CHANNELS, CHANNELS, 1, 1])).unwrap();
    let scene = Scene::new(classifier(1, nodes, vec![token, shape, kernel], CHANNELS * SIDE * (SIDE + 1)));
    assert!(scene.import().report().trainable.iter().any(|parameter| parameter.name == "token"));
    scene.runs_on_any_batch();
}

#[test]
fn a_slice_that_ends_with_the_exported_batch_is_freed() {
    for batch in [1, 2] {
        // The upper half of each image, as JAX's exporter writes it: from zero to the end in every dimension.
        let starts = integers("starts", &[0, 0, 0], &[3]);
        let ends = integers("ends", &[batch, CHANNELS, SIDE / 2], &[3]);
        let axes = integers("axes", &[0, 1, 2], &[3]);
        let nodes = vec![node("Slice", &["images", "starts", "ends", "axes"], "half"), node("Flatten", &["half"], "features")];
        Scene::new(classifier(batch, nodes, vec![starts, ends, axes], PIXELS / 2)).runs_on_any_batch();
    }
}

#[test]
fn an_expansion_to_the_exported_batch_is_freed() {
    for batch in [1, 2] {
        // Each image's largest number of a channel, spread over the channel: what a division by a norm becomes.
        let target = integers("target", &[batch * CHANNELS, PIXELS / CHANNELS], &[2]);
        let constants = vec![target, integers("rows", &[-1, PIXELS / CHANNELS], &[2]), integers("whole", &[-1, PIXELS], &[2])];
        let nodes = vec![
            node("Reshape", &["images", "rows"], "channels"),
            node("ReduceMax", &["channels", "axis"], "largest"),
            node("Expand", &["largest", "target"], "spread"),
            node("Reshape", &["spread", "whole"], "features"),
        ];
        let nodes = nodes.into_iter().map(|node| if node.op_type == "ReduceMax" { over_last_axis(node) } else { node }).collect();
        Scene::new(classifier(batch, nodes, constants, PIXELS)).runs_on_any_batch();
    }
}

#[test]
fn a_strided_view_of_the_exported_batch_reads_every_image() {
    for batch in [1, 2] {
        // Every second pixel of each image, backwards: what `as_strided` becomes.
        let of_one = (0..PIXELS).step_by(2).map(|i| PIXELS - 1 - i);
        let indices: Vec<i64> = (0..batch).flat_map(|image| of_one.clone().map(move |i| image * PIXELS + i)).collect();
        let constants = vec![integers("flat", &[-1], &[1]), integers("indices", &indices, &[batch, PIXELS / 2])];
        let nodes = vec![node("Reshape", &["images", "flat"], "pixels"), node("Gather", &["pixels", "indices"], "features")];
        Scene::new(classifier(batch, nodes, constants, PIXELS / 2)).runs_on_any_batch();
    }
}

#[test]
fn a_graph_that_mixes_its_images_keeps_its_batch_and_is_not_trained() {
    // The second image's features are the first one's: no other batch has a meaning.
    let indices: Vec<i64> = (0..PIXELS).chain(0..PIXELS).collect();
    let constants = vec![integers("flat", &[-1], &[1]), integers("indices", &indices, &[2, PIXELS])];
    let nodes = vec![node("Reshape", &["images", "flat"], "pixels"), node("Gather", &["pixels", "indices"], "features")];
    let scene = Scene::new(classifier(2, nodes, constants, PIXELS));
    let model = scene.import();
    assert_eq!(model.fixed_batch(), Some(2));
    let images = floats(&[4, CHANNELS, SIDE, SIDE]);
    let mut baked = Witness::open(&scene.folder.path().join("baked.onnx"), model.report()).unwrap();
    assert!(worst_difference(&model.output(&images).unwrap(), &baked.run(&images).unwrap()) < 1e-5);
    let error = model.forward(&images, Mode::Train).unwrap_err();
    assert!(error.to_string().contains("fixes its batch size at 2"), "{error}");
}
