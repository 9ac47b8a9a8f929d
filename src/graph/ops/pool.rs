//! Pools over sliding windows and over whole images.

use super::operands::is_whole;
use super::window::{Geometry, Window, pad, spatial, views};
use super::{InBf16, Kernel, Node, Op, one};
use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor};

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("MaxPool", 1, 1, max_pool).in_bf16(InBf16::Follows),
    Op::new("MaxPool", 8, 1, max_pool).outputs(2).in_bf16(InBf16::Follows),
    Op::new("AveragePool", 1, 1, average_pool).in_bf16(InBf16::Follows),
    Op::new("LpPool", 1, 1, |node| lp_pool(node, node.float_or("p", 2.0)?)),
    Op::new("LpPool", 2, 1, |node| lp_pool(node, whole(node.int_or("p", 2)?)?)),
    Op::new("GlobalAveragePool", 1, 1, |_| {
        one(|call| {
            let x = call.input(0)?;
            Ok(x.f_mean_dim(spatial_axes(x)?, true, None::<Kind>)?)
        })
    }),
    Op::new("GlobalMaxPool", 1, 1, |_| {
        one(|call| {
            let x = call.input(0)?;
            Ok(x.f_amax(spatial_axes(x)?, true)?)
        })
    }),
    Op::new("GlobalLpPool", 1, 1, |node| global_lp_pool(node.float_or("p", 2.0)?)),
    Op::new("GlobalLpPool", 2, 1, |node| global_lp_pool(whole(node.int_or("p", 2)?)?)),
];

fn whole(p: i64) -> Result<f64> {
    Ok(f64::from(i32::try_from(p).map_err(Error::malformed)?))
}

fn spatial_axes(x: &Tensor) -> Result<Vec<i64>> {
    Ok((2..).take(spatial(x)?.len()).collect())
}

fn global_lp_pool(p: f64) -> Result<Kernel> {
    one(move |call| {
        let x = call.input(0)?;
        Ok(x.f_norm_scalaropt_dim(p, spatial_axes(x)?, true)?)
    })
}

/// The window, its kernel, and whether sizes are rounded up.
fn pool_window(node: &Node<'_>) -> Result<(Window, Vec<i64>, bool)> {
    let window = Window::of(node)?;
    let Some(kernel) = window.kernel.clone() else { return Err(Error::malformed("attribute 'kernel_shape' is missing")) };
    if kernel.len() > 3 {
        return node.unsupported(format!("{} spatial axes", kernel.len()));
    }
    let ceil = node.flag("ceil_mode")?;
    Ok((window, kernel, ceil))
}

/// Steps that a pool may take for one image: far more than any classifier's, and seconds for a processor.
const MOST_STEPS: i64 = 1 << 35;

/// Refuses windows so large that a single image would take hours.
fn bound_steps(x: &Tensor, geometry: &Geometry, outputs: &[i64]) -> Result<()> {
    let channels = x.size().get(1).copied().unwrap_or(1);
    let mut factors = geometry.kernel.iter().chain(outputs);
    match factors.try_fold(channels, |total, &factor| total.checked_mul(factor)) {
        Some(steps) if steps <= MOST_STEPS => Ok(()),
        _ => Err(Error::unsupported(format!("a window of {:?} at {outputs:?} places is not supported", geometry.kernel))),
    }
}

/// libtorch accepts padding up to half of the kernel only.
fn fits_libtorch(geometry: &Geometry) -> bool {
    geometry.is_symmetric() && geometry.begin.iter().zip(&geometry.kernel).all(|(&pad, &kernel)| pad <= kernel / 2)
}

fn max_pool(node: &Node<'_>) -> Result<Kernel> {
    let (window, kernel, ceil) = pool_window(node)?;
    let column_major = node.opset >= 8 && node.flag("storage_order")?;
    let with_places = node.has_output(1);
    Ok(Box::new(move |call| {
        let x = call.input(0)?;
        let kind = x.f_kind()?;
        let sizes = spatial(x)?;
        let geometry = window.over(&sizes, &kernel)?;
        let outputs = geometry.outputs(&sizes, ceil)?;
        bound_steps(x, &geometry, &outputs)?;
        // Integers are exact in double precision, and have no pooling kernels.
        let wide = if is_whole(kind) { x.f_to_kind(Kind::Double)? } else { x.shallow_clone() };
        let (values, places) = if fits_libtorch(&geometry) && !with_places {
            (max_windows(&wide, &geometry, &geometry.begin, ceil)?, None)
        } else {
            let padded = pad(&wide, &geometry.begin, &geometry.end_for(&sizes, &outputs), f64::NEG_INFINITY)?;
            let none = vec![0; sizes.len()];
            if with_places {
                let (values, places) = max_windows_with_places(&padded, &geometry)?;
                let places = flat_places(&places, &padded.size(), &geometry, &x.size(), column_major)?;
                (values, Some(places))
            } else {
                (max_windows(&padded, &geometry, &none, false)?, None)
            }
        };
        let values = if is_whole(kind) { values.f_to_kind(kind)? } else { values };
        Ok(std::iter::once(values).chain(places).collect())
    }))
}

fn max_windows(x: &Tensor, geometry: &Geometry, pads: &[i64], ceil: bool) -> Result<Tensor> {
    let Geometry { kernel, strides, dilations, .. } = geometry;
    Ok(match kernel.len() {
        1 => x.f_max_pool1d(kernel, strides, pads, dilations, ceil)?,
        2 => x.f_max_pool2d(kernel, strides, pads, dilations, ceil)?,
        _ => x.f_max_pool3d(kernel, strides, pads, dilations, ceil)?,
    })
}

