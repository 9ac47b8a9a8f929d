//! Finds the class scores among a file's outputs, and the logits behind them, so that training works on logits whatever the file ends
//! with.

use std::fmt;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::graph::ir::{Ir, ValueId};
use crate::graph::nodes::int_of;
use crate::onnx::proto::attribute_proto::AttributeType;
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, ValueInfoProto, tensor_proto::DataType};
use crate::tensor::{Tensor, to_f64s};

/// What the scores are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// They are used as they are.
    Logits,
    /// They are Softmax of the logits.
    Probabilities,
    /// They are LogSoftmax of the logits.
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

/// Which value of the graph holds the scores of the classes.
pub(crate) struct Scores {
    pub value: String,
    /// Why it is not simply the file's first output, in words.
    pub note: Option<String>,
    /// The classes' names, where the graph has them.
    pub labels: Vec<String>,
}

/// Chooses the scores: what was asked for by name; else the first output that is a tensor of floats; else what ZipMap or ArgMax made
/// the output of.
///
/// # Errors
/// Unsupported, when the name that was asked for is nowhere in the graph.
pub(crate) fn choose(graph: &GraphProto, asked: Option<&str>) -> Result<Scores> {
    let first = graph.output.first().map_or("", |output| output.name.as_str());
    let plain = |name: &str, note| Scores { value: name.to_string(), note, labels: Vec::new() };
    if let Some(name) = asked {
        let is_made = graph.node.iter().any(|node| node.output.iter().any(|output| output == name));
        if !is_made {
            let error = Error::unsupported(format!("no node of the graph gives '{name}', which is said to hold the scores"));
            return Err(error.help("`scores:` of the adapter names a value of the graph"));
        }
        return Ok(plain(name, Some(format!("the scores are the value '{name}', as the adapter says"))));
    }
    if let Some(output) = graph.output.iter().find(|output| can_be_scores(output)) {
        let note = (output.name != first)
            .then(|| format!("the scores are the output '{}': the first one is no tensor of floats", output.name));
        return Ok(plain(&output.name, note));
    }
    for output in &graph.output {
        let Some(node) = producer(graph, &output.name).filter(|node| node.op_type == "ZipMap") else { continue };
        let Some(source) = node.input.first() else { continue };
        let note = format!("the output '{}' pairs scores with labels (ZipMap); the scores are '{source}'", output.name);
        return Ok(Scores { value: source.clone(), note: Some(note), labels: labels(node) });
    }
    if let Some(source) = behind_arg_max(graph, first) {
        let note = format!("the output '{first}' is the arg-max of the scores; the scores are '{source}'");
        return Ok(plain(&source, Some(note)));
    }
    Ok(plain(first, None))
}

/// Whether an output can hold scores: floats, or a type that is not declared.
fn can_be_scores(info: &ValueInfoProto) -> bool {
    let Some(kind) = info.type_.as_ref() else { return true };
    let floats = [DataType::UNDEFINED, DataType::FLOAT, DataType::DOUBLE, DataType::FLOAT16, DataType::BFLOAT16];
    kind.value.is_none() || (kind.has_tensor_type() && floats.iter().any(|&f| f as i32 == kind.tensor_type().elem_type))
}

fn producer<'a>(graph: &'a GraphProto, name: &str) -> Option<&'a NodeProto> {
    graph.node.iter().find(|node| node.output.iter().any(|output| output == name))
}

fn labels(zip_map: &NodeProto) -> Vec<String> {
    let list = |name: &str| zip_map.attribute.iter().find(|attribute| attribute.name == name);
    let texts = list("classlabels_strings").map(|a| a.strings.iter().map(|s| String::from_utf8_lossy(s).into_owned()).collect());
    let numbers = || list("classlabels_int64s").map(|a| a.ints.iter().map(i64::to_string).collect());
    texts.or_else(numbers).unwrap_or_default()
}

/// What the arg-max over classes was taken of, through what changes its type or shape only.
fn behind_arg_max(graph: &GraphProto, output: &str) -> Option<String> {
    let mut name = output;
    // No chain is longer than the graph; a cycle would never end.
    for _ in 0..graph.node.len() {
        let node = producer(graph, name)?;
        let source = node.input.first()?;
        match node.op_type.as_str() {
            "Identity" | "Cast" | "Squeeze" | "Reshape" | "Flatten" => name = source,
            "ArgMax" => return matches!(int_of(node, "axis").unwrap_or(0), 1 | -1).then(|| source.clone()),
            _ => return None,
        }
    }
    None
}

/// Refuses a graph that does not end as it is said to: training would take probabilities for logits, or the other way round.
pub(crate) fn agree(found: Head, said: Option<Head>) -> Result<()> {
    match said {
        Some(said) if said != found => {
            let error = Error::unsupported(format!("the output is said to be {said}, but the graph gives {found}"));
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
        let axis = proto.and_then(|n| n.attribute.iter().find(|a| a.name == "axis" && a.type_ == AttributeType::INT.into()));
        return if matches!(axis.map_or(1, |a| a.i), 1 | -1) { (input, head) } else { plain };
    }
}

/// What scores `[N, K]` are by their numbers alone: rows that sum to 1, or whose exponentials do, come from a softmax that was
/// written with other operators.
///
/// # Errors
/// Those of libtorch.
pub(crate) fn of_numbers(scores: &Tensor, tolerance: f64) -> Result<Head> {
    let Some(&rows) = scores.size().first() else { return Ok(Head::Logits) };
    let values = to_f64s(scores)?;
    let classes = values.len().checked_div(usize::try_from(rows).unwrap_or(0)).unwrap_or(0);
    if classes < 2 {
        return Ok(Head::Logits);
    }
    let sums_to_one = |value: fn(f64) -> f64| {
        values.chunks(classes).all(|row| (row.iter().copied().map(value).sum::<f64>() - 1.0).abs() <= tolerance)
    };
    if values.iter().all(|value| (0.0..=1.0 + tolerance).contains(value)) && sums_to_one(|value| value) {
        Ok(Head::Probabilities)
    } else if values.iter().all(|value| *value <= tolerance) && sums_to_one(f64::exp) {
        Ok(Head::LogProbabilities)
    } else {
        Ok(Head::Logits)
    }
}
