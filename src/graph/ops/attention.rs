//! Attention and rotary embeddings.

use super::operands::{dim, elements, on};
use super::values::kind_attribute;
use super::{Call, Kernel, Node, Op, one};
use crate::error::{Error, Result};
use crate::tensor::{Device, Kind, Tensor};

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("Attention", 23, 6, attention).at_least(3).outputs(4).weights(&[0, 1, 2, 3]).gradients(&[0, 1, 2, 3, 4, 5]),
    Op::new("Attention", 24, 7, attention).at_least(3).outputs(4).weights(&[0, 1, 2, 3]).gradients(&[0, 1, 2, 3, 4, 5]),
    Op::new("RotaryEmbedding", 23, 4, rotary).at_least(3).gradients(&[0, 1, 2]),
];

/// onnx: Attention-23, -24, -25. Names in shapes: N batch, H query heads, G key and value heads, Q queries, K keys.
struct Attention {
    scale: Option<f64>,
    softcap: f64,
    causal: bool,
    query_heads: Option<i64>,
    key_heads: Option<i64>,
    softmax_kind: Option<Kind>,
    /// Farthest key before and behind a query; -1 for any.
    window: (i64, i64),
    /// What output 3 shows; `None` if nobody wants it.
    shown: Option<i64>,
}

fn attention(node: &Node<'_>) -> Result<Kernel> {
    let mode = node.int_or("qk_matmul_output_mode", 0)?;
    if !(0..=3).contains(&mode) {
        return node.unsupported(format!("qk_matmul_output_mode {mode}"));
    }
    let side = |name: &str| if node.opset >= 25 { node.int_or(name, -1) } else { Ok(-1) };
    let attention = Attention {
        scale: node.float("scale")?,
        softcap: node.float_or("softcap", 0.0)?,
        causal: node.flag("is_causal")?,
        query_heads: node.int("q_num_heads")?,
        key_heads: node.int("kv_num_heads")?,
        softmax_kind: kind_attribute(node, "softmax_precision")?,
        window: (side("left_window_size")?, side("right_window_size")?),
        shown: node.has_output(3).then_some(mode),
    };
    if attention.window.0 < -1 || attention.window.1 < -1 {
        return Err(Error::malformed(format!("window sizes {:?}", attention.window)));
    }
    Ok(Box::new(move |call| attention.run(call)))
}

/// `[N, length, heads * size]` to `[N, heads, length, size]`.
fn by_heads(x: &Tensor, heads: Option<i64>) -> Result<Tensor> {
    match (&x.size()[..], heads) {
        ([_, _, _, _], _) => Ok(x.shallow_clone()),
        (&[batch, length, hidden], Some(heads)) if heads > 0 => {
            Ok(x.f_reshape([batch, length, heads, hidden / heads])?.f_transpose(1, 2)?)
        }
        (shape, _) => Err(Error::malformed(format!("shape {shape:?} without the number of heads"))),
    }
}

