//! Reading model files that nobody vouches for: every one is read or refused with a reason, and none brings the process down.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use cmira::error::{Error, ErrorKind};
use cmira::onnx::proto::attribute_proto::AttributeType;
use cmira::onnx::proto::tensor_proto::DataLocation;
use cmira::onnx::proto::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    ValueInfoProto,
};
use cmira::onnx::{self, Limits};
use cmira::tensor::{rng, to_f32s};
use rand::Rng;

fn node(op_type: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_string()).collect();
    NodeProto { op_type: op_type.to_string(), input: names(inputs), output: names(outputs), ..Default::default() }
}

fn value(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: name.to_string(), ..Default::default() }
}

fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    let raw_data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    TensorProto { name: name.to_string(), data_type: 1, dims: dims.to_vec(), raw_data, ..Default::default() }
}

fn with_tensor(name: &str, tensor: TensorProto) -> AttributeProto {
    AttributeProto { name: name.to_string(), type_: AttributeType::TENSOR.into(), t: Some(tensor).into(), ..Default::default() }
}

fn with_graph(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto { name: name.to_string(), type_: AttributeType::GRAPH.into(), g: Some(graph).into(), ..Default::default() }
}

/// y = x + w, with a constant in a subgraph beside it.
fn small() -> ModelProto {
    let mut constant = node("Constant", &[], &["inner"]);
    constant.attribute.push(with_tensor("value", floats("", &[], &[0.5])));
    let branch = GraphProto { node: vec![constant], output: vec![value("inner")], ..Default::default() };
    let mut choice = node("If", &["flag"], &["chosen"]);
    choice.name = "choice".to_string();
    choice.attribute.push(with_graph("then_branch", branch.clone()));
    choice.attribute.push(with_graph("else_branch", branch));
    let flag = TensorProto { name: "flag".to_string(), data_type: 9, int32_data: vec![1], ..Default::default() };
    let graph = GraphProto {
        name: "g".to_string(),
        input: vec![value("x")],
        output: vec![value("y")],
        initializer: vec![floats("w", &[2, 2], &[1.0, -2.5, 3.0, 65504.0]), flag],
        node: vec![node("Add", &["x", "w"], &["sum"]), choice, node("Add", &["sum", "chosen"], &["y"])],
        ..Default::default()
    };
    ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto { version: 17, ..Default::default() }],
        graph: Some(graph).into(),
        ..Default::default()
    }
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn read_bytes(&self, bytes: &[u8]) -> Result<onnx::OnnxFile, Error> {
        onnx::read(&self.write("m.onnx", bytes), &Limits::default())
    }

    fn refusal(&self, bytes: &[u8]) -> String {
        let error = self.read_bytes(bytes).expect_err("must be refused");
        assert!(matches!(error.kind(), ErrorKind::Malformed | ErrorKind::Unsupported), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
        assert!(error.to_string().contains("m.onnx: "), "{error}");
        error.to_string()
    }
}

fn refused(change: impl FnOnce(&mut ModelProto)) -> String {
    let mut model = small();
    change(&mut model);
    let from_file = Folder::new().refusal(&model.write_to_bytes().unwrap());
    let from_memory = onnx::from_model("m.onnx", model, &Limits::default()).expect_err("must be refused").to_string();
    assert!(from_file.ends_with(&from_memory), "{from_file}\n{from_memory}");
    from_file
}

fn accepted(change: impl FnOnce(&mut ModelProto)) -> onnx::OnnxFile {
    let mut model = small();
    change(&mut model);
    Folder::new().read_bytes(&model.write_to_bytes().unwrap()).unwrap()
}

fn graph(model: &mut ModelProto) -> &mut GraphProto {
    model.graph.as_mut().unwrap()
}

