//! Operators: pooling.

use super::conv::{Padding, Steps, Window, pad_with};
use super::{Call, Kernel, Node, Op, one};
use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor, is_float};

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("MaxPool", 1, 1, max_pool).outputs(2),
    Op::new("MaxPool", 8, 1, max_pool).outputs(2),
    Op::new("AveragePool", 1, 1, average_pool),
    Op::new("AveragePool", 7, 1, average_pool),
    Op::new("GlobalAveragePool", 1, 1, global_average_pool),
    Op::new("GlobalMaxPool", 1, 1, global_max_pool),
];

/// The parts that all pools share.
struct Pool {
    kernel: Vec<i64>,
    steps: Steps,
    padding: Padding,
    ceil: bool,
}

impl Pool {
    fn of(node: &Node) -> Result<Pool> {
        Ok(Pool {
            kernel: node.ints("kernel_shape")?.ok_or_else(|| Error::malformed("attribute 'kernel_shape' is missing"))?,
            steps: Steps::of(node)?,
            padding: Padding::of(node)?,
            ceil: node.flag("ceil_mode")?,
        })
    }

    /// The window, the pads that the file states, and the pads with what `ceil_mode` adds at the end of each axis.
    fn layout(&self, x: &Tensor) -> Result<Layout> {
        let size = x.size();
        if size.len() != self.kernel.len() + 2 {
            return Err(Error::malformed(format!("a {}-dimensional window on shape {size:?}", self.kernel.len())));
        }
        let window = self.steps.window(&self.kernel)?;
        let stated = self.padding.resolve(&size[2..], &window)?;
        let mut whole = stated.clone();
        for (i, pads) in whole.iter_mut().enumerate() {
            let reach = (window.kernel[i] - 1) * window.dilations[i] + 1;
            let room = size[i + 2] + pads.0 + pads.1 - reach;
            if room < 0 {
                return Err(Error::malformed(format!("a window of {reach} on an axis of {}", size[i + 2])));
            }
            let mut outputs = room / window.strides[i] + 1;
            if self.ceil && room % window.strides[i] != 0 && outputs * window.strides[i] < size[i + 2] + pads.0 {
                // A last window counts only if it begins inside the input or its beginning padding.
                outputs += 1;
            }
            pads.1 = (outputs - 1) * window.strides[i] + reach - size[i + 2] - pads.0;
        }
        Ok(Layout { window, stated, whole })
    }
}

struct Layout {
    window: Window,
    stated: Vec<(i64, i64)>,
    whole: Vec<(i64, i64)>,
}

fn max_pool(node: &Node) -> Result<Kernel> {
    let pool = Pool::of(node)?;
    if node.int_or("storage_order", 0)? != 0 && node.has_output(1) {
        return node.unsupported("indices in column-major order");
    }
    let indices = node.has_output(1);
    Ok(Box::new(move |call: &Call| {
        let x = call.input(0)?;
        let Layout { window, whole, .. } = pool.layout(x)?;
        if !indices && x.dim() == 4 && is_float(x.kind()) {
            let even = whole.iter().zip(&window.kernel).all(|(p, k)| p.0 == p.1 && p.0 >= 0 && p.0 * 2 <= *k);
            if even {
                let pads: Vec<i64> = whole.iter().map(|p| p.0).collect();
                let (kernel, strides, dilations) = (&window.kernel, &window.strides, &window.dilations);
                return Ok(vec![x.f_max_pool2d(
                    kernel.as_slice(),
                    strides.as_slice(),
                    pads.as_slice(),
                    dilations.as_slice(),
                    false,
                )?]);
            }
        }
        general_max_pool(x, &window, &whole, indices)
    }))
}

