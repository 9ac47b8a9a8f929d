//! Small classifiers built in memory, and the program run on them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(dead_code, reason = "each test program uses its part")]

pub mod witness;

use std::path::{Path, PathBuf};
use std::process::Command;

use cmira::data::draw::{DrawOptions, draw};
use cmira::onnx::proto::attribute_proto::AttributeType;
use cmira::onnx::proto::tensor_proto::DataType;
use cmira::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto, tensor_shape_proto,
};
use cmira::onnx::{self, to_proto};
use cmira::tensor::{Kind, Tensor};

/// Exit code, standard output and standard error of the program.
pub fn cmira(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_cmira")).args(arguments).output().expect("the binary starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// An audit of a model on drawn images, which are in `drawn` of the folder then; results go to `out`.
pub fn audit(folder: &Folder, model: &Path, images_per_class: usize, more: &[&str]) -> (i32, String, String) {
    let options = DrawOptions { train_per_class: images_per_class, test_per_class: images_per_class, ..DrawOptions::default() };
    draw(&folder.path("drawn"), &options, &mut |_| ()).expect("images can be drawn");
    let (forget, probe, out) = (folder.path("drawn/train"), folder.path("drawn/test"), folder.path("out"));
    let mut arguments = vec!["audit", "--model", text(model), "--forget", text(&forget), "--probe", text(&probe)];
    arguments.extend(["--out", text(&out), "--device", "cpu", "--quiet"]);
    arguments.extend(more);
    cmira(&arguments)
}

/// A declared tensor; -1 stands for an open dimension.
pub fn value(name: &str, kind: DataType, dims: &[i64]) -> ValueInfoProto {
    let mut value = ValueInfoProto { name: name.into(), ..Default::default() };
    let declared = value.type_.mut_or_insert_default().mut_tensor_type();
    declared.elem_type = kind as i32;
    declared.shape.mut_or_insert_default().dim = dims
        .iter()
        .map(|&size| {
            let mut dim = tensor_shape_proto::Dimension::new();
            dim.set_dim_value(size);
            dim
        })
        .collect();
    value
}

/// A node of the standard domain with integer attributes.
pub fn node(op: &str, inputs: &[&str], output: &str, attributes: &[(&str, i64)]) -> NodeProto {
    let attribute = |&(name, i): &(&str, i64)| AttributeProto {
        name: name.into(),
        type_: AttributeType::INT.into(),
        i,
        ..Default::default()
    };
    NodeProto {
        op_type: op.into(),
        input: inputs.iter().map(|i| (*i).to_string()).collect(),
        output: vec![output.into()],
        attribute: attributes.iter().map(attribute).collect(),
        ..Default::default()
    }
}

/// Numbers between -0.5 and 0.5 that follow no pattern a sum could cancel.
pub fn weight(name: &str, shape: &[i64], kind: Kind) -> TensorProto {
    let count: i64 = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| (i as f32 * 0.754_877_7).fract() - 0.5).collect();
    to_proto(name, &Tensor::from_slice(&values).reshape(shape).to_kind(kind)).expect("a small tensor")
}

/// A scratch folder.
pub struct Folder(tempfile::TempDir);

impl Folder {
    /// An empty one.
    pub fn new() -> Folder {
        Folder(tempfile::tempdir().expect("a scratch folder"))
    }

    /// The path of a file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Saves a classifier of ten classes.
    pub fn save(&self, nodes: Vec<NodeProto>, input: ValueInfoProto, kind: DataType, initializer: Vec<TensorProto>) -> PathBuf {
        let output = vec![value("scores", kind, &[-1, 10])];
        let graph = GraphProto { name: "g".into(), node: nodes, input: vec![input], output, initializer, ..Default::default() };
        self.save_model(model(graph))
    }

    /// Saves a whole model.
    pub fn save_model(&self, model: ModelProto) -> PathBuf {
        let path = self.path("model.onnx");
        onnx::save(&model, &path).expect("the scratch folder is writable");
        path
    }
}

/// A model of opset 17 with this graph.
pub fn model(graph: GraphProto) -> ModelProto {
    let opset_import = vec![OperatorSetIdProto { version: 17, ..Default::default() }];
    ModelProto { ir_version: 8, graph: Some(graph).into(), opset_import, ..Default::default() }
}

/// A classifier of ten classes of images `[N, 3, 8, 8]`, in which ONNX Runtime's own operators may stand.
pub fn network(node: Vec<NodeProto>, initializer: Vec<TensorProto>, opset: i64) -> ModelProto {
    let graph = GraphProto {
        name: "network".into(),
        node,
        input: vec![value("images", DataType::FLOAT, &[-1, 3, 8, 8])],
        output: vec![value("scores", DataType::FLOAT, &[-1, 10])],
        initializer,
        ..Default::default()
    };
    let mut model = model(graph);
    model.opset_import[0].version = opset;
    model.opset_import.push(OperatorSetIdProto { domain: "com.microsoft".into(), version: 1, ..Default::default() });
    model
}

/// A path as text.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("scratch folders have plain names")
}

/// A convolution, what `middle` puts between "conv" and "features", and a classifier of ten classes.
pub fn classifier(middle: Vec<NodeProto>) -> Vec<NodeProto> {
    let first = node("Conv", &["images", "filters"], "conv", &[]);
    let last = [
        node("GlobalAveragePool", &["features"], "pooled", &[]),
        node("Flatten", &["pooled"], "flat", &[]),
        node("Gemm", &["flat", "weight"], "scores", &[]),
    ];
    std::iter::once(first).chain(middle).chain(last).collect()
}

/// What [`classifier`] reads.
pub fn weights(kind: Kind) -> Vec<TensorProto> {
    vec![weight("filters", &[8, 3, 3, 3], kind), weight("weight", &[8, 10], kind)]
}