impl Attention {
    fn run(&self, call: &Call<'_>) -> Result<Vec<Tensor>> {
        let (x, flat) = (call.input(0)?, call.input(0)?.dim() == 3);
        let q = by_heads(x, self.query_heads)?;
        let key = past_and(call.optional(4), by_heads(call.input(1)?, self.key_heads)?)?;
        let value = past_and(call.optional(5), by_heads(call.input(2)?, self.key_heads)?)?;
        let kind = q.f_kind()?;
        let heads = dim(&q.size(), 1)?;
        let (k, v) = (repeated(&key, heads)?, repeated(&value, heads)?);
        #[expect(clippy::cast_precision_loss, reason = "a head's size is small")]
        let scale = self.scale.unwrap_or_else(|| 1.0 / (dim(&q.size(), 3).unwrap_or(1) as f64).sqrt());
        let (images, queries, keys) = (dim(&q.size(), 0)?, dim(&q.size(), 2)?, dim(&k.size(), 2)?);
        elements(&[images, heads, queries, keys])?;
        let bias = self.bias(call, &q, &k)?;
        // The CPU's kernels for half precision round at every step.
        let wide = if matches!(kind, Kind::Half | Kind::BFloat16) && q.device() == Device::Cpu { Kind::Float } else { kind };
        let (q, k, v) = (q.f_to_kind(wide)?, k.f_to_kind(wide)?, v.f_to_kind(wide)?);
        let plain = bias.is_none() && self.softcap == 0.0 && self.shown.is_none() && self.softmax_kind.is_none();
        let (y, shown) = if plain {
            let y = Tensor::f_scaled_dot_product_attention(&q, &k, &v, None::<&Tensor>, 0.0, false, scale, false)?;
            (y, None)
        } else {
            // Both factors scaled, as the page says, so that half precision does not overflow.
            let root = scale.sqrt();
            let raw = q.f_mul_scalar(root)?.f_matmul(&k.f_mul_scalar(root)?.f_transpose(2, 3)?)?;
            let capped = match self.softcap {
                cap if cap > 0.0 => raw.f_div_scalar(cap)?.f_tanh()?.f_mul_scalar(cap)?,
                _ => raw.shallow_clone(),
            };
            let biased = match &bias {
                Some(bias) => capped.f_add(bias)?,
                None => capped.shallow_clone(),
            };
            let shares = softmax(&biased.f_to_kind(self.softmax_kind.unwrap_or(wide))?, bias.is_some())?.f_to_kind(wide)?;
            let shown = match self.shown {
                Some(0) => Some(raw),
                Some(1) => Some(capped),
                Some(2) => Some(biased),
                Some(_) => Some(shares.shallow_clone()),
                None => None,
            };
            (shares.f_matmul(&v)?, shown)
        };
        let y = if flat { y.f_transpose(1, 2)?.f_flatten(2, 3)? } else { y }.f_to_kind(kind)?;
        let shown = shown.map(|shown| shown.f_to_kind(kind)).transpose()?;
        Ok([y, key, value].into_iter().chain(shown).collect())
    }

    /// What is added to the scores, of a shape that broadcasts to `[N, H, Q, K]`: the mask, and negative infinity where a query
    /// must not look.
    fn bias(&self, call: &Call<'_>, q: &Tensor, k: &Tensor) -> Result<Option<Tensor>> {
        let (queries, keys, device) = (dim(&q.size(), 2)?, dim(&k.size(), 2)?, q.device());
        let kind = q.f_kind()?;
        let mut allowed: Option<Tensor> = None;
        let mut added: Option<Tensor> = None;
        if let Some(mask) = call.optional(3) {
            let mask = on(mask, device)?;
            let missing = keys - mask.size().last().copied().unwrap_or(keys);
            let boolean = mask.f_kind()? == Kind::Bool;
            let outside = if boolean { 0.0 } else { f64::NEG_INFINITY };
            let mask = if missing > 0 { mask.f_pad([0, missing], "constant", outside)? } else { mask };
            if boolean {
                allowed = Some(mask);
            } else {
                added = Some(mask);
            }
        }
        let valid = call.optional(6).map(|valid| -> Result<Tensor> { Ok(on(valid, device)?.f_reshape([-1, 1, 1, 1])?) });
        let valid = valid.transpose()?;
        let column = Tensor::f_arange(keys, (Kind::Int64, device))?;
        if self.causal || self.window != (-1, -1) {
            // The queries' places among the keys: behind those of the cache, wherever it is kept.
            let row = Tensor::f_arange(queries, (Kind::Int64, device))?.f_unsqueeze(1)?;
            let place = match (call.optional(4), &valid) {
                (Some(past), _) => row.f_add_scalar(dim(&past.size(), 2)?)?,
                (None, Some(valid)) => row.f_add(&valid.f_sub_scalar(queries)?)?,
                (None, None) => row,
            };
            let ahead = column.f_sub(&place)?;
            let (left, right) = (self.window.0, if self.causal { 0 } else { self.window.1 });
            if right >= 0 {
                and(&mut allowed, ahead.f_le(right)?)?;
            }
            if left >= 0 {
                and(&mut allowed, ahead.f_ge(-left)?)?;
            }
        }
        if let Some(valid) = &valid {
            and(&mut allowed, column.f_lt_tensor(valid)?)?;
        }
        let Some(allowed) = allowed else { return Ok(added) };
        let barred =
            Tensor::f_zeros(allowed.size(), (kind, device))?.f_masked_fill(&allowed.f_logical_not()?, f64::NEG_INFINITY)?;
        Ok(Some(match added {
            Some(added) => added.f_add(&barred)?,
            None => barred,
        }))
    }
}

