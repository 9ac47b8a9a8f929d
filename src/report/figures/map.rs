//! Maps of features (paper, Figures 5 and A2): what models make of forget and probing images, by t-SNE.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::Figure;
use super::canvas::{Canvas, Drawn, FAINT, Mark, draw, shortened};
use crate::error::Result;

/// One image.
pub struct Point {
    /// Where it stands.
    pub at: (f64, f64),
    /// Its class among the forgetting classes, if it is of one.
    pub class: Option<usize>,
    /// Whether it is a forget image.
    pub forget: bool,
    /// Its name.
    pub name: String,
}

/// The map of one model's features.
pub struct Map {
    /// What stands above it.
    pub title: String,
    /// The images.
    pub points: Vec<Point>,
    /// How well the features and the map separate the forget images' classes, `-1..=1` each.
    pub silhouettes: [Option<f64>; 2],
}

/// Okabe and Ito's colours, told apart by the colour-blind.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
    RGBColor(240, 228, 66),
];

/// Shapes go with colours, so that classes are told apart in grey as well: corners around a point, in its own size; a disc for none.
const SHAPES: [&[(f64, f64)]; 6] = [
    &[],
    &[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    &[(0.0, -1.2), (1.1, 0.8), (-1.1, 0.8)],
    &[(0.0, -1.3), (1.0, 0.0), (0.0, 1.3), (-1.0, 0.0)],
    &[(0.0, 1.2), (1.1, -0.8), (-1.1, -0.8)],
    &[
        (-1.3, -0.4),
        (-0.4, -0.4),
        (-0.4, -1.3),
        (0.4, -1.3),
        (0.4, -0.4),
        (1.3, -0.4),
        (1.3, 0.4),
        (0.4, 0.4),
        (0.4, 1.3),
        (-0.4, 1.3),
        (-0.4, 0.4),
        (-1.3, 0.4),
    ],
];

/// Draws the sign of a class.
fn sign(canvas: &Canvas, class: Option<usize>, (x, y): (i32, i32), size: f64, filled: bool) -> Drawn {
    let colour = class.map_or(RGBColor(160, 160, 160), |class| COLOURS[class % COLOURS.len()]);
    let style: ShapeStyle = if filled { colour.filled() } else { colour.stroke_width(1) };
    let corners = class.map_or(SHAPES[0], |class| SHAPES[class % SHAPES.len()]);
    if corners.is_empty() {
        canvas.root.draw(&Circle::new((x, y), size.round() as i32, style))?;
        return Ok(());
    }
    let at = |corner: &(f64, f64)| (x + (corner.0 * size).round() as i32, y + (corner.1 * size).round() as i32);
    let around: Vec<(i32, i32)> = corners.iter().chain(&corners[..1]).map(at).collect();
    if filled {
        canvas.root.draw(&Polygon::new(around, style))?;
    } else {
        canvas.root.draw(&PathElement::new(around, style))?;
    }
    Ok(())
}

/// Side of a map, in pixels.
const SIDE: i32 = 360;

/// Room for the name of a class, in pixels.
const NAME: i32 = 118;

/// Maps beside each other.
const COLUMNS: usize = 2;

/// Draws maps beside each other; `classes` are the forgetting classes' names, or, where these are not `known`, those of the probing images.
/// `None` for no map.
///
/// # Errors
/// Unexpected, when it cannot be drawn.
pub fn map(maps: &[Map], classes: &[String], known: bool) -> Result<Option<Figure>> {
    if maps.is_empty() {
        return Ok(None);
    }
    let columns = maps.len().min(COLUMNS);
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let a_row = usize::try_from(SIDE / NAME).unwrap_or(1) * columns;
    let legend_rows = i32::try_from(classes.len().div_ceil(a_row)).unwrap_or(i32::MAX).max(1);
    let top = 20_i32.saturating_mul(legend_rows).saturating_add(10);
    let size = (
        SIDE.saturating_mul(number(columns)).unsigned_abs(),
        (SIDE + 30).saturating_mul(number(maps.len().div_ceil(columns))).saturating_add(top).unsigned_abs(),
    );
    let svg = draw(size, "Maps of the features of forget and probing images", |canvas| {
        for (class, name) in classes.iter().enumerate() {
            let (x, y) = (16 + NAME * i32::try_from(class % a_row)?, 14 + 20 * i32::try_from(class / a_row)?);
            sign(canvas, Some(class), (x, y), 5.0, true)?;
            canvas.text(&shortened(name, 14), (x + 12, y), 12, (HPos::Left, VPos::Center))?;
        }
        for (place, map) in maps.iter().enumerate() {
            let (column, row) = (i32::try_from(place % columns)?, i32::try_from(place / columns)?);
            one(canvas, map, classes, (SIDE * column, top + (SIDE + 30) * row))?;
        }
        Ok(())
    })?;
    let said = |map: &Map| {
        let [features, map_of] = map.silhouettes;
        Some(format!("{} {:.3} ({:.3} on the map)", map.title, features?, map_of?))
    };
    let said: Vec<String> = maps.iter().filter_map(said).collect();
    let silhouettes = if said.is_empty() {
        String::new()
    } else {
        format!(" Mean silhouette of the forget images by their true classes, from -1 to 1: {}.", said.join(", "))
    };
    let grey = if known {
        "Images of other classes than the forgetting ones are grey."
    } else {
        "Forget images are grey: their classes are not known."
    };
    Ok(Some(Figure {
        name: "map".to_string(),
        title: "Map of features (t-SNE)".to_string(),
        caption: format!(
            "What the last layer reads of forget images (filled) and probing images (outlined), laid out so that images with like features \
             are neighbours; distances between groups mean nothing. {grey}{silhouettes}"
        ),
        svg,
        private: false,
    }))
}

fn one(canvas: &Canvas, map: &Map, classes: &[String], (left, top): (i32, i32)) -> Drawn {
    canvas.text(&map.title, (left + SIDE / 2, top + 2), 13, (HPos::Center, VPos::Top))?;
    let (inside, from) = (f64::from(SIDE - 30), (left + 15, top + 24));
    canvas.root.draw(&Rectangle::new([(left + 6, top + 20), (left + SIDE - 6, top + SIDE + 4)], FAINT.stroke_width(1)))?;
    let range = |of: fn(&Point) -> f64| {
        let values = map.points.iter().map(of);
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
    };
    let (across, down) = (range(|point| point.at.0), range(|point| point.at.1));
    // One scale for both, so that nothing is stretched.
    let scale = inside / (across.1 - across.0).max(down.1 - down.0).max(f64::MIN_POSITIVE);
    let place = |point: &Point| {
        let along = |value: f64, (low, high): (f64, f64), from: i32| {
            from + ((value - (low + high) / 2.0) * scale + inside / 2.0).round() as i32
        };
        (along(point.at.0, across, from.0), along(point.at.1, down, from.1))
    };
    // Probing images lie below.
    for forget in [false, true] {
        for point in map.points.iter().filter(|point| point.forget == forget) {
            sign(canvas, point.class, place(point), if forget { 3.5 } else { 2.5 }, forget)?;
        }
    }
    for point in map.points.iter().filter(|point| point.forget) {
        let class = point.class.and_then(|class| classes.get(class)).map_or("", String::as_str);
        let words = format!("{}: {} {class}", map.title, point.name);
        canvas.disc(place(point), 3, &Mark { series: &map.title, at: &point.name, value: point.at.0, words });
    }
    Ok(())
}
