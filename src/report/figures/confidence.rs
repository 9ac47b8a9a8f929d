//! Recovery against confidence: of the images of which a model is so sure, how many it gets right.

use plotters::prelude::*;

use super::Figure;
use super::canvas::{ATTACK, Canvas, Drawn, FAINT, INK, Mark, Sample, UNLEARNED, draw};
use crate::error::Result;
use crate::report::csv;

/// Parts of the range of confidences.
const BINS: usize = 10;

/// One model: its name, and for every labelled image its confidence (`0..=1`) and whether it is right.
pub type Sureness = (&'static str, Vec<(f64, bool)>);

/// Images and right ones of one part of the range.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bin {
    /// Images of which a model is so sure.
    pub images: usize,
    /// Those that it gets right.
    pub right: usize,
}

impl Bin {
    /// Right ones in percent; empty without images.
    pub fn percent(self) -> Option<f64> {
        (self.images > 0).then(|| 100.0 * self.right as f64 / self.images as f64)
    }
}

/// What a part of the range is called.
pub fn range(place: usize) -> String {
    format!("{:.1} to {:.1}", place as f64 / BINS as f64, (place + 1) as f64 / BINS as f64)
}

/// The ten parts of the range, of images with their confidence (`0..=1`) and whether a model is right.
pub fn bins(images: &[(f64, bool)]) -> [Bin; BINS] {
    let mut bins = [Bin::default(); BINS];
    for (confidence, right) in images {
        let place = ((confidence * BINS as f64) as usize).min(BINS - 1);
        bins[place].images += 1;
        bins[place].right += usize::from(*right);
    }
    bins
}

/// Draws the share of right answers over confidence, of the unlearned model before the attack and the attack model; `None` without labelled
/// images.
///
/// # Errors
/// Unexpected, when it cannot be drawn.
pub fn confidence(models: [Sureness; 2]) -> Result<Option<Figure>> {
    if models.iter().all(|(_, images)| images.is_empty()) {
        return Ok(None);
    }
    let svg = draw((720, 340), "Share of right answers by confidence", |canvas| drawn(canvas, &models))?;
    Ok(Some(Figure {
        name: "confidence".to_string(),
        title: "Recovery against confidence".to_string(),
        caption: "Of the forget images that a model is so sure of, how many it gets right. On the thin line a model is right as often as it \
                  says; the larger a disc, the more images it stands for."
            .to_string(),
        svg,
        private: false,
    }))
}

fn drawn(canvas: &Canvas, models: &[Sureness; 2]) -> Drawn {
    let styles = [UNLEARNED, ATTACK];
    let entries: Vec<(&str, Sample)> =
        models.iter().zip(styles).map(|((name, _), colour)| (*name, Sample::Line(colour.stroke_width(3)))).collect();
    canvas.legend((60, 10), &entries)?;
    let area = canvas.part((0, 30), (720, 310));
    let mut chart = ChartBuilder::on(&area)
        .margin(10)
        .x_label_area_size(34)
        .y_label_area_size(46)
        .build_cartesian_2d(0.0..1.0_f64, 0.0..100.0_f64)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT)
        .axis_style(INK)
        .x_desc("confidence")
        .y_desc("percent right")
        .x_labels(11)
        .y_labels(6)
        .x_label_formatter(&|value| format!("{value:.1}"))
        .y_label_formatter(&|value| format!("{value:.0}"))
        .draw()?;
    chart.draw_series(LineSeries::new([(0.0, 0.0), (1.0, 100.0)], INK.stroke_width(1)))?;
    for ((name, images), colour) in models.iter().zip(styles) {
        let found: Vec<(usize, Bin)> = bins(images).into_iter().enumerate().filter(|(_, bin)| bin.images > 0).collect();
        let place = |place: usize, bin: Bin| ((place as f64 + 0.5) / BINS as f64, bin.percent().unwrap_or(0.0));
        chart.draw_series(LineSeries::new(found.iter().map(|&(at, bin)| place(at, bin)), colour.stroke_width(2)))?;
        for (at, bin) in found {
            let (x, y) = place(at, bin);
            let radius = 3 + (9.0 * (bin.images as f64 / images.len() as f64).sqrt()).round() as i32;
            chart.draw_series([Circle::new((x, y), radius, colour.filled())])?;
            let range = range(at);
            let words =
                format!("{name}, confidence {range}: {} of {} images right ({} %)", bin.right, bin.images, csv::percent(Some(y)));
            canvas.disc(chart.backend_coord(&(x, y)), radius.max(5), &Mark { series: name, at: &range, value: y, words });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_is_in_one_bin() {
        let bins = bins(&[(0.0, true), (0.05, false), (0.95, true), (1.0, true)]);
        assert_eq!((bins[0].images, bins[0].right), (2, 1));
        assert_eq!((bins[9].images, bins[9].right), (2, 2));
    }
}
