//! Calls of model-local functions, replaced by the functions' nodes.
//!
//! Source: <https://onnx.ai/onnx/repo-docs/IR.html#functions>. A name inside a function is either one of its inputs or outputs or
//! its own; nothing is captured from the caller.

use std::collections::HashMap;

use protobuf::Message;

use crate::error::{Error, Place, Result};
use crate::graph::ir::label;
use crate::onnx::proto::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto};

/// Nodes that all calls together may give: functions that call functions can ask for any number.
const MOST_NODES: usize = 250_000;

/// Bytes that all calls together may give, their constants and names.
const MOST_BYTES: u64 = 1 << 30;

/// Calls and subgraphs inside one another.
const DEEPEST: usize = 48;

/// Domain, name and overload.
type Key = (String, String, String);

/// Replaces all calls and drops the functions; gives the number of calls.
pub fn inline(model: &mut ModelProto) -> Result<usize> {
    if model.functions.is_empty() {
        return Ok(0);
    }
    let functions: HashMap<Key, FunctionProto> = std::mem::take(&mut model.functions)
        .into_iter()
        .map(|function| ((standard(&function.domain), function.name.clone(), function.overload.clone()), function))
        .collect();
    let opsets = model.opset_import.iter().map(|o| (standard(&o.domain), o.version)).collect();
    let mut inliner = Inliner { functions, opsets, calls: 0, nodes: 0, bytes: 0 };
    if let Some(graph) = model.graph.as_mut() {
        inliner.graph(graph, 0)?;
    }
    for (domain, version) in &inliner.opsets {
        if !model.opset_import.iter().any(|o| standard(&o.domain) == *domain) {
            let import =
                crate::onnx::proto::OperatorSetIdProto { domain: domain.clone(), version: *version, ..Default::default() };
            model.opset_import.push(import);
        }
    }
    Ok(inliner.calls)
}

fn standard(domain: &str) -> String {
    if domain == "ai.onnx" { String::new() } else { domain.to_string() }
}

struct Inliner {
    functions: HashMap<Key, FunctionProto>,
    /// Versions by domain, which functions have to agree on.
    opsets: HashMap<String, i64>,
    calls: usize,
    nodes: usize,
    bytes: u64,
}

impl Inliner {
    fn graph(&mut self, graph: &mut GraphProto, depth: usize) -> Result<()> {
        let nodes = std::mem::take(&mut graph.node);
        graph.node = self.nodes(nodes, depth)?;
        Ok(())
    }

    fn nodes(&mut self, nodes: Vec<NodeProto>, depth: usize) -> Result<Vec<NodeProto>> {
        if depth > DEEPEST {
            return Err(Error::malformed(format!("functions are called deeper than {DEEPEST}, or call themselves")));
        }
        let mut all = Vec::with_capacity(nodes.len());
        for (place, mut node) in nodes.into_iter().enumerate() {
            for attribute in &mut node.attribute {
                if let Some(graph) = attribute.g.as_mut() {
                    self.graph(graph, depth + 1)?;
                }
            }
            let key = (standard(&node.domain), node.op_type.clone(), node.overload.clone());
            let Some(function) = self.functions.get(&key).cloned() else {
                all.push(node);
                continue;
            };
            self.calls += 1;
            self.nodes = self.nodes.saturating_add(function.node.len());
            if self.nodes > MOST_NODES {
                return Err(Error::malformed(format!("calls of functions give more than {MOST_NODES} nodes")));
            }
            self.bytes = self.bytes.saturating_add(function.compute_size());
            if self.bytes > MOST_BYTES {
                return Err(Error::malformed(format!("calls of functions give more than {MOST_BYTES} bytes")));
            }
            let body = self.call(&function, &node).at(|| label(place, &node))?;
            all.extend(self.nodes(body, depth + 1)?);
        }
        Ok(all)
    }

