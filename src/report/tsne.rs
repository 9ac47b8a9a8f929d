//! Where images stand on a map of their features: t-SNE (van der Maaten and Hinton 2008) by Barnes and Hut's tree (van der Maaten 2014), from
//! a seed. The same features and seed give the same map, however many threads there are.

use bhtsne::{Neighbor, tSNE};
use rand_distr::{Distribution, Normal};

use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor, rng, to_f32s, to_i64s};

/// How many neighbours an image has, in effect.
pub const PERPLEXITY: f32 = 30.0;

/// Steps of the descent.
pub const EPOCHS: usize = 1000;

/// How far away a cell of the tree has to be, in its own sizes, to count as one point; the usual trade of accuracy for time.
const THETA: f32 = 0.5;

/// Images whose distances to all others are computed at once.
const AT_ONCE: i64 = 500;

/// The fewest images that a map is made of.
pub const FEWEST: usize = 12;

/// Lays features `[n, d]` out in the plane; `step` is called after each of [`EPOCHS`] steps. `None` for less than [`FEWEST`] images, or
/// features that are not finite or too large to compute with.
///
/// # Errors
/// Unexpected, when libtorch fails.
pub fn embed(features: &Tensor, seed: u64, step: &(dyn Fn() + Sync)) -> Result<Option<Vec<(f64, f64)>>> {
    let count = features.size().first().and_then(|count| usize::try_from(*count).ok()).unwrap_or(0);
    if count < FEWEST || features.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
        return Ok(None);
    }
    // A third of the neighbours that are looked at, as the method has it; few images have few neighbours.
    let perplexity = PERPLEXITY.min((count - 1) as f32 / 4.0);
    let neighbours = neighbours(features, ((3.0 * perplexity) as usize).min(count - 1))?;
    let start = Normal::new(0.0_f32, 1e-4).map_err(Error::unexpected)?;
    let mut random = rng(seed, "map of features", 0);
    let start: Vec<f32> = (0..2 * count).map(|_| start.sample(&mut random)).collect();
    let fit = || {
        // The neighbours stand for the images.
        let images = vec![(); count];
        let mut map: tSNE<f32, ()> = tSNE::new(&images);
        map.perplexity(perplexity).epochs(EPOCHS).initial_embedding(start).epoch_callback(|_, _| step());
        map.barnes_hut_with_neighbors(THETA, &neighbours);
        map.embedding()
    };
    // Sums over threads would depend on who is done first.
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().map_err(Error::unexpected)?;
    let places = alone.install(fit);
    if places.iter().any(|number| !number.is_finite()) {
        return Ok(None);
    }
    Ok(Some(places.chunks_exact(2).map(|place| (f64::from(place[0]), f64::from(place[1]))).collect()))
}

