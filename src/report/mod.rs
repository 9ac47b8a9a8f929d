//! Results as tables: the paper's layout for readers, one tidy file with provenance for everything else.

pub mod compare;
mod consistent;
pub mod csv;
mod excess;
pub mod figures;
pub mod grid;
pub mod maps;
pub mod pages;
pub mod read;
pub mod record;
pub mod summary;
pub mod tables;
mod tsne;
pub mod verdict;
pub mod workbook;

pub use record::{ClassRecord, Provenance, Record, Scores};
pub use summary::Summary;
