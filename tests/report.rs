//! Pages and figures: their values are those of the tables, they are made again from results alone, and names from files stay text.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use cmira::data::draw::{DrawOptions, draw};
use common::{Folder, cmira, text};

type Row = BTreeMap<String, String>;

fn rows(path: &Path) -> Vec<Row> {
    let mut reader = csv::Reader::from_path(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    reader.deserialize().map(|row| row.unwrap()).collect()
}

fn number(row: &Row, column: &str) -> f64 {
    row[column].parse().unwrap_or_else(|_| panic!("{column}: {row:?}"))
}

/// What a figure's marks say: series, place and value.
fn marks(figure: &Path) -> Vec<(String, String, f64)> {
    let svg = std::fs::read_to_string(figure).unwrap_or_else(|error| panic!("{}: {error}", figure.display()));
    let drawing = roxmltree::Document::parse(&svg).unwrap_or_else(|error| panic!("{}: {error}", figure.display()));
    let marked = drawing.descendants().filter(|node| node.attribute("class") == Some("mark"));
    let read = |node: roxmltree::Node| {
        let get = |name: &str| node.attribute(name).unwrap().to_string();
        let words = node.children().find(|child| child.has_tag_name("title")).and_then(|title| title.text()).unwrap();
        let value: f64 = get("data-value").parse().unwrap();
        // Maps and pictures have no number to say.
        let says = ["map", "recovered", "not_recovered"].contains(&figure.file_stem().unwrap().to_str().unwrap())
            || words.contains(&format!("{:.2}", value.abs()));
        assert!(says, "{}: '{words}' for {value}", figure.display());
        (get("data-series"), get("data-at"), value)
    };
    marked.map(read).collect()
}

fn value(marks: &[(String, String, f64)], series: &str, at: &str) -> f64 {
    let found = marks.iter().find(|mark| (mark.0.as_str(), mark.1.as_str()) == (series, at));
    found.unwrap_or_else(|| panic!("no mark {series}, {at} among {marks:?}")).2
}

const SETTINGS: &str = "{backbone: resnet8, head_width: 8, augment: false, pretrain: {epochs: 2, batch_size: 16}, \
                        mutual: {epochs: 1, batch_size: 16}, iterations: 2}";

/// An audit of a model of three classes whose names would do harm, with a control.
fn audited() -> &'static PathBuf {
    static FOLDER: OnceLock<(Folder, PathBuf)> = OnceLock::new();
    let make = || {
        let folder = Folder::new();
        let drawn = folder.path("drawn");
        let options = DrawOptions { train_per_class: 8, test_per_class: 6, size: 16, ..DrawOptions::default() };
        draw(&drawn, &options, &mut |_| ()).unwrap();
        let shapes = ["disc", "ring", "star"];
        for (set, to) in [("train", "forget"), ("test", "probe")] {
            for (shape, name) in shapes.iter().zip(NAMES) {
                let target = folder.path(to);
                std::fs::create_dir_all(&target).unwrap();
                std::fs::rename(drawn.join(set).join(shape), target.join(name)).unwrap();
            }
        }
        let (forget, probe, model, out) =
            (folder.path("forget"), folder.path("probe"), folder.path("model.onnx"), folder.path("out"));
        let settings = folder.path("settings.yaml");
        std::fs::write(&settings, SETTINGS).unwrap();
        let train = ["train", "--backbone", "resnet8", "--epochs", "2", "--batch-size", "8", "--quiet", "--device", "cpu"];
        let (code, _, errors) = cmira(&[&train[..], &["--data", text(&probe), "--out", text(&model)]].concat());
        assert_eq!(code, 0, "{errors}");
        let logs = folder.path("logs");
        let audit = ["audit", "--quiet", "--device", "cpu", "--threads", "1", "--model", text(&model), "--forget", text(&forget)];
        let named = ["--dataset", "</script><script>alert(1)</script>", "--method", "=method()", "--model-name", "a & <b>"];
        let more = ["--probe", text(&probe), "--settings", text(&settings), "--out", text(&out), "--tensorboard", text(&logs)];
        let (code, said, errors) = cmira(&[&audit[..], &named, &more].concat());
        assert_eq!(code, 0, "{errors}");
        let last = said.lines().last().unwrap();
        assert!(last.contains("report.html: Acc_U ") && last.contains("excess "), "{said}");
        let events = std::fs::read_dir(logs.join("attack P+U+A")).unwrap().count();
        assert_eq!(events, 1);
        (folder, out)
    };
    &FOLDER.get_or_init(make).1
}

