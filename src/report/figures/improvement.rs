//! Recovery improvement by data set, backbone and method (paper, Figure 3).

use plotters::prelude::*;

use super::Figure;
use super::canvas::{ATTACK, CONTROL, Canvas, Drawn, INK, LIGHT, Mark, Sample, UNLEARNED, draw, points, span};
use crate::error::Result;
use crate::report::Record;
use crate::report::record::method_rank;
use crate::report::tables::distinct;

/// Height of the panel of one data set, in pixels.
const HEIGHT: i32 = 230;

const WIDTH: i32 = 720;

/// Draws `R_I` as bars: a panel a data set, a group a method, a bar a backbone, of records of one variant. `means` and `deviations` are over seeds, the latter drawn as
/// whiskers where there are any. `None` where nothing has an `R_I`.
///
/// # Errors
/// Unexpected, when it cannot be drawn.
pub fn improvement(means: &[Record], deviations: &[Record]) -> Result<Option<Figure>> {
    let full: Vec<&Record> = means.iter().filter(|record| record.r_i.is_some()).collect();
    if full.is_empty() {
        return Ok(None);
    }
    let deviation = |record: &Record| {
        let same = |other: &&Record| {
            (&other.dataset, &other.backbone, &other.method, &other.variant)
                == (&record.dataset, &record.backbone, &record.method, &record.variant)
        };
        deviations.iter().find(same).and_then(|other| other.r_i).unwrap_or(0.0)
    };
    let bars: Vec<(&Record, f64, f64)> =
        full.iter().filter_map(|record| Some((*record, record.r_i?, deviation(record)))).collect();
    let range = span(bars.iter().flat_map(|(_, value, spread)| [value - spread, value + spread]));
    let datasets = distinct(&bars, |(record, ..)| record.dataset.as_str());
    let backbones = distinct(&bars, |(record, ..)| record.backbone.as_str());
    let mut methods = distinct(&bars, |(record, ..)| record.method.as_str());
    methods.sort_by_key(|method| method_rank(method));
    let height = HEIGHT.saturating_mul(i32::try_from(datasets.len()).unwrap_or(i32::MAX)).saturating_add(30);
    let svg = draw((WIDTH.unsigned_abs(), height.unsigned_abs()), "Recovery improvement by method", |canvas| {
        let entries: Vec<(&str, Sample)> =
            backbones.iter().enumerate().map(|(place, name)| (*name, Sample::Box(colour(place).filled()))).collect();
        canvas.legend((60, 10), &entries)?;
        for (place, dataset) in datasets.iter().enumerate() {
            let here: Vec<&(&Record, f64, f64)> = bars.iter().filter(|(record, ..)| record.dataset == *dataset).collect();
            panel(canvas, dataset, &here, (&methods, &backbones), range, 30 + HEIGHT * i32::try_from(place)?)?;
        }
        Ok(())
    })?;
    Ok(Some(Figure {
        name: "improvement".to_string(),
        title: "Recovery improvement".to_string(),
        caption: "R_I = Acc_A - Acc_U in points, by data set, method and backbone, all to the same scale; whiskers are one standard \
                  deviation over seeds. What the attack reaches on a model that has nothing to forget counts as well: see the excess."
            .to_string(),
        svg,
        private: false,
    }))
}

fn colour(place: usize) -> RGBColor {
    [UNLEARNED, ATTACK, CONTROL, LIGHT][place % 4]
}

fn panel(
    canvas: &Canvas,
    dataset: &str,
    bars: &[&(&Record, f64, f64)],
    (methods, backbones): (&[&str], &[&str]),
    range: (f64, f64),
    top: i32,
) -> Drawn {
    let mut chart = canvas.grouped(dataset, methods, range, ((0, top), (WIDTH, HEIGHT)))?;
    let width = 0.8 / backbones.len().max(1) as f64;
    for (group, method) in methods.iter().enumerate() {
        for (place, backbone) in backbones.iter().enumerate() {
            let found = bars.iter().find(|(record, ..)| record.method == *method && record.backbone == *backbone);
            let Some((_, value, spread)) = found else { continue };
            let left = group as f64 + 0.1 + width * place as f64;
            let (from, to) = ((left + 0.05 * width, 0.0), (left + 0.95 * width, *value));
            chart.draw_series([Rectangle::new([from, to], colour(place).filled())])?;
            if *spread > 0.0 {
                let middle = left + 0.5 * width;
                chart
                    .draw_series([PathElement::new([(middle, value - spread), (middle, value + spread)], INK.stroke_width(1))])?;
            }
            let words = format!("{dataset}, {backbone}, {method}: R_I {} points", points(*value));
            let series = format!("{dataset}, {backbone}");
            let mark = Mark { series: &series, at: method, value: *value, words };
            canvas.rectangle(chart.backend_coord(&from), chart.backend_coord(&to), &mark);
        }
    }
    Ok(())
}
