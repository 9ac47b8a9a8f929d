//! [`Batches`]: a whole image set on one device as bytes, turned into normalised float batches there.

use rand::seq::SliceRandom;

use super::adapter::Adapter;
use super::augment::Augment;
use super::store::ImageSet;
use crate::error::{Error, Result};
use crate::tensor::{Device, Kind, Tensor, rng};

/// An image set that lives on a device. Bytes take a quarter of the memory of floats, and copying once is faster than
/// copying every batch.
#[derive(Debug)]
pub struct Batches {
    /// `[N, C, H, W]`, bytes.
    images: Tensor,
    /// `[1, C, 1, 1]`: scale / std.
    factor: Tensor,
    /// `[1, C, 1, 1]`: mean / std.
    offset: Tensor,
    count: i64,
}

impl Batches {
    /// Copies a set to a device, to be normalised as the adapter says.
    ///
    /// # Errors
    /// Data, when the set is empty or its size is not the one that the adapter states. Usage, when the adapter is invalid.
    pub fn new(set: &ImageSet, adapter: &Adapter, device: Device) -> Result<Batches> {
        let input = &adapter.input;
        if set.is_empty() {
            return Err(Error::data("there is no image to make batches of"));
        }
        let stated = [("channels", input.channels), ("height", input.height), ("width", input.width)];
        for ((what, stated), actual) in stated.into_iter().zip([set.channels(), set.height(), set.width()]) {
            if let Some(stated) = stated
                && stated != actual
            {
                return Err(Error::data(format!("the adapter says that images have {what} {stated}, these have {actual}")));
            }
        }
        let (mean, std) = input.normalisation(set.channels())?;
        let per_channel = |numbers: Vec<f32>| -> Result<Tensor> {
            Ok(Tensor::f_from_slice(&numbers)?.f_reshape([1, -1, 1, 1])?.f_to_device(device)?)
        };
        Ok(Batches {
            images: set.images.f_to_device(device)?,
            factor: per_channel(std.iter().map(|std| input.scale / std).collect())?,
            offset: per_channel(mean.iter().zip(&std).map(|(mean, std)| mean / std).collect())?,
            count: i64::try_from(set.len()).map_err(Error::data)?,
        })
    }

    /// These images, then the other set's, normalised alike.
    ///
    /// # Errors
    /// Data, when the sizes differ.
    pub fn join(&self, other: &Batches) -> Result<Batches> {
        if self.images.size().get(1..) != other.images.size().get(1..) {
            return Err(Error::data(format!("images of shape {:?} cannot join {:?}", other.images.size(), self.images.size())));
        }
        Ok(Batches {
            images: Tensor::f_cat(&[&self.images, &other.images], 0)?,
            factor: self.factor.shallow_clone(),
            offset: self.offset.shallow_clone(),
            count: self.count + other.count,
        })
    }

    /// Number of images, N.
    pub fn len(&self) -> usize {
        usize::try_from(self.count).unwrap_or(0)
    }

    /// Never true: a set without images is refused.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Where images lie and batches come out.
    pub fn device(&self) -> Device {
        self.images.device()
    }

    /// Normalised float32 images `[n, C, H, W]` at these positions (int64 `[n]`, on any device).
    ///
    /// # Errors
    /// Data, when positions on the CPU are not from 0 to N - 1. Positions on a CUDA device are not looked at, since that
    /// would make it wait; there, a wrong one ends the process.
    pub fn batch(&self, indices: &Tensor) -> Result<Tensor> {
        self.normalise(&self.bytes(indices)?)
    }

    /// As [`Batches::batch`], with augmentation before normalisation.
    ///
    /// # Errors
    /// As [`Batches::batch`] and [`Augment::apply`].
    pub fn augmented(&self, indices: &Tensor, augment: &Augment, rng: &mut impl rand::Rng) -> Result<Tensor> {
        self.normalise(&augment.apply(&self.bytes(indices)?, rng)?)
    }

    /// Normalised float32 images at positions `start` to `start + len - 1`; fewer at the end of the set.
    ///
    /// # Errors
    /// Data, when `start` is not from 0 to N, or `len` is negative.
    pub fn range(&self, start: i64, len: i64) -> Result<Tensor> {
        if !(0..=self.count).contains(&start) || len < 0 {
            return Err(Error::data(format!("there are no images {start} to {start} + {len} in a set of {}", self.count)));
        }
        self.normalise(&self.images.f_narrow(0, start, len.min(self.count - start))?)
    }

    /// The stored bytes `[n, C, H, W]` at these positions, as [`Augment::apply`] wants them.
    ///
    /// # Errors
    /// As [`Batches::batch`].
    pub fn bytes(&self, indices: &Tensor) -> Result<Tensor> {
        if indices.device() == Device::Cpu && indices.numel() > 0 {
            let least = indices.f_min()?.f_int64_value(&[])?;
            let most = indices.f_max()?.f_int64_value(&[])?;
            if least < 0 || most >= self.count {
                return Err(Error::data(format!(
                    "there is no image {} in a set of {}",
                    if least < 0 { least } else { most },
                    self.count
                )));
            }
        }
        Ok(self.images.f_index_select(0, &indices.f_to_device(self.device())?)?)
    }