const NAMES: [&str; 3] = ["=cmd()", "<img src=x onerror=alert(1)>", "'\"><svg onload=alert(2)>"];

fn page(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("report.html")).unwrap()
}

#[test]
fn names_from_files_stay_text_in_page_tables_and_workbook() {
    let out = audited();
    let html = page(out);
    for name in ["<img src=x", "<svg onload", "<script>alert", "a & <b>"] {
        assert!(!html.contains(name), "{name}");
    }
    assert!(html.contains("&#60;img src=x onerror=alert(1)&#62;") || html.contains("&lt;img src=x onerror=alert(1)&gt;"));
    // One script and one style, both known to the policy by their hashes.
    assert_eq!((html.matches("<script").count(), html.matches("<style").count()), (1, 1));
    assert!(html.contains("default-src 'none'") && html.matches("'sha256-").count() == 2);
    // Nothing is fetched from anywhere.
    let without_names = html.replace("http://www.w3.org/2000/svg", "");
    assert!(!without_names.contains("http:") && !without_names.contains("https:"));
    for table in ["predictions.csv", "table2.csv", "results.csv"] {
        let bytes = std::fs::read_to_string(out.join(table)).unwrap();
        assert!(bytes.contains("'=cmd()") && !bytes.contains(",=cmd()"), "{table}");
    }
    let (code, _, errors) = cmira(&["report", text(out), "--xlsx", "--quiet"]);
    assert_eq!(code, 0, "{errors}");
    let mut workbook = zip::ZipArchive::new(std::fs::File::open(out.join("tables.xlsx")).unwrap()).unwrap();
    let mut strings = String::new();
    std::io::Read::read_to_string(&mut workbook.by_name("xl/sharedStrings.xml").unwrap(), &mut strings).unwrap();
    assert!(strings.contains("cmd()") && !strings.contains("<img"));
    for place in 0..workbook.len() {
        let mut sheet = String::new();
        let mut file = workbook.by_index(place).unwrap();
        let place_name = file.name().unwrap().into_owned();
        if place_name.starts_with("xl/worksheets/sheet") {
            std::io::Read::read_to_string(&mut file, &mut sheet).unwrap();
            assert!(!sheet.contains("<f>"), "a formula in {place_name}");
        }
    }
}

