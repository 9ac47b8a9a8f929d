//! What an audit keeps of its images beside tables, so that figures can be drawn again without models and without images: predictions,
//! small pictures, and features.

use std::path::Path;

use image::{ImageFormat, RgbImage};

use super::audit::{Audit, Outcome, VariantOutcome};
use super::results::class_name;
use crate::attack::Variant;
use crate::attack::sets::Predictions;
use crate::data::{Batches, ImageSet};
use crate::error::{Error, Result};
use crate::files;
use crate::graph::Model;
use crate::report::summary::{KeptFeatures, Thumbnails, spread};
use crate::report::{csv, maps};
use crate::tensor::{Device, Kind, Tensor, no_grad, to_u8s, write_safetensors};

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Images, forget and probing together, whose features are kept, at most.
    pub features: usize,
    /// Forget images of which small pictures are kept, at most.
    pub pictures: usize,
}

impl Keep {
    /// Numbers alone.
    pub const NOTHING: Keep = Keep { features: 0, pictures: 0 };
}

/// Longest side of a small picture, in pixels.
const LONGEST_SIDE: usize = 64;

/// Small pictures in a row of the file.
const COLUMNS: usize = 40;

/// How many images are worked on at once.
const AT_ONCE: usize = 100;

const PICTURES: &str = "forget_images.png";
const FEATURES: &str = "features.safetensors";
const FEATURE_ROWS: &str = "features.csv";

/// What the models say of every forget image: `M_U` before the attack, `M_A` after stage 1 and in the end, `M_U` in the end.
pub(super) fn write_predictions(audit: &Audit, variant: &VariantOutcome) -> Result<()> {
    let course = &variant.course;
    let models: [(&str, &Predictions); 4] = [
        ("unlearned", &course.before),
        ("recovered", &course.attack),
        ("pretrained", &course.pretrained),
        ("unlearned_after", &course.unlearned),
    ];
    let mut header = vec!["image".to_string()];
    header.extend(models.iter().flat_map(|(name, _)| [format!("{name}_label"), format!("{name}_confidence")]));
    // Columns that later versions added stand at the end.
    header.insert(5, "truth".to_string());
    let names: Vec<String> = audit.forget.names.iter().map(|name| csv::text(name)).collect();
    let rows: Vec<Vec<String>> = names
        .into_iter()
        .zip(&audit.forget.labels)
        .enumerate()
        .map(|(image, (name, truth))| {
            let mut row = vec![name];
            for (_, said) in models {
                row.extend([csv::text(&class_name(audit, said.classes[image])), said.confidences[image].to_string()]);
            }
            row.insert(5, truth.map_or_else(String::new, |truth| csv::text(&class_name(audit, truth))));
            row
        })
        .collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    csv::write(&audit.results.join("predictions.csv"), &header, &rows)
}

/// Small pictures of forget images, side by side in one file.
pub(super) fn write_thumbnails(audit: &Audit) -> Result<Option<Thumbnails>> {
    let path = audit.results.join(PICTURES);
    let set = audit.forget;
    let chosen = spread(set.len(), audit.keep.pictures);
    if chosen.is_empty() {
        remove(&path)?;
        return Ok(None);
    }
    let (width, height) = small(set.width(), set.height());
    let columns = chosen.len().min(COLUMNS);
    let pixels = |count: usize| u32::try_from(count).map_err(Error::unexpected);
    let (wide, high) = (pixels(width * columns)?, pixels(height * chosen.len().div_ceil(columns))?);
    let mut sheet = RgbImage::from_pixel(wide, high, image::Rgb([255; 3]));
    for (first, rows) in (0..).step_by(AT_ONCE).zip(chosen.chunks(AT_ONCE)) {
        let bytes = small_pictures(set, rows, width, height)?;
        for (place, picture) in (first..).zip(bytes.chunks_exact(width * height * 3)) {
            let picture = RgbImage::from_raw(pixels(width)?, pixels(height)?, picture.to_vec());
            let picture = picture.ok_or_else(|| Error::unexpected("a picture of another size"))?;
            let (x, y) = (place % columns * width, place / columns * height);
            image::imageops::replace(&mut sheet, &picture, i64::try_from(x).unwrap_or(0), i64::try_from(y).unwrap_or(0));
        }
    }
    let mut png = std::io::Cursor::new(Vec::new());
    sheet.write_to(&mut png, ImageFormat::Png).map_err(|error| Error::unexpected(error).at(path.display()))?;
    files::write(&path, png.get_ref())?;
    files::make_private(&path)?;
    let (width, height, columns) = (pixels(width)?, pixels(height)?, pixels(columns)?);
    Ok(Some(Thumbnails { file: PICTURES.to_string(), width, height, columns, count: chosen.len() }))
}

/// Width and height of a small picture.
fn small(width: usize, height: usize) -> (usize, usize) {
    let longest = width.max(height).max(1);
    if longest <= LONGEST_SIDE {
        return (width, height);
    }
    let shrunk = |side: usize| (side * LONGEST_SIDE / longest).max(1);
    (shrunk(width), shrunk(height))
}

