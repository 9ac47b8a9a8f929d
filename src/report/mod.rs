//! Results as tables: the paper's layout for readers, one tidy file with provenance for everything else.

pub mod compare;
pub mod csv;
pub mod grid;
pub mod record;
pub mod tables;
pub mod workbook;

pub use record::{ClassRecord, Provenance, Record, Scores};
