//! Which constants are parameters, which are running statistics, and which are frozen, with the reason.
//!
//! ONNX does not say what its author trained. A float constant is a trainable parameter when it stands where weights stand:
//! an input that the operator's row names as a weight, or an operand of arithmetic behind the first weighted operator (layer
//! scales, position embeddings, class tokens). Constants that reach such a place through Transpose, Cast, Reshape and the
//! like stay leaves, and the moves are run in every forward pass, so that gradients reach the stored tensor.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::graph::ir::{Constant, Ir, IrNode, Origin, Value, ValueId, run_node};
use crate::graph::ops::{ALL, Flow, Mode, with_at_most};
use crate::tensor::{Kind, Tensor, is_float, no_grad};

/// What a constant is to training.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Role {
    /// A trainable leaf.
    Parameter,
    /// A running statistic of a normalisation.
    Buffer,
    /// Neither; says why.
    Frozen(&'static str),
}

/// The roles of all constants, and which nodes can be computed once.
pub(crate) struct Roles {
    /// By value; only constants that a live node reads are here.
    pub of: BTreeMap<ValueId, Role>,
    /// What had to be changed to tell parameters and running statistics apart.
    pub repairs: Vec<String>,
    /// Running statistics that were copied for a second reader.
    pub copies: Vec<SplitBuffer>,
    /// Constants from outside of a subgraph that stand where weights stand.
    pub outside: BTreeMap<ValueId, Strength>,
    /// Stored floats, more than one each, that served only to compute other constants.
    pub used_up: BTreeSet<ValueId>,
}

/// A running statistic that no longer shares its initializer: input `position` of the file's node `place` reads `name`.
#[derive(Debug, Clone)]
pub(crate) struct SplitBuffer {
    pub place: usize,
    pub position: usize,
    pub name: String,
}

/// Decides on every constant, splits running statistics that share storage, and folds what is constant and not trainable.
pub(crate) fn assign(ir: &mut Ir) -> Result<Roles> {
    drop_dead_nodes(ir);
    let (repairs, copies) = split_shared_buffers(ir)?;
    let facts = Facts::gather(ir);
    let mut used_up = fold(ir, &facts)?;
    let mut of = BTreeMap::new();
    for node in &ir.nodes {
        for (position, &input) in node.inputs.iter().enumerate() {
            let Some(id) = input else { continue };
            if ir.values[id].constant.is_some() {
                let role = if node.op.buffers.contains(&position) { Role::Buffer } else { facts.role(ir, id) };
                of.entry(id).or_insert(role);
            }
        }
    }
    let fixed_outside = ir.fixed_outside.iter().flatten();
    let outside = fixed_outside.map(|&id| (id, facts.weight[id])).filter(|(_, strength)| *strength > Strength::None).collect();
    used_up.retain(|id| !of.contains_key(id));
    Ok(Roles { of, repairs, copies, outside, used_up })
}

fn drop_dead_nodes(ir: &mut Ir) {
    let mut live = vec![false; ir.values.len()];
    for &output in &ir.outputs {
        live[output] = true;
    }
    let mut keep = vec![false; ir.nodes.len()];
    for (index, node) in ir.nodes.iter().enumerate().rev() {
        if node.outputs.iter().flatten().any(|&o| live[o]) {
            keep[index] = true;
            node.inputs.iter().flatten().for_each(|&i| live[i] = true);
        }
    }
    let mut keep = keep.into_iter();
    ir.nodes.retain(|_| keep.next().unwrap_or(true));
}

