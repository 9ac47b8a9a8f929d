//! An own data set, drawn by arithmetic, so that the project can ship and test with images that belong to nobody else.
//!
//! An image depends on its seed, split, class and number alone: a set drawn larger later contains the smaller one byte for byte.

mod scene;
mod shapes;

use std::path::Path;

use image::{ImageFormat, RgbImage};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Progress;
use super::files::write_atomically;
use crate::error::{Error, Result};
use crate::tensor::rng;
use shapes::SHAPES;

/// Side length of [`draw_image`], in pixels.
pub const DEFAULT_SIZE: u32 = 32;

/// Raised whenever the same options give other pixels.
const VERSION: u32 = 1;

/// The file beside the splits that says how they were drawn.
const RECORD: &str = "drawn.json";

/// Images drawn between two reports of progress.
const CHUNK: usize = 256;

const SPLITS: [&str; 2] = ["train", "test"];

/// What to draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DrawOptions {
    /// Number of classes, 10 to 20: the first ones of [`class_names`].
    pub classes: usize,
    /// Images of each class in `train`.
    pub train_per_class: usize,
    /// Images of each class in `test`.
    pub test_per_class: usize,
    /// Height and width in pixels, 16 to 512.
    pub size: u32,
    /// Another seed gives other images of the same kind.
    pub seed: u64,
}

impl Default for DrawOptions {
    /// 10 classes with 150 training and 100 test images each, 32x32 pixels, seed 1.
    fn default() -> Self {
        DrawOptions { classes: 10, train_per_class: 150, test_per_class: 100, size: DEFAULT_SIZE, seed: 1 }
    }
}

/// What [`draw`] left behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The classes' names, in the order in which a folder of them is read.
    pub classes: Vec<String>,
    /// Images in `train`, all classes together.
    pub train: usize,
    /// Images in `test`, all classes together.
    pub test: usize,
}

/// The names of all classes that can be drawn, in the order of their numbers.
pub fn class_names() -> [&'static str; 20] {
    SHAPES.map(|shape| shape.name)
}

/// Draws one image of [`DEFAULT_SIZE`]; see [`draw_image_sized`].
pub fn draw_image(class: usize, split: &str, index: u64, seed: u64) -> RgbImage {
    draw_image_sized(class, split, index, seed, DEFAULT_SIZE)
}

/// Draws image number `index` of a class in a split, `size` x `size` pixels. Classes are numbered as in [`class_names`], and
/// from the start again after the last.
pub fn draw_image_sized(class: usize, split: &str, index: u64, seed: u64, size: u32) -> RgbImage {
    let shape = scene::shape(class);
    scene::draw(shape, size, &mut rng(seed, &format!("draw {split}/{}", shape.name), index))
}

/// Draws a data set as `<root>/{train,test}/<class>/NNNN.png`, with a record of the options beside the splits.
///
/// Drawing into the same root again with more images or classes adds them; what is there already comes out the same.
///
/// # Errors
/// Usage, when an option is out of range. Data, when the root holds images drawn with another seed, size or version, or images
/// that these options do not give: they would be mixed up. Unexpected, when a file cannot be written.
pub fn draw(root: &Path, options: &DrawOptions, progress: &mut dyn FnMut(Progress)) -> Result<Summary> {
    check(options)?;
    check_root(root, options)?;
    let names = class_names();
    let classes = names.get(..options.classes).unwrap_or(&names);
    for split in SPLITS {
        for class in classes {
            let folder = root.join(split).join(class);
            std::fs::create_dir_all(&folder).map_err(|error| Error::io(&folder, &error))?;
        }
    }
    let record = serde_json::to_string_pretty(&Record { version: VERSION, options: *options }).map_err(Error::unexpected)?;
    write_atomically(&root.join(RECORD), &[record.as_bytes(), b"\n"])?;
    let jobs: Vec<(usize, &str, usize)> = SPLITS
        .into_iter()
        .flat_map(|split| {
            (0..classes.len()).flat_map(move |class| (0..count(options, split)).map(move |index| (class, split, index)))
        })
        .collect();
    const WHAT: &str = "drawing images";
    let total = jobs.len();
    progress(Progress { done: 0, total, what: WHAT });
    let mut done = 0;
    for chunk in jobs.chunks(CHUNK) {
        chunk.par_iter().try_for_each(|(class, split, index)| -> Result<()> {
            let number = u64::try_from(*index).map_err(Error::usage)?;
            let image = draw_image_sized(*class, split, number, options.seed, options.size);
            let path = root.join(split).join(scene::shape(*class).name).join(file_name(*index));
            image.save_with_format(&path, ImageFormat::Png).map_err(|error| Error::unexpected(error).at(path.display()))
        })?;
        done += chunk.len();
        progress(Progress { done, total, what: WHAT });
    }
    let mut sorted: Vec<String> = classes.iter().map(|class| class.to_string()).collect();
    sorted.sort_unstable();
    let all = |split| count(options, split) * classes.len();
    Ok(Summary { classes: sorted, train: all("train"), test: all("test") })
}

