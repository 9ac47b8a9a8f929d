//! Quantisation to and from small integers.

use std::cell::Cell;

use super::cast::{largest_small_float, narrowed};
use super::conv::{Convolution, centred};
use super::operands::{dim, is_whole, on};
use super::values::{held_range, kind_attribute};
use super::{Call, Kernel, Node, Op, axis_in, one};
use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor, is_small_float};

/// The rows of this family.
pub const OPS: &[Op] = &[
    QUANTIZE,
    // ONNX Runtime's own, for types that the standard's first versions do not have.
    Op { since: 1, ..QUANTIZE }.domain("com.microsoft"),
    DEQUANTIZE,
    Op { since: 1, ..DEQUANTIZE }.domain("com.microsoft"),
    Op::new("DynamicQuantizeLinear", 11, 1, |_| Ok(Box::new(dynamic))).outputs(3).gradients(&[]),
    Op::new("QLinearMatMul", 10, 8, |_| one(matmul)).at_least(8).gradients(&[]),
    Op::new("QLinearConv", 10, 9, conv).at_least(8).gradients(&[]),
];

const QUANTIZE: Op = Op::new("QuantizeLinear", 10, 3, quantize).at_least(2).gradients(&[]);
const DEQUANTIZE: Op = Op::new("DequantizeLinear", 10, 3, dequantize).at_least(2).gradients(&[1]);

/// How scales and zero points lie along the data.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grain {
    axis: i64,
    /// Elements that share a scale along the axis; 0 for one scale each (or one for all).
    block: i64,
}

impl Grain {
    pub fn of(node: &Node<'_>) -> Result<Grain> {
        // Before opset 13 there is one scale, and no axis; quantisers for other domains write it with scales for each channel.
        let axis = node.int_or("axis", 1)?;
        let block = if node.opset >= 21 || node.has("block_size") { node.int_or("block_size", 0)? } else { 0 };
        if block < 0 {
            return Err(Error::malformed(format!("block_size {block} is negative")));
        }
        Ok(Grain { axis, block })
    }

    /// A scale or zero point in a shape that broadcasts to the data's.
    pub fn spread(self, tensor: &Tensor, x: &Tensor) -> Result<Tensor> {
        let tensor = on(tensor, x.device())?;
        if tensor.numel() == 1 && self.block == 0 {
            return Ok(tensor.f_reshape([0_i64; 0])?);
        }
        let axis = axis_in(self.axis, x.dim())?;
        if self.block == 0 {
            if tensor.dim() != 1 {
                return Err(Error::malformed(format!("a scale of shape {:?} without block_size", tensor.size())));
            }
            let mut shape = vec![1; x.dim()];
            shape[usize::try_from(axis).map_err(Error::malformed)?] = -1;
            return Ok(tensor.f_reshape(shape)?);
        }
        let size = dim(&x.size(), axis)?;
        let repeated = tensor.f_repeat_interleave_self_int(self.block.min(size), axis, None::<i64>)?;
        Ok(repeated.f_narrow(axis, 0, size)?)
    }
}

/// The least and greatest number of a quantised type, by its ONNX element type where that is known. No quantised type is 32 bits
/// wide: Int stands for unsigned 16 bits.
fn bounds(kind: Kind, data_type: Option<i32>) -> Result<(f64, f64)> {
    if let Some((least, bits)) = data_type.and_then(held_range) {
        let least = f64::from(i32::try_from(least).map_err(Error::malformed)?);
        return Ok((least, least + f64::from((1_u64 << bits.min(31)) as u32 - 1)));
    }
    Ok(match kind {
        Kind::Uint8 => (0.0, 255.0),
        Kind::Int8 => (-128.0, 127.0),
        Kind::Int16 => (-32768.0, 32767.0),
        Kind::Int => (0.0, 65535.0),
        other => return Err(Error::unsupported(format!("quantisation to {other:?} is not supported"))),
    })
}

thread_local! {
    static JITTER: Cell<Option<u8>> = const { Cell::new(None) };
}

/// Relative to the largest number of a tensor: some roundings of single precision, as they add up over a sum of thousands of products.
const EDGE: f64 = 1e-6;

/// Runs something with numbers that are a little off, by the `seed`, whenever they are rounded to steps: those that lie at the edge
/// between two steps are as likely to take the one as the other, as in another engine that adds up in another order.
pub(crate) fn jittered<T>(seed: u8, work: impl FnOnce() -> T) -> T {
    let before = JITTER.replace(Some(seed));
    let result = work();
    JITTER.set(before);
    result
}

