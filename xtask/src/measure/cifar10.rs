//! Two unlearned models of real images, audited as external files.

use serde_json::Value;

use super::{Bench, Page, number};
use crate::failure::Result;
use crate::workspace::Workspace;

/// The paper's forgetting classes (Table A2).
const FORGET: &str = "airplane,automobile,cat,dog,frog";

const TRAIN: &str = "--per-class 1000 --seed 1 --epochs 60 --adapter adapter.yaml --threads 1 --quiet";

/// Learning rates of gradient ascent to choose from, close enough that the strongest comes near the ten points that the retain
/// set may lose.
const RATES: &str = "0.00003,0.0001,0.00012,0.00015,0.00018,0.00022,0.0003";

/// Stage 2 in small; stage 1 with the scale that `measure-stage-one` found.
const ATTACK: &str = "\
backbone: resnet8
seed: 1
logit_scale: 20
pretrain: {epochs: 60, learning_rate: 0.01, batch_size: 64}
mutual: {epochs: 3, learning_rate: 0.001, batch_size: 64, schedule: {kind: constant}}
iterations: 10
";

/// Measures and writes `docs/results/cifar10.md`.
pub fn run(workspace: &Workspace, data: Option<&str>) -> Result<()> {
    let bench = Bench::new(workspace, "measure-cifar10", data)?;
    bench.write("adapter.yaml", super::ADAPTER)?;
    bench.write("attack.yaml", ATTACK)?;
    let unlearn = format!("unlearn --model original.onnx --data DATA/train --forget-classes {FORGET} --split-seed 1 {TRAIN}");
    let audit = "audit --adapter adapter.yaml --forget forget --probe probe --settings attack.yaml --ablation --dataset CIFAR-10 \
                 --model-name ResNet8";
    let steps = [
        ("log-original", format!("train --data DATA/train --test DATA/test {TRAIN} --out original.onnx")),
        ("log-rt", format!("{unlearn} --method rt --out rt.onnx")),
        ("log-ga", format!("{unlearn} --method ga --ga-rates {RATES} --out ga.onnx --forget-images forget")),
        ("log-probe", "data sample DATA/test probe --per-class 400 --seed 1".to_string()),
        ("log-audit", format!("{audit} --model ga.onnx --method GA --control rt.onnx --out audit")),
    ]
    .into_iter()
    .map(|(name, line)| bench.step(name, &line))
    .collect::<Result<Vec<_>>>()?;
    let (ga, rt) = (bench.json("audit/run.json")?, bench.json("audit/control/run.json")?);
    let mut rows = table("RT", &rt);
    rows.extend(table("GA", &ga));

    let mut page = Page::new("RT and GA on CIFAR-10", "cargo xtask measure-cifar10 --data DIR");
    page.line(
        "1,000 training images a class, half of five classes' images forgotten (2,500 in all), 400 probing images a class from the\n\
         test split; all choices are seeded. The strength of GA is chosen by the retain set alone. Both models are audited as files\n\
         that know nothing of each other; RT, which never saw the forget images, is GA's control. Accuracies are top-1 on the forget\n\
         images, in percent; `excess` is `Acc_A` of GA above `Acc_A` of RT in the same variant.\n",
    );
    let header =
        ["model", "variant", "Acc_U", "Acc_A", "R_I", "95 %", "R_R", "A_R", "M_U after", "agreement", "iterations", "excess"];
    page.table(&header, &rows);
    page.line(&format!("Settings of the attack; what is left out has its default:\n\n```yaml\n{ATTACK}```\n"));
    page.steps(&steps);
    page.write(workspace, "cifar10.md")
}

fn table(model: &str, run: &Value) -> Vec<Vec<String>> {
    let row = |r: &Value| {
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
            number(&r["agreement_rate"]),
            r["iterations"].to_string(),
            number(&r["excess"]),
        ]
    };
    run["records"].as_array().map_or_else(Vec::new, |records| records.iter().map(row).collect())
}
