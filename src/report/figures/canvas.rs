//! What all figures are drawn with.

use std::cell::RefCell;
use std::fmt::Write;

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::error::{Error, Result, readable};
use crate::report::csv;

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A part of a sheet: its upper left corner and its size.
pub(super) type Part = ((i32, i32), (i32, i32));

pub(super) type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// What drawing gives, or what the plotting library says.
pub(super) type Drawn<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Paul Tol's high-contrast colours: told apart by the colour-blind, and in grey.
pub(super) const UNLEARNED: RGBColor = RGBColor(0, 68, 136);
pub(super) const ATTACK: RGBColor = RGBColor(221, 170, 51);
pub(super) const CONTROL: RGBColor = RGBColor(187, 85, 102);

/// A fourth beside them.
pub(super) const LIGHT: RGBColor = RGBColor(205, 205, 205);

/// For text, and for lines that lead the eye.
pub(super) const INK: RGBColor = RGBColor(34, 34, 34);
pub(super) const FAINT: RGBColor = RGBColor(200, 200, 200);

/// What a mark stands for.
pub(super) struct Mark<'a> {
    /// Which of the figure's series it belongs to.
    pub series: &'a str,
    /// Where in the series it stands.
    pub at: &'a str,
    /// Its value, as the tables have it.
    pub value: f64,
    /// The same in words.
    pub words: String,
}

/// A sheet that is drawn on, in pixels from its upper left corner.
pub(super) struct Canvas<'a> {
    pub root: Area<'a>,
    overlay: RefCell<String>,
}

/// Draws a figure; `about` says what it shows to who cannot see it.
pub(super) fn draw(size: (u32, u32), about: &str, work: impl FnOnce(&Canvas) -> Drawn) -> Result<String> {
    let mut svg = String::new();
    let overlay = {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let canvas = Canvas { root, overlay: RefCell::default() };
        let failed = |error: &dyn std::fmt::Display| Error::unexpected(format!("a figure cannot be drawn: {error}"));
        canvas.root.fill(&WHITE).map_err(|error| failed(&error))?;
        work(&canvas).map_err(|error| failed(&error))?;
        canvas.root.present().map_err(|error| failed(&error))?;
        canvas.overlay.into_inner()
    };
    let end = svg.rfind("</svg>").ok_or_else(|| Error::unexpected("the plotting library wrote no SVG"))?;
    svg.insert_str(end, &overlay);
    Ok(svg.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{}\" ", escaped(about)), 1))
}

