//! The real binary in a scratch folder: exit codes, messages and files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cmira::data::draw::{DrawOptions, draw};
use cmira::data::{Adapter, Batches, FolderOptions, read_folder};
use cmira::graph::{Mode, Model};
use cmira::onnx::proto::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto,
};

use cmira::tensor::{Device, to_f32s, to_i64s};

/// Ten classes, 32x32, trained by nobody: small enough for tests.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/witness/small_cnn.onnx");

const SETTINGS: &str = "
backbone: resnet8
head_width: 16
pretrain: {epochs: 2, batch_size: 16, learning_rate: 0.05}
mutual: {epochs: 1, batch_size: 16}
iterations: 2
confidence_threshold: 0.1
disagreement_share: 0.5
";

fn cmira(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cmira"));
    command.args(arguments).env_remove("RUST_BACKTRACE").output().expect("the binary starts")
}

/// The exit code, and stderr, which must be free of panics.
fn outcome(arguments: &[&str]) -> (i32, String) {
    let output = cmira(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!stderr.contains("panicked"), "{stderr}");
    (output.status.code().unwrap_or(-1), stderr)
}

/// One readable line.
fn is_one_line(stderr: &str) -> bool {
    stderr.lines().count() == 1 && stderr.starts_with("error: ")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("scratch folders have plain names")
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("the scratch folder is writable");
    path
}

fn refused(path: &Path) {
    let (code, stderr) = outcome(&["check", text(path)]);
    assert!(code == 3 || code == 4, "{}: exit {code}: {stderr}", path.display());
    assert!(is_one_line(&stderr), "{stderr}");
    assert!(stderr.contains(text(path)), "the file is not named: {stderr}");
}

#[test]
fn damaged_files_end_with_one_line() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let whole = std::fs::read(MODEL).expect("the witness model");
    refused(&write(folder.path(), "empty.onnx", b""));
    refused(&write(folder.path(), "text.onnx", b"this is not a model"));
    for cut in 1..50 {
        refused(&write(folder.path(), "cut.onnx", &whole[..whole.len() * cut / 50]));
    }
    let nested: Vec<u8> = std::iter::repeat_n(0x0b, 100_000).collect();
    refused(&write(folder.path(), "groups.onnx", &nested));
}

/// A batch of any size of images 3x8x8.
fn images() -> ValueInfoProto {
    let mut input = ValueInfoProto { name: "x".into(), ..Default::default() };
    let declared = input.type_.mut_or_insert_default().mut_tensor_type();
    declared.elem_type = 1;
    let dims = [-1, 3, 8, 8].map(|size| {
        let mut dim = cmira::onnx::proto::tensor_shape_proto::Dimension::new();
        dim.set_dim_value(size);
        dim
    });
    declared.shape.mut_or_insert_default().dim.extend(dims);
    input
}

fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: op.into(),
        input: inputs.iter().map(|i| (*i).to_string()).collect(),
        output: vec![output.into()],
        ..Default::default()
    }
}

fn model(nodes: Vec<NodeProto>, initializer: Vec<TensorProto>) -> Vec<u8> {
    let output = ValueInfoProto { name: "y".into(), ..Default::default() };
    let graph = GraphProto { node: nodes, input: vec![images()], output: vec![output], initializer, ..Default::default() };
    let opset = OperatorSetIdProto { version: 17, ..Default::default() };
    let model = ModelProto { ir_version: 8, graph: Some(graph).into(), opset_import: vec![opset], ..Default::default() };
    model.write_to_bytes().expect("a model in memory can be written")
}

