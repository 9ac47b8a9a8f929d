//! Scaler of the domain `ai.onnx.ml`, by which scikit-learn's exporter writes a StandardScaler: a difference and a product.
//!
//! Source: <https://onnx.ai/onnx/operators/onnx_aionnxml_Scaler.html>.

use crate::error::Result;
use crate::graph::nodes::new_node;
use crate::onnx::proto::{GraphProto, NodeProto};
use crate::onnx::to_proto;
use crate::tensor::Tensor;

/// Replaces all of them in the main graph; gives their number.
///
/// # Errors
/// Those of libtorch.
pub fn replace(graph: &mut GraphProto) -> Result<usize> {
    let is_scaler = |node: &NodeProto| node.op_type == "Scaler" && node.domain == "ai.onnx.ml";
    let mut count = 0;
    for node in std::mem::take(&mut graph.node) {
        let (true, Some(input), Some(output)) = (is_scaler(&node), node.input.first(), node.output.first()) else {
            graph.node.push(node);
            continue;
        };
        let list = |name: &str| node.attribute.iter().find(|attribute| attribute.name == name).map(|attribute| &attribute.floats);
        count += 1;
        let mut value = input.clone();
        for (operator, attribute, neutral) in [("Sub", "offset", 0.0), ("Mul", "scale", 1.0)] {
            let numbers = list(attribute).filter(|numbers| !numbers.is_empty()).cloned().unwrap_or_else(|| vec![neutral]);
            let constant = format!("{output}/{attribute}");
            graph.initializer.push(to_proto(&constant, &Tensor::f_from_slice(&numbers)?)?);
            let result = if operator == "Mul" { output.clone() } else { format!("{output}/difference") };
            graph.node.push(new_node(operator, &[value, constant], result.clone(), vec![]));
            value = result;
        }
    }
    Ok(count)
}