#[test]
fn a_valid_file_is_read_and_comes_back_the_same() {
    let folder = Folder::new();
    let path = folder.path("saved.onnx");
    onnx::save(&small(), &path).unwrap();
    let file = onnx::read(&path, &Limits::default()).unwrap();
    assert_eq!(file.model, small());
    assert_eq!(file.bytes, std::fs::metadata(&path).unwrap().len());
    let weights = file.tensor(&file.model.graph.initializer[0]).unwrap();
    assert_eq!(weights.size(), [2, 2]);
    assert_eq!(to_f32s(&weights).unwrap(), [1.0, -2.5, 3.0, 65504.0]);

    let in_memory = onnx::from_model("m", small(), &Limits::default()).unwrap();
    assert_eq!((in_memory.sha256, in_memory.bytes), (file.sha256, file.bytes));
}

#[test]
fn a_tensor_file_is_read_or_refused() {
    let folder = Folder::new();
    let path = folder.write("input_0.pb", &floats("x", &[2], &[0.5, -1.0]).write_to_bytes().unwrap());
    let (name, values) = onnx::read_tensor(&path, &Limits::default()).unwrap();
    assert_eq!((name.as_str(), to_f32s(&values).unwrap()), ("x", vec![0.5, -1.0]));
    for hostile in
        [vec![0x0b; 100_000], vec![], TensorProto { dims: vec![3], ..floats("x", &[], &[1.0]) }.write_to_bytes().unwrap()]
    {
        let error = onnx::read_tensor(&folder.write("bad.pb", &hostile), &Limits::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed, "{error}");
    }
}

/// The expected value is what `sha256sum` says of these bytes.
#[test]
fn the_hash_is_that_of_the_file() {
    let model = ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto { version: 17, ..Default::default() }],
        graph: Some(GraphProto::default()).into(),
        ..Default::default()
    };
    let bytes = [0x08, 0x08, 0x42, 0x02, 0x10, 0x11, 0x3a, 0x00];
    assert_eq!(model.write_to_bytes().unwrap(), bytes);
    let expected = "636cde3693d083579f9e9af8bd491d04b764954e929005d2bc7106c42fe72962";
    assert_eq!(Folder::new().read_bytes(&bytes).unwrap().sha256, expected);
    assert_eq!(onnx::from_model("m", model, &Limits::default()).unwrap().sha256, expected);
}

#[test]
fn truncated_anywhere_it_is_refused() {
    let bytes = small().write_to_bytes().unwrap();
    let folder = Folder::new();
    for place in 0..50 {
        folder.refusal(&bytes[..bytes.len() * place / 50]);
    }
}

#[test]
fn random_bytes_are_refused() {
    let mut rng = rng(1, "random files", 0);
    for _ in 0..2000 {
        let mut bytes = vec![0; rng.random_range(1..2000)];
        rng.fill(bytes.as_mut_slice());
        let error = onnx::from_bytes("m.onnx", bytes, &Limits::default()).expect_err("must be refused");
        assert_eq!(error.kind(), ErrorKind::Malformed, "{error}");
    }
}

#[test]
fn a_flipped_file_is_read_or_refused() {
    let bytes = small().write_to_bytes().unwrap();
    let mut rng = rng(2, "flipped files", 0);
    let mut read = 0;
    for _ in 0..10_000 {
        let mut flipped = bytes.clone();
        for _ in 0..rng.random_range(1..4) {
            let place = rng.random_range(0..flipped.len());
            flipped[place] = if rng.random() { rng.random() } else { flipped[place] ^ (1 << rng.random_range(0..8)) };
        }
        match onnx::from_bytes("m.onnx", flipped, &Limits::default()) {
            Ok(file) => {
                read += 1;
                for tensor in &file.model.graph.initializer {
                    if let Err(error) = file.tensor(tensor) {
                        assert!(matches!(error.kind(), ErrorKind::Malformed | ErrorKind::Unsupported), "{error}");
                    }
                }
            }
            Err(error) => assert!(matches!(error.kind(), ErrorKind::Malformed | ErrorKind::Unsupported), "{error}"),
        }
    }
    assert!(read > 100, "most flips hit values and names, which stay readable: {read}");
}

#[test]
fn groups_nested_a_hundred_thousand_deep_are_refused() {
    let mut bytes = vec![0x0b; 100_000];
    bytes.extend([0x0c; 100_000]);
    assert!(Folder::new().refusal(&bytes).contains("group"));
    // After a good model, where a reader that stops early would not see them.
    let tail = [small().write_to_bytes().unwrap(), bytes].concat();
    assert!(Folder::new().refusal(&tail).contains("group"));
}

