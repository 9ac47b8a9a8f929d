//! [`Node`]: what an operator's compile function is given.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::graph::body::Body;
use crate::onnx::proto::{AttributeProto, TensorProto, attribute_proto::AttributeType};

/// A node as its operator sees it at compile time: attributes, arity, opset and constant inputs.
pub struct Node<'a> {
    /// The operator's name.
    pub op_type: &'a str,
    /// The opset of the operator's domain.
    pub opset: i64,
    /// Per input whether it is there.
    pub inputs: Vec<bool>,
    /// Per output whether it is wanted.
    pub outputs: Vec<bool>,
    /// Per input its ONNX element type, where the file declares it.
    types: Vec<Option<i32>>,
    bodies: Vec<(String, Arc<Body>)>,
    attributes: &'a [AttributeProto],
    read: RefCell<BTreeSet<String>>,
}

impl<'a> Node<'a> {
    /// A view of one node.
    pub fn new(op_type: &'a str, opset: i64, inputs: Vec<bool>, outputs: Vec<bool>, attributes: &'a [AttributeProto]) -> Self {
        Node { op_type, opset, inputs, outputs, types: Vec::new(), bodies: Vec::new(), attributes, read: RefCell::default() }
    }

    /// Says which ONNX element types the inputs are declared to have.
    pub fn typed(mut self, types: Vec<Option<i32>>) -> Self {
        self.types = types;
        self
    }

    /// Hands over the compiled subgraphs, by attribute.
    pub fn with_bodies(mut self, bodies: Vec<(String, Arc<Body>)>) -> Self {
        self.bodies = bodies;
        self
    }

    /// The subgraph that an attribute holds.
    pub fn body(&self, name: &str) -> Result<Arc<Body>> {
        self.read.borrow_mut().insert(name.to_string());
        let found = self.bodies.iter().find(|(attribute, _)| attribute == name).map(|(_, body)| body.clone());
        found.ok_or_else(|| Error::malformed(format!("the subgraph '{name}' is missing")))
    }

    /// The ONNX element type that the input at `index` is declared to have. Several are held in one kind of tensor.
    pub fn input_type(&self, index: usize) -> Option<i32> {
        self.types.get(index).copied().flatten()
    }

    /// Whether the optional input at `index` is there.
    pub fn has_input(&self, index: usize) -> bool {
        self.inputs.get(index).copied().unwrap_or(false)
    }

    /// Whether the output at `index` is wanted.
    pub fn has_output(&self, index: usize) -> bool {
        self.outputs.get(index).copied().unwrap_or(false)
    }

    /// Whether the attribute is there, of whatever type; this alone does not count as reading it.
    pub fn has(&self, name: &str) -> bool {
        self.attributes.iter().any(|a| a.name == name)
    }

    fn attribute(&self, name: &str, kind: AttributeType) -> Result<Option<&'a AttributeProto>> {
        self.read.borrow_mut().insert(name.to_string());
        let Some(attribute) = self.attributes.iter().find(|a| a.name == name) else { return Ok(None) };
        let found = attribute.type_.enum_value_or_default();
        // Files of IR version 1 leave the type out.
        if found != kind && found != AttributeType::UNDEFINED {
            return Err(Error::malformed(format!("attribute '{name}' is of type {found:?} where {kind:?} is expected")));
        }
        Ok(Some(attribute))
    }

    /// An integer attribute.
    pub fn int(&self, name: &str) -> Result<Option<i64>> {
        Ok(self.attribute(name, AttributeType::INT)?.map(|a| a.i))
    }

    /// An integer attribute with a default.
    pub fn int_or(&self, name: &str, default: i64) -> Result<i64> {
        Ok(self.int(name)?.unwrap_or(default))
    }

    /// A boolean attribute, which ONNX stores as an integer; absent means false.
    pub fn flag(&self, name: &str) -> Result<bool> {
        Ok(self.int_or(name, 0)? != 0)
    }

    /// A float attribute with a default.
    pub fn float_or(&self, name: &str, default: f64) -> Result<f64> {
        Ok(self.attribute(name, AttributeType::FLOAT)?.map_or(default, |a| f64::from(a.f)))
    }

    /// A float attribute.
    pub fn float(&self, name: &str) -> Result<Option<f64>> {
        Ok(self.attribute(name, AttributeType::FLOAT)?.map(|a| f64::from(a.f)))
    }

    /// A list of integers.
    pub fn ints(&self, name: &str) -> Result<Option<Vec<i64>>> {
        Ok(self.attribute(name, AttributeType::INTS)?.map(|a| a.ints.clone()))
    }

    /// A list of floats.
    pub fn floats(&self, name: &str) -> Result<Option<Vec<f64>>> {
        Ok(self.attribute(name, AttributeType::FLOATS)?.map(|a| a.floats.iter().copied().map(f64::from).collect()))
    }

    /// A text attribute.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        let Some(attribute) = self.attribute(name, AttributeType::STRING)? else { return Ok(None) };
        match std::str::from_utf8(&attribute.s) {
            Ok(text) => Ok(Some(text.to_string())),
            Err(_) => Err(Error::malformed(format!("attribute '{name}' is not valid UTF-8"))),
        }
    }

    /// A text attribute with a default.
    pub fn text_or(&self, name: &str, default: &str) -> Result<String> {
        Ok(self.text(name)?.unwrap_or_else(|| default.to_string()))
    }

    /// A list of texts.
    pub fn texts(&self, name: &str) -> Result<Option<Vec<String>>> {
        let Some(attribute) = self.attribute(name, AttributeType::STRINGS)? else { return Ok(None) };
        let texts = attribute.strings.iter().map(|text| String::from_utf8(text.clone()));
        let texts = texts.collect::<std::result::Result<_, _>>();
        texts.map(Some).map_err(|_| Error::malformed(format!("attribute '{name}' is not valid UTF-8")))
    }

    /// A tensor attribute.
    pub fn tensor(&self, name: &str) -> Result<Option<&'a TensorProto>> {
        Ok(self.attribute(name, AttributeType::TENSOR)?.and_then(|a| a.t.as_ref()))
    }

    /// Says that an attribute is known and has no influence on the result here.
    pub fn ignore(&self, name: &str) {
        self.read.borrow_mut().insert(name.to_string());
    }

    /// Attributes that the compile function never asked for: it does not know what they mean.
    pub fn unread(&self) -> Vec<String> {
        let read = self.read.borrow();
        self.attributes.iter().map(|a| a.name.clone()).filter(|name| !read.contains(name)).collect()
    }

    /// Refuses an attribute value that this operator does not support.
    pub fn unsupported<T>(&self, what: impl std::fmt::Display) -> Result<T> {
        Err(Error::unsupported(format!("{} with {what} is not supported", self.op_type)))
    }
}
