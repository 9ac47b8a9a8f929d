//! One axis of a resized tensor: which input elements each output element is made of.
//!
//! onnx: Resize-19. Outside of the input stands its nearest element, unless `exclude_outside` says otherwise.

use crate::error::{Error, Result};

/// How an output place is turned into an input place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    CropAndResize,
}

/// Which neighbour is the nearest one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nearest {
    RoundPreferFloor,
    RoundPreferCeil,
    Floor,
    Ceil,
    /// Opset 10 and below: the lower one when enlarging, the higher one when shrinking.
    Simple,
}

/// How neighbours are weighed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Filter {
    Nearest(Nearest),
    Linear { antialias: bool },
    Cubic { a: f64, antialias: bool },
}

/// One axis.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    /// The input's size.
    pub input: i64,
    /// The output's size.
    pub output: i64,
    /// Output to input size, before the output's size was rounded.
    pub scale: f64,
    /// Start and end of the region of interest, in parts of the input.
    pub region: (f64, f64),
    /// How neighbours are weighed.
    pub filter: Filter,
    /// How an output place is turned into an input place.
    pub coordinates: Coordinates,
    /// Whether elements outside of the input have no weight.
    pub exclude_outside: bool,
}

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "sizes and places are far below 2^53")]
impl Axis {
    /// Whether the axis stays as it is.
    pub(super) fn is_identity(&self) -> bool {
        self.input == self.output && self.scale == 1.0 && self.region == (0.0, 1.0)
    }

    /// For each output place the input place that it stands for. In single precision, as ONNX Runtime and PyTorch compute it:
    /// which of two equally near neighbours is chosen, and what lies just outside, hang on the last bit.
    pub(super) fn places(&self) -> Vec<f64> {
        let (input, output, scale) = (self.input as f32, self.output as f32, self.scale as f32);
        // The size before it was rounded, which the official cases of align_corners count with.
        let exact = scale * input;
        let (start, end) = (self.region.0 as f32, self.region.1 as f32);
        let place = |at: f32| match self.coordinates {
            Coordinates::HalfPixel => (at + 0.5) / scale - 0.5,
            Coordinates::HalfPixelSymmetric => {
                let offset = input / 2.0 * (1.0 - output / exact);
                offset + (at + 0.5) / scale - 0.5
            }
            Coordinates::PytorchHalfPixel if self.output > 1 => (at + 0.5) / scale - 0.5,
            Coordinates::PytorchHalfPixel => 0.0,
            Coordinates::AlignCorners if exact == 1.0 => 0.0,
            Coordinates::AlignCorners => at * (input - 1.0) / (exact - 1.0),
            Coordinates::Asymmetric => at / scale,
            Coordinates::CropAndResize if self.output > 1 => {
                start * (input - 1.0) + at * (end - start) * (input - 1.0) / (output - 1.0)
            }
            Coordinates::CropAndResize => 0.5 * (start + end) * (input - 1.0),
        };
        (0..self.output).map(|at| f64::from(place(at as f32))).collect()
    }

    /// Which places lie outside of the input and take the extrapolation value; `None` where none does.
    pub(super) fn outside(&self, places: &[f64]) -> Option<Vec<bool>> {
        let last = (self.input - 1) as f64;
        let outside: Vec<bool> = places.iter().map(|place| !(0.0..=last).contains(place)).collect();
        (self.coordinates == Coordinates::CropAndResize && outside.contains(&true)).then_some(outside)
    }

    /// The nearest element for each place.
    pub(super) fn nearest(&self, places: &[f64], nearest: Nearest) -> Vec<i64> {
        let choose = |place: f64| match nearest {
            Nearest::RoundPreferFloor => (place - 0.5).ceil(),
            Nearest::RoundPreferCeil => (place + 0.5).floor(),
            Nearest::Simple if self.scale < 1.0 => place.ceil(),
            Nearest::Floor | Nearest::Simple => place.floor(),
            Nearest::Ceil => place.ceil(),
        };
        places.iter().map(|&place| (choose(place) as i64).clamp(0, self.input - 1)).collect()
    }

    /// The weights `[output, input]`, row by row; each row sums to 1.
    pub(super) fn weights(&self, places: &[f64]) -> Result<Vec<f64>> {
        let width = usize::try_from(self.input).map_err(Error::malformed)?;
        let mut weights = vec![0.0; width.saturating_mul(places.len())];
        for (row, &place) in weights.chunks_exact_mut(width.max(1)).zip(places) {
            let below = place.floor();
            let (reach, stretch) = self.reach();
            let taps = (below as i64 - reach + 1)..=(below as i64 + reach);
            let mut total = 0.0;
            for tap in taps {
                if self.exclude_outside && !(0..self.input).contains(&tap) {
                    continue;
                }
                let weight = self.weight((tap as f64 - place) * stretch);
                total += weight;
                if let Some(slot) = usize::try_from(tap.clamp(0, self.input - 1)).ok().and_then(|tap| row.get_mut(tap)) {
                    *slot += weight;
                }
            }
            if total != 0.0 {
                row.iter_mut().for_each(|weight| *weight /= total);
            }
        }
        Ok(weights)
    }

    /// How many elements on either side count, and by how much distances shrink when the filter is stretched.
    fn reach(&self) -> (i64, f64) {
        let (support, antialias) = match self.filter {
            Filter::Nearest(_) => (1.0, false),
            Filter::Linear { antialias } => (1.0, antialias),
            Filter::Cubic { antialias, .. } => (2.0, antialias),
        };
        let stretch = if antialias { self.scale.min(1.0) } else { 1.0 };
        ((support / stretch).ceil() as i64, stretch)
    }

    fn weight(&self, distance: f64) -> f64 {
        let x = distance.abs();
        match self.filter {
            Filter::Nearest(_) | Filter::Linear { .. } => (1.0 - x).max(0.0),
            Filter::Cubic { a, .. } if x <= 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
            Filter::Cubic { a, .. } if x < 2.0 => ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a,
            Filter::Cubic { .. } => 0.0,
        }
    }
}
