//! The course of an attack: accuracies and agreement over its iterations.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::Figure;
use super::canvas::{ATTACK, CONTROL, Canvas, Drawn, FAINT, INK, Mark, Sample, UNLEARNED, draw, shortened};
use crate::error::Result;
use crate::report::csv;
use crate::report::read::CourseLine;

/// A series: its name, a line's style, whether it is dashed, and its points.
struct Series {
    name: &'static str,
    style: ShapeStyle,
    dashed: bool,
    points: Vec<(usize, f64)>,
}

/// The course of one attack.
pub struct Course {
    /// What stands above it; nothing above one that is alone.
    pub title: String,
    /// One variant of the attack on the model.
    pub own: Vec<CourseLine>,
    /// The same on the control, if there is one.
    pub control: Vec<CourseLine>,
}

/// Draws accuracies and agreement over the iterations, a panel an attack, all to the same scale; `None` for no attack.
///
/// # Errors
/// Unexpected, when it cannot be drawn.
pub fn course(attacks: &[Course]) -> Result<Option<Figure>> {
    let columns = if attacks.len() == 1 { 1 } else { 2 };
    let (width, height): (i32, i32) = if columns == 1 { (720, 310) } else { (360, 220) };
    let last = attacks.iter().flat_map(|attack| &attack.own).map(|line| line.iteration).max().unwrap_or(0);
    let rows = i32::try_from(attacks.len().div_ceil(columns)).unwrap_or(i32::MAX);
    if attacks.is_empty() {
        return Ok(None);
    }
    let size = (720, height.saturating_mul(rows).saturating_add(30).unsigned_abs());
    let svg = draw(size, "Accuracies over the attack's iterations", |canvas| {
        let mut entries: Vec<(&str, Sample)> = Vec::new();
        for (place, attack) in attacks.iter().enumerate() {
            let series = series(attack);
            for one in &series {
                if !entries.iter().any(|(name, _)| *name == one.name) {
                    entries.push((one.name, if one.dashed { Sample::Dashes(one.style) } else { Sample::Line(one.style) }));
                }
            }
            let (column, row) = (i32::try_from(place % columns)?, i32::try_from(place / columns)?);
            panel(canvas, &attack.title, &series, last, ((column * width, 30 + row * height), (width, height)))?;
        }
        canvas.legend((60, 10), &entries)
    })?;
    Ok(Some(Figure {
        name: "course".to_string(),
        title: "Course of the attack".to_string(),
        caption:
            "Accuracy on the forget images, and the share of them on which both models agree, after every iteration of mutual \
                  distillation; 0 is the state after stage 1."
                .to_string(),
        svg,
        private: false,
    }))
}

fn series(attack: &Course) -> Vec<Series> {
    let of = |lines: &[CourseLine], value: fn(&CourseLine) -> Option<f64>| -> Vec<(usize, f64)> {
        lines.iter().filter_map(|line| Some((line.iteration, value(line)?))).collect()
    };
    let thick = |colour: RGBColor| colour.stroke_width(3);
    let agreement = of(&attack.own, |line| Some(100.0 * line.agreement_rate));
    let mut series = vec![
        Series { name: "Acc_A", style: thick(ATTACK), dashed: false, points: of(&attack.own, |line| line.acc_a) },
        Series { name: "Acc_U", style: thick(UNLEARNED), dashed: false, points: of(&attack.own, |line| line.acc_u) },
        Series {
            name: "Acc_A on the control",
            style: thick(CONTROL),
            dashed: true,
            points: of(&attack.control, |line| line.acc_a),
        },
        Series { name: "agreement", style: INK.stroke_width(1), dashed: true, points: agreement },
    ];
    series.retain(|series| !series.points.is_empty());
    series
}

fn panel(
    canvas: &Canvas,
    title: &str,
    series: &[Series],
    last: usize,
    ((left, top), (width, height)): ((i32, i32), (i32, i32)),
) -> Drawn {
    let area = canvas.part((left, top), (width, height));
    let end = last.max(1) as f64;
    let mut chart = ChartBuilder::on(&area)
        .margin(10)
        .margin_top(if title.is_empty() { 10 } else { 22 })
        .x_label_area_size(34)
        .y_label_area_size(46)
        .build_cartesian_2d(0.0..end, 0.0..100.0_f64)?;
    let whole = |value: &f64| if value.fract().abs() < 1e-9 { format!("{value:.0}") } else { String::new() };
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT)
        .axis_style(INK)
        .x_desc("iteration")
        .y_desc("percent of forget images")
        .x_labels(last.clamp(2, 11))
        .y_labels(6)
        .x_label_formatter(&whole)
        .y_label_formatter(&whole)
        .draw()?;
    canvas.text(&shortened(title, 46), (left + width / 2, top + 4), 12, (HPos::Center, VPos::Top))?;
    for Series { name, style, dashed, points } in series {
        let line: Vec<(f64, f64)> = points.iter().map(|&(iteration, value)| (iteration as f64, value)).collect();
        if *dashed {
            let places: Vec<(i32, i32)> = line.iter().map(|place| chart.backend_coord(place)).collect();
            canvas.dashes(&places, *style)?;
        } else {
            chart.draw_series(LineSeries::new(line.iter().copied(), *style))?;
        }
        for (&(iteration, value), place) in points.iter().zip(&line) {
            let words = format!(
                "{title}{}{name}, iteration {iteration}: {} %",
                if title.is_empty() { "" } else { ": " },
                csv::percent(Some(value))
            );
            let series = if title.is_empty() { (*name).to_string() } else { format!("{title}, {name}") };
            let mark = Mark { series: &series, at: &iteration.to_string(), value, words };
            canvas.disc(chart.backend_coord(place), 5, &mark);
        }
    }
    if last == 0 {
        canvas.text("no iteration was run", (left + width / 2, top + height / 2), 13, (HPos::Center, VPos::Center))?;
    }
    Ok(())
}
