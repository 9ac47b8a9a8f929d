//! Normalised confusion matrices (paper, Figures 6 and A6), the forgetting classes first.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::Figure;
use super::canvas::{Canvas, Drawn, FAINT, INK, Mark, UNLEARNED, draw, scaled, shortened};
use crate::error::Result;
use crate::report::csv;

/// What one model says of the forget images.
pub struct Confusion<'a> {
    /// What stands above it.
    pub title: String,
    /// For every image its class and the class that the model gives.
    pub pairs: Vec<(usize, usize)>,
    /// All classes' names.
    pub classes: &'a [String],
}

/// Room for the names of classes, in pixels.
const NAMES: i32 = 78;

/// A matrix as it is drawn: its rows' classes and its columns' classes, and how many images each cell has.
struct Matrix {
    rows: Vec<usize>,
    columns: Vec<usize>,
    counts: Vec<Vec<usize>>,
}

impl Matrix {
    fn of(pairs: &[(usize, usize)], classes: usize) -> Matrix {
        let rows: Vec<usize> = (0..classes).filter(|class| pairs.iter().any(|(truth, _)| truth == class)).collect();
        let others = (0..classes).filter(|class| !rows.contains(class));
        let columns: Vec<usize> = rows.iter().copied().chain(others).collect();
        let mut counts = vec![vec![0; columns.len()]; rows.len()];
        for (truth, said) in pairs {
            let place = |list: &[usize], class: &usize| list.iter().position(|known| known == class);
            if let (Some(row), Some(column)) = (place(&rows, truth), place(&columns, said)) {
                counts[row][column] += 1;
            }
        }
        Matrix { rows, columns, counts }
    }
}

/// Draws a matrix a model, each row normalised to its class's images; `None` without labelled images.
///
/// # Errors
/// Unexpected, when it cannot be drawn.
pub fn confusion(models: &[Confusion]) -> Result<Option<Figure>> {
    let matrices: Vec<Matrix> = models.iter().map(|model| Matrix::of(&model.pairs, model.classes.len())).collect();
    let rows = matrices.iter().map(|matrix| matrix.rows.len()).max().unwrap_or(0);
    let columns = matrices.iter().map(|matrix| matrix.columns.len()).max().unwrap_or(0);
    if rows == 0 {
        return Ok(None);
    }
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let cell = (280 / number(columns).max(1)).clamp(3, 28);
    let named = columns <= 24;
    // Below a matrix there is room for its columns' names, where they fit.
    let step = cell.saturating_mul(number(rows)).saturating_add(if named { NAMES + 26 } else { 44 });
    let width = (NAMES + 16).saturating_add(cell.saturating_mul(number(columns)));
    let beside = if models.len() > 1 && width <= 380 { 2 } else { 1 };
    let size = (
        width.saturating_mul(number(beside)).max(300).unsigned_abs(),
        step.saturating_mul(number(models.len().div_ceil(beside))).unsigned_abs(),
    );
    let svg = draw(size, "Confusion matrices of the forget images", |canvas| {
        for (place, (model, matrix)) in models.iter().zip(&matrices).enumerate() {
            let (column, row) = (i32::try_from(place % beside)?, i32::try_from(place / beside)?);
            one(canvas, model, matrix, ((width * column, step * row), cell, named))?;
        }
        Ok(())
    })?;
    Ok(Some(Figure {
        name: "confusion".to_string(),
        title: "Confusion matrices".to_string(),
        caption: "Rows are the true classes of the forget images, columns what the model says, the forgetting classes first. Every row adds \
                  up to 100 %."
            .to_string(),
        svg,
        private: false,
    }))
}

