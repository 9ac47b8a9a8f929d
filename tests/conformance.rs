//! ONNX's own test cases, all of them: every case passes or is refused as unsupported, and none that passed before is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cmira::check::conformance::{Outcome, cases, run};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The cases that are refused, with the reason, as `cargo xtask conformance --bless` wrote them.
fn known() -> BTreeMap<String, String> {
    let mut rows = csv::Reader::from_path(Path::new(ROOT).join("tests/conformance/unsupported.csv")).expect("the stored list");
    rows.records().map(|row| row.expect("two columns")).map(|row| (row[0].to_string(), row[1].to_string())).collect()
}

fn folder() -> PathBuf {
    let folder = Path::new(ROOT).join(".native/conformance");
    assert!(folder.is_dir(), "{} is not there; `cargo xtask setup --tests` makes it", folder.display());
    folder
}

#[test]
fn every_case_passes_or_is_refused_for_a_known_reason() {
    let mut known = known();
    let (mut passed, mut faults) = (0, Vec::new());
    for case in cases(&folder()).expect("the official cases") {
        match (run(&case), known.remove(&case.name)) {
            (Outcome::Pass, None) => passed += 1,
            (Outcome::Unsupported(found), Some(stored)) if found == stored => {}
            (outcome, stored) => faults.push(format!("{}: {outcome:?}, stored {stored:?}", case.name)),
        }
    }
    faults.extend(known.into_keys().map(|name| format!("{name}: stored, but not among the cases")));
    assert!(faults.is_empty(), "`cargo xtask conformance --bless` stores what is right:\n{}", faults.join("\n"));
    assert!(passed > 1_500, "only {passed} cases pass");
}
