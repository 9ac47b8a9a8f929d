//! What computing in bfloat16 does to what an audit finds, beside what another seed does.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::{OutputWithStderr, Page};
use crate::failure::{At, Failure, Result};
use crate::setup::{self, Wishes};
use crate::workspace::{self, Workspace};

pub const DETAILS: &str = "\
Audits the example model in fixtures/ with its demonstration's settings, by seeds 1 to 5 in float32 and in bfloat16, and compares means and
spreads. Audits that are done, in out/precision, are not done again; remove the folder to measure anew.";

const SEEDS: std::ops::RangeInclusive<u32> = 1..=5;

const PRECISIONS: [&str; 2] = ["fp32", "bf16"];

/// The figures, by their names in run.json, and what they are.
const FIGURES: [(&str, &str); 3] = [
    ("acc_u", "Acc_U, the audited model before the attack"),
    ("acc_a_last", "Acc_A, the attack model at the end"),
    ("acc_u_after", "the audited model at the end"),
];

/// Writes docs/results/precision.md.
pub fn run(workspace: &Workspace) -> Result<()> {
    setup::run(workspace, Wishes { conformance: false, cuda: false })?;
    let binary = workspace::build_released(workspace)?;
    let folder = workspace.root().join("out/precision");
    fs::create_dir_all(&folder).at(&folder)?;
    let demo = workspace.root().join("fixtures/demo.yaml");
    let settings = fs::read_to_string(&demo).at(&demo)?;
    let mut found: Vec<[Value; 2]> = Vec::new();
    for seed in SEEDS {
        let file = folder.join(format!("{seed}.yaml"));
        let lines =
            settings.lines().map(|line| if line.starts_with("seed:") { format!("seed: {seed}") } else { line.to_string() });
        fs::write(&file, lines.collect::<Vec<_>>().join("\n")).at(&file)?;
        let audits =
            PRECISIONS.map(|precision| audit(workspace, &binary, &file, &folder.join(format!("{precision}-{seed}")), precision));
        let [exact, small] = audits;
        found.push([exact?, small?]);
    }
    let mut page = Page::new("bfloat16 beside float32", "cargo xtask measure-precision");
    page.line(
        "Audits of `fixtures/models/pytorch_ga.onnx` by the settings of `cargo xtask demo` (drawn images, a small network), by five seeds in each \
         precision. Every figure is a top-1 accuracy on the forget set in percent.\n",
    );
    let of = |key: &str, place: usize| found.iter().filter_map(|pair| pair[place][key].as_f64()).collect::<Vec<f64>>();
    let rows = FIGURES.map(|(key, title)| {
        let (exact, small) = (spread(&of(key, 0)), spread(&of(key, 1)));
        let difference = small.0 - exact.0;
        // Of a difference of two independent means.
        let error = ((exact.1.powi(2) + small.1.powi(2)) / found.len() as f64).sqrt();
        let within = if difference.abs() <= exact.1.max(small.1) { "yes" } else { "no" };
        let show = |(mean, deviation): (f64, f64)| format!("{mean:.2} ({deviation:.2})");
        vec![title.to_string(), show(exact), show(small), format!("{difference:+.2} ({error:.2})"), within.to_string()]
    });
    page.table(
        &[
            "",
            "float32: mean (deviation of a seed)",
            "bfloat16",
            "difference of means (its standard error)",
            "within a seed's deviation",
        ],
        &rows,
    );
    page.line("By seed, Acc_A at the end:\n");
    let rows: Vec<Vec<String>> = SEEDS
        .zip(&found)
        .map(|(seed, [exact, small])| {
            vec![seed.to_string(), super::number(&exact["acc_a_last"]), super::number(&small["acc_a_last"])]
        })
        .collect();
    page.table(&["seed", "float32", "bfloat16"], &rows);
    page.write(workspace, "precision.md")
}

fn audit(workspace: &Workspace, binary: &Path, settings: &Path, out: &Path, precision: &str) -> Result<Value> {
    let result = out.join("run.json");
    if !result.exists() {
        eprintln!("==> {}", out.display());
        let mut command = Command::new(binary);
        command.current_dir(workspace.root());
        command.args(["audit", "--model", "fixtures/models/pytorch_ga.onnx", "--adapter", "adapters/pytorch/adapter.yaml"]);
        command.args(["--forget", "fixtures/images/forget", "--probe", "fixtures/images/probe", "--no-control", "--quiet"]);
        command.args(["--device", "cpu", "--precision", precision, "--settings"]).arg(settings).arg("--out").arg(out);
        command.output_with_stderr()?;
    }
    let text = fs::read_to_string(&result).at(&result)?;
    serde_json::from_str(&text).map_err(|error| Failure::new(format!("{}: {error}", result.display())))
}

/// Mean and standard deviation of a sample.
fn spread(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deviation_is_that_of_a_sample() {
        assert_eq!(spread(&[1.0, 3.0]), (2.0, 2.0_f64.sqrt()));
    }
}
