//! Nodes and attributes that this crate adds to a graph.

use crate::onnx::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, attribute_proto::AttributeType};

/// A node of the standard domain with one output, which is its name as well.
pub(crate) fn new_node(op: &str, inputs: &[String], output: String, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: op.to_string(),
        name: output.clone(),
        input: inputs.to_vec(),
        output: vec![output],
        attribute,
        ..Default::default()
    }
}

pub(crate) fn int_attribute(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.to_string(), type_: AttributeType::INT.into(), i: value, ..Default::default() }
}

pub(crate) fn ints_attribute(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { name: name.to_string(), type_: AttributeType::INTS.into(), ints: values.to_vec(), ..Default::default() }
}

pub(crate) fn float_attribute(name: &str, value: f32) -> AttributeProto {
    AttributeProto { name: name.to_string(), type_: AttributeType::FLOAT.into(), f: value, ..Default::default() }
}

pub(crate) fn tensor_attribute(name: &str, tensor: TensorProto) -> AttributeProto {
    AttributeProto { name: name.to_string(), type_: AttributeType::TENSOR.into(), t: Some(tensor).into(), ..Default::default() }
}

/// The tensor that an initializer or a `Constant` node of this name holds.
pub(crate) fn constant<'a>(graph: &'a GraphProto, name: &str) -> Option<&'a TensorProto> {
    let node = || {
        let node = graph.node.iter().find(|node| node.op_type == "Constant" && node.output.iter().any(|o| o == name))?;
        node.attribute.iter().find(|attribute| attribute.name == "value")?.t.as_ref()
    };
    graph.initializer.iter().find(|tensor| tensor.name == name).or_else(node)
}

/// An integer attribute of a node, if it is there.
pub(crate) fn int_of(node: &NodeProto, name: &str) -> Option<i64> {
    node.attribute.iter().find(|attribute| attribute.name == name).map(|attribute| attribute.i)
}
