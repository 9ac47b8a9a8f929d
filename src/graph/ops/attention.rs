//! Operators: attention.

use super::{Call, Kernel, Node, Op, one};
use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor};

/// The rows of this family.
pub const OPS: &[Op] = &[Op::new("Attention", 23, 4, attention).at_least(3).gradients(&[0, 1, 2, 3])];

/// onnx: Attention-23. Queries, keys and values `[N, heads, L, D]`, or `[N, L, heads * D]` with the numbers of heads as attributes.
/// Caches of earlier keys and values, and the softcap, belong to language models and are refused.
fn attention(node: &Node) -> Result<Kernel> {
    let causal = node.flag("is_causal")?;
    let scale = node.float("scale")?;
    let (query_heads, key_heads) = (node.int("q_num_heads")?, node.int("kv_num_heads")?);
    if node.float_or("softcap", 0.0)? != 0.0 {
        return node.unsupported("a softcap");
    }
    // Only the second output, which is not given, depends on it.
    node.ignore("qk_matmul_output_mode");
    node.ignore("softmax_precision");
    one(move |call: &Call| {
        let query = split_heads(call.input(0)?, query_heads)?;
        let key = split_heads(call.input(1)?, key_heads)?;
        let value = split_heads(call.input(2)?, key_heads)?;
        let (heads, shared) = (query.size()[1], key.size()[1]);
        if shared == 0 || heads % shared != 0 {
            return Err(Error::malformed(format!("{heads} query heads over {shared} key heads")));
        }
        let spread = |t: &Tensor| -> Result<Tensor> { Ok(t.f_repeat_interleave_self_int(heads / shared, 1, None::<i64>)?) };
        let (key, value) = if heads == shared { (key, value) } else { (spread(&key)?, spread(&value)?) };
        let width = query.size()[3] as f64;
        let scores = query.f_matmul(&key.f_transpose(-2, -1)?)?.f_mul_scalar(scale.unwrap_or(1.0 / width.sqrt()))?;
        let weights = masked(&scores, call.optional(3), causal)?.f_softmax(-1, None::<Kind>)?;
        let result = weights.f_matmul(&value)?;
        if call.input(0)?.dim() == 4 { Ok(result) } else { Ok(result.f_transpose(1, 2)?.f_flatten(2, 3)?) }
    })
}

fn split_heads(x: &Tensor, heads: Option<i64>) -> Result<Tensor> {
    match (x.dim(), heads) {
        (4, _) => Ok(x.shallow_clone()),
        (3, Some(heads)) if heads > 0 => Ok(x.f_unflatten(2, [heads, -1])?.f_transpose(1, 2)?),
        (rank, _) => Err(Error::malformed(format!("an operand of rank {rank} without a number of heads"))),
    }
}

/// Adds a float mask, or shuts out what a boolean mask or the causal order forbids.
fn masked(scores: &Tensor, mask: Option<&Tensor>, causal: bool) -> Result<Tensor> {
    let mut scores = scores.shallow_clone();
    if let Some(mask) = mask {
        let mask = mask.f_to_device(scores.device())?;
        scores = if mask.kind() == Kind::Bool {
            scores.f_masked_fill(&mask.f_logical_not()?, f64::NEG_INFINITY)?
        } else {
            scores.f_add(&mask)?
        };
    }
    if causal {
        let size = scores.size();
        let (queries, keys) = (size[size.len() - 2], size[size.len() - 1]);
        let later = Tensor::f_ones([queries, keys], (Kind::Bool, scores.device()))?.f_triu(1)?;
        scores = scores.f_masked_fill(&later, f64::NEG_INFINITY)?;
    }
    Ok(scores)
}
