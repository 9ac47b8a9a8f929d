//! Activation functions.

use super::operands::{bound_broadcast, is_whole, pair, unary};
use super::{ByExample, Call, InBf16, Kernel, Link, Node, Op, one};
use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor};

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("Relu", 1, 1, |node| unary(node, Tensor::f_relu)).in_bf16(InBf16::Follows).link(|_| Ok(Some(Link::Relu))),
    Op::new("Sigmoid", 1, 1, |node| unary(node, Tensor::f_sigmoid)),
    Op::new("Tanh", 1, 1, |node| unary(node, Tensor::f_tanh)),
    Op::new("Softplus", 1, 1, |node| unary(node, softplus)),
    Op::new("Softsign", 1, 1, |node| unary(node, softsign)),
    Op::new("HardSwish", 14, 1, |node| unary(node, Tensor::f_hardswish)),
    Op::new("Mish", 18, 1, |node| unary(node, Tensor::f_mish)),
    Op::new("LeakyRelu", 1, 1, leaky_relu),
    Op::new("Elu", 1, 1, |node| elu(node, node.float_or("alpha", 1.0)?, 1.0)),
    Op::new("Selu", 1, 1, |node| elu(node, node.float_or("alpha", 1.6732)?, node.float_or("gamma", 1.0507)?)),
    Op::new("Selu", 6, 1, |node| {
        let alpha = node.float_or("alpha", 1.673_263_192_176_818_8)?;
        elu(node, alpha, node.float_or("gamma", 1.050_701_022_148_132_3)?)
    }),
    Op::new("Celu", 12, 1, celu),
    Op::new("HardSigmoid", 1, 1, hard_sigmoid),
    Op::new("ThresholdedRelu", 10, 1, |node| {
        let alpha = node.float_or("alpha", 1.0)?;
        one(move |call| Ok(call.input(0)?.f_threshold(alpha, 0.0)?))
    }),
    Op::new("PRelu", 1, 2, prelu_per_channel).at_least(2).weights(&[1]).gradients(&[0, 1]),
    Op::new("PRelu", 7, 2, |_| one(prelu)).at_least(2).weights(&[1]).gradients(&[0, 1]).by_example(ByExample::Copies),
    Op::new("Gelu", 20, 1, gelu),
    Op::new("Gelu", 1, 1, gelu).domain("com.microsoft"),
    Op::new("FastGelu", 1, 2, |_| biased_gelu("tanh")).domain("com.microsoft").weights(&[1]).gradients(&[0, 1]),
    Op::new("BiasGelu", 1, 2, |_| biased_gelu("none")).domain("com.microsoft").at_least(2).weights(&[1]).gradients(&[0, 1]),
    Op::new("QuickGelu", 1, 1, |node| {
        let alpha = node.float_or("alpha", f64::from(1.702_f32))?;
        one(move |call| swish(call.input(0)?, alpha))
    })
    .domain("com.microsoft"),
    Op::new("Swish", 24, 1, |node| {
        let alpha = node.float_or("alpha", 1.0)?;
        one(move |call| swish(call.input(0)?, alpha))
    }),
    Op::new("SwiGLU", 28, 2, |node| {
        let alpha = node.float_or("alpha", 1.0)?;
        one(move |call| {
            let (gate, value) = pair(call)?;
            if gate.size() != value.size() {
                return Err(Error::malformed(format!("shapes {:?} and {:?} differ", gate.size(), value.size())));
            }
            Ok(swish(&gate, alpha)?.f_mul(&value)?)
        })
    })
    .at_least(2)
    .gradients(&[0, 1]),
    Op::new("Shrink", 9, 1, shrink),
];

/// libtorch's own softplus turns linear above 20, which is visible in double precision.
fn softplus(x: &Tensor) -> Result<Tensor> {
    if x.f_kind()? == Kind::Double { Ok(x.f_logaddexp(&x.f_zeros_like()?)?) } else { Ok(x.f_softplus()?) }
}

fn softsign(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_div(&x.f_abs()?.f_add_scalar(1.0)?)?)
}

fn swish(x: &Tensor, alpha: f64) -> Result<Tensor> {
    if alpha == 1.0 { Ok(x.f_silu()?) } else { Ok(x.f_mul_scalar(alpha)?.f_sigmoid()?.f_mul(x)?) }
}

/// `x` above zero, `alpha * x` below. The binding of libtorch's leaky_relu knows one slope only, PReLU any.
fn leaky_relu(node: &Node<'_>) -> Result<Kernel> {
    node.ignore("consumed_inputs");
    let alpha = node.float_or("alpha", f64::from(0.01_f32))?;
    one(move |call| {
        let x = call.input(0)?;
        Ok(x.f_prelu(&Tensor::f_full([1], alpha, (x.f_kind()?, x.device()))?)?)
    })
}

