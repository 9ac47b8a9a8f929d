//! What people read on screen and page: what stands for what, what to do, and what an attack could not show.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};

use cmira::data::draw::{DrawOptions, draw};
use common::{Folder, cmira, text};

/// Ten classes, 32x32, trained by nobody.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/witness/small_cnn.onnx");

const SETTINGS: &str = "{backbone: resnet8, head_width: 8, augment: false, pretrain: {epochs: 1, batch_size: 16}, \
                        mutual: {epochs: 1, batch_size: 16}, iterations: 1}";

struct Scene {
    folder: Folder,
    forget: PathBuf,
    probe: PathBuf,
}

impl Scene {
    fn new() -> Scene {
        let folder = Folder::new();
        let options = DrawOptions { train_per_class: 3, test_per_class: 4, ..DrawOptions::default() };
        draw(&folder.path("drawn"), &options, &mut |_| ()).unwrap();
        let (forget, probe) = (folder.path("drawn/train"), folder.path("drawn/test"));
        Scene { folder, forget, probe }
    }

    fn audit(&self, settings: &str, more: &[&str]) -> (i32, String, String) {
        let (file, out) = (self.folder.path("settings.yaml"), self.folder.path("out"));
        std::fs::write(&file, settings).unwrap();
        let sets = ["--forget", text(&self.forget), "--probe", text(&self.probe), "--settings", text(&file)];
        let how = ["--out", text(&out), "--device", "cpu", "--threads", "1"];
        cmira(&[&["audit", "--model", MODEL], &sets[..], &how, more].concat())
    }

    fn run(&self) -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(self.folder.path("out/run.json")).unwrap()).unwrap()
    }

    fn page(&self) -> String {
        std::fs::read_to_string(self.folder.path("out/report.html")).unwrap()
    }
}

fn notes(run: &serde_json::Value) -> Vec<&str> {
    run["notes"].as_array().unwrap().iter().map(|note| note.as_str().unwrap()).collect()
}

#[test]
fn an_attack_model_that_learned_little_and_was_never_taught_is_told_of() {
    let scene = Scene::new();
    let (code, _, errors) = scene.audit(&SETTINGS.replace("iterations: 1", "iterations: 0"), &["--no-control", "--quiet"]);
    assert_eq!(code, 0, "{errors}");
    let run = scene.run();
    let learned = run["probe_learned_accuracy"].as_f64().unwrap();
    assert!(learned < 50.0, "one epoch on forty images: {learned}");
    let said = notes(&run);
    assert!(said.iter().any(|note| note.contains(&format!("only {learned:.1} % of the probing images"))), "{said:?}");
    assert!(said.iter().any(|note| note.contains("allow no iterations")), "{said:?}");
    let page = scene.page();
    assert!(page.contains("No control was run"));
    assert!(page.contains(&format!("{learned:.2} % of the probing images that it was trained on")));
    assert!(page.contains("0 iterations, because the settings allow no more"));
    // Nobody named the model, the data or the method.
    assert!(!page.contains("unlearned by external") && !page.contains("trained on images"));
    // Where it was given, and what the symbols mean.
    let here = std::env::current_dir().unwrap();
    assert_eq!(run["working_directory"], text(&here));
    assert!(page.contains("<th scope=\"row\">Given in</th>") && page.contains("<th scope=\"row\">A_R</th>"));
    // As people write it, not as single precision has it.
    assert!(page.contains(">0.003921569<"), "the scale of the adapter");
}

#[test]
fn the_time_of_all_runs_is_counted() {
    let scene = Scene::new();
    for (run, least) in [(1, 0.0), (2, 100.0)] {
        let (code, _, errors) = scene.audit(SETTINGS, &["--no-control", "--quiet"]);
        assert_eq!(code, 0, "{errors}");
        let seconds = scene.run()["seconds"].as_f64().unwrap();
        assert!(seconds > least, "run {run}: {seconds}");
        // As if the first run had taken longer.
        std::fs::write(scene.folder.path("out/state/seconds.txt"), "100.0\n").unwrap();
    }
    // One that was damaged is no reason to fail.
    std::fs::write(scene.folder.path("out/state/seconds.txt"), "-nan\n").unwrap();
    assert_eq!(scene.audit(SETTINGS, &["--no-control", "--quiet"]).0, 0);
}

