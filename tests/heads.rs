//! How images go in and how scores come out, in the ways that exporters choose; ONNX Runtime is the judge.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;

use cmira::data::draw::{DrawOptions, draw};
use cmira::graph::{Mode, Model};
use cmira::onnx::proto::attribute_proto::AttributeType;
use cmira::onnx::proto::tensor_proto::DataType;
use cmira::onnx::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto};
use cmira::tensor::{Device, Kind, Tensor};
use common::{Folder, audit, classifier, cmira, model, node, text, value, weight, weights};

fn check(path: &Path, more: &[&str]) -> (i32, serde_json::Value, String) {
    let arguments: Vec<&str> = ["check", text(path), "--json", "--device", "cpu"].iter().chain(more).copied().collect();
    let (code, stdout, stderr) = cmira(&arguments);
    (code, serde_json::from_str(&stdout).expect("one document"), stderr)
}

fn agrees(found: &serde_json::Value) -> bool {
    found["parity"]["max_rel"].as_f64().is_some_and(|error| error < 1e-5)
}

fn images() -> ValueInfoProto {
    value("images", DataType::FLOAT, &[-1, 3, 32, 32])
}

fn small() -> Vec<NodeProto> {
    classifier(vec![node("Relu", &["conv"], "features", &[])])
}

fn graph(nodes: Vec<NodeProto>, input: ValueInfoProto, output: Vec<ValueInfoProto>) -> GraphProto {
    GraphProto {
        name: "g".into(),
        node: nodes,
        input: vec![input],
        output,
        initializer: weights(Kind::Float),
        ..Default::default()
    }
}

fn transpose(input: &str, output: &str, perm: &[i64]) -> NodeProto {
    let ints = perm.to_vec();
    let perm = AttributeProto { name: "perm".into(), type_: AttributeType::INTS.into(), ints, ..Default::default() };
    NodeProto { attribute: vec![perm], ..node("Transpose", &[input], output, &[]) }
}

#[test]
fn channels_last_is_seen_from_the_shape() {
    let folder = Folder::new();
    let mut nodes = small();
    nodes[0].input[0] = "turned".into();
    nodes.insert(0, transpose("images", "turned", &[0, 3, 1, 2]));
    let input = value("images", DataType::FLOAT, &[-1, 32, 24, 3]);
    let path = folder.save(nodes, input, DataType::FLOAT, weights(Kind::Float));
    let (code, found, stderr) = check(&path, &[]);
    assert_eq!(code, 0, "{stderr}");
    assert!(agrees(&found), "{found}");
    assert!(found["repairs"].to_string().contains("[N, H, W, C]"), "{found}");
    let model = Model::open(&path, Device::Cpu).expect("a classifier");
    assert_eq!(model.image_shape(), [Some(3), Some(32), Some(24)]);
}

/// Deployed models take bytes and scale them inside.
#[test]
fn images_as_bytes_are_trained_on_as_floats() {
    let folder = Folder::new();
    let mut nodes = small();
    nodes[0].input[0] = "scaled".into();
    let cast = node("Cast", &["turned"], "floats", &[("to", DataType::FLOAT as i64)]);
    nodes.splice(0..0, [transpose("images", "turned", &[0, 3, 1, 2]), cast, node("Mul", &["floats", "small"], "scaled", &[])]);
    let mut initializer = weights(Kind::Float);
    initializer.push(cmira::onnx::to_proto("small", &Tensor::from_slice(&[1.0_f32 / 255.0])).unwrap());
    for kind in [DataType::UINT8, DataType::INT32] {
        let input = value("images", kind, &[-1, 32, 32, 3]);
        let path = folder.save(nodes.clone(), input, DataType::FLOAT, initializer.clone());
        let (code, found, stderr) = check(&path, &[]);
        assert_eq!(code, 0, "{stderr}");
        assert!(agrees(&found), "{found}");
        assert!(found["repairs"].to_string().contains("whole numbers"), "{found}");

        let (_, suggested, _) = cmira(&["check", text(&path), "--suggest"]);
        assert!(suggested.contains("  scale: 1\n"), "{suggested}");
        std::fs::write(folder.path("bytes.yaml"), "input: {scale: 1}").unwrap();
        draw(
            &folder.path("drawn"),
            &DrawOptions { train_per_class: 1, test_per_class: 1, ..DrawOptions::default() },
            &mut |_| (),
        )
        .expect("images can be drawn");
        let images = folder.path("drawn/test");
        let (code, found, stderr) = check(&path, &["--images", text(&images), "--adapter", text(&folder.path("bytes.yaml"))]);
        assert_eq!(code, 0, "{stderr}");
        assert!(found["images"]["max_rel"].as_f64().is_some_and(|error| error < 1e-5), "{found}");
        // Without an adapter, bytes would be made small twice.
        let (code, _, stderr) = cmira(&["check", text(&path), "--images", text(&images)]);
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains("scale: 1"), "{stderr}");
    }
    // Arithmetic on bytes is another function than that on floats.
    nodes[1] = node("Div", &["turned", "two"], "halves", &[]);
    nodes.insert(2, node("Cast", &["halves"], "floats", &[("to", DataType::FLOAT as i64)]));
    initializer.push(cmira::onnx::to_proto("two", &Tensor::from_slice(&[2_u8])).unwrap());
    let path = folder.save(nodes, value("images", DataType::UINT8, &[-1, 32, 32, 3]), DataType::FLOAT, initializer);
    let (code, _, stderr) = cmira(&["check", text(&path)]);
    assert_eq!(code, 4, "{stderr}");
}

