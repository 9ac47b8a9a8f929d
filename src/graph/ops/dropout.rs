//! Operators: dropout.

use super::{Call, Flow, Kernel, Mode, Node, Op};
use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor};

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("Dropout", 1, 1, by_attribute).outputs(2).flow(Flow::Moves),
    Op::new("Dropout", 12, 3, by_input).outputs(2).flow(Flow::Moves),
];

fn by_attribute(node: &Node) -> Result<Kernel> {
    node.ignore("is_test");
    node.ignore("consumed_inputs");
    let ratio = node.float_or("ratio", 0.5)?;
    let wants_mask = node.has_output(1);
    Ok(Box::new(move |call| drop(call, ratio, wants_mask)))
}

fn by_input(node: &Node) -> Result<Kernel> {
    // The file's seed would give the same mask in every step; libtorch's seeded generator is used.
    node.ignore("seed");
    let wants_mask = node.has_output(1);
    Ok(Box::new(move |call| {
        let training = call.optional_number(2)?.is_some_and(|v| v != 0.0);
        if training && call.mode == Mode::Eval {
            return Err(Error::unsupported("Dropout that is switched on for evaluation gives other results in every run"));
        }
        drop(call, call.optional_number(1)?.unwrap_or(0.5), wants_mask)
    }))
}

/// Dropout is live while training, as the framework that the model came from would have it; else it is the identity.
fn drop(call: &Call, ratio: f64, wants_mask: bool) -> Result<Vec<Tensor>> {
    let x = call.input(0)?;
    if !(0.0..1.0).contains(&ratio) {
        return Err(Error::malformed(format!("the ratio {ratio} is not in 0..1")));
    }
    if call.mode == Mode::Eval || ratio == 0.0 {
        let mut outputs = vec![x.shallow_clone()];
        if wants_mask {
            outputs.push(x.f_ones_like()?.f_to_kind(Kind::Bool)?);
        }
        return Ok(outputs);
    }
    let mask = x.f_rand_like()?.f_ge(ratio)?;
    let dropped = x.f_mul(&mask.f_to_kind(x.kind())?)?.f_div_scalar(1.0 - ratio)?;
    Ok(if wants_mask { vec![dropped, mask] } else { vec![dropped] })
}
