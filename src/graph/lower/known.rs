//! What a graph says of its values before it runs: integers that are constants, and declared dimensions.

use std::collections::HashMap;

use crate::onnx::OnnxFile;
use crate::onnx::proto::{GraphProto, TensorProto, ValueInfoProto};
use crate::tensor::to_i64s;

/// Facts of one graph, by value name.
pub struct Known<'a> {
    file: &'a OnnxFile,
    constants: HashMap<&'a str, &'a TensorProto>,
    declared: HashMap<&'a str, &'a ValueInfoProto>,
}

impl<'a> Known<'a> {
    pub fn of(file: &'a OnnxFile, graph: &'a GraphProto) -> Known<'a> {
        let mut constants: HashMap<&str, &TensorProto> = graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
        for node in graph.node.iter().filter(|node| node.op_type == "Constant") {
            let value =
                node.attribute.iter().find(|attribute| attribute.name == "value").and_then(|attribute| attribute.t.as_ref());
            if let (Some(output), Some(tensor)) = (node.output.first(), value) {
                constants.insert(output, tensor);
            }
        }
        let infos = graph.value_info.iter().chain(&graph.input).chain(&graph.output);
        Known { file, constants, declared: infos.map(|info| (info.name.as_str(), info)).collect() }
    }

    /// The integers of a small constant, and its rank.
    pub fn integers(&self, name: &str) -> Option<(Vec<i64>, usize)> {
        let tensor = self.file.tensor(self.constants.get(name)?).ok()?;
        let values = if tensor.numel() <= 1 << 16 { to_i64s(&tensor).ok()? } else { return None };
        Some((values, tensor.dim()))
    }

    /// Dimensions, `None` for those that are open.
    pub fn dimensions(&self, name: &str) -> Option<Vec<Option<i64>>> {
        if let Some(tensor) = self.constants.get(name) {
            return Some(tensor.dims.iter().copied().map(Some).collect());
        }
        let kind = self.declared.get(name)?.type_.as_ref().filter(|kind| kind.has_tensor_type())?;
        let shape = kind.tensor_type().shape.as_ref()?;
        Some(shape.dim.iter().map(|dim| (dim.has_dim_value() && dim.dim_value() >= 0).then(|| dim.dim_value())).collect())
    }

    /// Whether the file declares the value as a tensor.
    pub fn is_tensor(&self, name: &str) -> bool {
        let declared = self.declared.get(name).and_then(|info| info.type_.as_ref());
        self.constants.contains_key(name) || declared.is_some_and(|kind| kind.has_tensor_type())
    }
}
