//! The grid: one file to all tables, killed and taken up again, refused where it makes no sense.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cmira::harness::grid::Harness;
use common::{Folder, cmira, text};

/// Every method on one small data set, in seconds.
const SMALL: &str = "
seeds: [3]
datasets:
  - name: '=drawn()'
    source: {kind: drawn, train_per_class: 8, test_per_class: 4, size: 16}
    forget_classes: [ring, disc]
backbones: [resnet8]
train: {epochs: 2, batch_size: 16, learning_rate: 0.05}
unlearn:
  - {method: FT, train: {epochs: 1, batch_size: 16}}
  - {method: GA, train: {batch_size: 8}, calibrate: [1.0e-4, 1.0e-3], margin: 100}
  - {method: FF, alpha: 10}
  - {method: IU, alpha: 0.1, curvature_images: 20}
  - {method: WP, train: {epochs: 2}, sparsity: 0.5}
attack:
  head_width: 8
  pretrain: {epochs: 2, batch_size: 16}
  mutual: {epochs: 1, batch_size: 16}
  iterations: 1
";

fn save(folder: &Folder, name: &str, text: &str) -> PathBuf {
    let path = folder.path(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn arguments<'a>(file: &'a Path, out: &'a Path) -> Vec<&'a str> {
    vec!["run", text(file), "--out", text(out), "--device", "cpu", "--threads", "1"]
}

/// All CSV files, by name.
fn tables(out: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(out).unwrap().map(|entry| entry.unwrap().path());
    let tables = files.filter(|path| path.extension().is_some_and(|extension| extension == "csv"));
    tables.map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap())).collect()
}

fn rows(table: &[u8]) -> Vec<BTreeMap<String, String>> {
    csv::Reader::from_reader(table).deserialize().map(|row| row.unwrap()).collect()
}

/// Runs a grid and kills it when it says that it begins the step of this number; false if it ends before.
fn kill_at(file: &Path, out: &Path, step: usize) -> bool {
    kill_command(&arguments(file, out), step)
}

fn kill_command(arguments: &[&str], step: usize) -> bool {
    let mut child =
        Command::new(env!("CARGO_BIN_EXE_cmira")).args(arguments).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mark = format!("[{step}/");
    let seen = lines.map_while(Result::ok).any(|line| line.starts_with(&mark));
    if seen {
        // SIGKILL: nothing can be saved any more.
        child.kill().unwrap();
    }
    child.wait().unwrap();
    seen
}

