//! Images to batches.
//!
//! One image's way: a file in a folder ([`read_folder`]) becomes a row of an [`ImageSet`] (bytes, label, name), lies on the
//! device as a row of [`Batches`], is cropped and mirrored by [`Augment`] and normalised as the model's [`Adapter`] says. Which
//! images are forgotten, retained or held out is decided in [`splits`]; [`draw`] makes a data set of the project's own.
//!
//! ```no_run
//! use cmira::data::{Adapter, Augment, Batches, FolderOptions, order, read_folder};
//! use cmira::tensor::{Device, Tensor, rng};
//!
//! # fn main() -> cmira::error::Result<()> {
//! let adapter = Adapter::read("adapter.yaml".as_ref())?;
//! let options = FolderOptions::from_adapter(&adapter);
//! let set = read_folder("images/train".as_ref(), &options, &mut |_progress| {})?;
//! let batches = Batches::new(&set, &adapter, Device::Cpu)?;
//! let first_epoch = order(1, "training", 0, batches.len());
//! for indices in first_epoch.chunks(128) {
//!     let indices = Tensor::f_from_slice(indices)?;
//!     let _images = batches.augmented(&indices, &Augment::default(), &mut rng(1, "augmentation", 0))?;
//! }
//! # Ok(())
//! # }
//! ```

pub mod adapter;
pub mod augment;
pub mod batches;
pub mod datasets;
pub mod draw;
pub mod fetch;
mod files;
pub mod readers;
pub mod splits;
pub mod store;

pub use adapter::Adapter;
pub use augment::Augment;
pub use batches::{Batches, order};
pub use datasets::{DataSet, Part};
pub use readers::{FolderOptions, OnProblem, read_folder};
pub use splits::Splits;
pub use store::{ImageSet, Problem};

/// How far a long piece of work has come. The library never prints; a caller shows this as it likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Items finished so far, at most `total`.
    pub done: usize,
    /// Items in all; 0 while that is not known.
    pub total: usize,
    /// What is being done, as a phrase such as `decoding images`.
    pub what: &'static str,
}