/// The numbers as they are, or a little off.
fn at_the_edge(ratio: &Tensor) -> Result<Tensor> {
    let Some(seed) = JITTER.get().filter(|_| ratio.numel() > 0) else { return Ok(ratio.shallow_clone()) };
    let count = i64::try_from(ratio.numel()).map_err(Error::malformed)?;
    // Fractions of multiples of irrational numbers are spread evenly, and the same on every machine.
    let steps = Tensor::f_arange(count, (Kind::Double, ratio.device()))?.f_mul_scalar(0.754_877_666_246_692_7)?;
    let spread = steps.f_add_scalar(0.569_840_290_998_053_2 * f64::from(seed))?.f_frac()?.f_sub_scalar(0.5)?;
    let largest = ratio.f_to_kind(Kind::Double)?.f_abs()?.f_max()?;
    let off = spread.f_mul(&largest)?.f_mul_scalar(2.0 * EDGE)?.f_reshape(ratio.size())?;
    Ok(ratio.f_to_kind(Kind::Double)?.f_add(&off)?)
}

/// `saturate(round(x / scale) + zero_point)`, ties to even.
fn quantized(ratio: &Tensor, zero: Option<&Tensor>, kind: Kind, data_type: Option<i32>) -> Result<Tensor> {
    let (least, greatest) = bounds(kind, data_type)?;
    let mut y = at_the_edge(ratio)?.f_to_kind(Kind::Double)?.f_round()?;
    if let Some(zero) = zero {
        y = y.f_add(&zero.f_to_kind(Kind::Double)?)?;
    }
    Ok(y.f_clamp(least, greatest)?.f_to_kind(Kind::Int64)?.f_to_kind(kind)?)
}

/// What a QuantizeLinear node says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quantizer {
    grain: Grain,
    saturate: bool,
    /// The ONNX element type of the result, where it is known.
    data_type: Option<i32>,
    /// The kind of the result, where there is no zero point to tell.
    kind: Option<Kind>,
}

impl Quantizer {
    pub fn of(node: &Node<'_>) -> Result<Quantizer> {
        let grain = Grain::of(node)?;
        let saturate = node.int_or("saturate", 1)? != 0;
        let output = if node.opset >= 21 { node.int("output_dtype")?.filter(|&data_type| data_type != 0) } else { None };
        let data_type = node.input_type(2).or(output.map(i32::try_from).transpose().map_err(Error::malformed)?);
        let kind = if node.opset >= 21 { kind_attribute(node, "output_dtype")? } else { None };
        if node.int_or("precision", 0)? != 0 {
            return node.unsupported("precision");
        }
        Ok(Quantizer { grain, saturate, data_type, kind })
    }

    /// The type of the result.
    fn target(self, call: &Call<'_>) -> Result<Kind> {
        Ok(match (call.optional(2), self.kind) {
            (Some(zero), _) => zero.f_kind()?,
            (None, Some(kind)) => kind,
            (None, None) => Kind::Uint8,
        })
    }

    /// The data in steps of the scale, and the zero point beside it.
    fn ratio(self, call: &Call<'_>) -> Result<(Tensor, Option<Tensor>)> {
        let (x, scale) = (call.input(0)?, call.input(1)?);
        let ratio = x.f_to_kind(if is_whole(x.f_kind()?) { scale.f_kind()? } else { x.f_kind()? })?;
        let zero = call.optional(2).map(|zero| self.grain.spread(zero, x)).transpose()?;
        Ok((ratio.f_div(&self.grain.spread(scale, x)?)?, zero))
    }

    pub fn run(self, call: &Call<'_>) -> Result<Tensor> {
        let kind = self.target(call)?;
        let (ratio, zero) = self.ratio(call)?;
        if is_small_float(kind) {
            // The zero point of a float type is zero, by definition.
            return narrowed(&at_the_edge(&ratio)?, kind, self.saturate);
        }
        quantized(&ratio, zero.as_ref(), kind, self.data_type)
    }

    /// What [`run`](Self::run) rounds: data that the type cannot hold are moved to its ends.
    pub fn unrounded(self, call: &Call<'_>) -> Result<Tensor> {
        let kind = self.target(call)?;
        let (ratio, zero) = self.ratio(call)?;
        if let Some(largest) = largest_small_float(kind) {
            return Ok(ratio.f_clamp(-largest, largest)?);
        }
        let (least, greatest) = bounds(kind, self.data_type)?;
        let ratio = match zero {
            Some(zero) => ratio.f_add(&zero.f_to_kind(ratio.f_kind()?)?)?,
            None => ratio,
        };
        Ok(ratio.f_clamp(least, greatest)?)
    }
}

fn quantize(node: &Node<'_>) -> Result<Kernel> {
    let quantizer = Quantizer::of(node)?;
    one(move |call| quantizer.run(call))
}