#[test]
fn the_page_has_the_controls_numbers_and_no_empty_columns() {
    let scene = Scene::new();
    let (code, _, errors) = scene.audit(SETTINGS, &["--quiet"]);
    assert_eq!(code, 0, "{errors}");
    let page = scene.page();
    let table = page.split("id=\"variants\"").nth(1).unwrap().split("</table>").next().unwrap();
    let of_control = table.split("<tr>").find(|row| row.contains("<td>probe-only</td>")).unwrap();
    let control: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(scene.folder.path("out/control/probe-only/run.json")).unwrap()).unwrap();
    for value in ["acc_u", "acc_a_last"] {
        assert!(of_control.contains(&format!(">{:.2}</td>", control[value].as_f64().unwrap())), "{value}: {of_control}");
    }
    assert!(page.contains("By confidence") && !page.contains("Nothing to show"));
    // What self-training reaches is no other model's.
    let verdicts = scene.run()["verdicts"].clone();
    assert!(verdicts[1].as_str().is_some_and(|verdict| verdict.contains("self-training")), "{verdicts}");

    // Without labels there is less to say, and nothing empty is shown.
    std::fs::remove_dir_all(scene.folder.path("out")).unwrap();
    let flat = scene.folder.path("flat");
    std::fs::create_dir(&flat).unwrap();
    for class in ["disc", "ring"] {
        std::fs::copy(scene.forget.join(class).join("0000.png"), flat.join(format!("{class}.png"))).unwrap();
    }
    let unlabelled = Scene { forget: flat, ..scene };
    let (code, _, errors) = unlabelled.audit(SETTINGS, &["--quiet"]);
    assert_eq!(code, 0, "{errors}");
    let page = unlabelled.page();
    for absent in ["<span role=\"button\" tabindex=\"0\">true class<", "By forgetting class", "By confidence", "Nothing to show"]
    {
        assert!(!page.contains(absent), "{absent}");
    }
    assert!(page.contains("Forget images are grey: their classes are not known."));
    // Probing images have their classes' colours, which no forget image's name has to do with.
    let svg = std::fs::read_to_string(unlabelled.folder.path("out/figures/map.svg")).unwrap();
    assert!(["checker", "crescent"].iter().all(|class| svg.contains(class)), "no legend");
}

#[test]
fn check_shows_classes_and_suggests_the_folders_names() {
    let scene = Scene::new();
    let (code, said, errors) = cmira(&["check", MODEL, "--images", text(&scene.probe)]);
    assert_eq!(code, 0, "{errors}");
    assert!(said.contains("by class, the lowest first: "), "{said}");
    let (_, said, _) = cmira(&["check", MODEL, "--images", text(&scene.probe), "--json"]);
    let json: serde_json::Value = serde_json::from_str(&said).unwrap();
    let classes = json["accuracy"]["classes"].as_array().unwrap();
    assert_eq!(classes.len(), 10);
    let mean = classes.iter().map(|one| one["accuracy"].as_f64().unwrap()).sum::<f64>() / 10.0;
    assert!((mean - json["accuracy"]["accuracy"].as_f64().unwrap()).abs() < 1e-9, "as many images of each: {json}");

    let (code, said, errors) = cmira(&["check", MODEL, "--suggest", "--images", text(&scene.probe)]);
    assert_eq!(code, 0, "{errors}");
    assert!(said.contains("alphabetical order; find out") && said.contains("- checker\n- "), "{said}");
    std::fs::remove_dir_all(scene.probe.join("ring")).unwrap();
    let (_, said, _) = cmira(&["check", MODEL, "--suggest", "--images", text(&scene.probe)]);
    assert!(said.contains("9 folders of images cannot be 10 classes") && said.contains("class_9"), "{said}");
}