/// Exporters store equal tensors once. Two layers' running means must not be one tensor, and none may be a parameter as well.
fn split_shared_buffers(ir: &mut Ir) -> Result<(Vec<String>, Vec<SplitBuffer>)> {
    let mut readers: BTreeMap<ValueId, usize> = BTreeMap::new();
    for node in &ir.nodes {
        node.inputs.iter().flatten().for_each(|&id| *readers.entry(id).or_insert(0) += 1);
    }
    let (mut repairs, mut copies) = (Vec::new(), Vec::new());
    for index in 0..ir.nodes.len() {
        for &position in ir.nodes[index].op.buffers {
            let Some(Some(id)) = ir.nodes[index].inputs.get(position).copied() else { continue };
            let count = readers.get(&id).copied().unwrap_or(0);
            if count < 2 {
                continue;
            }
            let Some(constant) = &ir.values[id].constant else { continue };
            readers.insert(id, count - 1);
            let original = ir.values[id].name.clone();
            let name = format!("{original}.of.{}", ir.nodes[index].place);
            let constant = Constant { tensor: crate::tensor::deep_copy(&constant.tensor)?, origin: Origin::Folded };
            ir.values.push(Value { name: name.clone(), constant: Some(constant) });
            ir.nodes[index].inputs[position] = Some(ir.values.len() - 1);
            repairs.push(format!(
                "running statistic '{original}' is shared by several readers; {} got its own copy",
                ir.nodes[index].label
            ));
            copies.push(SplitBuffer { place: ir.nodes[index].place, position, name });
        }
    }
    Ok((repairs, copies))
}

/// What the decisions rest on, by value.
struct Facts {
    /// Known before the first run.
    constant: Vec<bool>,
    /// Stands in a weight position, directly or through other constants.
    weight: Vec<Strength>,
    /// An operand of arithmetic before the first weighted operator.
    preprocessing: Vec<bool>,
}

/// How surely a constant is a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Strength {
    /// It is none.
    None,
    /// An operand of arithmetic or a join: a weight unless it is a single number.
    Weak,
    /// A weight by the operator's definition.
    Strong,
}

impl Facts {
    fn gather(ir: &Ir) -> Facts {
        let n = ir.values.len();
        let mut facts = Facts { constant: vec![false; n], weight: vec![Strength::None; n], preprocessing: vec![false; n] };
        for (id, value) in ir.values.iter().enumerate() {
            facts.constant[id] = value.constant.is_some();
        }
        // Behind a weighted operator: decides whether arithmetic is part of the network or of its preprocessing.
        let mut behind_weights = vec![false; n];
        if let Some(fixed) = &ir.fixed_outside {
            fixed.iter().for_each(|&id| facts.constant[id] = true);
            // Images are not prepared in subgraphs.
            ir.inputs.iter().filter(|&&id| !facts.constant[id]).for_each(|&id| behind_weights[id] = true);
        }
        for node in &ir.nodes {
            let constant = node.inputs.iter().flatten().all(|&i| facts.constant[i]);
            let weighted = !is_weak(node)
                && (node.op.weights.iter().any(|&w| node.inputs.get(w).copied().flatten().is_some())
                    || node.weights.iter().any(|(_, strength)| *strength == Strength::Strong));
            let behind = weighted || node.inputs.iter().flatten().any(|&i| behind_weights[i]);
            for &output in node.outputs.iter().flatten() {
                facts.constant[output] = constant;
                behind_weights[output] = behind && !constant;
            }
        }
        for node in ir.nodes.iter().rev() {
            for &output in node.outputs.iter().flatten() {
                // An operand of arithmetic that is put together is a mask; what an operator takes as its weight is one all the same.
                if facts.constant[output] && node.op.flow == Flow::Assembles && facts.weight[output] == Strength::Weak {
                    facts.weight[output] = Strength::None;
                }
            }
            let given = node
                .outputs
                .iter()
                .flatten()
                .filter(|&&o| facts.constant[o])
                .map(|&o| facts.weight[o])
                .max()
                .unwrap_or(Strength::None);
            let behind = node.outputs.iter().flatten().any(|&o| behind_weights[o]);
            for (position, &input) in node.inputs.iter().enumerate() {
                let Some(id) = input else { continue };
                if !facts.constant[id] {
                    continue;
                }
                let output_constant = node.outputs.iter().flatten().all(|&o| facts.constant[o]);
                let named = node.op.weights == ALL || node.op.weights.contains(&position);
                let in_subgraph =
                    node.weights.iter().filter(|(place, _)| *place == position).map(|(_, strength)| *strength).max();
                // The steps of quantised numbers are not trained.
                let is_step = node.op.name == "DequantizeLinear" && position == 1;
                let passes = !is_step && (node.op.differentiable == ALL || node.op.differentiable.contains(&position));
                let bias_of_one = node.op.name == "Add" && !output_constant && is_bias_of_one(ir, node, position);
                let weight = match (output_constant, is_weak(node)) {
                    _ if bias_of_one => Strength::Strong,
                    (true, _) if passes && is_chosen(ir, node, position) => Strength::None,
                    (true, _) if passes => given,
                    (false, _) if in_subgraph.is_some() => in_subgraph.unwrap_or(Strength::None),
                    (false, false) if named => Strength::Strong,
                    (false, true) if named && behind => Strength::Weak,
                    _ => Strength::None,
                };
                facts.weight[id] = facts.weight[id].max(weight);
                facts.preprocessing[id] |= named && is_weak(node) && !output_constant && !behind;
            }
        }
        facts
    }