/// `(x - zero_point) * scale`, in the scale's type.
pub(super) fn dequantize(node: &Node<'_>) -> Result<Kernel> {
    let grain = Grain::of(node)?;
    let kind = if node.opset >= 23 { kind_attribute(node, "output_dtype")? } else { None };
    one(move |call| {
        let (x, scale) = (call.input(0)?, call.input(1)?);
        let given = x.f_kind()?;
        if is_small_float(given) {
            let wide = if scale.f_kind()? == Kind::Double { Kind::Double } else { Kind::Float };
            let y = x.f_to_kind(wide)?.f_mul(&grain.spread(scale, x)?.f_to_kind(wide)?)?;
            return Ok(y.f_to_kind(kind.map_or_else(|| scale.f_kind(), Ok)?)?);
        }
        if !is_whole(given) {
            return Err(Error::unsupported(format!("DequantizeLinear of {given:?} is not supported")));
        }
        let mut whole = x.f_to_kind(Kind::Int64)?;
        if let Some(zero) = call.optional(2) {
            whole = whole.f_sub(&grain.spread(zero, x)?.f_to_kind(Kind::Int64)?)?;
        }
        let y = whole.f_to_kind(scale.f_kind()?)?.f_mul(&grain.spread(scale, x)?)?;
        Ok(y.f_to_kind(kind.map_or_else(|| scale.f_kind(), Ok)?)?)
    })
}

/// onnx: DynamicQuantizeLinear-11: the range of the data, widened to hold zero, spread over 0..=255.
pub(super) fn dynamic(call: &Call<'_>) -> Result<Vec<Tensor>> {
    let x = call.input(0)?;
    let (low, high) = (x.f_min()?.f_clamp_max(0.0)?, x.f_max()?.f_clamp_min(0.0)?);
    let scale = high.f_sub(&low)?.f_div_scalar(255.0)?;
    // Zeros alone have no range.
    let scale = scale.f_where_self(&scale.f_gt(0.0)?, &scale.f_ones_like()?)?;
    let zero = low.f_neg()?.f_div(&scale)?.f_clamp(0.0, 255.0)?.f_round()?;
    let y = quantized(&x.f_div(&scale)?, Some(&zero), Kind::Uint8, None)?;
    Ok(vec![y, scale, zero.f_to_kind(Kind::Uint8)?])
}

/// A scale as a tensor that broadcasts along `axis` of a tensor of rank `rank`.
fn scale_along(scale: &Tensor, axis: usize, rank: usize) -> Result<Tensor> {
    let scale = scale.f_to_kind(Kind::Double)?;
    if scale.numel() == 1 {
        return Ok(scale.f_reshape([0_i64; 0])?);
    }
    if scale.dim() != 1 {
        return Ok(scale);
    }
    let mut shape = vec![1; rank];
    *shape.get_mut(axis).ok_or_else(|| Error::malformed("a list of scales for a scalar"))? = -1;
    Ok(scale.f_reshape(shape)?)
}

fn matmul(call: &Call<'_>) -> Result<Tensor> {
    let (a, b) = (call.input(0)?, call.input(3)?);
    let real_a = centred(a, Some(call.input(2)?), Some(if a.dim() < 2 { -1 } else { -2 }))?;
    let real_b = centred(b, Some(call.input(5)?), Some(-1))?;
    let real_a = real_a.f_mul(&scale_along(call.input(1)?, a.dim().saturating_sub(2), a.dim())?)?;
    let real_b = real_b.f_mul(&scale_along(call.input(4)?, b.dim().saturating_sub(1), b.dim())?)?;
    let product = real_a.f_matmul(&real_b)?;
    requantized(call, &product)
}

/// By the output's scale and zero point, inputs 6 and 7.
fn requantized(call: &Call<'_>, real: &Tensor) -> Result<Tensor> {
    let (scale, zero) = (call.input(6)?, call.input(7)?);
    if scale.numel() != 1 || zero.numel() != 1 {
        return Err(Error::unsupported("an output scale for each row is not supported"));
    }
    let plain = |tensor: &Tensor| -> Result<Tensor> { Ok(on(tensor, real.device())?.f_reshape([0_i64; 0])?) };
    quantized(&real.f_div(&plain(scale)?.f_to_kind(Kind::Double)?)?, Some(&plain(zero)?), zero.f_kind()?, None)
}

fn conv(node: &Node<'_>) -> Result<Kernel> {
    let convolution = Convolution::of(node)?;
    one(move |call| {
        let (x, weight) = (call.input(0)?, call.input(3)?);
        let real_x = centred(x, Some(call.input(2)?), None)?;
        let real_weight = centred(weight, Some(call.input(5)?), Some(0))?;
        let bias = call.optional(8).map(|bias| bias.f_to_kind(Kind::Double)).transpose()?;
        let sum = convolution.run(&real_x, &real_weight, bias.as_ref())?;
        // The bias is quantised by the product of both scales, so the scales apply to the sum.
        let scale = scale_along(call.input(4)?, 1, sum.dim())?.f_mul(&scale_along(call.input(1)?, 1, sum.dim())?)?;
        requantized(call, &sum.f_mul(&on(&scale, sum.device())?)?)
    })
}
