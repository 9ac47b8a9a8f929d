//! Elementwise functions of one input without attributes.

use super::operands::{is_whole, unary};
use super::{Op, one};
use crate::tensor::Tensor;

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("Abs", 1, 1, |node| unary(node, Tensor::f_abs)),
    Op::new("Acos", 7, 1, |node| unary(node, Tensor::f_acos)),
    Op::new("Acosh", 9, 1, |node| unary(node, Tensor::f_acosh)),
    Op::new("Asin", 7, 1, |node| unary(node, Tensor::f_asin)),
    Op::new("Asinh", 9, 1, |node| unary(node, Tensor::f_asinh)),
    Op::new("Atan", 7, 1, |node| unary(node, Tensor::f_atan)),
    Op::new("Atanh", 9, 1, |node| unary(node, Tensor::f_atanh)),
    Op::new("Ceil", 1, 1, |node| unary(node, Tensor::f_ceil)).gradients(&[]),
    Op::new("Cos", 7, 1, |node| unary(node, Tensor::f_cos)),
    Op::new("Cosh", 9, 1, |node| unary(node, Tensor::f_cosh)),
    Op::new("Erf", 9, 1, |_| {
        one(|call| {
            let x = call.input(0)?;
            let kind = x.f_kind()?;
            // ONNX allows integers, whose result is truncated like a cast.
            if is_whole(kind) { Ok(x.f_erf()?.f_to_kind(kind)?) } else { Ok(x.f_erf()?) }
        })
    }),
    Op::new("Exp", 1, 1, |node| unary(node, Tensor::f_exp)),
    Op::new("Floor", 1, 1, |node| unary(node, Tensor::f_floor)).gradients(&[]),
    Op::new("IsNaN", 9, 1, |node| unary(node, Tensor::f_isnan)).gradients(&[]),
    Op::new("IsInf", 10, 1, |node| {
        let negative = node.int_or("detect_negative", 1)? != 0;
        let positive = node.int_or("detect_positive", 1)? != 0;
        one(move |call| {
            let x = call.input(0)?;
            Ok(match (negative, positive) {
                (true, true) => x.f_isinf()?,
                (true, false) => x.f_isneginf()?,
                (false, true) => x.f_isposinf()?,
                (false, false) => x.f_zeros_like()?.f_to_kind(crate::tensor::Kind::Bool)?,
            })
        })
    })
    .gradients(&[]),
    Op::new("Log", 1, 1, |node| unary(node, Tensor::f_log)),
    Op::new("Neg", 1, 1, |node| unary(node, Tensor::f_neg)),
    Op::new("Not", 1, 1, |node| unary(node, Tensor::f_logical_not)).gradients(&[]),
    Op::new("Reciprocal", 1, 1, |node| unary(node, Tensor::f_reciprocal)),
    // Halves go to the even neighbour in both ONNX and libtorch.
    Op::new("Round", 11, 1, |node| unary(node, Tensor::f_round)).gradients(&[]),
    Op::new("Sign", 9, 1, |node| unary(node, Tensor::f_sign)).gradients(&[]),
    Op::new("Sin", 7, 1, |node| unary(node, Tensor::f_sin)),
    Op::new("Sinh", 9, 1, |node| unary(node, Tensor::f_sinh)),
    Op::new("Sqrt", 1, 1, |node| unary(node, Tensor::f_sqrt)),
    Op::new("Tan", 7, 1, |node| unary(node, Tensor::f_tan)),
];
