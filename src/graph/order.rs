//! In which order the nodes of a graph run, and which of them a value needs.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::error::{Error, Result};
use crate::graph::body;
use crate::graph::ir::{ValueId, label};
use crate::onnx::proto::GraphProto;

/// Kahn's algorithm, keeping the file's order where the edges leave a choice.
pub(super) fn topological_order(graph: &GraphProto, ids: &HashMap<String, ValueId>) -> Result<Vec<usize>> {
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
            if !ids.contains_key(input) {
                return Err(Error::malformed(format!("reads '{input}', which nothing produces")).at(label(place, node)));
            }
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
        Some(place) => Err(Error::malformed("is part of a cycle: it needs its own result").at(label(place, &graph.node[place]))),
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
