//! Operators of ONNX Runtime's own domain `com.microsoft`, which its offline optimiser and its quantiser write, in terms of ONNX's own.
//!
//! Operators that are one function of one tensor (activations) have rows in the table instead. Source of all definitions:
//! <https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md>.

mod attention;
mod few_bits;
mod fused;
mod quantised;

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::error::{Error, Place, Result};
use crate::graph::ir::{label, of_the_file};
use crate::graph::nodes::{self, float_attribute, int_attribute, ints_attribute, new_node};
use crate::onnx::proto::{AttributeProto, GraphProto, NodeProto, TensorProto};
use crate::onnx::{OnnxFile, to_proto};
use crate::tensor::Tensor;

/// The domain of the operators.
const DOMAIN: &str = "com.microsoft";

/// What is replaced, of the domain `com.microsoft`.
pub(crate) const REPLACED: &[&str] = &[
    "Attention",
    "DynamicQuantizeMatMul",
    "FusedConv",
    "FusedGemm",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "MultiHeadAttention",
    "NhwcMaxPool",
    "QAttention",
    "QGemm",
    "QLinearAdd",
    "QLinearAveragePool",
    "QLinearConcat",
    "QLinearConv",
    "QLinearGlobalAveragePool",
    "QLinearLeakyRelu",
    "QLinearMul",
    "QLinearSigmoid",
    "QLinearSoftmax",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
];

/// Replaces all that are known here; gives the number by operator.
///
/// # Errors
/// Unsupported, for settings that are not known; Malformed, for nodes that lack what they need.
pub fn replace(file: &mut OnnxFile) -> Result<BTreeMap<String, usize>> {
    let opsets = file.model.opset_import.iter();
    let opset = opsets.filter(|o| matches!(o.domain.as_str(), "" | "ai.onnx")).map(|o| o.version).max().unwrap_or(1);
    let concerned = |node: &NodeProto| {
        (node.domain == DOMAIN && REPLACED.contains(&node.op_type.as_str()))
            || quantised::is_standard_one(node)
            || fused::is_early_norm(node, opset)
    };
    if !file.model.graph.node.iter().any(concerned) {
        return Ok(BTreeMap::new());
    }
    // The file stays at hand for the values of what it keeps beside it.
    let mut graph = file.model.graph.take().unwrap_or_default();
    let counts = rewrite(file, &mut graph, opset, concerned);
    file.model.graph = Some(graph).into();
    let counts = counts?;
    if !counts.is_empty() {
        // Older files have to list every initializer among the inputs.
        file.model.ir_version = file.model.ir_version.max(4);
    }
    Ok(counts)
}

fn rewrite(
    file: &OnnxFile,
    graph: &mut GraphProto,
    opset: i64,
    concerned: impl Fn(&NodeProto) -> bool,
) -> Result<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    let scales = quantised::taken_over(graph);
    let mut taken: HashSet<String> = graph.initializer.iter().map(|tensor| tensor.name.clone()).collect();
    taken.extend(graph.input.iter().map(|input| input.name.clone()));
    taken.extend(graph.node.iter().flat_map(|node| node.output.clone()));
    let nodes = std::mem::take(&mut graph.node);
    let mut writer = Writer { file, graph, scales, opset, base: String::new(), count: 0, taken };
    for (place, node) in nodes.into_iter().enumerate() {
        writer.base = node.output.iter().find(|output| !output.is_empty()).cloned().unwrap_or_default();
        writer.count = 0;
        if concerned(&node) && writer.replace(&node).map_err(of_the_file).at(|| label(place, &node))? {
            *counts.entry(node.op_type).or_insert(0) += 1;
        } else {
            writer.graph.node.push(node);
        }
    }
    Ok(counts)
}

/// Writes what stands for one node.
struct Writer<'a> {
    file: &'a OnnxFile,
    graph: &'a mut GraphProto,
    /// Scales of weights in products of integers, by the products' outputs.
    scales: HashMap<String, String>,
    /// The standard domain's.
    opset: i64,
    /// The node's first output, of which new names are made.
    base: String,
    count: usize,
    /// Names that the graph has already.
    taken: HashSet<String>,
}

