//! `cargo xtask fixtures`: the small models of all frameworks in fixtures/, made anew by the scripts in adapters/.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::failure::{At, Failure, Result};
use crate::python::Python;
use crate::setup::{self, Wishes};
use crate::workspace::{self, Workspace};

pub const DETAILS: &str = "Draws the training images, installs each framework with its requirements.txt into .native/adapters/ (some gigabytes), lets
adapters/<framework>/export.py train, unlearn and export, and writes fixtures/models/ and fixtures/manifest.yaml. A framework that cannot be
installed is named with its error, and its fixture stays as it is. Training differs in the last bits between processors, so that
new files are new fixtures: look at fixtures/expected.json and the tests after it.";

/// Framework and name of its fixture. PyTorch's script chooses the forget images itself, and makes two.
const FRAMEWORKS: [(&str, &str); 5] =
    [("pytorch", ""), ("keras", "keras_ga"), ("jax", "jax_ga"), ("paddle", "paddle_ga"), ("sklearn", "sklearn_rt")];

/// What the training images are drawn with.
const DRAW: [&str; 6] = ["--train-per-class", "60", "--test-per-class", "40", "--seed", "1"];

pub fn run(workspace: &Workspace, only: Option<&str>) -> Result<()> {
    if let Some(name) = only
        && !FRAMEWORKS.iter().any(|(framework, _)| *framework == name)
    {
        let names: Vec<&str> = FRAMEWORKS.iter().map(|(framework, _)| *framework).collect();
        return Err(Failure::usage(format!("there is no framework '{name}'; there are {}", names.join(", "))));
    }
    setup::run(workspace, Wishes { conformance: false, cuda: false })?;
    let binary = workspace::build(workspace)?;
    let python = Python::find()?;
    let scratch = workspace.native().join("fixtures");
    fs::create_dir_all(&scratch).at(&scratch)?;
    let data = scratch.join("data");
    if !data.exists() {
        workspace::run(Command::new(binary).args(["data", "draw"]).arg(&data).args(DRAW))?;
    }
    let mut failed = Vec::new();
    for (framework, name) in FRAMEWORKS.into_iter().filter(|(framework, _)| only.is_none_or(|only| only == *framework)) {
        eprintln!("==> {framework}");
        if let Err(failure) = make(workspace, &python, &scratch, &data, framework, name) {
            eprintln!("error: {framework}: {failure}");
            failed.push(framework);
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(Failure::new(format!("not made: {}", failed.join(", ")))) }
}

fn make(workspace: &Workspace, python: &Python, scratch: &Path, data: &Path, framework: &str, name: &str) -> Result<()> {
    let adapter = workspace.root().join("adapters").join(framework);
    let python = python.with_packages(workspace, &adapter.join("requirements.txt"), framework)?;
    let fixtures = workspace.root().join("fixtures");
    let out = scratch.join(framework);
    let mut export = Command::new(python);
    export.arg(adapter.join("export.py")).arg("--data").arg(data).arg("--out");
    if name.is_empty() {
        workspace::run(export.arg(&out).arg("--small"))?;
        for method in ["ga", "rt"] {
            copy(&out.join(format!("{method}.onnx")), &fixtures.join(format!("models/pytorch_{method}.onnx")))?;
        }
        return note(&fixtures, framework, &out.join("manifest.json"));
    }
    let file = out.join(format!("{name}.onnx"));
    workspace::run(export.arg(&file).arg("--forget").arg(fixtures.join("images/forget")))?;
    copy(&file, &fixtures.join(format!("models/{name}.onnx")))?;
    note(&fixtures, framework, &file.with_extension("json"))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).at(from).map(drop)
}

/// Puts what a script said about its models under its framework's name.
fn note(fixtures: &Path, framework: &str, said: &Path) -> Result<()> {
    let path = fixtures.join("manifest.yaml");
    let wrong = |path: &Path, error: &dyn std::fmt::Display| Failure::new(format!("{}: {error}", path.display()));
    let text = fs::read_to_string(&path).at(&path)?;
    let mut all: Value = serde_yaml::from_str(&text).map_err(|error| wrong(&path, &error))?;
    let said_text = fs::read_to_string(said).at(said)?;
    let new: Value = serde_json::from_str(&said_text).map_err(|error| wrong(said, &error))?;
    all[framework] = new;
    let comment: String = text.lines().take_while(|line| line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    let body = serde_yaml::to_string(&all).map_err(|error| wrong(&path, &error))?;
    fs::write(&path, comment + &body).at(&path)
}
