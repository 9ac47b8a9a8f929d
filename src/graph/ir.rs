//! ONNX's graph as numbered values and ordered nodes, before anything is decided about parameters.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Place, Result};
use crate::graph::body::{self, Body};
use crate::graph::ops::{self, ByExample, Call, ExampleRule, Kernel, Link, Mode, Op};
use crate::graph::order::{needed, topological_order};
use crate::graph::params::Strength;
use crate::graph::passes::{computed_statistics, straight_through};
use crate::onnx::OnnxFile;
use crate::onnx::proto::{GraphProto, NodeProto};
use crate::tensor::{Tensor, guarded};

/// Index into [`Ir::values`].
pub(crate) type ValueId = usize;

/// The whole graph.
pub(crate) struct Ir {
    pub values: Vec<Value>,
    /// In an order in which every node comes after what it reads.
    pub nodes: Vec<IrNode>,
    /// Graph inputs that are not initializers.
    pub inputs: Vec<ValueId>,
    pub outputs: Vec<ValueId>,
    /// Nodes that cannot be run; the graph can be looked at, not executed, when there are any.
    pub unsupported: Vec<Unsupported>,
    /// Constants in subgraphs that stand where weights stand.
    pub hidden_weights: Vec<String>,
    /// Names and shapes of constants in subgraphs that could have been thought weights, and are none.
    pub hidden_frozen: Vec<(String, Vec<i64>)>,
    /// Of a subgraph, what it reads from outside and is constant there; `None` for a main graph.
    pub fixed_outside: Option<Vec<ValueId>>,
}

/// A value that a subgraph reads from outside.
pub(crate) struct Captured {
    pub name: String,
    /// Whether it is computed from constants alone.
    pub fixed: bool,
}

/// One named tensor of the graph.
pub(crate) struct Value {
    pub name: String,
    pub constant: Option<Constant>,
}

/// A tensor known before the first run.
pub(crate) struct Constant {
    pub tensor: Tensor,
    pub origin: Origin,
}

/// Where a constant is stored, so that export can write it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Index into the graph's initializers.
    Initializer(usize),
    /// Index of a `Constant` node in the file.
    ConstantNode(usize),
    /// Computed at import from other constants.
    Folded,
}

/// A compiled node.
pub(crate) struct IrNode {
    /// Index in the file.
    pub place: usize,
    /// What errors call it.
    pub label: String,
    pub op: &'static Op,
    pub kernel: Kernel,
    /// A stand-in for the kernel; see [`Op::sketched`].
    pub sketch: Option<Kernel>,
    /// How constant operands get a gradient from every example; see [`Op::by_example`].
    pub rule: Option<ExampleRule>,
    /// Its part in a chain; see [`Op::link`].
    pub link: Option<Link>,
    pub inputs: Vec<Option<ValueId>>,
    pub outputs: Vec<Option<ValueId>>,
    /// Inputs that stand where weights stand in the node's subgraphs, beside those that its operator names.
    pub weights: Vec<(usize, Strength)>,
}

impl IrNode {
    /// A node that no file has, which makes one value of another.
    pub fn made_up(place: usize, label: String, op: &'static Op, kernel: Kernel, input: ValueId, output: ValueId) -> IrNode {
        let (inputs, outputs) = (vec![Some(input)], vec![Some(output)]);
        IrNode { place, label, op, kernel, sketch: None, rule: None, link: None, inputs, outputs, weights: Vec::new() }
    }
}

/// A node that cannot be run, with the reason.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Unsupported {
    /// The node, by name or position.
    pub node: String,
    /// The operator.
    pub operator: String,
    /// Why.
    pub reason: String,
}

/// Reads the graph of a file: numbers values, orders and compiles nodes.
///
/// # Errors
/// Malformed when the graph is not one (missing or twice-produced values, cycles, wrong arity or attribute types). Unsupported operators are
/// collected, not raised, so that one look lists all of them.
pub(crate) fn read(file: &OnnxFile) -> Result<Ir> {
    read_graph(file, main_graph(file)?, None, None)
}

/// As [`read`], as far as the value of this name needs it, which is the only output.
pub(crate) fn read_towards(file: &OnnxFile, value: &str) -> Result<Ir> {
    let mut ir = read_graph(file, main_graph(file)?, None, Some(value))?;
    if ir.inputs.len() > 1 {
        let read: HashSet<ValueId> = ir.nodes.iter().flat_map(|node| node.inputs.iter().flatten().copied()).collect();
        ir.inputs.retain(|input| read.contains(input));
    }
    Ok(ir)
}

