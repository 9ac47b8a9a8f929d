//! Spread of recovery by data set, method and backbone, as box plots (paper, Figures A3, A4 and A5).

use plotters::prelude::*;

use super::Figure;
use super::canvas::{Canvas, Drawn, INK, Mark, UNLEARNED, draw, points, span};
use crate::error::Result;
use crate::report::Record;
use crate::report::record::method_rank;
use crate::report::tables::distinct;

const WIDTH: i32 = 720;

/// Height of one panel, in pixels.
const HEIGHT: i32 = 230;

/// What the values of a group look like: quartiles, the last values within one and a half times the box, and what lies outside of them.
#[derive(Debug, PartialEq)]
struct Summary {
    quartiles: [f64; 3],
    whiskers: [f64; 2],
    outside: Vec<f64>,
}

impl Summary {
    /// Of at least one value.
    fn of(mut values: Vec<f64>) -> Option<Summary> {
        values.sort_by(f64::total_cmp);
        let last = values.len().checked_sub(1)?;
        // Between two values, the quartile lies between them (R's type 7).
        let at = |share: f64| {
            let place = share * last as f64;
            let (below, part) = (place.floor() as usize, place.fract());
            values[below] + part * (values[(below + 1).min(last)] - values[below])
        };
        let quartiles = [at(0.25), at(0.5), at(0.75)];
        let reach = 1.5 * (quartiles[2] - quartiles[0]);
        let (low, high) = (quartiles[0] - reach, quartiles[2] + reach);
        let (inside, outside): (Vec<f64>, Vec<f64>) = values.iter().partition(|value| (low..=high).contains(*value));
        let whiskers = [*inside.first()?, *inside.last()?];
        Some(Summary { quartiles, whiskers, outside })
    }
}

/// A group's name and its values.
type Group<'a> = (&'a str, Vec<f64>);

/// Draws the spread of `R_I` of single classes over everything that shares a data set, a method, or a backbone; `None` where no class has an
/// `R_I`.
///
/// # Errors
/// Unexpected, when it cannot be drawn.
pub fn boxes(records: &[Record]) -> Result<Option<Figure>> {
    let full: Vec<&Record> = records.iter().filter(|record| !record.classes.is_empty()).collect();
    if full.is_empty() {
        return Ok(None);
    }
    let by = |key: fn(&Record) -> &str| -> Vec<Group> {
        let of = |name: &str| {
            let here = full.iter().filter(|record| key(record) == name);
            here.flat_map(|record| &record.classes).map(|class| class.r_i).filter(|value| value.is_finite()).collect()
        };
        distinct(&full, |record| key(record)).into_iter().map(|name| (name, of(name))).collect()
    };
    let mut methods = by(|record| &record.method);
    methods.sort_by(|a, b| method_rank(a.0).cmp(&method_rank(b.0)));
    let panels = [("data set", by(|record| &record.dataset)), ("method", methods), ("backbone", by(|record| &record.backbone))];
    let range = span(full.iter().flat_map(|record| &record.classes).map(|class| class.r_i));
    let height = HEIGHT * 3 + 10;
    let svg = draw((WIDTH.unsigned_abs(), height.unsigned_abs()), "Spread of recovery improvement", |canvas| {
        for (place, (what, groups)) in panels.iter().enumerate() {
            panel(canvas, what, groups, range, HEIGHT * i32::try_from(place)?)?;
        }
        Ok(())
    })?;
    Ok(Some(Figure {
        name: "boxes".to_string(),
        title: "Spread of recovery".to_string(),
        caption: "R_I of single forgetting classes in points, of all seeds. Boxes are quartiles with the median, whiskers reach to the last \
                  value within one and a half times the box, dots lie outside; all to the same scale."
            .to_string(),
        svg,
        private: false,
    }))
}

fn panel(canvas: &Canvas, what: &str, groups: &[Group], range: (f64, f64), top: i32) -> Drawn {
    let names: Vec<&str> = groups.iter().map(|(name, _)| *name).collect();
    let mut chart = canvas.grouped(&format!("by {what}"), &names, range, ((0, top), (WIDTH, HEIGHT)))?;
    for (place, (name, values)) in groups.iter().enumerate() {
        let middle = place as f64 + 0.5;
        let Some(Summary { quartiles: [first, median, third], whiskers: [least, most], outside }) = Summary::of(values.clone())
        else {
            continue;
        };
        let half = 0.28_f64;
        let (left, right) =
            (middle - half.min(0.6 / groups.len() as f64 * 2.0), middle + half.min(0.6 / groups.len() as f64 * 2.0));
        let ink = INK.stroke_width(1);
        for [from, to] in [[least, first], [third, most]] {
            chart.draw_series([PathElement::new([(middle, from), (middle, to)], ink)])?;
        }
        chart.draw_series([Rectangle::new([(left, first), (right, third)], UNLEARNED.mix(0.25).filled())])?;
        chart.draw_series([Rectangle::new([(left, first), (right, third)], ink)])?;
        chart.draw_series([PathElement::new([(left, median), (right, median)], UNLEARNED.stroke_width(3))])?;
        chart.draw_series(outside.iter().map(|value| Circle::new((middle, *value), 2, INK.filled())))?;
        let words = format!(
            "{name}: median {}, quartiles {} and {}, whiskers {} and {} points, over {} values",
            points(median),
            points(first),
            points(third),
            points(least),
            points(most),
            values.len()
        );
        let mark = Mark { series: what, at: name, value: median, words };
        canvas.rectangle(chart.backend_coord(&(left, least)), chart.backend_coord(&(right, most)), &mark);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn quartiles_are_those_of_r_and_numpy() {
        // numpy.percentile([1, 2, 4, 8, 100], [25, 50, 75]) is [2, 4, 8].
        let found = Summary::of(vec![100.0, 1.0, 8.0, 2.0, 4.0]).unwrap();
        assert_eq!(found, Summary { quartiles: [2.0, 4.0, 8.0], whiskers: [1.0, 8.0], outside: vec![100.0] });
        // numpy.percentile([1, 2, 3, 4], [25, 50, 75]) is [1.75, 2.5, 3.25].
        assert_eq!(Summary::of(vec![1.0, 2.0, 3.0, 4.0]).unwrap().quartiles, [1.75, 2.5, 3.25]);
        assert_eq!(Summary::of(Vec::new()), None);
    }
}
