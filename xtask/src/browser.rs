//! `cargo xtask test-browser`: report pages in the hands of a browser.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use crate::demo;
use crate::failure::{At, Failure, Result};
use crate::python::Python;
use crate::setup::{self, Wishes};
use crate::workspace::{self, Workspace};

pub const DETAILS: &str = "\
Audits the demonstration's model, a model of classes with hostile names, and runs a small grid; opens their pages in headless Chromium by
tests/browser/pages.py: nothing is asked for and no error is logged, tables sort and filter, figures show values, and nothing is cut on paper. Reads
TensorBoard's files with TensorBoard. Screenshots and PDFs are in out/browser. Results that are there already are used again; remove the
folder to make them anew.

Environment:
  CHROMIUM   the browser, instead of chromium, chromium-browser or google-chrome on the PATH";

/// Names that would do something where they are not text.
const HOSTILE: [&str; 3] = ["<img src=x onerror=alert(1)>", "=cmd()", "'\"><svg onload=alert(2)>"];

/// A model and an attack in seconds.
const QUICK: &str = "{backbone: resnet8, head_width: 16, augment: false, pretrain: {epochs: 3, batch_size: 16}, \
                     mutual: {epochs: 1, batch_size: 16}, iterations: 2}";

/// A grid in seconds.
const GRID: &str = "
seeds: [0, 1]
datasets:
  - name: 'drawn <b>shapes</b>'
    source: {kind: drawn, train_per_class: 10, test_per_class: 6, size: 16}
    forget_classes: [ring, disc, star]
backbones: [resnet8, vgg5]
methods: [RT, FT, GA]
train: {epochs: 4, batch_size: 16, learning_rate: 0.05}
unlearn:
  - {method: FT, train: {epochs: 1, batch_size: 16}}
  - {method: GA, train: {batch_size: 8}, calibrate: [1.0e-4, 1.0e-3], margin: 100}
attack: {head_width: 8, pretrain: {epochs: 2, batch_size: 16}, mutual: {epochs: 1, batch_size: 16}, iterations: 2}
";

/// Makes the pages and opens them.
pub fn run(workspace: &Workspace) -> Result<()> {
    setup::run(workspace, Wishes { conformance: false, cuda: false })?;
    let chromium = chromium()?;
    let tests = workspace.root().join("tests/browser");
    let python = Python::find()?.with_packages(workspace, &tests.join("requirements.txt"), "browser")?;
    let binary = workspace::build(workspace)?;
    let out = workspace.root().join("out/browser");
    fs::create_dir_all(&out).at(&out)?;
    let (audit, logs) = (out.join("demo"), out.join("logs"));
    let cmira = || {
        let mut command = Command::new(&binary);
        command.current_dir(workspace.root());
        command
    };
    again_if_old(&audit, &|| {
        if !audit.join("report.html").exists() {
            // Of an audit that is no more.
            if logs.exists() {
                fs::remove_dir_all(&logs).at(&logs)?;
            }
            workspace::run(
                cmira().args(demo::ARGUMENTS).arg("--out").arg(&audit).arg("--tensorboard").arg(&logs).arg("--quiet"),
            )?;
        }
        // Results may be old; pages are not.
        workspace::run(cmira().arg("report").arg(&audit).arg("--quiet").stdout(Stdio::null()))
    })?;
    let hostile = hostile(&cmira, &out)?;
    let grid = out.join("grid");
    let file = out.join("grid.yaml");
    fs::write(&file, GRID).at(&file)?;
    again_if_old(&grid, &|| {
        workspace::run(cmira().arg("run").arg(&file).arg("--out").arg(&grid).args(["--jobs", "2", "--quiet"]))
    })?;
    let page = |name: &str, folder: &Path| format!("{name}={}", folder.join("report.html").display());
    workspace::run(
        Command::new(&python).arg(tests.join("pages.py")).arg("--chromium").arg(chromium).arg("--out").arg(&out).args([
            page("demo", &audit),
            page("hostile", &hostile),
            page("grid", &grid),
        ]),
    )?;
    workspace::run(Command::new(&python).arg(tests.join("events.py")).arg(&logs).arg(audit.join("iterations.csv")))
}