impl<'a> Canvas<'a> {
    /// A part of the sheet.
    pub fn part(&self, (x, y): (i32, i32), (width, height): (i32, i32)) -> Area<'a> {
        self.root.clone().shrink((x, y), (width, height))
    }

    /// Text whose anchor is at a point; `size` in pixels.
    pub fn text(&self, text: &str, at: (i32, i32), size: i32, (across, down): (HPos, VPos)) -> Drawn {
        self.turned(text, at, size, (across, down), FontTransform::None)
    }

    /// The same, turned.
    pub fn turned(&self, text: &str, at: (i32, i32), size: i32, (across, down): (HPos, VPos), turn: FontTransform) -> Drawn {
        let font = ("sans-serif", scaled(size)).into_font().transform(turn);
        let style = TextStyle::from(font).color(&INK).pos(Pos::new(across, down));
        Ok(self.root.draw_text(&readable(text), &style, at)?)
    }

    /// A disc of a mark's value, to be pointed at.
    pub fn disc(&self, (x, y): (i32, i32), radius: i32, mark: &Mark) {
        self.add(&format!("<circle cx=\"{x}\" cy=\"{y}\" r=\"{radius}\""), "circle", mark);
    }

    /// The same as a rectangle between two corners.
    pub fn rectangle(&self, (left, top): (i32, i32), (right, bottom): (i32, i32), mark: &Mark) {
        let (x, y) = (left.min(right), top.min(bottom));
        // What has no area cannot be pointed at.
        let (width, height) = ((right - left).abs().max(3), (bottom - top).abs().max(3));
        self.add(&format!("<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\""), "rect", mark);
    }

    fn add(&self, shape: &str, tag: &str, mark: &Mark) {
        let Mark { series, at, value, words } = mark;
        let value = csv::number(Some(*value));
        // Writing to a String cannot fail.
        let _ = writeln!(
            self.overlay.borrow_mut(),
            "{shape} class=\"mark\" fill=\"#000\" fill-opacity=\"0\" data-series=\"{}\" data-at=\"{}\" data-value=\"{value}\"><title>{}</title></{tag}>",
            escaped(series),
            escaped(at),
            escaped(words),
        );
    }

    /// A picture of the page's own, as PNG.
    pub fn picture(&self, (x, y): (i32, i32), (width, height): (i32, i32), png: &[u8]) {
        use base64::Engine;
        let bytes = base64::engine::general_purpose::STANDARD.encode(png);
        let _ = writeln!(
            self.overlay.borrow_mut(),
            "<image x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" href=\"data:image/png;base64,{bytes}\"/>"
        );
    }

    /// A chart of `R_I` with a place of width 1 for every group, under a title.
    pub fn grouped(&self, title: &str, groups: &[&str], (low, high): (f64, f64), (at, size): Part) -> Drawn<Chart<'a>> {
        let mut chart = ChartBuilder::on(&self.part(at, size))
            .margin(8)
            .margin_top(22)
            .x_label_area_size(24)
            .y_label_area_size(46)
            .build_cartesian_2d(0.0..groups.len() as f64, low..high)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(0)
            .light_line_style(TRANSPARENT)
            .bold_line_style(FAINT)
            .axis_style(INK)
            .y_desc("R_I, points")
            .y_labels(6)
            .y_label_formatter(&|value| format!("{value:.0}"))
            .draw()?;
        self.text(&shortened(title, 60), (at.0 + size.0 / 2, at.1 + 4), 13, (HPos::Center, VPos::Top))?;
        chart.draw_series(LineSeries::new([(0.0, 0.0), (groups.len() as f64, 0.0)], INK.stroke_width(1)))?;
        for (place, group) in groups.iter().enumerate() {
            let (x, y) = chart.backend_coord(&(place as f64 + 0.5, low));
            self.text(&shortened(group, 16), (x, y + 8), 12, (HPos::Center, VPos::Top))?;
        }
        Ok(chart)
    }

    /// A dashed line through points.
    pub fn dashes(&self, points: &[(i32, i32)], style: ShapeStyle) -> Drawn {
        const ON: f64 = 6.0;
        const OFF: f64 = 4.0;
        // How far along a dash and its gap the line is.
        let mut along = 0.0;
        for pair in points.windows(2) {
            let [from, to] = [pair[0], pair[1]].map(|(x, y)| (f64::from(x), f64::from(y)));
            let length = (to.0 - from.0).hypot(to.1 - from.1);
            let mut done = 0.0;
            while done < length {
                let left = if along < ON { ON - along } else { ON + OFF - along };
                let end = (done + left).min(length);
                if along < ON {
                    let at = |part: f64| {
                        let mixed = |a: f64, b: f64| (a + (b - a) * part / length).round() as i32;
                        (mixed(from.0, to.0), mixed(from.1, to.1))
                    };
                    self.root.draw(&PathElement::new([at(done), at(end)], style))?;
                }
                along = (along + end - done) % (ON + OFF);
                done = end;
            }
        }
        Ok(())
    }

    /// Names of series beside samples of how they are drawn, from left to right, from an upper left corner; what finds no room is on the next
    /// line.
    pub fn legend(&self, (left, mut y): (i32, i32), entries: &[(&str, Sample)]) -> Drawn {
        let (width, _) = self.root.dim_in_pixel();
        let mut x = left;
        for (name, sample) in entries {
            let name = shortened(name, 30);
            let step = 45 + 7 * i32::try_from(name.chars().count())?;
            if x > left && x + step - 20 > i32::try_from(width)? {
                (x, y) = (left, y + 16);
            }
            match *sample {
                Sample::Line(style) => self.root.draw(&PathElement::new([(x, y + 6), (x + 20, y + 6)], style))?,
                Sample::Dashes(style) => self.dashes(&[(x, y + 6), (x + 20, y + 6)], style)?,
                Sample::Box(style) => self.root.draw(&Rectangle::new([(x + 6, y), (x + 18, y + 12)], style))?,
            }
            self.text(&name, (x + 25, y + 6), 12, (HPos::Left, VPos::Center))?;
            x += step;
        }
        Ok(())
    }
}

/// How a series is drawn.
#[derive(Clone, Copy)]
pub(super) enum Sample {
    Line(ShapeStyle),
    Dashes(ShapeStyle),
    Box(ShapeStyle),
}

/// The plotting library's size of a font of so many pixels.
pub(super) fn scaled(pixels: i32) -> f64 {
    f64::from(pixels) * 1.24
}

/// Text for an attribute or element of an SVG. Characters that XML has no place for are spelt out.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in readable(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}

/// A name that fits where there is room for so many letters.
pub(super) fn shortened(name: &str, most: usize) -> String {
    if name.chars().count() <= most {
        return name.to_string();
    }
    name.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// Points with a sign, as texts have them.
pub(super) fn points(value: f64) -> String {
    let text = csv::percent(Some(value));
    if text.starts_with('-') { text } else { format!("+{text}") }
}

/// A range of values that axes of figures can share: a little more than all values, and zero.
pub(super) fn span(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) =
        values.filter(|value| value.is_finite()).fold((0.0_f64, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
    let margin = ((high - low) * 0.08).max(1.0);
    (if low < 0.0 { low - margin } else { 0.0 }, high + margin)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_from_files_stay_text() {
        let hostile = "<img src=x onerror=alert(1)>\"'&\u{1}";
        let svg = draw((100, 100), hostile, |canvas| {
            canvas.text(hostile, (10, 10), 12, (HPos::Left, VPos::Top))?;
            canvas.disc((5, 5), 3, &Mark { series: hostile, at: hostile, value: 0.1, words: hostile.to_string() });
            Ok(())
        })
        .unwrap();
        assert!(!svg.contains("<img") && !svg.contains('\u{1}'), "{svg}");
        assert!(svg.contains("data-value=\"0.1\"") && svg.trim_end().ends_with("</svg>"), "{svg}");
    }

    #[test]
    fn a_span_has_room_for_all_and_zero() {
        let (low, high) = span([5.0, 20.0, f64::NAN].into_iter());
        assert!(low == 0.0 && high > 20.0);
        let (low, high) = span([-5.0, -1.0].into_iter());
        assert!(low < -5.0 && high > 0.0);
        let (low, high) = span(std::iter::empty());
        assert!(low == 0.0 && high > 0.0);
    }
}