/// `gamma * x` above zero, `gamma * alpha * (exp(x) - 1)` below.
fn elu(node: &Node<'_>, alpha: f64, gamma: f64) -> Result<Kernel> {
    node.ignore("consumed_inputs");
    if alpha == 1.0 && gamma == 1.0 {
        return unary(node, Tensor::f_elu);
    }
    one(move |call| {
        let x = call.input(0)?;
        // Clamped first, so that exp overflows nowhere: neither its value nor its gradient.
        let below = x.f_clamp_max(0.0)?.f_expm1()?.f_mul_scalar(alpha)?;
        let y = x.f_relu()?.f_add(&below)?;
        if gamma == 1.0 { Ok(y) } else { Ok(y.f_mul_scalar(gamma)?) }
    })
}

fn celu(node: &Node<'_>) -> Result<Kernel> {
    let alpha = node.float_or("alpha", 1.0)?;
    if alpha == 0.0 {
        return node.unsupported("alpha 0");
    }
    one(move |call| {
        let x = call.input(0)?;
        // min(0, alpha * (exp(x / alpha) - 1)) is the same with the minimum inside, for either sign of alpha.
        let inner = x.f_clamp_max(0.0)?.f_div_scalar(alpha)?;
        Ok(x.f_relu()?.f_add(&inner.f_expm1()?.f_mul_scalar(alpha)?)?)
    })
}

fn hard_sigmoid(node: &Node<'_>) -> Result<Kernel> {
    node.ignore("consumed_inputs");
    let alpha = node.float_or("alpha", f64::from(0.2_f32))?;
    let beta = node.float_or("beta", 0.5)?;
    // PyTorch's hard sigmoid, which has a fused kernel.
    if (alpha - 1.0 / 6.0).abs() < 1e-7 && beta == 0.5 {
        return unary(node, Tensor::f_hardsigmoid);
    }
    one(move |call| Ok(call.input(0)?.f_mul_scalar(alpha)?.f_add_scalar(beta)?.f_clamp(0.0, 1.0)?))
}

fn gelu(node: &Node<'_>) -> Result<Kernel> {
    let approximate = node.text_or("approximate", "none")?;
    if !matches!(approximate.as_str(), "none" | "tanh") {
        return node.unsupported(format!("approximate '{approximate}'"));
    }
    one(move |call| Ok(call.input(0)?.f_gelu(&approximate)?))
}

/// GELU of the sum of both inputs.
///
/// Source: <https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.FastGelu>.
fn biased_gelu(approximate: &'static str) -> Result<Kernel> {
    one(move |call| {
        let x = call.input(0)?;
        let sum = match call.optional(1) {
            Some(bias) => {
                bound_broadcast(&[x, bias])?;
                x.f_add(bias)?
            }
            None => x.shallow_clone(),
        };
        Ok(sum.f_gelu(approximate)?)
    })
}

fn shrink(node: &Node<'_>) -> Result<Kernel> {
    let bias = node.float_or("bias", 0.0)?;
    let lambd = node.float_or("lambd", 0.5)?;
    one(move |call| {
        let x = call.input(0)?;
        let kind = x.f_kind()?;
        let zero = x.f_zeros_like()?;
        let above = x.f_sub_scalar(bias)?.f_where_self(&x.f_gt(lambd)?, &zero)?;
        let y = x.f_add_scalar(bias)?.f_where_self(&x.f_lt(-lambd)?, &above)?;
        if is_whole(kind) { Ok(y.f_to_kind(kind)?) } else { Ok(y) }
    })
}

/// Below opset 7 a slope with one value a channel lies along axis 1.
fn prelu_per_channel(node: &Node<'_>) -> Result<Kernel> {
    node.ignore("consumed_inputs");
    one(|call| {
        let (x, slope) = pair(call)?;
        if slope.numel() == 1 || x.dim() < 2 {
            return with_slope(&x, &slope);
        }
        let mut shape = vec![-1];
        shape.extend(std::iter::repeat_n(1, x.dim() - 2));
        with_slope(&x, &slope.f_reshape(shape)?)
    })
}

fn prelu(call: &Call<'_>) -> Result<Tensor> {
    let (x, slope) = pair(call)?;
    let per_channel = slope.dim() + 1 == x.dim() && slope.size().iter().skip(1).all(|&size| size == 1);
    let channels = x.size().get(1).copied();
    if !is_whole(x.f_kind()?) && (slope.numel() == 1 || (per_channel && slope.size().first().copied() == channels)) {
        return Ok(x.f_prelu(&slope.f_reshape([-1])?)?);
    }
    with_slope(&x, &slope)
}

fn with_slope(x: &Tensor, slope: &Tensor) -> Result<Tensor> {
    bound_broadcast(&[x, slope])?;
    Ok(x.f_relu()?.f_add(&x.f_clamp_max(0)?.f_mul(slope)?)?)
}
