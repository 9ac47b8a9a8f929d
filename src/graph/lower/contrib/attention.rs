//! Attention over sequences `[N, S, D]`, split into heads.

use super::quantised::dequantised;
use super::{Writer, attribute, float_or, input, int_attribute, int_or, only, only_outputs, optional};
use crate::error::{Error, Result};
use crate::graph::nodes::ints_attribute;
use crate::onnx::proto::NodeProto;

/// Whether the node was one of these, and was replaced.
pub fn replace(writer: &mut Writer<'_>, node: &NodeProto) -> Result<bool> {
    match (node.domain.as_str(), node.op_type.as_str()) {
        (super::DOMAIN, "Attention") => packed(writer, node)?,
        (super::DOMAIN, "QAttention") => quantised(writer, node)?,
        (super::DOMAIN, "MultiHeadAttention") => separate(writer, node)?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// Queries, keys and values come from one product of the input with `[D, 3 H]` weights.
fn packed(writer: &mut Writer<'_>, node: &NodeProto) -> Result<()> {
    // A filter value only matters where there is a mask.
    only(node, &["num_heads", "scale", "qkv_hidden_sizes", "unidirectional", "mask_filter_value", "do_rotary"], 6)?;
    only_outputs(node, 1)?;
    if optional(node, 3).is_some() || optional(node, 4).is_some() || int_or(node, "do_rotary", 0) != 0 {
        return Err(Error::unsupported("com.microsoft.Attention with a mask, a past or rotary positions is not supported"));
    }
    let weights = input(node, 1)?;
    let dequantises = |other: &&NodeProto| other.op_type == "DequantizeLinear" && other.output.iter().any(|o| o == weights);
    let stored = writer.graph.node.iter().find(dequantises).and_then(|node| optional(node, 0)).unwrap_or(weights);
    let width = writer.known(stored).and_then(|weights| weights.dims.last()).copied();
    project(writer, node, [input(node, 0)?, weights], width, optional(node, 5))
}

/// As [`packed`], with an input and weights that are quantised.
fn quantised(writer: &mut Writer<'_>, node: &NodeProto) -> Result<()> {
    only(node, &["num_heads", "scale", "unidirectional", "mask_filter_value", "do_rotary"], 8)?;
    only_outputs(node, 1)?;
    if optional(node, 5).is_some() || int_or(node, "do_rotary", 0) != 0 {
        return Err(Error::unsupported("com.microsoft.QAttention with a mask or rotary positions is not supported"));
    }
    let width = writer.known(input(node, 1)?).and_then(|weights| weights.dims.last()).copied();
    let x = dequantised(writer, node, [0, 3, 6], None)?;
    let weights = dequantised(writer, node, [1, 4, 7], Some(1))?;
    project(writer, node, [&x, &weights], width, None)
}

/// Queries, keys and values out of a product with weights of this width, plus a bias, and [`heads`] of them.
fn project(
    writer: &mut Writer<'_>,
    node: &NodeProto,
    [x, weights]: [&str; 2],
    width: Option<i64>,
    added: Option<&str>,
) -> Result<()> {
    let mut y = writer.node("MatMul", &[x, weights], vec![]);
    if let Some(bias) = optional(node, 2) {
        y = writer.node("Add", &[&y, bias], vec![]);
    }
    let sizes = match attribute(node, "qkv_hidden_sizes").map(|attribute| attribute.ints.clone()) {
        Some(sizes) if sizes.len() == 3 => sizes,
        Some(_) => return Err(Error::malformed("qkv_hidden_sizes are not three")),
        None => match width {
            Some(size) => vec![size / 3; 3],
            None => return Err(Error::unsupported("attention with weights that are not constant is not supported")),
        },
    };
    let parts: Vec<String> = ["query", "key", "value"].iter().map(|part| writer.name(part)).collect();
    let split = if writer.opset < 13 {
        writer.node("Split", &[&y], vec![int_attribute("axis", -1), ints_attribute("split", &sizes)])
    } else {
        let sizes = writer.integers(&sizes)?;
        writer.node("Split", &[&y, &sizes], vec![int_attribute("axis", -1)])
    };
    if let Some(last) = writer.graph.node.last_mut().filter(|last| last.output.first() == Some(&split)) {
        last.output.clone_from(&parts);
    }
    heads(writer, node, &[&parts[0], &parts[1], &parts[2]], (sizes[0], weights), added)
}

/// Queries, keys and values come as three sequences.
fn separate(writer: &mut Writer<'_>, node: &NodeProto) -> Result<()> {
    only(node, &["num_heads", "scale", "unidirectional", "mask_filter_value"], 6)?;
    only_outputs(node, 1)?;
    if optional(node, 4).is_some() {
        return Err(Error::unsupported("com.microsoft.MultiHeadAttention with a padding mask is not supported"));
    }
    let (query, key, value) = (input(node, 0)?, optional(node, 1), optional(node, 2));
    let (Some(key), Some(value)) = (key, value) else {
        return Err(Error::unsupported("com.microsoft.MultiHeadAttention with packed queries, keys and values is not supported"));
    };
    let mut parts = [query, key, value].map(String::from);
    let mut width = 0;
    if let Some(bias) = optional(node, 3) {
        let Some(&length) = writer.known(bias).and_then(|tensor| tensor.dims.first()) else {
            return Err(Error::unsupported("com.microsoft.MultiHeadAttention with a bias that is not constant is not supported"));
        };
        width = length / 3;
        // Queries and keys are equally long; values as well, in every network that fuses them.
        for (number, part) in (0..).zip(&mut parts) {
            let (from, to) = (writer.integers(&[number * length / 3])?, writer.integers(&[(number + 1) * length / 3])?);
            let own = if writer.opset < 10 {
                return Err(Error::unsupported("com.microsoft.MultiHeadAttention below opset 10 is not supported"));
            } else {
                writer.node("Slice", &[bias, &from, &to], vec![])
            };
            *part = writer.node("Add", &[part, &own], vec![]);
        }
    }
    heads(writer, node, &[&parts[0], &parts[1], &parts[2]], (width, optional(node, 3).unwrap_or(query)), optional(node, 5))
}

/// `softmax(scale Q K' + added) V` for each head; queries are `width` numbers wide, 0 where that is not known, and `like` has the type of
/// the scale.
fn heads(
    writer: &mut Writer<'_>,
    node: &NodeProto,
    parts: &[&str; 3],
    (width, like): (i64, &str),
    added: Option<&str>,
) -> Result<()> {
    if int_or(node, "unidirectional", 0) != 0 {
        return Err(Error::unsupported(format!("com.microsoft.{} that looks back only is not supported", node.op_type)));
    }
    let count = int_or(node, "num_heads", 0);
    if count < 1 {
        return Err(Error::malformed(format!("{count} heads")));
    }
    let output = writer.base.clone();
    let split = writer.integers(&[0, 0, count, -1])?;
    let [query, key, value] = parts.map(|part| writer.node("Reshape", &[part, &split], vec![]));
    let (query, value) = (writer.transpose(&query, &[0, 2, 1, 3]), writer.transpose(&value, &[0, 2, 1, 3]));
    let key = writer.transpose(&key, &[0, 2, 3, 1]);
    let product = writer.node("MatMul", &[&query, &key], vec![]);
    let scale = float_or(node, "scale", 0.0);
    let mut scores = if scale == 0.0 && width == 0 {
        // One over the root of a head's width, which the graph knows when it runs.
        let shape = writer.node("Shape", &[&query], vec![]);
        let last = writer.integers(&[3])?;
        let width = writer.node("Gather", &[&shape, &last], vec![int_attribute("axis", 0)]);
        let width = writer.node("CastLike", &[&width, &product], vec![]);
        let root = writer.node("Sqrt", &[&width], vec![]);
        writer.node("Div", &[&product, &root], vec![])
    } else {
        let scale = if scale == 0.0 { (count as f32 / width as f32).sqrt() } else { scale };
        let scale = writer.number(scale, like)?;
        writer.node("Mul", &[&product, &scale], vec![])
    };
    if let Some(added) = added {
        scores = writer.node("Add", &[&scores, added], vec![]);
    }
    let weights = writer.softmax(&scores, -1);
    let mixed = writer.node("MatMul", &[&weights, &value], vec![]);
    let mixed = writer.transpose(&mixed, &[0, 2, 1, 3]);
    let joined = writer.integers(&[0, 0, -1])?;
    writer.last("Reshape", &[&mixed, &joined], &output, vec![]);
    Ok(())
}
