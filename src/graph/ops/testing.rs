//! For tests: one node, compiled and run as the importer would.

use super::conv::Convolution;
use super::{Call, Mode, Node, find};
use crate::error::{Error, Result};
use crate::onnx::proto::AttributeProto;
use crate::onnx::proto::attribute_proto::AttributeType;
use crate::tensor::{Tensor, to_f32s};

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: name.to_string(), type_: kind.into(), ..Default::default() }
}

/// An integer attribute.
pub(super) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: value, ..attribute(name, AttributeType::INT) }
}

/// A list of integers.
pub(super) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), ..attribute(name, AttributeType::INTS) }
}

/// A float attribute.
pub(super) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: value, ..attribute(name, AttributeType::FLOAT) }
}

/// A text attribute.
pub(super) fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto { s: value.as_bytes().to_vec(), ..attribute(name, AttributeType::STRING) }
}

/// A float tensor.
pub(super) fn floats(values: &[f32], shape: &[i64]) -> Tensor {
    Tensor::from_slice(values).reshape(shape)
}

/// `0, 1, 2, ...` as floats.
pub(super) fn ramp(shape: &[i64]) -> Tensor {
    Tensor::arange(shape.iter().product::<i64>(), (crate::tensor::Kind::Float, crate::tensor::Device::Cpu)).reshape(shape)
}

/// A list of integers as a tensor.
pub(super) fn list(values: &[i64]) -> Tensor {
    Tensor::from_slice(values)
}

/// Compiles and runs one node; attributes that its operator does not know are refused.
pub(super) fn run_in(
    mode: Mode,
    (name, opset): (&str, i64),
    attributes: &[AttributeProto],
    inputs: &[Option<&Tensor>],
    outputs: usize,
) -> Result<Vec<Tensor>> {
    let op = find("", name, opset)?;
    if !(op.min_inputs..=op.max_inputs).contains(&inputs.len()) || outputs > op.max_outputs {
        return Err(Error::malformed(format!("{name} does not take {} inputs and {outputs} outputs", inputs.len())));
    }
    let present = inputs.iter().map(Option::is_some).collect();
    let node = Node::new(name, opset, present, vec![true; outputs], attributes);
    let kernel = (op.compile)(&node)?;
    match node.unread().as_slice() {
        [] => kernel(&Call { inputs, mode }),
        unread => Err(Error::unsupported(format!("attributes {unread:?}"))),
    }
}

/// As [`run_in`], in evaluation, of a node with one output.
pub(super) fn run(op: (&str, i64), attributes: &[AttributeProto], inputs: &[&Tensor]) -> Result<Tensor> {
    let inputs: Vec<Option<&Tensor>> = inputs.iter().copied().map(Some).collect();
    Ok(run_in(Mode::Eval, op, attributes, &inputs, 1)?.remove(0))
}

/// As [`run`] of a convolution, where only shapes are asked.
pub(super) fn outline(attributes: &[AttributeProto], inputs: &[&Tensor]) -> Result<Option<Tensor>> {
    let node = Node::new("Conv", 11, vec![true; inputs.len()], vec![true], attributes);
    Convolution::of(&node)?.outline(inputs[0], inputs[1], inputs.get(2).copied())
}

/// Asserts shape and values to 1e-5 absolute and relative.
#[track_caller]
pub(super) fn assert_close(found: &Tensor, shape: &[i64], expected: &[f32]) {
    assert_eq!(found.size(), shape);
    for (index, (found, expected)) in to_f32s(found).unwrap_or_default().iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= 1e-5 * (1.0 + expected.abs()), "{found} at {index} where {expected} is expected");
    }
}