impl Writer<'_> {
    /// Whether the node was replaced.
    fn replace(&mut self, node: &NodeProto) -> Result<bool> {
        Ok(fused::replace(self, node)?
            || attention::replace(self, node)?
            || quantised::replace(self, node)?
            || few_bits::replace(self, node)?)
    }

    fn name(&mut self, what: &str) -> String {
        loop {
            self.count += 1;
            let name = format!("{}/{}{}", self.base, what.to_lowercase(), self.count);
            if self.taken.insert(name.clone()) {
                return name;
            }
        }
    }

    /// Adds a node with a new output, which is given back.
    fn node(&mut self, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        let output = self.name(op);
        self.last(op, inputs, &output, attributes);
        output
    }

    /// Adds a node with this output.
    fn last(&mut self, op: &str, inputs: &[&str], output: &str, attributes: Vec<AttributeProto>) {
        let inputs: Vec<String> = inputs.iter().map(|input| (*input).to_string()).collect();
        self.graph.node.push(new_node(op, &inputs, output.to_string(), attributes));
    }

    fn constant(&mut self, tensor: &Tensor) -> Result<String> {
        let name = self.name("constant");
        self.graph.initializer.push(to_proto(&name, tensor)?);
        Ok(name)
    }

    fn integers(&mut self, values: &[i64]) -> Result<String> {
        self.constant(&Tensor::f_from_slice(values)?)
    }

    /// A constant of the graph by its name.
    fn known(&self, name: &str) -> Option<&TensorProto> {
        nodes::constant(self.graph, name)
    }

    /// The values of a constant.
    fn value(&self, name: &str) -> Result<Tensor> {
        let proto = self.known(name).ok_or_else(|| Error::unsupported(format!("'{name}' is not constant")))?;
        self.file.tensor(proto)
    }

    fn transpose(&mut self, input: &str, order: &[i64]) -> String {
        self.node("Transpose", &[input], vec![ints_attribute("perm", order)])
    }

    fn softmax(&mut self, input: &str, axis: i64) -> String {
        self.node("Softmax", &[input], vec![int_attribute("axis", axis)])
    }

    /// A number as a constant, of the type that the constant `like` has if that is a float, in single precision else.
    fn number(&mut self, number: f32, like: &str) -> Result<String> {
        let kind = self.known(like).and_then(|tensor| crate::onnx::kind_of(tensor.data_type).ok());
        let number = Tensor::f_from_slice(&[number])?.f_reshape([0_i64; 0])?;
        match kind.filter(|kind| crate::tensor::is_float(*kind)) {
            Some(kind) => self.constant(&number.f_to_kind(kind)?),
            None => self.constant(&number),
        }
    }

    /// The mean over the last axis, which stays.
    fn mean(&mut self, input: &str) -> Result<String> {
        if self.opset < 18 {
            return Ok(self.node("ReduceMean", &[input], vec![ints_attribute("axes", &[-1])]));
        }
        let axes = self.integers(&[-1])?;
        Ok(self.node("ReduceMean", &[input, &axes], vec![]))
    }
}

/// The name of an input, which has to be there.
fn input(node: &NodeProto, index: usize) -> Result<&str> {
    optional(node, index).ok_or_else(|| Error::malformed(format!("input {index} is missing")))
}

fn optional(node: &NodeProto, index: usize) -> Option<&str> {
    node.input.get(index).map(String::as_str).filter(|name| !name.is_empty())
}

fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name == name)
}

fn int_or(node: &NodeProto, name: &str, default: i64) -> i64 {
    attribute(node, name).map_or(default, |attribute| attribute.i)
}

fn float_or(node: &NodeProto, name: &str, default: f32) -> f32 {
    attribute(node, name).map_or(default, |attribute| attribute.f)
}

/// The node's attributes but these.
fn without(node: &NodeProto, names: &[&str]) -> Vec<AttributeProto> {
    node.attribute.iter().filter(|attribute| !names.contains(&attribute.name.as_str())).cloned().collect()
}

/// Refuses attributes that are not known here, and inputs behind those that are.
fn only(node: &NodeProto, attributes: &[&str], inputs: usize) -> Result<()> {
    let op = &node.op_type;
    if let Some(unknown) = node.attribute.iter().find(|attribute| !attributes.contains(&attribute.name.as_str())) {
        return Err(Error::unsupported(format!("attribute '{}' of com.microsoft.{op} is not known", unknown.name)));
    }
    match node.input.iter().rposition(|input| !input.is_empty()) {
        Some(last) if last >= inputs => Err(Error::unsupported(format!("input {last} of com.microsoft.{op} is not supported"))),
        _ => Ok(()),
    }
}

/// Refuses outputs behind the first ones.
fn only_outputs(node: &NodeProto, count: usize) -> Result<()> {
    match node.output.iter().rposition(|output| !output.is_empty()) {
        Some(last) if last >= count => {
            Err(Error::unsupported(format!("output {last} of com.microsoft.{} is not supported", node.op_type)))
        }
        _ => Ok(()),
    }
}
