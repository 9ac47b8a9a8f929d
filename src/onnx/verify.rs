//! The rules that every ONNX model keeps, and the sizes of every tensor in it.
//!
//! Source: ONNX's "Open Neural Network Exchange Intermediate Representation (ONNX IR) Specification". Whether nodes stand in
//! an order in which they can run, and whether operators exist, is for the graph importer to say.

use std::collections::{BTreeMap, HashSet};

use super::attributes;
use super::external::Directory;
use super::layout::{Source, element_count, layout};
use super::limits::Limits;
use super::names::{node_place, quoted};
use super::proto::type_proto::Value;
use super::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, SparseTensorProto, TensorProto,
    TypeProto, ValueInfoProto,
};
use crate::error::{Error, Place, Result};

/// The newest IR version that is known (ONNX 1.23).
const NEWEST_IR_VERSION: i64 = 14;

/// Checks the whole model, subgraphs, functions and training graphs included. Nothing is allocated for a tensor's values.
///
/// # Errors
/// Malformed or Unsupported, with the node or tensor; `directory` is where external data may lie, if anywhere.
pub(super) fn verify(model: &ModelProto, limits: &Limits, directory: Option<&Directory>) -> Result<()> {
    let mut verifier = Verifier { limits, directory, nodes: 0, tensor_bytes: 0 };
    let version = model.ir_version;
    match version {
        0 => return Err(Error::malformed("it names no IR version, so it is not an ONNX model or not a whole one")),
        ..0 => return Err(Error::malformed(format!("its IR version {version} does not exist"))),
        1..=NEWEST_IR_VERSION => {}
        _ => {
            return Err(Error::unsupported(format!("its IR version {version} is newer than {NEWEST_IR_VERSION}"))
                .help("export the model with an older ONNX version"));
        }
    }
    opsets(&model.opset_import)?;
    let graph = model.graph.as_ref().ok_or_else(|| Error::malformed("it has no graph"))?;
    verifier.graph(graph, 1)?;

    let mut names = HashSet::new();
    for function in &model.functions {
        let place = || format!("function {}", quoted(&function.name));
        if !names.insert((&function.domain, &function.name, &function.overload)) {
            return Err(Error::malformed("it is defined twice").at(place()));
        }
        verifier.function(function).at(place)?;
    }
    for training in &model.training_info {
        for graph in [training.initialization.as_ref(), training.algorithm.as_ref()].into_iter().flatten() {
            verifier.graph(graph, 2).at(|| "training information")?;
        }
    }
    Ok(())
}

fn opsets(imports: &[OperatorSetIdProto]) -> Result<()> {
    if imports.is_empty() {
        return Err(Error::malformed("it imports no opset"));
    }
    let mut versions = BTreeMap::new();
    for import in imports {
        // Both names mean ONNX's own operators.
        let domain = if import.domain == "ai.onnx" { "" } else { &import.domain };
        if import.version < 1 {
            return Err(Error::malformed(format!(
                "opset version {} of domain {} does not exist",
                import.version,
                quoted(domain)
            )));
        }
        if let Some(other) = versions.insert(domain, import.version)
            && other != import.version
        {
            return Err(Error::malformed(format!(
                "it imports domain {} as opset {other} and {}",
                quoted(domain),
                import.version
            )));
        }
    }
    Ok(())
}

struct Verifier<'a> {
    limits: &'a Limits,
    directory: Option<&'a Directory>,
    nodes: usize,
    tensor_bytes: u64,
}