#[test]
fn figures_of_an_audit_have_the_values_of_its_tables() {
    let out = audited();
    let figures = out.join("figures");
    let whole = |row: &&Row| row["variant"] == "P+U+A";
    let course = marks(&figures.join("course.svg"));
    let lines = rows(&out.join("iterations.csv"));
    assert_eq!(lines.iter().filter(whole).count(), 3);
    for line in lines.iter().filter(whole) {
        for (series, column) in [("Acc_A", "acc_a"), ("Acc_U", "acc_u")] {
            assert_eq!(value(&course, series, &line["iteration"]), number(line, column));
        }
        assert_eq!(value(&course, "agreement", &line["iteration"]), 100.0 * number(line, "agreement_rate"));
    }
    let control = std::fs::read_dir(out.join("control")).unwrap().next().unwrap().unwrap().path();
    for line in rows(&control.join("iterations.csv")).iter().filter(whole) {
        assert_eq!(value(&course, "Acc_A on the control", &line["iteration"]), number(line, "acc_a"));
    }

    let polygons = marks(&figures.join("polygons.svg"));
    let results = rows(&out.join("results.csv"));
    let classes: Vec<&Row> = results.iter().filter(whole).filter(|row| row["class"] != "all").collect();
    assert_eq!(classes.len(), 3);
    for class in &classes {
        let name = class["class"].strip_prefix('\'').unwrap_or(&class["class"]);
        for (model, column) in [("M_U", "acc_u"), ("M_A", "acc_a_last")] {
            assert_eq!(value(&polygons, &format!("a & <b>, =method(), {model}"), name), number(class, column));
        }
    }

    let predictions = rows(&out.join("predictions.csv"));
    assert_eq!(predictions.len(), 24);
    let confusion = marks(&figures.join("confusion.svg"));
    for (model, column) in [
        ("M_U, before the attack", "unlearned_label"),
        ("M_A after stage 1", "pretrained_label"),
        ("M_A after the attack", "recovered_label"),
    ] {
        for (truth, said) in NAMES.iter().flat_map(|truth| NAMES.map(|said| (*truth, said))) {
            let table = |name: &str| if name.starts_with(['=', '\'']) { format!("'{name}") } else { name.to_string() };
            let of_class: Vec<&Row> = predictions.iter().filter(|row| row["truth"] == table(truth)).collect();
            let found = of_class.iter().filter(|row| row[column] == table(said)).count();
            let series = format!("{model}, {truth}");
            let share = confusion.iter().find(|mark| mark.0 == series && mark.1 == said).map_or(0.0, |mark| mark.2);
            assert!((share - 100.0 * found as f64 / of_class.len() as f64).abs() < 1e-9, "{series}: {said}");
        }
    }

    // Of every range of confidence, how many are right.
    let ranges = |column: &str| {
        let found: BTreeSet<i64> = predictions.iter().map(|row| (number(row, column) * 10.0).floor().min(9.0) as i64).collect();
        found.len()
    };
    let all = marks(&figures.join("confidence.svg")).len();
    assert_eq!(all, ranges("unlearned_confidence") + ranges("recovered_confidence"));
    for (at, series, range, share) in marks(&figures.join("confidence.svg"))
        .into_iter()
        .map(|(series, range, share)| (series.starts_with("M_U"), series, range, share))
    {
        let (label, confidence) =
            if at { ("unlearned_label", "unlearned_confidence") } else { ("recovered_label", "recovered_confidence") };
        let least: f64 = range.split(" to ").next().unwrap().parse().unwrap();
        let here: Vec<&Row> = predictions
            .iter()
            .filter(|row| ((number(row, confidence) * 10.0).floor().min(9.0) / 10.0 - least).abs() < 1e-9)
            .collect();
        let right = here.iter().filter(|row| row[label] == row["truth"]).count();
        assert!((share - 100.0 * right as f64 / here.len() as f64).abs() < 1e-9, "{series}, {range}");
    }

    // Every image that was lost is on one of the two sheets.
    let lost = predictions.iter().filter(|row| row["unlearned_label"] != row["truth"]).count();
    let on = |name: &str| -> BTreeSet<String> {
        if figures.join(name).exists() {
            marks(&figures.join(name)).into_iter().map(|mark| mark.1).collect()
        } else {
            BTreeSet::new()
        }
    };
    let back = |wanted: bool| -> BTreeSet<String> {
        let lost = predictions.iter().filter(|row| row["unlearned_label"] != row["truth"]);
        lost.filter(|row| (row["recovered_label"] == row["truth"]) == wanted).map(|row| row["image"].clone()).collect()
    };
    assert_eq!((on("recovered.svg"), on("not_recovered.svg")), (back(true), back(false)));
    assert_eq!(on("recovered.svg").len() + on("not_recovered.svg").len(), lost);
    // Forget images on four maps.
    assert_eq!(marks(&figures.join("map.svg")).len(), 4 * predictions.len());
    // As pixels, too.
    for figure in ["course", "polygons", "confusion", "confidence", "map"] {
        let png = image::open(figures.join(format!("{figure}.png"))).unwrap();
        assert!(png.width() > 300 && png.height() > 200, "{figure}");
    }
}