/// The model's graph.
pub(crate) fn main_graph(file: &OnnxFile) -> Result<&GraphProto> {
    file.model.graph.as_ref().ok_or_else(|| Error::malformed("the model has no graph"))
}

/// Reads a graph of a file, its main one or a subgraph, whose `captured` are what it reads from outside, which become further inputs.
/// With `only`, what that value does not need is left out.
pub(crate) fn read_graph(file: &OnnxFile, graph: &GraphProto, captured: Option<&[Captured]>, only: Option<&str>) -> Result<Ir> {
    let (is_body, captured) = (captured.is_some(), captured.unwrap_or_default());
    let types = declared_types(graph);
    let mut reader = Reader {
        file,
        graph,
        types,
        ids: HashMap::new(),
        values: Vec::new(),
        unsupported: Vec::new(),
        hidden_weights: Vec::new(),
        hidden_frozen: Vec::new(),
        fixed: HashSet::new(),
    };
    for value in captured {
        let id = reader.add(&value.name);
        if value.fixed {
            reader.fixed.insert(id);
        }
    }
    let fixed_outside: Vec<ValueId> = reader.fixed.iter().copied().collect();
    reader.register_values()?;
    let order = topological_order(graph, &reader.ids)?;
    let needed = only.map(|name| needed(graph, &order, name));
    reader.read_initializers(needed.as_ref().map(|needed| &needed.values))?;
    let mut nodes = Vec::with_capacity(order.len());
    for place in order {
        if needed.as_ref().is_some_and(|needed| !needed.places.contains(&place)) {
            continue;
        }
        if let Some(node) = reader.node(place)? {
            nodes.push(node);
        }
    }
    reader.track_differentiated(&mut nodes)?;
    if only.is_some() {
        reader.let_gradients_through(&mut nodes, only)?;
    }
    let initializers: HashSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    let own = graph.input.iter().map(|input| &input.name).filter(|name| !initializers.contains(name.as_str()));
    let inputs = own.chain(captured.iter().map(|value| &value.name)).map(|name| reader.ids[name]).collect();
    let mut outputs = Vec::new();
    for name in only.map_or_else(|| graph.output.iter().map(|output| output.name.as_str()).collect(), |name| vec![name]) {
        let id = reader.ids.get(name).copied();
        outputs.push(id.ok_or_else(|| Error::malformed(format!("graph output '{name}' is produced by nothing")))?);
    }
    if outputs.is_empty() {
        return Err(Error::malformed("the graph has no outputs"));
    }
    let Reader { values, unsupported, hidden_weights, hidden_frozen, .. } = reader;
    let fixed_outside = is_body.then_some(fixed_outside);
    Ok(Ir { values, nodes, inputs, outputs, unsupported, hidden_weights, hidden_frozen, fixed_outside })
}

/// What errors call a node: its name if it has one, else what it produces.
pub(crate) fn label(place: usize, node: &NodeProto) -> String {
    match (node.name.as_str(), node.output.iter().find(|o| !o.is_empty())) {
        ("", Some(output)) => format!("node {place} ({}, giving '{output}')", node.op_type),
        ("", None) => format!("node {place} ({})", node.op_type),
        (name, _) => format!("node '{name}' ({})", node.op_type),
    }
}

fn qualified(node: &NodeProto) -> String {
    match node.domain.as_str() {
        "" | "ai.onnx" => node.op_type.clone(),
        domain => format!("{domain}.{}", node.op_type),
    }
}

/// Counts operators, `domain.name` outside the standard domain.
pub(crate) fn count_operators(graph: &GraphProto, counts: &mut BTreeMap<String, usize>) {
    for node in &graph.node {
        *counts.entry(qualified(node)).or_insert(0) += 1;
        body::subgraphs(node).for_each(|attribute| count_operators(&attribute.g, counts));
    }
}

