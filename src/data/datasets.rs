//! The data sets of the paper, by the files in which they are published, and folders of images.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::readers::{FolderOptions, OnProblem, cifar, idx, read_folder, tiny};
use super::{ImageSet, Progress};
use crate::error::{Error, Result};

/// How a data set is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DataSet {
    /// CIFAR-10, binary version: 32x32 in colour, 10 classes.
    Cifar10,
    /// CIFAR-100, binary version, with its fine labels: 32x32 in colour, 100 classes.
    Cifar100,
    /// Fashion-MNIST, IDX files: 28x28 grey, 10 classes.
    Fmnist,
    /// Tiny-ImageNet: 64x64 in colour, 200 classes. Its `val` is the test part, because the labels of `test` are not published.
    TinyImagenet,
    /// `train/<class>/` and `test/<class>/` with images of one size, in colour.
    Folder,
}

/// A part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What models are trained on.
    Train,
    /// What they are not trained on.
    Test,
}

impl DataSet {
    /// Every format.
    pub const ALL: [DataSet; 5] = [DataSet::Cifar10, DataSet::Cifar100, DataSet::Fmnist, DataSet::TinyImagenet, DataSet::Folder];

    /// Reads a part from the folder that holds the published files, or the folder in which they were unpacked.
    ///
    /// # Errors
    /// Data, naming the file that is missing, cut off, corrupt or inconsistent: published files are used whole or not at all.
    pub fn read(self, root: &Path, part: Part, progress: &mut dyn FnMut(Progress)) -> Result<ImageSet> {
        let train = part == Part::Train;
        let inside = |folder: &str, file: &str| -> PathBuf {
            let unpacked = root.join(folder);
            if !root.join(file).exists() && unpacked.exists() { unpacked } else { root.to_path_buf() }
        };
        match self {
            DataSet::Cifar10 => cifar::cifar10(&inside("cifar-10-batches-bin", "batches.meta.txt"), train),
            DataSet::Cifar100 => cifar::cifar100(&inside("cifar-100-binary", "fine_label_names.txt"), train),
            DataSet::Fmnist => idx::fmnist(root, train),
            DataSet::TinyImagenet => tiny::tiny_imagenet(&inside("tiny-imagenet-200", "wnids.txt"), train, progress),
            DataSet::Folder => {
                let options = FolderOptions { on_problem: OnProblem::Fail, ..FolderOptions::default() };
                read_folder(&root.join(if train { "train" } else { "test" }), &options, progress)
            }
        }
    }
}

impl fmt::Display for DataSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DataSet::Cifar10 => "cifar10",
            DataSet::Cifar100 => "cifar100",
            DataSet::Fmnist => "fmnist",
            DataSet::TinyImagenet => "tiny-imagenet",
            DataSet::Folder => "folder",
        })
    }
}

impl FromStr for DataSet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        DataSet::ALL.into_iter().find(|set| set.to_string() == text).ok_or_else(|| {
            let names: Vec<String> = DataSet::ALL.iter().map(DataSet::to_string).collect();
            Error::usage(format!("unknown data set '{text}'")).help(format!("one of {}", names.join(", ")))
        })
    }
}