#[test]
fn a_killed_grid_goes_on_and_ends_with_the_same_tables() {
    let folder = Folder::new();
    let file = save(&folder, "small.yaml", SMALL);
    let whole = folder.path("whole");
    let (code, out, errors) = cmira(&arguments(&file, &whole));
    assert_eq!(code, 0, "{errors}");
    assert!(out.contains("table1.csv") && out.contains("excess.csv"), "{out}");
    let expected = tables(&whole);

    let broken = folder.path("broken");
    let killed = (1..=17).step_by(2).filter(|&step| kill_at(&file, &broken, step)).count();
    assert_eq!(killed, 9, "every kill was in the middle of something");
    let (code, _, errors) = cmira(&arguments(&file, &broken));
    assert_eq!(code, 0, "{errors}");
    assert!(tables(&broken) == expected);

    // Two at a time, killed in the middle, then whole: the same tables.
    let beside = folder.path("beside");
    let two = [arguments(&file, &beside).as_slice(), &["--jobs", "2"]].concat();
    assert!(kill_command(&two, 7) && kill_command(&two, 12), "every kill was in the middle of something");
    let (code, _, errors) = cmira(&two);
    assert_eq!(code, 0, "{errors}");
    assert!(tables(&beside) == expected);

    // A finished grid has nothing to do, and says no step.
    let (code, _, errors) = cmira(&arguments(&file, &broken));
    assert_eq!((code, errors.as_str()), (0, ""));
    // A changed setting redoes what depends on it: the attack on WP's model and that model.
    let changed = save(&folder, "changed.yaml", &SMALL.replace("sparsity: 0.5", "sparsity: 0.6"));
    let (code, _, errors) = cmira(&arguments(&changed, &broken));
    let steps: Vec<&str> = errors.lines().filter(|line| line.starts_with('[')).collect();
    assert_eq!(code, 0, "{errors}");
    assert_eq!(steps.len(), 2, "{errors}");
    assert!(steps.iter().all(|step| step.contains("-wp-")), "{errors}");

    // Another original model: what starts from it is redone, and what it does not matter to is not.
    let trained = save(
        &folder,
        "trained.yaml",
        &SMALL.replace(
            "train: {epochs: 2, batch_size: 16, learning_rate: 0.05}",
            "train: {epochs: 1, batch_size: 16, learning_rate: 0.05}",
        ),
    );
    let (code, _, errors) = cmira(&arguments(&trained, &broken));
    assert_eq!(code, 0, "{errors}");
    let steps: Vec<&str> = errors.lines().filter(|line| line.starts_with('[')).collect();
    // The original, and six models with six attacks and the control with its own: retraining follows the training's settings.
    assert_eq!(steps.len(), 1 + 6 + 6 + 2, "{errors}");
    let kept = ["stage-one", "data-", "self-training"];
    assert!(!steps.iter().any(|step| kept.iter().any(|name| step.contains(name))), "{errors}");

    let times: BTreeMap<String, f64> = serde_json::from_slice(&std::fs::read(whole.join("times.json")).unwrap()).unwrap();
    assert_eq!(times.len(), 5 + 2 * 6);
    assert!(times.iter().all(|(step, seconds)| step.contains("-resnet8-3") && *seconds > 0.0), "{times:?}");

    // The control was trained on other images than the original, from the same beginning.
    let weights = |step: &str| {
        let found = std::fs::read_dir(whole.join("steps")).unwrap().map(|entry| entry.unwrap());
        let folder = found.into_iter().find(|entry| entry.file_name().to_string_lossy().starts_with(step)).unwrap();
        let model = cmira::graph::Model::open(&folder.path().join("model.onnx"), cmira::tensor::Device::Cpu).unwrap();
        cmira::tensor::to_f32s(&model.params()[0].tensor).unwrap()
    };
    assert!(weights("train-") != weights("probe-only-"));

    let table1 = rows(&expected["table1.csv"]);
    // Nothing that a spreadsheet would run.
    assert_eq!(table1[0]["Dataset"], "'=drawn()");
    for method in ["RT", "FT", "FF", "GA", "IU", "WP"] {
        assert!(table1[0][&format!("{method} Acc_U")].parse::<f64>().is_ok(), "{method}");
    }
    let unlearned = rows(&expected["unlearning.csv"]);
    let methods: Vec<&str> = unlearned.iter().map(|row| row["method"].as_str()).collect();
    assert_eq!(methods, ["original", "RT", "FT", "GA", "FF", "IU", "WP", "probe-only"]);
    // Every attack has its excess over its controls, on the same images: RT, a model of the probing images alone, and, where there is a
    // teacher, self-training.
    let excess = rows(&expected["excess.csv"]);
    assert_eq!(excess.len(), 5 * (2 + 3 + 3) + (1 + 2 + 2));
    let tidy = rows(&expected["results.csv"]);
    for row in &excess {
        let find = |method: &str| {
            let variant = if method == "self-training" { "P+A" } else { row["variant"].as_str() };
            let is_it = |r: &&BTreeMap<String, String>| r["method"] == method && r["variant"] == variant && r["class"] == "all";
            tidy.iter().find(is_it).unwrap()
        };
        let number = |text: &str| text.parse::<f64>().unwrap();
        let own = find(&row["method"]);
        let difference = number(&own["acc_a_last"]) - number(&find(&row["control"])["acc_a_last"]);
        if own["control"] == row["control"] {
            for figure in ["excess", "excess_low", "excess_high"] {
                assert_eq!(own[figure], row[figure], "{figure}");
            }
            assert_eq!(own["control_sha256"], find(&row["control"])["model_sha256"]);
        }
        if row["control"] == "self-training" {
            assert!((number(&own["excess_self"]) - difference).abs() < 1e-9);
        }
        assert!(row["verdict"].contains(&format!("of {} forget images", row["images"])), "{}", row["verdict"]);
        assert!((number(&row["excess"]) - difference).abs() < 1e-9);
        assert!(number(&row["excess_low"]) <= difference + 1e-9 && difference <= number(&row["excess_high"]) + 1e-9);
        assert_eq!(row["images"], "8", "of two classes with eight images, of which seven are trained on, half each");
    }
}

