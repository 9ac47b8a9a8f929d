//! Normalisation layers.

use super::{ByExample, Call, ExampleRule, InBf16, Kernel, Link, Mode, Node, Op, axis_in, one};
use crate::error::{Error, Result};
use crate::tensor::native::Normalisation;
use crate::tensor::{Kind, Tensor, no_grad};

/// The rows of this family.
pub const OPS: &[Op] = &[
    batch_norm_row(1, 5),
    batch_norm_row(9, 5),
    batch_norm_row(14, 3),
    // ONNX has it since opset 17; ONNX Runtime's optimiser writes it for every opset.
    Op::new("LayerNormalization", 1, 3, layer_norm)
        .at_least(2)
        .outputs(3)
        .weights(&[1, 2])
        .gradients(&[0, 1, 2])
        .by_example(ByExample::Copies),
    Op::new("RMSNormalization", 23, 2, rms_norm).at_least(2).weights(&[1]).gradients(&[0, 1]),
    // By its older name in ONNX Runtime.
    Op::new("SimplifiedLayerNormalization", 1, 2, rms_norm).at_least(2).weights(&[1]).gradients(&[0, 1]),
    Op::new("GroupNormalization", 18, 3, group_norm).at_least(3).weights(&[1, 2]).gradients(&[0, 1, 2]),
    Op::new("InstanceNormalization", 1, 3, instance_norm).at_least(3).weights(&[1, 2]).gradients(&[0, 1, 2]),
];

const fn batch_norm_row(since: i64, outputs: usize) -> Op {
    Op::new("BatchNormalization", since, 5, batch_norm)
        .at_least(5)
        .outputs(outputs)
        .weights(&[1, 2])
        .buffers(&[3, 4])
        .gradients(&[0, 1, 2])
        .by_example(ByExample::Rule(batch_norm_by_example))
        .in_bf16(InBf16::Follows)
        .link(|node| Ok(BatchNorm::of(node)?.link()))
}

/// In the place of a BatchNormalization whose statistics are computed in the graph, as where a network standardises its weights:
/// there is nothing to keep between passes, and gradients reach the statistics as well.
pub(crate) const WITH_COMPUTED_STATISTICS: Op =
    Op::new("BatchNormalization", 1, 5, computed_statistics).at_least(5).weights(&[1, 2]).gradients(&[0, 1, 2, 3, 4]);

/// The same where the node itself asks for the statistics of what it normalises, and does not use the computed ones.
pub(crate) const WITH_OWN_STATISTICS: Op =
    Op::new("BatchNormalization", 1, 5, own_statistics).at_least(5).outputs(5).weights(&[1, 2]).gradients(&[0, 1, 2]);

/// Whether a BatchNormalization asks for the statistics of what it normalises.
pub(crate) fn asks_for_own_statistics(node: &Node<'_>) -> Result<bool> {
    Ok(node.opset >= 14 && node.flag("training_mode")?)
}

fn computed_statistics(node: &Node<'_>) -> Result<Kernel> {
    for attribute in ["momentum", "consumed_inputs", "is_test", "training_mode"] {
        node.ignore(attribute);
    }
    let epsilon = node.float_or("epsilon", EPSILON)?;
    if node.opset < 9 && node.int_or("spatial", 1)? == 0 {
        return node.unsupported("spatial 0 and computed statistics");
    }
    one(move |call| {
        let x = call.input(0)?;
        let mut shape = vec![1; x.dim()];
        *shape.get_mut(1).ok_or_else(|| Error::malformed("BatchNormalization of computed statistics needs two axes"))? = -1;
        let own = |index: usize| -> Result<Tensor> { Ok(call.input(index)?.f_reshape(&shape[..])?) };
        let deviation = own(4)?.f_add_scalar(epsilon)?.f_sqrt()?;
        Ok(x.f_sub(&own(3)?)?.f_div(&deviation)?.f_mul(&own(1)?)?.f_add(&own(2)?)?)
    })
}

/// Running statistics, if somebody reads them, are computed and not kept.
fn own_statistics(node: &Node<'_>) -> Result<Kernel> {
    let kernel = batch_norm(node)?;
    Ok(Box::new(move |call| kernel(&Call { inputs: call.inputs, mode: Mode::Eval })))
}

/// ONNX's default for every epsilon, as the single-precision number that the schema holds.
const EPSILON: f64 = 1e-5_f32 as f64;

#[derive(Debug, Clone, Copy)]
struct BatchNorm {
    epsilon: f64,
    /// The share of a new statistic in the running one, as PyTorch counts it: 1 minus ONNX's.
    momentum: f64,
    /// Opset 14: the node itself asks for the batch's statistics, in every mode.
    training: bool,
    /// Below opset 9: whether statistics are per channel, or per channel and place.
    spatial: bool,
    outputs: usize,
}

/// onnx: BatchNormalization-1, -6, -7, -9, -14, -15.
fn batch_norm(node: &Node<'_>) -> Result<Kernel> {
    node.ignore("consumed_inputs");
    // Up to opset 6 the number of outputs says the same.
    node.ignore("is_test");
    let batch_norm = BatchNorm::of(node)?;
    if batch_norm.outputs > 1 && !batch_norm.training {
        return node.unsupported("running statistics as outputs and without training_mode");
    }
    Ok(Box::new(move |call| batch_norm.run(call)))
}

