//! Dropout.

use super::{Call, Flow, Kernel, Mode, Node, Op};
use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor};

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("Dropout", 1, 1, |node| {
        node.ignore("consumed_inputs");
        // Up to opset 6 a node without `is_test` drops whenever it runs.
        by_attribute(node, !node.flag("is_test")?)
    })
    .outputs(2)
    .flow(Flow::Moves),
    Op::new("Dropout", 7, 1, |node| by_attribute(node, false)).outputs(2).flow(Flow::Moves),
    Op::new("Dropout", 12, 3, by_input).outputs(2).flow(Flow::Moves),
];

fn by_attribute(node: &Node<'_>, always: bool) -> Result<Kernel> {
    let ratio = node.float_or("ratio", 0.5)?;
    let mask = mask_of(node);
    Ok(Box::new(move |call| dropout(call, ratio, always, mask)))
}

/// libtorch's generator draws the mask, so a node's own `seed` has no say.
fn by_input(node: &Node<'_>) -> Result<Kernel> {
    node.ignore("seed");
    let mask = mask_of(node);
    Ok(Box::new(move |call| {
        let ratio = call.optional_number(1)?.unwrap_or(0.5);
        let always = call.optional_number(2)?.is_some_and(|training| training != 0.0);
        dropout(call, ratio, always, mask)
    }))
}

#[derive(Debug, Clone, Copy)]
enum Mask {
    Unwanted,
    Boolean,
    /// Below opset 10 the mask has the data's type.
    LikeData,
}

fn mask_of(node: &Node<'_>) -> Mask {
    match node.has_output(1) {
        false => Mask::Unwanted,
        true if node.opset >= 10 => Mask::Boolean,
        true => Mask::LikeData,
    }
}

/// The output and, where it is wanted, the mask of what was kept.
fn dropout(call: &Call<'_>, ratio: f64, always: bool, mask: Mask) -> Result<Vec<Tensor>> {
    let x = call.input(0)?;
    if !(0.0..1.0).contains(&ratio) {
        return Err(Error::malformed(format!("dropout ratio {ratio} is not in [0, 1)")));
    }
    let kept = match mask {
        Mask::LikeData => x.f_kind()?,
        Mask::Unwanted | Mask::Boolean => Kind::Bool,
    };
    if ratio == 0.0 || (call.mode == Mode::Eval && !always) {
        let y = x.shallow_clone();
        return Ok(match mask {
            Mask::Unwanted => vec![y],
            Mask::Boolean | Mask::LikeData => vec![y, Tensor::f_ones(x.size(), (kept, x.device()))?],
        });
    }
    if call.mode == Mode::Eval {
        return Err(Error::unsupported("Dropout that stays active in evaluation is not supported")
            .help("export the model in evaluation mode"));
    }
    let (y, drawn) = x.f_native_dropout(ratio, true)?;
    Ok(match mask {
        Mask::Unwanted => vec![y],
        Mask::Boolean | Mask::LikeData => vec![y, drawn.f_to_kind(kept)?],
    })
}
