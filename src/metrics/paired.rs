//! Two attacks on the same images: how sure a difference between them is.

use rand::Rng;

use crate::tensor::rng;

/// Resamples of a bootstrap.
const RESAMPLES: usize = 2000;

/// Interval at 95 % of the difference of two accuracies on the same images, `second - first`, in points of percent: the percentile
/// bootstrap (Efron and Tibshirani 1993) over images, in pairs. The same seed gives the same interval. `None` without images or where
/// the lists differ in length.
pub fn bootstrap(first: &[bool], second: &[bool], seed: u64) -> Option<(f64, f64)> {
    if first.len() != second.len() || first.is_empty() {
        return None;
    }
    let differences: Vec<i64> = first.iter().zip(second).map(|(a, b)| i64::from(*b) - i64::from(*a)).collect();
    let mut chance = rng(seed, "bootstrap", 0);
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            // The index is below the length.
            let sum: i64 = (0..differences.len()).map(|_| differences[chance.random_range(0..differences.len())]).sum();
            100.0 * sum as f64 / differences.len() as f64
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let at = |share: f64| means.get((share * (RESAMPLES - 1) as f64).round() as usize).copied();
    at(0.025).zip(at(0.975))
}

/// Two-sided p of McNemar's exact test: how likely it is that of the images that only one of two attacks gets right so many belong to one
/// of them, if neither is better. `gained` are those that only the second gets right, `lost` those that only the first does.
pub fn mcnemar(gained: usize, lost: usize) -> f64 {
    let n = gained + lost;
    let least = gained.min(lost);
    // Binomial terms by their logarithms: the numbers themselves overflow.
    let mut term = -(n as f64) * std::f64::consts::LN_2;
    let mut total = term.exp();
    for k in 1..=least {
        term += ((n - k + 1) as f64).ln() - (k as f64).ln();
        total += term.exp();
    }
    (2.0 * total).min(1.0)
}

/// How many images only the second, and only the first, gets right.
pub fn discordant(first: &[bool], second: &[bool]) -> (usize, usize) {
    let count = |a: bool, b: bool| first.iter().zip(second).filter(|(x, y)| **x == a && **y == b).count();
    (count(false, true), count(true, false))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn mcnemar_is_the_binomial_test() {
        // Exact sums of binomial coefficients, as Python's math.comb gives them.
        for (gained, lost, p) in [(0, 0, 1.0), (5, 0, 0.0625), (8, 2, 0.109375), (7, 7, 1.0), (30, 12, 0.007_915_897_334_896_727)]
        {
            assert!((mcnemar(gained, lost) - p).abs() < 1e-12, "{gained} {lost}: {}", mcnemar(gained, lost));
            assert_eq!(mcnemar(gained, lost), mcnemar(lost, gained));
        }
        assert!(mcnemar(3000, 1000) > 0.0 && mcnemar(3000, 1000) < 1e-200);
    }

    #[test]
    fn the_bootstrap_covers_the_difference_and_narrows() {
        let of = |n: usize| {
            let first: Vec<bool> = (0..n).map(|i| i % 10 < 4).collect();
            let second: Vec<bool> = (0..n).map(|i| i % 10 < 6).collect();
            bootstrap(&first, &second, 1).unwrap()
        };
        let (few, many) = (of(50), of(5000));
        assert!(few.0 < 20.0 && few.1 > 20.0 && few.0 > 0.0 && few.1 < 40.0, "{few:?}");
        // The normal approximation: 1.96 * 0.4 / sqrt(n) around 20.
        let half = 196.0 * 0.4 / 5000.0_f64.sqrt();
        assert!((many.0 - 20.0 + half).abs() < 0.25 && (many.1 - 20.0 - half).abs() < 0.25, "{many:?}");
        assert_eq!(of(50), few);
        assert_eq!(bootstrap(&[], &[], 1), None);
        assert_eq!(discordant(&[true, true, false, false], &[true, false, true, true]), (2, 1));
    }
}
