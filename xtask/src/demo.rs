//! `cargo xtask demo`: the product's main job on the example that the repository ships.

use std::process::Command;

use crate::failure::Result;
use crate::setup::{self, Wishes};
use crate::workspace::{self, Workspace};

/// Where the demonstration writes, below the root; ignored by git.
const OUT: &str = "out/demo";

/// What the demonstration runs, at the root.
pub const ARGUMENTS: &[&str] = &[
    "audit",
    "--model",
    "fixtures/models/pytorch_ga.onnx",
    "--adapter",
    "adapters/pytorch/adapter.yaml",
    "--forget",
    "fixtures/images/forget",
    "--probe",
    "fixtures/images/probe",
    "--settings",
    "fixtures/demo.yaml",
    "--dataset",
    "drawn",
    "--model-name",
    "small CNN",
    "--method",
    "GA",
    "--control",
    "fixtures/models/pytorch_rt.onnx",
    "--control-method",
    "RT",
];

/// The results that a reader should open, in that order.
const RESULTS: &[(&str, &str)] = &[
    ("report.html", "the page to open: verdict, figures, tables, settings"),
    ("table1.csv", "how much was recovered"),
    ("table2.csv", "the same by class"),
    ("predictions.csv", "every forget image: the model's label, the recovered label, the truth"),
];

/// Provisions, builds, audits, and says where the results are.
pub fn run(workspace: &Workspace) -> Result<()> {
    setup::run(workspace, Wishes { conformance: false, cuda: false })?;
    let binary = workspace::build(workspace)?;
    workspace::run(Command::new(binary).args(ARGUMENTS).args(["--out", OUT]).current_dir(workspace.root()))?;
    println!("\nThe results are in {OUT}:");
    for (file, about) in RESULTS {
        println!("  {file:<16} {about}");
    }
    Ok(())
}
