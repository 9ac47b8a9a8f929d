//! Sampling grids of spatial transformers.

use super::operands::{elements, pair};
use super::{Kernel, Node, Op, one};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("GridSample", 16, 2, grid_sample).at_least(2).gradients(&[0, 1]),
    Op::new("AffineGrid", 20, 2, affine_grid).at_least(2),
];

fn grid_sample(node: &Node<'_>) -> Result<Kernel> {
    let mode = match node.text_or("mode", if node.opset >= 20 { "linear" } else { "bilinear" })?.as_str() {
        "bilinear" | "linear" => 0,
        "nearest" => 1,
        "bicubic" | "cubic" => 2,
        other => return node.unsupported(format!("mode '{other}'")),
    };
    let padding = match node.text_or("padding_mode", "zeros")?.as_str() {
        "zeros" => 0,
        "border" => 1,
        "reflection" => 2,
        other => return node.unsupported(format!("padding_mode '{other}'")),
    };
    let corners = node.flag("align_corners")?;
    one(move |call| {
        let (x, grid) = pair(call)?;
        if let (&[_, channels, ..], &[images, ref places @ .., _]) = (&x.size()[..], &grid.size()[..]) {
            elements(&[&[images, channels], places].concat())?;
        }
        Ok(x.f_grid_sampler(&grid, mode, padding, corners)?)
    })
}

/// onnx: AffineGrid-20. The grid `[N, places..., axes]` of transformations `[N, axes, axes + 1]`.
fn affine_grid(node: &Node<'_>) -> Result<Kernel> {
    let corners = node.flag("align_corners")?;
    one(move |call| {
        let (theta, size) = (call.input(0)?, call.ints(1)?);
        let axes = i64::try_from(size.len()).unwrap_or(0) - 2;
        let (Some(&images), Some(places), true) = (size.first(), size.get(2..), matches!(axes, 2 | 3)) else {
            return Err(Error::malformed(format!("size {size:?} is not [N, C, places...] of two or three axes")));
        };
        elements(&[&[images], places, &[axes]].concat())?;
        Ok(Tensor::f_affine_grid_generator(theta, size, corners)?)
    })
}
