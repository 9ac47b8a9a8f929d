//! Contact sheets: forget images whose class came back, and those whose did not.

use plotters::style::text_anchor::{HPos, VPos};

use super::Figure;
use super::canvas::{Canvas, Drawn, Mark, draw, shortened};
use crate::error::Result;

/// A small picture of one image.
pub struct Tile {
    /// The picture, as PNG.
    pub png: Vec<u8>,
    /// Its width and height, in pixels.
    pub size: (u32, u32),
    /// The image's true class.
    pub class: String,
    /// The image's name.
    pub name: String,
    /// What the models say of it, in words.
    pub words: String,
    /// The attack model's confidence in what it says, `0..=1`.
    pub confidence: f64,
}

/// The side of a picture on the sheet, in pixels.
const SIDE: i32 = 44;

/// Pictures in a row.
const COLUMNS: usize = 14;

/// Room for the names of classes, in pixels.
const NAMES: i32 = 90;

/// Draws pictures, class by class; `of` is how many there are in all, where not all are shown. `None` for none.
///
/// # Errors
/// Unexpected, when it cannot be drawn.
pub fn sheet(name: &str, title: &str, tiles: &[Tile], of: usize) -> Result<Option<Figure>> {
    if tiles.is_empty() {
        return Ok(None);
    }
    // Class by class, in the order in which they come.
    let mut classes: Vec<(&str, Vec<&Tile>)> = Vec::new();
    for tile in tiles {
        match classes.iter_mut().find(|(class, _)| *class == tile.class) {
            Some((_, known)) => known.push(tile),
            None => classes.push((&tile.class, vec![tile])),
        }
    }
    let rows: usize = classes.iter().map(|(_, tiles)| tiles.len().div_ceil(COLUMNS)).sum();
    let step = SIDE + 4;
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let width = NAMES + step * number(COLUMNS) + 10;
    let height = step.saturating_mul(number(rows)).saturating_add(8 * number(classes.len()));
    let svg = draw((width.unsigned_abs(), height.unsigned_abs()), title, |canvas| {
        let mut y = 4;
        for (class, tiles) in &classes {
            canvas.text(&shortened(class, 12), (NAMES - 8, y + SIDE / 2), 12, (HPos::Right, VPos::Center))?;
            for row in tiles.chunks(COLUMNS) {
                for (column, tile) in row.iter().enumerate() {
                    one(canvas, title, tile, (NAMES + step * i32::try_from(column)?, y))?;
                }
                y += step;
            }
            y += 8;
        }
        Ok(())
    })?;
    let shown = if tiles.len() < of { format!(" {} of {of} images are shown.", tiles.len()) } else { String::new() };
    Ok(Some(Figure {
        name: name.to_string(),
        title: title.to_string(),
        caption: format!("Rows are the images' true classes.{shown}"),
        svg,
        private: true,
    }))
}

fn one(canvas: &Canvas, title: &str, tile: &Tile, (x, y): (i32, i32)) -> Drawn {
    // The longer side fills the place.
    let longest = f64::from(tile.size.0.max(tile.size.1).max(1));
    let side = |pixels: u32| ((f64::from(pixels) / longest * f64::from(SIDE)).round() as i32).max(1);
    let (width, height) = (side(tile.size.0), side(tile.size.1));
    canvas.picture((x, y), (width, height), &tile.png);
    let mark = Mark { series: title, at: &tile.name, value: tile.confidence, words: tile.words.clone() };
    canvas.rectangle((x, y), (x + width, y + height), &mark);
    Ok(())
}
