//! `cargo xtask book`: docs/ as a book, its links checked.

use std::process::Command;

use crate::failure::Result;
use crate::python::Python;
use crate::workspace::{self, Workspace};

pub const DETAILS: &str = "\
Brings mdBook through cargo into .native/ (two minutes, once), builds docs/ into out/book, and follows every link of it, anchors included,
with LinkChecker. Links to other places are not asked for.";

const MDBOOK: &str = "0.5.4";

/// Builds the book and follows its links.
pub fn run(workspace: &Workspace) -> Result<()> {
    let home = workspace.native().join("mdbook").join(MDBOOK);
    let mdbook = home.join("bin/mdbook");
    if !mdbook.exists() {
        let install = ["install", "mdbook", "--locked", "--quiet", "--no-default-features", "--features", "search", "--version"];
        let mut command = workspace.cargo();
        // Its own build: flags of ours mean nothing to it.
        command.env_remove("RUSTFLAGS").args(install).arg(MDBOOK).arg("--root").arg(&home);
        workspace::run(command.arg("--target-dir").arg(home.join("target")))?;
        // What it was built from takes more room than it does.
        let _ = std::fs::remove_dir_all(home.join("target"));
    }
    workspace::run(Command::new(&mdbook).arg("build").arg(workspace.root().join("docs")))?;
    let tests = workspace.root().join("tests/book");
    let python = Python::find()?.with_packages(workspace, &tests.join("requirements.txt"), "book")?;
    let mut follow = Command::new(python);
    follow.arg(tests.join("links.py")).args(["--no-status", "--config"]).arg(tests.join("linkchecker.ini"));
    workspace::run(follow.arg(workspace.root().join("out/book/index.html")))
}
