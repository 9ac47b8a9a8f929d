//! Maps of the features that an audit kept, laid out once and kept as well.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::read::{self, FeatureRow};
use super::summary::KeptFeatures;
use super::tsne;
use crate::error::{Error, Result};
use crate::files;
use crate::metrics::silhouette;
use crate::tensor::Tensor;

/// Models whose features are kept, and what figures call them.
const MODELS: [(&str, &str); 4] = [
    ("unlearned", "M_U before the attack"),
    ("pretrained", "M_A after stage 1"),
    ("attack", "M_A after the attack"),
    ("unlearned_after", "M_U after the attack"),
];

/// Where the layouts are kept.
pub const FILE: &str = "map.json";

/// How layouts are made; changes when that changes.
const MADE: &str = "t-SNE 2: Barnes-Hut, perplexity 30, 1000 steps";

/// The layout of one model's features.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Layout {
    /// The model, by its name among the features.
    pub model: String,
    /// Mean silhouette of the forget images by their true classes, in the features themselves.
    pub silhouette_features: Option<f64>,
    /// The same on the map.
    pub silhouette_map: Option<f64>,
    /// Where the images stand; empty where no map can be made of them.
    pub places: Vec<(f64, f64)>,
}

impl Layout {
    /// What figures call the model.
    pub fn title(&self) -> &str {
        MODELS.iter().find(|(name, _)| *name == self.model).map_or(self.model.as_str(), |(_, title)| title)
    }
}

/// The layouts of all models, and what they depend on.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    made: String,
    features_sha256: String,
    seed: u64,
    layouts: Vec<Layout>,
}

/// Layouts of what an audit kept, with the images that they are of.
pub struct Maps {
    /// The images, a row each, in the order of the places.
    pub rows: Vec<FeatureRow>,
    /// By model.
    pub layouts: Vec<Layout>,
}

/// Lays the features out, or finds them laid out by an earlier run. `progress` is told how many of how many steps are done.
///
/// # Errors
/// Data, where the features are missing or damaged; Unexpected, where the disk does not cooperate.
pub fn maps(folder: &Path, kept: &KeptFeatures, seed: u64, progress: &(dyn Fn(usize, usize) + Sync)) -> Result<Maps> {
    let path = files::below(folder, &kept.file)?;
    let rows: Vec<FeatureRow> = read::table(&files::below(folder, &kept.rows)?)?;
    let failed = |error: &dyn std::fmt::Display| Error::data(error).at(path.display()).help("run the audit again");
    let bytes = std::fs::read(&path).map_err(|error| failed(&error))?;
    let features_sha256 = format!("{:x}", Sha256::digest(&bytes));
    drop(bytes);
    let file = folder.join(FILE);
    if let Ok(known) = files::read_json::<Kept>(&file, "")
        && (known.made.as_str(), known.features_sha256.as_str(), known.seed) == (MADE, features_sha256.as_str(), seed)
        && known.layouts.iter().all(|layout| layout.places.is_empty() || layout.places.len() == rows.len())
    {
        return Ok(Maps { rows, layouts: known.layouts });
    }
    let tensors = Tensor::read_safetensors(&path).map_err(|error| failed(&error))?;
    let mut features = Vec::new();
    for (name, _) in MODELS {
        let Some(found) = tensors.iter().find(|(known, _)| known == name) else { continue };
        let shape = found.1.size();
        if shape.len() != 2 || usize::try_from(shape[0]).ok() != Some(rows.len()) {
            return Err(failed(&format!("'{name}' of shape {shape:?} is not of the {} images of {}", rows.len(), kept.rows)));
        }
        features.push((name, found.1.shallow_clone()));
    }
    let (done, all) = (AtomicUsize::new(0), features.len() * tsne::EPOCHS);
    let step = || progress(done.fetch_add(1, Ordering::Relaxed) + 1, all);
    // A layout is made by one thread, so that it is the same everywhere; several are made at once.
    let layouts = std::thread::scope(|scope| {
        let made: Vec<_> = features
            .iter()
            .map(|(name, features)| {
                let (rows, step) = (&rows, &step);
                let features = features.shallow_clone();
                scope.spawn(move || layout(name, features, rows, seed, step))
            })
            .collect();
        made.into_iter()
            .map(|made| made.join().unwrap_or_else(|_| Err(Error::unexpected("a map of features was not finished"))))
            .collect::<Result<Vec<_>>>()
    })?;
    let kept = Kept { made: MADE.to_string(), features_sha256, seed, layouts };
    files::write(&file, &serde_json::to_vec(&kept).map_err(Error::unexpected)?)?;
    Ok(Maps { rows, layouts: kept.layouts })
}

fn layout(name: &str, features: Tensor, rows: &[FeatureRow], seed: u64, step: &(dyn Fn() + Sync)) -> Result<Layout> {
    let places = tsne::embed(&features, seed, step)?.unwrap_or_default();
    // Forget images whose class is known.
    let mut names: Vec<&str> = Vec::new();
    let (mut chosen, mut classes) = (Vec::new(), Vec::new());
    for (place, row) in (0_i64..).zip(rows).filter(|(_, row)| row.set == "forget" && !row.class.is_empty()) {
        let class = names.iter().position(|name| *name == row.class).unwrap_or_else(|| {
            names.push(&row.class);
            names.len() - 1
        });
        chosen.push(place);
        classes.push(class);
    }
    let among = Tensor::f_from_slice(&chosen)?;
    let of = |points: &Tensor| silhouette::mean(&points.f_index_select(0, &among)?, &classes);
    let silhouette_map = if places.is_empty() {
        None
    } else {
        let flat: Vec<f64> = places.iter().flat_map(|place| [place.0, place.1]).collect();
        of(&Tensor::f_from_slice(&flat)?.f_reshape([-1, 2])?)?
    };
    Ok(Layout { model: name.to_string(), silhouette_features: of(&features)?, silhouette_map, places })
}
