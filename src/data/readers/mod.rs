//! Where images come from. A new source is one file here that ends in an [`ImageSet`](super::ImageSet).

mod cache;
mod decode;
pub mod folder;
mod labels;
mod listing;

pub use folder::{FolderOptions, OnProblem, read_folder};
