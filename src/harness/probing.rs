//! Probing sets by image search (paper, section 4.1): of a pool of labelled images those that are most like the images to be forgotten.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use crate::data::{Adapter, Batches, ImageSet};
use crate::error::{Error, Result};
use crate::graph::{Mode, Model};
use crate::tensor::{Device, Kind, Tensor, no_grad, to_f32s, to_i64s};

/// One image of the pool that was chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// Its position in the pool.
    pub image: usize,
    /// Its class among the model's.
    pub class: i64,
    /// The cosine of its features and those of the query image that it is most like, `-1..=1`.
    pub similarity: f32,
    /// The position of that query image.
    pub nearest: usize,
}

/// Features of all images, a row each of length 1: the values of a name in the model's graph, or its logits.
///
/// # Errors
/// Usage, when the graph has no such value on the way to the scores; what the model raises on the images.
pub fn features(model: &Model, images: &ImageSet, adapter: &Adapter, layer: Option<&str>) -> Result<Tensor> {
    let _guard = no_grad();
    let batches = Batches::new(images, adapter, model.device())?;
    let mut rows = Vec::new();
    for positions in (0..).take(images.len()).collect::<Vec<i64>>().chunks(100) {
        let batch = batches.batch(&Tensor::f_from_slice(positions)?.f_to_device(model.device())?)?;
        let value = match layer {
            None => model.forward(&batch, Mode::Eval)?,
            Some(layer) => {
                let mut found = None;
                model.observe(&batch, Mode::Eval, &mut |name, value| {
                    if name == layer {
                        found = Some(value.shallow_clone());
                    }
                    Ok(())
                })?;
                found.ok_or_else(|| Error::usage(format!("the graph has no value '{layer}' on the way to the scores")))?
            }
        };
        let flat = value.f_reshape([i64::try_from(positions.len()).map_err(Error::unexpected)?, -1])?.f_to_kind(Kind::Float)?;
        let length = flat.f_norm_scalaropt_dim(2.0, [1_i64], true)?.f_clamp_min(1e-12)?;
        rows.push(flat.f_div(&length)?.f_to_device(Device::Cpu)?);
    }
    Ok(Tensor::f_cat(&rows, 0)?)
}

/// Which class of the model each class of the pool stands for; classes that stand for none are not used.
///
/// # Errors
/// Data, naming file and line: no header `pool,class`, or a class that one of the two does not have.
pub fn mapping(path: &Path, pool: &[String], classes: &[String]) -> Result<HashMap<i64, i64>> {
    let mut reader =
        csv::ReaderBuilder::new().trim(csv::Trim::All).from_path(path).map_err(|e| Error::data(e).at(path.display()))?;
    let mut mapped = HashMap::new();
    let position = |names: &[String], name: &str| names.iter().position(|own| own == name).and_then(|p| i64::try_from(p).ok());
    for (record, line) in reader.deserialize::<HashMap<String, String>>().zip(2..) {
        let refuse = |reason: String| Error::data(format!("line {line}: {reason}")).at(path.display());
        let record = record.map_err(|error| Error::data(error).at(path.display()))?;
        let (Some(from), Some(to)) = (record.get("pool"), record.get("class")) else {
            return Err(Error::data("has no header 'pool,class'").at(path.display()));
        };
        let from_position = position(pool, from).ok_or_else(|| refuse(format!("the pool has no class '{from}'")))?;
        let to = position(classes, to).ok_or_else(|| refuse(format!("the model has no class '{to}'")))?;
        if mapped.insert(from_position, to).is_some() {
            return Err(refuse(format!("the pool's class '{from}' stands here twice")));
        }
    }
    Ok(mapped)
}

/// The classes of the model that a mapping names, in alphabetical order.
///
/// # Errors
/// Data, when the file cannot be read or has no header `pool,class`.
pub fn mapped_classes(path: &Path) -> Result<Vec<String>> {
    let mut reader =
        csv::ReaderBuilder::new().trim(csv::Trim::All).from_path(path).map_err(|e| Error::data(e).at(path.display()))?;
    let mut names = std::collections::BTreeSet::new();
    for record in reader.deserialize::<HashMap<String, String>>() {
        let mut record = record.map_err(|error| Error::data(error).at(path.display()))?;
        let class = record.remove("class").ok_or_else(|| Error::data("has no header 'pool,class'").at(path.display()))?;
        names.insert(class);
    }
    Ok(names.into_iter().collect())
}

/// The mapping of classes that are called the same.
pub fn same_names(pool: &[String], classes: &[String]) -> HashMap<i64, i64> {
    let positions: HashMap<&str, i64> = classes.iter().map(String::as_str).zip(0..).collect();
    pool.iter().zip(0..).filter_map(|(name, index)| Some((index, *positions.get(name.as_str())?))).collect()
}

/// Of every class of the model that the pool has images for, the `per_class` whose features are most like those of any query image; of
/// equally good ones the first. Images that are query images themselves, pixel by pixel, are left out: they would teach what should have
/// been forgotten.
///
/// # Errors
/// Data, when a pool image has no label, or no image is left.
pub fn choose(
    query: &ImageSet,
    pool: &ImageSet,
    features: (&Tensor, &Tensor),
    mapping: &HashMap<i64, i64>,
    per_class: usize,
) -> Result<Vec<Chosen>> {
    let labels = pool.label_list()?;
    let known: HashSet<[u8; 32]> = query.image_hashes()?.into_iter().collect();
    let (similarities, nearest) = features.1.f_matmul(&features.0.f_transpose(0, 1)?)?.f_max_dim(1, false)?;
    let (similarities, nearest) = (to_f32s(&similarities)?, to_i64s(&nearest)?);
    let mut by_class: BTreeMap<i64, Vec<Chosen>> = BTreeMap::new();
    for (image, hash) in pool.image_hashes()?.iter().enumerate() {
        let label = labels.get(image).and_then(|label| mapping.get(label));
        let (Some(&class), false) = (label, known.contains(hash)) else { continue };
        let similarity = similarities.get(image).copied().unwrap_or(-1.0);
        let nearest = nearest.get(image).and_then(|&n| usize::try_from(n).ok()).unwrap_or(0);
        by_class.entry(class).or_default().push(Chosen { image, class, similarity, nearest });
    }
    let mut chosen = Vec::new();
    for mut images in by_class.into_values() {
        images.sort_by(|a, b| b.similarity.total_cmp(&a.similarity));
        images.truncate(per_class);
        chosen.append(&mut images);
    }
    if chosen.is_empty() {
        return Err(Error::data("no image of the pool can be used").help("its classes have to be the model's, or mapped to them"));
    }
    Ok(chosen)
}

/// The chosen images of a pool as a set of their own, labelled as the model's classes.
///
/// # Errors
/// As [`ImageSet::subset`].
pub fn probing_set(pool: &ImageSet, chosen: &[Chosen], classes: &[String]) -> Result<ImageSet> {
    let positions: Vec<usize> = chosen.iter().map(|one| one.image).collect();
    let part = pool.subset(&positions)?;
    let labels = chosen.iter().map(|one| Some(one.class)).collect();
    ImageSet::new(part.images, labels, part.names, classes.to_vec(), Vec::new())
}
