//! Attributes that say what they are, and hold it.

use super::names::quoted;
use super::proto::attribute_proto::AttributeType;
use super::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto};
use crate::error::{Error, Place, Result};

/// Fills in what old files leave out, so that whoever reads the model need not know: a missing attribute type (IR version 1)
/// is inferred from the one field in use, and a missing opset import (before IR version 3) means opset 1.
///
/// Recurses into subgraphs, whose nesting is already bounded.
///
/// # Errors
/// Malformed where an attribute without a type holds more than one thing.
pub(super) fn complete(model: &mut ModelProto) -> Result<()> {
    if model.opset_import.is_empty() && (1..3).contains(&model.ir_version) {
        model.opset_import.push(OperatorSetIdProto { version: 1, ..Default::default() });
    }
    if let Some(graph) = model.graph.as_mut() {
        complete_graph(graph)?;
    }
    for function in &mut model.functions {
        complete_nodes(&mut function.node)?;
        function.attribute_proto.iter_mut().try_for_each(complete_attribute)?;
    }
    for training in &mut model.training_info {
        for graph in [training.initialization.as_mut(), training.algorithm.as_mut()].into_iter().flatten() {
            complete_graph(graph)?;
        }
    }
    Ok(())
}

fn complete_graph(graph: &mut GraphProto) -> Result<()> {
    complete_nodes(&mut graph.node)
}

fn complete_nodes(nodes: &mut [NodeProto]) -> Result<()> {
    nodes.iter_mut().flat_map(|node| &mut node.attribute).try_for_each(complete_attribute)
}

fn complete_attribute(attribute: &mut AttributeProto) -> Result<()> {
    if attribute.type_.value() == AttributeType::UNDEFINED as i32 && attribute.ref_attr_name.is_empty() {
        let inferred = infer(attribute).at(|| format!("attribute {}", quoted(&attribute.name)))?;
        attribute.type_ = inferred.into();
    }
    if let Some(graph) = attribute.g.as_mut() {
        complete_graph(graph)?;
    }
    attribute.graphs.iter_mut().try_for_each(complete_graph)
}

/// The type whose field is in use; undefined where every field has its default, which reads as 0, 0.0 or nothing alike.
fn infer(attribute: &AttributeProto) -> Result<AttributeType> {
    let in_use = [
        (attribute.f != 0.0, AttributeType::FLOAT),
        (attribute.i != 0, AttributeType::INT),
        (!attribute.s.is_empty(), AttributeType::STRING),
        (attribute.t.is_some(), AttributeType::TENSOR),
        (attribute.g.is_some(), AttributeType::GRAPH),
        (attribute.sparse_tensor.is_some(), AttributeType::SPARSE_TENSOR),
        (attribute.tp.is_some(), AttributeType::TYPE_PROTO),
        (!attribute.floats.is_empty(), AttributeType::FLOATS),
        (!attribute.ints.is_empty(), AttributeType::INTS),
        (!attribute.strings.is_empty(), AttributeType::STRINGS),
        (!attribute.tensors.is_empty(), AttributeType::TENSORS),
        (!attribute.graphs.is_empty(), AttributeType::GRAPHS),
        (!attribute.sparse_tensors.is_empty(), AttributeType::SPARSE_TENSORS),
        (!attribute.type_protos.is_empty(), AttributeType::TYPE_PROTOS),
    ];
    let mut types = in_use.into_iter().filter_map(|(used, kind)| used.then_some(kind));
    match (types.next(), types.next()) {
        (None, _) => Ok(AttributeType::UNDEFINED),
        (Some(kind), None) => Ok(kind),
        (Some(_), Some(_)) => Err(Error::malformed("it names no type and holds values of several")),
    }
}

/// Checks that the attribute has a name, a type that ONNX knows, and the message that its type promises.
pub(super) fn check(attribute: &AttributeProto) -> Result<()> {
    if attribute.name.is_empty() {
        return Err(Error::malformed("it has no name"));
    }
    let kind = attribute.type_.enum_value().map_err(|code| Error::malformed(format!("its type {code} does not exist")))?;
    // A reference to an attribute of the enclosing function takes its value from there.
    if !attribute.ref_attr_name.is_empty() {
        return Ok(());
    }
    let (present, what) = match kind {
        AttributeType::TENSOR => (attribute.t.is_some(), "tensor"),
        AttributeType::GRAPH => (attribute.g.is_some(), "graph"),
        AttributeType::SPARSE_TENSOR => (attribute.sparse_tensor.is_some(), "sparse tensor"),
        AttributeType::TYPE_PROTO => (attribute.tp.is_some(), "type"),
        _ => (true, ""),
    };
    if !present {
        return Err(Error::malformed(format!("it says that it holds a {what} and holds none")));
    }
    Ok(())
}
