//! Two unlearned models of real images, audited as external files.

use std::fs;

use serde_json::Value;

use super::{Bench, Page, number};
use crate::failure::{At, Result};
use crate::workspace::Workspace;

/// The paper's forgetting classes (Table A2).
const FORGET: &str = "airplane,automobile,cat,dog,frog";

/// Which images, for every step that chooses some.
const IMAGES: &str = "--per-class 300 --split-seed 1 --adapter adapter.yaml --seed 1 --batch-size 32 --threads 1 --quiet";

/// Learning rates of gradient ascent to choose from, close enough that the strongest comes near the ten points that the retain
/// set may lose.
const RATES: &str = "0.0004,0.0005,0.0006,0.0007,0.00075,0.0008,0.00085,0.0009,0.001,0.0012";

/// Stage 2 with the paper's epochs and learning rate, in fewer iterations of smaller batches.
const ATTACK: &str = "\
backbone: resnet8
seed: 1
augment: false
pretrain: {epochs: 60, batch_size: 32}
mutual: {batch_size: 32}
iterations: 20
";

/// Measures and writes `docs/results/cifar10.md`.
pub fn run(workspace: &Workspace, data: Option<&str>) -> Result<()> {
    let bench = Bench::new(workspace, "measure-cifar10", data)?;
    bench.write("adapter.yaml", super::ADAPTER)?;
    bench.write("attack.yaml", ATTACK)?;
    let unlearn = format!("unlearn --model original.onnx --data DATA/train --forget-classes {FORGET} {IMAGES}");
    let audit = "audit --adapter adapter.yaml --forget forget --probe probe --settings attack.yaml --ablation --threads 1 \
                 --dataset CIFAR-10 --model-name ResNet8";
    let mut steps = vec![
        bench.step("log-probe", "data sample DATA/test probe --per-class 150 --seed 1")?,
        bench.step(
            "log-original",
            &format!("train --data DATA/train --test DATA/test {IMAGES} --epochs 60 --out original.onnx"),
        )?,
    ];
    steps.extend(bench.both(
        ("log-rt", &format!("{unlearn} --method rt --backbone resnet8 --epochs 60 --lr 0.05 --out rt.onnx")),
        ("log-ga", &format!("{unlearn} --method ga --calibrate {RATES} --out ga.onnx --forget-images forget")),
    )?);
    steps.extend(bench.both(
        ("log-audit-rt", &format!("{audit} --model rt.onnx --method RT --out audit-rt")),
        ("log-audit-ga", &format!("{audit} --model ga.onnx --method GA --out audit-ga")),
    )?);
    let (rt, ga) = (bench.json("audit-rt/run.json")?, bench.json("audit-ga/run.json")?);
    let mut rows = table("RT", &rt, None);
    rows.extend(table("GA", &ga, Some(&rt)));

    let mut page = Page::new("RT and GA on CIFAR-10", "cargo xtask measure-cifar10 --data DIR");
    page.line(
        "300 training images a class, half of five classes' images forgotten (750 in all), 150 probing images a class from the test\n\
         split; all choices are seeded. The strength of GA is chosen by the retain set alone. Both models are audited as files that\n\
         know nothing of each other. Accuracies are top-1 on the forget images, in percent. The last two columns are what GA reaches\n\
         beyond RT, which never saw the forget images, in the same variant: of the attack model (`Acc_A`, the excess) and of the\n\
         attacked model itself (`M_U after`). `M_U best` is its best iteration, which only who has the labels can know.\n",
    );
    let header = [
        "model",
        "variant",
        "Acc_U",
        "Acc_A",
        "R_I",
        "95 %",
        "R_R",
        "A_R",
        "M_U after",
        "M_U best",
        "agreement",
        "iterations",
        "excess",
        "excess of M_U",
    ];
    page.table(&header, &rows);
    page.line("## Course\n\nP+U+A by iteration: accuracies on the forget images, agreement, and the sizes of the agreement set and of both\ndisagreement sets (from `M_U`, from `M_A`).\n");
    let header = ["iteration", "RT: Acc_A", "M_U", "agreement", "sets", "GA: Acc_A", "M_U", "agreement", "sets"];
    page.table(&header, &course(&bench)?);
    page.line(&format!("Settings of the attack; what is left out has its default:\n\n```yaml\n{ATTACK}```\n"));
    page.steps(&steps);
    page.write(workspace, "cifar10.md")
}

fn table(model: &str, run: &Value, control: Option<&Value>) -> Vec<Vec<String>> {
    let records = |run: &Value| run["records"].as_array().cloned().unwrap_or_default();
    let controls = control.map(records).unwrap_or_default();
    let row = |r: &Value| {
        let beyond = |key: &str| {
            let other = controls.iter().find(|other| other["variant"] == r["variant"]).and_then(|other| other[key].as_f64());
            r[key].as_f64().zip(other).map_or_else(String::new, |(own, other)| format!("{:+.2}", own - other))
        };
        vec![
            model.to_string(),
            r["variant"].as_str().unwrap_or_default().to_string(),
            number(&r["acc_u"]),
            number(&r["acc_a_last"]),
            number(&r["r_i"]),
            format!("{} to {}", number(&r["r_i_low"]), number(&r["r_i_high"])),
            number(&r["r_r"]),
            number(&r["a_r"]),
            number(&r["acc_u_after"]),
            number(&r["acc_u_best"]),
            number(&r["agreement_rate"]),
            r["iterations"].to_string(),
            beyond("acc_a_last"),
            beyond("acc_u_after"),
        ]
    };
    records(run).iter().map(row).collect()
}

/// Both models' P+U+A side by side, a row an iteration.
fn course(bench: &Bench) -> Result<Vec<Vec<String>>> {
    let (rt, ga) = (iterations(bench, "audit-rt")?, iterations(bench, "audit-ga")?);
    let rows = (0..rt.len().max(ga.len())).map(|index| {
        let cells = |course: &[Vec<String>]| course.get(index).cloned().unwrap_or_else(|| vec![String::new(); 4]);
        [vec![index.to_string()], cells(&rt), cells(&ga)].concat()
    });
    Ok(rows.collect())
}

/// Accuracies, agreement and set sizes of P+U+A from an audit's `iterations.csv`, whose cells need no quoting.
fn iterations(bench: &Bench, audit: &str) -> Result<Vec<Vec<String>>> {
    let path = bench.folder.join(audit).join("iterations.csv");
    let text = fs::read_to_string(&path).at(&path)?;
    let decimals = |cell: Option<&&str>| cell.and_then(|c| c.parse::<f64>().ok()).map_or_else(String::new, |n| format!("{n:.2}"));
    let row = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        let sets = cells.get(5..8).map(|sets| sets.join("/")).unwrap_or_default();
        vec![decimals(cells.get(2)), decimals(cells.get(3)), decimals(cells.get(4)), sets]
    };
    Ok(text.lines().filter(|line| line.starts_with("P+U+A,")).map(row).collect())
}
