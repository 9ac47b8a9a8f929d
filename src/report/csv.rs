//! Writing CSV: whole files or none, the same bytes for the same numbers, and nothing that a spreadsheet would run.

use std::borrow::Cow;
use std::path::Path;

use crate::error::{Error, Result};
use crate::files;

/// Writes a table so that either the old or the new file is there, never half of one. All rows need the header's length.
///
/// # Errors
/// Unexpected, when the folder is not writable or the disk is full.
pub fn write(path: &Path, header: &[&str], rows: &[Vec<String>]) -> Result<()> {
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    let failed = |e: ::csv::Error| Error::unexpected(e).at(path.display());
    writer.write_record(header).map_err(failed)?;
    for row in rows {
        writer.write_record(row).map_err(failed)?;
    }
    let bytes = writer.into_inner().map_err(|e| Error::unexpected(e.to_string()).at(path.display()))?;
    files::write(path, &bytes)
}

/// A text cell. Text that a spreadsheet would take as a formula (a leading `=`, `+`, `-`, `@`, tab or carriage return) gets an apostrophe.
pub fn text(cell: &str) -> String {
    // An apostrophe of its own gets one as well, so that no two texts become one.
    if files::is_formula(cell) || cell.starts_with('\'') { format!("'{cell}") } else { cell.to_string() }
}

/// A number in full precision, the shortest text that reads back as the same number; empty for none.
pub fn number(value: Option<f64>) -> String {
    value.filter(|v| v.is_finite()).map_or_else(String::new, |v| v.to_string())
}

/// A percentage with two decimals, as the paper prints it; empty for none.
pub fn percent(value: Option<f64>) -> String {
    // -0.00 would look like a loss.
    let tidy = |v: f64| Cow::from(format!("{v:.2}"));
    value.filter(|v| v.is_finite()).map_or_else(String::new, |v| match tidy(v).as_ref() {
        "-0.00" => "0.00".to_string(),
        other => other.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_become_text() {
        assert_eq!(text("=cmd()"), "'=cmd()");
        assert_eq!(text("@x"), "'@x");
        assert_eq!(text("cat"), "cat");
    }

    #[test]
    fn numbers_are_plain() {
        assert_eq!(percent(Some(-0.001)), "0.00");
        assert_eq!(percent(None), "");
        assert_eq!(number(Some(0.1)), "0.1");
        assert_eq!(number(Some(f64::NAN)), "");
    }
}
