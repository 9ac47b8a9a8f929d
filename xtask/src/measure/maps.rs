//! How well features separate the forgotten classes, before the attack and after it, and how long a map of many takes.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use super::{OutputWithStderr, Page};
use crate::failure::{At, Failure, Result};
use crate::setup::{self, Wishes};
use crate::workspace::{self, Workspace};

pub const DETAILS: &str = "\
Trains networks on few and on more drawn images, lets them unlearn half of five classes by gradient ascent in two strengths, attacks each model
until the attack ends by itself, and compares the silhouettes of features and maps; then times the maps of 10,000 images. What is done, in
out/maps, is not done again; remove the folder to measure anew. Leave the machine alone meanwhile.";

/// Images of a class to train and to probe with, and learning rates of gradient ascent, the weaker first.
const SETS: [(&str, &str, [&str; 2]); 2] = [("60", "40", ["0.0005", "0.001"]), ("200", "200", ["0.0005", "0.0006"])];

const CLASSES: &str = "checker,crescent,cross,disc,ring";

/// What guessing among ten classes gets, percent.
const GUESSING: f64 = 10.0;

/// An attack of which nothing matters but that features are kept.
const QUICK: &str = "{backbone: resnet8, head_width: 64, augment: false, pretrain: {epochs: 4, batch_size: 64}, \
                     mutual: {epochs: 1, batch_size: 64}, iterations: 1}";

/// What the columns of both tables are.
const MODELS: [(&str, &str); 4] = [
    ("unlearned", "M_U before the attack"),
    ("pretrained", "M_A after stage 1"),
    ("attack", "M_A after the attack"),
    ("unlearned_after", "M_U after the attack"),
];

struct Maps {
    binary: std::path::PathBuf,
    folder: std::path::PathBuf,
}