/// Steps are known by what they read, not by where it lies; a part of a grid is run by workers as well as by one process.
#[test]
fn images_are_known_by_their_content() {
    use cmira::data::draw::{DrawOptions, draw};
    let folder = Folder::new();
    let options = DrawOptions { train_per_class: 6, test_per_class: 3, size: 16, ..DrawOptions::default() };
    draw(&folder.path("here"), &options, &mut |_| ()).unwrap();
    let grid = |path: &Path, share: &str| {
        let entry = |name: &str, path: &str| {
            format!(
                "  - {{name: {name}, source: {{kind: files, format: folder, path: {path}}}, forget_classes: [ring, disc], \
                 train_share: 1, forget_share: {share}}}\n"
            )
        };
        let other = "seeds: [3]\nbackbones: [resnet8]\nmethods: [RT, FF]\ntrain: {epochs: 1, batch_size: 16}\nunlearn:\n  \
                     - {method: FF, alpha: 10, curvature_images: 20}\n  - {method: FF, dataset: other, alpha: 20}\nattack: \
                     {head_width: 8, pretrain: {epochs: 1, batch_size: 16}, mutual: {epochs: 1, batch_size: 16}, iterations: 1}\n";
        format!("{other}ablation: false\ndatasets:\n{}{}", entry("one", text(path)), entry("other", "nowhere"))
    };
    let out = folder.path("out");
    let run = |name: &str, grid: &str| {
        let file = save(&folder, name, grid);
        let all = [arguments(&file, &out).as_slice(), &["--only", "dataset=one", "--jobs", "2"]].concat();
        let (code, _, errors) = cmira(&all);
        assert_eq!(code, 0, "{errors}");
        errors.lines().filter(|line| line.starts_with('[')).map(String::from).collect::<Vec<String>>()
    };
    assert_eq!(run("grid.yaml", &grid(&folder.path("here"), "0.5")).len(), 1 + 5 + 2 * 2);
    let first = tables(&out);
    std::fs::rename(folder.path("here"), folder.path("there")).unwrap();
    let moved = run("moved.yaml", &grid(&folder.path("there"), "0.5"));
    assert!(moved.len() == 1 && moved[0].contains("data-one-3"), "{moved:?}");
    assert!(tables(&out) == first);
    // Another forget set: what was trained on all training images, and on the probing images for the attack, stays.
    let others = run("share.yaml", &grid(&folder.path("there"), "0.34"));
    assert!(
        others.len() == 8 && others.iter().all(|step| !step.contains(" train-") && !step.contains("stage-one")),
        "{others:?}"
    );
    // What was run is kept beside it, without what was left out.
    let text = std::fs::read_to_string(out.join("grid-as-read.yaml")).unwrap();
    assert!(text.contains("dataset") && !text.contains("nowhere"), "{text}");
}

#[test]
fn files_that_make_no_sense_are_refused_with_their_place() {
    let folder = Folder::new();
    let refused = |from: &str, to: &str, said: &str| {
        assert!(SMALL.contains(from), "{from}");
        let file = save(&folder, "wrong.yaml", &SMALL.replace(from, to));
        let (code, _, errors) = cmira(&arguments(&file, &folder.path("out")));
        assert_eq!(code, 2, "{to}: {errors}");
        assert!(errors.contains("wrong.yaml") && errors.contains(said), "{to}: {errors}");
    };
    refused("backbones:", "backbone:", "did you mean `backbones`?");
    refused("forget_classes", "forget_clases", "did you mean `forget_classes`?");
    refused("epochs: 2, batch_size: 16, learning_rate: 0.05", "epocs: 2", "did you mean `epochs`?");
    refused("method: FF, alpha: 10", "method: FF, sparsity: 0.1", "sparsity means nothing to FF");
    refused("method: FF", "method: XX", "unknown unlearning method 'XX'");
    refused("method: FF,", "method: FF, dataset: cifar10,", "no data set 'cifar10'");
    refused("alpha: 10", "alpha: -1", "alpha is -1");
    refused("seeds: [3]", "seeds: []", "seeds");
    refused("seeds: [3]", "seeds: [3, 3]", "'3' comes twice");
    refused("[resnet8]", "[resnet9]", "resnet9");
    refused("head_width: 8", "seed: 4", "seed is set here");
    refused("head_width: 8", "mixup_alpha: -1", "mixup_alpha");
    refused("head_width: 8", "backbone: vgg5", "backbone is set here");
    refused("head_width: 8", "variant: P+U", "variant is set here");
    refused("margin: 100", "margin: -5", "margin is -5");
    refused("margin: 100", "margin: .nan", "margin is NaN");
    refused("[1.0e-4, 1.0e-3]", "[]", "calibrate needs strengths");
    refused("[1.0e-4, 1.0e-3]", "[-1]", "calibrate needs strengths");
    refused("alpha: 10", "alpha: 10, calibrate: [1]", "calibrate would choose it");
    refused("method: FF", "backbone: vgg5, method: FF", "no backbone vgg5");
    refused("[ring, disc]", "[ring, ring]", "'ring' twice");
    assert!(!folder.path("out").exists(), "nothing is made for a grid that is refused");
    let file = save(&folder, "classes.yaml", &SMALL.replace("[ring, disc]", "[ring, disk]"));
    let (code, _, errors) = cmira(&arguments(&file, &folder.path("out")));
    assert_eq!(code, 2, "{errors}");
    assert!(errors.contains("no class 'disk'") && errors.contains("disc"), "{errors}");
}