fn and(allowed: &mut Option<Tensor>, more: Tensor) -> Result<()> {
    *allowed = Some(match allowed.take() {
        Some(allowed) => allowed.f_logical_and(&more)?,
        None => more,
    });
    Ok(())
}

fn past_and(past: Option<&Tensor>, new: Tensor) -> Result<Tensor> {
    match past {
        Some(past) => Ok(Tensor::f_cat(&[on(past, new.device())?, new], 2)?),
        None => Ok(new),
    }
}

/// Each key head for as many query heads as share it.
fn repeated(x: &Tensor, heads: i64) -> Result<Tensor> {
    let own = dim(&x.size(), 1)?;
    if own == heads {
        return Ok(x.shallow_clone());
    }
    if own <= 0 || heads % own != 0 {
        return Err(Error::malformed(format!("{heads} query heads do not share {own} key heads")));
    }
    elements(&[heads, i64::try_from(x.numel()).map_err(Error::malformed)? / own])?;
    Ok(x.f_repeat_interleave_self_int(heads / own, 1, None::<i64>)?)
}

/// A row without any key gives zeros. It is set to zero before the softmax, too, or its gradient would be NaN.
fn softmax(scores: &Tensor, masked: bool) -> Result<Tensor> {
    if !masked {
        return Ok(scores.f_softmax(-1, None::<Kind>)?);
    }
    let empty = scores.f_amax([-1_i64], true)?.f_isneginf()?;
    Ok(scores.f_masked_fill(&empty, 0.0)?.f_softmax(-1, None::<Kind>)?.f_masked_fill(&empty, 0.0)?)
}

/// onnx: RotaryEmbedding-23.
fn rotary(node: &Node<'_>) -> Result<Kernel> {
    let heads = node.int("num_heads")?;
    let rotated = node.int_or("rotary_embedding_dim", 0)?;
    let interleaved = node.flag("interleaved")?;
    one(move |call| {
        let input = call.input(0)?;
        // [N, heads, length, size]
        let x = by_heads(input, heads)?;
        let size = dim(&x.size(), 3)?;
        let rotated = if rotated == 0 { size } else { rotated };
        if rotated < 0 || rotated > size || rotated % 2 != 0 {
            return Err(Error::malformed(format!("{rotated} of {size} elements cannot be rotated")));
        }
        let cache = |index: usize| -> Result<Tensor> {
            let cache = on(call.input(index)?, x.device())?;
            let cache = match call.optional(3) {
                Some(places) => {
                    let places = super::operands::indices(places, dim(&cache.size(), 0)?, x.device())?;
                    let shape = [places.size(), vec![-1]].concat();
                    cache.f_index_select(0, &places.f_reshape([-1])?)?.f_reshape(shape)?
                }
                None => cache,
            };
            Ok(cache.f_unsqueeze(1)?)
        };
        let (cosine, sine) = (cache(1)?, cache(2)?);
        let (turning, rest) = (x.f_narrow(3, 0, rotated)?, x.f_narrow(3, rotated, size - rotated)?);
        let half = rotated / 2;
        let (a, b) = if interleaved {
            (turning.f_slice(3, 0, rotated, 2)?, turning.f_slice(3, 1, rotated, 2)?)
        } else {
            (turning.f_narrow(3, 0, half)?, turning.f_narrow(3, half, half)?)
        };
        let real = cosine.f_mul(&a)?.f_sub(&sine.f_mul(&b)?)?;
        let imaginary = sine.f_mul(&a)?.f_add(&cosine.f_mul(&b)?)?;
        let turned = if interleaved {
            Tensor::f_stack(&[real, imaginary], 4)?.f_flatten(3, 4)?
        } else {
            Tensor::f_cat(&[real, imaginary], 3)?
        };
        let y = Tensor::f_cat(&[turned, rest], 3)?;
        if input.dim() == 3 { Ok(y.f_transpose(1, 2)?.f_flatten(2, 3)?) } else { Ok(y) }
    })
}
