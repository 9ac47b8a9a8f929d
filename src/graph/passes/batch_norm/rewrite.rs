//! Writes a normalisation into a graph.

use super::sites::Site;
use super::statistics::Statistics;
use crate::error::{Error, Result};
use crate::graph::body;
use crate::graph::nodes::{self, new_node};
use crate::onnx::proto::{GraphProto, ModelProto};
use crate::onnx::{from_proto, to_proto};
use crate::tensor::{Device, Kind, Tensor};

/// ONNX's default, which the node leaves out.
const EPSILON: f64 = 1e-5_f32 as f64;

/// Filters of a smaller share of the largest one's length are as good as gone; they stay as they are.
const SILENT: f64 = 1e-6;

/// Puts the normalisation that changes nothing at a place.
pub fn normalise(model: &mut ModelProto, site: &Site, statistics: &Statistics) -> Result<()> {
    let graph = model.graph.as_mut().ok_or_else(|| Error::unexpected("the model has no graph"))?;
    let mut kind = Kind::Float;
    let mut double = |name: &Option<String>, neutral: f64| -> Result<Tensor> {
        let Some(name) = name else {
            return Ok(Tensor::f_full([site.channels], neutral, (Kind::Double, Device::Cpu))?);
        };
        let tensor = constant(graph, name)?;
        kind = tensor.f_kind()?;
        Ok(tensor.f_reshape([site.channels])?.f_to_kind(Kind::Double)?)
    };
    let (bias, scale, shift) = (double(&site.bias, 0.0)?, double(&site.scale, 1.0)?, double(&site.shift, 0.0)?);
    let divisor = resize_filters(graph, site)?;
    // What is normalised is the convolution without its bias, divided.
    let mean = statistics.mean.f_sub(&bias)?.f_div(&divisor)?;
    let variance = statistics.variance.f_div(&divisor.f_square()?)?;
    let gamma = scale.f_mul(&divisor)?.f_mul(&variance.f_add_scalar(EPSILON)?.f_sqrt()?)?;
    let beta = scale.f_mul(&statistics.mean)?.f_add(&shift)?;

    let name = |what: &str| format!("{}/batch_norm/{what}", site.output);
    let parts = [("scale", gamma), ("bias", beta), ("mean", mean), ("variance", variance)];
    for (what, tensor) in &parts {
        graph.initializer.push(to_proto(&name(what), &tensor.f_to_kind(kind)?)?);
    }
    let x = open_place(graph, site)?;
    let mut inputs = vec![x];
    inputs.extend(parts.iter().map(|(what, _)| name(what)));
    let mut node = new_node("BatchNormalization", &inputs, site.output.clone(), vec![]);
    // A convolution may be named after what it gave.
    node.name = name("node");
    while graph.node.iter().any(|other| other.name == node.name) {
        node.name.push('_');
    }
    let position = graph.node.iter().position(|node| node.output.contains(&inputs[0])).map_or(0, |index| index + 1);
    graph.node.insert(position, node);
    // Such files have to list every initializer among the inputs.
    model.ir_version = model.ir_version.max(4);
    Ok(())
}

fn constant(graph: &GraphProto, name: &str) -> Result<Tensor> {
    from_proto(nodes::constant(graph, name).ok_or_else(|| Error::unexpected(format!("the constant '{name}' is gone")))?)
}

/// Gives filters into which a normalisation was folded the length that they are likely to have had, if they are this convolution's
/// alone. Gives what each was divided by.
fn resize_filters(graph: &mut GraphProto, site: &Site) -> Result<Tensor> {
    let ones = Tensor::f_ones([site.channels], (Kind::Double, Device::Cpu))?;
    // Behind a convolution that was left as it was, the normalisation was written as a product and a sum.
    let conv = graph.node.iter().find(|node| site.behind_conv && site.scale.is_none() && node.output.first() == Some(&site.x));
    let Some(conv) = conv else { return Ok(ones) };
    let groups = nodes::int_of(conv, "group").unwrap_or(1);
    let is_gemm = conv.op_type == "Gemm";
    let by_column = is_gemm && nodes::int_of(conv, "transB").unwrap_or(0) == 0;
    let Some(weight) = conv.input.get(1).cloned() else { return Ok(ones) };
    let readers = graph.node.iter().flat_map(body::read_names).filter(|input| **input == weight).count();
    let stored = graph.initializer.iter_mut().find(|tensor| tensor.name == weight).filter(|_| readers == 1);
    let Some(stored) = stored else { return Ok(ones) };
    let filters = from_proto(stored)?;
    let shape = filters.size();
    let (Some(&outputs), Some(&inputs)) = (shape.first(), shape.get(1)) else { return Ok(ones) };
    // Linear layers begin with numbers spread evenly up to 1 / sqrt(inputs).
    let likely = if is_gemm { (1.0_f64 / 3.0).sqrt() } else { (2.0 * inputs as f64 * groups as f64 / outputs as f64).sqrt() };
    let wide = filters.f_to_kind(Kind::Double)?;
    let wide = if by_column { wide.f_transpose(0, 1)? } else { wide };
    let lengths = wide.f_flatten(1, -1)?.f_square()?.f_sum_dim_intlist(1, false, Kind::Double)?.f_sqrt()?;
    let is_filter = lengths.f_gt_tensor(&lengths.f_max()?.f_mul_scalar(SILENT)?)?;
    let divisor = lengths.f_div_scalar(likely)?.f_where_self(&is_filter, &ones)?;
    let mut by_filter = vec![1; wide.dim()];
    by_filter[0] = -1;
    let resized = wide.f_div(&divisor.f_reshape(by_filter)?)?;
    let resized = if by_column { resized.f_transpose(0, 1)?.f_contiguous()? } else { resized };
    *stored = to_proto(&weight, &resized.f_to_kind(filters.f_kind()?)?)?;
    Ok(divisor)
}

/// Takes away what the normalisation stands for, and gives the name of what is normalised.
fn open_place(graph: &mut GraphProto, site: &Site) -> Result<String> {
    graph.node.retain(|node| node.output.first().is_none_or(|output| !site.chain.contains(output)));
    if !site.behind_conv {
        return Ok(site.x.clone());
    }
    let conv = graph.node.iter_mut().find(|node| node.output.first() == Some(&site.x));
    let conv = conv.ok_or_else(|| Error::unexpected(format!("nothing gives '{}'", site.x)))?;
    conv.input.truncate(2);
    let x = if site.x == site.output { format!("{}/unnormalised", site.x) } else { site.x.clone() };
    conv.output[0].clone_from(&x);
    Ok(x)
}