/// Pixels of some images of a set, `[n, height, width, 3]`.
fn small_pictures(set: &ImageSet, rows: &[usize], width: usize, height: usize) -> Result<Vec<u8>> {
    let number = |count: usize| i64::try_from(count).map_err(Error::unexpected);
    let positions = rows.iter().map(|&row| number(row)).collect::<Result<Vec<i64>>>()?;
    let mut images = set.images.f_index_select(0, &Tensor::f_from_slice(&positions)?)?;
    if (width, height) != (set.width(), set.height()) {
        let shrunk = images.f_to_kind(Kind::Float)?.f_adaptive_avg_pool2d([number(height)?, number(width)?])?;
        images = shrunk.f_round()?.f_to_kind(Kind::Uint8)?;
    }
    let images = images.f_expand([number(rows.len())?, 3, number(height)?, number(width)?], false)?;
    to_u8s(&images.f_permute([0, 2, 3, 1])?.f_contiguous()?)
}

/// Features of forget and probing images, for a map of them (paper, Figure 5): as `M_U` makes them before the attack, and `M_A` after stage
/// 1 and in the end; and as `M_U` makes them in the end, where it was taught. Where a
/// model has no features of single images, a note says so.
pub(super) fn write_features(
    audit: &Audit,
    outcome: &Outcome,
    main: &VariantOutcome,
) -> Result<std::result::Result<Option<KeptFeatures>, String>> {
    let (path, rows_path) = (audit.results.join(FEATURES), audit.results.join(FEATURE_ROWS));
    let (forget, probe) = shares(audit.forget.len(), audit.probe.len(), audit.keep.features);
    if audit.keep.features == 0 {
        [&path, &rows_path, &audit.results.join(maps::FILE)].into_iter().try_for_each(|path| remove(path))?;
        return Ok(Ok(None));
    }
    let sets =
        [("forget", audit.forget, spread(audit.forget.len(), forget)), ("probe", audit.probe, spread(audit.probe.len(), probe))];
    let mut rows = Vec::new();
    for (name, set, chosen) in &sets {
        rows.extend(chosen.iter().map(|&image| {
            let truth = set.labels[image].map_or_else(String::new, |class| csv::text(&class_name(audit, class)));
            vec![(*name).to_string(), csv::text(&set.names[image]), truth]
        }));
    }
    let images =
        |(_, set, chosen): &(&str, &ImageSet, Vec<usize>)| Batches::new(&set.subset(chosen)?, audit.adapter, audit.device);
    let [forget_images, probe_images] = [images(&sets[0])?, images(&sets[1])?];
    let images = forget_images.join(&probe_images)?;
    let mut models = vec![("unlearned", audit.model), ("pretrained", &outcome.pretrained), ("attack", &main.attack)];
    // Elsewhere it is what it was.
    models.extend((main.variant == Variant::PUA).then_some(("unlearned_after", &main.unlearned)));
    let mut tensors = Vec::new();
    for (name, model) in models {
        let Some(rows) = features(model, &images)? else {
            [&path, &rows_path].into_iter().try_for_each(|path| remove(path))?;
            return Ok(Err(
                "no features are kept, and there is no map of them: what the last layer reads is not of single images"
                    .to_string(),
            ));
        };
        tensors.push((name.to_string(), rows));
    }
    write_safetensors(&path, &tensors)?;
    files::make_private(&path)?;
    csv::write(&rows_path, &["set", "image", "class"], &rows)?;
    Ok(Ok(Some(KeptFeatures { file: FEATURES.to_string(), rows: FEATURE_ROWS.to_string(), forget, probe })))
}

/// How many of either set are kept, where only `most` may be: half of them of the forget set, more if there are not enough of the others.
fn shares(forget: usize, probe: usize, most: usize) -> (usize, usize) {
    let probing = probe.min(most - forget.min(most / 2));
    (forget.min(most - probing), probing)
}

fn features(model: &Model, images: &Batches) -> Result<Option<Tensor>> {
    let _guard = no_grad();
    let number = |count: usize| i64::try_from(count).map_err(Error::unexpected);
    let mut rows = Vec::new();
    for start in (0..images.len()).step_by(AT_ONCE) {
        let batch = images.range(number(start)?, number(AT_ONCE.min(images.len() - start))?)?;
        match model.features(&batch)? {
            Some(features) => rows.push(features.f_to_device(Device::Cpu)?),
            None => return Ok(None),
        }
    }
    Ok(Some(Tensor::f_cat(&rows, 0)?))
}

/// Removes what an earlier audit in the same folder kept.
fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, &error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_what_is_kept_is_of_the_forget_set_if_there_is_enough_of_both() {
        assert_eq!(shares(500, 500, 100), (50, 50));
        assert_eq!(shares(20, 500, 100), (20, 80));
        assert_eq!(shares(500, 20, 100), (80, 20));
        assert_eq!(shares(10, 20, 100), (10, 20));
    }

    #[test]
    fn large_images_shrink_and_keep_their_shape() {
        assert_eq!(small(32, 28), (32, 28));
        assert_eq!(small(224, 112), (64, 32));
        assert_eq!(small(6000, 10), (64, 1));
    }
}