    /// The function's nodes with the call's names and attributes.
    fn call(&mut self, function: &FunctionProto, call: &NodeProto) -> Result<Vec<NodeProto>> {
        if call.input.len() > function.input.len() || call.output.len() > function.output.len() {
            let (inputs, outputs) = (function.input.len(), function.output.len());
            return Err(Error::malformed(format!("gives more than the {inputs} inputs or {outputs} outputs of the function")));
        }
        // The version of a domain that has nothing but functions says nothing.
        let concerned = |domain: &str| !self.functions.keys().any(|(own, _, _)| *own == standard(domain));
        for import in function.opset_import.iter().filter(|import| concerned(&import.domain)) {
            let version = *self.opsets.entry(standard(&import.domain)).or_insert(import.version);
            if version != import.version {
                let (asked, name) = (import.version, &function.name);
                let reason = format!("function '{name}' is written for opset {asked} in a model of opset {version}");
                return Err(Error::unsupported(reason));
            }
        }
        let mut names: HashMap<String, String> = HashMap::new();
        for (index, formal) in function.input.iter().enumerate() {
            names.insert(formal.clone(), call.input.get(index).cloned().unwrap_or_default());
        }
        let mut passed = Vec::new();
        for (index, formal) in function.output.iter().enumerate() {
            let Some(actual) = call.output.get(index).filter(|name| !name.is_empty()) else { continue };
            match names.get(formal) {
                // An input that is an output as well.
                Some(source) => passed.push((source.clone(), actual.clone())),
                None => drop(names.insert(formal.clone(), actual.clone())),
            }
        }
        let mut attributes: HashMap<&str, &AttributeProto> =
            function.attribute_proto.iter().map(|attribute| (attribute.name.as_str(), attribute)).collect();
        attributes.extend(call.attribute.iter().map(|attribute| (attribute.name.as_str(), attribute)));
        let name: String = function.name.chars().take(40).collect();
        let scope = Scope { names, attributes, prefix: format!("{name}.{}", self.calls) };
        let mut nodes = function.node.clone();
        nodes.iter_mut().for_each(|node| scope.rename_node(node));
        nodes.extend(passed.into_iter().map(|(source, output)| NodeProto {
            op_type: "Identity".to_string(),
            input: vec![source],
            output: vec![output],
            ..Default::default()
        }));
        Ok(nodes)
    }
}

/// What names and attributes of a function are in one call of it.
struct Scope<'a> {
    names: HashMap<String, String>,
    attributes: HashMap<&'a str, &'a AttributeProto>,
    prefix: String,
}

impl Scope<'_> {
    fn rename(&self, name: &mut String) {
        if name.is_empty() {
            return;
        }
        *name = self.names.get(name.as_str()).cloned().unwrap_or_else(|| format!("{}/{name}", self.prefix));
    }

    fn rename_node(&self, node: &mut NodeProto) {
        node.input.iter_mut().chain(&mut node.output).for_each(|name| self.rename(name));
        node.name = format!("{}/{}", self.prefix, if node.name.is_empty() { &node.op_type } else { &node.name });
        let mut kept = Vec::with_capacity(node.attribute.len());
        for mut attribute in std::mem::take(&mut node.attribute) {
            if !attribute.ref_attr_name.is_empty() {
                // Left out by the caller and without a default means left out here.
                let Some(given) = self.attributes.get(attribute.ref_attr_name.as_str()) else { continue };
                kept.push(AttributeProto { name: attribute.name, ..(*given).clone() });
                continue;
            }
            if let Some(graph) = attribute.g.as_mut() {
                self.rename_graph(graph);
            }
            kept.push(attribute);
        }
        node.attribute = kept;
    }

    fn rename_graph(&self, graph: &mut GraphProto) {
        let declared = graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info);
        declared.for_each(|info| self.rename(&mut info.name));
        graph.initializer.iter_mut().for_each(|tensor| self.rename(&mut tensor.name));
        graph.node.iter_mut().for_each(|node| self.rename_node(node));
    }
}
