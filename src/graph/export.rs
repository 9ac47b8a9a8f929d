//! The way back: the file's own graph with the present values, and with the repairs written into it.

use crate::error::{Error, Result};
use crate::graph::import::Shared;
use crate::graph::ir::Origin;
use crate::graph::nodes::{int_attribute, new_node, tensor_attribute};
use crate::graph::passes::batch_size::Patch;
use crate::onnx;
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, tensor_shape_proto::dimension};
use crate::tensor::{Tensor, is_float};

/// Writes `values` (as the plan numbers them) into a copy of the file.
pub(crate) fn export(shared: &Shared, values: &[Tensor]) -> Result<ModelProto> {
    let mut model = shared.skeleton.clone();
    let graph = model.graph.as_mut().ok_or_else(|| Error::unexpected("the model has no graph"))?;
    for (info, tensor) in shared.stored.iter().zip(values) {
        if !(info.trainable || info.buffer) {
            continue;
        }
        let proto = onnx::to_proto(&info.name, tensor)?;
        match info.origin {
            Origin::Initializer(index) => match graph.initializer.get_mut(index) {
                Some(slot) => replace_keeping_notes(slot, proto),
                None => return Err(Error::unexpected(format!("initializer {index} is gone"))),
            },
            Origin::ConstantNode(place) => {
                let node = node_at(graph, place)?;
                node.attribute = vec![tensor_attribute("value", proto)];
            }
            // The node that computed it from constants gives the name up; a copy of a statistic is new.
            Origin::Folded => {
                let outputs = graph.node.iter_mut().flat_map(|node| &mut node.output);
                outputs.filter(|output| **output == info.name).for_each(|output| output.push_str(".before"));
                graph.initializer.push(proto);
            }
        }
    }
    for copy in &shared.copies {
        set_input(node_at(graph, copy.place)?, copy.position, &copy.name)?;
    }
    apply_patches(graph, &shared.patches)?;
    // Shapes of values inside the graph may state an old batch size or worse, and follow from the nodes anyway. Types of integers do not:
    // several are held in one kind of tensor.
    graph.value_info.retain(|info| !is_float_or_unknown(info));
    plain_constants(&mut model)?;
    Ok(model)
}

/// Constants as every reader takes them: an attribute that holds a plain zero is not written at all by protobuf's third edition, and
/// opsets below 9 know no Constant of integers.
fn plain_constants(model: &mut ModelProto) -> Result<()> {
    let opset = model.opset_import.iter().filter(|o| matches!(o.domain.as_str(), "" | "ai.onnx")).map(|o| o.version).max();
    let old = opset.unwrap_or(0) < 9;
    let Some(graph) = model.graph.as_mut() else { return Ok(()) };
    for node in graph.node.iter_mut().filter(|node| node.op_type == "Constant") {
        let Some(attribute) = node.attribute.first() else { continue };
        let value = match attribute.name.as_str() {
            "value_int" if attribute.i == 0 => Tensor::f_from_slice(&[attribute.i])?,
            "value_float" if attribute.f == 0.0 => Tensor::f_from_slice(&[attribute.f])?,
            _ => continue,
        };
        node.attribute = vec![tensor_attribute("value", onnx::to_proto("", &value.f_reshape([0_i64; 0])?)?)];
    }
    let is_integers = |node: &NodeProto| {
        let tensor = node.attribute.first().and_then(|attribute| attribute.t.as_ref()).filter(|_| node.op_type == "Constant");
        tensor.is_some_and(|tensor| onnx::kind_of(tensor.data_type).is_ok_and(|kind| !is_float(kind)))
    };
    if old && graph.node.iter().any(is_integers) {
        let (constants, others) = std::mem::take(&mut graph.node).into_iter().partition(is_integers);
        graph.node = others;
        let constants: Vec<NodeProto> = constants;
        for node in constants {
            let (value, name) =
                (node.attribute.into_iter().next().and_then(|a| a.t.into_option()), node.output.into_iter().next());
            if let (Some(value), Some(name)) = (value, name) {
                graph.initializer.push(TensorProto { name, ..value });
            }
        }
        // Older files have to list every initializer among the inputs.
        model.ir_version = model.ir_version.max(4);
    }
    Ok(())
}

fn is_float_or_unknown(info: &ValueInfoProto) -> bool {
    let declared = info.type_.as_ref().filter(|kind| kind.has_tensor_type()).map(|kind| kind.tensor_type().elem_type);
    declared.is_none_or(|code| onnx::kind_of(code).map_or(true, is_float))
}

fn replace_keeping_notes(slot: &mut TensorProto, mut proto: TensorProto) {
    proto.doc_string = std::mem::take(&mut slot.doc_string);
    proto.metadata_props = std::mem::take(&mut slot.metadata_props);
    *slot = proto;
}

