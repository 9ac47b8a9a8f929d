//! Products and normalisations with what stood around them.

use super::{Writer, attribute, float_attribute, float_or, input, int_attribute, int_or, only, only_outputs, optional, without};
use crate::error::{Error, Result};
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::proto::{AttributeProto, NodeProto};

/// Whether a node is a normalisation that ONNX Runtime's optimiser writes into the standard domain of opsets that do not have it.
pub fn is_early_norm(node: &NodeProto, opset: i64) -> bool {
    let standard = matches!(node.domain.as_str(), "" | "ai.onnx");
    standard && (node.op_type == "SimplifiedLayerNormalization" || (node.op_type == "LayerNormalization" && opset < 17))
}

/// Whether the node was one of these, and was replaced.
pub fn replace(writer: &mut Writer<'_>, node: &NodeProto) -> Result<bool> {
    if is_early_norm(node, writer.opset) {
        return early_norm(writer, node);
    }
    if node.domain != super::DOMAIN {
        return Ok(false);
    }
    match node.op_type.as_str() {
        "FusedConv" => conv(writer, node)?,
        "FusedGemm" => gemm(writer, node)?,
        "SkipLayerNormalization" => skip_norm(writer, node, false)?,
        "SkipSimplifiedLayerNormalization" => skip_norm(writer, node, true)?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// A convolution, to which `Z` is added, and an activation.
fn conv(writer: &mut Writer<'_>, node: &NodeProto) -> Result<()> {
    let own = ["activation", "activation_params"];
    let conv = ["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides", own[0], own[1]];
    only(node, &conv, 4)?;
    let inputs: Vec<&str> = node.input.iter().take(3).map(String::as_str).collect();
    let mut y = writer.node("Conv", &inputs, without(node, &own));
    if let Some(z) = optional(node, 3) {
        y = writer.node("Add", &[&y, z], vec![]);
    }
    let parameters = attribute(node, "activation_params").map_or(&[][..], |attribute| &attribute.floats);
    activate(writer, node, &y, parameters)
}

fn gemm(writer: &mut Writer<'_>, node: &NodeProto) -> Result<()> {
    let own = ["activation", "activation_alpha", "activation_beta", "activation_gamma"];
    only(node, &["alpha", "beta", "transA", "transB", own[0], own[1], own[2], own[3]], 3)?;
    let inputs: Vec<&str> = node.input.iter().map(String::as_str).collect();
    let y = writer.node("Gemm", &inputs, without(node, &own));
    let parameters: Vec<f32> = own[1..].iter().filter_map(|name| attribute(node, name)).map(|a| a.f).collect();
    activate(writer, node, &y, &parameters)
}

/// The activation that a node names, with its parameters in the order of ONNX's definition.
fn activate(writer: &mut Writer<'_>, node: &NodeProto, y: &str, parameters: &[f32]) -> Result<()> {
    let activation = attribute(node, "activation").map_or("", |a| std::str::from_utf8(&a.s).unwrap_or(""));
    let named = |names: &[&str]| -> Vec<AttributeProto> {
        names.iter().zip(parameters).map(|(name, value)| float_attribute(name, *value)).collect()
    };
    let output = writer.base.clone();
    match activation {
        "" => writer.last("Identity", &[y], &output, vec![]),
        "Relu" | "Sigmoid" | "Tanh" | "Softplus" | "Softsign" => writer.last(activation, &[y], &output, vec![]),
        // ONNX has it since opset 14, without the parameters.
        "HardSwish" => {
            let gate = writer.node("HardSigmoid", &[y], vec![float_attribute("alpha", 1.0 / 6.0), float_attribute("beta", 0.5)]);
            writer.last("Mul", &[y, &gate], &output, vec![]);
        }
        "LeakyRelu" | "Elu" | "ThresholdedRelu" => writer.last(activation, &[y], &output, named(&["alpha"])),
        "HardSigmoid" => writer.last(activation, &[y], &output, named(&["alpha", "beta"])),
        "Clip" if writer.opset < 11 => writer.last(activation, &[y], &output, named(&["min", "max"])),
        "Clip" => {
            let mut inputs = vec![y.to_string()];
            for value in parameters {
                inputs.push(writer.constant(&crate::tensor::Tensor::f_from_slice(&[*value])?.f_reshape([0_i64; 0])?)?);
            }
            let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
            writer.last(activation, &inputs, &output, vec![]);
        }
        other => {
            let reason = format!("com.microsoft.{} with activation '{other}' is not supported", node.op_type);
            return Err(Error::unsupported(reason));
        }
    }
    Ok(())
}

/// `LayerNormalization(input + skip + bias)`, and that sum as the fourth output.
fn skip_norm(writer: &mut Writer<'_>, node: &NodeProto, simplified: bool) -> Result<()> {
    only(node, &["epsilon"], if simplified { 4 } else { 5 })?;
    if node.output.iter().skip(1).take(2).any(|output| !output.is_empty()) {
        return Err(Error::unsupported(format!("the statistics that com.microsoft.{} gives are not supported", node.op_type)));
    }
    only_outputs(node, 4)?;
    let output = writer.base.clone();
    let bias = optional(node, if simplified { 3 } else { 4 });
    let wanted = node.output.get(3).filter(|name| !name.is_empty()).cloned();
    let mut sum = writer.node("Add", &[input(node, 0)?, input(node, 1)?], vec![]);
    if let Some(bias) = bias {
        sum = writer.node("Add", &[&sum, bias], vec![]);
    }
    if let (Some(wanted), Some(last)) = (wanted, writer.graph.node.last_mut()) {
        last.output = vec![wanted.clone()];
        sum = wanted;
    }
    let shift = optional(node, 3).filter(|_| !simplified);
    normalise(
        writer,
        &Norm { x: &sum, scale: input(node, 2)?, shift, epsilon: float_or(node, "epsilon", 1e-12), simplified },
        &output,
    )
}

/// Over the last axis, in single or double precision; others stay as they are, as which they run.
fn early_norm(writer: &mut Writer<'_>, node: &NodeProto) -> Result<bool> {
    let scale = input(node, 1)?;
    let kind = writer.known(scale).map(|tensor| tensor.data_type);
    let precise = kind.is_some_and(|kind| [DataType::FLOAT as i32, DataType::DOUBLE as i32].contains(&kind));
    let statistics = node.output.iter().skip(1).any(|output| !output.is_empty());
    if int_or(node, "axis", -1) != -1 || !precise || statistics {
        return Ok(false);
    }
    let simplified = node.op_type == "SimplifiedLayerNormalization";
    let shift = optional(node, 2).filter(|_| !simplified);
    let output = writer.base.clone();
    normalise(writer, &Norm { x: input(node, 0)?, scale, shift, epsilon: float_or(node, "epsilon", 1e-5), simplified }, &output)?;
    Ok(true)
}

/// A normalisation of `x` over its last axis.
struct Norm<'a> {
    x: &'a str,
    scale: &'a str,
    shift: Option<&'a str>,
    epsilon: f32,
    /// Without the mean.
    simplified: bool,
}

fn normalise(writer: &mut Writer<'_>, norm: &Norm<'_>, output: &str) -> Result<()> {
    let Norm { x, scale, shift, epsilon, simplified } = *norm;
    let (operator, since) = if simplified { ("RMSNormalization", 23) } else { ("LayerNormalization", 17) };
    if writer.opset >= since {
        let mut inputs = vec![x, scale];
        inputs.extend(shift);
        writer.last(operator, &inputs, output, vec![int_attribute("axis", -1), float_attribute("epsilon", epsilon)]);
        return Ok(());
    }
    // Before ONNX had the operator.
    let centred = if simplified {
        x.to_string()
    } else {
        let mean = writer.mean(x)?;
        writer.node("Sub", &[x, &mean], vec![])
    };
    let squares = writer.node("Mul", &[&centred, &centred], vec![]);
    let variance = writer.mean(&squares)?;
    let epsilon = writer.number(epsilon, scale)?;
    let variance = writer.node("Add", &[&variance, &epsilon], vec![]);
    let deviation = writer.node("Sqrt", &[&variance], vec![]);
    let normal = writer.node("Div", &[&centred, &deviation], vec![]);
    match shift {
        None => writer.last("Mul", &[&normal, scale], output, vec![]),
        Some(shift) => {
            let scaled = writer.node("Mul", &[&normal, scale], vec![]);
            writer.last("Add", &[&scaled, shift], output, vec![]);
        }
    }
    Ok(())
}
