//! Normalisation whose statistics the graph computes: exporters write the standardisation of a layer's weights so.

use std::collections::{HashMap, HashSet};

use crate::error::Result;
use crate::graph::body;
use crate::graph::nodes::constant;
use crate::graph::ops::norm::{WITH_COMPUTED_STATISTICS, WITH_OWN_STATISTICS, asks_for_own_statistics};
use crate::graph::ops::{Node, Op};
use crate::onnx::proto::{GraphProto, NodeProto};

/// No file moves a stored tensor oftener.
const MOST_MOVES: usize = 8;

/// The row by which a node is compiled whose operator keeps statistics: another one where these are computed, from what is normalised or
/// for nothing.
pub fn row_for(
    row: &'static Op,
    proto: &NodeProto,
    node: &Node<'_>,
    graph: &GraphProto,
    types: &HashMap<&str, i32>,
) -> Result<&'static Op> {
    let statistics = row.buffers.iter().filter_map(|&position| proto.input.get(position));
    let computed: Vec<&String> = statistics.filter(|name| is_computed(graph, name)).collect();
    if computed.is_empty() {
        return Ok(row);
    }
    if asks_for_own_statistics(node)? {
        return Ok(&WITH_OWN_STATISTICS);
    }
    let normalised = stored_floats(graph, types, proto.input.first());
    let of_the_same = |name: &String| !stored_floats(graph, types, Some(name)).is_disjoint(&normalised);
    Ok(if computed.into_iter().any(of_the_same) { &WITH_COMPUTED_STATISTICS } else { row })
}

/// Whether a value is computed, and not a stored one that is only moved.
fn is_computed(graph: &GraphProto, name: &str) -> bool {
    let mut name = name;
    for _ in 0..MOST_MOVES {
        let Some(node) = graph.node.iter().find(|node| node.output.first().is_some_and(|output| output == name)) else {
            return false;
        };
        match (node.op_type.as_str(), node.input.first()) {
            ("Constant", _) => return false,
            ("Identity" | "Cast" | "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" | "Transpose", Some(source)) => name = source,
            _ => return true,
        }
    }
    true
}

/// The names of the stored floats of more than one number, and of the graph's inputs, that a value is computed from. Single numbers are
/// shared by whatever happens to hold the same.
fn stored_floats<'g>(graph: &'g GraphProto, types: &HashMap<&str, i32>, name: Option<&'g String>) -> HashSet<&'g str> {
    let (mut found, mut seen) = (HashSet::new(), HashSet::new());
    let mut left: Vec<&str> = name.into_iter().map(String::as_str).collect();
    while let Some(name) = left.pop() {
        if !seen.insert(name) {
            continue;
        }
        match graph.node.iter().find(|node| node.output.iter().any(|output| output == name)) {
            Some(node) if node.op_type != "Constant" => left.extend(body::read_names(node)),
            _ => {
                let kind = types.get(name).and_then(|&code| crate::onnx::kind_of(code).ok());
                let single = constant(graph, name).is_some_and(|tensor| tensor.dims.iter().all(|&size| size == 1));
                found.extend((kind.is_some_and(crate::tensor::is_float) && !single).then_some(name));
            }
        }
    }
    found
}
