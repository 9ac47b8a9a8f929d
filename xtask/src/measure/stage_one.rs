//! Stage 1 with and without spectral normalisation, and the scale of the logits.

use super::{Bench, Page, number};
use crate::failure::Result;
use crate::workspace::Workspace;

/// Name and settings of each run, apart from what all share.
const RUNS: &[(&str, &str)] =
    &[("plain", "spectral_norm: false\nlogit_scale: 1\n"), ("scale-5", "logit_scale: 5\n"), ("scale-20", "logit_scale: 20\n")];

/// A fifth of the probing set is held out; there is no stage 2.
const COMMON: &str = "\
backbone: resnet8
seed: 1
iterations: 0
probe_holdout: 0.2
pretrain: {epochs: 24, learning_rate: 0.01, batch_size: 64}
";

/// Measures and writes `docs/results/stage-one.md`.
pub fn run(workspace: &Workspace, data: Option<&str>) -> Result<()> {
    let bench = Bench::new(workspace, "measure-stage-one", data)?;
    bench.write("adapter.yaml", super::ADAPTER)?;
    // Stage 1 looks at no model but its own, and at no forget image; the audit needs some of both.
    let mut steps = vec![bench.step("forget", "data sample DATA/train forget --per-class 10 --seed 1")?];
    let model = workspace.root().join("fixtures/models/pytorch_rt.onnx");
    std::fs::copy(&model, bench.folder.join("model.onnx")).map_err(|e| crate::failure::Failure::io(&model, &e))?;
    let mut rows = Vec::new();
    for (name, settings) in RUNS {
        bench.write(&format!("{name}.yaml"), &format!("{COMMON}{settings}"))?;
        let line = format!(
            "audit --model model.onnx --adapter adapter.yaml --forget forget --probe DATA/test --settings {name}.yaml --threads 1 --out {name} --quiet"
        );
        steps.push(bench.step(&format!("log-{name}"), &line)?);
        let result = bench.json(&format!("{name}/run.json"))?;
        rows.push(vec![
            name.to_string(),
            number(&result["probe_holdout_accuracy"]),
            result["largest_spectral_norm"].as_f64().map_or_else(String::new, |norm| format!("{norm:.5}")),
            format!("{:.0}", steps.last().map_or(0.0, |step| step.seconds)),
        ]);
    }
    let mut page = Page::new("Stage 1 and the scale of the logits", "cargo xtask measure-stage-one --data DIR");
    page.line(
        "The attack model (ResNet8, head 128 wide) is pretrained on four fifths of CIFAR-10's test split (8,000 images) and scored on\n\
         the other fifth (2,000 images), which nothing else looks at. `plain` has no spectral normalisation; the others divide every\n\
         weight matrix by its largest singular value and multiply the logits by a constant. The last column but one is the largest\n\
         singular value of any weight matrix after training, by decomposition. The paper reports 57.49 % for ResNet18, which is\n\
         140 times as large, after 200 epochs.\n",
    );
    page.table(&["run", "accuracy on unseen images, %", "largest spectral norm", "seconds"], &rows);
    page.line(&format!("Settings of all runs:\n\n```yaml\n{COMMON}```\n"));
    page.steps(&steps);
    page.write(workspace, "stage-one.md")
}