/// Any rank, any padding, with indices: windows are unfolded and compared.
fn general_max_pool(x: &Tensor, window: &Window, pads: &[(i64, i64)], indices: bool) -> Result<Vec<Tensor>> {
    let kind = x.kind();
    let low = if is_float(kind) { f64::NEG_INFINITY } else { least(kind) };
    let padded = pad_with(x, pads, low)?;
    let windows = unfold(&padded, window)?;
    let (values, _) = windows.f_max_dim(-1, false)?;
    if !indices {
        return Ok(vec![values]);
    }
    let size = x.size();
    let total: i64 = size.iter().product();
    let numbers = Tensor::f_arange(total, (Kind::Int64, x.device()))?.f_reshape(size.as_slice())?;
    let numbers = unfold(&pad_with(&numbers, pads, 0.0)?, window)?;
    let best = windows.f_argmax(-1, true)?;
    Ok(vec![values, numbers.f_gather(-1, &best, false)?.f_squeeze_dim(-1)?])
}

fn least(kind: Kind) -> f64 {
    match kind {
        Kind::Uint8 => 0.0,
        Kind::Int8 => -128.0,
        Kind::Int16 => -32_768.0,
        _ => f64::from(i32::MIN),
    }
}

/// Windows over the spatial axes: `[N, C, outputs.., window]`, dilations included.
fn unfold(x: &Tensor, window: &Window) -> Result<Tensor> {
    let mut result = x.shallow_clone();
    let axes = window.kernel.len();
    for i in 0..axes {
        let reach = (window.kernel[i] - 1) * window.dilations[i] + 1;
        let axis = i64::try_from(i + 2).map_err(Error::malformed)?;
        result = result.f_unfold(axis, reach, window.strides[i])?;
        // Every dilation-th element of the reach belongs to the window.
        result = result.f_slice(-1, 0, i64::MAX, window.dilations[i])?;
    }
    Ok(result.f_flatten(-i64::try_from(axes).map_err(Error::malformed)?, -1)?)
}

fn average_pool(node: &Node) -> Result<Kernel> {
    let pool = Pool::of(node)?;
    let count_padding = node.flag("count_include_pad")?;
    one(move |call: &Call| {
        let x = call.input(0)?;
        let Layout { window, stated, whole } = pool.layout(x)?;
        let plain = window.dilations.iter().all(|&d| d == 1);
        let none = whole.iter().all(|p| *p == (0, 0));
        if x.dim() == 4 && plain && none {
            let zeros = vec![0; 2];
            return Ok(x.f_avg_pool2d(
                window.kernel.as_slice(),
                window.strides.as_slice(),
                zeros.as_slice(),
                false,
                true,
                None::<i64>,
            )?);
        }
        let sums = unfold(&pad_with(x, &whole, 0.0)?, &window)?.f_sum_dim_intlist([-1].as_slice(), false, None::<Kind>)?;
        // What a window is divided by: the input it covers, with the stated padding if that counts; never what ceil_mode added.
        let mut ones = x.f_narrow(0, 0, 1)?.f_narrow(1, 0, 1)?.f_ones_like()?;
        let mut rest = whole.clone();
        if count_padding {
            ones = pad_with(&ones, &stated, 1.0)?;
            rest = whole.iter().zip(&stated).map(|(w, s)| (w.0 - s.0, w.1 - s.1)).collect();
        }
        let counts = unfold(&pad_with(&ones, &rest, 0.0)?, &window)?.f_sum_dim_intlist([-1].as_slice(), false, None::<Kind>)?;
        Ok(sums.f_div(&counts)?)
    })
}

fn spatial_axes(x: &Tensor) -> Result<Vec<i64>> {
    let rank = i64::try_from(x.dim()).map_err(Error::malformed)?;
    if rank < 3 { Err(Error::malformed(format!("global pooling of rank {rank}"))) } else { Ok((2..rank).collect()) }
}

fn global_average_pool(_: &Node) -> Result<Kernel> {
    one(|call| {
        let x = call.input(0)?;
        Ok(x.f_mean_dim(spatial_axes(x)?.as_slice(), true, None::<Kind>)?)
    })
}

fn global_max_pool(_: &Node) -> Result<Kernel> {
    one(|call| {
        let x = call.input(0)?;
        Ok(x.f_amax(spatial_axes(x)?.as_slice(), true)?)
    })
}
