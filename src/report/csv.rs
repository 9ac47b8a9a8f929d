//! Writing CSV: whole files or none, the same bytes for the same numbers, and nothing that a spreadsheet would run.

use std::borrow::Cow;
use std::io::Write;
use std::path::Path;

use crate::error::{Error, Result};

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
    write_bytes(path, &bytes)
}

/// Writes any bytes so that either the old or the new file is there.
///
/// # Errors
/// As [`write()`].
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, &e))?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(|e| Error::io(folder, &e))?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(|e| Error::io(path, &e))?;
    file.persist(path).map_err(|e| Error::io(path, &e.error))?;
    Ok(())
}

/// A text cell. Text that a spreadsheet would take as a formula (a leading `=`, `+`, `-`, `@`, tab or carriage return) gets an apostrophe.
pub fn text(cell: &str) -> String {
    let risky = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
    if risky { format!("'{cell}") } else { cell.to_string() }
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
