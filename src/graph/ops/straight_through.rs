//! Quantisation inside a network that is trained: the same numbers as [`quant`](super::quant) gives, held in floats, with the
//! straight-through estimator as gradient (1 where a number is rounded, 0 where it is cut off at the ends of the type).
//!
//! Source: Bengio, Leonard and Courville 2013, <https://arxiv.org/abs/1308.3432>; as in the fake quantisation of PyTorch and TensorFlow.

use super::quant::{Grain, Quantizer, dequantize, dynamic};
use super::values::kind_attribute;
use super::{Call, Kernel, Node, Op, one};
use crate::error::Result;
use crate::tensor::{Kind, Tensor, is_float, is_small_float, no_grad};

/// Takes the place of `QuantizeLinear`.
pub const QUANTIZE: Op = Op::new("QuantizeLinear", 1, 3, quantize).at_least(2).sketched(|node| {
    let quantizer = Quantizer::of(node)?;
    one(move |call| quantizer.unrounded(call))
});

/// Takes the place of `DynamicQuantizeLinear`. Without rounding, it does not matter that images of a batch share their range.
pub const DYNAMIC: Op =
    Op::new("DynamicQuantizeLinear", 1, 1, |_| Ok(Box::new(quantize_dynamically))).outputs(3).sketched(|_| {
        Ok(Box::new(|call| {
            let mut outputs = dynamic(call)?;
            if let [y, scale, zero] = outputs.as_mut_slice() {
                *y = unrounded_dynamically(call.input(0)?, scale, zero)?;
            }
            Ok(outputs)
        }))
    });

/// Takes the place of `DequantizeLinear`, behind one of the others. The steps are the file's: scales are not trained.
pub const DEQUANTIZE: Op = Op::new("DequantizeLinear", 1, 3, dequantize_floats).at_least(2);

/// Whole numbers up to 16 bits are exact in single precision.
fn wide(kind: Kind) -> Kind {
    if kind == Kind::Double { Kind::Double } else { Kind::Float }
}

/// `exact` with the gradient of `unrounded`.
fn straight_through(exact: &Tensor, unrounded: &Tensor) -> Result<Tensor> {
    let kind = wide(unrounded.f_kind()?);
    let exact = exact.f_detach()?.f_to_kind(kind)?;
    // The difference is zero exactly, so that the sum is what ONNX defines to the last bit.
    Ok(exact.f_add(&unrounded.f_sub(&unrounded.f_detach()?)?.f_to_kind(kind)?)?)
}

fn quantize(node: &Node<'_>) -> Result<Kernel> {
    let quantizer = Quantizer::of(node)?;
    one(move |call| {
        let exact = {
            let _guard = no_grad();
            quantizer.run(call)?
        };
        straight_through(&exact, &quantizer.unrounded(call)?)
    })
}

/// The range of the data is taken as given: no gradient flows through it.
fn quantize_dynamically(call: &Call<'_>) -> Result<Vec<Tensor>> {
    let mut outputs = {
        let _guard = no_grad();
        dynamic(call)?
    };
    if let [y, scale, zero] = outputs.as_mut_slice() {
        *y = straight_through(y, &unrounded_dynamically(call.input(0)?, scale, zero)?)?;
    }
    Ok(outputs)
}

fn unrounded_dynamically(x: &Tensor, scale: &Tensor, zero: &Tensor) -> Result<Tensor> {
    Ok(x.f_div(scale)?.f_add(&zero.f_to_kind(x.f_kind()?)?)?)
}

fn dequantize_floats(node: &Node<'_>) -> Result<Kernel> {
    let plain = dequantize(node)?;
    let grain = Grain::of(node)?;
    let kind = if node.opset >= 23 { kind_attribute(node, "output_dtype")? } else { None };
    Ok(Box::new(move |call| {
        let (x, scale) = (call.input(0)?, call.input(1)?);
        let given = x.f_kind()?;
        if !is_float(given) || is_small_float(given) {
            return plain(call);
        }
        let centred = match call.optional(2) {
            Some(zero) => x.f_sub(&grain.spread(zero, x)?.f_to_kind(given)?)?,
            None => x.shallow_clone(),
        };
        let y = centred.f_to_kind(scale.f_kind()?)?.f_mul(&grain.spread(scale, x)?)?;
        Ok(vec![y.f_to_kind(kind.map_or_else(|| scale.f_kind(), Ok)?)?])
    }))
}
