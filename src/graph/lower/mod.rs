//! Rewrites of a file before it is compiled, for what ONNX defines by other operators: calls of the model's own functions,
//! operators of ONNX Runtime's own domain, scalers, and sequences and optional values whose content is known.
//!
//! A rewrite keeps the names of values, so that errors and reports speak of what is in the file, and gives standard ONNX: what is
//! exported later is the rewritten graph.

mod contrib;
mod functions;
mod known;
mod scaler;
mod sequences;

use std::collections::BTreeMap;

pub(crate) use contrib::REPLACED;

use crate::error::{Place, Result};
use crate::graph::ir::count_operators;
use crate::graph::order;
use crate::onnx::OnnxFile;
use crate::onnx::proto::{GraphProto, NodeProto};

/// A file whose graph has been rewritten.
pub struct Lowered {
    pub(crate) file: OnnxFile,
    /// Operator counts as the file had them.
    pub(crate) operators: BTreeMap<String, usize>,
    /// What was rewritten, in words.
    pub(crate) repairs: Vec<String>,
}

impl Lowered {
    /// SHA-256 of the file.
    pub fn sha256(&self) -> &str {
        &self.file.sha256
    }
}

/// Rewrites what is defined by other operators.
///
/// # Errors
/// Malformed, for functions that call themselves, do not fit their calls, or grow beyond all measure; Unsupported, for functions
/// written for another opset than the model's.
pub fn lower(mut file: OnnxFile) -> Result<Lowered> {
    let mut operators = BTreeMap::new();
    if let Some(graph) = file.model.graph.as_ref() {
        count_operators(graph, &mut operators);
    }
    let mut repairs = Vec::new();
    let place = file.path.display().to_string();
    let calls = functions::inline(&mut file.model).at(|| place)?;
    if calls > 0 {
        repairs.push(format!("{calls} calls of the model's own functions were replaced by the functions' nodes"));
    }
    let contributed = contrib::replace(&mut file).at(|| file.path.display().to_string())?;
    if !contributed.is_empty() {
        let counts: Vec<String> = contributed.iter().map(|(operator, count)| format!("{count} {operator}")).collect();
        repairs.push(format!("{} written by ONNX Runtime were replaced by what they stand for", counts.join(", ")));
    }
    let scalers = file.model.graph.as_mut().map_or(Ok(0), scaler::replace)?;
    if scalers > 0 {
        repairs.push(format!("{scalers} Scaler nodes were written as differences and products"));
    }
    let resolved = sequences::resolve(&mut file);
    if resolved > 0 {
        repairs.push(format!("{resolved} operations on sequences and optional values were resolved, their content being known"));
    }
    if file.model.graph.as_mut().is_some_and(sort) {
        repairs.push("the nodes were put in an order in which each comes after what it reads".to_string());
    }
    Ok(Lowered { file, operators, repairs })
}

/// Some tools write nodes in another order than the standard asks for. What cannot be put in order is left for the reader to refuse.
fn sort(graph: &mut GraphProto) -> bool {
    for subgraph in graph.node.iter_mut().flat_map(|node| &mut node.attribute).filter_map(|attribute| attribute.g.as_mut()) {
        sort(subgraph);
    }
    let Some(order) = order::missing_order(graph) else { return false };
    let mut nodes: Vec<Option<NodeProto>> = std::mem::take(&mut graph.node).into_iter().map(Some).collect();
    graph.node = order.into_iter().filter_map(|place| nodes.get_mut(place).and_then(Option::take)).collect();
    true
}
