//! Patches back into images.

use super::operands::elements;
use super::window::Window;
use super::{Kernel, Node, Op, one};
use crate::error::{Error, Result};
use crate::tensor::{Device, Kind, Tensor};

/// The rows of this family.
pub const OPS: &[Op] = &[Op::new("Col2Im", 18, 3, col_to_image).at_least(3).gradients(&[0])];

/// onnx: Col2Im-18. Columns `[N, C * block, L]` are added up where they came from, in images `[N, C, image_shape...]`.
fn col_to_image(node: &Node<'_>) -> Result<Kernel> {
    let window = Window::of(node)?;
    one(move |call| {
        let (x, image, block) = (call.input(0)?, call.ints(1)?, call.ints(2)?);
        let geometry = window.over(&image, &block)?;
        let outputs = geometry.outputs(&image, false)?;
        let padded: Vec<i64> =
            image.iter().zip(&geometry.begin).zip(&geometry.end).map(|((size, begin), end)| size + begin + end).collect();
        let (places, columns) = (elements(&block)?, elements(&outputs)?);
        let channels = match *x.size().as_slice() {
            [_, rows, length] if rows % places == 0 && length == columns => rows / places,
            ref shape => {
                let reason = format!("columns of shape {shape:?} where {columns} blocks of {block:?} make images of {image:?}");
                return Err(Error::malformed(reason));
            }
        };
        let images = x.size()[0];
        let positions = elements(&padded)?;
        elements(&[images, channels, positions])?;

        // Where each number of each block lies in a padded image whose axes are laid out one behind another.
        let rank = block.len();
        let along = |axis: usize, count: i64, step: i64| -> Result<Tensor> {
            let mut shape = vec![1; 2 * rank];
            shape[axis] = count;
            Ok(Tensor::f_arange(count, (Kind::Int64, Device::Cpu))?.f_mul_scalar(step)?.f_reshape(shape)?)
        };
        let mut index = Tensor::f_zeros(vec![1; 2 * rank], (Kind::Int64, Device::Cpu))?;
        for axis in 0..rank {
            let place = along(axis, block[axis], geometry.dilations[axis])?;
            let start = along(rank + axis, outputs[axis], geometry.strides[axis])?;
            index = index.f_mul_scalar(padded[axis])?.f_add(&place)?.f_add(&start)?;
        }
        let index = index.f_flatten(0, -1)?.f_to_device(x.device())?;
        let columns = x.f_reshape([images, channels, -1])?;
        let sums = columns.f_new_zeros([images, channels, positions], (columns.f_kind()?, x.device()))?;
        let mut result = sums.f_index_add(2, &index, &columns)?.f_reshape([&[images, channels], padded.as_slice()].concat())?;
        for (axis, (&begin, &size)) in (2..).zip(geometry.begin.iter().zip(&image)) {
            result = result.f_narrow(axis, begin, size)?;
        }
        Ok(result)
    })
}
