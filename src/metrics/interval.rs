//! How sure an accuracy on few images is.

use crate::metrics::accuracy::Tally;

/// The two-sided 95 % quantile of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// Wilson's score interval (Wilson 1927) of an accuracy at 95 %, in percent: `(low, high)`, within `0..=100`.
pub fn wilson(tally: Tally) -> (f64, f64) {
    let n = tally.total as f64;
    if tally.total == 0 {
        return (0.0, 100.0);
    }
    let p = tally.correct as f64 / n;
    let centre = p + Z * Z / (2.0 * n);
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    (100.0 * ((centre - half) / scale).max(0.0), 100.0 * ((centre + half) / scale).min(1.0))
}

/// Interval at 95 % of the difference of two accuracies on the same images, `second - first`, in points of percent, from the counts of
/// images that only one of them got right.
///
/// The paired Wald interval with Agresti and Min's (2005) adjustment: half an image is added to each of the four cells, which
/// keeps its coverage on small samples.
pub fn paired_difference(first: &[bool], second: &[bool]) -> Option<(f64, f64)> {
    if first.len() != second.len() || first.is_empty() {
        return None;
    }
    let gained = first.iter().zip(second).filter(|(a, b)| !**a && **b).count() as f64 + 0.5;
    let lost = first.iter().zip(second).filter(|(a, b)| **a && !**b).count() as f64 + 0.5;
    let n = first.len() as f64 + 2.0;
    let difference = (gained - lost) / n;
    let deviation = ((gained + lost) - (gained - lost).powi(2) / n).sqrt() / n;
    let bound = |v: f64| (100.0 * v).clamp(-100.0, 100.0);
    Some((bound(difference - Z * deviation), bound(difference + Z * deviation)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_matches_the_textbook() {
        // Newcombe 1998, Table I: 81 of 263 gives 0.2553 to 0.3662; 15 of 148 gives 0.0624 to 0.1605.
        for (correct, total, low, high) in [(81, 263, 25.53, 36.62), (15, 148, 6.24, 16.05)] {
            let (l, h) = wilson(Tally { correct, total });
            assert!((l - low).abs() < 0.006 && (h - high).abs() < 0.006, "{l} {h}");
        }
    }

    #[test]
    fn a_paired_difference_is_about_the_images_that_changed() {
        let before: Vec<bool> = (0..100).map(|i| i < 50).collect();
        let after: Vec<bool> = (0..100).map(|i| i < 80).collect();
        let Some((low, high)) = paired_difference(&before, &after) else { panic!("no interval") };
        assert!(low > 15.0 && high < 45.0 && low < 30.0 && high > 28.0, "{low} {high}");
        assert_eq!(paired_difference(&before, &after[..99]), None);
    }
}