/// Writes docs/results/maps.md.
pub fn run(workspace: &Workspace) -> Result<()> {
    setup::run(workspace, Wishes { conformance: false, cuda: false })?;
    let maps = Maps { binary: workspace::build_released(workspace)?, folder: workspace.root().join("out/maps") };
    fs::create_dir_all(&maps.folder).at(&maps.folder)?;
    let settings = maps.folder.join("settings.yaml");
    let demo = workspace.root().join("fixtures/demo.yaml");
    let text = fs::read_to_string(&demo).at(&demo)?.replace("iterations: 12", "iterations: 200");
    fs::write(&settings, text).at(&settings)?;
    let mut found = Vec::new();
    for (train, probe, strengths) in SETS {
        for strength in strengths {
            let name = format!("resnet8 of {train} images a class, GA at {strength}; {probe} probing images a class");
            found.push((name, maps.attacked((train, probe), strength)?));
        }
    }
    let fixture = workspace.root().join("fixtures/models/pytorch_ga.onnx").display().to_string();
    let adapter = workspace.root().join("adapters/pytorch/adapter.yaml").display().to_string();
    let images = workspace.root().join("fixtures/images");
    let [forget, probe] = ["forget", "probe"].map(|name| images.join(name).display().to_string());
    let audit = ["audit", "--model", &fixture, "--adapter", &adapter, "--forget", &forget, "--probe", &probe];
    maps.audit("fixture", &[&audit[..], &["--settings", "settings.yaml"]].concat())?;
    found.push(("the demonstration's model, attacked until the attack ended (the demonstration ends it after 12 iterations); 40 probing images a class".to_string(), maps.read("fixture")?));

    let mut page = Page::new("Maps of features", "cargo xtask measure-maps");
    page.line(
        "Networks trained on drawn images of ten classes, which unlearned half of the images of five classes by gradient ascent (5 epochs); \
         attacked by the settings of `cargo xtask demo`, until the attack ended by itself. Mean silhouette of the forget images by their true \
         classes, from -1 to 1; scikit-learn gives the same for the same features. One seed each: differences of a few hundredths say little.\n",
    );
    for (title, place) in [("In the features of the last layer", 0), ("On the t-SNE map of them", 1)] {
        page.line(&format!("{title}:\n"));
        let mut header = vec!["model", "Acc_U", "Acc_A"];
        header.extend(MODELS.map(|(_, title)| title));
        let rows: Vec<Vec<String>> = found
            .iter()
            .map(|(name, one)| {
                let mut row = vec![name.clone()];
                row.extend(one.accuracies.map(|value| format!("{value:.1}")));
                row.extend(one.silhouettes.iter().map(|pair| format!("{:.3}", pair[place])));
                row
            })
            .collect();
        page.table(&header, &rows);
        // Where the model had forgotten less, its features still tell the classes apart.
        let better = |one: &&(String, Found)| one.1.silhouettes[2][place] > one.1.silhouettes[0][place];
        let forgotten = |one: &&(String, Found)| one.1.accuracies[0] < 2.0 * GUESSING;
        page.line(&format!(
            "\nAfter the attack, M_A separates them better than M_U did before it in {} of {} cases; of those in which Acc_U is below {:.0} %, in {} \
             of {}.\n",
            found.iter().filter(better).count(),
            found.len(),
            2.0 * GUESSING,
            found.iter().filter(forgotten).filter(better).count(),
            found.iter().filter(forgotten).count(),
        ));
    }

    fs::write(maps.folder.join("quick.yaml"), QUICK).at(&maps.folder)?;
    maps.once(
        &maps.folder.join("many"),
        &["data", "draw", "many", "--train-per-class", "500", "--test-per-class", "500", "--seed", "2"],
    )?;
    let many = ["audit", "--model", "60.onnx", "--forget", "many/train", "--probe", "many/test", "--features", "10000"];
    maps.audit("tenthousand", &[&many[..], &["--settings", "quick.yaml"]].concat())?;
    let mut seconds = Vec::new();
    for _ in 0..3 {
        let layout = maps.folder.join("tenthousand/map.json");
        fs::remove_file(&layout).at(&layout)?;
        let started = Instant::now();
        maps.command(&["report", "tenthousand", "--quiet"])?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    page.line(&format!(
        "`cmira report` on an audit that kept features of 10,000 images, with its four maps laid out anew, two at a time, and everything drawn: \
         {:.1} s, the median of three ({:.1} to {:.1}).",
        seconds[1], seconds[0], seconds[2]
    ));
    page.write(workspace, "maps.md")
}

/// What one attack gave.
struct Found {
    /// Acc_U and Acc_A, percent.
    accuracies: [f64; 2],
    /// By model, of the features and of the map.
    silhouettes: Vec<[f64; 2]>,
}

impl Maps {
    fn attacked(&self, (train, probe): (&str, &str), strength: &str) -> Result<Found> {
        let (data, original) = (format!("data-{train}"), format!("{train}.onnx"));
        let [learnt, seen] = ["train", "test"].map(|part| format!("{data}/{part}"));
        let draw = ["data", "draw", &data, "--train-per-class", train, "--test-per-class", probe, "--seed", "1"];
        self.once(&self.folder.join(&data), &draw)?;
        let learn = ["train", "--data", &learnt, "--backbone", "resnet8", "--epochs", "40", "--batch-size", "32"];
        self.once(&self.folder.join(&original), &[&learn[..], &["--device", "cpu", "--out", &original]].concat())?;
        let of = format!("{train}-{strength}");
        let (model, forget, out) = (format!("ga-{of}.onnx"), format!("forget-{of}"), format!("audit-{of}"));
        let unlearn = ["unlearn", "--model", &original, "--method", "GA", "--data", &learnt, "--forget-classes", CLASSES];
        let how = [
            "--lr",
            strength,
            "--epochs",
            "5",
            "--batch-size",
            "16",
            "--device",
            "cpu",
            "--forget-images",
            &forget,
            "--out",
            &model,
        ];
        self.once(&self.folder.join(&model), &[&unlearn[..], &how].concat())?;
        let audit = ["audit", "--model", &model, "--forget", &forget, "--probe", &seen, "--settings", "settings.yaml"];
        self.audit(&out, &audit)?;
        self.read(&out)
    }

    fn audit(&self, out: &str, arguments: &[&str]) -> Result<()> {
        let more = ["--no-control", "--no-pictures", "--device", "cpu", "--dataset", "drawn", "--method", "GA", "--out", out];
        self.once(&self.folder.join(out).join("map.json"), &[arguments, &more].concat())
    }

    /// Runs a command whose result is not there yet.
    fn once(&self, result: &Path, arguments: &[&str]) -> Result<()> {
        if result.exists() { Ok(()) } else { self.command(arguments) }
    }

    fn command(&self, arguments: &[&str]) -> Result<()> {
        eprintln!("==> cmira {}", arguments.join(" "));
        let mut command = Command::new(&self.binary);
        command.current_dir(&self.folder).args(arguments);
        if !arguments.contains(&"--quiet") {
            command.arg("--quiet");
        }
        command.output_with_stderr().map(drop)
    }

    fn read(&self, out: &str) -> Result<Found> {
        let json = |name: &str| -> Result<Value> {
            let path = self.folder.join(out).join(name);
            let text = fs::read_to_string(&path).at(&path)?;
            serde_json::from_str(&text).map_err(|error| Failure::new(format!("{}: {error}", path.display())))
        };
        let (run, map) = (json("run.json")?, json("map.json")?);
        let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
        let layouts = map["layouts"].as_array().cloned().unwrap_or_default();
        let named = |name: &str| layouts.iter().find(|layout| layout["model"] == name).cloned().unwrap_or_default();
        let both = |layout: Value| ["silhouette_features", "silhouette_map"].map(|key| number(&layout[key]));
        let silhouettes = MODELS.iter().map(|(name, _)| both(named(name))).collect();
        Ok(Found { accuracies: ["acc_u", "acc_a_last"].map(|key| number(&run[key])), silhouettes })
    }
}