/// The bytes from the last to the first, so that every level's length is known when it is written.
fn nested(fields: impl DoubleEndedIterator<Item = u8>) -> Vec<u8> {
    let mut backwards: Vec<u8> = Vec::new();
    for field in fields.rev() {
        let mut length = backwards.len();
        let mut digits = Vec::new();
        loop {
            digits.push((length & 0x7f) as u8 | if length >= 0x80 { 0x80 } else { 0 });
            length >>= 7;
            if length == 0 {
                break;
            }
        }
        backwards.extend(digits.iter().rev());
        backwards.push(field << 3 | 2);
    }
    backwards.reverse();
    backwards
}

#[test]
fn subgraphs_and_types_nested_a_hundred_thousand_deep_are_refused() {
    // Model.graph, then Graph.node, Node.attribute, Attribute.g and again.
    let graphs = nested((0..100_000).map(|level| if level == 0 { 7 } else { [6, 1, 5][level % 3] }));
    assert!(Folder::new().refusal(&graphs).contains("nested deeper than 64"));
    // Model.graph, Graph.input, ValueInfo.type, then Type.sequence_type, Sequence.elem_type and again.
    let types = nested((0..100_000).map(|level| match level {
        0 => 7,
        1 => 11,
        2 => 2,
        level if level % 2 == 1 => 4,
        _ => 1,
    }));
    assert!(Folder::new().refusal(&types).contains("nested deeper than 64"));
}

#[test]
fn a_model_in_memory_is_held_to_the_same_nesting() {
    let mut inner = GraphProto::default();
    for _ in 0..30 {
        let mut outer = node("If", &[], &["v"]);
        outer.attribute.push(with_graph("then_branch", inner));
        inner = GraphProto { node: vec![outer], ..Default::default() };
    }
    let model = ModelProto { graph: Some(inner).into(), ..small() };
    assert!(onnx::from_model("m", model, &Limits::default()).unwrap_err().reason().contains("nested deeper"));
}

#[test]
fn models_without_their_essentials_are_refused() {
    assert!(Folder::new().refusal(&[]).contains("the file is empty"));
    assert!(refused(|model| model.graph = None.into()).contains("no graph"));
    assert!(refused(|model| model.ir_version = 0).contains("no IR version"));
    assert!(refused(|model| model.ir_version = -1).contains("IR version -1"));
    assert!(refused(|model| model.ir_version = i64::MAX).contains("newer"));
    assert!(refused(|model| model.opset_import.clear()).contains("no opset"));
    assert!(refused(|model| model.opset_import[0].version = 0).contains("opset version 0"));
    let twice = refused(|model| {
        let other = OperatorSetIdProto { domain: "ai.onnx".to_string(), version: 18, ..Default::default() };
        model.opset_import.push(other);
    });
    assert!(twice.contains("as opset 17 and 18"), "{twice}");
}

#[test]
fn other_files_are_told_apart() {
    let folder = Folder::new();
    assert!(folder.refusal(b"PK\x03\x04 and so on").contains("zip archive"));
    assert!(folder.refusal(b"version https://git-lfs.github.com/spec/v1\n").contains("git lfs pull"));
}

#[test]
fn what_is_no_regular_file_is_refused() {
    let folder = Folder::new();
    let directory = onnx::read(folder.0.path(), &Limits::default()).unwrap_err();
    assert_eq!(directory.kind(), ErrorKind::Malformed);
    assert!(directory.reason().contains("directory"));
    let missing = onnx::read(&folder.path("missing.onnx"), &Limits::default()).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Usage);
    let device = onnx::read(Path::new("/dev/zero"), &Limits::default()).unwrap_err();
    assert!(device.reason().contains("not a regular file"), "{device}");
}