#[derive(PartialEq, Serialize, Deserialize)]
struct Record {
    version: u32,
    options: DrawOptions,
}

fn count(options: &DrawOptions, split: &str) -> usize {
    if split == "train" { options.train_per_class } else { options.test_per_class }
}

fn file_name(index: usize) -> String {
    format!("{index:04}.png")
}

fn check(options: &DrawOptions) -> Result<()> {
    if !(10..=SHAPES.len()).contains(&options.classes) {
        return Err(Error::usage(format!("{} classes cannot be drawn, only 10 to {}", options.classes, SHAPES.len())));
    }
    if !(16..=512).contains(&options.size) {
        return Err(Error::usage(format!("images cannot be drawn with {} pixels a side, only 16 to 512", options.size)));
    }
    let most = options.train_per_class.max(options.test_per_class);
    if most > 1_000_000 {
        return Err(Error::usage(format!("{most} images a class are more than the million that can be drawn")));
    }
    Ok(())
}

/// Refuses a root whose images would be mixed up with others.
fn check_root(root: &Path, options: &DrawOptions) -> Result<()> {
    let help = "draw into an empty folder";
    let path = root.join(RECORD);
    let drawn_before = match std::fs::read(&path) {
        Ok(bytes) => {
            let record: Record = serde_json::from_slice(&bytes).map_err(|error| {
                Error::data(format!("is not a record of drawn images: {error}")).at(path.display()).help(help)
            })?;
            let same = |other: &DrawOptions| (other.seed, other.size) == (options.seed, options.size);
            if record.version != VERSION || !same(&record.options) {
                let reason = "its images were drawn with another seed, size or version";
                return Err(Error::data(reason).at(root.display()).help(help));
            }
            true
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(Error::io(&path, &error)),
    };
    for split in SPLITS {
        let folder = root.join(split);
        if !folder.exists() {
            continue;
        }
        for entry in walkdir::WalkDir::new(&folder).min_depth(1) {
            let entry = entry.map_err(|error| Error::unexpected(error).at(folder.display()))?;
            let ours = drawn_before && is_expected(&folder, entry.path(), options, split);
            if !entry.file_type().is_dir() && !ours {
                return Err(Error::data("lies where images are to be drawn, and is not one of them")
                    .at(entry.path().display())
                    .help(help));
            }
        }
    }
    Ok(())
}

fn is_expected(folder: &Path, path: &Path, options: &DrawOptions, split: &str) -> bool {
    let Some((class, file)) = path.strip_prefix(folder).ok().and_then(|path| path.to_str()?.split_once('/')) else {
        return false;
    };
    let index: Option<usize> = file.strip_suffix(".png").and_then(|number| number.parse().ok());
    class_names().iter().take(options.classes).any(|known| *known == class)
        && index.is_some_and(|index| index < count(options, split) && file_name(index) == file)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::error::ErrorKind;

    fn small(train_per_class: usize) -> DrawOptions {
        DrawOptions { train_per_class, test_per_class: 1, ..DrawOptions::default() }
    }

    fn files(root: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
        let entries = walkdir::WalkDir::new(root).into_iter().map(|entry| entry.unwrap());
        let images = entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(".png"));
        let name = |path: &Path| path.strip_prefix(root).unwrap().to_str().unwrap().to_string();
        images.map(|entry| (name(entry.path()), std::fs::read(entry.path()).unwrap())).collect()
    }

    #[test]
    fn an_image_depends_on_all_four_and_nothing_else() {
        let image = draw_image(3, "train", 5, 1);
        assert_eq!(image, draw_image(3, "train", 5, 1));
        assert_eq!(image.dimensions(), (32, 32));
        for other in [
            draw_image(4, "train", 5, 1),
            draw_image(3, "test", 5, 1),
            draw_image(3, "train", 6, 1),
            draw_image(3, "train", 5, 2),
        ] {
            assert_ne!(image, other);
        }
        assert_eq!(draw_image_sized(3, "train", 5, 1, 48).dimensions(), (48, 48));
    }

    #[test]
    fn names_are_distinct_and_a_shape_has_an_inside_and_an_outside() {
        let distinct: std::collections::HashSet<_> = class_names().into_iter().collect();
        assert_eq!(distinct.len(), 20);
        for shape in &SHAPES {
            for variation in [[0.0; 3], [0.5; 3], [0.999; 3]] {
                let grid = (-20..=20).flat_map(|x| (-20..=20).map(move |y| (f64::from(x) / 20.0, f64::from(y) / 20.0)));
                let inside = grid.filter(|point| (shape.distance)(*point, &variation) < 0.0).count();
                assert!((150..1500).contains(&inside), "{} covers {inside} of 1681 points", shape.name);
                assert!((shape.distance)((1.3, 1.3), &variation) > 0.0, "{} leaves its square", shape.name);
            }
        }
    }

    #[test]
    fn a_larger_set_contains_the_smaller_one() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut last = None;
        let summary = draw(one.path(), &small(2), &mut |progress| last = Some(progress)).unwrap();
        assert_eq!((summary.classes.len(), summary.train, summary.test), (10, 20, 10));
        assert_eq!(last.unwrap(), Progress { done: 30, total: 30, what: "drawing images" });
        let before = files(one.path());
        assert_eq!(before.len(), 30);
        assert!(before.contains_key("train/checker/0001.png"));
        let larger = DrawOptions { classes: 12, ..small(3) };
        draw(one.path(), &larger, &mut |_| {}).unwrap();
        draw(two.path(), &larger, &mut |_| {}).unwrap();
        let after = files(one.path());
        assert_eq!(after.len(), 48);
        assert!(before.iter().all(|(name, bytes)| after.get(name) == Some(bytes)));
        assert_eq!(after, files(two.path()));
    }

    #[test]
    fn sets_are_not_mixed_up() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let refusal = |options: &DrawOptions| draw(root, options, &mut |_| {}).unwrap_err();
        std::fs::create_dir_all(root.join("train/disc")).unwrap();
        std::fs::write(root.join("train/disc/0000.png"), "mine").unwrap();
        assert_eq!(refusal(&small(2)).kind(), ErrorKind::Data);
        assert_eq!(std::fs::read(root.join("train/disc/0000.png")).unwrap(), b"mine");
        std::fs::remove_dir_all(root.join("train")).unwrap();
        draw(root, &small(2), &mut |_| {}).unwrap();
        for other in [DrawOptions { seed: 2, ..small(2) }, DrawOptions { size: 16, ..small(2) }, small(1)] {
            assert_eq!(refusal(&other).kind(), ErrorKind::Data);
        }
        for wrong in
            [DrawOptions { classes: 9, ..small(2) }, DrawOptions { classes: 21, ..small(2) }, DrawOptions { size: 8, ..small(2) }]
        {
            assert_eq!(refusal(&wrong).kind(), ErrorKind::Usage);
        }
    }
}
