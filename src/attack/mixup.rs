//! The training set of one mutual-distillation iteration, mixed up: convex combinations of images and of label distributions
//! (Zhang et al. 2018), one ratio a batch.

use rand::seq::SliceRandom;
use rand_distr::{Beta, Distribution};
use rand_pcg::Pcg64;

use crate::data::{Augment, Batches};
use crate::error::{Error, Result};
use crate::tensor::{Device, Kind, Tensor, on_device};
use crate::train::{Images, Samples, Targets};

/// Images of one resident set with a label distribution each.
pub struct Mixture<'a> {
    images: &'a Batches,
    /// Row in `images` of every sample, i64 `[n]` on the images' device.
    rows: Tensor,
    /// Label distribution of every sample, f32 `[n, K]` on the images' device.
    labels: Tensor,
    alpha: f64,
    augment: Augment,
}

impl<'a> Mixture<'a> {
    /// A set of samples; `alpha` 0 leaves batches as they are.
    ///
    /// # Errors
    /// Unexpected, when rows and labels differ in number.
    pub fn new(images: &'a Batches, rows: &[i64], labels: Tensor, alpha: f64, augment: Augment) -> Result<Mixture<'a>> {
        let count = labels.size().first().copied().unwrap_or(0);
        if i64::try_from(rows.len()) != Ok(count) {
            return Err(Error::unexpected(format!("{} images have {count} label distributions", rows.len())));
        }
        let rows = on_device(rows, labels.device())?;
        Ok(Mixture { images, rows, labels, alpha, augment })
    }
}

impl Images for Mixture<'_> {
    fn len(&self) -> usize {
        usize::try_from(self.rows.size().first().copied().unwrap_or(0)).unwrap_or(0)
    }

    fn device(&self) -> Device {
        self.labels.device()
    }

    fn images(&self, indices: &Tensor) -> Result<Tensor> {
        self.images.batch(&self.rows.f_index_select(0, indices)?)
    }
}

impl Samples for Mixture<'_> {
    fn targets(&self, indices: &Tensor) -> Result<Targets> {
        Ok(Targets::Soft(self.labels.f_index_select(0, indices)?))
    }

    fn batch(&self, indices: &Tensor, rng: &mut Pcg64) -> Result<(Tensor, Targets)> {
        let rows = self.rows.f_index_select(0, indices)?;
        let images = self.images.augmented(&rows, &self.augment, rng)?;
        let labels = self.labels.f_index_select(0, indices)?;
        if self.alpha == 0.0 {
            return Ok((images, Targets::Soft(labels)));
        }
        let ratio = Beta::new(self.alpha, self.alpha).map_err(Error::usage)?.sample(rng);
        let mut partners: Vec<i64> = (0..indices.size().first().copied().unwrap_or(0)).collect();
        partners.shuffle(rng);
        let partners = on_device(&partners, self.labels.device())?;
        Ok((mix(&images, &partners, ratio)?, Targets::Soft(mix(&labels, &partners, ratio)?)))
    }
}

/// `ratio * tensor + (1 - ratio) * tensor[partners]`, over the first axis.
fn mix(tensor: &Tensor, partners: &Tensor, ratio: f64) -> Result<Tensor> {
    Ok(tensor.f_index_select(0, partners)?.f_lerp(tensor, ratio)?)
}

/// Hard labels as distributions, f32 `[n, classes]`.
///
/// # Errors
/// Unexpected, when a label is not in `0..classes`.
pub fn one_hot(labels: &[i64], classes: usize) -> Result<Tensor> {
    let classes = i64::try_from(classes).map_err(Error::unexpected)?;
    Ok(Tensor::f_from_slice(labels)?.f_one_hot(classes)?.f_to_kind(Kind::Float)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tensor::to_f32s;

    #[test]
    fn images_and_labels_are_mixed_alike() {
        let values = Tensor::f_from_slice(&[0.0_f32, 10.0, 20.0]).unwrap();
        let partners = Tensor::f_from_slice(&[2_i64, 0, 1]).unwrap();
        assert_eq!(to_f32s(&mix(&values, &partners, 0.75).unwrap()).unwrap(), [5.0, 7.5, 17.5]);
        let labels = one_hot(&[0, 1, 2], 3).unwrap();
        let mixed = to_f32s(&mix(&labels, &partners, 0.75).unwrap()).unwrap();
        assert_eq!(mixed, [0.75, 0.0, 0.25, 0.25, 0.75, 0.0, 0.0, 0.25, 0.75]);
    }
}
