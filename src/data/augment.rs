//! Random crops and mirror images, made on the device for a whole batch at once.

use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor, on_device};

/// What happens to every training image before normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augment {
    /// Black pixels put around an image, out of which an image of the old size is cut at random. 0 to 1024; 0 leaves it whole.
    pub crop_padding: i64,
    /// Whether half of the images, by chance, are mirrored left to right.
    pub flip: bool,
}

impl Default for Augment {
    fn default() -> Self {
        Augment { crop_padding: 4, flip: true }
    }
}

impl Augment {
    /// Leaves images as they are.
    pub const NONE: Augment = Augment { crop_padding: 0, flip: false };

    /// Crops and mirrors each of the images `[n, C, H, W]` (bytes or floats, on any device) by its own chance; shape, kind and
    /// device stay. Apply it to bytes: then what a crop brings in from outside is black, also after normalisation.
    ///
    /// Three numbers are drawn for each image whatever the settings are, so that one setting does not shift another's chances.
    ///
    /// # Errors
    /// Usage, when the padding is out of range; unexpected, when `images` has another number of dimensions.
    pub fn apply(&self, images: &Tensor, rng: &mut impl Rng) -> Result<Tensor> {
        let padding = self.crop_padding;
        if !(0..=1024).contains(&padding) {
            return Err(Error::usage(format!("a crop padding of {padding} pixels is not from 0 to 1024")));
        }
        let (count, channels, height, width) = images.size4()?;
        let mut tops = Vec::new();
        let mut lefts = Vec::new();
        let mut mirrored = Vec::new();
        for _ in 0..count {
            tops.push(rng.random_range(0..=2 * padding));
            lefts.push(rng.random_range(0..=2 * padding));
            mirrored.push(rng.random_bool(0.5) && self.flip);
        }
        if *self == Augment::NONE {
            return Ok(images.shallow_clone());
        }
        let device = images.device();
        let column = |values: &[i64]| -> Result<Tensor> { Ok(on_device(values, device)?.f_reshape([-1, 1])?) };
        let count_up = |end: i64| Tensor::f_arange(end, (Kind::Int64, device));
        // A mirrored image reads its columns backwards: column j comes from W - 1 - j.
        let starts: Vec<i64> =
            lefts.iter().zip(&mirrored).map(|(left, mirrored)| if *mirrored { left + width - 1 } else { *left }).collect();
        let steps: Vec<i64> = mirrored.iter().map(|mirrored| if *mirrored { -1 } else { 1 }).collect();
        let rows = column(&tops)?.f_add(&count_up(height)?)?.f_reshape([count, 1, height, 1])?;
        let columns = column(&steps)?.f_mul(&count_up(width)?)?.f_add(&column(&starts)?)?.f_reshape([count, 1, 1, width])?;
        let which = count_up(count)?.f_reshape([count, 1, 1, 1])?;
        let channel = count_up(channels)?.f_reshape([1, channels, 1, 1])?;
        let padded = images.f_constant_pad_nd([padding; 4])?;
        Ok(padded.f_index(&[Some(which), Some(channel), Some(rows), Some(columns)])?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::tensor::{Device, rng, to_i64s};

    const SIDE: i64 = 6;

    /// Every pixel of every image and channel holds another number above 0.
    fn images(count: i64) -> Tensor {
        let options = (Kind::Int64, Device::Cpu);
        Tensor::f_arange(count * 2 * SIDE * SIDE, options)
            .unwrap()
            .f_reshape([count, 2, SIDE, SIDE])
            .unwrap()
            .f_add_scalar(1)
            .unwrap()
    }

    /// The image cut out at every offset of the zero-padded original, plain or mirrored, that equals `result`.
    fn explanations(original: &[i64], result: &[i64], padding: i64) -> Vec<(i64, i64, bool)> {
        let at = |channel: i64, y: i64, x: i64| {
            let inside = (0..SIDE).contains(&y) && (0..SIDE).contains(&x);
            if inside { original[usize::try_from((channel * SIDE + y) * SIDE + x).unwrap()] } else { 0 }
        };
        let mut found = Vec::new();
        for (dy, dx, mirrored) in (-padding..=padding)
            .flat_map(|dy| (-padding..=padding).flat_map(move |dx| [false, true].map(|mirrored| (dy, dx, mirrored))))
        {
            let column = |x: i64| dx + if mirrored { SIDE - 1 - x } else { x };
            let cut = (0..2).flat_map(|c| (0..SIDE).flat_map(move |y| (0..SIDE).map(move |x| (c, y, x))));
            if cut.zip(result).all(|((c, y, x), value)| at(c, y + dy, column(x)) == *value) {
                found.push((dy, dx, mirrored));
            }
        }
        found
    }

    #[test]
    fn every_image_is_one_crop_of_itself() {
        let images = images(200);
        let result = Augment { crop_padding: 2, flip: true }.apply(&images, &mut rng(1, "test", 0)).unwrap();
        assert_eq!(result.size(), images.size());
        let (before, after) = (to_i64s(&images).unwrap(), to_i64s(&result).unwrap());
        let size = usize::try_from(2 * SIDE * SIDE).unwrap();
        let mut seen = std::collections::HashSet::new();
        for (before, after) in before.chunks(size).zip(after.chunks(size)) {
            let found = explanations(before, after, 2);
            assert_eq!(found.len(), 1);
            seen.extend(found);
        }
        // 200 draws of 50 possibilities: nearly all of them must come up, the extreme offsets included.
        assert!(seen.len() > 40, "{}", seen.len());
        for extreme in [-2, 2] {
            assert!(seen.iter().any(|(dy, _, _)| *dy == extreme) && seen.iter().any(|(_, dx, _)| *dx == extreme));
        }
    }

    #[test]
    fn flips_alone_mirror_about_half() {
        let images = images(100);
        let result = Augment { crop_padding: 0, flip: true }.apply(&images, &mut rng(2, "test", 0)).unwrap();
        let mirror = images.f_flip([3]).unwrap();
        let mut mirrored = 0;
        for index in 0..100 {
            let one = result.get(index);
            if one == mirror.get(index) {
                mirrored += 1;
            } else {
                assert_eq!(one, images.get(index));
            }
        }
        assert!((30..=70).contains(&mirrored), "{mirrored}");
    }

    #[test]
    fn crops_alone_never_mirror() {
        let images = images(50);
        let result = Augment { crop_padding: 1, flip: false }.apply(&images, &mut rng(3, "test", 0)).unwrap();
        let size = usize::try_from(2 * SIDE * SIDE).unwrap();
        for (before, after) in to_i64s(&images).unwrap().chunks(size).zip(to_i64s(&result).unwrap().chunks(size)) {
            assert!(explanations(before, after, 1).iter().all(|(_, _, mirrored)| !mirrored));
        }
    }

    #[test]
    fn same_seed_same_result_and_kind_stays() {
        for kind in [Kind::Uint8, Kind::Float] {
            let images = images(4).f_to_kind(kind).unwrap();
            let augmented = |seed| Augment::default().apply(&images, &mut rng(seed, "test", 0)).unwrap();
            assert_eq!(augmented(1), augmented(1));
            assert_ne!(augmented(1), augmented(2));
            assert_eq!(augmented(1).kind(), kind);
        }
        let images = images(4);
        assert_eq!(Augment::NONE.apply(&images, &mut rng(1, "test", 0)).unwrap(), images);
        assert!(Augment { crop_padding: -1, flip: false }.apply(&images, &mut rng(1, "test", 0)).is_err());
    }
}