#[test]
fn limits_are_kept() {
    let folder = Folder::new();
    let path = folder.write("m.onnx", &small().write_to_bytes().unwrap());
    let refusal = |limits: Limits| onnx::read(&path, &limits).unwrap_err().reason().to_string();
    let limits = Limits::default;
    assert!(refusal(Limits { file_bytes: 100, ..limits() }).contains("limit file_bytes"));
    assert!(refusal(Limits { tensor_bytes: 15, ..limits() }).contains("limit tensor_bytes"));
    assert!(refusal(Limits { total_tensor_bytes: 20, ..limits() }).contains("limit total_tensor_bytes"));
    assert!(refusal(Limits { nodes: 4, ..limits() }).contains("limit nodes"));
    assert!(refusal(Limits { rank: 1, ..limits() }).contains("limit rank"));
    assert!(refusal(Limits { nesting: 4, ..limits() }).contains("limit nesting"));
    assert!(refusal(Limits { overhead_bytes: 1000, ..limits() }).contains("limit overhead_bytes"));
    let just_enough = Limits { tensor_bytes: 16, total_tensor_bytes: 25, nodes: 5, rank: 2, nesting: 7, ..Limits::default() };
    onnx::read(&path, &just_enough).unwrap();
}

#[test]
fn dimensions_that_cannot_be_are_refused_before_anything_is_allocated() {
    let with_dims = |dims: &[i64]| refused(|model| graph(model).initializer[0].dims = dims.to_vec());
    assert!(with_dims(&[-2, -2]).contains("initializer 'w': its shape [-2, -2] has a negative dimension"));
    assert!(with_dims(&[i64::MAX, i64::MAX]).contains("64-bit"));
    assert!(with_dims(&[1 << 31, 1 << 31]).contains("limit tensor_bytes"));
    assert!(with_dims(&[2, 3]).contains("holds 16 bytes, but shape [2, 3] of FLOAT needs 24"));
    assert!(with_dims(&[3]).contains("holds 16 bytes"));
}

#[test]
fn tensors_in_subgraphs_and_functions_are_checked() {
    let inner = |change: fn(&mut TensorProto)| {
        refused(|model| {
            let branch = graph(model).node[1].attribute[1].g.as_mut().unwrap();
            change(branch.node[0].attribute[0].t.as_mut().unwrap());
        })
    };
    let text = inner(|tensor| tensor.dims = vec![i64::MAX, i64::MAX]);
    let place = "node 'choice' (If): attribute 'else_branch': node 0 (Constant): attribute 'value': its shape";
    assert!(text.contains(place), "{text}");
    assert!(inner(|tensor| tensor.data_type = 0).contains("data type is undefined"));

    let in_function = refused(|model| {
        let mut constant = node("Constant", &[], &["c"]);
        constant.attribute.push(with_tensor("value", floats("", &[7], &[1.0])));
        model.functions.push(cmira::onnx::proto::FunctionProto {
            name: "F".to_string(),
            node: vec![constant],
            ..Default::default()
        });
    });
    assert!(in_function.contains("function 'F': node 0 (Constant)"), "{in_function}");
}

#[test]
fn names_that_are_defined_twice_are_refused() {
    let twice = refused(|model| {
        let copy = graph(model).initializer[0].clone();
        graph(model).initializer.push(copy);
    });
    assert!(twice.contains("initializer 'w' is given twice"));
    assert!(refused(|model| graph(model).node[2].output = vec!["sum".into()]).contains("defines 'sum', which is defined"));
    assert!(refused(|model| graph(model).node[0].output = vec!["x".into()]).contains("defines 'x'"));
    assert!(refused(|model| graph(model).node[0].output = vec!["w".into()]).contains("defines 'w'"));
    assert!(refused(|model| graph(model).input.push(value("x"))).contains("input 'x' is declared twice"));
    assert!(refused(|model| graph(model).initializer[0].name.clear()).contains("has no name"));
    let attribute = refused(|model| {
        let copy = graph(model).node[1].attribute[0].clone();
        graph(model).node[1].attribute.push(copy);
    });
    assert!(attribute.contains("attribute 'then_branch': it is given twice"));
    // What ONNX allows: inputs with defaults, unused outputs, the same name in two branches.
    accepted(|model| graph(model).input.push(value("w")));
    accepted(|model| graph(model).node[0].output.extend([String::new(), String::new()]));
}