fn node_at(graph: &mut GraphProto, place: usize) -> Result<&mut NodeProto> {
    graph.node.get_mut(place).ok_or_else(|| Error::unexpected(format!("node {place} is gone")))
}

fn set_input(node: &mut NodeProto, position: usize, name: &str) -> Result<()> {
    let input = node.input.get_mut(position).ok_or_else(|| Error::unexpected(format!("input {position} is gone")))?;
    *input = name.to_string();
    Ok(())
}

/// Writes batch repairs into the graph, and opens the batch dimension of its inputs and outputs.
fn apply_patches(graph: &mut GraphProto, patches: &[Patch]) -> Result<()> {
    if patches.is_empty() {
        return Ok(());
    }
    let mut inserted: Vec<(usize, Vec<NodeProto>)> = Vec::new();
    for (number, patch) in patches.iter().enumerate() {
        match patch {
            Patch::Integers { place, position, values } => {
                let name = format!("batch_free_integers.{number}");
                graph.initializer.push(onnx::to_proto(&name, &Tensor::f_from_slice(values)?)?);
                set_input(node_at(graph, *place)?, *position, &name)?;
            }
            Patch::Repeat { place, position, like, axis, rank } => {
                let node = node_at(graph, *place)?;
                let source = node.input.get(*position).cloned().unwrap_or_default();
                let like = node.input.get(*like).cloned().unwrap_or_default();
                set_input(node, *position, &format!("batch_free.{number}"))?;
                inserted.push((*place, repeat_nodes(graph, number, (&source, *rank), &like, *axis)?));
            }
            Patch::GatherPerImage { place, stride, indices, shape } => {
                let name = |what: &str| format!("batch_free.{number}.{what}");
                let rows = Tensor::f_from_slice(&[-1, *stride])?;
                let indices = Tensor::f_from_slice(indices)?.f_reshape(shape.as_slice())?;
                graph.initializer.push(onnx::to_proto(&name("rows"), &rows)?);
                graph.initializer.push(onnx::to_proto(&name("indices"), &indices)?);
                let node = node_at(graph, *place)?;
                let source = node.input.first().cloned().unwrap_or_default();
                node.attribute = vec![int_attribute("axis", 1)];
                set_input(node, 0, &name("images"))?;
                set_input(node, 1, &name("indices"))?;
                inserted.push((*place, vec![new_node("Reshape", &[source, name("rows")], name("images"), vec![])]));
            }
        }
    }
    inserted.sort_by_key(|(place, _)| std::cmp::Reverse(*place));
    for (place, nodes) in inserted {
        graph.node.splice(place..place, nodes);
    }
    let initializers: std::collections::HashSet<String> = graph.initializer.iter().map(|t| t.name.clone()).collect();
    for info in graph.input.iter_mut().filter(|i| !initializers.contains(&i.name)).chain(&mut graph.output) {
        open_batch_dimension(info);
    }
    Ok(())
}

/// The first of `source` (and its rank) along `axis`, repeated to the size that `like` has there: Expand to ones everywhere else.
fn repeat_nodes(graph: &mut GraphProto, number: usize, source: (&str, usize), like: &str, axis: usize) -> Result<Vec<NodeProto>> {
    let (source, rank) = source;
    let after = rank.checked_sub(axis + 1).ok_or_else(|| Error::unexpected(format!("rank {rank} has no axis {axis}")))?;
    let name = |what: &str| format!("batch_free.{number}.{what}");
    let position = i64::try_from(axis).map_err(Error::unexpected)?;
    for (what, values) in [("before", vec![1_i64; axis]), ("after", vec![1; after]), ("axis", vec![position]), ("first", vec![0])]
    {
        graph.initializer.push(onnx::to_proto(&name(what), &Tensor::f_from_slice(&values)?)?);
    }
    Ok(vec![
        new_node("Shape", &[like.to_string()], name("shape"), vec![]),
        new_node("Gather", &[name("shape"), name("axis")], name("batch"), vec![int_attribute("axis", 0)]),
        new_node("Concat", &[name("before"), name("batch"), name("after")], name("target"), vec![int_attribute("axis", 0)]),
        new_node("Gather", &[source.to_string(), name("first")], name("one"), vec![int_attribute("axis", position)]),
        new_node("Expand", &[name("one"), name("target")], format!("batch_free.{number}"), vec![]),
    ])
}

fn open_batch_dimension(info: &mut ValueInfoProto) {
    let Some(kind) = info.type_.as_mut().filter(|t| t.has_tensor_type()) else { return };
    if let Some(first) = kind.mut_tensor_type().shape.as_mut().and_then(|shape| shape.dim.first_mut()) {
        first.value = Some(dimension::Value::DimParam("N".to_string()));
    }
}
