//! Operators: elementwise functions that networks use as activations.

use super::{Call, Kernel, Node, Op, one};
use crate::error::{Error, Result};
use crate::tensor::{Tensor, is_float};

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("Relu", 1, 1, relu),
    Op::new("Relu", 6, 1, relu),
    Op::new("LeakyRelu", 1, 1, leaky_relu),
    Op::new("PRelu", 1, 2, prelu_unidirectional).at_least(2).weights(&[1]).gradients(&[0, 1]),
    Op::new("PRelu", 7, 2, prelu).at_least(2).weights(&[1]).gradients(&[0, 1]),
    Op::new("Elu", 1, 1, elu),
    Op::new("Selu", 1, 1, selu),
    Op::new("Celu", 12, 1, celu),
    Op::new("Sigmoid", 1, 1, sigmoid),
    Op::new("HardSigmoid", 1, 1, hard_sigmoid),
    Op::new("HardSwish", 14, 1, hard_swish),
    Op::new("Tanh", 1, 1, tanh),
    Op::new("Softplus", 1, 1, softplus),
    Op::new("Softsign", 1, 1, softsign),
    Op::new("ThresholdedRelu", 10, 1, thresholded_relu),
    Op::new("Gelu", 20, 1, gelu),
    Op::new("Mish", 18, 1, mish),
    Op::new("Swish", 24, 1, swish),
    Op::new("Erf", 9, 1, erf),
    Op::new("Shrink", 9, 1, shrink),
];

fn relu(node: &Node) -> Result<Kernel> {
    node.ignore("consumed_inputs");
    one(|call| Ok(call.input(0)?.f_relu()?))
}

fn leaky_relu(node: &Node) -> Result<Kernel> {
    node.ignore("consumed_inputs");
    let alpha = node.float_or("alpha", 0.01)?;
    one(move |call| {
        let x = call.input(0)?;
        // libtorch's leaky_relu has a fixed slope in its binding; the two halves are exact and differentiable.
        Ok(x.f_clamp_min(0.0)?.f_add(&x.f_clamp_max(0.0)?.f_mul_scalar(alpha)?)?)
    })
}

/// Before opset 7 a slope of one number a channel counts from axis 1 and not from the last.
fn prelu_unidirectional(node: &Node) -> Result<Kernel> {
    node.ignore("consumed_inputs");
    one(|call| {
        let (x, slope) = (call.input(0)?, call.input(1)?);
        if slope.numel() == 1 || slope.dim() != 1 || x.dim() < 2 {
            return prelu_of(x, slope);
        }
        let mut shape = vec![1; x.dim()];
        shape[1] = slope.size()[0];
        prelu_of(x, &slope.f_view(shape.as_slice())?)
    })
}

fn prelu(_node: &Node) -> Result<Kernel> {
    one(|call| prelu_of(call.input(0)?, call.input(1)?))
}

fn prelu_of(x: &Tensor, slope: &Tensor) -> Result<Tensor> {
    Ok(x.f_clamp_min(0.0)?.f_add(&x.f_clamp_max(0.0)?.f_mul(slope)?)?)
}

fn elu(node: &Node) -> Result<Kernel> {
    node.ignore("consumed_inputs");
    let alpha = node.float_or("alpha", 1.0)?;
    one(move |call| scaled_elu(call.input(0)?, alpha, 1.0, 1.0))
}

fn selu(node: &Node) -> Result<Kernel> {
    node.ignore("consumed_inputs");
    // Opset 1 prints fewer digits of the same constants.
    let (alpha, gamma) = if node.opset < 6 { (1.6732, 1.0507) } else { (1.673_263_192_176_818_8, 1.050_701_022_148_132_3) };
    let (alpha, gamma) = (node.float_or("alpha", alpha)?, node.float_or("gamma", gamma)?);
    one(move |call| scaled_elu(call.input(0)?, alpha, gamma, 1.0))
}

fn celu(node: &Node) -> Result<Kernel> {
    let alpha = node.float_or("alpha", 1.0)?;
    if alpha == 0.0 {
        return Err(Error::malformed("alpha is 0"));
    }
    one(move |call| scaled_elu(call.input(0)?, alpha, 1.0, 1.0 / alpha))
}