#[test]
fn errors_name_what_they_are_about() {
    let scene = Scene::new();
    let one_line = |(code, _, errors): (i32, String, String), wanted: i32, named: &str| {
        assert_eq!((code, errors.lines().count()), (wanted, 1), "{errors}");
        assert!(errors.contains(named), "{errors}");
    };
    let nested = SETTINGS.replace("epochs: 1, batch_size: 16}, mutual", "epoch: 1}, mutual");
    one_line(scene.audit(&nested, &["--quiet"]), 2, "settings.yaml:1: pretrain: unknown field `epoch`");
    // On its line, whatever the same word means elsewhere.
    let below = "iterations: 1\npatience: 5\nmutual:\n  epochs: 1\n  patience: 3\n";
    one_line(scene.audit(below, &["--quiet"]), 2, "settings.yaml:5: mutual: unknown field `patience`");
    one_line(cmira(&["check", MODEL, "--adapter", "/nowhere.yaml"]), 2, "--suggest > adapter.yaml");
    let (code, _, errors) = scene.audit(SETTINGS, &["--backbone", "resnet9"]);
    assert!(code == 2 && errors.contains("resnet8, vgg5, resnet18, vgg16"), "{errors}");
    // What is wrong with the images is not wrong with the model.
    std::fs::remove_dir_all(scene.probe.join("ring")).unwrap();
    let (code, _, errors) = scene.audit(SETTINGS, &["--quiet"]);
    assert_eq!(code, 6, "{errors}");
    assert!(!errors.contains("small_cnn.onnx:"), "{errors}");
}

#[test]
fn unusable_files_are_named_up_to_a_point() {
    let scene = Scene::new();
    for number in 0..40 {
        // Every second one for another reason.
        let bytes: &[u8] = if number % 2 == 0 { b"no picture" } else { b"\x89PNG\r\n\x1a\ncut" };
        std::fs::write(scene.probe.join("disc").join(format!("broken{number:02}.png")), bytes).unwrap();
    }
    let (_, _, errors) = scene.audit(SETTINGS, &["--no-control", "--quiet"]);
    let named = errors.lines().filter(|line| line.contains("broken")).count();
    assert_eq!(named, 30, "{errors}");
    assert!(errors.contains("40 problems, 10 of them not named above"), "{errors}");
    let table = std::fs::read_to_string(scene.folder.path("out/left_out.csv")).unwrap();
    assert_eq!(table.lines().count(), 41);
    let (code, _, errors) = cmira(&["data", "check", text(&scene.probe)]);
    assert_eq!((code, errors.lines().filter(|line| line.contains("broken39")).count()), (6, 1), "{errors}");
}

/// The lines of an audit that is not on a terminal say what goes on, how far it is and how long it can take.
#[test]
fn progress_is_told_in_words() {
    let scene = Scene::new();
    let (code, _, errors) = scene.audit(&SETTINGS.replace("iterations: 1", "iterations: 2"), &["--no-control"]);
    assert_eq!(code, 0, "{errors}");
    let line = errors.lines().find(|line| line.contains("iteration   1/2")).unwrap_or_else(|| panic!("{errors}"));
    assert!(line.contains("agreed, ") && line.contains(" by M_U, ") && line.contains("; at most "), "{line}");
    let last = errors.lines().find(|line| line.contains("iteration   2/2")).unwrap();
    assert!(!last.contains("left"), "{last}");
    let (code, said, errors) = scene.audit(SETTINGS, &["--no-control", "--quiet"]);
    assert!(code == 2 && said.is_empty() && errors.contains("exactly what the earlier command was given"), "{errors}");
    assert!(Path::new(&scene.folder.path("out")).exists());
}

