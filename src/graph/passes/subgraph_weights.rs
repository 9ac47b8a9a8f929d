//! Weights that are stored inside subgraphs are moved to the main graph, from which the subgraphs read them as they read anything
//! outside: there each is one trained tensor, however often its subgraph runs.

use std::collections::{BTreeSet, HashSet};

use crate::graph::body;
use crate::onnx::proto::attribute_proto::AttributeType;
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto};

/// Moves the constants of these names out of all subgraphs, under new names; gives their number.
pub fn lift(model: &mut ModelProto, names: &[String]) -> usize {
    let Some(graph) = model.graph.as_mut() else { return 0 };
    let mut taken = HashSet::new();
    collect_names(graph, &mut taken);
    let mut lifter = Lifter { wanted: names.iter().map(String::as_str).collect(), taken, lifted: Vec::new() };
    for node in &mut graph.node {
        subgraphs_mut(node).for_each(|subgraph| lifter.visit(subgraph));
    }
    let lifted = lifter.lifted;
    let count = lifted.len();
    graph.initializer.extend(lifted);
    // Older files have to list every initializer among the inputs.
    model.ir_version = model.ir_version.max(4);
    count
}

struct Lifter<'a> {
    /// In an order, so that the same file always becomes the same.
    wanted: BTreeSet<&'a str>,
    taken: HashSet<String>,
    lifted: Vec<TensorProto>,
}

impl Lifter<'_> {
    fn new_name(&self, old: &str) -> String {
        let (mut name, mut count) = (format!("{old}.lifted"), 0);
        while self.taken.contains(&name) {
            count += 1;
            name = format!("{old}.lifted.{count}");
        }
        name
    }

    fn visit(&mut self, graph: &mut GraphProto) {
        let here: Vec<String> = self.wanted.iter().filter(|name| can_move(graph, name)).map(|name| (*name).to_string()).collect();
        for name in here {
            let Some(mut tensor) = take(graph, &name) else { continue };
            let new = self.new_name(&name);
            rename(graph, &name, &new);
            self.taken.insert(new.clone());
            tensor.name = new;
            self.lifted.push(tensor);
        }
        for node in &mut graph.node {
            subgraphs_mut(node).for_each(|subgraph| self.visit(subgraph));
        }
    }
}

fn subgraphs_mut(node: &mut NodeProto) -> impl Iterator<Item = &mut GraphProto> {
    let holds = node.attribute.iter_mut().filter(|attribute| attribute.type_.enum_value_or_default() == AttributeType::GRAPH);
    holds.filter_map(|attribute| attribute.g.as_mut())
}

fn collect_names(graph: &GraphProto, names: &mut HashSet<String>) {
    names.extend(graph.input.iter().chain(&graph.output).map(|info| info.name.clone()));
    names.extend(graph.initializer.iter().map(|tensor| tensor.name.clone()));
    for node in &graph.node {
        names.extend(node.input.iter().chain(&node.output).cloned());
        body::subgraphs(node).for_each(|attribute| collect_names(&attribute.g, names));
    }
}

/// A subgraph has to produce its outputs itself, and its inputs come from its node.
fn can_move(graph: &GraphProto, name: &str) -> bool {
    !graph.output.iter().chain(&graph.input).any(|info| info.name == name)
}

/// Takes an initializer or the tensor of a `Constant` node out of a graph.
fn take(graph: &mut GraphProto, name: &str) -> Option<TensorProto> {
    if let Some(index) = graph.initializer.iter().position(|tensor| tensor.name == name) {
        return Some(graph.initializer.remove(index));
    }
    let is_it = |node: &NodeProto| node.op_type == "Constant" && node.output.iter().any(|output| output == name);
    let index = graph.node.iter().position(is_it)?;
    let attribute = graph.node[index].attribute.first()?;
    let tensor = match attribute.name.as_str() {
        "value" => attribute.t.as_ref().cloned()?,
        "value_floats" => TensorProto {
            data_type: DataType::FLOAT as i32,
            dims: vec![i64::try_from(attribute.floats.len()).ok()?],
            float_data: attribute.floats.clone(),
            ..Default::default()
        },
        _ => return None,
    };
    graph.node.remove(index);
    Some(tensor)
}

/// Lets everything in a graph that reads `old` read `new`, up to subgraphs that have an `old` of their own.
fn rename(graph: &mut GraphProto, old: &str, new: &str) {
    for node in &mut graph.node {
        node.input.iter_mut().filter(|input| *input == old).for_each(|input| *input = new.to_string());
        for subgraph in subgraphs_mut(node) {
            if body::free_names(subgraph).contains(old) {
                rename(subgraph, old, new);
            }
        }
    }
}