fn declared_types(graph: &GraphProto) -> HashMap<&str, i32> {
    let mut types = HashMap::new();
    for info in graph.input.iter().chain(&graph.value_info).chain(&graph.output) {
        if let Some(declared) = info.type_.as_ref().filter(|declared| declared.has_tensor_type()) {
            types.insert(info.name.as_str(), declared.tensor_type().elem_type);
        }
    }
    types.extend(graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor.data_type)));
    for node in &graph.node {
        let constant = node.attribute.iter().find(|a| node.op_type == "Constant" && a.name == "value").and_then(|a| a.t.as_ref());
        if let (Some(tensor), Some(output)) = (constant, node.output.first()) {
            types.insert(output, tensor.data_type);
        }
    }
    types
}

struct Reader<'a> {
    file: &'a OnnxFile,
    graph: &'a GraphProto,
    /// ONNX element types by value name, where the file declares them.
    types: HashMap<&'a str, i32>,
    ids: HashMap<String, ValueId>,
    values: Vec<Value>,
    unsupported: Vec<Unsupported>,
    hidden_weights: Vec<String>,
    hidden_frozen: Vec<(String, Vec<i64>)>,
    /// Values that are computed from constants alone.
    fixed: HashSet<ValueId>,
}

impl Reader<'_> {
    fn add(&mut self, name: &str) -> ValueId {
        let id = self.values.len();
        self.values.push(Value { name: name.to_string(), constant: None });
        self.ids.insert(name.to_string(), id);
        id
    }

    fn register_values(&mut self) -> Result<()> {
        if let Some(sparse) = self.graph.sparse_initializer.first() {
            let name = sparse.values.as_ref().map_or("", |values| &values.name);
            return Err(Error::unsupported(format!("sparse initializer '{name}' is not supported")));
        }
        for proto in &self.graph.initializer {
            // A file has been checked for this; names that a rewrite gives may be in it already.
            if self.ids.contains_key(&proto.name) {
                return Err(Error::malformed(format!("the initializer '{}' is there twice", proto.name)));
            }
            self.add(&proto.name);
        }
        for input in &self.graph.input {
            if !self.ids.contains_key(&input.name) {
                self.add(&input.name);
            }
        }
        for (place, node) in self.graph.node.iter().enumerate() {
            for output in node.output.iter().filter(|o| !o.is_empty()) {
                if self.ids.contains_key(output) {
                    return Err(Error::malformed(format!("'{output}' is produced twice")).at(label(place, node)));
                }
                self.add(output);
            }
        }
        Ok(())
    }

    /// Reads the initializers, with `needed` those of its names only: a label's strings may stand beside the scores.
    fn read_initializers(&mut self, needed: Option<&HashSet<&str>>) -> Result<()> {
        for (index, proto) in self.graph.initializer.iter().enumerate() {
            if needed.is_some_and(|needed| !needed.contains(proto.name.as_str())) {
                continue;
            }
            let tensor = self.file.tensor(proto)?;
            let id = self.ids[&proto.name];
            self.fixed.insert(id);
            self.values[id].constant = Some(Constant { tensor, origin: Origin::Initializer(index) });
        }
        Ok(())
    }

    /// Compiles one node. `Constant` nodes become constants; unsupported nodes are noted and left out.
    fn node(&mut self, place: usize) -> Result<Option<IrNode>> {
        let proto = &self.graph.node[place];
        let label = label(place, proto);
        match self.compile(place, proto) {
            Ok(node) => Ok(node),
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                self.unsupported.push(Unsupported {
                    node: label,
                    operator: qualified(proto),
                    reason: error.reason().to_string(),
                });
                Ok(None)
            }
            Err(error) => Err(error.at(label)),
        }
    }

    fn compile(&mut self, place: usize, proto: &NodeProto) -> Result<Option<IrNode>> {
        let opset = self.opset(&proto.domain)?;
        let mut op = ops::find(&proto.domain, &proto.op_type, opset)?;
        let given = proto.input.iter().rposition(|i| !i.is_empty()).map_or(0, |last| last + 1);
        if given < op.min_inputs || given > op.max_inputs {
            let most = if op.max_inputs == usize::MAX { "or more".to_string() } else { format!("to {}", op.max_inputs) };
            return Err(Error::malformed(format!("has {given} inputs where {} takes {} {most}", op.name, op.min_inputs)));
        }
        let wanted = proto.output.iter().rposition(|o| !o.is_empty()).map_or(0, |last| last + 1);
        if wanted > op.max_outputs {
            return Err(Error::malformed(format!("has {wanted} outputs where {} gives {} at most", op.name, op.max_outputs)));
        }
        let id = |name: &String| if name.is_empty() { None } else { self.ids.get(name).copied() };
        let mut inputs: Vec<Option<ValueId>> = proto.input[..given].iter().map(id).collect();
        let mut weights = Vec::new();
        let outputs: Vec<Option<ValueId>> = proto.output[..wanted].iter().map(id).collect();
        let present = |ids: &[Option<ValueId>]| ids.iter().map(Option::is_some).collect::<Vec<_>>();
        let node = ops::Node::new(&proto.op_type, opset, present(&inputs), present(&outputs), &proto.attribute)
            .typed(self.types_of(proto))
            .with_bodies(self.bodies(proto, &mut inputs, &mut weights)?);
        if inputs.iter().flatten().all(|id| self.fixed.contains(id)) {
            self.fixed.extend(outputs.iter().flatten());
        }
        if !op.buffers.is_empty() {
            op = computed_statistics::row_for(op, proto, &node, self.graph, &self.types)?;
        }
        let kernel = (op.compile)(&node)?;
        let sketch = op.sketch.map(|compile| compile(&node)).transpose()?;
        let rule = if let ByExample::Rule(compile) = op.by_example { Some(compile(&node)?) } else { None };
        let link = op.link.map(|link| link(&node)).transpose()?.flatten();
        inputs.extend(body::differentiated(proto).map(|name| self.ids.get(name).copied()));
        if let Some(attribute) = node.unread().first() {
            return Err(Error::unsupported(format!(
                "attribute '{attribute}' of {} is not known in opset {opset}",
                proto.op_type
            )));
        }
        if op.name == "Constant" && op.domain.is_empty() {
            let tensor = kernel(&Call { inputs: &[], mode: Mode::Eval })?.into_iter().next();
            if let (Some(Some(output)), Some(tensor)) = (outputs.first().copied(), tensor) {
                self.values[output].constant = Some(Constant { tensor, origin: Origin::ConstantNode(place) });
            }
            return Ok(None);
        }
        Ok(Some(IrNode { place, label: label(place, proto), op, kernel, sketch, rule, link, inputs, outputs, weights }))
    }

    fn types_of(&self, proto: &NodeProto) -> Vec<Option<i32>> {
        proto.input.iter().map(|name| self.types.get(name.as_str()).copied()).collect()
    }

    /// Holds quantised values in floats where that changes nothing but that gradients pass.
    fn let_gradients_through(&self, nodes: &mut [IrNode], output: Option<&str>) -> Result<()> {
        let outputs: Vec<ValueId> = output.and_then(|name| self.ids.get(name).copied()).into_iter().collect();
        for (index, row) in straight_through::exchanged(nodes, &outputs) {
            let node = &mut nodes[index];
            let Some(proto) = self.graph.node.get(node.place) else { continue };
            let present = |ids: &[Option<ValueId>]| ids.iter().map(Option::is_some).collect::<Vec<_>>();
            let opset = self.opset(&proto.domain)?;
            let view = ops::Node::new(row.name, opset, present(&node.inputs), present(&node.outputs), &proto.attribute)
                .typed(self.types_of(proto));
            node.kernel = (row.compile)(&view).at(|| &node.label)?;
            node.sketch = row.sketch.map(|compile| compile(&view)).transpose()?;
            node.op = row;
        }
        Ok(())
    }

    /// Lets libtorch record what becomes of the values by which Gradient nodes differentiate: all other readers read a copy of such a
    /// value that is recorded.
    fn track_differentiated(&mut self, nodes: &mut Vec<IrNode>) -> Result<()> {
        let is_gradient = |node: &IrNode| node.op.name == "Gradient";
        if !nodes.iter().any(is_gradient) {
            return Ok(());
        }
        let by = nodes.iter().filter(|node| is_gradient(node)).flat_map(|node| {
            let xs = node.inputs.len().saturating_sub(1);
            node.inputs[..xs].iter().flatten().copied()
        });
        let by: std::collections::BTreeSet<ValueId> = by.collect();
        for id in by {
            let copy = self.values.len();
            self.values.push(Value { name: format!("{} (tracked)", self.values[id].name), constant: None });
            let row: &'static Op = &ops::derivative::TRACKED;
            let kernel = (row.compile)(&ops::Node::new(row.name, 1, vec![true], vec![true], &[]))?;
            for node in nodes.iter_mut() {
                node.inputs.iter_mut().filter(|input| **input == Some(id)).for_each(|input| *input = Some(copy));
            }
            let producer = nodes.iter().position(|node| node.outputs.contains(&Some(id)));
            let place = producer.map_or(0, |index| nodes[index].place);
            let label = format!("the value '{}', by which something is differentiated", self.values[id].name);
            let node = IrNode::made_up(place, label, row, kernel, id, copy);
            nodes.insert(producer.map_or(0, |index| index + 1), node);
        }
        Ok(())
    }

    /// Compiles a node's subgraphs; what they read from this graph is added to the node's inputs, and which of these are weights there to
    /// `weights`.
    fn bodies(
        &mut self,
        proto: &NodeProto,
        inputs: &mut Vec<Option<ValueId>>,
        weights: &mut Vec<(usize, Strength)>,
    ) -> Result<Vec<(String, Arc<Body>)>> {
        let mut bodies = Vec::new();
        for attribute in body::subgraphs(proto) {
            let captured: Vec<Captured> = body::free_names(&attribute.g)
                .into_iter()
                .map(|name| Captured { name: name.into(), fixed: self.ids.get(name).is_some_and(|id| self.fixed.contains(id)) })
                .collect();
            let (body, constants) = Body::compile(self.file, attribute, inputs.len(), &captured)?;
            weights.extend(body.captured_weights.iter().map(|&(position, strength)| (inputs.len() + position, strength)));
            inputs.extend(captured.iter().map(|value| self.ids.get(&value.name).copied()));
            for tensor in constants {
                inputs.push(Some(self.values.len()));
                self.fixed.insert(self.values.len());
                let constant = Some(Constant { tensor, origin: Origin::Folded });
                self.values.push(Value { name: format!("constant in {}", attribute.name), constant });
            }
            self.hidden_weights.extend(body.weights.iter().cloned());
            self.hidden_frozen.extend(body.frozen.iter().cloned());
            bodies.push((attribute.name.clone(), Arc::new(body)));
        }
        Ok(bodies)
    }

    fn opset(&self, domain: &str) -> Result<i64> {
        let standard = |d: &str| d.is_empty() || d == "ai.onnx";
        let found = self.file.model.opset_import.iter().find(|o| o.domain == domain || (standard(&o.domain) && standard(domain)));
        match found {
            Some(import) if standard(domain) && import.version > ops::NEWEST_OPSET => {
                let newest = ops::NEWEST_OPSET;
                Err(Error::unsupported(format!("opset {} is newer than {newest}, the newest that is known", import.version)))
            }
            Some(import) => Ok(import.version),
            // ONNX Runtime takes its own operators without.
            None if domain == "com.microsoft" => Ok(1),
            None => Err(Error::malformed(format!("the file imports no opset for domain '{domain}'"))),
        }
    }
}