/// Does what needs results, and makes those anew that an earlier version left and this one cannot read.
fn again_if_old(results: &Path, work: &dyn Fn() -> Result<()>) -> Result<()> {
    if !results.exists() {
        return work();
    }
    work().or_else(|failure| {
        eprintln!("{failure}\n==> {} is made anew", results.display());
        fs::remove_dir_all(results).at(results)?;
        work()
    })
}

/// An audit of a model whose classes are named so that they would do harm where they are not escaped.
fn hostile(cmira: &dyn Fn() -> Command, out: &Path) -> Result<PathBuf> {
    let folder = out.join("hostile");
    let (data, results) = (folder.join("data"), folder.join("audit"));
    if folder.exists() {
        fs::remove_dir_all(&folder).at(&folder)?;
    }
    fs::create_dir_all(&folder).at(&folder)?;
    let drawn = folder.join("drawn");
    workspace::run(cmira().args(["data", "draw"]).arg(&drawn).args(["--train-per-class", "12", "--test-per-class", "4"]))?;
    let mut classes: Vec<PathBuf> = Vec::new();
    let train = drawn.join("train");
    for entry in fs::read_dir(&train).at(&train)? {
        classes.push(entry.at(&train)?.path());
    }
    classes.sort();
    // Half of every class's images are forgotten, half are the probing set.
    for (class, name) in classes.iter().zip(HOSTILE) {
        let mut images: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(class).at(class)? {
            images.push(entry.at(class)?.path());
        }
        images.sort();
        for (place, image) in images.iter().enumerate() {
            let to = data.join(["forget", "probe"][place % 2]).join(name);
            fs::create_dir_all(&to).at(&to)?;
            let file = to.join(format!("<b>{place}.png"));
            fs::copy(image, &file).at(&file)?;
        }
    }
    let (model, settings) = (folder.join("model.onnx"), folder.join("settings.yaml"));
    fs::write(&settings, QUICK).at(&settings)?;
    let train = ["train", "--backbone", "resnet8", "--epochs", "3", "--batch-size", "8", "--quiet", "--data"];
    workspace::run(cmira().args(train).arg(data.join("probe")).arg("--out").arg(&model))?;
    workspace::run(
        cmira()
            .args(["audit", "--quiet", "--dataset", "</script><script>alert(4)</script>", "--method", "=method()"])
            .args(["--model-name", "<script>alert(3)</script>", "--model"])
            .arg(&model)
            .arg("--forget")
            .arg(data.join("forget"))
            .arg("--probe")
            .arg(data.join("probe"))
            .arg("--settings")
            .arg(&settings)
            .arg("--out")
            .arg(&results),
    )?;
    workspace::run(cmira().arg("report").arg(&results).args(["--xlsx", "--quiet"]).stdout(Stdio::null()))?;
    Ok(results)
}

/// The browser. Where there is none, and this is a bare machine that Debian's packages can be installed on, that is done.
fn chromium() -> Result<PathBuf> {
    if let Some(chosen) = env::var_os("CHROMIUM").filter(|chosen| !chosen.is_empty()) {
        return Ok(PathBuf::from(chosen));
    }
    let find = || {
        let path = env::var_os("PATH").unwrap_or_default();
        let names = ["chromium", "chromium-browser", "google-chrome"];
        env::split_paths(&path).flat_map(|folder| names.map(|name| folder.join(name))).find(|program| program.is_file())
    };
    if let Some(found) = find() {
        return Ok(found);
    }
    let failure = || {
        Failure::new(
            "Chromium is needed to look at pages, and none was found\n  install it (Debian, Ubuntu: apt-get install chromium), or set \
             CHROMIUM to one",
        )
    };
    // Continuous integration runs in containers, as root. Nobody else's machine is changed.
    if env::var_os("CI").is_none() {
        return Err(failure());
    }
    for arguments in [&["update", "-qq"][..], &["install", "-y", "-qq", "--no-install-recommends", "chromium"]] {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
        workspace::run(&mut command).map_err(|_| failure())?;
    }
    find().ok_or_else(failure)
}
