//! Subgraphs of nodes: the branches of If, the bodies of Loop and Scan.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;

use crate::error::{Error, Place, Result};
use crate::graph::ir::{self, Captured, Constant, Ir, Origin, ValueId};
use crate::graph::ops::Call;
use crate::graph::params::{self, Role, Strength};
use crate::graph::plan::Plan;
use crate::onnx::OnnxFile;
use crate::onnx::proto::{AttributeProto, GraphProto, NodeProto, attribute_proto::AttributeType};
use crate::tensor::{Kind, Tensor, is_float};

/// A compiled subgraph. What it reads from the graph around it, and its own constants, are further inputs of the node that holds it.
pub struct Body {
    plan: Plan,
    /// Which of the node's inputs are the subgraph's constants.
    stored: Range<usize>,
    /// How many inputs the subgraph declares itself.
    own: usize,
    /// Which of the node's inputs are what the subgraph reads from outside.
    captured: Range<usize>,
    /// Constants inside that stand where weights stand.
    pub(crate) weights: Vec<String>,
    /// Which of the values that are read from outside stand so, by the order of [`free_names`].
    pub(crate) captured_weights: Vec<(usize, Strength)>,
    /// Names and shapes of stored floats inside, more than one each, that stand elsewhere, and of what is dequantised inside.
    pub(crate) frozen: Vec<(String, Vec<i64>)>,
}

impl Body {
    /// Compiles the subgraph that an attribute holds. `first` is the place among the node's inputs of what it reads from outside, by
    /// the order of [`free_names`], which is that of `captured`; behind these stand the constants that are given back.
    pub(crate) fn compile(
        file: &OnnxFile,
        attribute: &AttributeProto,
        first: usize,
        captured: &[Captured],
    ) -> Result<(Body, Vec<Tensor>)> {
        let graph = &attribute.g;
        let mut ir = ir::read_graph(file, graph, Some(captured), None).at(|| format!("subgraph '{}'", attribute.name))?;
        if let Some(node) = ir.unsupported.first() {
            return Err(Error::unsupported(&node.reason));
        }
        if let Some(node) = ir.nodes.iter().find(|node| !node.op.buffers.is_empty()) {
            // They would be shared by all copies of a model.
            return Err(Error::unsupported(format!("running statistics in a subgraph, of {}, are not supported", node.label)));
        }
        let roles = params::assign(&mut ir)?;
        let mut weights = std::mem::take(&mut ir.hidden_weights);
        weights.extend(roles.of.iter().filter(|(_, role)| **role == Role::Parameter).map(|(&id, _)| ir.values[id].name.clone()));
        let own = ir.inputs.len() - captured.len();
        let captured_weights =
            (0..).zip(&ir.inputs[own..]).filter_map(|(position, id)| Some((position, *roles.outside.get(id)?))).collect();
        let mut frozen = frozen(&ir, &weights);
        frozen.append(&mut ir.hidden_frozen);
        let (stored, indices) = take_constants(&mut ir);
        let outputs = ir.outputs.clone();
        let plan = Plan::compile(ir, &indices, &outputs)?;
        let captured = first..first + captured.len();
        Ok((
            Body { plan, stored: captured.end..captured.end + stored.len(), own, captured, weights, captured_weights, frozen },
            stored,
        ))
    }

    /// How many inputs the subgraph declares.
    pub fn inputs(&self) -> usize {
        self.own
    }

    /// How many outputs it gives.
    pub fn outputs(&self) -> usize {
        self.plan.results.len()
    }

    /// The subgraph's outputs for its own inputs; the rest comes from the node's call.
    ///
    /// # Errors
    /// Malformed for a wrong number of inputs; else what a node inside raises.
    pub fn run(&self, call: &Call<'_>, own: Vec<Tensor>) -> Result<Vec<Tensor>> {
        if own.len() != self.own {
            return Err(Error::malformed(format!("the subgraph takes {} inputs where the node gives {}", self.own, own.len())));
        }
        let mut inputs = own;
        for index in self.captured.clone() {
            inputs.push(call.input(index)?.shallow_clone());
        }
        let stored = self.stored.clone().map(|index| Ok(call.input(index)?.shallow_clone())).collect::<Result<Vec<_>>>()?;
        self.plan.run_all(&stored, &inputs, call.mode)
    }
}

fn frozen(ir: &Ir, weights: &[String]) -> Vec<(String, Vec<i64>)> {
    let dequantised: HashSet<ValueId> =
        ir.nodes.iter().filter(|node| node.op.name == "DequantizeLinear").filter_map(|node| *node.inputs.first()?).collect();
    let named = ir.values.iter().enumerate().filter(|(_, value)| !weights.contains(&value.name));
    let counts = |id: usize, constant: &Constant| {
        let kind = constant.tensor.kind();
        constant.tensor.numel() > 1
            && constant.origin != Origin::Folded
            && (is_float(kind) || matches!(kind, Kind::Int8 | Kind::Uint8) || dequantised.contains(&id))
    };
    named
        .filter_map(|(id, value)| {
            let constant = value.constant.as_ref().filter(|constant| counts(id, constant))?;
            Some((value.name.clone(), constant.tensor.size()))
        })
        .collect()
}

/// Takes all constants out of a graph, whether a node reads them or they are outputs themselves.
pub(crate) fn take_constants(ir: &mut Ir) -> (Vec<Tensor>, HashMap<ValueId, usize>) {
    let (mut stored, mut indices) = (Vec::new(), HashMap::new());
    for (id, value) in ir.values.iter_mut().enumerate() {
        if let Some(constant) = value.constant.take() {
            indices.insert(id, stored.len());
            stored.push(constant.tensor);
        }
    }
    (stored, indices)
}

/// The attributes of a node that hold subgraphs, in the file's order.
pub(crate) fn subgraphs(node: &NodeProto) -> impl Iterator<Item = &AttributeProto> {
    node.attribute.iter().filter(|a| a.type_.enum_value_or_default() == AttributeType::GRAPH)
}

/// Names that a node reads from the graph that it stands in: its inputs, and what its subgraphs do not define themselves.
pub(crate) fn read_names(node: &NodeProto) -> impl Iterator<Item = &str> {
    let captured = subgraphs(node).flat_map(|attribute| free_names(&attribute.g));
    node.input.iter().map(String::as_str).filter(|name| !name.is_empty()).chain(captured).chain(differentiated(node))
}

/// What a Gradient node differentiates, which it names in an attribute.
pub(crate) fn differentiated(node: &NodeProto) -> Option<&str> {
    let attribute = node.attribute.iter().find(|a| node.op_type == "Gradient" && a.name == "y")?;
    std::str::from_utf8(&attribute.s).ok().filter(|name| !name.is_empty())
}

/// Names that a graph reads and does not define, sorted. The nesting of subgraphs is bounded when a file is read.
pub(crate) fn free_names(graph: &GraphProto) -> BTreeSet<&str> {
    let mut defined: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    defined.extend(graph.input.iter().map(|input| input.name.as_str()));
    defined.extend(graph.node.iter().flat_map(|node| &node.output).map(String::as_str));
    let read = graph.node.iter().flat_map(read_names).chain(graph.output.iter().map(|output| output.name.as_str()));
    read.filter(|name| !defined.contains(name)).collect()
}
