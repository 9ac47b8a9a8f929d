//! Steps that are given another kernel because no change of their constants carries a larger batch.

use crate::error::Result;
use crate::graph::ops::Call;
use crate::graph::plan::Step;
use crate::tensor::{Tensor, to_i64s};

/// Makes a step repeat some inputs along `axis` to the size of input `like`; equal sizes pass unchanged.
pub(super) fn repeat_inputs(step: &mut Step, repeated: &[usize], like: usize, axis: usize) {
    let repeated = repeated.to_vec();
    let inner = std::mem::replace(&mut step.kernel, Box::new(|_| Ok(Vec::new())));
    step.kernel = Box::new(move |call| {
        let size = call.input(like)?.size().get(axis).copied().unwrap_or(1);
        let mut owned = Vec::with_capacity(repeated.len());
        for &position in &repeated {
            let tensor = call.input(position)?;
            let mut shape = tensor.size();
            shape[axis] = size;
            owned.push(tensor.f_narrow(i64::try_from(axis).unwrap_or(0), 0, 1)?.f_expand(shape.as_slice(), false)?);
        }
        let mut inputs = call.inputs.to_vec();
        for (&position, tensor) in repeated.iter().zip(&owned) {
            inputs[position] = Some(tensor);
        }
        inner(&Call { inputs: &inputs, mode: call.mode })
    });
}

/// How a strided view of a whole batch reads each image. PyTorch's exporter writes `as_strided` as a `Gather` of numbered
/// elements out of the flattened batch.
pub(super) struct PerImage {
    /// Numbers of one image.
    pub stride: i64,
    /// Shape of what is read of one image.
    pub shape: Vec<i64>,
    /// Which of its numbers are read, in `0..stride`.
    pub indices: Vec<i64>,
}

impl PerImage {
    /// Takes apart indices `[batch, ...]` into a batch of `elements` numbers; `None` unless every image is read alike, and none
    /// reads another's numbers.
    pub fn of(index: &Tensor, elements: i64, batch: i64) -> Result<Option<PerImage>> {
        let shape = index.size();
        if shape.first() != Some(&batch) || elements % batch != 0 {
            return Ok(None);
        }
        let (stride, all) = (elements / batch, to_i64s(index)?);
        let each = all.len() / usize::try_from(batch).unwrap_or(1).max(1);
        if each == 0 {
            return Ok(None);
        }
        let first = &all[..each];
        let inside = first.iter().all(|i| (0..stride).contains(i));
        let alike = (0..).zip(all.chunks(each)).all(|(image, part)| {
            let start: i64 = image * stride;
            part.iter().zip(first).all(|(now, then)| *now == start + *then)
        });
        Ok((inside && alike).then(|| PerImage { stride, shape: shape[1..].to_vec(), indices: first.to_vec() }))
    }

    /// The indices as a tensor of one image's shape.
    pub fn tensor(&self) -> Result<Tensor> {
        Ok(Tensor::f_from_slice(&self.indices)?.f_reshape(self.shape.as_slice())?)
    }
}

/// Makes a `Gather` read each image by itself. Its second input has to be [`PerImage::tensor`].
pub(super) fn gather_per_image(step: &mut Step, stride: i64) {
    step.kernel = Box::new(move |call| {
        let (x, index) = (call.input(0)?, call.input(1)?);
        let images = x.f_reshape([-1, stride])?;
        let flat = index.f_reshape([-1])?.f_to_device(images.device())?;
        let mut shape = vec![-1];
        shape.extend(index.size());
        Ok(vec![images.f_index_select(1, &flat)?.f_reshape(shape.as_slice())?])
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(indices: &[i64], shape: &[i64], elements: i64, batch: i64) -> Option<(i64, Vec<i64>, Vec<i64>)> {
        let index = Tensor::f_from_slice(indices).unwrap().f_reshape(shape).unwrap();
        PerImage::of(&index, elements, batch).unwrap().map(|found| (found.stride, found.shape, found.indices))
    }

    #[test]
    fn a_view_that_reads_every_image_alike_is_taken_apart() {
        assert_eq!(of(&[2, 0], &[1, 2], 3, 1), Some((3, vec![2], vec![2, 0])));
        assert_eq!(of(&[0, 2, 3, 5], &[2, 2, 1], 6, 2), Some((3, vec![2, 1], vec![0, 2])));
    }

    #[test]
    fn a_view_across_images_is_left_alone() {
        // Another image's numbers, images read differently, indices from the end, no dimension for the batch.
        for (indices, shape, batch) in [
            (&[0, 3, 3, 0], vec![2, 2], 2),
            (&[0, 1, 4, 5], vec![2, 2], 2),
            (&[0, -1, 3, 2], vec![2, 2], 2),
            (&[0, 1, 2, 3], vec![4], 2),
        ] {
            assert_eq!(of(indices, &shape, 6, batch), None);
        }
        assert_eq!(of(&[], &[1, 0], 6, 1), None);
    }
}
