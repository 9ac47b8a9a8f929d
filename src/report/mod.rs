//! Results as tables: the paper's layout for readers, one tidy file with provenance for everything else.

pub mod compare;
pub mod csv;
mod excess;
pub mod grid;
pub mod record;
pub mod tables;
pub mod verdict;
pub mod workbook;

pub use record::{ClassRecord, Provenance, Record, Scores};
