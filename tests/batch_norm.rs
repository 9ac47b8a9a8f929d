//! Normalisation that an exporter folded away is put back: nothing changes in evaluation, and training is that of the network that
//! was never folded.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::HashMap;

use cmira::check::Witness;
use cmira::graph::{BatchNormRepair, ImportOptions, Mode, Model, Repairs};
use cmira::nets::{Backbone, InputShape, classifier};
use cmira::onnx::proto::tensor_proto::DataType;
use cmira::onnx::proto::{GraphProto, ModelProto, NodeProto};
use cmira::onnx::{self, Limits, from_proto, to_proto};
use cmira::tensor::{Device, Kind, Tensor, no_grad};
use common::Folder;

const IMAGES: i64 = 48;

fn images() -> Tensor {
    cmira::check::parity::random_images(&[IMAGES, 3, 16, 16]).unwrap()
}

/// A small residual network whose running statistics are those of the images, with scales and shifts of all sizes.
fn twin() -> Model {
    let proto = classifier(Backbone::Resnet8, InputShape { channels: 3, height: 16, width: 16 }, 10, 5).unwrap();
    let model = Model::from_proto("twin", proto, Device::Cpu).unwrap();
    let _guard = no_grad();
    for (number, param) in model.params().iter().enumerate().filter(|(_, param)| param.tensor.dim() == 1) {
        let steps = Tensor::arange(param.tensor.size()[0], (Kind::Float, Device::Cpu));
        let spread = ((steps * 0.7 + number as f64).sin() * 0.4).to_kind(Kind::Float);
        param.tensor.shallow_clone().copy_(&(spread + if param.name.ends_with(".weight") { 0.9 } else { 0.1 }));
    }
    // Running statistics come as close to those of the images as their momentum allows: 0.9^200.
    for _ in 0..200 {
        let _ = model.forward(&images(), Mode::Train).unwrap();
    }
    model
}

/// How exporters write a normalisation away.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fold {
    /// Into the convolution in front.
    IntoFilters,
    /// As a product and a sum per channel.
    AsProducts,
}

/// The same function without normalisation, by the definition of the operators.
fn folded(model: &ModelProto, fold: Fold) -> ModelProto {
    let mut model = model.clone();
    let graph = model.graph.as_mut().unwrap();
    let constants: HashMap<String, Tensor> =
        graph.initializer.iter().map(|t| (t.name.clone(), from_proto(t).unwrap().to_kind(Kind::Double))).collect();
    let nodes = std::mem::take(&mut graph.node);
    let mut kept: Vec<NodeProto> = Vec::new();
    for node in nodes {
        if node.op_type != "BatchNormalization" {
            kept.push(node);
            continue;
        }
        let [scale, shift, mean, variance] = [1, 2, 3, 4].map(|index| &constants[&node.input[index]]);
        let factor = scale / (variance + 1e-5).sqrt();
        let rest = shift - mean * &factor;
        graph.initializer.retain(|tensor| !node.input[1..].contains(&tensor.name));
        if fold == Fold::AsProducts {
            let product = format!("{}/product", node.output[0]);
            for (name, values) in [(format!("{product}/by"), &factor), (format!("{product}/and"), &rest)] {
                let values = values.reshape([1, -1, 1, 1]).to_kind(Kind::Float);
                graph.initializer.push(to_proto(&name, &values).unwrap());
            }
            kept.push(common::node("Mul", &[&node.input[0], &format!("{product}/by")], &product, &[]));
            kept.push(common::node("Add", &[&product, &format!("{product}/and")], &node.output[0], &[]));
            continue;
        }
        let conv = kept.iter_mut().find(|conv| conv.output == node.input[..1]).expect("a convolution in front");
        let filters = &constants[&conv.input[1]] * factor.reshape([-1, 1, 1, 1]);
        let place = graph.initializer.iter_mut().find(|tensor| tensor.name == conv.input[1]).unwrap();
        *place = to_proto(&conv.input[1], &filters.to_kind(Kind::Float)).unwrap();
        let bias = format!("{}/bias", conv.output[0]);
        graph.initializer.push(to_proto(&bias, &rest.to_kind(Kind::Float)).unwrap());
        conv.input.push(bias);
        conv.output.clone_from(&node.output);
    }
    graph.node = kept;
    model
}