    fn role(&self, ir: &Ir, id: ValueId) -> Role {
        let Some(constant) = &ir.values[id].constant else { return Role::Frozen("computed") };
        let kind = constant.tensor.kind();
        if !is_float(kind) {
            let is_byte = matches!(kind, Kind::Int8 | Kind::Uint8) && constant.tensor.numel() > 1;
            return Role::Frozen(match kind {
                Kind::Bool => "boolean",
                _ if is_byte => "integers of eight bits at most",
                _ => "integer",
            });
        }
        if self.weight[id] > Strength::None && !is_finite(&constant.tensor) {
            return Role::Frozen("a mask: it holds numbers that are not finite");
        }
        match self.weight[id] {
            Strength::Strong => return Role::Parameter,
            Strength::Weak if constant.tensor.numel() > 1 => return Role::Parameter,
            Strength::Weak => return Role::Frozen("a single number"),
            Strength::None => {}
        }
        if constant.tensor.numel() == 1 {
            return Role::Frozen("a single number");
        }
        if self.preprocessing[id] {
            return Role::Frozen("preprocessing: arithmetic on the image before the first weight");
        }
        Role::Frozen("not in a weight position")
    }
}

fn is_finite(tensor: &Tensor) -> bool {
    let all = || -> Result<bool> {
        // A sum takes no memory, and is finite if all are; the other way round it can overflow.
        let sum = tensor.f_sum(tensor.f_kind()?)?.f_double_value(&[])?;
        Ok(sum.is_finite() || tensor.f_isfinite()?.f_all()?.f_int64_value(&[])? == 1)
    };
    // What cannot be looked at is treated as any weight.
    all().unwrap_or(true)
}

/// Whether an operand of a sum is the bias of a linear layer of one output: a list of one number, behind a product with a stored matrix
/// of one column.
fn is_bias_of_one(ir: &Ir, node: &IrNode, position: usize) -> bool {
    let stored = |id: Option<ValueId>| id.and_then(|id| ir.values[id].constant.as_ref()).map(|constant| constant.tensor.size());
    let own = stored(node.inputs.get(position).copied().flatten());
    let other = node.inputs.iter().enumerate().find(|(index, _)| *index != position).and_then(|(_, input)| *input);
    let producer = ir.nodes.iter().find(|node| node.op.name == "MatMul" && other.is_some() && node.outputs.contains(&other));
    let matrix = producer.and_then(|product| stored(product.inputs.get(1).copied().flatten()));
    own == Some(vec![1]) && matrix.is_some_and(|shape| shape.len() == 2 && shape[1] == 1)
}