    /// Bytes (or floats from 0 to 255) `[n, C, H, W]` on this device as float32 `(byte * scale - mean) / std`.
    ///
    /// # Errors
    /// Unexpected, when the shape or device is another.
    pub fn normalise(&self, bytes: &Tensor) -> Result<Tensor> {
        let mut images = bytes.f_to_kind(Kind::Float)?.f_mul(&self.factor)?;
        Ok(images.f_sub_(&self.offset)?)
    }
}

/// The numbers 0 to n - 1 in an order that depends on the seed, the purpose and the epoch alone.
pub fn order(seed: u64, purpose: &str, epoch: u64, n: usize) -> Vec<i64> {
    let mut positions: Vec<i64> = (0..).take(n).collect();
    positions.shuffle(&mut rng(seed, purpose, epoch));
    positions
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::error::ErrorKind;
    use crate::tensor::to_f32s;

    fn set() -> ImageSet {
        // Two images of three channels and one pixel.
        let images = Tensor::f_from_data_size(&[0, 51, 255, 102, 204, 153], &[2, 3, 1, 1], Kind::Uint8).unwrap();
        ImageSet::new(images, vec![None; 2], vec!["a".into(), "b".into()], vec![], vec![]).unwrap()
    }

    fn close(actual: &Tensor, expected: &[f32]) {
        let actual = to_f32s(actual).unwrap();
        assert_eq!(actual.len(), expected.len());
        assert!(actual.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{actual:?} is not {expected:?}");
    }

    #[test]
    fn normalisation_by_hand() {
        let mut adapter = Adapter::default();
        let batches = Batches::new(&set(), &adapter, Device::Cpu).unwrap();
        let all = Tensor::f_from_slice(&[0i64, 1]).unwrap();
        close(&batches.batch(&all).unwrap(), &[0.0, 0.2, 1.0, 0.4, 0.8, 0.6]);
        adapter.input.mean = vec![0.5, 0.25, 0.2];
        adapter.input.std = vec![0.5, 0.25, 0.1];
        let batches = Batches::new(&set(), &adapter, Device::Cpu).unwrap();
        // (0 - .5) / .5, (.2 - .25) / .25, (1 - .2) / .1; (.4 - .5) / .5, (.8 - .25) / .25, (.6 - .2) / .1
        let expected = [-1.0, -0.2, 8.0, -0.2, 2.2, 4.0];
        close(&batches.batch(&all).unwrap(), &expected);
        close(&batches.batch(&Tensor::f_from_slice(&[1i64]).unwrap()).unwrap(), &expected[3..]);
        close(&batches.range(1, 5).unwrap(), &expected[3..]);
        assert_eq!(batches.range(0, 1).unwrap().size(), [1, 3, 1, 1]);
        assert_eq!(batches.range(0, 1).unwrap().kind(), Kind::Float);
        adapter.input.scale = 1.0;
        adapter.input.mean = vec![1.0];
        adapter.input.std = vec![2.0];
        let batches = Batches::new(&set(), &adapter, Device::Cpu).unwrap();
        close(&batches.range(0, 1).unwrap(), &[-0.5, 25.0, 127.0]);
        let floats = Tensor::f_from_slice(&[0f32, 51.0, 255.0]).unwrap().reshape([1, 3, 1, 1]);
        close(&batches.normalise(&floats).unwrap(), &[-0.5, 25.0, 127.0]);
        close(&floats, &[0.0, 51.0, 255.0]);
        // The stored bytes must survive in-place arithmetic.
        close(&batches.range(0, 1).unwrap(), &[-0.5, 25.0, 127.0]);
    }

    #[test]
    fn wrong_sizes_and_positions_are_data_errors() {
        let mut adapter = Adapter::default();
        let batches = Batches::new(&set(), &adapter, Device::Cpu).unwrap();
        for wrong in [-1i64, 2] {
            let error = batches.batch(&Tensor::f_from_slice(&[wrong]).unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Data);
        }
        assert_eq!(batches.range(3, 1).unwrap_err().kind(), ErrorKind::Data);
        adapter.input.height = Some(2);
        let error = Batches::new(&set(), &adapter, Device::Cpu).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        assert!(error.to_string().contains("height 2"), "{error}");
        assert!(Batches::new(&set().subset(&[]).unwrap(), &Adapter::default(), Device::Cpu).is_err());
    }

    #[test]
    fn an_order_is_a_seeded_permutation() {
        let first = order(1, "training", 0, 100);
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<i64>>());
        assert_eq!(first, order(1, "training", 0, 100));
        for other in [order(2, "training", 0, 100), order(1, "mixup", 0, 100), order(1, "training", 1, 100)] {
            assert_ne!(first, other);
        }
        assert!(order(1, "training", 0, 0).is_empty());
    }
}
