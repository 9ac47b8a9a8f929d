//! Every tensor of a model, wherever it stands.

use super::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto};
use crate::error::Result;

/// All tensors of all graphs and functions: initializers, sparse initializers and attributes.
pub(super) fn tensors(model: &ModelProto) -> Vec<&TensorProto> {
    let training = model.training_info.iter().flat_map(|info| info.initialization.iter().chain(&info.algorithm));
    let mut graphs: Vec<&GraphProto> = model.graph.iter().chain(training).collect();
    let mut attributes: Vec<&AttributeProto> = Vec::new();
    for function in &model.functions {
        attributes.extend(&function.attribute_proto);
        attributes.extend(function.node.iter().flat_map(|node| &node.attribute));
    }
    let mut found = Vec::new();
    loop {
        if let Some(attribute) = attributes.pop() {
            graphs.extend(attribute.g.iter().chain(&attribute.graphs));
            found.extend(attribute.t.iter().chain(&attribute.tensors));
            found.extend(attribute.sparse_tensor.iter().chain(&attribute.sparse_tensors).flat_map(halves));
        } else if let Some(graph) = graphs.pop() {
            attributes.extend(graph.node.iter().flat_map(|node| &node.attribute));
            found.extend(&graph.initializer);
            found.extend(graph.sparse_initializer.iter().flat_map(halves));
        } else {
            return found;
        }
    }
}

fn halves(sparse: &SparseTensorProto) -> impl Iterator<Item = &TensorProto> {
    sparse.values.iter().chain(&sparse.indices)
}

/// What is done with each tensor.
type Visit<'a> = &'a mut dyn FnMut(&mut TensorProto) -> Result<()>;

/// Visits what [`tensors`] lists, and stops at the first error. Recurses into subgraphs, whose nesting is bounded in a checked
/// model.
pub(super) fn tensors_mut(model: &mut ModelProto, visit: Visit<'_>) -> Result<()> {
    model.graph.as_mut().into_iter().try_for_each(|found| graph(found, visit))?;
    for function in &mut model.functions {
        nodes(&mut function.node, visit)?;
        function.attribute_proto.iter_mut().try_for_each(|found| attribute(found, visit))?;
    }
    for training in &mut model.training_info {
        training
            .initialization
            .as_mut()
            .into_iter()
            .chain(training.algorithm.as_mut())
            .try_for_each(|found| graph(found, visit))?;
    }
    Ok(())
}

fn graph(graph: &mut GraphProto, visit: Visit<'_>) -> Result<()> {
    graph.initializer.iter_mut().try_for_each(&mut *visit)?;
    graph.sparse_initializer.iter_mut().try_for_each(|found| sparse(found, visit))?;
    nodes(&mut graph.node, visit)
}

fn nodes(nodes: &mut [NodeProto], visit: Visit<'_>) -> Result<()> {
    nodes.iter_mut().flat_map(|node| &mut node.attribute).try_for_each(|found| attribute(found, visit))
}

fn attribute(attribute: &mut AttributeProto, visit: Visit<'_>) -> Result<()> {
    attribute.t.as_mut().into_iter().chain(&mut attribute.tensors).try_for_each(&mut *visit)?;
    attribute
        .sparse_tensor
        .as_mut()
        .into_iter()
        .chain(&mut attribute.sparse_tensors)
        .try_for_each(|found| sparse(found, visit))?;
    attribute.g.as_mut().into_iter().chain(&mut attribute.graphs).try_for_each(|found| graph(found, visit))
}

fn sparse(tensor: &mut SparseTensorProto, visit: Visit<'_>) -> Result<()> {
    tensor.values.as_mut().into_iter().chain(tensor.indices.as_mut()).try_for_each(visit)
}
