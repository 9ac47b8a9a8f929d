//! Where images come from. A new source is one file here that ends in an [`ImageSet`](super::ImageSet).

mod cache;
pub(super) mod cifar;
mod decode;
pub mod folder;
pub(super) mod idx;
mod labels;
mod listing;
mod official;
pub(super) mod tiny;

pub use folder::{FolderOptions, OnProblem, read_folder};