impl Verifier<'_> {
    /// `depth` is the number of messages around the graph. It bounds the recursion for models that did not come as bytes.
    fn graph(&mut self, graph: &GraphProto, depth: usize) -> Result<()> {
        self.depth(depth)?;
        let mut inputs = HashSet::new();
        for input in &graph.input {
            if input.name.is_empty() {
                return Err(Error::malformed("a graph input has no name"));
            }
            if !inputs.insert(input.name.as_str()) {
                return Err(Error::malformed(format!("graph input {} is declared twice", quoted(&input.name))));
            }
        }
        let mut initializers = HashSet::new();
        let sparse = graph.sparse_initializer.iter().map(|tensor| tensor.values.as_ref().map_or("", |values| &values.name));
        for name in graph.initializer.iter().map(|tensor| tensor.name.as_str()).chain(sparse) {
            if name.is_empty() {
                return Err(Error::malformed("an initializer has no name"));
            }
            if !initializers.insert(name) {
                return Err(Error::malformed(format!("initializer {} is given twice", quoted(name))));
            }
        }
        for tensor in &graph.initializer {
            self.tensor(tensor).at(|| format!("initializer {}", quoted(&tensor.name)))?;
        }
        for tensor in &graph.sparse_initializer {
            self.sparse_tensor(tensor).at(|| "sparse initializer")?;
        }
        for value in graph.input.iter().chain(&graph.output).chain(&graph.value_info) {
            self.value_info(value, depth + 1)?;
        }
        // An initializer may have a graph input's name: it is that input's default.
        let defined = inputs.union(&initializers).copied().collect();
        self.nodes(&graph.node, defined, depth + 1)
    }

    fn function(&mut self, function: &FunctionProto) -> Result<()> {
        let mut inputs = HashSet::new();
        for input in &function.input {
            if !inputs.insert(input.as_str()) {
                return Err(Error::malformed(format!("input {} is declared twice", quoted(input))));
            }
        }
        for value in &function.value_info {
            self.value_info(value, 2)?;
        }
        self.attributes(&function.attribute_proto, 2)?;
        self.nodes(&function.node, inputs, 2)
    }

    /// Nodes of one graph or function, in which every value has one definition. `defined` holds the names that already have.
    fn nodes<'g>(&mut self, nodes: &'g [NodeProto], mut defined: HashSet<&'g str>, depth: usize) -> Result<()> {
        self.nodes = self.nodes.saturating_add(nodes.len());
        if self.nodes > self.limits.nodes {
            return Err(Error::malformed(format!("it has more than {} nodes (limit nodes)", self.limits.nodes)));
        }
        for (position, node) in nodes.iter().enumerate() {
            let place = || node_place(node, position);
            if node.op_type.is_empty() {
                return Err(Error::malformed("it names no operator").at(place()));
            }
            for output in node.output.iter().filter(|name| !name.is_empty()) {
                if !defined.insert(output) {
                    return Err(Error::malformed(format!("it defines {}, which is defined already", quoted(output))).at(place()));
                }
            }
            self.attributes(&node.attribute, depth + 1).at(place)?;
        }
        Ok(())
    }

    fn attributes(&mut self, attributes: &[AttributeProto], depth: usize) -> Result<()> {
        let mut names = HashSet::new();
        for attribute in attributes {
            let place = || format!("attribute {}", quoted(&attribute.name));
            attributes::check(attribute).at(place)?;
            if !names.insert(&attribute.name) {
                return Err(Error::malformed("it is given twice").at(place()));
            }
            self.attribute(attribute, depth).at(place)?;
        }
        Ok(())
    }

    fn attribute(&mut self, attribute: &AttributeProto, depth: usize) -> Result<()> {
        for tensor in attribute.t.iter().chain(&attribute.tensors) {
            self.tensor(tensor)?;
        }
        for tensor in attribute.sparse_tensor.iter().chain(&attribute.sparse_tensors) {
            self.sparse_tensor(tensor)?;
        }
        for kind in attribute.tp.iter().chain(&attribute.type_protos) {
            self.type_depth(kind, depth + 1)?;
        }
        for graph in attribute.g.iter().chain(&attribute.graphs) {
            self.graph(graph, depth + 1)?;
        }
        Ok(())
    }

    fn tensor(&mut self, tensor: &TensorProto) -> Result<()> {
        let layout = layout(tensor, self.limits)?;
        self.count(layout.bytes)?;
        match (&layout.source, self.directory) {
            (Source::External(reference), Some(directory)) => directory.check(reference),
            (Source::External(_), None) => Err(Error::malformed("its values are external data, but the model has no directory")),
            _ => Ok(()),
        }
    }

    fn sparse_tensor(&mut self, tensor: &SparseTensorProto) -> Result<()> {
        let (Some(values), Some(indices)) = (tensor.values.as_ref(), tensor.indices.as_ref()) else {
            return Err(Error::malformed("it lacks values or indices"));
        };
        element_count(&tensor.dims, self.limits)?;
        let place = || format!("sparse tensor {}", quoted(&values.name));
        self.tensor(values).at(place)?;
        self.tensor(indices).at(place)
    }

    fn count(&mut self, bytes: u64) -> Result<()> {
        self.tensor_bytes = self.tensor_bytes.saturating_add(bytes);
        if self.tensor_bytes > self.limits.total_tensor_bytes {
            let limit = self.limits.total_tensor_bytes;
            return Err(Error::malformed(format!(
                "with it, the tensors take more than {limit} bytes (limit total_tensor_bytes)"
            )));
        }
        Ok(())
    }

    fn value_info(&self, value: &ValueInfoProto, depth: usize) -> Result<()> {
        match value.type_.as_ref() {
            Some(kind) => self.type_depth(kind, depth + 1).at(|| format!("value {}", quoted(&value.name))),
            None => Ok(()),
        }
    }

    fn type_depth(&self, mut kind: &TypeProto, mut depth: usize) -> Result<()> {
        loop {
            self.depth(depth)?;
            let inner = match &kind.value {
                Some(Value::SequenceType(sequence)) => sequence.elem_type.as_ref(),
                Some(Value::OptionalType(optional)) => optional.elem_type.as_ref(),
                Some(Value::MapType(map)) => map.value_type.as_ref(),
                _ => None,
            };
            match inner {
                Some(inner) => kind = inner,
                None => return Ok(()),
            }
            depth += 2;
        }
    }

    fn depth(&self, depth: usize) -> Result<()> {
        if depth > self.limits.nesting {
            return Err(Error::malformed(format!("messages are nested deeper than {} (limit nesting)", self.limits.nesting)));
        }
        Ok(())
    }
}