/// Images that were drawn for one grid are not those of another, and a name leads nowhere.
#[test]
fn other_drawings_are_drawn_anew() {
    let folder = Folder::new();
    let small = SMALL.replace("'=drawn()'", "../../drawn");
    let counts = |out: &Path| rows(&std::fs::read(out.join("tableA1.csv")).unwrap())[0]["D_p"].clone();
    let out = folder.path("deep/out");
    for (images, expected) in [("test_per_class: 4", "40"), ("test_per_class: 5", "50")] {
        let text = small.replace("test_per_class: 4", images).replace("iterations: 1", "iterations: 0");
        let file = save(&folder, "small.yaml", &text);
        let (code, _, errors) = cmira(&[arguments(&file, &out).as_slice(), &["--only", "method=RT"]].concat());
        assert_eq!(code, 0, "{errors}");
        assert_eq!(counts(&out), expected);
    }
    assert!(!folder.path("drawn").exists() && !folder.path("deep/drawn").exists(), "nothing outside of the folder");
}

#[test]
fn two_runs_in_one_folder_refuse_politely() {
    let folder = Folder::new();
    let file = save(&folder, "small.yaml", SMALL);
    let out = folder.path("out");
    let first = cmira::harness::grid::Workspace::open(&out).unwrap();
    let (code, _, errors) = cmira(&arguments(&file, &out));
    assert_eq!(code, 2);
    assert!(errors.contains("another run is at work in this folder"), "{errors}");
    drop(first);
    cmira::harness::grid::Workspace::open(&out).unwrap();
}

#[test]
fn the_shipped_grids_are_valid_and_their_schema_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("harness") && name.ends_with(".yaml") {
            Harness::read(&path).unwrap_or_else(|error| panic!("{error}"));
            count += 1;
        }
    }
    assert_eq!(count, 3);
    let path = root.join("docs/harness.schema.json");
    if std::env::var_os("CMIRA_BLESS").is_some() {
        std::fs::write(&path, Harness::json_schema()).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap();
    assert!(stored == Harness::json_schema(), "`CMIRA_BLESS=1 cargo test --test grid` makes it anew");
}

#[test]
fn tables_stand_beside_the_papers_and_in_one_workbook() {
    let folder = Folder::new();
    let paper = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/paper");
    // One cell of the paper's grid, as the harness writes it.
    let results = "dataset,backbone,method,variant,class,acc_u,acc_a_last,r_i,r_r,a_r,seed\n\
        cifar10,resnet18,IU,P+U+A,all,50,80,30,60,100,0\n\
        cifar10,resnet18,IU,P+U+A,all,52,82,30,58,90,1\n\
        cifar10,resnet18,IU,P+U+A,airplane,40,70,30,,,0\n\
        cifar10,resnet18,IU,P+U,all,50,60,10,20,30,0\n";
    save(&folder, "results.csv", results);
    let (code, out, errors) = cmira(&["report", text(&folder.path("")), "--compare", text(&paper), "--xlsx"]);
    assert_eq!(code, 0, "{errors}");
    assert!(out.contains("compare.csv") && out.contains("tables.xlsx"), "{out}");
    let table = std::fs::read(folder.path("compare.csv")).unwrap();
    let compared = rows(&table);
    let find = |table: &str, part: &str, figure: &str| {
        let is_it = |row: &&BTreeMap<String, String>| {
            let own = ["table", "dataset", "backbone", "method", "part", "figure"].map(|key| row[key].as_str());
            own == [table, "Cifar-10", "ResNet18", "IU", part, figure]
        };
        compared.iter().find(is_it).unwrap_or_else(|| panic!("{table} {part} {figure}"))
    };
    let acc_u = find("1", "", "acc_u");
    let number = |row: &BTreeMap<String, String>, key: &str| row[key].parse::<f64>().unwrap();
    assert_eq!((acc_u["ours"].as_str(), acc_u["seeds"].as_str()), ("51.00", "2"));
    assert!((number(acc_u, "difference") - (51.0 - number(acc_u, "paper"))).abs() < 0.006);
    assert_eq!(find("A3", "Airplane", "r_i")["ours"], "30.00");
    assert_eq!(find("A4/A5", "Baseline", "acc")["ours"], "51.00");
    assert_eq!(find("A4/A5", "P+U", "acc")["ours"], "60.00");
    // A cell that was not run stays empty.
    assert!(compared.iter().any(|row| row["backbone"] == "VGG16" && row["ours"].is_empty() && row["seeds"] == "0"));
    // A workbook is a zip of sheets, with one for each table.
    let mut workbook = zip::ZipArchive::new(std::fs::File::open(folder.path("tables.xlsx")).unwrap()).unwrap();
    let mut names = String::new();
    std::io::Read::read_to_string(&mut workbook.by_name("xl/workbook.xml").unwrap(), &mut names).unwrap();
    assert!(names.contains("name=\"compare\"") && names.contains("name=\"results\""), "{names}");
    let (code, _, errors) = cmira(&["report", text(&folder.path("nowhere")), "--xlsx"]);
    assert_eq!(code, 6, "{errors}");
}