fn import(proto: ModelProto, batch_norm: BatchNormRepair) -> Model {
    let options = ImportOptions { repairs: Repairs { batch_norm, ..Repairs::default() }, ..ImportOptions::default() };
    let file = onnx::from_model("folded", proto, &Limits::default()).unwrap();
    let model = Model::import(file, &options, Device::Cpu).unwrap();
    let batches = images().split(20, 0);
    model.with_batch_norm(&mut batches.into_iter().map(Ok)).unwrap()
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    let scale = b.abs().max().double_value(&[]);
    (a - b).abs().max().double_value(&[]) / scale
}

#[test]
fn folded_normalisation_is_put_back_and_trains_like_the_original() {
    for fold in [Fold::IntoFilters, Fold::AsProducts] {
        is_put_back(&twin(), fold);
    }
}

fn is_put_back(twin: &Model, fold: Fold) {
    let folded = folded(&twin.to_onnx().unwrap(), fold);
    let kept = import(folded.clone(), BatchNormRepair::Keep);
    let back = import(folded, BatchNormRepair::Auto);
    assert!(kept.buffers().next().is_none());
    assert_eq!(back.buffers().count(), twin.buffers().count(), "{fold:?}: {:?}", back.report().repairs);

    // In evaluation nothing changed.
    let other = images().flip([3]);
    let before = kept.forward(&other, Mode::Eval).unwrap();
    assert!(difference(&back.forward(&other, Mode::Eval).unwrap(), &before) < 1e-5);
    // In training, the batch's statistics count, as in the network that was never folded; without them they do not.
    let half = other.narrow(0, 0, 8) * 0.5;
    let expected = twin.forward(&half, Mode::Train).unwrap();
    let found = difference(&back.forward(&half, Mode::Train).unwrap(), &expected);
    assert!(found < 1e-3, "{fold:?}: {found}");
    assert!(difference(&kept.forward(&half, Mode::Train).unwrap(), &expected) > 0.05);
    // Scales and shifts are the original's.
    let one = |model: &Model, name: &str| {
        let found =
            model.params().iter().filter(|p| p.tensor.dim() == 1 && p.name.ends_with(name)).map(|p| p.tensor.shallow_clone());
        Tensor::cat(&found.collect::<Vec<_>>(), 0).sort(0, false).0
    };
    // A running variance is that of a population: n / (n - 1), with n = 768 in the last layers.
    let found = difference(&one(&back, "/batch_norm/scale"), &one(twin, ".weight"));
    assert!(found < 2e-3, "{fold:?}: {found}");
    // Filters that held a scale have the length of an initialisation, others are as they were.
    let filters = |model: &Model| -> Vec<Tensor> {
        model.params().iter().filter(|p| p.tensor.dim() == 4).map(|p| p.tensor.shallow_clone()).collect()
    };
    for (back, kept) in filters(&back).iter().zip(&filters(&kept)) {
        let (outputs, inputs) = (back.size()[0], back.size()[1]);
        let lengths = back.flatten(1, -1).square().sum_dim_intlist(1, false, Kind::Float).sqrt();
        let likely = lengths.ones_like() * (2.0 * inputs as f64 / outputs as f64).sqrt();
        match fold {
            Fold::IntoFilters => assert!(difference(&lengths, &likely) < 1e-5),
            Fold::AsProducts => assert!(difference(back, kept) < 1e-7),
        }
    }
}

#[test]
fn the_export_holds_the_normalisation() {
    // Some tools name nodes after what they give.
    let mut file = folded(&twin().to_onnx().unwrap(), Fold::IntoFilters);
    file.graph.as_mut().unwrap().node.iter_mut().for_each(|node| node.name = node.output[0].clone());
    let back = import(file, BatchNormRepair::Auto);
    let folder = Folder::new();
    let written = back.to_onnx().unwrap();
    let mut names: Vec<&String> = written.graph.node.iter().map(|node| &node.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "ONNX Runtime takes no two nodes of one name");
    let path = folder.save_model(written);
    let _guard = no_grad();
    let given = Witness::open(&path, back.report()).unwrap().run(&images()).unwrap().to_kind(Kind::Float);
    assert!(difference(&given, &back.forward(&images(), Mode::Eval).unwrap()) < 1e-5);
    let again = Model::open(&path, Device::Cpu).unwrap();
    assert_eq!(again.buffers().count(), back.buffers().count());
}

