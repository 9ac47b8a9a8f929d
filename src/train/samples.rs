//! Where training takes its images and targets from.

use rand_pcg::Pcg64;

use crate::error::{Error, Result};
use crate::tensor::{Device, Kind, Tensor};

/// What the logits of a batch should become.
#[derive(Debug)]
pub enum Targets {
    /// Class indices, int64 `[n]`, each below K.
    Hard(Tensor),
    /// Distributions over the classes, float `[n, K]`; every row sums to one.
    Soft(Tensor),
}

impl Targets {
    /// Hard targets out of class indices.
    ///
    /// # Errors
    /// Data, when an index is not below `classes`. A CUDA device would end the process over it in the middle of training.
    pub fn hard(labels: &[usize], classes: usize, device: Device) -> Result<Targets> {
        if let Some(position) = labels.iter().position(|label| *label >= classes) {
            let label = labels.get(position).copied().unwrap_or_default();
            return Err(Error::data(format!("image {position} has the label {label}, there are {classes} classes")));
        }
        let labels = labels.iter().map(|label| i64::try_from(*label)).collect::<std::result::Result<Vec<_>, _>>();
        Ok(Targets::Hard(Tensor::f_from_slice(&labels.map_err(Error::data)?)?.f_to_device(device)?))
    }

    /// How many images these belong to, n.
    pub fn len(&self) -> usize {
        self.tensor().size().first().and_then(|count| usize::try_from(*count).ok()).unwrap_or(0)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The targets at these positions (int64 `[n]` on the same device).
    ///
    /// # Errors
    /// Unexpected, when a position is out of range.
    pub fn select(&self, indices: &Tensor) -> Result<Targets> {
        Ok(match self {
            Targets::Hard(labels) => Targets::Hard(labels.f_index_select(0, indices)?),
            Targets::Soft(rows) => Targets::Soft(rows.f_index_select(0, indices)?),
        })
    }

    /// The most likely class of each, int64 `[n]`.
    ///
    /// # Errors
    /// Unexpected, when libtorch fails.
    pub fn labels(&self) -> Result<Tensor> {
        Ok(match self {
            Targets::Hard(labels) => labels.shallow_clone(),
            Targets::Soft(rows) => rows.f_argmax(1, false)?,
        })
    }

    /// As distributions `[n, K]`, float32.
    ///
    /// # Errors
    /// Unexpected, when a label is not below `classes`.
    pub fn distributions(&self, classes: usize) -> Result<Tensor> {
        Ok(match self {
            Targets::Hard(labels) => labels.f_one_hot(i64::try_from(classes).map_err(Error::data)?)?.f_to_kind(Kind::Float)?,
            Targets::Soft(rows) => rows.shallow_clone(),
        })
    }

    fn tensor(&self) -> &Tensor {
        match self {
            Targets::Hard(tensor) | Targets::Soft(tensor) => tensor,
        }
    }
}

/// Images that a network can look at.
pub trait Images {
    /// How many there are, N.
    fn len(&self) -> usize;

    /// Where positions are wanted and images come out.
    fn device(&self) -> Device;

    /// Normalised float images `[n, C, H, W]` at these positions (int64 `[n]` on [`device`](Self::device)), as they are:
    /// nothing is left to chance.
    ///
    /// # Errors
    /// Data, when a position is out of range.
    fn images(&self, indices: &Tensor) -> Result<Tensor>;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Images for crate::data::Batches {
    fn len(&self) -> usize {
        crate::data::Batches::len(self)
    }

    fn device(&self) -> Device {
        crate::data::Batches::device(self)
    }

    fn images(&self, indices: &Tensor) -> Result<Tensor> {
        self.batch(indices)
    }
}

/// Resident images with hard labels, augmented while training.
///
/// # Errors
/// Data, when there is not one label for each image, or a label is not in `0..classes`.
pub fn resident<'a>(
    images: &'a crate::data::Batches,
    labels: &[i64],
    classes: usize,
    augment: crate::data::Augment,
) -> Result<impl Samples + 'a> {
    if labels.len() != images.len() {
        return Err(Error::data(format!("there are {} images and {} labels", images.len(), labels.len())));
    }
    let labels = labels.iter().map(|l| usize::try_from(*l)).collect::<std::result::Result<Vec<_>, _>>().map_err(Error::data)?;
    let targets = Targets::hard(&labels, classes, images.device())?;
    Ok(Labelled::new(targets, move |indices: &Tensor, rng: Option<&mut Pcg64>| match rng {
        Some(rng) => images.augmented(indices, &augment, rng),
        None => images.batch(indices),
    }))
}

/// Images that a network can learn from.
pub trait Samples: Images {
    /// The targets of the images at these positions, as they are.
    ///
    /// # Errors
    /// Data, when a position is out of range.
    fn targets(&self, indices: &Tensor) -> Result<Targets>;

    /// One batch to learn from. What chance does to images and targets (crops, mirror images, mixtures of two) comes from
    /// `rng` alone, which starts anew in each epoch, so that work taken up again at an epoch goes on as if never interrupted.
    ///
    /// # Errors
    /// Data, when a position is out of range.
    fn batch(&self, indices: &Tensor, rng: &mut Pcg64) -> Result<(Tensor, Targets)> {
        let _ = rng;
        Ok((self.images(indices)?, self.targets(indices)?))
    }
}

