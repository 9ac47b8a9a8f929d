//! Quantised constants become floats: integers have no gradients.
//!
//! A weight is stored as integers with a scale and a zero point, which `DequantizeLinear` reads, or as floats that go through a
//! `QuantizeLinear` before. It is dequantised once, and trained freely from then on; or, where somebody asks for it, the floats are
//! rounded to the file's steps in every pass.

use std::collections::{HashMap, HashSet};

use crate::error::{Error, Place, Result};
use crate::graph::body;
use crate::graph::ir::{label, run_kernel};
use crate::graph::nodes::{constant, new_node};
use crate::graph::ops::{self, Call, Mode, Node};
use crate::graph::options::QuantizationRepair;
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::proto::{GraphProto, NodeProto, TensorProto};
use crate::onnx::{self, OnnxFile, to_proto};
use crate::tensor::{Kind, Tensor, no_grad};

/// How many constants became floats.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Released {
    /// Read by `DequantizeLinear`.
    pub dequantised: usize,
    /// Cast to floats by the graph, and scaled by products and sums where it scales them.
    pub cast: usize,
}

/// Makes floats of the quantised constants of a file's graph.
///
/// # Errors
/// What dequantising raises, naming the node.
pub fn release(file: &mut OnnxFile, how: QuantizationRepair) -> Result<Released> {
    let mut released = Released::default();
    let Some(graph) = file.model.graph.as_ref() else { return Ok(released) };
    let constants = Constants { file, graph };
    let (mut changes, mut passed) = (Vec::new(), HashSet::new());
    for (place, node) in graph.node.iter().enumerate() {
        match node.op_type.as_str() {
            "DequantizeLinear" => {
                let change = constants.released(node, how).at(|| label(place, node))?;
                released.dequantised += usize::from(change.is_some());
                changes.extend(change.map(|change| (place, change)));
            }
            "Cast" => {
                if let Some((place, float)) = constants.cast(place, node, &mut passed).at(|| label(place, node))? {
                    released.cast += 1;
                    changes.push((place, Change::Float(float)));
                }
            }
            _ => {}
        }
    }
    if changes.is_empty() {
        return Ok(released);
    }
    changes.sort_by_key(|(place, _)| *place);
    let before = read_names(graph);
    // The graph is there: it was read above.
    let Some(graph) = file.model.graph.as_mut() else { return Ok(released) };
    for (place, change) in changes.into_iter().rev() {
        match change {
            Change::Float(float) => {
                graph.node.remove(place);
                graph.initializer.push(float);
            }
            Change::Pair { float, rounding, zero } => {
                if let (Some(source), Some(result)) = (graph.node[place].input.first_mut(), rounding.output.first()) {
                    source.clone_from(result);
                }
                graph.node.insert(place, *rounding);
                graph.initializer.extend([float].into_iter().chain(zero.map(|zero| *zero)));
            }
            Change::Nothing => {}
        }
    }
    if released != Released::default() {
        graph.node.retain(|node| node.output.first().is_none_or(|output| !passed.contains(output)));
        drop_unread(graph, &before);
        // Older files have to list every initializer among the inputs.
        file.model.ir_version = file.model.ir_version.max(4);
    }
    Ok(released)
}

/// What becomes of a `DequantizeLinear` of a constant.
enum Change {
    /// It gives way to its result.
    Float(TensorProto),
    /// It reads what `rounding` makes of floats, by a zero point that may be new.
    Pair { float: TensorProto, rounding: Box<NodeProto>, zero: Option<Box<TensorProto>> },
    /// The file rounds floats itself.
    Nothing,
}

/// What moves numbers, between where a file stores them and where they are dequantised.
const MOVES: [&str; 7] = ["Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast"];

/// No file moves a constant oftener.
const MOST_MOVES: usize = 8;

/// Values with their ONNX element type, of which several are held in one kind of tensor.
type Typed = (Tensor, i32);

struct Constants<'a> {
    file: &'a OnnxFile,
    graph: &'a GraphProto,
}

