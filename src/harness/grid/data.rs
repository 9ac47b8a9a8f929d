//! A grid's images and splits. They are read when a step needs them, and not before: a finished grid reads none.

use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::config::{DatasetEntry, Source};
use crate::data::draw::draw;
use crate::data::{Adapter, DataSet, ImageSet, Part, Progress, splits};
use crate::error::{Error, Place, Result};

/// A data set as one seed splits it.
pub(super) struct Split {
    /// Training images that are kept, D_r.
    pub retain: ImageSet,
    /// Training images to be forgotten, D_f.
    pub forget: ImageSet,
    /// Both: what original models are trained on, D_t.
    pub train: ImageSet,
    /// The probing set, D_p, of images that no model is trained on.
    pub probe: ImageSet,
    /// How images are turned into numbers.
    pub adapter: Adapter,
}

/// What is kept of a split: hashes of its sets, and how large they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct SplitRecord {
    /// Of both of the next together: what original models are trained on.
    pub train_sha256: String,
    pub retain_sha256: String,
    pub forget_sha256: String,
    pub probe_sha256: String,
    pub n_retain: usize,
    pub n_forget: usize,
    pub n_probe: usize,
    /// Numbers in an image and classes, to make models without the images.
    pub shape: [usize; 3],
    pub classes: usize,
}

impl Split {
    pub(super) fn record(&self) -> SplitRecord {
        SplitRecord {
            train_sha256: self.train.sha256.clone(),
            retain_sha256: self.retain.sha256.clone(),
            forget_sha256: self.forget.sha256.clone(),
            probe_sha256: self.probe.sha256.clone(),
            n_retain: self.retain.len(),
            n_forget: self.forget.len(),
            n_probe: self.probe.len(),
            shape: [self.probe.channels(), self.probe.height(), self.probe.width()],
            classes: self.probe.classes.len(),
        }
    }
}

/// Changes when a file of the source does: sizes and times of all files, or the numbers by which images are drawn.
pub(super) fn fingerprint(source: &Source) -> Result<String> {
    let Source::Files { path, .. } = source else { return serde_json::to_string(source).map_err(Error::unexpected) };
    let mut hash = Sha256::new();
    for entry in walkdir::WalkDir::new(path).sort_by_file_name() {
        let entry = entry.map_err(|error| {
            let reason = error.io_error().map_or_else(|| error.to_string(), ToString::to_string);
            Error::data(reason).at(error.path().unwrap_or(path).display()).help("the images of the grid have to be there")
        })?;
        if !entry.file_type().is_file() {
            continue;
        }
        let metadata = entry.metadata().map_err(|error| Error::data(error).at(entry.path().display()))?;
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        hash.update(entry.path().as_os_str().as_encoded_bytes());
        hash.update(metadata.len().to_le_bytes());
        hash.update(modified.map_or(0, |time| time.as_nanos()).to_le_bytes());
    }
    Ok(format!("{:x}", hash.finalize()))
}

/// Reads images and splits them; `scratch` is where drawings lie.
pub(super) fn read(entry: &DatasetEntry, seed: u64, scratch: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Split> {
    let (train, test) = sets(&entry.source, scratch, progress)?;
    if train.classes != test.classes {
        return Err(Error::data("training and test images have different classes").at(&entry.name));
    }
    let chosen = match entry.train_per_class {
        Some(count) => train.subset(&splits::per_class_subset(&train.label_list()?, count, seed)?)?,
        None => train,
    };
    let (kept, _) = splits::holdout(&chosen.label_list()?, 1.0 - entry.train_share, seed)?;
    let train = if kept.len() == chosen.len() { chosen } else { chosen.subset(&kept)? };
    let find = |name: &String| {
        let position = train.classes.iter().position(|class| class == name).and_then(|index| i64::try_from(index).ok());
        position.ok_or_else(|| {
            Error::usage(format!("there is no class '{name}'")).help(format!("the classes are {}", train.classes.join(", ")))
        })
    };
    let classes = entry.forget_classes.iter().map(find).collect::<Result<Vec<i64>>>().at(|| &entry.name)?;
    let split = splits::forget_half(&train.label_list()?, &classes, entry.forget_share, seed).at(|| &entry.name)?;
    let probe = match entry.probe_per_class {
        Some(count) => test.subset(&splits::per_class_subset(&test.label_list()?, count, seed)?)?,
        None => test,
    };
    let (retain, forget) = (train.subset(&split.retain)?, train.subset(&split.forget)?);
    Ok(Split { retain, forget, train, probe, adapter: entry.adapter() })
}

fn sets(source: &Source, scratch: &Path, progress: &mut dyn FnMut(Progress)) -> Result<(ImageSet, ImageSet)> {
    let read = |format: DataSet, path: &Path, progress: &mut dyn FnMut(Progress)| -> Result<(ImageSet, ImageSet)> {
        Ok((format.read(path, Part::Train, progress)?, format.read(path, Part::Test, progress)?))
    };
    match (source, source.drawing()) {
        (Source::Files { format, path }, _) => read(*format, path, progress),
        (_, Some(options)) => {
            // Drawn beside its place and moved there, by whichever process is first.
            if !scratch.exists() {
                let mut name = scratch.file_name().unwrap_or_default().to_os_string();
                name.push(format!(".{}.partial", std::process::id()));
                let partial = scratch.with_file_name(name);
                if partial.exists() {
                    std::fs::remove_dir_all(&partial).map_err(|error| Error::io(&partial, &error))?;
                }
                draw(&partial, &options, progress)?;
                match std::fs::rename(&partial, scratch) {
                    Err(error) if !scratch.exists() => return Err(Error::io(scratch, &error)),
                    Err(_) => std::fs::remove_dir_all(&partial).map_err(|error| Error::io(&partial, &error))?,
                    Ok(()) => {}
                }
            }
            read(DataSet::Folder, scratch, progress)
        }
        (Source::Drawn { .. }, None) => Err(Error::unexpected("drawings without options")),
    }
}
