//! The graph as a picture, in the language of Graphviz: <https://graphviz.org/doc/info/lang.html>.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;

use crate::error::Result;
use crate::graph::Model;
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto};

/// A node that the import added or changed.
const REPAIRED: &str = "#ffd28a";

/// A node that reads something that is trained.
const TRAINED: &str = "#d6ecd2";

/// Draws the graph of `model` as it is after the import of `file`: what is trained in green, what was repaired in orange.
///
/// # Errors
/// Those of writing the graph down.
pub fn dot(file: &ModelProto, model: &Model) -> Result<String> {
    let imported = model.to_onnx()?;
    let graph = imported.graph.get_or_default();
    let before = Before::of(file.graph.get_or_default());
    let constants = constants(graph);
    let trained: HashMap<&str, &[i64]> =
        model.report().trainable.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice())).collect();
    let mut out =
        String::from("digraph model {\n  node [shape=box, fontname=\"sans-serif\", fontsize=10];\n  edge [color=\"#707070\"];\n");
    let mut line = |text: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  {text}");
    };
    let mut producers: HashMap<&str, String> = HashMap::new();
    let initializers: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    for (number, input) in graph.input.iter().filter(|input| !initializers.contains(input.name.as_str())).enumerate() {
        line(format!("i{number} [label={}, shape=ellipse];", quoted(&input.name)));
        producers.insert(&input.name, format!("i{number}"));
    }
    // Constants are told at the nodes that read them.
    let is_drawn = |node: &&NodeProto| node.op_type != "Constant";
    for (number, node) in graph.node.iter().filter(is_drawn).enumerate() {
        let read: Vec<(&String, &[i64])> =
            node.input.iter().filter_map(|name| trained.get(name.as_str()).map(|shape| (name, *shape))).collect();
        let repaired = !before.holds(&constants, node);
        let mut label = node.op_type.clone();
        for (name, shape) in &read {
            let _ = write!(label, "\n{name} {shape:?}");
        }
        let colour = match (repaired, read.is_empty()) {
            (true, _) => format!(", style=filled, fillcolor=\"{REPAIRED}\""),
            (false, false) => format!(", style=filled, fillcolor=\"{TRAINED}\""),
            (false, true) => String::new(),
        };
        line(format!("n{number} [label={}{colour}];", quoted(&label)));
        for input in &node.input {
            if let Some(producer) = producers.get(input.as_str()) {
                line(format!("{producer} -> n{number};"));
            }
        }
        node.output
            .iter()
            .filter(|output| !output.is_empty())
            .for_each(|output| drop(producers.insert(output, format!("n{number}"))));
    }
    for (number, output) in graph.output.iter().enumerate() {
        line(format!("o{number} [label={}, shape=ellipse];", quoted(&output.name)));
        if let Some(producer) = producers.get(output.name.as_str()) {
            line(format!("{producer} -> o{number};"));
        }
    }
    let repairs = model.report().repairs.join("\n");
    if !repairs.is_empty() {
        line(format!("repairs [label={}, shape=note, style=filled, fillcolor=\"{REPAIRED}\"];", quoted(&repairs)));
    }
    out.push_str("}\n");
    Ok(out)
}

/// What stood in the file: nodes by their first output.
struct Before<'a> {
    nodes: HashMap<&'a str, &'a NodeProto>,
    constants: HashMap<&'a str, &'a [i64]>,
}

/// Shapes of a graph's initializers by name.
fn constants(graph: &GraphProto) -> HashMap<&str, &[i64]> {
    graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor.dims.as_slice())).collect()
}

impl<'a> Before<'a> {
    fn of(graph: &'a GraphProto) -> Before<'a> {
        let nodes = graph.node.iter().filter_map(|node| Some((node.output.first()?.as_str(), node))).collect();
        Before { nodes, constants: constants(graph) }
    }

    /// Whether the file has this node, with the same operator, inputs and attributes, and constants of the same shapes.
    fn holds(&self, constants: &HashMap<&str, &[i64]>, node: &NodeProto) -> bool {
        let Some(was) = node.output.first().and_then(|output| self.nodes.get(output.as_str())) else { return false };
        // What was computed by a node may be stored as a constant now.
        let same_shape = |name: &String| {
            constants.get(name.as_str()).zip(self.constants.get(name.as_str())).is_none_or(|(now, was)| now == was)
        };
        (&was.op_type, &was.domain, &was.input) == (&node.op_type, &node.domain, &node.input)
            && was.attribute.len() == node.attribute.len()
            && node.input.iter().all(same_shape)
    }
}

/// A text as Graphviz takes it.
fn quoted(text: &str) -> String {
    let lines = text.split('\n').map(|line| crate::error::readable(line).replace('\\', "\\\\").replace('"', "\\\""));
    format!("\"{}\"", lines.collect::<Vec<_>>().join("\\n"))
}
