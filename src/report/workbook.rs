//! One workbook out of a folder of CSV files: a sheet each, numbers as numbers, text as text.

use std::path::{Path, PathBuf};

use rust_xlsxwriter::{Format, Workbook};

use crate::error::{Error, Result};
use crate::files;

/// Letters that a sheet's name may have.
const LONGEST_NAME: usize = 31;

/// Writes `tables.xlsx` with a sheet for every CSV file of a folder, in the order of their names.
///
/// # Errors
/// Data, when there is no CSV file or one cannot be read; Unexpected, where the disk does not cooperate.
pub fn write(folder: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(folder).map_err(|error| Error::data(error).at(folder.display()))?;
    let mut tables: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    tables.retain(|path| path.extension().is_some_and(|extension| extension == "csv"));
    tables.sort();
    if tables.is_empty() {
        return Err(Error::data("holds no CSV file").at(folder.display()));
    }
    let mut workbook = Workbook::new();
    let bold = Format::new().set_bold();
    for path in &tables {
        let failed = |error: &dyn std::fmt::Display| Error::data(error).at(path.display());
        let name: String = path.file_stem().unwrap_or_default().to_string_lossy().chars().take(LONGEST_NAME).collect();
        let sheet = workbook.add_worksheet();
        sheet.set_name(name).map_err(|error| failed(&error))?;
        sheet.set_freeze_panes(1, 0).map_err(|error| failed(&error))?;
        let mut reader = ::csv::ReaderBuilder::new().has_headers(false).from_path(path).map_err(|error| failed(&error))?;
        for (row, record) in (0..).zip(reader.records()) {
            for (column, cell) in (0..).zip(record.map_err(|error| failed(&error))?.iter()) {
                let done = match (row, cell.parse::<f64>()) {
                    (0, _) => sheet.write_string_with_format(row, column, cell, &bold).map(drop),
                    // Hashes can look like enormous numbers.
                    (_, Ok(number)) if number.is_finite() && cell.len() < 26 => sheet.write_number(row, column, number).map(drop),
                    // Text is stored as text: no program takes it for a formula, so the apostrophe of the CSV is not needed.
                    _ => sheet.write_string(row, column, cell.strip_prefix('\'').unwrap_or(cell)).map(drop),
                };
                done.map_err(|error| failed(&error))?;
            }
        }
    }
    let bytes = workbook.save_to_buffer().map_err(|error| Error::unexpected(error).at(folder.display()))?;
    let path = folder.join("tables.xlsx");
    files::write(&path, &bytes)?;
    Ok(path)
}
