//! Membership recovery polygons (paper, Figures 4 and A1): accuracy by forgetting class, before the attack and after it.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::Figure;
use super::canvas::{ATTACK, Canvas, Drawn, FAINT, INK, Mark, Sample, UNLEARNED, draw, shortened};
use crate::error::Result;
use crate::report::{ClassRecord, csv};

/// One attacked model.
pub struct Polygon<'a> {
    /// What stands above it.
    pub title: String,
    /// Its classes, in their order.
    pub classes: &'a [ClassRecord],
}

/// Side of one polygon's square, in pixels: of several, and of one that is alone.
const SIDES: [i32; 2] = [236, 340];

/// Polygons beside each other.
const COLUMNS: usize = 3;

/// Draws polygons of `M_U` and `M_A`, all to the same scale; `None` where no model has three classes, as a polygon needs.
///
/// # Errors
/// Unexpected, when it cannot be drawn.
pub fn polygons(models: &[Polygon]) -> Result<Option<Figure>> {
    let models: Vec<&Polygon> = models.iter().filter(|model| model.classes.len() >= 3).collect();
    if models.is_empty() {
        return Ok(None);
    }
    let columns = models.len().min(COLUMNS);
    let rows = models.len().div_ceil(columns);
    let pixels = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let side = SIDES[usize::from(models.len() == 1)];
    let along = |count: usize| side.unsigned_abs().saturating_mul(pixels(count));
    let size = (along(columns), along(rows).saturating_add(30));
    let svg = draw(size, "Accuracy by forgetting class before and after the attack", |canvas| {
        canvas.legend(
            (10, 8),
            &[
                ("M_U, before the attack", Sample::Dashes(UNLEARNED.stroke_width(3))),
                ("M_A", Sample::Line(ATTACK.stroke_width(3))),
            ],
        )?;
        for (place, model) in models.iter().enumerate() {
            let (column, row) = (i32::try_from(place % columns)?, i32::try_from(place / columns)?);
            one(canvas, model, (column * side, 30 + row * side), side)?;
        }
        Ok(())
    })?;
    Ok(Some(Figure {
        name: "polygons".to_string(),
        title: "Membership recovery polygons".to_string(),
        caption: "Accuracy on the forget images of every forgetting class, from 0 % in the middle to 100 % at the rim. The growth of the \
                  area is A_R_geometric; A_R repeats the first class on a spoke of its own, as the paper does."
            .to_string(),
        svg,
        private: false,
    }))
}

fn one(canvas: &Canvas, model: &Polygon, (left, top): (i32, i32), side: i32) -> Drawn {
    // Names of classes need some room.
    let (around, letters) = if side > 300 { (64, 9) } else { (50, 7) };
    let (centre, radius) = ((left + side / 2, top + side / 2 + 8), f64::from(side) / 2.0 - f64::from(around));
    canvas.text(&shortened(&model.title, 34), (left + side / 2, top + 4), 12, (HPos::Center, VPos::Top))?;
    let count = model.classes.len();
    let at = |class: usize, share: f64| -> (i32, i32) {
        // The first class stands on top, the others follow clockwise.
        let angle = std::f64::consts::TAU * class as f64 / count as f64;
        let along = |centre: i32, part: f64| centre + (radius * share * part).round() as i32;
        (along(centre.0, angle.sin()), along(centre.1, -angle.cos()))
    };
    let ring = |shares: &dyn Fn(usize) -> f64| -> Vec<(i32, i32)> {
        (0..=count).map(|class| at(class % count, shares(class % count))).collect()
    };
    for share in [0.25, 0.5, 0.75, 1.0] {
        canvas.root.draw(&PathElement::new(ring(&|_| share), FAINT))?;
    }
    for (class, record) in model.classes.iter().enumerate() {
        canvas.root.draw(&PathElement::new([centre, at(class, 1.0)], FAINT))?;
        let (x, y) = at(class, 1.12);
        let across = if x < centre.0 - 8 {
            HPos::Right
        } else if x > centre.0 + 8 {
            HPos::Left
        } else {
            HPos::Center
        };
        canvas.text(&shortened(&record.class, letters), (x, y), 11, (across, VPos::Center))?;
    }
    let share = |value: f64| (value / 100.0).clamp(0.0, 1.0);
    let before = ring(&|class| share(model.classes[class].acc_u));
    let after = ring(&|class| share(model.classes[class].acc_a));
    canvas.root.draw(&plotters::element::Polygon::new(after.clone(), ATTACK.mix(0.25)))?;
    canvas.root.draw(&PathElement::new(after, ATTACK.stroke_width(3)))?;
    canvas.dashes(&before, UNLEARNED.stroke_width(3))?;
    canvas.text("100 %", (centre.0 + 3, centre.1 - radius as i32 + 2), 9, (HPos::Left, VPos::Top))?;
    canvas.root.draw(&Circle::new(centre, 2, INK.filled()))?;
    for (class, record) in model.classes.iter().enumerate() {
        for (name, value) in [("M_U", record.acc_u), ("M_A", record.acc_a)] {
            let words =
                format!("{}, {}, {name}: {} % of {} images", model.title, record.class, csv::percent(Some(value)), record.images);
            let series = format!("{}, {name}", model.title);
            canvas.disc(at(class, share(value)), 6, &Mark { series: &series, at: &record.class, value, words });
        }
    }
    Ok(())
}