#[test]
fn attributes_hold_what_they_say() {
    assert!(refused(|model| graph(model).node[1].attribute[0].g = None.into()).contains("holds a graph and holds none"));
    assert!(
        refused(|model| graph(model).node[1].attribute[0].type_ = protobuf::EnumOrUnknown::from_i32(77))
            .contains("type 77 does not exist")
    );
    assert!(refused(|model| graph(model).node[0].op_type.clear()).contains("names no operator"));
}

#[test]
fn what_old_files_leave_out_is_filled_in() {
    let file = accepted(|model| {
        model.ir_version = 1;
        model.opset_import.clear();
        graph(model).node[1].attribute[0].type_ = AttributeType::UNDEFINED.into();
        let ints = AttributeProto { name: "axes".to_string(), ints: vec![1, 2], ..Default::default() };
        graph(model).node[0].attribute.push(ints);
    });
    assert_eq!(file.model.opset_import[0].version, 1);
    let nodes = &file.model.graph.node;
    assert_eq!(nodes[1].attribute[0].type_, AttributeType::GRAPH.into());
    assert_eq!(nodes[0].attribute[0].type_, AttributeType::INTS.into());
}

#[test]
fn hostile_names_do_not_flood_the_message() {
    let text = refused(|model| {
        let name = "\u{1b}[2J\n".repeat(100_000);
        graph(model).initializer[0] = TensorProto { dims: vec![-1], ..floats(&name, &[], &[0.0]) };
    });
    assert!(text.len() < 1000, "{}", text.len());
    assert!(!text.contains('\u{1b}'));
}

fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: key.to_string(), value: value.to_string(), ..Default::default() }
}

fn with_external(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut model = small();
    let weights = &mut graph(&mut model).initializer[0];
    weights.raw_data.clear();
    weights.data_location = DataLocation::EXTERNAL.into();
    weights.external_data = entries.iter().map(|(key, value)| entry(key, value)).collect();
    model.write_to_bytes().unwrap()
}

/// Two bytes of something else, then the weights.
fn data() -> Vec<u8> {
    let weights = [1.0_f32, -2.5, 3.0, 65504.0].into_iter().flat_map(f32::to_le_bytes);
    [0xaa, 0xbb].into_iter().chain(weights).collect()
}

#[test]
fn external_data_are_read_from_their_range() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("parts")).unwrap();
    for location in ["data.bin", "./data.bin", "parts/data.bin"] {
        folder.write(location, &data());
        let file = folder.read_bytes(&with_external(&[("location", location), ("offset", "2"), ("length", "16")])).unwrap();
        let weights = file.tensor(&file.model.graph.initializer[0]).unwrap();
        assert_eq!(to_f32s(&weights).unwrap(), [1.0, -2.5, 3.0, 65504.0]);
    }
    // Without a length, the tensor's own; other keys are none of our business.
    let file = folder.read_bytes(&with_external(&[("location", "data.bin"), ("offset", "2"), ("checksum", "0")])).unwrap();
    assert_eq!(file.tensor(&file.model.graph.initializer[0]).unwrap().size(), [2, 2]);
}

#[test]
fn external_data_taken_in_can_be_saved_elsewhere() {
    let folder = Folder::new();
    folder.write("data.bin", &data());
    let mut file = folder.read_bytes(&with_external(&[("location", "data.bin"), ("offset", "2")])).unwrap();
    let elsewhere = Folder::new();
    assert!(onnx::save(&file.model, &elsewhere.path("m.onnx")).unwrap_err().reason().contains("external data"));
    assert!(!elsewhere.path("m.onnx").exists());
    file.embed_external_data().unwrap();
    onnx::save(&file.model, &elsewhere.path("m.onnx")).unwrap();
    assert_eq!(onnx::read(&elsewhere.path("m.onnx"), &Limits::default()).unwrap().model, small());
}

