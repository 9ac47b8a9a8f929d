//! A first adapter file for a model that nobody has described: what the graph tells, and what somebody has to find out.

use std::fmt::Write;

use crate::error::readable;
use crate::graph::{Head, Layout, Model};
use crate::onnx::from_proto;
use crate::onnx::proto::{GraphProto, NodeProto};
use crate::tensor::to_f64s;

/// YAML with comments. Every line that the graph does not tell is marked with "find out". `folders` are those of images that the model is to be
/// tried on, which may be called as its classes are.
pub fn adapter(model: &Model, folders: &[String]) -> String {
    let report = model.report();
    let mut out = String::new();
    let mut line = |text: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{text}");
    };
    line(
        "# Made by `cmira check --suggest` from the graph and names of folders. Lines marked \"find out\" are guesses."
            .to_string(),
    );
    line(String::new());
    line("# (byte * scale - mean) / std, channel by channel.".to_string());
    line("input:".to_string());
    for (name, size) in ["channels", "height", "width"].iter().zip(model.image_shape()) {
        match size {
            Some(size) => line(format!("  {name}: {size}")),
            None => line(format!("  # {name}:     # find out: the file leaves it open")),
        }
    }
    if report.layout != Layout::Nchw {
        let layout = serde_yaml::to_string(&report.layout).unwrap_or_default();
        line(format!("  layout: {}", layout.trim()));
    }
    let graph = model.shared.skeleton.graph.get_or_default();
    match if report.whole_numbers { Preprocessing::TakesBytes } else { inside(graph) } {
        Preprocessing::TakesBytes => {
            line("  # The graph scales its images itself, so it takes bytes as they are.".to_string());
            line("  scale: 1".to_string());
        }
        Preprocessing::Some => {
            line("  # The graph does arithmetic on its images: find out whether that is all of the normalisation.".to_string());
            line("  scale: 0.00392156862745098    # 1/255; find out".to_string());
        }
        Preprocessing::None => {
            let channels = usize::try_from(model.image_shape()[0].unwrap_or(3)).unwrap_or(3);
            let list = |value: &str| vec![value; channels].join(", ");
            line("  scale: 0.00392156862745098    # 1/255; find out".to_string());
            line(format!("  mean: [{}]    # find out, from the training of the model", list("0.5")));
            line(format!("  std: [{}]    # find out", list("0.5")));
        }
    }
    line(String::new());
    let names: Vec<String> = if !report.labels.is_empty() {
        line("# From the graph.".to_string());
        report.labels.clone()
    } else if folders.len() == model.classes() {
        line("# The folders' names, in alphabetical order; find out whether the outputs have this order".to_string());
        folders.to_vec()
    } else {
        line("# find out: the classes' names in the order of the outputs, as the folders of images are called".to_string());
        if !folders.is_empty() {
            line(format!("# ({} folders of images cannot be {} classes)", folders.len(), model.classes()));
        }
        (0..model.classes()).map(|class| format!("class_{class}")).collect()
    };
    let classes = serde_yaml::to_string(&std::collections::BTreeMap::from([("classes", names)])).unwrap_or_default();
    line(classes.trim_end().to_string());
    line(String::new());
    if report.scores_inside || !report.unused_outputs.is_empty() {
        let scores = serde_yaml::to_string(&report.scores).unwrap_or_default();
        line(readable(&format!("# Other outputs: {}", report.unused_outputs.join(", "))).into_owned());
        line(format!("scores: {}", scores.trim()));
    }
    let head = match report.head {
        Head::Logits => "logits",
        Head::Probabilities => "probabilities",
        Head::LogProbabilities => "log_probabilities",
    };
    line(format!("output: {head}"));
    for note in &report.notes {
        line(format!("\n# {note}"));
        line("# repairs:\n#   batch_norm: reinsert    # or keep".to_string());
    }
    out
}

/// What stands between the images and the first layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Preprocessing {
    None,
    /// Arithmetic of unknown meaning.
    Some,
    /// Numbers from 0 to 255 are made small.
    TakesBytes,
}

/// Follows the images through moves and arithmetic with constants.
fn inside(graph: &GraphProto) -> Preprocessing {
    let initializers: Vec<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    let Some(input) = graph.input.iter().find(|input| !initializers.contains(&input.name.as_str())) else {
        return Preprocessing::None;
    };
    let (mut name, mut factor, mut found) = (input.name.as_str(), 1.0, false);
    // No chain is longer than the graph.
    for _ in 0..graph.node.len() {
        let readers: Vec<&NodeProto> = graph.node.iter().filter(|node| node.input.iter().any(|i| i == name)).collect();
        let [node] = readers.as_slice() else { break };
        match node.op_type.as_str() {
            "Transpose" | "Cast" | "Identity" | "Reshape" | "Resize" => {}
            "Add" | "Sub" => found = true,
            operator @ ("Mul" | "Div") => {
                let other = node.input.iter().find(|input| *input != name).and_then(|other| largest(graph, other));
                let Some(other) = other else { break };
                factor *= if operator == "Mul" { other } else { 1.0 / other };
                found = true;
            }
            _ => break,
        }
        let Some(output) = node.output.first() else { break };
        name = output;
    }
    match (found, factor < 0.05) {
        (true, true) => Preprocessing::TakesBytes,
        (true, false) => Preprocessing::Some,
        (false, _) => Preprocessing::None,
    }
}

/// The largest number of a constant.
fn largest(graph: &GraphProto, name: &str) -> Option<f64> {
    let initializer = graph.initializer.iter().find(|tensor| tensor.name == name);
    let node = graph.node.iter().find(|node| node.op_type == "Constant" && node.output.first().is_some_and(|o| o == name));
    let proto = initializer.or_else(|| node?.attribute.first()?.t.as_ref())?;
    let values = to_f64s(&from_proto(proto).ok()?).ok()?;
    values.into_iter().map(f64::abs).reduce(f64::max)
}
