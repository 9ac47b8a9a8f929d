//! What an import tells of a file: what is frozen and why, what rounds, and what it leaves for the user to say.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::graph::import::{StoredInfo, TensorInfo};
use crate::graph::ir::{self, Ir, ValueId};
use crate::graph::options::{BatchNormRepair, ImportOptions, QuantizationRepair};
use crate::graph::order;
use crate::graph::params::Role;
use crate::graph::passes::batch_norm::{self, Finding};
use crate::onnx::proto::{ModelProto, TensorProto};
use crate::tensor::{Kind, is_float};

/// Trainable tensors that only nodes with subgraphs read, themselves or what is made of them: they may read it in one branch only.
pub(super) fn conditional(ir: &Ir, infos: &[StoredInfo], indices: &HashMap<ValueId, usize>) -> Vec<String> {
    let mut read: HashMap<ValueId, bool> = ir.outputs.iter().map(|&output| (output, false)).collect();
    for node in ir.nodes.iter().rev() {
        let holds = matches!(node.op.name, "If" | "Loop" | "Scan");
        let passes = node.outputs.iter().flatten().all(|output| read.get(output).copied().unwrap_or(true));
        for id in node.inputs.iter().flatten() {
            *read.entry(*id).or_insert(true) &= holds || passes;
        }
    }
    let only = indices.iter().filter(|(id, index)| infos[**index].trainable && read.get(id) == Some(&true));
    let mut names: Vec<String> = only.map(|(_, index)| infos[*index].name.clone()).collect();
    names.sort_unstable();
    names
}

/// Operators that round.
const ROUNDING: [&str; 7] = ["QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "Round", "Floor", "Ceil"];

pub(super) fn rounded(ir: &Ir) -> Vec<String> {
    let nodes = ir.nodes.iter().filter(|node| ROUNDING.contains(&node.op.name));
    nodes.flat_map(|node| node.outputs.iter().flatten()).map(|&id| ir.values[id].name.clone()).collect()
}

/// Where quantised weights are not treated as the adapter says.
pub(super) fn left_quantised(
    ir: &Ir,
    roles: &BTreeMap<ValueId, Role>,
    operators: &BTreeMap<String, usize>,
    options: &ImportOptions,
) -> Vec<String> {
    let fake = options.repairs.quantization == QuantizationRepair::Fake;
    let rounds = |node: &&ir::IrNode| {
        let source = node.inputs.first().copied().flatten();
        node.op.name == "QuantizeLinear" && source.is_some_and(|id| roles.get(&id) == Some(&Role::Parameter))
    };
    let rounded = ir.nodes.iter().filter(rounds).count();
    let packed = operators.get("com.microsoft.MatMulNBits").copied().unwrap_or(0);
    let mut notes = Vec::new();
    if rounded > 0 && !fake {
        notes.push(format!(
            "{rounded} weights stay rounded in every pass: other nodes stand between the QuantizeLinear and the DequantizeLinear of each"
        ));
    }
    if packed > 0 && fake {
        notes.push(format!("the weights of {packed} MatMulNBits are not rounded: they train as floats"));
    }
    notes
}

pub(super) fn open_questions(model: &ModelProto, options: &ImportOptions) -> Vec<String> {
    let text = match (options.repairs.batch_norm, batch_norm::find(model)) {
        (BatchNormRepair::Auto, Finding::Likely(count)) => format!(
            "batch normalisation was folded away at {count} places by the looks of the graph; it is put back where images are given \
             to measure its statistics on (`repairs: {{batch_norm: keep}}` in the adapter forbids it)"
        ),
        (BatchNormRepair::Auto, Finding::None) if batch_norm::is_hidden(model) => {
            "batch normalisation that was folded away is not looked for where the filters are rounded or otherwise computed"
                .to_string()
        }
        (BatchNormRepair::Auto, Finding::Possible(count)) if count >= 3 => format!(
            "{count} places could have had batch normalisation that was folded away; if they had, \
             `repairs: {{batch_norm: reinsert}}` in the adapter puts it back"
        ),
        _ => return Vec::new(),
    };
    vec![text]
}

pub(super) fn unused_outputs(model: &ModelProto, scores: &str) -> Vec<String> {
    model.graph.output.iter().map(|output| &output.name).filter(|name| name.as_str() != scores).cloned().collect()
}

/// Constants of the file that no node of the main graph reads when it runs.
pub(super) fn frozen_aside(ir: &mut Ir, used_up: &BTreeSet<ValueId>) -> Vec<TensorInfo> {
    let used_up =
        used_up.iter().filter_map(|&id| Some((ir.values[id].name.clone(), ir.values[id].constant.as_ref()?.tensor.size())));
    let used_up: Vec<_> = used_up.collect();
    let with = |reason: &'static str| move |(name, shape)| TensorInfo { name, shape, reason };
    let inside = std::mem::take(&mut ir.hidden_frozen).into_iter().map(with("in a subgraph, not in a weight position"));
    used_up.into_iter().map(with("served only to compute other constants, none of which is a weight")).chain(inside).collect()
}

/// Stored tensors that the scores are not made of, as those of an auxiliary head: floats and integers of eight bits, more than one each.
pub(super) fn unneeded(model: &ModelProto, scores: &str) -> Vec<TensorInfo> {
    let graph = model.graph.get_or_default();
    let needed = order::needed_values(graph, scores);
    let constants = graph.node.iter().filter(|node| node.op_type == "Constant").filter_map(|node| {
        let tensor = node.attribute.first()?.t.as_ref()?;
        Some((node.output.first()?.as_str(), tensor))
    });
    let stored = graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor)).chain(constants);
    let counts = |tensor: &TensorProto| {
        let kind = crate::onnx::kind_of(tensor.data_type);
        let is_kind = kind.is_ok_and(|kind| is_float(kind) || matches!(kind, Kind::Int8 | Kind::Uint8));
        is_kind && tensor.dims.iter().try_fold(1_i64, |count, &size| count.checked_mul(size)).is_none_or(|count| count > 1)
    };
    let left = stored.filter(|(name, tensor)| !needed.contains(name) && counts(tensor));
    left.map(|(name, tensor)| TensorInfo {
        name: name.to_string(),
        shape: tensor.dims.clone(),
        reason: "the scores are not made of it",
    })
    .collect()
}
