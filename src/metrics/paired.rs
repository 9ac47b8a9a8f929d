//! Two attacks on the same images: how sure a difference between them is.

use rand_distr::{Binomial, Distribution};

use super::recovery;
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
    // A resample draws as many pairs as there are, with replacement. Only three kinds of pairs exist, so their numbers in a resample are
    // multinomial, and drawing these is the same as drawing pair by pair.
    let n = first.len() as u64;
    let (gained, lost) = discordant(first, second);
    let (gained, lost) = (gained as u64, lost as u64);
    let mut chance = rng(seed, "bootstrap", 0);
    let mut draw = |trials: u64, share: f64| Binomial::new(trials, share.clamp(0.0, 1.0)).ok().map(|b| b.sample(&mut chance));
    let mut means = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        let more = draw(n, gained as f64 / n as f64)?;
        let rest = (n - gained).max(1);
        let less = draw(n - more, lost as f64 / rest as f64)?;
        means.push(100.0 * (more as f64 - less as f64) / n as f64);
    }
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

/// Two attacks on the same images.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Images that both were scored on.
    pub images: usize,
    /// Accuracy of the second in percent.
    pub accuracy: f64,
    /// Accuracy of the first in percent.
    pub control: f64,
    /// What the second gets right beyond the first, in points.
    pub difference: f64,
    /// Bounds of its 95 % interval, by [`bootstrap`].
    pub interval: (f64, f64),
    /// Images that only the second gets right.
    pub gained: usize,
    /// Images that only the first gets right.
    pub lost: usize,
    /// See [`mcnemar`].
    pub p: f64,
}

/// Mean difference of comparisons, one a seed, and its 95 % interval by Student's t: what another seed would give, model, split and all.
/// Seeds that agree by chance make no certainty: their variance counts for no less than what the images alone give. `None` for fewer than
/// two.
pub fn over_seeds(seeds: &[Comparison]) -> Option<(f64, (f64, f64))> {
    let n = seeds.len();
    if n < 2 {
        return None;
    }
    let mean = seeds.iter().map(|seed| seed.difference).sum::<f64>() / n as f64;
    let between = seeds.iter().map(|seed| (seed.difference - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
    // Of a mean over images of -1, 0 and 1, in points.
    let within = |seed: &Comparison| {
        let images = seed.images as f64;
        let discordant = (seed.gained + seed.lost) as f64 / images;
        1e4 * (discordant - (seed.difference / 100.0).powi(2)) / images
    };
    let within = seeds.iter().map(within).sum::<f64>() / n as f64;
    let half = quantile(n - 1) * (between.max(within) / n as f64).sqrt();
    Some((mean, (mean - half, mean + half)))
}

/// The 97.5 % quantile of Student's t, by degrees of freedom.
fn quantile(freedom: usize) -> f64 {
    const TABLE: [f64; 10] = [
        12.706_204_736,
        4.302_652_730,
        3.182_446_305,
        2.776_445_105,
        2.570_581_836,
        2.446_911_851,
        2.364_624_252,
        2.306_004_135,
        2.262_157_163,
        2.228_138_852,
    ];
    if let Some(value) = freedom.checked_sub(1).and_then(|index| TABLE.get(index)) {
        return *value;
    }
    // The expansion around the normal quantile (Abramowitz and Stegun 26.7.5).
    let (z, v) = (1.959_963_984_540_054_f64, freedom as f64);
    let first = (z.powi(3) + z) / 4.0;
    let second = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0;
    let third = (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0;
    let fourth = (79.0 * z.powi(9) + 776.0 * z.powi(7) + 1482.0 * z.powi(5) - 1920.0 * z.powi(3) - 945.0 * z) / 92160.0;
    z + first / v + second / v.powi(2) + third / v.powi(3) + fourth / v.powi(4)
}

/// Compares an attack with its control, image by image. `None` without images or where the lists differ in length.
pub fn compare(control: &[bool], own: &[bool]) -> Option<Comparison> {
    let interval = bootstrap(control, own, 0)?;
    let percent = |right: &[bool]| 100.0 * right.iter().filter(|right| **right).count() as f64 / right.len() as f64;
    let (gained, lost) = discordant(control, own);
    let (accuracy, control) = (percent(own), percent(control));
    let difference = recovery::excess(accuracy, control);
    Some(Comparison { images: own.len(), accuracy, control, difference, interval, gained, lost, p: mcnemar(gained, lost) })
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
    fn seeds_are_compared_by_students_t() {
        // scipy.stats.t.interval(0.95, 2, loc=mean, scale=sem) of 1, 2 and 6.
        let of = |difference: f64, images: usize, gained: usize, lost: usize| Comparison {
            images,
            accuracy: 50.0,
            control: 50.0 - difference,
            difference,
            interval: (0.0, 0.0),
            gained,
            lost,
            p: 1.0,
        };
        let (mean, (low, high)) = over_seeds(&[of(1.0, 1000, 10, 0), of(2.0, 1000, 20, 0), of(6.0, 1000, 60, 0)]).unwrap();
        assert!(
            (mean - 3.0).abs() < 1e-12 && (low + 3.572_410_608).abs() < 1e-6 && (high - 9.572_410_608).abs() < 1e-6,
            "{low} {high}"
        );
        // scipy.stats.t.ppf(0.975, ...)
        for (freedom, expected) in [(1, 12.706_204_736), (10, 2.228_138_852), (11, 2.200_985_160), (29, 2.045_229_642)] {
            assert!((quantile(freedom) - expected).abs() < 2e-5, "{freedom}: {}", quantile(freedom));
        }
        // One of eight images in every seed: they do not differ, and are not sure for that.
        let (mean, (low, high)) = over_seeds(&[of(12.5, 8, 1, 0); 3]).unwrap();
        // 1 / 8 - 1 / 64 = 7 / 64 of eight images: 11.693 points a seed, 6.7508 for three, times 4.30265.
        assert!((mean - 12.5).abs() < 1e-12 && (low + 16.546_2).abs() < 1e-3 && (high - 41.546_2).abs() < 1e-3, "{low} {high}");
        assert_eq!(over_seeds(&[of(1.0, 10, 1, 0)]), None);
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
        // Nothing but gains, nothing but losses, nothing at all.
        let (no, yes) = ([false; 7], [true; 7]);
        assert_eq!(bootstrap(&no, &yes, 1), Some((100.0, 100.0)));
        assert_eq!(bootstrap(&yes, &no, 1), Some((-100.0, -100.0)));
        assert_eq!(bootstrap(&yes, &yes, 1), Some((0.0, 0.0)));
        assert_eq!(bootstrap(&[], &[], 1), None);
        assert_eq!(discordant(&[true, true, false, false], &[true, false, true, true]), (2, 1));
    }
}