/// `scale * (max(x, 0) + alpha * (exp(min(x, 0) * inner) - 1))`. The clamp keeps exp, and its gradient, finite.
fn scaled_elu(x: &Tensor, alpha: f64, scale: f64, inner: f64) -> Result<Tensor> {
    let negative = x.f_clamp_max(0.0)?.f_mul_scalar(inner)?.f_expm1()?.f_mul_scalar(alpha)?;
    Ok(x.f_clamp_min(0.0)?.f_add(&negative)?.f_mul_scalar(scale)?)
}

fn sigmoid(node: &Node) -> Result<Kernel> {
    node.ignore("consumed_inputs");
    one(|call| Ok(call.input(0)?.f_sigmoid()?))
}

fn hard_sigmoid(node: &Node) -> Result<Kernel> {
    node.ignore("consumed_inputs");
    let (alpha, beta) = (node.float_or("alpha", 0.2)?, node.float_or("beta", 0.5)?);
    one(move |call| Ok(call.input(0)?.f_mul_scalar(alpha)?.f_add_scalar(beta)?.f_clamp(0.0, 1.0)?))
}

fn hard_swish(_node: &Node) -> Result<Kernel> {
    one(|call| Ok(call.input(0)?.f_hardswish()?))
}

fn tanh(node: &Node) -> Result<Kernel> {
    node.ignore("consumed_inputs");
    one(|call| Ok(call.input(0)?.f_tanh()?))
}

fn softplus(_node: &Node) -> Result<Kernel> {
    one(|call| {
        let x = call.input(0)?;
        // log(1 + exp(x)) without overflow: max(x, 0) + log1p(exp(-|x|)).
        Ok(x.f_clamp_min(0.0)?.f_add(&x.f_abs()?.f_neg()?.f_exp()?.f_log1p()?)?)
    })
}

fn softsign(_node: &Node) -> Result<Kernel> {
    one(|call| {
        let x = call.input(0)?;
        Ok(x.f_div(&x.f_abs()?.f_add_scalar(1.0)?)?)
    })
}

fn thresholded_relu(node: &Node) -> Result<Kernel> {
    let alpha = node.float_or("alpha", 1.0)?;
    one(move |call| {
        let x = call.input(0)?;
        Ok(x.f_mul(&x.f_gt(alpha)?.f_to_kind(x.kind())?)?)
    })
}

fn gelu(node: &Node) -> Result<Kernel> {
    let approximate = node.text_or("approximate", "none")?;
    if approximate != "none" && approximate != "tanh" {
        return Err(Error::malformed(format!("approximate is '{approximate}'")));
    }
    one(move |call| Ok(call.input(0)?.f_gelu(&approximate)?))
}

fn mish(_node: &Node) -> Result<Kernel> {
    one(|call| Ok(call.input(0)?.f_mish()?))
}

fn swish(node: &Node) -> Result<Kernel> {
    let alpha = node.float_or("alpha", 1.0)?;
    one(move |call| {
        let x = call.input(0)?;
        Ok(x.f_mul(&x.f_mul_scalar(alpha)?.f_sigmoid()?)?)
    })
}

fn erf(_node: &Node) -> Result<Kernel> {
    one(|call| {
        let x = call.input(0)?;
        if is_float(x.kind()) {
            Ok(x.f_erf()?)
        } else {
            Ok(x.f_to_kind(crate::tensor::Kind::Double)?.f_erf()?.f_to_kind(x.kind())?)
        }
    })
}

fn shrink(node: &Node) -> Result<Kernel> {
    let (lambda, bias) = (node.float_or("lambd", 0.5)?, node.float_or("bias", 0.0)?);
    one(move |call: &Call| {
        let x = call.input(0)?;
        let below = x.f_lt(-lambda)?.f_to_kind(x.kind())?;
        let above = x.f_gt(lambda)?.f_to_kind(x.kind())?;
        let low = x.f_add_scalar(bias)?.f_mul(&below)?;
        let high = x.f_sub_scalar(bias)?.f_mul(&above)?;
        Ok(low.f_add(&high)?.f_to_kind(x.kind())?)
    })
}
