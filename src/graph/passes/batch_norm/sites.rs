//! Places at which normalisation can have been folded away.

use std::collections::HashMap;

use crate::graph::nodes::int_of;
use crate::onnx::kind_of;
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto};
use crate::tensor::is_float;

/// One place: `x` becomes `scale * x + shift`, channel by channel.
pub struct Site {
    /// What would be normalised; the output of the convolution, if there is one.
    pub x: String,
    /// What the place gives.
    pub output: String,
    /// What the product and the sum between the two give.
    pub chain: Vec<String>,
    /// Whether a convolution or a linear layer with constant weights gives `x`.
    pub behind_conv: bool,
    /// The name of that layer's own bias, a part of `x` in the file.
    pub bias: Option<String>,
    /// The names of the constants.
    pub scale: Option<String>,
    pub shift: Option<String>,
    pub channels: i64,
}

/// Reads of the graph that finding needs.
struct View<'a> {
    constants: HashMap<&'a str, &'a TensorProto>,
    readers: HashMap<&'a str, Vec<&'a NodeProto>>,
    outputs: Vec<&'a str>,
}

impl<'a> View<'a> {
    fn of(graph: &'a GraphProto) -> View<'a> {
        let mut constants: HashMap<&str, &TensorProto> = graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
        let mut readers: HashMap<&str, Vec<&NodeProto>> = HashMap::new();
        for node in &graph.node {
            if let (true, Some(output), Some(value)) = (node.op_type == "Constant", node.output.first(), node.attribute.first()) {
                constants.extend(value.t.as_ref().map(|tensor| (output.as_str(), tensor)));
            }
            for input in crate::graph::body::read_names(node) {
                readers.entry(input).or_default().push(node);
            }
        }
        View { constants, readers, outputs: graph.output.iter().map(|output| output.name.as_str()).collect() }
    }

    /// The only node that reads a value, if it is no output of the graph.
    fn only_reader(&self, name: &str) -> Option<&'a NodeProto> {
        match self.readers.get(name).map(Vec::as_slice) {
            Some(&[node]) if !self.outputs.contains(&name) => Some(node),
            _ => None,
        }
    }

    /// How many numbers a constant has that holds one for each channel of a feature map.
    fn channels(&self, name: &str) -> Option<i64> {
        let proto = self.constants.get(name)?;
        let is_float = kind_of(proto.data_type).is_ok_and(is_float);
        match proto.dims.as_slice() {
            // Fewer are those of images, before the first layer.
            &[1, length, 1, 1] | &[length, 1, 1] if is_float && length > 4 => Some(length),
            _ => None,
        }
    }

    /// If `node` is `op` of `value` and a constant per channel: that constant's name, and what the node gives.
    fn affine(&self, node: Option<&'a NodeProto>, op: &str, value: &str, channels: i64) -> Option<(String, &'a str)> {
        let node = node.filter(|node| node.op_type == op && is_standard(node) && node.input.len() == 2)?;
        let other = node.input.iter().find(|input| *input != value)?;
        let output = node.output.first()?;
        (self.channels(other) == Some(channels)).then(|| (other.clone(), output.as_str()))
    }
}

fn is_standard(node: &NodeProto) -> bool {
    matches!(node.domain.as_str(), "" | "ai.onnx")
}

/// All places, in the graph's order.
pub fn find(model: &ModelProto) -> Vec<Site> {
    let Some(graph) = model.graph.as_ref() else { return Vec::new() };
    let view = View::of(graph);
    let opset = model.opset_import.iter().filter(|o| matches!(o.domain.as_str(), "" | "ai.onnx")).map(|o| o.version).max();
    // The linear layers behind convolutions seldom had normalisation. Older ones cannot be without a bias.
    let linear = opset.unwrap_or(0) >= 11 && !graph.node.iter().any(|node| node.op_type == "Conv");
    let mut sites: Vec<Site> = Vec::new();
    let mut taken: Vec<&str> = Vec::new();
    for node in &graph.node {
        let Some(output) = node.output.first().map(String::as_str) else { continue };
        let site = match node.op_type.as_str() {
            "Conv" if is_standard(node) => behind_conv(&view, node, output, &mut taken),
            "Gemm" if linear && is_standard(node) => behind_gemm(&view, node, output),
            "Mul" if is_standard(node) && !taken.contains(&output) => affine_alone(&view, node, output),
            _ => None,
        };
        sites.extend(site.filter(|site| !is_last(&view, &site.output) && !is_normalised_next(&view, &site.output)));
    }
    sites
}

fn behind_conv<'a>(view: &View<'a>, node: &'a NodeProto, output: &'a str, taken: &mut Vec<&'a str>) -> Option<Site> {
    let weight = view.constants.get(node.input.get(1)?.as_str()).filter(|weight| weight.dims.len() == 4)?;
    let channels = *weight.dims.first()?;
    let bias = match node.input.get(2).filter(|name| !name.is_empty()) {
        Some(name) => Some(view.constants.contains_key(name.as_str()).then(|| name.clone())?),
        None => None,
    };
    let mut chain = Vec::new();
    let mut last = output;
    let scaled = view.affine(view.only_reader(last), "Mul", last, channels);
    let scale = scaled.map(|(scale, next)| {
        last = next;
        chain.push(next.to_string());
        // The product belongs to this place.
        taken.push(next);
        scale
    });
    let shifted = view.affine(view.only_reader(last), "Add", last, channels);
    let shift = shifted.map(|(shift, next)| {
        last = next;
        chain.push(next.to_string());
        shift
    });
    let has_affine = bias.is_some() || scale.is_some() || shift.is_some();
    has_affine.then(|| Site {
        x: output.to_string(),
        output: last.to_string(),
        chain,
        behind_conv: true,
        bias,
        scale,
        shift,
        channels,
    })
}