/// The nearest others of every image, the nearest first, by Euclidean distance.
fn neighbours(features: &Tensor, wanted: usize) -> Result<Vec<Vec<Neighbor<f32>>>> {
    let features = features.f_to_kind(Kind::Double)?;
    let count = features.size()[0];
    let number = |count: usize| i64::try_from(count).map_err(Error::unexpected);
    let mut all = Vec::new();
    let mut start = 0;
    while start < count {
        let here = features.f_narrow(0, start, AT_ONCE.min(count - start))?;
        let distances = Tensor::f_cdist(&here, &features, 2.0, None::<i64>)?;
        // Nobody is a neighbour of itself.
        let _ = distances.f_narrow(1, start, here.size()[0])?.f_fill_diagonal_(f64::INFINITY, false)?;
        let (nearest, who) = distances.f_topk(number(wanted)?, -1, false, true)?;
        // How likely a neighbour is depends on differences of squared distances alone. In many dimensions these are small beside the
        // distances, and single precision would lose them.
        let nearest = nearest.f_square()?;
        let nearest = nearest.f_sub(&nearest.f_narrow(1, 0, 1)?)?.f_clamp_min(0.0)?.f_sqrt()?;
        let (nearest, who) = (to_f32s(&nearest)?, to_i64s(&who)?);
        for (distances, who) in nearest.chunks_exact(wanted).zip(who.chunks_exact(wanted)) {
            let row = who.iter().zip(distances).map(|(&index, &distance)| {
                usize::try_from(index).map(|index| Neighbor { index, distance }).map_err(Error::unexpected)
            });
            all.push(row.collect::<Result<Vec<_>>>()?);
        }
        start += AT_ONCE;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::metrics::silhouette;

    /// Three groups of points in ten dimensions, and which each is of.
    fn groups() -> (Tensor, Vec<usize>) {
        let mut random = rng(3, "test", 0);
        let noise = Normal::new(0.0_f32, 1.0).unwrap();
        let classes: Vec<usize> = (0..90).map(|point| point % 3).collect();
        let value = |class: usize, axis: usize| if axis == class { 12.0 } else { 0.0 };
        let values: Vec<f32> = classes
            .iter()
            .flat_map(|&class| (0..10).map(move |axis| value(class, axis)))
            .map(|v| v + noise.sample(&mut random))
            .collect();
        (Tensor::f_from_slice(&values).unwrap().f_reshape([90, 10]).unwrap(), classes)
    }

    #[test]
    fn groups_stay_groups_and_a_seed_gives_one_map() {
        let (features, classes) = groups();
        let steps = AtomicUsize::new(0);
        let step = || {
            steps.fetch_add(1, Ordering::Relaxed);
        };
        let places = embed(&features, 1, &step).unwrap().unwrap();
        assert_eq!(steps.into_inner(), EPOCHS);
        let flat: Vec<f64> = places.iter().flat_map(|place| [place.0, place.1]).collect();
        let map = Tensor::f_from_slice(&flat).unwrap().f_reshape([-1, 2]).unwrap();
        assert!(silhouette::mean(&map, &classes).unwrap().unwrap() > 0.6);
        assert_eq!(embed(&features, 1, &|| {}).unwrap().unwrap(), places);
        assert_ne!(embed(&features, 2, &|| {}).unwrap().unwrap(), places);
    }

    #[test]
    fn neighbours_on_the_map_are_neighbours_in_many_dimensions() {
        // Ten classes far apart in 512 dimensions of noise, where all distances within a class are nearly the same.
        let mut random = rng(5, "test", 0);
        let noise = Normal::new(0.0_f32, 1.0).unwrap();
        let classes: Vec<usize> = (0..1500).map(|point| point % 10).collect();
        let value = |class: usize, axis: usize| if axis % 10 == class { 3.0 } else { 0.0 };
        let values: Vec<f32> = classes
            .iter()
            .flat_map(|&class| (0..512).map(move |axis| value(class, axis)))
            .map(|value| value + noise.sample(&mut random))
            .collect();
        let features = Tensor::f_from_slice(&values).unwrap().f_reshape([1500, 512]).unwrap();
        let places = embed(&features, 1, &|| {}).unwrap().unwrap();
        let flat: Vec<f64> = places.iter().flat_map(|place| [place.0, place.1]).collect();
        let map = Tensor::f_from_slice(&flat).unwrap().f_reshape([-1, 2]).unwrap();
        let near = neighbours(&map, 10).unwrap();
        let same = near.iter().zip(&classes).flat_map(|(row, class)| row.iter().map(|other| classes[other.index] == *class));
        let (same, all) = same.fold((0, 0), |(same, all), one| (same + usize::from(one), all + 1));
        assert!(f64::from(u32::try_from(same).unwrap()) / f64::from(all) > 0.99, "{same} of {all}");
    }

    #[test]
    fn few_images_and_broken_features_have_no_map() {
        let (features, _) = groups();
        let few = i64::try_from(FEWEST).unwrap();
        assert!(embed(&features.f_narrow(0, 0, few - 1).unwrap(), 1, &|| {}).unwrap().is_none());
        assert!(embed(&features.f_narrow(0, 0, few).unwrap(), 1, &|| {}).unwrap().is_some());
        let broken = (&features * f64::NAN).f_add(&features).unwrap();
        assert!(embed(&broken, 1, &|| {}).unwrap().is_none());
        // The same image many times over.
        assert!(embed(&features.f_narrow(0, 0, 1).unwrap().f_expand([40, 10], false).unwrap(), 1, &|| {}).unwrap().is_some());
    }
}