/// A row of numbers can be an image in two orders, which give different scores: somebody has to say which.
#[test]
fn rows_need_to_be_told_how_they_hold_an_image() {
    let folder = Folder::new();
    let nodes = vec![
        node("Gemm", &["images", "first"], "hidden", &[]),
        node("Relu", &["hidden"], "active", &[]),
        node("Gemm", &["active", "weight"], "scores", &[]),
    ];
    let initializer = vec![weight("first", &[192, 8], Kind::Float), weight("weight", &[8, 10], Kind::Float)];
    let path = folder.save(nodes, value("images", DataType::FLOAT, &[-1, 192]), DataType::FLOAT, initializer);
    let (code, _, stderr) = check(&path, &[]);
    assert_eq!(code, 4, "{stderr}");
    assert!(stderr.contains("flat_nhwc"), "{stderr}");

    let adapter = folder.path("adapter.yaml");
    let scores_in = |layout: &str, height: u32| {
        let yaml = format!("input:\n  channels: 3\n  height: {height}\n  width: 8\n  layout: {layout}\n");
        std::fs::write(&adapter, yaml).expect("the scratch folder is writable");
        check(&path, &["--adapter", text(&adapter)])
    };
    for layout in ["flat_nchw", "flat_nhwc"] {
        let (code, found, stderr) = scores_in(layout, 8);
        assert_eq!(code, 0, "{stderr}");
        assert!(agrees(&found) && found["import"]["layout"] == layout, "{found}");
    }
    let (code, _, stderr) = scores_in("flat_nchw", 9);
    assert_eq!(code, 4, "{stderr}");
    assert!(stderr.contains("rows of 192 numbers"), "{stderr}");
}

#[test]
fn a_softmax_in_pieces_is_known_by_its_numbers() {
    let folder = Folder::new();
    let mut nodes = small();
    nodes.last_mut().unwrap().output[0] = "z".into();
    nodes.extend([
        node("Exp", &["z"], "e", &[]),
        NodeProto { input: vec!["e".into(), "axis".into()], ..node("ReduceSum", &[], "sum", &[("keepdims", 1)]) },
        node("Div", &["e", "sum"], "scores", &[]),
    ]);
    let mut initializer = weights(Kind::Float);
    initializer.push(cmira::onnx::to_proto("axis", &Tensor::from_slice(&[1_i64])).unwrap());
    let path = folder.save(nodes, images(), DataType::FLOAT, initializer);
    let (code, found, stderr) = check(&path, &[]);
    assert_eq!(code, 0, "{stderr}");
    assert!(agrees(&found), "{found}");
    assert_eq!(found["import"]["head"], "probabilities");
    // Softmax of the logits has to be what the file gives.
    let model = Model::open(&path, Device::Cpu).expect("a classifier");
    let images = Tensor::rand([3, 3, 32, 32], (Kind::Float, Device::Cpu));
    let given = model.output(&images).expect("scores");
    let softmax = model.forward(&images, Mode::Eval).expect("logits").softmax(1, Kind::Float);
    assert!((given - softmax).abs().max().double_value(&[]) < 1e-5);
}