/// Of scale and bias, where running statistics normalise: they are the same for all examples.
fn batch_norm_by_example(node: &Node<'_>) -> Result<ExampleRule> {
    let epsilon = node.float_or("epsilon", EPSILON)?;
    let per_channel = node.opset >= 9 || node.int_or("spatial", 1)? != 0;
    let training = node.opset >= 14 && node.flag("training_mode")?;
    Ok(Box::new(move |call, gradient, position| {
        let x = call.input(0)?;
        if training || !per_channel || x.dim() < 2 || gradient.size() != x.size() {
            return Ok(None);
        }
        let by_place = match position {
            1 => {
                let none = None::<&Tensor>;
                let (mean, variance) = (call.input(3)?, call.input(4)?);
                let normal = x.f_batch_norm(none, none, Some(mean), Some(variance), false, 0.0, epsilon, false)?;
                gradient.f_mul(&normal)?
            }
            2 => gradient.shallow_clone(),
            _ => return Ok(None),
        };
        let places: Vec<i64> = (2..).take(x.dim().saturating_sub(2)).collect();
        Ok(Some(if places.is_empty() { by_place } else { by_place.f_sum_dim_intlist(&places[..], false, None::<Kind>)? }))
    }))
}

impl BatchNorm {
    fn of(node: &Node<'_>) -> Result<BatchNorm> {
        Ok(BatchNorm {
            epsilon: node.float_or("epsilon", EPSILON)?,
            momentum: 1.0 - node.float_or("momentum", f64::from(0.9_f32))?,
            training: node.opset >= 14 && node.flag("training_mode")?,
            spatial: node.opset >= 9 || node.int_or("spatial", 1)? != 0,
            outputs: node.outputs.iter().rposition(|&wanted| wanted).map_or(1, |last| last + 1),
        })
    }

    fn link(self) -> Option<Link> {
        let plain = !self.training && self.spatial && self.outputs == 1;
        plain.then_some(Link::Norm(Normalisation { epsilon: self.epsilon, momentum: self.momentum }))
    }

    fn run(self, call: &Call<'_>) -> Result<Vec<Tensor>> {
        let input = call.input(0)?;
        let shape = input.size();
        // A lone axis is the batch, of one channel.
        let x = match shape.len() {
            0 => return Err(Error::malformed("BatchNormalization of a scalar")),
            1 => input.f_unsqueeze(1)?,
            _ if self.spatial => input.shallow_clone(),
            _ => input.f_reshape([shape[0], -1])?,
        };
        let flat = |index: usize| -> Result<Tensor> {
            let tensor = call.input(index)?;
            if self.spatial { Ok(tensor.shallow_clone()) } else { Ok(tensor.f_reshape([-1])?) }
        };
        let (scale, bias, mean, variance) = (flat(1)?, flat(2)?, flat(3)?, flat(4)?);
        let live = self.training || call.mode == Mode::Train;
        if live && x.numel() <= x.size().get(1).map_or(0, |&c| usize::try_from(c).unwrap_or(0)) {
            return Err(Error::data("batch statistics need more than one value per channel; use a larger batch"));
        }
        if self.training {
            let y = x.f_batch_norm(Some(&scale), Some(&bias), None::<&Tensor>, None, true, 0.0, self.epsilon, true)?;
            let mut results = vec![y.f_reshape(shape)?];
            if self.outputs > 1 || call.mode == Mode::Train {
                results.extend(self.running(&x, &mean, &variance, call.mode)?);
                results.truncate(self.outputs);
            }
            return Ok(results);
        }
        let y =
            x.f_batch_norm(Some(&scale), Some(&bias), Some(&mean), Some(&variance), live, self.momentum, self.epsilon, true)?;
        Ok(vec![y.f_reshape(shape)?])
    }

    /// onnx: BatchNormalization-15: running statistics use the population's variance, where PyTorch takes the sample's.
    fn running(self, x: &Tensor, mean: &Tensor, variance: &Tensor, mode: Mode) -> Result<[Tensor; 2]> {
        let _guard = no_grad();
        let axes: Vec<i64> = (0..).take(x.dim()).filter(|&axis| axis != 1).collect();
        let wide = if x.f_kind()? == Kind::Double { Kind::Double } else { Kind::Float };
        let x = x.f_to_kind(wide)?;
        let blend = |old: &Tensor, new: &Tensor| -> Result<Tensor> {
            let share = old.f_to_kind(wide)?.f_mul_scalar(1.0 - self.momentum)?;
            let blended = share.f_add(&new.f_mul_scalar(self.momentum)?)?.f_to_kind(old.f_kind()?)?;
            if mode == Mode::Train {
                old.shallow_clone().f_copy_(&blended)?;
            }
            Ok(blended)
        };
        let new_variance = x.f_var_dim(&axes[..], false, false)?;
        Ok([blend(mean, &x.f_mean_dim(&axes[..], false, None::<Kind>)?)?, blend(variance, &new_variance)?])
    }
}