fn max_windows_with_places(x: &Tensor, geometry: &Geometry) -> Result<(Tensor, Tensor)> {
    let Geometry { kernel, strides, dilations, .. } = geometry;
    let none = vec![0; kernel.len()];
    Ok(match kernel.len() {
        1 => x.f_max_pool1d_with_indices(kernel, strides, none, dilations, false)?,
        2 => x.f_max_pool2d_with_indices(kernel, strides, none, dilations, false)?,
        _ => x.f_max_pool3d_with_indices(kernel, strides, none, dilations, false)?,
    })
}

/// libtorch counts within one padded channel; ONNX counts through the whole unpadded input, row by row or column by column.
fn flat_places(places: &Tensor, padded: &[i64], geometry: &Geometry, shape: &[i64], column_major: bool) -> Result<Tensor> {
    let rank = geometry.kernel.len();
    let mut rest = places.shallow_clone();
    let mut coordinates = Vec::with_capacity(rank);
    for axis in (0..rank).rev() {
        let size = padded[axis + 2];
        coordinates.push(rest.f_remainder(size)?.f_sub_scalar(geometry.begin[axis])?);
        rest = rest.f_div_scalar_mode(size, "floor")?;
    }
    coordinates.reverse();
    let mut flat = Tensor::f_zeros_like(places)?;
    let order: Vec<usize> = if column_major { (0..rank).rev().collect() } else { (0..rank).collect() };
    for axis in order {
        flat = flat.f_mul_scalar(shape[axis + 2])?.f_add(&coordinates[axis])?;
    }
    let channel: i64 = shape[2..].iter().product();
    let mut ladder = vec![shape[0], shape[1]];
    ladder.extend(std::iter::repeat_n(1, rank));
    let offsets = Tensor::f_arange(shape[0] * shape[1], (Kind::Int64, places.device()))?.f_mul_scalar(channel)?;
    Ok(flat.f_add(&offsets.f_reshape(ladder)?)?)
}

fn average_pool(node: &Node<'_>) -> Result<Kernel> {
    let (window, kernel, ceil) = pool_window(node)?;
    let count_padding = node.opset >= 7 && node.flag("count_include_pad")?;
    one(move |call| {
        let x = call.input(0)?;
        let sizes = spatial(x)?;
        let geometry = window.over(&sizes, &kernel)?;
        let outputs = geometry.outputs(&sizes, ceil)?;
        bound_steps(x, &geometry, &outputs)?;
        if fits_libtorch(&geometry) && geometry.dilations.iter().all(|&dilation| dilation == 1) {
            let Geometry { kernel, strides, begin, .. } = &geometry;
            return Ok(match kernel.len() {
                1 => x.f_avg_pool1d(kernel, strides, begin, ceil, count_padding)?,
                2 => x.f_avg_pool2d(kernel, strides, begin, ceil, count_padding, None::<i64>)?,
                _ => x.f_avg_pool3d(kernel, strides, begin, ceil, count_padding, None::<i64>)?,
            });
        }
        let end = geometry.end_for(&sizes, &outputs);
        let sum = sum_windows(&pad(x, &geometry.begin, &end, 0.0)?, &geometry, &outputs)?;
        // What counts is the input and, if asked for, its padding, but never what rounding up adds behind it.
        let mut shape = vec![1, 1];
        shape.extend(&sizes);
        let ones = Tensor::f_ones(&shape, (x.f_kind()?, x.device()))?;
        let counted = if count_padding {
            let beyond: Vec<i64> = end.iter().zip(&geometry.end).map(|(&end, &asked)| end - asked).collect();
            let none = vec![0; end.len()];
            pad(&pad(&ones, &geometry.begin, &geometry.end, 1.0)?, &none, &beyond, 0.0)?
        } else {
            pad(&ones, &geometry.begin, &end, 0.0)?
        };
        Ok(sum.f_div(&sum_windows(&counted, &geometry, &outputs)?)?)
    })
}

fn sum_windows(padded: &Tensor, geometry: &Geometry, outputs: &[i64]) -> Result<Tensor> {
    let mut views = views(padded, geometry, outputs)?.into_iter();
    let first = views.next().ok_or_else(|| Error::malformed("the kernel is empty"))?;
    views.try_fold(first, |total, view| Ok(total.f_add(&view)?))
}

fn lp_pool(node: &Node<'_>, p: f64) -> Result<Kernel> {
    let (window, kernel, ceil) = pool_window(node)?;
    if p <= 0.0 {
        return node.unsupported(format!("p {p}"));
    }
    one(move |call| {
        let x = call.input(0)?;
        let sizes = spatial(x)?;
        let geometry = window.over(&sizes, &kernel)?;
        let outputs = geometry.outputs(&sizes, ceil)?;
        let padded = pad(x, &geometry.begin, &geometry.end_for(&sizes, &outputs), 0.0)?;
        // The norm over stacked views has a gradient at zero, which the root of a sum of powers has not.
        let stacked = Tensor::f_stack(&views(&padded, &geometry, &outputs)?, 0)?;
        Ok(stacked.f_norm_scalaropt_dim(p, [0_i64], false)?)
    })
}
