//! Dropout.

use rand_mt::Mt;

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
    Ok(Box::new(move |call| dropout(call, ratio, always.then_some(None), mask)))
}

/// In training libtorch's generator draws the mask; a node's own `seed` has a say only where it drops in evaluation, too.
fn by_input(node: &Node<'_>) -> Result<Kernel> {
    let seed = node.int("seed")?;
    let mask = mask_of(node);
    Ok(Box::new(move |call| {
        let ratio = call.optional_number(1)?.unwrap_or(0.5);
        let always = call.optional_number(2)?.is_some_and(|training| training != 0.0);
        dropout(call, ratio, always.then_some(seed), mask)
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

/// The output and, where it is wanted, the mask of what was kept. `always` is there where the node drops in evaluation as well, and
/// holds its seed.
fn dropout(call: &Call<'_>, ratio: f64, always: Option<Option<i64>>, mask: Mask) -> Result<Vec<Tensor>> {
    let x = call.input(0)?;
    if !(0.0..1.0).contains(&ratio) {
        return Err(Error::malformed(format!("dropout ratio {ratio} is not in [0, 1)")));
    }
    let kept = match mask {
        Mask::LikeData => x.f_kind()?,
        Mask::Unwanted | Mask::Boolean => Kind::Bool,
    };
    if ratio == 0.0 || (call.mode == Mode::Eval && always.is_none()) {
        let y = x.shallow_clone();
        return Ok(match mask {
            Mask::Unwanted => vec![y],
            Mask::Boolean | Mask::LikeData => vec![y, Tensor::f_ones(x.size(), (kept, x.device()))?],
        });
    }
    let (y, drawn) = match (call.mode, always.flatten()) {
        (Mode::Train, _) => x.f_native_dropout(ratio, true)?,
        (Mode::Eval, Some(seed)) => {
            let drawn = kept_by_seed(seed, ratio, x)?;
            (x.f_mul(&drawn.f_to_kind(x.f_kind()?)?)?.f_div_scalar(1.0 - ratio)?, drawn)
        }
        (Mode::Eval, None) => {
            let error = Error::unsupported("Dropout that stays active in evaluation without a seed is not supported");
            return Err(error.help("export the model in evaluation mode"));
        }
    };
    Ok(match mask {
        Mask::Unwanted => vec![y],
        Mask::Boolean | Mask::LikeData => vec![y, drawn.f_to_kind(kept)?],
    })
}

/// The mask of ONNX's reference implementation, which draws it with NumPy: one number in `[0, 1)` of 53 bits for each element.
fn kept_by_seed(seed: i64, ratio: f64, x: &Tensor) -> Result<Tensor> {
    let mut generator = Mt::new(u32::try_from(seed).map_err(|_| Error::malformed(format!("seed {seed} is not one of 32 bits")))?);
    let mut number = || {
        let (high, low) = (generator.next_u32() >> 5, generator.next_u32() >> 6);
        (f64::from(high) * 67_108_864.0 + f64::from(low)) / 9_007_199_254_740_992.0
    };
    let kept: Vec<bool> = (0..x.numel()).map(|_| number() >= ratio).collect();
    Ok(Tensor::f_from_slice(&kept)?.f_reshape(x.size())?.f_to_device(x.device())?)
}