/// A linear layer with a bias, on rows of features.
fn behind_gemm(view: &View, node: &NodeProto, output: &str) -> Option<Site> {
    let plain = node.attribute.iter().all(|attribute| match attribute.name.as_str() {
        "alpha" | "beta" => attribute.f == 1.0,
        "transA" => attribute.i == 0,
        "transB" => true,
        _ => false,
    });
    let weight = view.constants.get(node.input.get(1)?.as_str()).filter(|weight| plain && weight.dims.len() == 2)?;
    let channels = *weight.dims.get(usize::from(int_of(node, "transB").unwrap_or(0) == 0))?;
    let bias = node.input.get(2).filter(|name| !name.is_empty())?;
    let fits = view.constants.get(bias.as_str()).is_some_and(|bias| bias.dims == [channels]);
    fits.then(|| Site {
        x: output.to_string(),
        output: output.to_string(),
        chain: Vec::new(),
        behind_conv: true,
        bias: Some(bias.clone()),
        scale: None,
        shift: None,
        channels,
    })
}

/// A product and a sum per channel that follow no convolution: normalisation before an activation.
fn affine_alone(view: &View, node: &NodeProto, output: &str) -> Option<Site> {
    let x = node.input.iter().find(|input| !view.constants.contains_key(input.as_str()))?;
    let channels = node.input.iter().find_map(|input| view.channels(input))?;
    let (scale, _) = view.affine(Some(node), "Mul", x, channels)?;
    let (shift, last) = view.affine(view.only_reader(output), "Add", output, channels)?;
    Some(Site {
        x: x.clone(),
        output: last.to_string(),
        chain: vec![output.to_string(), last.to_string()],
        behind_conv: false,
        bias: None,
        scale: Some(scale),
        shift: Some(shift),
        channels,
    })
}

/// Whether a value goes into a normalisation that is there.
fn is_normalised_next(view: &View, value: &str) -> bool {
    view.only_reader(value).is_some_and(|node| node.op_type.ends_with("Normalization"))
}

/// Whether nothing but pooling, moves and the head stands between a value and the graph's output: scores are not normalised.
fn is_last(view: &View, value: &str) -> bool {
    let mut name = value;
    for _ in 0..16 {
        if view.outputs.contains(&name) {
            return true;
        }
        let Some(node) = view.only_reader(name) else { return false };
        let passes = matches!(
            node.op_type.as_str(),
            "GlobalAveragePool"
                | "ReduceMean"
                | "AveragePool"
                | "Flatten"
                | "Reshape"
                | "Squeeze"
                | "Softmax"
                | "LogSoftmax"
                | "Identity"
                | "Relu"
                | "Dropout"
                | "Cast"
        );
        match node.output.first().filter(|_| passes) {
            Some(output) => name = output,
            None => return false,
        }
    }
    false
}

/// How many convolutions have filters that are computed.
pub fn computed_filters(model: &ModelProto) -> usize {
    let graph = model.graph.get_or_default();
    let view = View::of(graph);
    let is_computed = |node: &&NodeProto| {
        let computed = node.input.get(1).is_some_and(|filter| !view.constants.contains_key(filter.as_str()));
        node.op_type == "ConvInteger" || (node.op_type == "Conv" && computed)
    };
    graph.node.iter().filter(is_computed).count()
}

/// Whether there is normalisation in a graph, as a node of its own or written with other operators.
pub fn is_normalised(model: &ModelProto) -> bool {
    let graph = model.graph.get_or_default();
    let is_mean = |name: &String| graph.node.iter().any(|node| node.op_type == "ReduceMean" && node.output.first() == Some(name));
    graph
        .node
        .iter()
        .any(|node| node.op_type.ends_with("Normalization") || (node.op_type == "Sub" && node.input.get(1).is_some_and(is_mean)))
}

/// Whether a graph without any normalisation is one that had some: an affine map per channel has no other use, and residual or
/// depthwise networks of convolutions with biases only are not trained without normalisation.
pub fn looks_folded(model: &ModelProto, sites: &[Site]) -> bool {
    let graph = model.graph.get_or_default();
    let view = View::of(graph);
    let is_grouped = |node: &NodeProto| int_of(node, "group").unwrap_or(1) > 1;
    let convolutions = || graph.node.iter().filter(|node| node.op_type == "Conv");
    // The first half of a separable convolution needs no bias.
    let is_biased = |node: &NodeProto| is_grouped(node) || node.input.get(2).is_some_and(|bias| !bias.is_empty());
    let all_biased = convolutions().all(is_biased);
    let joins = |node: &NodeProto| {
        node.op_type == "Add"
            && node.input.len() == 2
            && node.input.iter().all(|input| !view.constants.contains_key(input.as_str()))
    };
    sites.iter().any(|site| site.scale.is_some())
        || (all_biased && convolutions().next().is_some() && (graph.node.iter().any(joins) || convolutions().any(is_grouped)))
}
