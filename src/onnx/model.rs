//! What a parsed model must promise before its graph is looked at.

use std::collections::HashSet;
use std::path::Path;

use crate::error::{Error, Place, Result};
use crate::onnx::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};
use crate::onnx::{Limits, external, tensors};

/// The newest IR version whose meaning this crate knows. Versions so far only added things.
const NEWEST_IR: i64 = 14;

/// Checks versions, names, and the dimensions and payload of every tensor, in the graph and in attributes.
pub(crate) fn check(model: &ModelProto, directory: Option<&Path>, limits: &Limits) -> Result<()> {
    if model.ir_version <= 0 || model.ir_version > NEWEST_IR {
        let error = Error::malformed(format!("states IR version {}; versions 1 to {NEWEST_IR} are known", model.ir_version));
        return Err(if model.ir_version > NEWEST_IR { error.with_kind(crate::error::ErrorKind::Unsupported) } else { error });
    }
    let graph = model.graph.as_ref().ok_or_else(|| Error::malformed("the model has no graph"))?;
    if model.opset_import.is_empty() {
        return Err(Error::malformed("the model imports no opset"));
    }
    let mut domains = HashSet::new();
    for import in &model.opset_import {
        if import.version <= 0 {
            return Err(Error::malformed(format!("imports opset {} of domain '{}'", import.version, import.domain)));
        }
        if !domains.insert(import.domain.as_str()) {
            return Err(Error::malformed(format!("imports two opsets of domain '{}'", import.domain)));
        }
    }
    check_names(graph)?;
    let mut total = 0_u64;
    let mut check_tensor = |tensor: &TensorProto| -> Result<()> {
        let bytes = if external::is_external(tensor) {
            match directory {
                Some(directory) => external::check(tensor, directory, limits)?,
                None => return Err(Error::malformed("a model in memory cannot refer to other files")),
            }
        } else {
            tensors::check(tensor, limits)?
        };
        total = total.saturating_add(bytes);
        if total > limits.total_tensor_bytes {
            return Err(Error::malformed(format!("with it, tensors need more than the {} bytes that are allowed", limits.total_tensor_bytes)));
        }
        Ok(())
    };
    // Subgraphs are walked with a stack of their own: how deep they nest was bounded before parsing.
    let mut graphs: Vec<&GraphProto> = vec![graph];
    let mut nodes: Vec<&NodeProto> = model.functions.iter().flat_map(|f| &f.node).collect();
    while let Some(graph) = graphs.pop() {
        for tensor in &graph.initializer {
            check_tensor(tensor).at(|| format!("initializer '{}'", tensor.name))?;
        }
        nodes.extend(&graph.node);
        while let Some(node) = nodes.pop() {
            for attribute in &node.attribute {
                for tensor in attribute_tensors(attribute) {
                    let place = || format!("node '{}' ({})", node.name, node.op_type);
                    check_tensor(tensor).at(|| format!("attribute '{}'", attribute.name)).at(place)?;
                }
                graphs.extend(attribute.g.as_ref());
                graphs.extend(&attribute.graphs);
            }
        }
    }
    Ok(())
}

fn attribute_tensors(attribute: &AttributeProto) -> impl Iterator<Item = &TensorProto> {
    attribute.t.as_ref().into_iter().chain(&attribute.tensors)
}

fn check_names(graph: &GraphProto) -> Result<()> {
    let mut names = HashSet::new();
    for tensor in &graph.initializer {
        if tensor.name.is_empty() {
            return Err(Error::malformed("an initializer has no name"));
        }
        if !names.insert(tensor.name.as_str()) {
            return Err(Error::malformed(format!("there are two initializers '{}'", tensor.name)));
        }
    }
    let mut inputs = HashSet::new();
    for input in &graph.input {
        if !inputs.insert(input.name.as_str()) {
            return Err(Error::malformed(format!("there are two graph inputs '{}'", input.name)));
        }
    }
    Ok(())
}