fn one(canvas: &Canvas, model: &Confusion, matrix: &Matrix, ((left, top), cell, named): ((i32, i32), i32, bool)) -> Drawn {
    let left = left + NAMES;
    canvas.text(&model.title, (left, top + 6), 13, (HPos::Left, VPos::Top))?;
    let name = |class: usize| model.classes.get(class).map_or("", String::as_str);
    let top = top + 28;
    let (right, bottom) = (left + cell * i32::try_from(matrix.columns.len())?, top + cell * i32::try_from(matrix.rows.len())?);
    for (row, &truth) in matrix.rows.iter().enumerate() {
        let y = top + cell * i32::try_from(row)?;
        if cell >= 11 || row % usize::try_from(12 / cell.max(1) + 1)? == 0 {
            canvas.text(&shortened(name(truth), 11), (left - 5, y + cell / 2), 11, (HPos::Right, VPos::Center))?;
        }
        let images: usize = matrix.counts[row].iter().sum();
        for (column, &said) in matrix.columns.iter().enumerate() {
            let x = left + cell * i32::try_from(column)?;
            let (from, to) = ((x, y), (x + cell, y + cell));
            let share = matrix.counts[row][column] as f64 / images.max(1) as f64;
            if matrix.counts[row][column] == 0 {
                continue;
            }
            canvas.root.draw(&Rectangle::new([from, to], shade(share).filled()))?;
            if cell >= 20 {
                let ink = if share > 0.55 { WHITE } else { INK };
                let style = TextStyle::from(("sans-serif", scaled(10)).into_font()).color(&ink);
                let style = style.pos(Pos::new(HPos::Center, VPos::Center));
                canvas.root.draw_text(&format!("{:.0}", 100.0 * share), &style, (x + cell / 2, y + cell / 2))?;
            }
            let words = format!(
                "{}: of {images} images of {}, {} ({} %) are taken for {}",
                model.title,
                name(truth),
                matrix.counts[row][column],
                csv::percent(Some(100.0 * share)),
                name(said),
            );
            let series = format!("{}, {}", model.title, name(truth));
            canvas.rectangle(from, to, &Mark { series: &series, at: name(said), value: 100.0 * share, words });
        }
    }
    // Lines between cells where cells are large enough, else a frame.
    let every = if cell >= 8 { 1 } else { usize::MAX };
    for row in (0..=matrix.rows.len()).step_by(every.min(matrix.rows.len().max(1))) {
        let y = top + cell * i32::try_from(row)?;
        canvas.root.draw(&PathElement::new([(left, y), (right, y)], FAINT))?;
    }
    for column in (0..=matrix.columns.len()).step_by(every.min(matrix.columns.len().max(1))) {
        let x = left + cell * i32::try_from(column)?;
        canvas.root.draw(&PathElement::new([(x, top), (x, bottom)], FAINT))?;
    }
    // A line behind the forgetting classes.
    let behind = left + cell * i32::try_from(matrix.rows.len())?;
    canvas.root.draw(&PathElement::new([(behind, top), (behind, bottom)], INK.stroke_width(2)))?;
    if named {
        for (column, &said) in matrix.columns.iter().enumerate() {
            let x = left + cell * i32::try_from(column)? + cell / 2;
            canvas.turned(
                &shortened(name(said), 11),
                (x - 4, bottom + 5),
                11,
                (HPos::Right, VPos::Top),
                FontTransform::Rotate270,
            )?;
        }
    }
    Ok(())
}

/// From white to dark blue.
fn shade(share: f64) -> RGBColor {
    let part = share.clamp(0.0, 1.0);
    let mixed = |dark: u8| (255.0 + (f64::from(dark) - 255.0) * part).round() as u8;
    RGBColor(mixed(UNLEARNED.0), mixed(UNLEARNED.1), mixed(UNLEARNED.2))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn forgetting_classes_come_first_and_every_image_is_counted() {
        let matrix = Matrix::of(&[(2, 2), (2, 0), (2, 2), (3, 1)], 4);
        assert_eq!(matrix.rows, [2, 3]);
        assert_eq!(matrix.columns, [2, 3, 0, 1]);
        assert_eq!(matrix.counts, [[2, 0, 1, 0], [0, 0, 0, 1]]);
    }
}
