//! How well classes are separated (Rousseeuw 1987).

use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor, on_device, to_f64s};

/// Points whose distances to all others are computed at once.
const AT_ONCE: i64 = 500;

/// Mean silhouette, `-1..=1`, of points `[n, d]` by their classes: `(b - a) / max(a, b)`, where `a` is a point's mean distance to the others of
/// its class and `b` the least mean distance to those of another class. A point that is alone in its class counts as 0. `None` for less than
/// two classes, or for points that are not finite.
///
/// # Errors
/// Data, when the numbers of points and classes differ; Unexpected, when libtorch fails.
pub fn mean(points: &Tensor, classes: &[usize]) -> Result<Option<f64>> {
    let count = points.size().first().copied().unwrap_or(0);
    if usize::try_from(count).ok() != Some(classes.len()) {
        return Err(Error::data(format!("{count} points have {} classes", classes.len())));
    }
    let most = classes.iter().max().map_or(0, |most| most + 1);
    let mut sizes = vec![0_usize; most];
    classes.iter().for_each(|&class| sizes[class] += 1);
    if sizes.iter().filter(|size| **size > 0).count() < 2 {
        return Ok(None);
    }
    let points = points.f_to_kind(Kind::Double)?;
    if points.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
        return Ok(None);
    }
    let labels = classes.iter().map(|&class| i64::try_from(class).map_err(Error::unexpected)).collect::<Result<Vec<i64>>>()?;
    let member = on_device(&labels, points.device())?.f_one_hot(i64::try_from(most).map_err(Error::unexpected)?)?;
    let member = member.f_to_kind(Kind::Double)?;
    let mut total = 0.0;
    let mut start = 0;
    while start < count {
        let here = points.f_narrow(0, start, AT_ONCE.min(count - start))?;
        // Sums of distances to the points of every class.
        let sums = to_f64s(&Tensor::f_cdist(&here, &points, 2.0, None::<i64>)?.f_matmul(&member)?)?;
        for (point, sums) in (usize::try_from(start).map_err(Error::unexpected)?..).zip(sums.chunks_exact(most)) {
            total += silhouette(classes[point], sums, &sizes);
        }
        start += AT_ONCE;
    }
    Ok(Some(total / classes.len() as f64))
}

fn silhouette(own: usize, sums: &[f64], sizes: &[usize]) -> f64 {
    if sizes[own] < 2 {
        return 0.0;
    }
    let a = sums[own] / (sizes[own] - 1) as f64;
    let others = sums.iter().zip(sizes).enumerate().filter(|(class, (_, size))| *class != own && **size > 0);
    let b = others.map(|(_, (sum, size))| sum / *size as f64).fold(f64::INFINITY, f64::min);
    let most = a.max(b);
    if most > 0.0 { (b - a) / most } else { 0.0 }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn it_is_that_of_scikit_learn() {
        let points = |values: &[f64]| Tensor::f_from_slice(values).unwrap().f_reshape([-1, 1]).unwrap();
        let near = |value: Option<f64>, expected: f64| assert!((value.unwrap() - expected).abs() < 1e-12, "{value:?}");
        // sklearn.metrics.silhouette_score([[0], [1], [10], [11]], [0, 0, 1, 1])
        near(mean(&points(&[0.0, 1.0, 10.0, 11.0]), &[0, 0, 1, 1]).unwrap(), 0.899_749_373_433_583_9);
        // By hand: 0 and 2 are next to 1, which is alone in its class; it counts as 0. a = 2 and b = 1 give -1/2, twice.
        near(mean(&points(&[0.0, 2.0, 1.0]), &[0, 0, 3]).unwrap(), -1.0 / 3.0);
        assert_eq!(mean(&points(&[0.0, 1.0]), &[0, 0]).unwrap(), None);
        assert_eq!(mean(&points(&[f64::NAN, 1.0]), &[0, 1]).unwrap(), None);
        assert!(mean(&points(&[0.0]), &[0, 1]).is_err());
    }
}