#[test]
fn graphs_that_are_none_are_refused() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let file = |name: &str, bytes: &[u8]| write(folder.path(), name, bytes);
    refused(&file(
        "cycle.onnx",
        &model(vec![node("Add", &["x", "b"], "a"), node("Relu", &["a"], "b"), node("Relu", &["b"], "y")], vec![]),
    ));
    refused(&file("missing.onnx", &model(vec![node("Conv", &["x", "weight"], "y")], vec![])));
    let tensor = |dims: &[i64]| TensorProto { name: "w".into(), data_type: 1, dims: dims.to_vec(), ..Default::default() };
    for dims in [vec![-1, 3], vec![i64::MAX, i64::MAX], vec![1 << 40]] {
        refused(&file("dims.onnx", &model(vec![node("Add", &["x", "w"], "y")], vec![tensor(&dims)])));
    }
    let mut outside = tensor(&[4]);
    outside.data_location = cmira::onnx::proto::tensor_proto::DataLocation::EXTERNAL.into();
    let entry =
        cmira::onnx::proto::StringStringEntryProto { key: "location".into(), value: "../secret".into(), ..Default::default() };
    outside.external_data = vec![entry];
    refused(&file("outside.onnx", &model(vec![node("Add", &["x", "w"], "y")], vec![outside])));
    let unknown = file("unknown.onnx", &model(vec![node("Frobnicate", &["x"], "y")], vec![]));
    assert_eq!(outcome(&["check", text(&unknown)]).0, 4);
    let mut strange = node("Relu", &["x"], "y");
    strange.attribute = vec![AttributeProto {
        name: "strange".into(),
        i: 1,
        type_: cmira::onnx::proto::attribute_proto::AttributeType::INT.into(),
        ..Default::default()
    }];
    assert_eq!(outcome(&["check", text(&file("attribute.onnx", &model(vec![strange], vec![])))]).0, 4);
}

#[test]
fn an_operator_cannot_ask_for_all_memory() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let shape =
        cmira::onnx::to_proto("shape", &cmira::tensor::Tensor::from_slice(&[1_i64 << 40, 1 << 20])).expect("a small tensor");
    let bomb = model(vec![node("ConstantOfShape", &["shape"], "big"), node("Add", &["x", "big"], "y")], vec![shape]);
    refused(&write(folder.path(), "bomb.onnx", &bomb));
}

/// Found by hostile files: the first two ended the process by a signal, the third by a panic inside the bindings.
#[test]
fn what_would_end_the_process_is_refused() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let integers = |name: &str, values: &[i64], shape: &[i64]| {
        let tensor = cmira::tensor::Tensor::from_slice(values).reshape(shape);
        cmira::onnx::to_proto(name, &tensor).expect("a small tensor")
    };
    for op in ["Div", "Mod"] {
        let constants = vec![integers("least", &[i64::MIN], &[1]), integers("minus", &[-1], &[1])];
        let nodes = vec![node(op, &["least", "minus"], "quotient"), node("Add", &["x", "quotient"], "y")];
        refused(&write(folder.path(), "overflow.onnx", &model(nodes, constants)));
    }
    let whole = integers("whole", &[1, 2, 3, 4], &[1, 1, 2, 2]);
    let nodes = vec![node("GlobalLpPool", &["whole"], "pooled"), node("Add", &["x", "pooled"], "y")];
    refused(&write(folder.path(), "norm.onnx", &model(nodes, vec![whole])));
}

#[test]
fn a_control_that_cannot_be_used_is_found_before_the_attack() {
    let scene = Scene::new();
    let (code, stderr) = scene.audit("out", &["--control", "/nowhere/control.onnx"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("control: /nowhere/control.onnx"), "{stderr}");
    assert!(!Path::new(&scene.path("out/state/pretrained.safetensors")).exists());
}

#[test]
fn an_error_is_one_json_document_where_json_was_asked_for() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = write(folder.path(), "empty.onnx", b"");
    let output = cmira(&["check", text(&path), "--json"]);
    assert_eq!(output.status.code(), Some(3));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one document");
    assert_eq!(document["exit_code"], 3);
    assert!(document["error"].as_str().is_some_and(|error| error.contains("empty.onnx")), "{document}");
}