/// A set of images with a target each, whose images a function gives.
pub struct Labelled<F> {
    targets: Targets,
    images: F,
}

impl<F: Fn(&Tensor, Option<&mut Pcg64>) -> Result<Tensor>> Labelled<F> {
    /// `images` gives the normalised images at the positions: augmented by chance where it gets a generator, else as they are.
    /// Out of a resident set of images, for instance:
    ///
    /// ```text
    /// Labelled::new(targets, |indices: &Tensor, rng: Option<&mut Pcg64>| match rng {
    ///     Some(rng) => batches.augmented(indices, &augment, rng),
    ///     None => batches.batch(indices),
    /// })
    /// ```
    pub fn new(targets: Targets, images: F) -> Self {
        Labelled { targets, images }
    }
}

impl<F: Fn(&Tensor, Option<&mut Pcg64>) -> Result<Tensor>> Images for Labelled<F> {
    fn len(&self) -> usize {
        self.targets.len()
    }

    fn device(&self) -> Device {
        self.targets.tensor().device()
    }

    fn images(&self, indices: &Tensor) -> Result<Tensor> {
        (self.images)(indices, None)
    }
}

impl<F: Fn(&Tensor, Option<&mut Pcg64>) -> Result<Tensor>> Samples for Labelled<F> {
    fn targets(&self, indices: &Tensor) -> Result<Targets> {
        self.targets.select(indices)
    }

    fn batch(&self, indices: &Tensor, rng: &mut Pcg64) -> Result<(Tensor, Targets)> {
        Ok(((self.images)(indices, Some(rng))?, self.targets.select(indices)?))
    }
}

/// A set held as one tensor of normalised images, never augmented.
#[derive(Debug)]
pub struct Held {
    images: Tensor,
    targets: Targets,
}

impl Held {
    /// `images` are `[N, C, H, W]`, on the device of the targets.
    ///
    /// # Errors
    /// Data, when there is not one target for each image.
    pub fn new(images: Tensor, targets: Targets) -> Result<Held> {
        let count = images.size().first().copied().unwrap_or(0);
        if usize::try_from(count).ok() != Some(targets.len()) {
            return Err(Error::data(format!("there are {count} images and {} targets", targets.len())));
        }
        Ok(Held { images, targets })
    }
}

impl Images for Held {
    fn len(&self) -> usize {
        self.targets.len()
    }

    fn device(&self) -> Device {
        self.targets.tensor().device()
    }

    fn images(&self, indices: &Tensor) -> Result<Tensor> {
        Ok(self.images.f_index_select(0, indices)?)
    }
}

impl Samples for Held {
    fn targets(&self, indices: &Tensor) -> Result<Targets> {
        self.targets.select(indices)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::error::ErrorKind;
    use crate::tensor::{rng, to_f32s, to_i64s};

    #[test]
    fn labels_that_are_no_class_are_data_errors() {
        let error = Targets::hard(&[0, 3, 1], 3, Device::Cpu).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        assert!(error.to_string().contains("image 1 has the label 3"), "{error}");
        let images = Tensor::f_zeros([2, 1, 1, 1], (Kind::Float, Device::Cpu)).unwrap();
        assert!(Held::new(images, Targets::hard(&[0], 1, Device::Cpu).unwrap()).is_err());
    }

    #[test]
    fn hard_and_soft_targets_say_the_same() {
        let hard = Targets::hard(&[2, 0], 3, Device::Cpu).unwrap();
        let soft = Targets::Soft(hard.distributions(3).unwrap());
        assert_eq!(to_f32s(&soft.distributions(3).unwrap()).unwrap(), [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
        assert_eq!(to_i64s(&soft.labels().unwrap()).unwrap(), [2, 0]);
        let second = Tensor::f_from_slice(&[1i64]).unwrap();
        assert_eq!(to_i64s(&soft.select(&second).unwrap().labels().unwrap()).unwrap(), [0]);
        assert_eq!((hard.len(), soft.len(), soft.is_empty()), (2, 2, false));
    }

    #[test]
    fn only_training_batches_are_left_to_chance() {
        let set = Labelled::new(Targets::hard(&[0, 1], 2, Device::Cpu).unwrap(), |indices: &Tensor, rng: Option<&mut Pcg64>| {
            Ok(indices.f_to_kind(Kind::Float)?.f_add_scalar(if rng.is_some() { 10.0 } else { 0.0 })?)
        });
        let indices = Tensor::f_from_slice(&[1i64, 0]).unwrap();
        assert_eq!(to_f32s(&set.images(&indices).unwrap()).unwrap(), [1.0, 0.0]);
        let (images, targets) = set.batch(&indices, &mut rng(0, "test", 0)).unwrap();
        assert_eq!(to_f32s(&images).unwrap(), [11.0, 10.0]);
        assert_eq!(to_i64s(&targets.labels().unwrap()).unwrap(), [1, 0]);
    }
}