/// The axes from `axis` on, as a shape; with the number of axes before them.
fn normalized(x: &Tensor, axis: i64) -> Result<(Vec<i64>, usize)> {
    let shape = x.size();
    let from = usize::try_from(axis_in(axis, shape.len())?).map_err(Error::malformed)?;
    Ok((shape.get(from..).unwrap_or_default().to_vec(), from))
}

/// `stash_type` 1 computes in single precision at least, which libtorch's kernels do anyway.
fn stash(node: &Node<'_>) -> Result<()> {
    match node.int_or("stash_type", 1)? {
        1 => Ok(()),
        other => node.unsupported(format!("stash_type {other}")),
    }
}

fn layer_norm(node: &Node<'_>) -> Result<Kernel> {
    stash(node)?;
    let axis = node.int_or("axis", -1)?;
    let epsilon = node.float_or("epsilon", EPSILON)?;
    let statistics = node.has_output(1) || node.has_output(2);
    Ok(Box::new(move |call| {
        let (x, scale, bias) = (call.input(0)?, call.input(1)?, call.optional(2));
        let (inner, from) = normalized(x, axis)?;
        let fits = |tensor: &Tensor| tensor.size() == inner && tensor.f_kind().ok() == x.f_kind().ok();
        if !statistics && fits(scale) && bias.is_none_or(fits) {
            return Ok(vec![x.f_layer_norm(&inner, Some(scale), bias, epsilon, true)?]);
        }
        // Scale and bias may have any shape that broadcasts to the input's.
        let apply = |y: Tensor| -> Result<Tensor> {
            let y = y.f_mul(scale)?;
            Ok(if let Some(bias) = bias { y.f_add(bias)? } else { y })
        };
        if !statistics {
            return Ok(vec![apply(x.f_layer_norm(&inner, None::<&Tensor>, None, epsilon, true)?)?]);
        }
        // libtorch's kernel gives the statistics, too, but no gradients through them.
        let kind = x.f_kind()?;
        let wide = if kind == Kind::Double { x.shallow_clone() } else { x.f_to_kind(Kind::Float)? };
        let axes: Vec<i64> = (0..).skip(from).take(inner.len()).collect();
        let mean = wide.f_mean_dim(&axes[..], true, None::<Kind>)?;
        let centred = wide.f_sub(&mean)?;
        let variance = centred.f_square()?.f_mean_dim(&axes[..], true, None::<Kind>)?;
        let inverse = variance.f_add_scalar(epsilon)?.f_rsqrt()?;
        Ok(vec![apply(centred.f_mul(&inverse)?.f_to_kind(kind)?)?, mean, inverse])
    }))
}

fn rms_norm(node: &Node<'_>) -> Result<Kernel> {
    stash(node)?;
    let axis = node.int_or("axis", -1)?;
    let epsilon = node.float_or("epsilon", EPSILON)?;
    one(move |call| {
        let (x, scale) = (call.input(0)?, call.input(1)?);
        let (inner, from) = normalized(x, axis)?;
        let kind = x.f_kind()?;
        let wide = if kind == Kind::Double { x.shallow_clone() } else { x.f_to_kind(Kind::Float)? };
        let axes: Vec<i64> = (0..).skip(from).take(inner.len()).collect();
        let square = wide.f_square()?.f_mean_dim(&axes[..], true, None::<Kind>)?;
        let y = wide.f_mul(&square.f_add_scalar(epsilon)?.f_rsqrt()?)?;
        Ok(y.f_to_kind(kind)?.f_mul(scale)?)
    })
}

/// Opset 18 has one scale and bias for each group, opset 21 one for each channel.
fn group_norm(node: &Node<'_>) -> Result<Kernel> {
    if node.opset >= 21 {
        stash(node)?;
    }
    let per_group = node.opset < 21;
    let epsilon = node.float_or("epsilon", EPSILON)?;
    let groups = match node.int("num_groups")? {
        Some(groups) if groups > 0 => groups,
        Some(groups) => return Err(Error::malformed(format!("num_groups {groups} is not positive"))),
        None => return Err(Error::malformed("attribute 'num_groups' is missing")),
    };
    one(move |call| {
        let x = call.input(0)?;
        let channels = x.size().get(1).copied().unwrap_or(0);
        let spread = |index: usize| -> Result<Tensor> {
            let tensor = call.input(index)?;
            if !per_group {
                return Ok(tensor.shallow_clone());
            }
            Ok(tensor.f_reshape([groups, 1])?.f_expand([groups, channels / groups], false)?.f_reshape([-1])?)
        };
        Ok(x.f_group_norm(groups, Some(spread(1)?), Some(spread(2)?), epsilon, true)?)
    })
}

fn instance_norm(node: &Node<'_>) -> Result<Kernel> {
    node.ignore("consumed_inputs");
    let epsilon = node.float_or("epsilon", EPSILON)?;
    one(move |call| {
        let (x, scale, bias) = (call.input(0)?, call.input(1)?, call.input(2)?);
        Ok(x.f_instance_norm(Some(scale), Some(bias), None, None, true, 0.0, epsilon, true)?)
    })
}
