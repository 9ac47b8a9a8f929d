//! Operators: normalisation.

use super::{Call, Kernel, Mode, Node, Op, axis_in, one};
use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor};

/// The rows of this family.
pub const OPS: &[Op] = &[
    batch_norm_row(1),
    batch_norm_row(6),
    batch_norm_row(7),
    batch_norm_row(9),
    batch_norm_row(14),
    batch_norm_row(15),
    Op::new("InstanceNormalization", 1, 3, instance_norm).at_least(3).weights(&[1, 2]).gradients(&[0, 1, 2]),
    Op::new("LayerNormalization", 17, 3, layer_norm).at_least(2).outputs(3).weights(&[1, 2]).gradients(&[0, 1, 2]),
    Op::new("GroupNormalization", 18, 3, group_norm_by_group).at_least(3).weights(&[1, 2]).gradients(&[0, 1, 2]),
    Op::new("GroupNormalization", 21, 3, group_norm).at_least(3).weights(&[1, 2]).gradients(&[0, 1, 2]),
    Op::new("RMSNormalization", 23, 2, rms_norm).at_least(2).weights(&[1]).gradients(&[0, 1]),
    Op::new("LRN", 1, 1, local_response_norm),
];

const fn batch_norm_row(since: i64) -> Op {
    Op::new("BatchNormalization", since, 5, batch_norm)
        .at_least(5)
        .outputs(5)
        .weights(&[1, 2])
        .buffers(&[3, 4])
        .gradients(&[0, 1, 2])
}

/// `Mode` decides between batch and running statistics, whatever the file says: a model exported for inference is trained here.
/// Only a node that itself asks for its statistics (`training_mode`, more outputs) gives what its page defines.
fn batch_norm(node: &Node) -> Result<Kernel> {
    let epsilon = node.float_or("epsilon", 1e-5)?;
    let momentum = node.float_or("momentum", 0.9)?;
    for unused in ["consumed_inputs", "is_test"] {
        node.ignore(unused);
    }
    if node.int_or("spatial", 1)? != 1 {
        return node.unsupported("spatial = 0");
    }
    if node.flag("training_mode")? || (1..5).any(|output| node.has_output(output)) {
        return batch_norm_with_statistics(node, epsilon, momentum);
    }
    one(move |call: &Call| {
        let x = call.input(0)?;
        let training = call.mode == Mode::Train;
        if x.dim() < 2 {
            return Err(Error::malformed(format!("input of rank {}", x.dim())));
        }
        let (scale, bias, mean, variance) = (call.input(1)?, call.input(2)?, call.input(3)?, call.input(4)?);
        // ONNX weighs the old value with momentum, libtorch the new one.
        Ok(Tensor::f_batch_norm(
            x,
            Some(scale),
            Some(bias),
            Some(mean),
            Some(variance),
            training,
            1.0 - momentum,
            epsilon,
            false,
        )?)
    })
}

/// onnx: BatchNormalization-15 with `training_mode`: the running variance takes the population variance.
fn batch_norm_with_statistics(node: &Node, epsilon: f64, momentum: f64) -> Result<Kernel> {
    if node.opset < 14 {
        return node.unsupported("outputs beside the first before opset 14");
    }
    Ok(Box::new(move |call: &Call| {
        let x = call.input(0)?;
        let axes: Vec<i64> = (0..i64::try_from(x.dim()).map_err(Error::malformed)?).filter(|&a| a != 1).collect();
        let mean = x.f_mean_dim(axes.as_slice(), false, None::<Kind>)?;
        let variance = x.f_var_dim(axes.as_slice(), false, false)?;
        let (scale, bias) = (call.input(1)?, call.input(2)?);
        let y = Tensor::f_batch_norm(x, Some(scale), Some(bias), None::<&Tensor>, None::<&Tensor>, true, 0.0, epsilon, false)?;
        let blend = |old: &Tensor, new: &Tensor| -> Result<Tensor> {
            Ok(old.f_mul_scalar(momentum)?.f_add(&new.f_mul_scalar(1.0 - momentum)?.f_to_kind(old.kind())?)?)
        };
        Ok(vec![y, blend(call.input(3)?, &mean)?, blend(call.input(4)?, &variance)?])
    }))
}

fn instance_norm(node: &Node) -> Result<Kernel> {
    node.ignore("consumed_inputs");
    let epsilon = node.float_or("epsilon", 1e-5)?;
    one(move |call| {
        let (x, scale, bias) = (call.input(0)?, call.input(1)?, call.input(2)?);
        Ok(Tensor::f_instance_norm(x, Some(scale), Some(bias), None::<&Tensor>, None::<&Tensor>, true, 0.0, epsilon, false)?)
    })
}