/// Whether a stored operand of what weights are computed from is a choice of the network's author: an exponent, an epsilon, a count, a
/// scale, which are single numbers; a mask of zeros and ones for each number of a stored weight; a scale or shift that does nothing, where
/// weights are normalised. A single number of the weights' own rank is the gain of a layer with one output.
fn is_chosen(ir: &Ir, node: &IrNode, position: usize) -> bool {
    let stored = |id: Option<ValueId>| id.and_then(|id| ir.values[id].constant.as_ref()).map(|constant| &constant.tensor);
    let Some(tensor) = stored(node.inputs.get(position).copied().flatten()) else { return false };
    if matches!(node.op.flow, Flow::Moves | Flow::MovesAll) || !is_float(tensor.kind()) {
        return false;
    }
    let all = |value: f64| -> Result<bool> { Ok(tensor.f_eq(value)?.f_all()?.f_int64_value(&[])? == 1) };
    let binary = || -> Result<bool> {
        let either = tensor.f_eq(0.0)?.f_logical_or(&tensor.f_eq(1.0)?)?;
        Ok(either.f_all()?.f_int64_value(&[])? == 1 && !all(0.0)? && !all(1.0)?)
    };
    let of_the_same_shape = || {
        let others = node.inputs.iter().enumerate().filter(|(index, _)| *index != position);
        others.filter_map(|(_, input)| stored(*input)).any(|other| other.size() == tensor.size())
    };
    // What cannot be looked at is treated as any weight.
    match (node.op.name, position) {
        _ if tensor.numel() == 1 && (tensor.dim() < 2 || node.op.name == "Pow") => true,
        ("Mul", _) => of_the_same_shape() && binary().unwrap_or(false),
        ("BatchNormalization", 1) => all(1.0).unwrap_or(false),
        ("BatchNormalization", 2) => all(0.0).unwrap_or(false),
        _ => false,
    }
}

/// Operators whose constant operands are weights only behind the first weighted operator: plain arithmetic and joins.
fn is_weak(node: &IrNode) -> bool {
    node.op.weights == ALL || node.op.flow == Flow::MovesAll
}

/// Bytes of all constants that a graph may compute from others: a few nodes can ask for any amount.
const MOST_FOLDED: usize = 1 << 28;

/// Computes nodes whose inputs are all constant and lead to no weight. Gives the stored floats, more than one each, that these read.
fn fold(ir: &mut Ir, facts: &Facts) -> Result<BTreeSet<ValueId>> {
    let _guard = no_grad();
    let nodes = std::mem::take(&mut ir.nodes);
    let (mut bytes, mut read) = (0, BTreeSet::new());
    for node in nodes {
        // Running statistics are taken anew in training.
        let foldable = node.op.buffers.is_empty()
            && node.outputs.iter().flatten().all(|&o| facts.constant[o] && facts.weight[o] == Strength::None)
            && node.outputs.iter().any(Option::is_some);
        // A fold that failed to produce an earlier constant leaves its readers to fail at run time with a better message.
        let known = node.inputs.iter().flatten().all(|&i| ir.values[i].constant.is_some());
        if !(foldable && known) {
            ir.nodes.push(node);
            continue;
        }
        let inputs: Vec<Option<&Tensor>> =
            node.inputs.iter().map(|i| i.and_then(|i| ir.values[i].constant.as_ref()).map(|c| &c.tensor)).collect();
        let stored = |id: &ValueId| {
            let constant = ir.values[*id].constant.as_ref();
            constant.is_some_and(|c| c.origin != Origin::Folded && is_float(c.tensor.kind()) && c.tensor.numel() > 1)
        };
        read.extend(node.inputs.iter().flatten().copied().filter(stored));
        let tensors = with_at_most(1 << 25, || run_node(&node, &inputs, Mode::Eval))?;
        for (tensor, output) in tensors.into_iter().zip(&node.outputs) {
            if let Some(id) = *output {
                bytes += tensor.numel().saturating_mul(tensor.kind().elt_size_in_bytes());
                if bytes > MOST_FOLDED {
                    let reason = format!("what the graph computes from constants alone takes more than {MOST_FOLDED} bytes");
                    return Err(Error::malformed(reason).at(&node.label));
                }
                ir.values[id].constant = Some(Constant { tensor, origin: Origin::Folded });
            }
        }
    }
    Ok(read)
}
