//! In which order the nodes of a graph run, and which of them a value needs.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::error::{Error, Result};
use crate::graph::body;
use crate::graph::ir::{ValueId, label};
use crate::onnx::proto::{GraphProto, NodeProto};

/// An order in which every node comes after what it reads; `None` if the nodes stand in one already, or there is a cycle.
pub(super) fn missing_order(graph: &GraphProto) -> Option<Vec<usize>> {
    let produced = graph.node.iter().enumerate().flat_map(|(place, node)| node.output.iter().map(move |o| (o.as_str(), place)));
    let producer: HashMap<&str, usize> = produced.collect();
    let reads_ahead = |(place, node): (usize, &NodeProto)| {
        body::read_names(node).any(|input| producer.get(input).is_some_and(|&from| from >= place))
    };
    if graph.node.iter().enumerate().any(reads_ahead) { kahn(graph).ok() } else { None }
}

/// An order in which every node comes after what it reads.
///
/// # Errors
/// Malformed, naming a node that reads what nothing produces, or needs its own result.
pub(super) fn topological_order(graph: &GraphProto, ids: &HashMap<String, ValueId>) -> Result<Vec<usize>> {
    for (place, node) in graph.node.iter().enumerate() {
        if let Some(input) = body::read_names(node).find(|input| !ids.contains_key(*input)) {
            return Err(Error::malformed(format!("reads '{input}', which nothing produces")).at(label(place, node)));
        }
    }
    kahn(graph)
        .map_err(|place| Error::malformed("is part of a cycle: it needs its own result").at(label(place, &graph.node[place])))
}

/// Kahn's algorithm, keeping the file's order where the edges leave a choice. Gives a node of a cycle, if there is one.
fn kahn(graph: &GraphProto) -> std::result::Result<Vec<usize>, usize> {
    let mut producer: HashMap<&str, usize> = HashMap::new();
    for (place, node) in graph.node.iter().enumerate() {
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            producer.insert(output, place);
        }
    }
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); graph.node.len()];
    let mut waiting = vec![0usize; graph.node.len()];
    for (place, node) in graph.node.iter().enumerate() {
        for input in body::read_names(node) {
            if let Some(&from) = producer.get(input) {
                readers[from].push(place);
                waiting[place] += 1;
            }
        }
    }
    let mut ready: VecDeque<usize> = (0..graph.node.len()).filter(|&place| waiting[place] == 0).collect();
    let mut order = Vec::with_capacity(graph.node.len());
    while let Some(place) = ready.pop_front() {
        order.push(place);
        for &reader in &readers[place] {
            waiting[reader] -= 1;
            if waiting[reader] == 0 {
                ready.push_back(reader);
            }
        }
    }
    match waiting.iter().position(|&count| count > 0) {
        None => Ok(order),
        Some(place) => Err(place),
    }
}

/// What a value is made of.
pub(super) struct Needed<'a> {
    pub values: HashSet<&'a str>,
    /// Nodes, by their index in the file.
    pub places: HashSet<usize>,
}

/// What the value of this name is made of; `order` is the nodes' [order](topological_order).
pub(super) fn needed<'a>(graph: &'a GraphProto, order: &[usize], value: &'a str) -> Needed<'a> {
    let mut needed = Needed { values: HashSet::from([value]), places: HashSet::new() };
    for &place in order.iter().rev() {
        let node = &graph.node[place];
        if node.output.iter().any(|output| needed.values.contains(output.as_str())) {
            needed.places.insert(place);
            needed.values.extend(body::read_names(node));
        }
    }
    needed
}

/// The names of everything that the value of this name is made of, itself included.
pub(super) fn needed_values<'a>(graph: &'a GraphProto, value: &'a str) -> HashSet<&'a str> {
    let order = kahn(graph).unwrap_or_default();
    needed(graph, &order, value).values
}