impl Constants<'_> {
    /// What becomes of this node; `None` if it reads something that is not constant.
    fn released(&self, node: &NodeProto, how: QuantizationRepair) -> Result<Option<Change>> {
        let Some((name, source)) = node.output.first().zip(node.input.first()) else { return Ok(None) };
        let quantised_here = self.graph.node.iter().find(|node| node.op_type == "QuantizeLinear" && node.output.contains(source));
        let mut known: HashMap<&str, Typed> = HashMap::new();
        if let Some(quantise) = quantised_here {
            let Some(inputs) = self.inputs(quantise, &known)? else { return Ok(None) };
            if how == QuantizationRepair::Fake {
                return Ok(Some(Change::Nothing));
            }
            let data_type = inputs.get(2).and_then(Option::as_ref).map_or(DataType::UINT8 as i32, |(_, data_type)| *data_type);
            known.insert(source, (self.run(quantise, &inputs)?, data_type));
        }
        let Some(inputs) = self.inputs(node, &known)? else { return Ok(None) };
        let float = self.run(node, &inputs)?;
        let Some((_, data_type)) = inputs.first().and_then(Option::as_ref) else { return Ok(None) };
        // Sums are kept in 32 bits, which no QuantizeLinear gives: biases.
        if how == QuantizationRepair::Dequantize || *data_type == DataType::INT32 as i32 {
            return Ok(Some(Change::Float(to_proto(name, &float)?)));
        }
        let (float_name, rounded) = (format!("{name}/float"), format!("{name}/rounded"));
        let mut inputs = vec![float_name.clone()];
        inputs.extend(node.input.iter().skip(1).cloned());
        let zero = if inputs.get(2).is_none_or(String::is_empty) {
            let zero =
                zeros(format!("{name}/zero"), *data_type, constant(self.graph, &inputs[1]).map_or(&[], |scale| &scale.dims));
            inputs.truncate(2);
            inputs.push(zero.name.clone());
            Some(Box::new(zero))
        } else {
            None
        };
        let attributes = node.attribute.iter().filter(|attribute| attribute.name != "output_dtype").cloned().collect();
        let mut rounding = new_node("QuantizeLinear", &inputs, rounded, attributes);
        rounding.domain.clone_from(&node.domain);
        Ok(Some(Change::Pair { float: to_proto(&float_name, &float)?, rounding: Box::new(rounding), zero }))
    }

    /// What a Cast of stored integers of eight bits, and the products and sums with constants behind it, make of a weight: the place of the
    /// last of these nodes and the float that stands for it. What the others give is added to `passed`. Zeros and ones alone are a mask.
    fn cast(&self, place: usize, node: &NodeProto, passed: &mut HashSet<String>) -> Result<Option<(usize, TensorProto)>> {
        let Some((mut name, source)) = node.output.first().zip(node.input.first()) else { return Ok(None) };
        let Some((integers, _)) = self.value(source, MOST_MOVES)? else { return Ok(None) };
        let to = crate::graph::nodes::int_of(node, "to").and_then(|to| i32::try_from(to).ok());
        let is_float = to.and_then(|to| onnx::kind_of(to).ok()).is_some_and(crate::tensor::is_float);
        let is_byte = matches!(integers.f_kind()?, Kind::Int8 | Kind::Uint8);
        if !is_byte || !is_float || integers.dim() < 2 || is_mask(&integers)? {
            return Ok(None);
        }
        let Some((mut float, mut data_type)) = self.value(name, MOST_MOVES)? else { return Ok(None) };
        let mut last = place;
        loop {
            let mut readers =
                self.graph.node.iter().enumerate().filter(|(_, node)| body::read_names(node).any(|read| read == name));
            let (Some((reader_place, reader)), None) = (readers.next(), readers.next()) else { break };
            if !matches!(reader.op_type.as_str(), "Mul" | "Sub" | "Div" | "Add") || reader.input.len() != 2 {
                break;
            }
            let known = HashMap::from([(name.as_str(), (float.shallow_clone(), data_type))]);
            let Some(inputs) = self.inputs(reader, &known)? else { break };
            let mut others = reader.input.iter().zip(inputs.iter().flatten()).filter(|(input, _)| *input != name);
            if others.any(|(_, (other, _))| other.numel() > 1 && is_mask(other).unwrap_or(false)) {
                break;
            }
            let next = self.run(reader, &inputs)?;
            let Some(output) = reader.output.first().filter(|_| next.size() == float.size()) else { break };
            passed.insert(name.clone());
            (name, last, float) = (output, reader_place, next);
            data_type = inputs.first().and_then(Option::as_ref).map_or(data_type, |(_, data_type)| *data_type);
        }
        Ok(Some((last, to_proto(name, &float)?)))
    }

    /// The constants that a node reads, with their ONNX element types; `None` if one is no constant.
    fn inputs(&self, node: &NodeProto, known: &HashMap<&str, Typed>) -> Result<Option<Vec<Option<Typed>>>> {
        let mut inputs = Vec::new();
        for name in &node.input {
            let found = match known.get(name.as_str()) {
                Some((tensor, data_type)) => Some((tensor.shallow_clone(), *data_type)),
                None => self.value(name, MOST_MOVES)?,
            };
            match found {
                None if !name.is_empty() => return Ok(None),
                found => inputs.push(found),
            }
        }
        Ok(Some(inputs))
    }

    /// A constant, or what at most so many nodes that move numbers make of one.
    fn value(&self, name: &str, moves: usize) -> Result<Option<Typed>> {
        if let Some(proto) = constant(self.graph, name) {
            return Ok(Some((self.file.tensor(proto)?, proto.data_type)));
        }
        let mover = self.graph.node.iter().find(|node| node.output.first().is_some_and(|output| output == name));
        let Some(node) = mover.filter(|node| moves > 0 && MOVES.contains(&node.op_type.as_str())) else { return Ok(None) };
        let mut inputs = Vec::new();
        for name in &node.input {
            let Some(input) = self.value(name, moves - 1)? else { return Ok(None) };
            inputs.push(Some(input));
        }
        let given = inputs.first().and_then(Option::as_ref).map(|(_, data_type)| *data_type);
        let to = crate::graph::nodes::int_of(node, "to").and_then(|to| i32::try_from(to).ok());
        let Some(data_type) = (if node.op_type == "Cast" { to } else { given }) else { return Ok(None) };
        Ok(Some((self.run(node, &inputs)?, data_type)))
    }

    fn run(&self, node: &NodeProto, inputs: &[Option<Typed>]) -> Result<Tensor> {
        let _guard = no_grad();
        let standard = |domain: &str| matches!(domain, "" | "ai.onnx");
        let same = |domain: &str| domain == node.domain || (standard(domain) && standard(&node.domain));
        let opset = self.file.model.opset_import.iter().find(|opset| same(&opset.domain)).map_or(1, |opset| opset.version);
        let op = ops::find(&node.domain, &node.op_type, opset)?;
        let present = inputs.iter().map(Option::is_some).collect();
        let types = inputs.iter().map(|input| input.as_ref().map(|(_, data_type)| *data_type)).collect();
        let kernel = (op.compile)(&Node::new(op.name, opset, present, vec![true], &node.attribute).typed(types))?;
        let tensors: Vec<Option<&Tensor>> = inputs.iter().map(|input| input.as_ref().map(|(tensor, _)| tensor)).collect();
        let outputs = run_kernel(&kernel, &Call { inputs: &tensors, mode: Mode::Eval })?;
        outputs.into_iter().next().ok_or_else(|| Error::unexpected("a node without a result"))
    }
}