#[test]
fn everything_is_made_again_from_results_alone() {
    // A copy: other tests read the original.
    let folder = Folder::new();
    let out = folder.path("moved");
    copy(audited(), &out);
    let (first, table) = (page(&out), std::fs::read(out.join("results.csv")).unwrap());
    for gone in ["report.html", "results.csv", "table1.csv", "recovered.onnx", "unlearned_after.onnx"] {
        std::fs::remove_file(out.join(gone)).unwrap();
    }
    std::fs::remove_dir_all(out.join("figures")).unwrap();
    let (code, said, errors) = cmira(&["report", text(&out), "--json"]);
    assert_eq!(code, 0, "{errors}");
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert!(said["written"][0].as_str().unwrap().ends_with("report.html"), "{said}");
    assert!(page(&out) == first, "another page");
    assert!(std::fs::read(out.join("results.csv")).unwrap() == table, "another table");

    // The map of features is laid out anew from what was kept, and comes out the same.
    std::fs::remove_file(out.join("map.json")).unwrap();
    let (code, _, errors) = cmira(&["report", text(&out), "--quiet"]);
    assert_eq!(code, 0, "{errors}");
    assert!(page(&out) == first, "another map");
    let (code, _, errors) = cmira(&["report", text(&out), "--no-maps", "--quiet"]);
    assert_eq!(code, 0, "{errors}");
    assert!(!page(&out).contains("figure-map"));
}

