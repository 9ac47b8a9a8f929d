//! Finds the logits behind a trailing Softmax or LogSoftmax, so that training works on logits whatever the file ends with.

use std::fmt;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::graph::ir::{Ir, ValueId};
use crate::onnx::proto::ModelProto;

/// What the file's first output holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// The output is used as it is.
    Logits,
    /// The output is Softmax of the logits.
    Probabilities,
    /// The output is LogSoftmax of the logits.
    LogProbabilities,
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Head::Logits => "logits",
            Head::Probabilities => "probabilities",
            Head::LogProbabilities => "log-probabilities",
        })
    }
}

/// Refuses a graph that does not end as it is said to: training would take probabilities for logits, or the other way round.
pub(crate) fn agree(found: Head, said: Option<Head>) -> Result<()> {
    match said {
        Some(said) if said != found => {
            let error = Error::unsupported(format!("the output is said to be {said}, but the graph ends with {found}"));
            Err(error.help("correct `output:` of the adapter, or export the model without what stands behind its last Softmax"))
        }
        _ => Ok(()),
    }
}

/// The value that holds the logits, and what the head made of it.
///
/// Only a Softmax over the class axis whose result is the output counts: one inside the network (attention) has later readers.
pub(crate) fn find(ir: &Ir, model: &ModelProto) -> (ValueId, Head) {
    let plain = (ir.outputs[0], Head::Logits);
    let mut output = ir.outputs[0];
    loop {
        let Some(node) = ir.nodes.iter().find(|n| n.outputs.contains(&Some(output))) else { return plain };
        let Some(Some(input)) = node.inputs.first().copied() else { return plain };
        let head = match node.op.name {
            // Identity and Cast behind the softmax carry the same numbers.
            "Identity" | "Cast" => {
                output = input;
                continue;
            }
            "Softmax" => Head::Probabilities,
            "LogSoftmax" => Head::LogProbabilities,
            _ => return plain,
        };
        let proto = model.graph.node.get(node.place);
        let axis = proto.and_then(|n| n.attribute.iter().find(|a| a.name == "axis")).map_or(1, |a| a.i);
        return if axis == 1 || axis == -1 { (input, head) } else { plain };
    }
}