/// Names that changed places make every number wrong, and no number looks it.
#[test]
fn exchanged_classes_are_named() {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures");
    let model = format!("{fixtures}/models/pytorch_ga.onnx");
    let right = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/adapters/pytorch/adapter.yaml")).unwrap();
    let folder = Folder::new();
    let probe = format!("{fixtures}/images/probe");
    let check = |adapter: &str| {
        let file = folder.path("adapter.yaml");
        std::fs::write(&file, adapter).unwrap();
        let (code, said, errors) = cmira(&["check", &model, "--adapter", text(&file), "--images", &probe]);
        (code, said.split_whitespace().collect::<Vec<_>>().join(" "), errors)
    };
    let (code, said, errors) = check(&right);
    assert!(code == 0 && !said.contains("exchanged") && said.contains("if the accuracy is what you were told"), "{said}{errors}");
    // Where the model knows too little of two classes for that, it is asked about them.
    let wrong = right.replace("checker, crescent", "crescent, checker");
    assert_ne!(wrong, right);
    let said = check(&wrong).1;
    assert!(said.contains("were they forgotten, or their names exchanged?"), "{said}");
    // In this file the classes stand in the order of the model's outputs.
    let wrong = right.replace("spiral", "SQUARE").replace("square", "spiral").replace("SQUARE", "square");
    assert_ne!(wrong, right);
    let (code, said, errors) = check(&wrong);
    assert_eq!(code, 0, "{errors}");
    let named = ["images of square are mostly taken for spiral", "images of spiral are mostly taken for square"];
    assert!(named.iter().any(|named| said.contains(named)) && said.contains("but the adapter looks wrong"), "{said}");
    // An audit says it before anything else.
    let (file, settings, out) = (folder.path("adapter.yaml"), folder.path("settings.yaml"), folder.path("out"));
    std::fs::write(&settings, SETTINGS).unwrap();
    let sets = ["--forget", &format!("{fixtures}/images/forget"), "--probe", &probe];
    let how = [
        "--adapter",
        text(&file),
        "--settings",
        text(&settings),
        "--out",
        text(&out),
        "--device",
        "cpu",
        "--quiet",
        "--no-control",
    ];
    let (code, said, errors) = cmira(&[&["audit", "--model", &model], &sets[..], &how].concat());
    assert_eq!(code, 0, "{errors}");
    assert!(said.contains("the adapter exchanges the names of these classes"), "{said}");

    let (code, _, errors) = check("classes: [checker, crescent]");
    assert!(code == 2 && errors.contains("has 2 names, and the model 10 outputs"), "{errors}");
}

#[test]
fn images_in_both_sets_leave_no_verdict() {
    let scene = Scene::new();
    let same = Scene { forget: scene.probe.clone(), ..scene };
    let (code, _, errors) = same.audit(SETTINGS, &["--quiet", "--no-control"]);
    assert_eq!(code, 0, "{errors}");
    assert!(same.page().contains("<h2>No verdict: 40 of 40 forget images are in the probing set as well</h2>"));
    // What differs from the audit that is there is named.
    let (code, _, errors) = same.audit(&SETTINGS.replace("iterations: 1", "iterations: 2"), &["--quiet", "--no-control"]);
    assert!(code == 2 && errors.contains("was begun with other settings (give exactly"), "{errors}");
}

#[test]
fn a_folder_that_is_no_class_is_one_line() {
    let scene = Scene::new();
    std::fs::rename(scene.forget.join("ring"), scene.forget.join("rings")).unwrap();
    for number in 3..9 {
        std::fs::copy(scene.forget.join("rings/0000.png"), scene.forget.join(format!("rings/{number:04}.png"))).unwrap();
    }
    let (code, _, errors) = scene.audit(SETTINGS, &["--quiet", "--no-control"]);
    assert_eq!(code, 0, "{errors}");
    let about: Vec<&str> = errors.lines().filter(|line| line.contains("'rings'")).collect();
    assert!(about.len() == 1 && about[0].contains("0000.png and 8 more, to 0008.png: "), "{errors}");
}
