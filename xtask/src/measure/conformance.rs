//! ONNX's own test cases: how many pass, beside what others make of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::Page;
use crate::conformance::DIRECTORY;
use crate::failure::{At, Failure, Result};
use crate::setup::{self, Wishes};
use crate::workspace::{self, Workspace};

pub const DETAILS: &str = "\
With --bless, the cases that are refused are stored in tests/conformance/unsupported.csv, with which every test run is compared.
A case that fails is never stored.";

const PEERS: [&str; 3] = ["onnxruntime", "onnx2pytorch", "onnx2torch"];

/// One case: what `cmira` makes of it, and what `peers.csv` says of it.
struct Case {
    name: String,
    result: String,
    reason: String,
    /// Kind, scope and types.
    group: [String; 3],
    /// Whether each of [`PEERS`] passes it.
    peers: [bool; 3],
}

/// Runs all cases and writes `docs/results/conformance.md`.
pub fn run(workspace: &Workspace, bless: bool) -> Result<()> {
    setup::run(workspace, Wishes { conformance: true, cuda: false })?;
    let binary = workspace::build(workspace)?;
    let out = workspace.root().join("out");
    std::fs::create_dir_all(&out).at(&out)?;
    let found = out.join("conformance.csv");
    let mut command = Command::new(binary);
    command.arg("conformance").arg(workspace.native().join(DIRECTORY)).arg("--csv").arg(&found).arg("--quiet");
    let output = command.output().map_err(Failure::new)?;
    // 5 says that cases fail, which the page says as well.
    if !matches!(output.status.code(), Some(0 | 5)) {
        return Err(Failure::new(String::from_utf8_lossy(&output.stderr)));
    }
    let cases = read(&found, &workspace.root().join("tests/conformance/peers.csv"))?;
    page(&cases).write(workspace, "conformance.md")?;
    let failed: Vec<&str> = cases.iter().filter(|case| case.result == "fail").map(|case| case.name.as_str()).collect();
    if !failed.is_empty() {
        return Err(Failure::new(format!("{} cases fail: {}", failed.len(), failed.join(", "))));
    }
    if bless { store(workspace, &cases) } else { Ok(()) }
}

fn rows(path: &Path) -> Result<Vec<BTreeMap<String, String>>> {
    let failed = |error: csv::Error| Failure::new(format!("{}: {error}", path.display()));
    let mut reader = csv::Reader::from_path(path).map_err(failed)?;
    reader.deserialize().collect::<std::result::Result<_, _>>().map_err(failed)
}

fn read(found: &Path, peers: &Path) -> Result<Vec<Case>> {
    let mut known = BTreeMap::new();
    for row in rows(peers)? {
        known.insert(format!("{}/{}", row["kind"], row["case"]), row);
    }
    let case = |row: BTreeMap<String, String>| {
        let peer = known.get(&row["case"]).ok_or_else(|| Failure::new(format!("peers.csv does not know {}", row["case"])))?;
        Ok(Case {
            group: ["kind", "scope", "types"].map(|key| peer[key].clone()),
            peers: PEERS.map(|name| peer[name] == "pass"),
            name: row["case"].clone(),
            result: row["result"].clone(),
            reason: row["reason"].clone(),
        })
    };
    rows(found)?.into_iter().map(case).collect()
}

fn page(cases: &[Case]) -> Page {
    let mut page = Page::new("ONNX's own test cases", "cargo xtask conformance");
    page.line(
        "Every case of the `onnx` 1.23.2 package: its model is compiled as any graph is, run on its inputs, and its outputs are compared in type, \
         shape and value, floats by the case's own tolerance (bfloat16 by 2^-6, as ONNX's own runner does), integers exactly. A case passes, or \
         is refused as unsupported with a reason; anything else is a failure. The last three columns are from `tests/conformance/peers.csv`.\n",
    );
    let mut groups: BTreeMap<&[String; 3], Vec<&Case>> = BTreeMap::new();
    for case in cases {
        groups.entry(&case.group).or_default().push(case);
    }
    let line = |label: [&str; 3], cases: &[&Case]| {
        let count = |result: &str| cases.iter().filter(|case| case.result == result).count().to_string();
        let mut row: Vec<String> = label.map(String::from).to_vec();
        row.push(cases.len().to_string());
        row.extend(["pass", "fail", "unsupported"].map(count));
        row.extend((0..PEERS.len()).map(|peer| cases.iter().filter(|case| case.peers[peer]).count().to_string()));
        row
    };
    let mut table: Vec<Vec<String>> =
        groups.iter().map(|(group, cases)| line(group.each_ref().map(String::as_str), cases)).collect();
    table.push(line(["all", "", ""], &cases.iter().collect::<Vec<_>>()));
    let header = [["kind", "scope", "types", "cases", "pass", "fail", "unsupported"].as_slice(), &PEERS].concat();
    page.table(&header, &table);
    page.line("## What is refused, and why\n");
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for case in cases.iter().filter(|case| case.result != "pass") {
        *reasons.entry(&case.reason).or_default() += 1;
    }
    let mut reasons: Vec<(&str, usize)> = reasons.into_iter().collect();
    reasons.sort_by_key(|&(reason, count)| (std::cmp::Reverse(count), reason));
    let rows: Vec<Vec<String>> =
        reasons.into_iter().map(|(reason, count)| vec![count.to_string(), reason.replace('|', "/")]).collect();
    page.table(&["cases", "reason"], &rows);
    page
}

fn store(workspace: &Workspace, cases: &[Case]) -> Result<()> {
    let path = workspace.root().join("tests/conformance/unsupported.csv");
    let failed = |error: csv::Error| Failure::new(format!("{}: {error}", path.display()));
    let mut writer = csv::Writer::from_path(&path).map_err(failed)?;
    writer.write_record(["case", "reason"]).map_err(failed)?;
    for case in cases.iter().filter(|case| case.result == "unsupported") {
        writer.write_record([&case.name, &case.reason]).map_err(failed)?;
    }
    writer.flush().at(&path)
}