/// A plain network of convolutions with biases can have been trained without normalisation: that is left to who knows.
#[test]
fn what_only_might_have_been_folded_is_asked_about() {
    let proto = classifier(Backbone::Vgg16, InputShape { channels: 3, height: 32, width: 32 }, 10, 5).unwrap();
    let plain = folded(&proto, Fold::IntoFilters);
    let model = Model::from_proto("plain", plain.clone(), Device::Cpu).unwrap();
    assert!(model.report().notes.iter().any(|note| note.contains("batch_norm: reinsert")), "{:?}", model.report().notes);
    assert!(model.buffers().next().is_none());
    let options = ImportOptions {
        repairs: Repairs { batch_norm: BatchNormRepair::Reinsert, ..Repairs::default() },
        ..ImportOptions::default()
    };
    let file = onnx::from_model("plain", plain, &Limits::default()).unwrap();
    let model = Model::import(file, &options, Device::Cpu).unwrap();
    let images = cmira::check::parity::random_images(&[4, 3, 32, 32]).unwrap();
    let back = model.with_batch_norm(&mut std::iter::once(Ok(images))).unwrap();
    assert_eq!(back.buffers().count(), 26, "two statistics behind each of 13 convolutions");
}

/// Linear layers alone: never by themselves, and without changing the function.
#[test]
fn normalisation_behind_linear_layers_is_put_back_on_request() {
    use common::{model, node, value, weight};
    let initializer = vec![
        weight("w1", &[12, 192], Kind::Float),
        weight("b1", &[12], Kind::Float),
        weight("w2", &[12, 12], Kind::Float),
        weight("b2", &[12], Kind::Float),
        weight("w3", &[5, 12], Kind::Float),
        weight("b3", &[5], Kind::Float),
    ];
    let graph = GraphProto {
        name: "linear".into(),
        node: vec![
            node("Flatten", &["images"], "flat", &[]),
            node("Gemm", &["flat", "w1", "b1"], "one", &[("transB", 1)]),
            node("Relu", &["one"], "rectified", &[]),
            node("Gemm", &["rectified", "w2", "b2"], "two", &[]),
            node("Add", &["two", "rectified"], "sum", &[]),
            node("Gemm", &["sum", "w3", "b3"], "scores", &[("transB", 1)]),
        ],
        input: vec![value("images", DataType::FLOAT, &[-1, 3, 8, 8])],
        output: vec![value("scores", DataType::FLOAT, &[-1, 5])],
        initializer,
        ..Default::default()
    };
    let proto = model(graph);
    let images = cmira::check::parity::random_images(&[24, 3, 8, 8]).unwrap();
    let with = |batch_norm| {
        let options = ImportOptions { repairs: Repairs { batch_norm, ..Repairs::default() }, ..ImportOptions::default() };
        let model = Model::import(onnx::from_model("linear", proto.clone(), &Limits::default()).unwrap(), &options, Device::Cpu);
        model.unwrap().with_batch_norm(&mut std::iter::once(Ok(images.shallow_clone()))).unwrap()
    };
    let (plain, back) = (with(BatchNormRepair::Auto), with(BatchNormRepair::Reinsert));
    assert!(plain.buffers().next().is_none(), "nothing says that there was any");
    // Behind the first two; scores are not normalised.
    assert_eq!(back.buffers().count(), 4);
    let before = plain.forward(&images, Mode::Eval).unwrap();
    assert!(difference(&back.forward(&images, Mode::Eval).unwrap(), &before) < 1e-5);
    let folder = Folder::new();
    let path = folder.save_model(back.to_onnx().unwrap());
    let given = Witness::open(&path, back.report()).unwrap().run(&images).unwrap().to_kind(Kind::Float);
    assert!(difference(&given, &before) < 1e-5);
    // The images are those that were measured: their own statistics say the same, up to n / (n - 1).
    assert!(difference(&back.forward(&images, Mode::Train).unwrap(), &before) < 1e-3);
}
