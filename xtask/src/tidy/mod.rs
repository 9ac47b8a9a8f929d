//! `cargo xtask tidy`: what the compiler and its lints do not see.

mod modules;
mod rust;

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::failure::{At, Failure, Result};
use crate::workspace::Workspace;

pub const DETAILS: &str = "\
Checks that
  - a module of src/ uses only modules to its left, and other crates only where they belong (xtask/src/tidy/modules.rs)
  - no source file in src/ and xtask/ has more than 500 lines
  - no file in the repository names a directory of somebody's machine
  - generated files are what their generator writes";

/// The number of lines at which a file is asked what second thing lives in it.
const LONG: usize = 500;

/// Files that are longer for a reason that is worth more than the limit.
const LONG_FOR_A_REASON: &[(&str, &str)] = &[];

/// Directories under which people and machines keep what is their own. (In two parts, so that this file passes.)
const OWN_DIRECTORIES: &[&str] = &["home", "root", "Users", "work", "tmp", "mnt", "scratch"];

/// Files that are written by a program of this repository, and the arguments of cargo that print them.
const GENERATED: &[(&str, &[&str])] = &[];

/// One thing that is not as it should be, and where.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    file: String,
    /// From 1.
    line: usize,
    what: String,
}

/// Prints every finding.
///
/// # Errors
/// If there is any.
pub fn run(workspace: &Workspace) -> Result<()> {
    let files = tracked_files(workspace.root())?;
    let mut findings = Vec::new();
    for file in &files {
        // Binary files have no lines to check.
        let Ok(text) = fs::read_to_string(workspace.root().join(file)) else { continue };
        findings.extend(check(file, &text, workspace.root()));
    }
    for (file, arguments) in GENERATED {
        findings.extend(check_generated(workspace, file, arguments)?);
    }
    for Finding { file, line, what } in &findings {
        eprintln!("{file}:{line}: {what}");
    }
    match findings.len() {
        0 => {
            println!("{} files are tidy", files.len());
            Ok(())
        }
        count => Err(Failure::new(format!("tidy has {count} findings"))),
    }
}

fn check(file: &str, text: &str, root: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let is_rust = file.ends_with(".rs");
    if is_rust && let Some(path) = file.strip_prefix("src/") {
        let use_of = |(line, what)| Finding { file: file.to_string(), line, what };
        findings.extend(modules::check(path, text).into_iter().map(use_of));
    }
    let has_limit = (file.starts_with("src/") || file.starts_with("xtask/")) && (is_rust || file.ends_with(".py"));
    let lines = text.lines().count();
    if has_limit && lines > LONG && !LONG_FOR_A_REASON.iter().any(|(long, _)| *long == file) {
        let what =
            format!("{lines} lines; which second thing lives in it? (or list it in xtask/src/tidy/mod.rs, with the reason)");
        findings.push(Finding { file: file.to_string(), line: LONG + 1, what });
    }
    if !file.ends_with(".lock") {
        findings.extend(text.lines().enumerate().filter_map(|(index, line)| {
            let path = machine_path(line, root)?;
            Some(Finding { file: file.to_string(), line: index + 1, what: format!("'{path}' is a path of one machine") })
        }));
    }
    findings
}

/// The first part of the line that names this checkout or a directory such as people have on their own machines.
fn machine_path(line: &str, root: &Path) -> Option<String> {
    let root = root.to_str().filter(|root| root.len() > 1);
    if let Some(root) = root.filter(|root| line.contains(*root)) {
        return Some(root.to_string());
    }
    line.match_indices('/').find_map(|(start, _)| {
        // Within an address or a longer path it is not the root's.
        let before = line[..start].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ')' | '}' | '~' | '*')) {
            return None;
        }
        let mut parts = line[start + 1..].split('/');
        let (top, below) = (parts.next()?, parts.next()?);
        let below: String = below.chars().take_while(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-')).collect();
        (OWN_DIRECTORIES.contains(&top) && below.starts_with(char::is_alphanumeric)).then(|| format!("/{top}/{below}"))
    })
}

fn check_generated(workspace: &Workspace, file: &str, arguments: &[&str]) -> Result<Option<Finding>> {
    let mut command = workspace.cargo();
    let output = command.args(arguments).output().at(workspace.root())?;
    let command = crate::workspace::describe(&command);
    if !output.status.success() {
        return Err(Failure::new(format!("{command} failed: {}", String::from_utf8_lossy(&output.stderr).trim())));
    }
    let path = workspace.root().join(file);
    let fresh = fs::read(&path).at(&path)? == output.stdout;
    let what = format!("is stale; run `{command} > {file}`");
    Ok((!fresh).then(|| Finding { file: file.to_string(), line: 1, what }))
}

/// What git tracks or would track, so that a new file is checked before it is added.
fn tracked_files(root: &Path) -> Result<Vec<String>> {
    let mut command = Command::new("git");
    command.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root);
    let output = command.output().map_err(|error| Failure::new(format!("cannot start git: {error}")))?;
    if !output.status.success() {
        return Err(Failure::new(format!("git ls-files: {}", String::from_utf8_lossy(&output.stderr).trim())));
    }
    let names = String::from_utf8_lossy(&output.stdout);
    Ok(names.split('\0').filter(|name| !name.is_empty()).map(String::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(line: &str) -> Option<String> {
        machine_path(line, Path::new("/opt/checkout"))
    }

    #[test]
    fn paths_of_machines_are_found() {
        let slash = '/';
        for (line, path) in [
            (format!("cd {slash}home{slash}ann/cmira"), format!("{slash}home{slash}ann")),
            (format!("\"{slash}tmp{slash}x.onnx\""), format!("{slash}tmp{slash}x.onnx")),
            ("see /opt/checkout/src".to_string(), "/opt/checkout".to_string()),
        ] {
            assert_eq!(found(&line), Some(path), "{line}");
        }
    }

    #[test]
    fn other_paths_are_not() {
        for line in ["/usr/lib/libtorch.so", "example.org/home/page", "a/tmp/b", "../work/x", "/home/", "/proc/driver", "1/2"] {
            assert_eq!(found(line), None, "{line}");
        }
    }

    #[test]
    fn long_files_are_named_with_their_length() {
        let text = "\n".repeat(LONG + 1);
        let findings = check("src/graph/plan.rs", &text, Path::new("/"));
        assert!(findings.iter().any(|finding| finding.what.starts_with("501 lines")), "{findings:?}");
        assert_eq!(check("docs/long.md", &text, Path::new("/")), []);
    }
}