#[test]
fn external_data_stay_in_the_models_directory() {
    let outside = Folder::new();
    let secret = outside.write("secret.bin", &data());
    let folder = Folder::new();
    folder.write("data.bin", &data());
    std::fs::create_dir(folder.path("parts")).unwrap();
    let refusal = |location: &str| folder.refusal(&with_external(&[("location", location), ("offset", "2")]));

    assert!(refusal(secret.to_str().unwrap()).contains("absolute path"));
    let name = outside.0.path().file_name().unwrap().to_str().unwrap();
    assert!(refusal(&format!("../{name}/secret.bin")).contains("'..'"));
    assert!(refusal("parts/../data.bin").contains("'..'"));
    assert!(refusal("").contains("names no file"));
    assert!(refusal(".").contains("names no file"));
    assert!(refusal("data.bin\0").contains("zero byte"));
    assert!(refusal("parts").contains("regular file"));
    assert!(refusal("missing.bin").contains("missing"));
    assert!(refusal("data.bin/more").contains("not a directory"));
    assert!(refusal(&"n".repeat(100_000)).len() < 1000);
    assert!(refusal(&"n".repeat(300)).contains("long"));
}

#[cfg(unix)]
#[test]
fn external_data_may_not_be_reached_through_links() {
    let outside = Folder::new();
    let secret = outside.write("secret.bin", &data());
    let folder = Folder::new();
    let inside = folder.write("inside.bin", &data());
    std::os::unix::fs::symlink(&secret, folder.path("soft.bin")).unwrap();
    std::os::unix::fs::symlink(outside.0.path(), folder.path("soft")).unwrap();
    std::os::unix::fs::symlink(&inside, folder.path("near.bin")).unwrap();
    std::fs::hard_link(&secret, folder.path("hard.bin")).unwrap();
    let refusal = |location: &str| folder.refusal(&with_external(&[("location", location), ("offset", "2")]));
    for location in ["soft.bin", "soft/secret.bin", "near.bin"] {
        assert!(refusal(location).contains("symbolic link"), "{location}");
    }
    assert!(refusal("hard.bin").contains("hard link"));
}

#[test]
fn external_ranges_are_checked() {
    let folder = Folder::new();
    folder.write("data.bin", &data());
    let refusal = |offset: &str, length: &str| {
        folder.refusal(&with_external(&[("location", "data.bin"), ("offset", offset), ("length", length)]))
    };
    assert!(refusal("3", "16").contains("the file has 18"));
    assert!(refusal("1000000", "16").contains("the file has 18"));
    assert!(refusal("18446744073709551615", "16").contains("the file has 18"));
    assert!(refusal("0", "18").contains("has 18 bytes, but type and shape need 16"));
    assert!(refusal("0", "4").contains("has 4 bytes"));
    for offset in ["-2", "+2", " 2", "2.0", "0x2", "", "99999999999999999999"] {
        assert!(refusal(offset, "16").contains("not a plain number"), "{offset}");
    }
    assert!(folder.refusal(&with_external(&[("offset", "2")])).contains("no location"));
    let twice = with_external(&[("location", "data.bin"), ("offset", "2"), ("offset", "0")]);
    assert!(folder.refusal(&twice).contains("second offset"));
}

#[test]
fn external_data_that_change_after_reading_are_noticed() {
    let folder = Folder::new();
    folder.write("data.bin", &data());
    let file = folder.read_bytes(&with_external(&[("location", "data.bin"), ("offset", "2")])).unwrap();
    folder.write("data.bin", &[0; 17]);
    let error = file.tensor(&file.model.graph.initializer[0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
    assert!(error.to_string().contains("tensor 'w'"), "{error}");
}

#[test]
fn a_model_in_memory_has_no_external_data() {
    let model = ModelProto::parse_from_bytes(&with_external(&[("location", "data.bin")])).unwrap();
    assert!(onnx::from_model("m", model, &Limits::default()).unwrap_err().reason().contains("no directory"));
}

#[test]
fn saving_replaces_a_file_whole() {
    let folder = Folder::new();
    let path = folder.write("m.onnx", b"old");
    onnx::save(&small(), &path).unwrap();
    assert_eq!(onnx::read(&path, &Limits::default()).unwrap().model, small());
    let names: Vec<_> = std::fs::read_dir(folder.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["m.onnx"]);
    assert!(onnx::save(&small(), &folder.path("nowhere/m.onnx")).is_err());
}
