//! Convolutions.

use super::operands::{elements, is_whole};
use super::window::{Geometry, Padding, Window, bounded, pad, spatial};
use super::{ByExample, Call, ExampleRule, InBf16, Kernel, Link, Node, Op, one};
use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor, native};

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("Conv", 1, 3, conv)
        .at_least(2)
        .weights(&[1, 2])
        .gradients(&[0, 1, 2])
        .by_example(ByExample::Rule(conv_by_example))
        .link(|node| Ok(Some(Link::Conv(Convolution::of(node)?))))
        .in_bf16(InBf16::Narrows),
    Op::new("ConvTranspose", 1, 3, conv_transpose).at_least(2).weights(&[1, 2]).gradients(&[0, 1, 2]).in_bf16(InBf16::Narrows),
    Op::new("ConvInteger", 10, 4, conv_integer).at_least(2).gradients(&[]),
];

fn groups(node: &Node<'_>) -> Result<i64> {
    let groups = node.int_or("group", 1)?;
    if groups < 1 { Err(Error::malformed(format!("group {groups} is not positive"))) } else { Ok(groups) }
}

fn conv(node: &Node<'_>) -> Result<Kernel> {
    let convolution = Convolution::of(node)?;
    one(move |call| convolution.run(call.input(0)?, call.input(1)?, call.optional(2)))
}

/// The attributes of a convolution.
#[derive(Debug, Clone)]
pub struct Convolution {
    window: Window,
    groups: i64,
}

/// Where the window of a convolution over two axes lies.
pub(crate) struct Steps {
    /// Strides, paddings and dilations, two of each.
    pub steps: [i64; 6],
    /// Height and width of the result.
    pub places: Vec<i64>,
    pub groups: i64,
}

impl Convolution {
    pub(super) fn of(node: &Node<'_>) -> Result<Convolution> {
        Ok(Convolution { window: Window::of(node)?, groups: groups(node)? })
    }

    /// Over these images by these filters; `None` where there are more or fewer axes than two, or the sides are padded unlike.
    pub(crate) fn over(&self, x: &Tensor, weight: &Tensor) -> Result<Option<Steps>> {
        let (geometry, places) = self.geometry(x, weight)?;
        if skips_most(&geometry, weight) {
            return Ok(None);
        }
        Ok(self.steps(&geometry, places))
    }

    fn steps(&self, geometry: &Geometry, places: Vec<i64>) -> Option<Steps> {
        let Geometry { strides, dilations, begin, .. } = geometry;
        let ([s0, s1], [d0, d1], [p0, p1]) = (&strides[..], &dilations[..], &begin[..]) else { return None };
        let steps = [*s0, *s1, *p0, *p1, *d0, *d1];
        geometry.is_symmetric().then_some(Steps { steps, places, groups: self.groups })
    }

    /// The window, and the spatial sizes of the result.
    fn geometry(&self, x: &Tensor, weight: &Tensor) -> Result<(Geometry, Vec<i64>)> {
        let geometry = self.window.over(&spatial(x)?, &spatial(weight)?)?;
        let places = geometry.outputs(&spatial(x)?, false)?;
        // Pads can make the result far larger than the images.
        bound_result(x, weight.size().first().copied(), &places)?;
        Ok((geometry, places))
    }

