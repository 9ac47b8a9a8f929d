//! Operators on quantised tensors: their operands are dequantised, ONNX's own operator is applied, and the result is quantised. What
//! is constant among them becomes floats that can be trained.

use std::collections::HashMap;

use super::{Writer, attribute, input, int_or, only, only_outputs, optional, without};
use crate::error::{Error, Result};
use crate::graph::body;
use crate::graph::nodes::int_attribute;
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::proto::{GraphProto, NodeProto, TensorProto};
use crate::tensor::Tensor;

/// Whether this is one of ONNX's own operators on quantised tensors.
pub fn is_standard_one(node: &NodeProto) -> bool {
    node.domain.is_empty() && matches!(node.op_type.as_str(), "QLinearConv" | "QLinearMatMul" | "ConvInteger" | "MatMulInteger")
}

/// Whether the node was one of these, and was replaced.
pub fn replace(writer: &mut Writer<'_>, node: &NodeProto) -> Result<bool> {
    let output = writer.base.clone();
    let unary = |op: &str, known: &[&str], writer: &mut Writer<'_>| -> Result<()> {
        only(node, known, 5)?;
        // Images have four axes, and windows two.
        let rank = attribute(node, "kernel_shape").map_or(4, |kernel| kernel.ints.len() + 2);
        let channels_last = int_or(node, "channels_last", 0) != 0;
        let mut x = dequantised(writer, node, [0, 1, 2], None)?;
        if channels_last {
            x = channels_second(writer, &x, rank);
        }
        let mut y = writer.node(op, &[&x], without(node, &["channels_last", "opset"]));
        if channels_last {
            y = channels_behind(writer, &y, rank);
        }
        quantise(writer, node, &y, [3, 4])
    };
    match node.op_type.as_str() {
        "QLinearConv" | "QLinearMatMul" => return standard(writer, node),
        "ConvInteger" | "MatMulInteger" => return integer_product(writer, node),
        "QLinearAdd" | "QLinearMul" => {
            only(node, &[], 8)?;
            let (a, b) = (dequantised(writer, node, [0, 1, 2], None)?, dequantised(writer, node, [3, 4, 5], None)?);
            let y = writer.node(&node.op_type["QLinear".len()..], &[&a, &b], vec![]);
            quantise(writer, node, &y, [6, 7])?;
        }
        "QLinearSigmoid" => unary("Sigmoid", &[], writer)?,
        "QLinearLeakyRelu" => unary("LeakyRelu", &["alpha"], writer)?,
        "QLinearSoftmax" => {
            // The node says by which opset's definition it counts its axis.
            let flattens = int_or(node, "opset", 13) < 13;
            if flattens != (writer.opset < 13) {
                return Err(Error::unsupported("com.microsoft.QLinearSoftmax of another opset than the file's is not supported"));
            }
            only(node, &["axis", "opset"], 5)?;
            let x = dequantised(writer, node, [0, 1, 2], None)?;
            let y = writer.node("Softmax", &[&x], without(node, &["opset"]));
            // Rounded in steps of one over a whole number, while what reads it takes the scale as it stands.
            let scale = writer.value(input(node, 3)?)?;
            let whole = scale.f_reciprocal()?.f_floor()?.f_reciprocal()?;
            let scale = writer.constant(&whole)?;
            let mut inputs = vec![y.as_str(), scale.as_str()];
            inputs.extend(optional(node, 4));
            writer.last("QuantizeLinear", &inputs, &output, vec![]);
        }
        "QLinearGlobalAveragePool" => unary("GlobalAveragePool", &["channels_last"], writer)?,
        "NhwcMaxPool" => {
            only(node, &["auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "strides"], 1)?;
            let rank = attribute(node, "kernel_shape").map_or(4, |kernel| kernel.ints.len() + 2);
            let x = channels_second(writer, input(node, 0)?, rank);
            let y = writer.node("MaxPool", &[&x], node.attribute.clone());
            let y = channels_behind(writer, &y, rank);
            writer.last("Identity", &[&y], &output, vec![]);
        }
        "QLinearAveragePool" => {
            let known = ["auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides", "channels_last"];
            unary("AveragePool", &known, writer)?;
        }
        "QLinearConcat" => concat(writer, node)?,
        "QGemm" => gemm(writer, node)?,
        "DynamicQuantizeMatMul" => {
            only(node, &[], 5)?;
            let parts = ["quantised", "scale", "zero"].map(|part| writer.name(part));
            writer.last("DynamicQuantizeLinear", &[input(node, 0)?], &parts[0], vec![]);
            if let Some(last) = writer.graph.node.last_mut() {
                last.output = parts.to_vec();
            }
            let a = writer.node("DequantizeLinear", &[&parts[0], &parts[1], &parts[2]], vec![]);
            let b = dequantised(writer, node, [1, 2, 3], Some(-1))?;
            product(writer, &a, &b, optional(node, 4), &output);
        }
        "MatMulIntegerToFloat" => {
            only(node, &[], 7)?;
            let (a, b) = (dequantised(writer, node, [0, 2, 4], None)?, dequantised(writer, node, [1, 3, 5], Some(-1))?);
            product(writer, &a, &b, optional(node, 6), &output);
        }
        _ => return Ok(false),
    }
    only_outputs(node, 1)?;
    Ok(true)
}

fn product(writer: &mut Writer<'_>, a: &str, b: &str, bias: Option<&str>, output: &str) {
    match bias {
        Some(bias) => {
            let y = writer.node("MatMul", &[a, b], vec![]);
            writer.last("Add", &[&y, bias], output, vec![]);
        }
        None => writer.last("MatMul", &[a, b], output, vec![]),
    }
}

/// The floats that stand behind an operand: inputs at data, scale and zero point. `axis` is that of several scales.
pub(super) fn dequantised(
    writer: &mut Writer<'_>,
    node: &NodeProto,
    [x, scale, zero]: [usize; 3],
    axis: Option<i64>,
) -> Result<String> {
    let mut inputs = vec![input(node, x)?, input(node, scale)?];
    inputs.extend(optional(node, zero));
    let several = writer.known(inputs[1]).is_some_and(|scale| scale.dims.iter().product::<i64>() > 1);
    let attributes = match axis {
        Some(axis) if several => vec![int_attribute("axis", axis)],
        _ => vec![],
    };
    Ok(writer.node("DequantizeLinear", &inputs, attributes))
}

/// The node's output, quantised by its inputs at scale and zero point.
fn quantise(writer: &mut Writer<'_>, node: &NodeProto, y: &str, [scale, zero]: [usize; 2]) -> Result<()> {
    let output = writer.base.clone();
    let mut inputs = vec![y, input(node, scale)?];
    inputs.extend(optional(node, zero));
    writer.last("QuantizeLinear", &inputs, &output, vec![]);
    Ok(())
}

/// ONNX's own products with an output that is quantised, where all scales are constant; others are computed as they stand.
fn standard(writer: &mut Writer<'_>, node: &NodeProto) -> Result<bool> {
    let is_known = |index: usize| optional(node, index).is_none_or(|name| writer.known(name).is_some());
    let one_scale = scale_count(writer, node, 1) == Some(1) && scale_count(writer, node, 6) == Some(1);
    if !(one_scale && [2, 4, 5, 7].into_iter().all(is_known)) {
        return Ok(false);
    }
    let b_axis = if node.op_type == "QLinearMatMul" { -1 } else { 0 };
    let (a, b) = (dequantised(writer, node, [0, 1, 2], None)?, dequantised(writer, node, [3, 4, 5], Some(b_axis))?);
    if node.op_type == "QLinearMatMul" {
        let y = writer.node("MatMul", &[&a, &b], vec![]);
        quantise(writer, node, &y, [6, 7])?;
        return Ok(true);
    }
    let mut inputs = vec![a, b];
    if let Some(bias) = optional(node, 8) {
        // Quantised by the product of both scales, without a zero point.
        let scale = scale_product(writer, input(node, 1)?, input(node, 4)?, 1.0)?;
        inputs.push(writer.node("DequantizeLinear", &[bias, &scale], vec![int_attribute("axis", 0)]));
    }
    let channels_last = int_or(node, "channels_last", 0) != 0;
    let rank = optional(node, 3).and_then(|name| writer.known(name)).map_or(4, |weight| weight.dims.len());
    if channels_last {
        inputs[0] = channels_second(writer, &inputs[0], rank);
    }
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let mut y = writer.node("Conv", &inputs, without(node, &["channels_last"]));
    if channels_last {
        y = channels_behind(writer, &y, rank);
    }
    quantise(writer, node, &y, [6, 7])?;
    Ok(true)
}

/// `[N, ..., C]` as `[N, C, ...]`.
fn channels_second(writer: &mut Writer<'_>, x: &str, rank: usize) -> String {
    let rank = i64::try_from(rank).unwrap_or(4);
    let order: Vec<i64> = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
    writer.transpose(x, &order)
}

/// `[N, C, ...]` as `[N, ..., C]`.
fn channels_behind(writer: &mut Writer<'_>, x: &str, rank: usize) -> String {
    let rank = i64::try_from(rank).unwrap_or(4);
    let order: Vec<i64> = [0].into_iter().chain(2..rank).chain([1]).collect();
    writer.transpose(x, &order)
}

fn scale_count(writer: &Writer<'_>, node: &NodeProto, index: usize) -> Option<i64> {
    Some(writer.known(optional(node, index)?)?.dims.iter().product())
}

/// A constant: the product of two constant scales and a number, one for all or one for each channel.
fn scale_product(writer: &mut Writer<'_>, a: &str, b: &str, factor: f64) -> Result<String> {
    let value = |name: &str| -> Result<Tensor> {
        let tensor = writer.value(name)?;
        Ok(if tensor.numel() == 1 { tensor.f_reshape([0_i64; 0])? } else { tensor.f_reshape([-1])? })
    };
    let product = value(a)?.f_mul(&value(b)?)?;
    let product = product.f_mul_scalar(factor)?;
    writer.constant(&product)
}

/// A product of integers with a constant that is scaled later, where that scale is [known](taken_over).
fn integer_product(writer: &mut Writer<'_>, node: &NodeProto) -> Result<bool> {
    let output = writer.base.clone();
    let Some(scale) = writer.scales.get(&output).cloned() else { return Ok(false) };
    let one = writer.constant(&Tensor::f_from_slice(&[1.0_f32])?.f_reshape([0_i64; 0])?)?;
    let mut centred = vec![input(node, 0)?, one.as_str()];
    centred.extend(optional(node, 2));
    let x = writer.node("DequantizeLinear", &centred, vec![]);
    let mut inputs = vec![input(node, 1)?, scale.as_str()];
    inputs.extend(optional(node, 3));
    let convolves = node.op_type == "ConvInteger";
    let w = writer.node("DequantizeLinear", &inputs, vec![int_attribute("axis", if convolves { 0 } else { -1 })]);
    // What comes next casts the integers to floats, which these are already.
    writer.last(if convolves { "Conv" } else { "MatMul" }, &[&x, &w], &output, node.attribute.clone());
    Ok(true)
}

/// The constant scales of the weights of integer products, by the products' outputs. They stand behind the products, as in
/// `Cast(MatMulInteger(x, w)) * (x_scale * w_scale)`, and are taken out there: what is trained has to have the size that weights have.
pub fn taken_over(graph: &mut GraphProto) -> HashMap<String, String> {
    let mut readers: HashMap<&str, Vec<usize>> = HashMap::new();
    for (place, node) in graph.node.iter().enumerate() {
        node.input.iter().for_each(|name| readers.entry(name).or_default().push(place));
    }
    // What is an output as well, or read in a subgraph, has readers that are not seen here.
    for output in &graph.output {
        readers.entry(&output.name).or_default().push(usize::MAX);
    }
    for node in &graph.node {
        for name in body::subgraphs(node).flat_map(|attribute| body::free_names(&attribute.g)) {
            readers.entry(name).or_default().push(usize::MAX);
        }
    }
    let initializers: HashMap<&str, &TensorProto> = graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
    let only_reader = |name: &str, op: &str| match readers.get(name).map(Vec::as_slice) {
        Some(&[place]) => graph.node.get(place).filter(|node| node.op_type == op),
        _ => None,
    };
    let mut found = HashMap::new();
    let mut freed: HashMap<String, String> = HashMap::new();
    let products = graph.node.iter().filter(|node| matches!(node.op_type.as_str(), "ConvInteger" | "MatMulInteger"));
    for node in products.filter(|node| node.domain.is_empty()) {
        let constant = |index: usize| optional(node, index).is_none_or(|name| initializers.contains_key(name));
        let scale = || -> Option<(&str, &str, &str, &str)> {
            let output = node.output.first()?;
            let cast =
                only_reader(output, "Cast").filter(|cast| int_or(cast, "to", 0) == DataType::FLOAT as i64)?.output.first()?;
            let scaled = only_reader(cast, "Mul")?;
            let scales = scaled.input.iter().find(|input| *input != cast)?;
            only_reader(scales, "Mul")?;
            let product = graph.node.iter().find(|node| node.op_type == "Mul" && node.output.first() == Some(scales))?;
            let (a, b) = (product.input.first()?, product.input.get(1)?);
            let (other, scale) = if initializers.contains_key(b.as_str()) { (a, b) } else { (b, a) };
            let shape = &initializers.get(scale.as_str())?.dims;
            let fits = shape.iter().product::<i64>() == 1 || (shape.len() == 1 && node.op_type == "MatMulInteger");
            fits.then_some((output.as_str(), scale.as_str(), scales.as_str(), other.as_str()))
        };
        if let (true, true, Some((output, scale, scales, other))) = (constant(1), constant(3), scale()) {
            found.insert(output.to_string(), scale.to_string());
            freed.insert(scales.to_string(), other.to_string());
        }
    }
    for node in &mut graph.node {
        let Some(other) = node.output.first().and_then(|output| freed.get(output)) else { continue };
        node.op_type = "Identity".to_string();
        node.input = vec![other.clone()];
    }
    found
}

fn concat(writer: &mut Writer<'_>, node: &NodeProto) -> Result<()> {
    only(node, &["axis"], usize::MAX)?;
    let mut operands = Vec::new();
    for first in (2..node.input.len()).step_by(3) {
        operands.push(dequantised(writer, node, [first, first + 1, first + 2], None)?);
    }
    let operands: Vec<&str> = operands.iter().map(String::as_str).collect();
    let y = writer.node("Concat", &operands, node.attribute.clone());
    quantise(writer, node, &y, [0, 1])
}

/// `alpha A' B' + C`, quantised if there is a scale for it.
fn gemm(writer: &mut Writer<'_>, node: &NodeProto) -> Result<()> {
    only(node, &["alpha", "transA", "transB"], 9)?;
    let turned = int_or(node, "transB", 0) != 0;
    let (a, b) = (dequantised(writer, node, [0, 1, 2], None)?, dequantised(writer, node, [3, 4, 5], Some(i64::from(!turned)))?);
    let mut inputs = vec![a, b];
    if let Some(bias) = optional(node, 6) {
        let alpha = attribute(node, "alpha").map_or(1.0, |attribute| f64::from(attribute.f));
        let scale = scale_product(writer, input(node, 1)?, input(node, 4)?, alpha)?;
        let is_row = writer.known(bias).is_some_and(|bias| bias.dims.len() == 1);
        inputs.push(writer.node("DequantizeLinear", &[bias, &scale], vec![int_attribute("axis", if is_row { 0 } else { 1 })]));
    }
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let output = writer.base.clone();
    if optional(node, 7).is_none() {
        writer.last("Gemm", &inputs, &output, node.attribute.clone());
        return Ok(());
    }
    let y = writer.node("Gemm", &inputs, node.attribute.clone());
    quantise(writer, node, &y, [7, 8])
}