#[test]
fn what_was_left_out_is_part_of_the_result() {
    let scene = Scene::new();
    let class = std::fs::read_dir(scene.path("drawn/test")).expect("classes").next().expect("a class").expect("readable").path();
    write(&class, "broken.png", b"no picture");
    let (code, stderr) = scene.audit("out", &[]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("broken.png"), "{stderr}");
    let left_out = scene.read("out/left_out.csv");
    assert!(left_out.lines().any(|line| line.starts_with("probe,") && line.contains("broken.png")), "{left_out}");

    // A class that is left without images ends the audit before anything is trained.
    for entry in std::fs::read_dir(&class).expect("images") {
        std::fs::remove_file(entry.expect("readable").path()).expect("removable");
    }
    let (code, stderr) = scene.audit("other", &[]);
    assert_eq!(code, 6, "{stderr}");
    assert!(stderr.contains("no usable image of class"), "{stderr}");
}

#[test]
fn check_prints_what_scripts_rely_on() {
    let output = cmira(&["check", MODEL, "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    for key in [
        "model",
        "sha256",
        "opset",
        "operators",
        "parameters",
        "parity",
        "batches",
        "gradients",
        "repairs",
        "unsupported",
        "import_s",
    ] {
        assert!(json.get(key).is_some(), "{key}");
    }
    assert!(json["parity"]["max_rel"].as_f64().is_some_and(|e| e <= 1e-4), "{json}");
    assert_eq!(json["parity"]["argmax_agreement"], 1.0);
    for batch in ["1", "2", "7"] {
        assert!(json["batches"][batch].as_f64().is_some_and(|e| e <= 1e-4), "{json}");
    }
    for list in ["missing", "non_finite", "zero"] {
        assert_eq!(json["gradients"][list].as_array().map(Vec::len), Some(0), "{json}");
    }
    assert_eq!(json["operators"]["BatchNormalization"], 2);
}

/// Drawn images and settings for audits that take seconds.
struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Scene {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let options = DrawOptions { train_per_class: 4, test_per_class: 4, ..DrawOptions::default() };
        draw(&folder.path().join("drawn"), &options, &mut |_| ()).expect("images can be drawn");
        std::fs::write(folder.path().join("settings.yaml"), SETTINGS).expect("the scratch folder is writable");
        Scene { folder }
    }

    fn path(&self, name: &str) -> String {
        text(&self.folder.path().join(name)).to_string()
    }

    fn audit(&self, out: &str, more: &[&str]) -> (i32, String) {
        let (forget, probe, settings, out) =
            (self.path("drawn/train"), self.path("drawn/test"), self.path("settings.yaml"), self.path(out));
        let mut arguments =
            vec!["audit", "--model", MODEL, "--forget", &forget, "--probe", &probe, "--settings", &settings, "--out", &out];
        arguments.extend(["--threads", "1", "--device", "cpu", "--quiet"]);
        arguments.extend(more);
        outcome(&arguments)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let scene = Scene::new();
    for out in ["one", "two"] {
        assert_eq!(scene.audit(out, &["--ablation"]), (0, String::new()));
    }
    for file in ["results.csv", "predictions.csv", "iterations.csv", "table1.csv", "table2.csv", "table3.csv"] {
        assert_eq!(scene.read(&format!("one/{file}")), scene.read(&format!("two/{file}")), "{file}");
    }
    assert_eq!(scene.read("one/predictions.csv").lines().count(), 41);
    assert_eq!(scene.read("one/table3.csv").lines().count(), 5);
    // What was written can be read again, by this program and by ONNX Runtime.
    for file in ["recovered.onnx", "unlearned_after.onnx"] {
        let (code, stderr) = outcome(&["check", &scene.path(&format!("one/{file}"))]);
        assert_eq!(code, 0, "{file}: {stderr}");
    }
}

#[test]
fn the_recovered_model_is_the_one_that_was_scored() {
    let scene = Scene::new();
    assert_eq!(scene.audit("out", &[]).0, 0);
    let recovered = Model::open(Path::new(&scene.path("out/recovered.onnx")), Device::Cpu).expect("an exported model");
    let forget =
        read_folder(Path::new(&scene.path("drawn/train")), &FolderOptions::default(), &mut |_| ()).expect("drawn images");
    let images = Batches::new(&forget, &Adapter::default(), Device::Cpu).and_then(|b| b.range(0, 40)).expect("a batch");
    let logits = recovered.forward(&images, Mode::Eval).expect("logits");
    let classes = to_i64s(&logits.f_argmax(-1, false).expect("an arg-max")).expect("classes");
    let mut rows = csv::Reader::from_path(scene.path("out/predictions.csv")).expect("a table");
    let mut compared = 0;
    for (row, class) in rows.records().zip(&classes) {
        let row = row.expect("a row");
        assert_eq!(&row[0], forget.names[compared]);
        assert_eq!(&row[3], forget.classes[usize::try_from(*class).expect("a class")], "{row:?}");
        compared += 1;
    }
    assert_eq!(compared, 40);
}

#[test]
fn a_finished_audit_is_not_run_again_and_another_one_is_kept_apart() {
    let scene = Scene::new();
    assert_eq!(scene.audit("out", &[]).0, 0);
    let results = scene.read("out/results.csv");
    assert_eq!(scene.audit("out", &[]).0, 0);
    assert_eq!(scene.read("out/results.csv"), results);
    let (code, stderr) = scene.audit("out", &["--seed", "5"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("another --out"), "{stderr}");
}

/// Whoever gives no control gets one: the audited network, knowing the probing images alone; and self-training.
#[test]
fn every_audit_has_a_control() {
    let scene = Scene::new();
    // Enough for the attack model to tell classes apart, and for its teachers to make a difference.
    let settings =
        SETTINGS.replace("epochs: 2,", "epochs: 12,").replace("mutual: {epochs: 1,", "mutual: {epochs: 4, learning_rate: 0.05,");
    write(scene.folder.path(), "settings.yaml", settings.as_bytes());
    assert_eq!(scene.audit("out", &[]).0, 0);
    let tidy = |folder: &str| {
        let text = scene.read(&format!("{folder}/results.csv"));
        let rows: Vec<BTreeMap<String, String>> =
            csv::Reader::from_reader(text.as_bytes()).deserialize().map(|row| row.expect("a row")).collect();
        rows.into_iter().filter(|row| row["class"] == "all").collect::<Vec<_>>()
    };
    let (own, control) = (tidy("out"), tidy("out/control/probe-only"));
    let variants: Vec<&str> = own.iter().map(|row| row["variant"].as_str()).collect();
    assert_eq!(variants, ["P+A", "P+U+A"]);
    let number = |row: &BTreeMap<String, String>, figure: &str| row[figure].parse::<f64>().expect(figure);
    let (alone, attack) = (&own[0], &own[1]);
    assert_eq!(["acc_u", "r_r", "acc_u_after", "model_sha256"].map(|figure| alone[figure].as_str()), [""; 4]);
    assert_eq!((control[0]["method"].as_str(), attack["control"].as_str()), ("probe-only", "probe-only"));
    assert_eq!(attack["control_sha256"], control[0]["model_sha256"]);
    let difference = number(attack, "acc_a_last") - number(&control[0], "acc_a_last");
    assert!((number(attack, "excess") - difference).abs() < 1e-9);
    assert!(number(attack, "excess_low") <= difference && difference <= number(attack, "excess_high"));
    // Both are right about different images, of which the predictions tell.
    let right = |folder: &str| {
        let text = scene.read(&format!("{folder}/predictions.csv"));
        let rows = csv::Reader::from_reader(text.as_bytes()).deserialize().map(|row| row.expect("a row")).collect::<Vec<_>>();
        rows.iter().map(|row: &BTreeMap<String, String>| row["recovered_label"] == row["truth"]).collect::<Vec<bool>>()
    };
    let (right_own, right_control) = (right("out"), right("out/control/probe-only"));
    let (gained, lost) = cmira::metrics::paired::discordant(&right_control, &right_own);
    assert!(gained + lost > 0 && number(attack, "excess_low") < number(attack, "excess_high"), "{gained} {lost}");
    assert!((number(attack, "excess_p") - cmira::metrics::paired::mcnemar(gained, lost)).abs() < 1e-12);
    let beyond_self = number(attack, "acc_a_last") - number(alone, "acc_a_last");
    assert!((number(attack, "excess_self") - beyond_self).abs() < 1e-9);
    // The control is the audited graph with other weights, and none of its own are left.
    let open = |name: &str| Model::open(Path::new(name), Device::Cpu).expect("a model");
    let (given, made) = (open(MODEL), open(&scene.path("out/control/probe-only/probe_only.onnx")));
    assert_eq!(given.params().len(), made.params().len());
    for (given, made) in given.params().iter().zip(made.params()).filter(|(given, _)| given.is_weight_matrix) {
        assert_eq!(given.tensor.size(), made.tensor.size());
        let (given, made) = (to_f32s(&given.tensor).expect("numbers"), to_f32s(&made.tensor).expect("numbers"));
        // Training moves weights a little; only fresh ones are as far away as they are long.
        let distance: f32 = given.iter().zip(&made).map(|(given, made)| (given - made).powi(2)).sum();
        let length: f32 = given.iter().map(|given| given.powi(2)).sum();
        assert!(distance > 0.5 * length, "{distance} of {length}");
    }
    // Nobody but the attack model itself taught it: it agrees on every image, whatever the audited model says.
    let course = scene.read("out/iterations.csv");
    let alone: Vec<Vec<&str>> =
        course.lines().filter(|line| line.starts_with("P+A,")).map(|line| line.split(',').collect()).skip(1).collect();
    assert!(!alone.is_empty() && alone.iter().all(|row| row[5..8] == ["40", "0", "0"]), "{alone:?}");
    let run: serde_json::Value = serde_json::from_str(&scene.read("out/run.json")).expect("JSON");
    let verdicts = run["verdicts"].as_array().expect("a list");
    assert_eq!(verdicts.len(), 2, "{verdicts:?}");
    let said = format!("against {:.2} %", number(&control[0], "acc_a_last"));
    assert!(verdicts[0].as_str().is_some_and(|v| v.contains(&said)), "{said}: {verdicts:?}");
    assert!(verdicts[0].as_str().is_some_and(|v| v.contains("knows the probing images alone")), "{verdicts:?}");
    assert!(verdicts[1].as_str().is_some_and(|v| v.contains("teaching itself")), "{verdicts:?}");

    assert!(run["notes"].as_array().is_some_and(|notes| notes.iter().all(|note| !note.to_string().contains("not run yet"))));

    // A better control later: the attack is there already, and both comparisons are kept apart.
    let broken = write(scene.folder.path(), "broken.onnx", b"no model");
    let given = scene.path("out/control/probe-only/probe_only.onnx");
    let (code, stderr) = scene.audit("out", &["--control", &given, "--control-method", "Scratch"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let again = tidy("out");
    assert_eq!(again[1]["control"], "Scratch");
    assert_eq!(again[1]["acc_a_last"], attack["acc_a_last"]);
    assert_eq!(again[1]["excess"], attack["excess"], "it is the same model");
    // One that cannot be used is refused before anything is written.
    let (code, stderr) = scene.audit("out", &["--control", text(&broken)]);
    assert_eq!(code, 3, "{stderr}");
    assert_eq!(tidy("out"), again);

    assert_eq!(scene.audit("bare", &["--no-control"]).0, 0);
    let bare = tidy("bare");
    assert_eq!((bare.len(), bare[0]["excess"].as_str(), bare[0]["control"].as_str()), (1, "", ""));
    assert_eq!(bare[0]["acc_a_last"], attack["acc_a_last"], "controls change nothing about the attack");
}

#[test]
fn a_model_is_timed() {
    let bench = |more: &[&str]| {
        cmira(
            &[&["bench", MODEL, "--images", "40", "--epochs", "1", "--device", "cpu", "--threads", "1", "--json"], more].concat(),
        )
    };
    let output = bench(&["--batch", "16"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    for figure in ["import_s", "train_images_per_s", "eval_images_per_s", "peak_rss_mb"] {
        assert!(json[figure].as_f64().is_some_and(|figure| figure > 0.0), "{figure}: {json}");
    }
    assert_eq!(json["images"], 32, "whole batches only");
    assert_eq!(bench(&["--batch", "41"]).status.code(), Some(2));
    assert_eq!(bench(&["--batch", "0"]).status.code(), Some(2));
}

#[test]
fn forget_images_need_no_labels() {
    let scene = Scene::new();
    let flat = scene.folder.path().join("flat");
    std::fs::create_dir(&flat).expect("the scratch folder is writable");
    for (index, class) in ["disc", "ring"].iter().enumerate() {
        let from = scene.folder.path().join(format!("drawn/train/{class}/0000.png"));
        std::fs::copy(from, flat.join(format!("{index}.png"))).expect("a drawn image");
    }
    let (flat, probe, settings, out) =
        (text(&flat).to_string(), scene.path("drawn/test"), scene.path("settings.yaml"), scene.path("out"));
    let output = cmira(&[
        "audit",
        "--model",
        MODEL,
        "--forget",
        &flat,
        "--probe",
        &probe,
        "--settings",
        &settings,
        "--out",
        &out,
        "--quiet",
        "--json",
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    assert!(json["acc_u"].is_null() && json["acc_a_last"].is_null() && json["agreement_rate"].is_number(), "{json}");
    let (code, stderr) = outcome(&[
        "audit",
        "--model",
        MODEL,
        "--forget",
        &flat,
        "--probe",
        &probe,
        "--settings",
        &settings,
        "--out",
        &out,
        "--oracle",
    ]);
    assert_eq!(code, 2, "{stderr}");
}

#[test]
fn wrong_input_says_what_to_do() {
    let scene = Scene::new();
    let settings = write(scene.folder.path(), "wrong.yaml", b"bakbone: resnet8\n");
    let (code, stderr) = scene.audit("out", &["--settings", text(&settings)]);
    assert!(code == 2, "{code}: {stderr}");
    let wrong = scene.path("wrong.yaml");
    let (forget, probe) = (scene.path("drawn/train"), scene.path("drawn/test"));
    let (code, stderr) = outcome(&["audit", "--model", MODEL, "--forget", &forget, "--probe", &probe, "--settings", &wrong]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("bakbone") && stderr.contains("backbone"), "{stderr}");
    // A probing set with another number of classes than the model tells apart.
    std::fs::remove_dir_all(scene.folder.path().join("drawn/test/ring")).expect("a drawn class");
    let (code, stderr) = scene.audit("out", &[]);
    assert_eq!(code, 6, "{stderr}");
    assert!(stderr.contains("10 classes") && stderr.contains('9'), "{stderr}");
    assert_eq!(outcome(&["check", "nowhere.onnx"]).0, 2);
    assert_eq!(outcome(&["check", MODEL, "--device", "cuda:99"]).0, 2);
    assert_eq!(outcome(&["frobnicate"]).0, 2);
}

#[test]
fn a_sample_is_a_seeded_choice_in_class_folders() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let drawn = DrawOptions { train_per_class: 6, test_per_class: 1, ..DrawOptions::default() };
    draw(&folder.path().join("drawn"), &drawn, &mut |_| {}).expect("drawing");
    let from = folder.path().join("drawn/train");
    let sample = |from: &Path, name: &str, count: &str, seed: &str| {
        let to = folder.path().join(name);
        let (code, stderr) = outcome(&["data", "sample", text(from), text(&to), "--per-class", count, "--seed", seed, "--quiet"]);
        (code, stderr, to)
    };
    let names = |root: &Path| {
        let set = read_folder(root, &FolderOptions::default(), &mut |_| {}).expect("a sample can be read");
        assert!(set.labels_known());
        set.names
    };
    let (_, _, small) = sample(&from, "small", "2", "7");
    let (_, _, large) = sample(&from, "large", "4", "7");
    let (_, _, other) = sample(&from, "other", "4", "8");
    assert_eq!((names(&small).len(), names(&large).len()), (20, 40));
    assert!(names(&small).iter().all(|name| names(&large).contains(name)));
    assert_ne!(names(&large), names(&other));

    // A flat folder with labels gives class folders too; a class cannot lead out of the sample.
    let flat = folder.path().join("flat");
    std::fs::create_dir(&flat).expect("a folder");
    for (index, name) in names(&small).iter().take(6).enumerate() {
        std::fs::copy(small.join(name), flat.join(format!("{index}.png"))).expect("a copy");
    }
    write(&flat, "labels.csv", b"file,label\n0.png,cat\n1.png,cat\n2.png,cat\n3.png,dog\n4.png,dog\n5.png,dog\n");
    assert_eq!(names(&sample(&flat, "from flat", "3", "1").2)[3], "dog/3.png");
    write(&flat, "labels.csv", b"file,label\n0.png,..\n1.png,..\n2.png,..\n3.png,dog\n4.png,dog\n5.png,dog\n");
    let (code, stderr, to) = sample(&flat, "out", "3", "1");
    assert!(code == 6 && is_one_line(&stderr) && stderr.contains("'..'"), "{stderr}");
    assert!(!to.exists());

    // Nothing is mixed with what is there, and too many are not made up.
    assert_eq!(sample(&from, "small", "2", "7").0, 2);
    assert_eq!(sample(&from, "many", "7", "7").0, 6);
}

#[test]
fn limits_can_be_set_and_are_named_in_refusals() {
    let with = |limit: &str| outcome(&["check", MODEL, "--limit", limit]);
    let (code, stderr) = with("nodes=2");
    assert!(code == 3 && is_one_line(&stderr) && stderr.contains("limit nodes"), "{code}: {stderr}");
    let (code, stderr) = with("knots=2");
    assert!(code == 2 && is_one_line(&stderr) && stderr.contains("knots") && stderr.contains("nesting"), "{stderr}");
    assert_eq!(with("nodes").0, 2);
}

#[test]
fn names_from_files_cannot_write_to_the_terminal() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let mut model = ModelProto::parse_from_bytes(&std::fs::read(MODEL).expect("the witness model")).expect("a model");
    let node = &mut model.graph.as_mut().expect("a graph").node[0];
    node.name = "conv\u{1b}[2J\nerror: nothing".into();
    node.op_type = "NoSuch\noperator".into();
    let path = write(folder.path(), "named.onnx", &model.write_to_bytes().expect("bytes"));
    let output = cmira(&["check", text(&path), "--list"]);
    for printed in [output.stdout, output.stderr] {
        let printed = String::from_utf8_lossy(&printed).into_owned();
        assert!(!printed.contains('\u{1b}') && !printed.contains("\nerror: nothing"), "{printed}");
    }
    assert_eq!(output.status.code(), Some(4));
}

#[test]
fn check_lists_what_is_trained_and_why_the_rest_is_not() {
    let output = cmira(&["check", MODEL, "--list", "--quiet"]);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    for role in ["trainable ", "statistic "] {
        assert!(printed.lines().any(|line| line.starts_with(role)), "{printed}");
    }
    assert_eq!(output.status.code(), Some(0));
}