fn layer_norm(node: &Node) -> Result<Kernel> {
    let axis = node.int_or("axis", -1)?;
    let epsilon = node.float_or("epsilon", 1e-5)?;
    if node.int_or("stash_type", 1)? != 1 {
        return node.unsupported("a stash_type other than float");
    }
    let statistics = node.has_output(1) || node.has_output(2);
    Ok(Box::new(move |call: &Call| {
        let (x, scale, bias) = (call.input(0)?, call.input(1)?, call.optional(2));
        let first = usize::try_from(axis_in(axis, x.dim())?).map_err(Error::malformed)?;
        let size = x.size();
        let shape = &size[first..];
        // The operator lets scale and bias broadcast; libtorch's fused kernel wants them whole.
        let whole = scale.size() == shape && bias.is_none_or(|b| b.size() == shape);
        if !statistics && whole {
            return Ok(vec![x.f_layer_norm(shape, Some(scale), bias, epsilon, false)?]);
        }
        let axes: Vec<i64> = (first..size.len()).map(|a| i64::try_from(a).unwrap_or(0)).collect();
        let wide = x.f_to_kind(Kind::Float)?;
        let mean = wide.f_mean_dim(axes.as_slice(), true, None::<Kind>)?;
        let centred = wide.f_sub(&mean)?;
        let variance = centred.f_mul(&centred)?.f_mean_dim(axes.as_slice(), true, None::<Kind>)?;
        let inverse = variance.f_add_scalar(epsilon)?.f_rsqrt()?;
        let mut y = centred.f_mul(&inverse)?.f_to_kind(x.kind())?.f_mul(scale)?;
        if let Some(bias) = bias {
            y = y.f_add(bias)?;
        }
        Ok(vec![y, mean, inverse])
    }))
}

/// Opset 18 scales by group, later versions by channel.
fn group_norm_by_group(node: &Node) -> Result<Kernel> {
    group_norm_of(node, true)
}

fn group_norm(node: &Node) -> Result<Kernel> {
    group_norm_of(node, false)
}

fn group_norm_of(node: &Node, by_group: bool) -> Result<Kernel> {
    let epsilon = node.float_or("epsilon", 1e-5)?;
    let groups = node.int("num_groups")?.ok_or_else(|| Error::malformed("attribute 'num_groups' is missing"))?;
    if node.int_or("stash_type", 1)? != 1 {
        return node.unsupported("a stash_type other than float");
    }
    one(move |call| {
        let x = call.input(0)?;
        let channels = x.size().get(1).copied().unwrap_or(0);
        if groups <= 0 || channels % groups != 0 {
            return Err(Error::malformed(format!("{channels} channels in {groups} groups")));
        }
        let spread = |t: &Tensor| -> Result<Tensor> {
            if by_group { Ok(t.f_repeat_interleave_self_int(channels / groups, 0, None::<i64>)?) } else { Ok(t.shallow_clone()) }
        };
        let (scale, bias) = (spread(call.input(1)?)?, spread(call.input(2)?)?);
        Ok(x.f_group_norm(groups, Some(&scale), Some(&bias), epsilon, false)?)
    })
}

fn rms_norm(node: &Node) -> Result<Kernel> {
    let axis = node.int_or("axis", -1)?;
    let epsilon = node.float_or("epsilon", 1e-5)?;
    if node.int_or("stash_type", 1)? != 1 {
        return node.unsupported("a stash_type other than float");
    }
    one(move |call| {
        let (x, scale) = (call.input(0)?, call.input(1)?);
        let first = axis_in(axis, x.dim())?;
        let axes: Vec<i64> = (first..i64::try_from(x.dim()).map_err(Error::malformed)?).collect();
        let wide = x.f_to_kind(Kind::Float)?;
        let mean = wide.f_mul(&wide)?.f_mean_dim(axes.as_slice(), true, None::<Kind>)?;
        Ok(wide.f_mul(&mean.f_add_scalar(epsilon)?.f_rsqrt()?)?.f_to_kind(x.kind())?.f_mul(scale)?)
    })
}

fn local_response_norm(node: &Node) -> Result<Kernel> {
    let (alpha, beta, bias) = (node.float_or("alpha", 1e-4)?, node.float_or("beta", 0.75)?, node.float_or("bias", 1.0)?);
    let size =
        node.int("size")?.filter(|&s| s > 0).ok_or_else(|| Error::malformed("attribute 'size' is missing or not positive"))?;
    one(move |call| {
        let x = call.input(0)?;
        let dims = x.size();
        let [n, c] = [dims.first(), dims.get(1)].map(|d| d.copied().unwrap_or(1));
        // The window over channels is one over a line: [N, 1, C, rest], summed along axis 2.
        let squares = x.f_mul(x)?.f_reshape([n, 1, c, -1].as_slice())?;
        let below = (size - 1) / 2;
        let padded = squares.f_constant_pad_nd([0, 0, below, size - 1 - below].as_slice())?;
        let sums =
            padded.f_unfold(2, size, 1)?.f_sum_dim_intlist([-1].as_slice(), false, None::<Kind>)?.f_reshape(dims.as_slice())?;
        let denominator = sums.f_mul_scalar(alpha / size as f64)?.f_add_scalar(bias)?.f_pow_tensor_scalar(beta)?;
        Ok(x.f_div(&denominator)?)
    })
}