    /// Zeros of the result's shape and kind, for where nothing else is asked; `None` for what may not fit together.
    pub(crate) fn outline(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Option<Tensor>> {
        let (images, filters) = (x.size(), weight.size());
        let (&[count, channels, ..], &[of, met, ..]) = (images.as_slice(), filters.as_slice()) else { return Ok(None) };
        let kind = x.f_kind()?;
        let divided = of % self.groups == 0 && met.checked_mul(self.groups) == Some(channels);
        let alike = kind == weight.f_kind()? && bias.is_none_or(|bias| bias.kind() == kind && bias.size() == [of]);
        if !divided || !alike || x.numel() == 0 || weight.numel() == 0 {
            return Ok(None);
        }
        let (_, places) = self.geometry(x, weight)?;
        Ok(Some(Tensor::f_zeros([&[count, of], &places[..]].concat(), (kind, x.device()))?))
    }

    /// Also for QLinearConv.
    pub(super) fn run(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let (geometry, places) = self.geometry(x, weight)?;
        let groups = self.groups;
        if let Some(Steps { steps, places, groups: 1 }) = self.steps(&geometry, places)
            && let Some(y) = native::conv_by_product(x, weight, bias, steps, &places)?
        {
            return Ok(y);
        }
        let Geometry { strides, dilations, begin, end, .. } = &geometry;
        let none = vec![0; begin.len()];
        // There, what oneDNN (3.10) gives in bfloat16 can be what was in memory before.
        if x.f_kind()? == Kind::BFloat16 && strides.iter().zip(dilations).any(|(&stride, &dilation)| stride > 1 && dilation > 1) {
            let wide = |tensor: &Tensor| tensor.f_to_kind(Kind::Float);
            let y = self.run(&wide(x)?, &wide(weight)?, bias.map(wide).transpose()?.as_ref())?;
            return Ok(y.f_to_kind(Kind::BFloat16)?);
        }
        if skips_most(&geometry, weight) {
            let mut met = pad(x, begin, end, 0.0)?;
            for (axis, &stride) in (2..).zip(strides) {
                met = met.f_slice(axis, None, None, stride)?;
            }
            return Ok(met.f_convolution(weight, bias, vec![1; none.len()], &none, dilations, false, &none, groups)?);
        }
        if geometry.is_symmetric() {
            return Ok(x.f_convolution(weight, bias, strides, begin, dilations, false, &none, groups)?);
        }
        // libtorch pads both sides alike: what one side has more is padded first.
        let both: Vec<i64> = begin.iter().zip(end).map(|(&begin, &end)| begin.min(end)).collect();
        let more = |side: &[i64]| -> Vec<i64> { side.iter().zip(&both).map(|(&side, &both)| side - both).collect() };
        let x = pad(x, &more(begin), &more(end), 0.0)?;
        Ok(x.f_convolution(weight, bias, strides, &both, dilations, false, &none, groups)?)
    }
}

/// Whether a convolution is only over every so many places, of few channels. There, the gradient of the filters of oneDNN (3.10) writes
/// outside of its memory, where a pixel's channels lie side by side: those places are gathered first.
fn skips_most(geometry: &Geometry, weight: &Tensor) -> bool {
    let single = geometry.kernel.iter().all(|&side| side == 1);
    single && geometry.strides.iter().any(|&stride| stride > 1) && weight.size().get(1).is_some_and(|&channels| channels < 16)
}

/// The gradient of a filter is, for every example, the product of the output's gradient with what the filter met at each place.
fn conv_by_example(node: &Node<'_>) -> Result<ExampleRule> {
    let window = Window::of(node)?;
    let groups = groups(node)?;
    Ok(Box::new(move |call, gradient, position| {
        let (x, weight) = (call.input(0)?, call.input(1)?);
        let (&[n, channels, ..], &[_, filters, height, width]) = (x.size().as_slice(), gradient.size().as_slice()) else {
            return Ok(None);
        };
        if position == 2 {
            return Ok(Some(gradient.f_sum_dim_intlist(&[2_i64, 3][..], false, None::<Kind>)?));
        }
        if position != 1 || weight.dim() != 4 {
            return Ok(None);
        }
        let geometry = window.over(&spatial(x)?, &spatial(weight)?)?;
        let Geometry { kernel, strides, dilations, begin, end } = &geometry;
        let met = channels * kernel[0] * kernel[1];
        elements(&[n, met, height, width])?;
        let columns = pad(x, begin, end, 0.0)?.f_im2col(kernel, dilations, [0, 0], strides)?;
        let columns = columns.f_reshape([n, groups, met / groups, height * width])?;
        let gradient = gradient.f_reshape([n, groups, filters / groups, height * width])?;
        let shape: Vec<i64> = [n].into_iter().chain(weight.size()).collect();
        Ok(Some(gradient.f_matmul(&columns.f_transpose(2, 3)?)?.f_reshape(shape)?))
    }))
}

/// Refuses a result `[N, channels, outputs...]` larger than [`elements`] allows.
fn bound_result(x: &Tensor, channels: Option<i64>, outputs: &[i64]) -> Result<()> {
    let images = x.size().first().copied();
    let shape: Vec<i64> = images.into_iter().chain(channels).chain(outputs.iter().copied()).collect();
    elements(&shape).map(drop)
}

/// What the attributes of ConvTranspose leave open until the input's size is known.
struct Transposed {
    window: Window,
    groups: i64,
    output_padding: Option<Vec<i64>>,
    output_shape: Option<Vec<i64>>,
}

fn conv_transpose(node: &Node<'_>) -> Result<Kernel> {
    let transposed = Transposed {
        window: Window::of(node)?,
        groups: groups(node)?,
        output_padding: bounded("output_padding", node.ints("output_padding")?, 0)?,
        output_shape: bounded("output_shape", node.ints("output_shape")?, 1)?,
    };
    one(move |call| transposed.run(call))
}

impl Transposed {
    /// onnx: ConvTranspose-11. `output = stride * (input - 1) + output_padding + extent - begin - end`, where `output_shape`
    /// or `auto_pad` gives the output and `begin` and `end` follow.
    fn run(&self, call: &Call<'_>) -> Result<Tensor> {
        let (x, weight, bias) = (call.input(0)?, call.input(1)?, call.optional(2));
        let (inputs, kernel) = (spatial(x)?, spatial(weight)?);
        let rank = inputs.len();
        let mut geometry = self.window.steps(&kernel)?;
        let extra = self.output_padding.clone().unwrap_or_else(|| vec![0; rank]);
        if extra.len() != rank || kernel.len() != rank {
            return Err(Error::malformed("output_padding or the kernel does not fit the input"));
        }
        let same = !matches!(self.window.padding, Padding::Explicit(_));
        let wanted = match &self.output_shape {
            // Old files name batch and channels, too.
            Some(shape) if shape.len() >= rank => Some(shape[shape.len() - rank..].to_vec()),
            Some(shape) => return Err(Error::malformed(format!("output_shape {shape:?} for {rank} spatial axes"))),
            None if same => Some(inputs.iter().zip(&geometry.strides).map(|(&size, &stride)| size * stride).collect()),
            None => None,
        };
        let full = |axis: usize| -> Option<i64> {
            let stretched = geometry.strides[axis].checked_mul(inputs[axis] - 1)?;
            stretched.checked_add(extra[axis])?.checked_add(geometry.extent(axis))
        };
        let full: Option<Vec<i64>> = (0..rank).map(full).collect();
        let full = full.ok_or_else(|| Error::malformed("the strides make the result too large"))?;
        let channels = weight.size().get(1).and_then(|&channels| channels.checked_mul(self.groups));
        bound_result(x, channels, &full)?;
        match wanted {
            None => geometry = self.window.over(&inputs, &kernel)?,
            Some(wanted) => {
                for axis in 0..rank {
                    let total = full[axis].saturating_sub(wanted[axis]);
                    let less = if total < 0 { 0 } else { total / 2 };
                    let upper = matches!(self.window.padding, Padding::SameUpper);
                    let begin = if upper || total < 0 { less } else { total - less };
                    (geometry.begin[axis], geometry.end[axis]) = (begin, total - begin);
                }
            }
        }
        let Geometry { strides, dilations, begin, end, .. } = &geometry;
        let small = (0..rank).all(|axis| extra[axis] < strides[axis].max(dilations[axis]) && begin[axis] >= 0);
        if geometry.is_symmetric() && small {
            return Ok(x.f_convolution(weight, bias, strides, begin, dilations, true, &extra, self.groups)?);
        }
        // Otherwise everything is computed, then cropped or filled up; the filling has to carry the bias, too.
        let none = vec![0; rank];
        let y = x.f_convolution(weight, None::<&Tensor>, strides, &none, dilations, true, &none, self.groups)?;
        let begin: Vec<i64> = begin.iter().map(|&begin| -begin).collect();
        let end: Vec<i64> = end.iter().zip(&extra).map(|(&end, &extra)| extra - end).collect();
        let y = pad(&y, &begin, &end, 0.0)?;
        let Some(bias) = bias else { return Ok(y) };
        let mut shape = vec![-1];
        shape.extend(std::iter::repeat_n(1, rank));
        Ok(y.f_add(&bias.f_reshape(shape)?)?)
    }
}

/// Computed in double precision, which holds every sum of 8-bit products exactly.
fn conv_integer(node: &Node<'_>) -> Result<Kernel> {
    let convolution = Convolution::of(node)?;
    one(move |call| {
        let x = centred(call.input(0)?, call.optional(2), None)?;
        // The weight's zero points may be one for each output channel.
        let weight = centred(call.input(1)?, call.optional(3), Some(0))?;
        Ok(convolution.run(&x, &weight, None)?.f_to_kind(crate::tensor::Kind::Int)?)
    })
}

/// A quantised tensor without its zero point (a scalar, or a list along `axis`), in double precision.
pub(super) fn centred(x: &Tensor, zero_point: Option<&Tensor>, axis: Option<i64>) -> Result<Tensor> {
    if !is_whole(x.f_kind()?) {
        return Err(Error::malformed("a quantised operand has to hold integers"));
    }
    let x = x.f_to_kind(crate::tensor::Kind::Double)?;
    let Some(zero) = zero_point else { return Ok(x) };
    let zero = zero.f_to_device(x.device())?.f_to_kind(crate::tensor::Kind::Double)?;
    if zero.numel() == 1 {
        return Ok(x.f_sub(&zero.f_reshape([0_i64; 0])?)?);
    }
    let Some(axis) = axis else { return Ok(x.f_sub(&zero)?) };
    let mut shape = vec![1; x.dim()];
    let axis = usize::try_from(super::axis_in(axis, x.dim())?).map_err(Error::malformed)?;
    *shape.get_mut(axis).ok_or_else(|| Error::malformed("a zero point for a scalar"))? = -1;
    Ok(x.f_sub(&zero.f_reshape(shape)?)?)
}
