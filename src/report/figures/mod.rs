//! Figures, one a file, each made from what the folder of an audit or a grid holds.
//!
//! Every figure is an SVG that is whole by itself, readable in grey and by colour-blind people. What can be pointed at carries its value
//! twice: as data attributes (`data-series`, `data-at`, `data-value`, in full precision, as the tables have it), and as a title in words.

mod boxes;
mod canvas;
mod confidence;
mod confusion;
mod course;
mod improvement;
mod map;
mod polygon;
mod raster;
mod sheet;

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files;

pub use boxes::boxes;
pub use confidence::{Sureness, bins, confidence, range};
pub use confusion::{Confusion, confusion};
pub use course::{Course, course};
pub use improvement::improvement;
pub use map::{Map, Point, map};
pub use polygon::{Polygon, polygons};
pub use sheet::{Tile, sheet};

/// A figure that was drawn.
#[derive(Debug, Clone)]
pub struct Figure {
    /// The file's name without its extension.
    pub name: String,
    /// What it shows, in a few words.
    pub title: String,
    /// What a reader needs to read it.
    pub caption: String,
    /// The drawing.
    pub svg: String,
    /// Whether images can be seen in it.
    pub private: bool,
}

/// Removes figures of earlier results: pictures among them may be what nobody wants to keep any more.
fn clear(folder: &Path, figures: &[Figure]) -> Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(|error| Error::io(folder, &error))?,
    };
    for entry in entries {
        let path = entry.map_err(|error| Error::io(folder, &error))?.path();
        let is_figure = path.extension().is_some_and(|extension| extension == "svg" || extension == "png");
        let drawn = figures.iter().any(|figure| path.file_stem().is_some_and(|stem| stem == figure.name.as_str()));
        if is_figure && !drawn {
            std::fs::remove_file(&path).map_err(|error| Error::io(&path, &error))?;
        }
    }
    Ok(())
}

/// Writes figures into a folder of their own, each as SVG and as PNG, and gives the paths.
///
/// # Errors
/// Unexpected, when the folder is not writable or the disk is full.
pub fn write(folder: &Path, figures: &[Figure]) -> Result<Vec<PathBuf>> {
    // Pictures of images must not end up where somebody else's results point to.
    if folder.is_symlink() {
        return Err(Error::data("is a link, through which nothing is written").at(folder.display()).help("remove it"));
    }
    clear(folder, figures)?;
    let mut written = Vec::new();
    for figure in figures {
        let png = raster::png(&figure.svg)?;
        for (extension, bytes) in [("svg", figure.svg.as_bytes()), ("png", png.as_slice())] {
            let path = folder.join(format!("{}.{extension}", figure.name));
            files::write(&path, bytes)?;
            if figure.private {
                files::make_private(&path)?;
            }
            written.push(path);
        }
    }
    Ok(written)
}