/// A matrix behind the softmax that gives classes another order: what comes out are probabilities still.
#[test]
fn probabilities_in_another_order_are_no_logits() {
    let folder = Folder::new();
    let mut nodes = small();
    nodes.last_mut().unwrap().output[0] = "z".into();
    nodes.extend([node("Softmax", &["z"], "fine", &[("axis", 1)]), node("MatMul", &["fine", "order"], "scores", &[])]);
    let mut initializer = weights(Kind::Float);
    let order = Tensor::eye(10, (Kind::Float, Device::Cpu)).roll([-1], [1]);
    initializer.push(cmira::onnx::to_proto("order", &order).unwrap());
    let path = folder.save(nodes, images(), DataType::FLOAT, initializer);
    let (code, found, stderr) = check(&path, &[]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(found["import"]["head"], "probabilities", "{found}");
}

#[test]
fn the_scores_behind_an_arg_max_are_trained() {
    let folder = Folder::new();
    let mut nodes = small();
    nodes.last_mut().unwrap().output[0] = "z".into();
    nodes.push(node("Softmax", &["z"], "p", &[("axis", 1)]));
    nodes.push(node("ArgMax", &["p"], "label", &[("axis", 1), ("keepdims", 0)]));
    let path = folder.save_model(model(graph(nodes, images(), vec![value("label", DataType::INT64, &[-1])])));
    let (code, found, stderr) = check(&path, &[]);
    assert_eq!(code, 0, "{stderr}");
    assert!(agrees(&found), "{found}");
    assert_eq!((&found["import"]["head"], &found["import"]["scores"]), (&"probabilities".into(), &"p".into()));
    assert_eq!(found["import"]["unused_outputs"].to_string(), r#"["label"]"#);
}

/// What scikit-learn's exporter writes behind logits `z`: a label, made by operators that are not supported, and a map from labels to
/// probabilities.
fn with_labels(mut nodes: Vec<NodeProto>, names: &[String]) -> ModelProto {
    nodes.push(node("Softmax", &["z"], "p", &[("axis", 1)]));
    nodes.push(node("ArgMax", &["p"], "index", &[("axis", 1)]));
    let strings = |name: &str| AttributeProto {
        name: name.into(),
        type_: AttributeType::STRINGS.into(),
        strings: names.iter().map(|name| name.clone().into_bytes()).collect(),
        ..Default::default()
    };
    let ml = |node: NodeProto, attribute| NodeProto { domain: "ai.onnx.ml".into(), attribute: vec![attribute], ..node };
    let mut encoder = ml(node("LabelEncoder", &["index"], "label", &[]), strings("values_strings"));
    encoder.attribute.push(AttributeProto {
        name: "keys_int64s".into(),
        type_: AttributeType::INTS.into(),
        ints: (0..10).collect(),
        ..Default::default()
    });
    nodes.push(encoder);
    nodes.push(ml(node("ZipMap", &["p"], "map", &[]), strings("classlabels_strings")));
    let mut map = ValueInfoProto { name: "map".into(), ..Default::default() };
    let element = map.type_.mut_or_insert_default().mut_sequence_type().elem_type.mut_or_insert_default().mut_map_type();
    element.key_type = DataType::STRING as i32;
    element.value_type.mut_or_insert_default().mut_tensor_type().elem_type = DataType::FLOAT as i32;
    let mut model = model(graph(nodes, images(), vec![value("label", DataType::STRING, &[-1, 1]), map]));
    model.opset_import.push(OperatorSetIdProto { domain: "ai.onnx.ml".into(), version: 3, ..Default::default() });
    model
}

#[test]
fn labels_beside_a_map_of_scores_do_not_stand_in_the_way() {
    let folder = Folder::new();
    let mut nodes = small();
    nodes.last_mut().unwrap().output[0] = "z".into();
    let names: Vec<String> = (0..10).map(|i| format!("class {i}")).collect();
    let (code, found, stderr) = check(&folder.save_model(with_labels(nodes, &names)), &[]);
    assert_eq!(code, 0, "{stderr}");
    assert!(agrees(&found), "{found}");
    assert_eq!(found["import"]["labels"][3], "class 3");
}

/// Folders are told apart by the labels in the file, whose order is not that of the alphabet.
#[test]
fn labels_in_the_file_name_the_classes_of_an_audit() {
    let folder = Folder::new();
    let options = DrawOptions { train_per_class: 2, test_per_class: 2, ..DrawOptions::default() };
    draw(&folder.path("drawn"), &options, &mut |_| ()).expect("images can be drawn");
    let folders = std::fs::read_dir(folder.path("drawn/train")).expect("just made");
    let mut names: Vec<String> = folders.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names.rotate_left(4);
    let mut nodes = small();
    nodes.last_mut().unwrap().output[0] = "all".into();
    nodes.push(node("Add", &["all", "favour"], "z", &[]));
    let mut proto = with_labels(nodes, &names);
    let favour: Vec<f32> = (0..10).map(|class| if class == 3 { 20.0 } else { 0.0 }).collect();
    let favour = cmira::onnx::to_proto("favour", &Tensor::from_slice(&favour)).unwrap();
    proto.graph.as_mut().unwrap().initializer.push(favour);
    let path = folder.save_model(proto);
    std::fs::write(folder.path("settings.yaml"), "{backbone: resnet8, head_width: 8, variant: P, pretrain: {epochs: 1}}")
        .unwrap();

    let settings = folder.path("settings.yaml");
    let (code, _, stderr) = audit(&folder, &path, 2, &["--settings", text(&settings)]);
    assert_eq!(code, 0, "{stderr}");
    let mut predictions = csv::Reader::from_path(folder.path("out/predictions.csv")).unwrap();
    let header = predictions.headers().unwrap().clone();
    let column = |name: &str| header.iter().position(|column| column == name).unwrap();
    let (unlearned, truth) = (column("unlearned_label"), column("truth"));
    let rows: Vec<csv::StringRecord> = predictions.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 20);
    assert!(rows.iter().all(|row| row[unlearned] == names[3]), "{rows:?}");
    assert!(rows.iter().all(|row| row[0].contains(&row[truth])), "{rows:?}");
    let mut results = csv::Reader::from_path(folder.path("out/results.csv")).unwrap();
    let header = results.headers().unwrap().clone();
    let acc_u = header.iter().position(|column| column == "acc_u").unwrap();
    let first = results.records().next().unwrap().unwrap();
    assert_eq!(first[acc_u].parse::<f64>().unwrap(), 10.0, "one class of ten is always right");
}

#[test]
fn an_adapter_can_choose_among_outputs() {
    let folder = Folder::new();
    let mut nodes = small();
    nodes.push(node("Gemm", &["flat", "other"], "auxiliary", &[]));
    let output = vec![value("auxiliary", DataType::FLOAT, &[-1, 4]), value("scores", DataType::FLOAT, &[-1, 10])];
    let mut graph = graph(nodes, images(), output);
    graph.initializer.push(weight("other", &[8, 4], Kind::Float));
    let path = folder.save_model(model(graph));
    let adapter = folder.path("adapter.yaml");
    for (scores, classes) in [("auxiliary", 4), ("scores", 10)] {
        std::fs::write(&adapter, format!("scores: {scores}\n")).expect("the scratch folder is writable");
        let (code, found, stderr) = check(&path, &["--adapter", text(&adapter)]);
        assert_eq!(code, 0, "{stderr}");
        assert!(agrees(&found), "{found}");
        let trained: Vec<i64> = found["import"]["trainable"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|tensor| tensor["name"] != "filters")
            .map(|tensor| tensor["shape"][1].as_i64().unwrap())
            .collect();
        assert_eq!(trained, [classes], "only what the chosen scores need is trained");
    }
    std::fs::write(&adapter, "scores: nowhere\n").expect("the scratch folder is writable");
    let (code, _, stderr) = check(&path, &["--adapter", text(&adapter)]);
    assert_eq!(code, 4, "{stderr}");
    assert!(stderr.contains("'nowhere'"), "{stderr}");
    let by_itself = Model::open(&path, Device::Cpu).expect("a classifier");
    assert_eq!(by_itself.classes(), 4, "the first output that can hold scores");
}