#[test]
fn a_probing_set_is_found_by_what_is_alike() {
    use cmira::data::draw::{DrawOptions, draw};
    let folder = Folder::new();
    let options = DrawOptions { train_per_class: 6, test_per_class: 3, size: 16, ..DrawOptions::default() };
    draw(&folder.path("drawn"), &options, &mut |_| ()).unwrap();
    let model = folder.path("model.onnx");
    let (train, test) = (folder.path("drawn/train"), folder.path("drawn/test"));
    let (code, _, errors) =
        cmira(&["train", "--data", text(&train), "--epochs", "1", "--out", text(&model), "--quiet", "--device", "cpu"]);
    assert_eq!(code, 0, "{errors}");
    let names: Vec<String> = {
        let mut names: Vec<String> =
            std::fs::read_dir(&train).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    // The test images, one of which is in the pool as well: it must not be chosen.
    let twin = train.join(&names[0]).join("twin.png");
    std::fs::copy(test.join(&names[0]).join("0000.png"), &twin).unwrap();
    let mapping = save(&folder, "mapping.csv", &format!("pool,class\n{},b\n{},a\n{},b\n", names[0], names[1], names[2]));
    let probe = folder.path("probe");
    let mut arguments = vec!["data", "probe", "--query", text(&test), "--pool", text(&train), "--features", text(&model)];
    arguments.extend(["--per-class", "4", "--out", text(&probe), "--quiet", "--device", "cpu"]);
    let with_mapping = [arguments.as_slice(), &["--mapping", text(&mapping)]].concat();
    let (code, _, errors) = cmira(&with_mapping);
    assert_eq!(code, 0, "{errors}");
    let count = |class: &str| std::fs::read_dir(probe.join(class)).unwrap().count();
    assert_eq!((count("a"), count("b")), (4, 4));
    let listed = rows(&std::fs::read(probe.join("probe.csv")).unwrap());
    assert_eq!(listed.len(), 8);
    assert!(listed.iter().all(|row| !row["image"].contains("twin") && !row["image"].starts_with(&names[3])), "{listed:?}");
    // Of each class the most alike, in falling order.
    let similarities: Vec<f64> =
        listed.iter().filter(|row| row["class"] == "a").map(|row| row["similarity"].parse().unwrap()).collect();
    assert!(similarities.windows(2).all(|pair| pair[0] >= pair[1]), "{similarities:?}");

    let refused = |more: &[&str], out: &str, code: i32, said: &str| {
        let mut all = arguments.clone();
        let place = folder.path(out);
        *all.iter_mut().find(|argument| **argument == text(&probe)).unwrap() = text(&place);
        all.extend(more);
        let (found, _, errors) = cmira(&all);
        assert_eq!(found, code, "{errors}");
        assert!(errors.contains(said), "{errors}");
    };
    let wrong = save(&folder, "wrong.csv", "pool,class\nnowhere,a\n");
    refused(&["--mapping", text(&wrong)], "other", 6, "line 2: the pool has no class 'nowhere'");
    refused(&["--layer", "nothing"], "other", 2, "no value 'nothing'");
    refused(&[], "probe", 2, "exists already");
}