/// Whether a tensor holds nothing but zeros and ones.
fn is_mask(tensor: &Tensor) -> Result<bool> {
    Ok(tensor.f_eq(0)?.f_logical_or(&tensor.f_eq(1)?)?.f_all()?.f_int64_value(&[])? == 1)
}

/// Zeros of an integer type.
fn zeros(name: String, data_type: i32, dims: &[i64]) -> TensorProto {
    let wide = [DataType::INT16, DataType::UINT16].map(|kind| kind as i32).contains(&data_type);
    // Narrow types are packed; the constant that was read says that this many are there.
    let packed = match data_type {
        kind if kind == DataType::INT4 as i32 || kind == DataType::UINT4 as i32 => 2,
        onnx::INT2 | onnx::UINT2 => 4,
        _ => 1,
    };
    let count = dims.iter().product::<i64>().try_into().unwrap_or(0_usize).div_ceil(packed);
    let raw_data = vec![0; if wide { 2 * count } else { count }];
    TensorProto { name, data_type, dims: dims.to_vec(), raw_data, ..Default::default() }
}

/// The names that are read somewhere.
fn read_names(graph: &GraphProto) -> HashSet<String> {
    let nodes = graph.node.iter().flat_map(body::read_names).map(String::from);
    graph.output.iter().map(|output| output.name.clone()).chain(nodes).collect()
}

/// Integers that nobody reads any more, who read them `before`, need no memory, nor do the nodes that moved them. What nobody ever read
/// stays, to be told of.
fn drop_unread(graph: &mut GraphProto, before: &HashSet<String>) {
    loop {
        let read = read_names(graph);
        let moves = |operator: &str| matches!(operator, "Constant" | "QuantizeLinear") || MOVES.contains(&operator);
        let lost = |name: &str| before.contains(name) && !read.contains(name);
        let gone = |node: &NodeProto| moves(&node.op_type) && node.output.iter().all(|output| lost(output));
        let unread_nodes: HashSet<String> =
            graph.node.iter().filter(|node| gone(node)).flat_map(|node| node.output.clone()).collect();
        let inputs: HashSet<&str> = graph.input.iter().map(|input| input.name.as_str()).collect();
        let unread = |tensor: &TensorProto| lost(&tensor.name) && !inputs.contains(tensor.name.as_str());
        let unread: HashSet<String> = graph.initializer.iter().filter(|t| unread(t)).map(|t| t.name.clone()).collect();
        graph.node.retain(|node| node.output.first().is_none_or(|output| !unread_nodes.contains(output)));
        graph.initializer.retain(|tensor| !unread.contains(&tensor.name));
        if unread_nodes.is_empty() {
            return;
        }
    }
}
