//! Normalisation without learned parameters.

use super::{Kernel, Node, Op, axis_in, one};
use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor};

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("LRN", 1, 1, lrn),
    Op::new("LpNormalization", 1, 1, lp_normalization),
    Op::new("MeanVarianceNormalization", 9, 1, mean_variance),
];

/// onnx: LRN-13. `x / (bias + alpha / size * sum of squares over neighbouring channels) ^ beta`.
fn lrn(node: &Node<'_>) -> Result<Kernel> {
    let alpha = node.float_or("alpha", f64::from(1e-4_f32))?;
    let beta = node.float_or("beta", 0.75)?;
    let bias = node.float_or("bias", 1.0)?;
    let size = match node.int("size")? {
        Some(size) if (1..1 << 24).contains(&size) => size,
        Some(size) => return Err(Error::malformed(format!("size {size} is not in 1..16777216"))),
        None => return Err(Error::malformed("attribute 'size' is missing")),
    };
    one(move |call| {
        let x = call.input(0)?;
        if x.dim() < 2 {
            return Err(Error::malformed(format!("shape {:?} has no channels", x.size())));
        }
        let mut pads = vec![0; (x.dim() - 2) * 2];
        pads.extend([(size - 1) / 2, size - 1 - (size - 1) / 2]);
        let padded = x.f_square()?.f_constant_pad_nd(pads)?;
        let sum = padded.f_unfold(1, size, 1)?.f_sum_dim_intlist([-1_i64].as_slice(), false, None::<Kind>)?;
        #[expect(clippy::cast_precision_loss, reason = "below 2^24")]
        let share = alpha / size as f64;
        Ok(x.f_div(&sum.f_mul_scalar(share)?.f_add_scalar(bias)?.f_pow_tensor_scalar(beta)?)?)
    })
}

/// A norm of zero gives zeros.
fn lp_normalization(node: &Node<'_>) -> Result<Kernel> {
    let axis = node.int_or("axis", -1)?;
    let p = node.int_or("p", 2)?;
    if p != 1 && p != 2 {
        return node.unsupported(format!("p {p}"));
    }
    one(move |call| {
        let x = call.input(0)?;
        let norm: Tensor = x.f_norm_scalaropt_dim(p, [axis_in(axis, x.dim())?], true)?;
        let safe = norm.f_masked_fill(&norm.f_eq(0.0)?, 1.0)?;
        Ok(x.f_div(&safe)?)
    })
}

/// onnx: MeanVarianceNormalization-13. `(x - E x) / (sqrt(E x^2 - (E x)^2) + 1e-9)`.
fn mean_variance(node: &Node<'_>) -> Result<Kernel> {
    let axes = node.ints("axes")?.unwrap_or_else(|| vec![0, 2, 3]);
    one(move |call| {
        let x = call.input(0)?;
        let axes = super::operands::axes_in(&axes, x.dim())?;
        let centred = x.f_sub(&x.f_mean_dim(&axes[..], true, None::<Kind>)?)?;
        let deviation = centred.f_square()?.f_mean_dim(&axes[..], true, None::<Kind>)?.f_sqrt()?;
        Ok(centred.f_div(&deviation.f_add_scalar(1e-9)?)?)
    })
}