/// Runs a kernel. What libtorch refuses was given shapes or types that do not fit: that is the file's fault, unless memory ran out.
pub(crate) fn run_kernel(kernel: &Kernel, call: &Call<'_>) -> Result<Vec<Tensor>> {
    guarded(|| kernel(call)).map_err(of_the_file)
}

/// The file's fault, unless memory ran out or it is another kind of error anyway.
pub(crate) fn of_the_file(error: Error) -> Error {
    let memory = ["alloc", "out of memory", "CUDA"].iter().any(|word| error.reason().contains(word));
    let is_files_fault = error.kind() == ErrorKind::Unexpected && (!memory || asks_too_much(error.reason()));
    if is_files_fault { error.with_kind(ErrorKind::Malformed) } else { error }
}

/// Whether libtorch was asked for more memory at once than any machine has: "you tried to allocate N bytes".
fn asks_too_much(reason: &str) -> bool {
    let bytes = reason.split("tried to allocate ").nth(1).and_then(|rest| rest.split(' ').next());
    bytes.and_then(|bytes| bytes.parse::<f64>().ok()).is_some_and(|bytes| bytes >= 1e12)
}

/// Runs one node on tensors that are already known.
pub(crate) fn run_node(node: &IrNode, inputs: &[Option<&Tensor>], mode: Mode) -> Result<Vec<Tensor>> {
    let outputs = run_kernel(&node.kernel, &Call { inputs, mode }).at(|| &node.label)?;
    let needed = node.outputs.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    if outputs.len() < needed {
        return Err(Error::unsupported(format!("output {} of {} is not supported", needed - 1, node.op.name)).at(&node.label));
    }
    Ok(outputs)
}
