//! Finds the quantised values of a network that can be held in floats, so that gradients pass: those that only travel from where they
//! are quantised to where they are dequantised. Integers that something is computed with stay integers.

use std::collections::BTreeSet;

use crate::graph::ir::{IrNode, ValueId};
use crate::graph::ops::{Flow, Op, straight_through};

/// The nodes that have to be exchanged, by index, with the rows that take their place.
pub fn exchanged(nodes: &[IrNode], outputs: &[ValueId]) -> Vec<(usize, &'static Op)> {
    let floats = held_in_floats(nodes, outputs);
    let row = |node: &IrNode| -> Option<&'static Op> {
        let holds = |ids: &[Option<ValueId>]| ids.first().copied().flatten().is_some_and(|id| floats.contains(&id));
        match node.op.name {
            "QuantizeLinear" if holds(&node.outputs) => Some(&straight_through::QUANTIZE),
            "DynamicQuantizeLinear" if holds(&node.outputs) => Some(&straight_through::DYNAMIC),
            "DequantizeLinear" if holds(&node.inputs) => Some(&straight_through::DEQUANTIZE),
            _ => None,
        }
    };
    nodes.iter().enumerate().filter_map(|(index, node)| Some((index, row(node)?))).collect()
}

/// The inputs of a node that its outputs are moved from; empty for a node that does something else.
fn moved(node: &IrNode) -> &[Option<ValueId>] {
    match (node.op.name, node.op.flow) {
        // The largest of whole numbers is one of them, and so are those that are cut off at whole numbers.
        ("MaxPool" | "Clip" | "Relu" | "Gather" | "GatherElements" | "GatherND", _) | (_, Flow::Moves) => {
            node.inputs.get(..1).unwrap_or_default()
        }
        (_, Flow::MovesAll) => &node.inputs,
        _ => &[],
    }
}

/// The outputs of a node that are moved from its inputs.
fn results(node: &IrNode) -> impl Iterator<Item = ValueId> {
    let count = if node.op.name == "Split" { node.outputs.len() } else { 1 };
    node.outputs.iter().take(count).flatten().copied()
}

fn held_in_floats(nodes: &[IrNode], outputs: &[ValueId]) -> BTreeSet<ValueId> {
    let mut floats = BTreeSet::new();
    let moves_floats = |node: &IrNode, floats: &BTreeSet<ValueId>| {
        let moved = moved(node);
        !moved.is_empty() && moved.iter().flatten().all(|id| floats.contains(id))
    };
    for node in nodes {
        let quantises = matches!(node.op.name, "QuantizeLinear" | "DynamicQuantizeLinear");
        if quantises || moves_floats(node, &floats) {
            floats.extend(results(node));
        }
    }
    floats.retain(|id| !outputs.contains(id));
    // What one reader cannot take as a float is an integer for all, and so is what it was moved from or is moved to.
    loop {
        let before = floats.len();
        for node in nodes {
            let moved = moved(node);
            let passes = moves_floats(node, &floats) && results(node).all(|id| floats.contains(&id));
            if !moved.is_empty() && !passes {
                for id in results(node) {
                    floats.remove(&id);
                }
            }
            for (position, id) in node.inputs.iter().enumerate() {
                let reads_floats = position == 0 && matches!(node.op.name, "DequantizeLinear" | "Shape" | "Size");
                let taken = (position < moved.len() && passes) || reads_floats;
                if let (false, Some(id)) = (taken, id) {
                    floats.remove(id);
                }
            }
        }
        if floats.len() == before {
            return floats;
        }
    }
}