#[test]
fn damaged_results_are_named() {
    let folder = Folder::new();
    let out = folder.path("damaged");
    let refused = |damage: &dyn Fn(), named: &str| {
        let _ = std::fs::remove_dir_all(&out);
        copy(audited(), &out);
        damage();
        let (code, said, errors) = cmira(&["report", text(&out), "--quiet"]);
        assert_eq!((code, said.as_str()), (6, ""), "{errors}");
        assert!(errors.contains(named) && errors.lines().count() == 1, "{errors}");
    };
    let write = |name: &str, bytes: &[u8]| std::fs::write(out.join(name), bytes).unwrap();
    refused(&|| write("run.json", b"{\"acc_u\": 1"), "run.json: is damaged");
    refused(&|| write("run.json", b"{}"), "run.json: is damaged");
    refused(&|| write("predictions.csv", b"image,truth\na,b\n"), "predictions.csv");
    refused(&|| write("iterations.csv", b"variant,iteration\nP,x\n"), "iterations.csv");
    refused(&|| write("features.safetensors", b"no tensors"), "features.safetensors");
    refused(&|| write("forget_images.png", b"no picture"), "forget_images.png");
    refused(&|| std::fs::remove_file(out.join("features.csv")).unwrap(), "features.csv");
    refused(
        &|| {
            let said = std::fs::read_to_string(out.join("predictions.csv")).unwrap().replace("'=cmd()", "unheard of");
            write("predictions.csv", said.as_bytes());
        },
        "there is no class 'unheard of'",
    );
    refused(&|| std::fs::remove_file(out.join("run.json")).unwrap(), "holds no results");
    let edit = |name: &str, from: &str, to: &str| {
        let said = std::fs::read_to_string(out.join(name)).unwrap();
        assert!(said.contains(from), "{name}: {from}");
        write(name, said.replacen(from, to, 1).as_bytes());
    };
    refused(&|| edit("run.json", "\"file\": \"features.safetensors\"", "\"file\": \"../x\""), "leads out of");
    refused(&|| edit("run.json", "\"file\": \"forget_images.png\"", "\"file\": \"/dev/zero\""), "leads out of");
    refused(&|| edit("run.json", "\"control_folder\": \"", "\"control_folder\": \"/"), "leads out of");
    refused(&|| edit("run.json", "\"width\": 16", "\"width\": 0"), "no size");
    let beyond = || {
        let mut run: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(out.join("run.json")).unwrap()).unwrap();
        *run["records"].as_array_mut().unwrap().last_mut().unwrap().get_mut("r_i").unwrap() = 1e300.into();
        write("run.json", run.to_string().as_bytes());
    };
    refused(&beyond, "out of its range");
    // What was cut off, or does not belong together, becomes no page.
    let cut = |name: &'static str, lines: usize| {
        let said = std::fs::read_to_string(out.join(name)).unwrap();
        assert!(said.lines().count() > lines);
        write(name, (said.lines().take(lines).collect::<Vec<_>>().join("\n") + "\n").as_bytes());
    };
    refused(&|| cut("predictions.csv", 1), "has 0 of 24 forget images");
    refused(&|| cut("predictions.csv", 20), "has 19 of 24 forget images");
    refused(&|| cut("iterations.csv", 4), "iterations of");
    let other = |key: &'static str, value: serde_json::Value| {
        let mut run: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(out.join("run.json")).unwrap()).unwrap();
        *run["records"].as_array_mut().unwrap().last_mut().unwrap().get_mut(key).unwrap() = value;
        write("run.json", run.to_string().as_bytes());
    };
    refused(&|| other("acc_u_after", 99.0.into()), "other accuracies than run.json");
    let silenced = || {
        let mut run: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(out.join("run.json")).unwrap()).unwrap();
        run["verdicts"] = serde_json::json!([]);
        write("run.json", run.to_string().as_bytes());
    };
    refused(&silenced, "no verdict on it");
    refused(&|| other("acc_a_last", 99.0.into()), "other accuracies than run.json");
    refused(&|| other("r_i", 1.0.into()), "another R_I than its accuracies give");
    let contrary = || {
        let mut run: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(out.join("run.json")).unwrap()).unwrap();
        let said = run["verdicts"][0].as_str().unwrap().to_string();
        let word = if said.starts_with("less") { "more" } else { "less" };
        run["verdicts"][0] = format!("{word} comes back than from the control: nothing leaks").into();
        write("run.json", run.to_string().as_bytes());
    };
    refused(&contrary, "a verdict that its numbers do not give");
    #[cfg(unix)]
    refused(
        &|| {
            std::fs::rename(out.join("figures"), out.join("elsewhere")).unwrap();
            std::os::unix::fs::symlink(out.join("elsewhere"), out.join("figures")).unwrap();
        },
        "through which nothing is written",
    );
    refused(&|| edit("iterations.csv", "P+U+A,1,", "P+U+A,1,1e5"), "line");
    std::fs::remove_dir_all(&out).unwrap();
    copy(audited(), &out);
    #[cfg(unix)]
    {
        std::fs::remove_file(out.join("predictions.csv")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", out.join("predictions.csv")).unwrap();
        let (code, _, errors) = cmira(&["report", text(&out), "--quiet"]);
        assert_eq!((code, errors.contains("leads out of")), (6, true), "{errors}");
    }
}

#[cfg(unix)]
#[test]
fn what_shows_images_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let out = audited();
    assert_eq!(std::fs::metadata(out).unwrap().permissions().mode() & 0o077, 0);
    for file in ["report.html", "forget_images.png", "features.safetensors", "recovered.onnx"] {
        let mode = std::fs::metadata(out.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file}");
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

const GRID: &str = "
seeds: [0, 1]
datasets:
  - name: '=d<b>()'
    source: {kind: drawn, train_per_class: 8, test_per_class: 4, size: 16}
    forget_classes: [ring, disc, star]
backbones: [resnet8]
methods: [RT, FT]
train: {epochs: 2, batch_size: 16, learning_rate: 0.05}
unlearn:
  - {method: FT, train: {epochs: 1, batch_size: 16}}
attack: {head_width: 8, pretrain: {epochs: 2, batch_size: 16}, mutual: {epochs: 1, batch_size: 16}, iterations: 1}
";

#[test]
fn a_grids_page_and_figures_have_the_values_of_its_tables() {
    let folder = Folder::new();
    let (file, out) = (folder.path("grid.yaml"), folder.path("grid"));
    std::fs::write(&file, GRID).unwrap();
    let (code, said, errors) =
        cmira(&["run", text(&file), "--out", text(&out), "--device", "cpu", "--threads", "1", "--quiet", "--json"]);
    assert_eq!(code, 0, "{errors}");
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert!(said["written"][0].as_str().unwrap().ends_with("report.html"), "{said}");
    let results = rows(&out.join("results.csv"));
    let of = |method: &str, all: bool| -> Vec<&Row> {
        let whole = results.iter().filter(|row| row["variant"] == "P+U+A" && row["method"] == method);
        whole.filter(|row| (row["class"] == "all") == all).collect()
    };
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let improvement = marks(&out.join("figures/improvement.svg"));
    assert_eq!(improvement.len(), 2);
    for method in ["RT", "FT"] {
        let values: Vec<f64> = of(method, true).iter().map(|row| number(row, "r_i")).collect();
        assert_eq!(values.len(), 2, "two seeds");
        assert!((value(&improvement, "=d<b>(), resnet8", method) - mean(&values)).abs() < 1e-9, "{method}");
    }
    let boxes = marks(&out.join("figures/boxes.svg"));
    for method in ["RT", "FT"] {
        let mut values: Vec<f64> = of(method, false).iter().map(|row| number(row, "r_i")).collect();
        values.sort_by(f64::total_cmp);
        assert_eq!(values.len(), 6, "three classes, two seeds");
        assert!((value(&boxes, "method", method) - f64::midpoint(values[2], values[3])).abs() < 1e-9, "{method}");
    }
    let polygons = marks(&out.join("figures/polygons.svg"));
    for class in ["ring", "disc", "star"] {
        let here: Vec<f64> =
            of("FT", false).iter().filter(|row| row["class"] == class).map(|row| number(row, "acc_a_last")).collect();
        assert!((value(&polygons, "=d<b>(), resnet8, FT, M_A", class) - mean(&here)).abs() < 1e-9, "{class}");
    }
    // The page counts FT alone: RT is what it is compared with.
    let html = page(&out);
    assert!(html.contains("1 unlearned models") && !html.contains("=d<b>"), "the verdict");
    let control = rows(&out.join("excess.csv"));
    let judged = control.iter().find(|row| {
        (row["method"].as_str(), row["variant"].as_str(), row["control"].as_str(), row["seed"].as_str())
            == ("FT", "P+U+A", "RT", "all")
    });
    let more = judged.unwrap()["verdict"].starts_with("more");
    assert_eq!(html.contains("From 1 of 1"), more);

    // Tables and page are made again from the folder alone.
    let tables = std::fs::read(out.join("tableA3.csv")).unwrap();
    std::fs::remove_file(out.join("tableA3.csv")).unwrap();
    std::fs::remove_dir_all(out.join("figures")).unwrap();
    let (code, _, errors) = cmira(&["report", text(&out), "--quiet"]);
    assert_eq!(code, 0, "{errors}");
    assert!(page(&out) == html && std::fs::read(out.join("tableA3.csv")).unwrap() == tables);
    std::fs::write(out.join("grid.json"), b"{").unwrap();
    let (code, _, errors) = cmira(&["report", text(&out), "--quiet"]);
    assert_eq!((code, errors.contains("grid.json: is damaged")), (6, true), "{errors}");
}
