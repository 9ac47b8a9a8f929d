//! Sequences and optional values whose content is known before the graph runs: each element is an ordinary value, and the
//! operators on them choose among values, split or join.
//!
//! Source: <https://onnx.ai/onnx/operators/onnx__SequenceConstruct.html> and its kin. All of a graph is resolved or nothing: what
//! is left is refused by its operator.

use std::collections::HashMap;

use crate::graph::lower::known::Known;
use crate::graph::nodes::{int_attribute, int_of, ints_attribute, new_node};
use crate::onnx::proto::{GraphProto, NodeProto, TensorProto};
use crate::onnx::{self, OnnxFile};
use crate::tensor::{Kind, Tensor};

/// Elements that one sequence may have.
const MOST_ELEMENTS: usize = 1 << 16;

/// Replaces the main graph's operators on sequences and optional values; gives how many there were.
pub fn resolve(file: &mut OnnxFile) -> usize {
    let Some(graph) = file.model.graph.as_ref() else { return 0 };
    if !graph.node.iter().any(is_concerned) {
        return 0;
    }
    let opset = file.model.opset_import.iter().filter(|o| matches!(o.domain.as_str(), "" | "ai.onnx")).map(|o| o.version).max();
    let mut resolver = Resolver {
        known: Known::of(file, graph),
        opset: opset.unwrap_or(0),
        sequences: HashMap::new(),
        splits: Vec::new(),
        optional: HashMap::new(),
        nodes: Vec::with_capacity(graph.node.len()),
        initializers: Vec::new(),
        resolved: 0,
    };
    let done = resolver.all(graph);
    let Resolver { nodes, initializers, resolved, .. } = resolver;
    match (done, file.model.graph.as_mut()) {
        (Some(()), Some(graph)) => {
            graph.node = nodes;
            graph.initializer.extend(initializers);
            resolved
        }
        _ => 0,
    }
}

fn is_concerned(node: &NodeProto) -> bool {
    matches!(
        node.op_type.as_str(),
        "SequenceEmpty"
            | "SequenceConstruct"
            | "SequenceInsert"
            | "SequenceErase"
            | "SequenceAt"
            | "SequenceLength"
            | "ConcatFromSequence"
            | "SplitToSequence"
            | "Optional"
            | "OptionalHasElement"
            | "OptionalGetElement"
    )
}

/// One element of a sequence.
#[derive(Debug, Clone)]
enum Element {
    Value(String),
    /// A piece of [`Resolver::splits`], which is made when somebody reads it.
    Piece {
        split: usize,
        index: usize,
    },
}

/// A SplitToSequence.
struct Split {
    source: String,
    axis: i64,
    /// Lengths of the pieces; `None` where only their number is known.
    lengths: Option<Vec<i64>>,
    keeps_axis: bool,
    output: String,
    is_made: bool,
}

struct Resolver<'a> {
    known: Known<'a>,
    opset: i64,
    sequences: HashMap<String, Vec<Element>>,
    splits: Vec<Split>,
    /// What an optional value holds; `None` for nothing.
    optional: HashMap<String, Option<String>>,
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
    resolved: usize,
}

impl Resolver<'_> {
    /// `None` where something is not known, or where a sequence is used in another way.
    fn all(&mut self, graph: &GraphProto) -> Option<()> {
        for node in &graph.node {
            if is_concerned(node) {
                self.resolved += 1;
                self.node(node)?;
            } else {
                // An element that is a sequence itself, a sequence given to a subgraph, or to a node's own copy.
                let mut read = crate::graph::body::read_names(node);
                if read.any(|name| self.is_no_tensor(name)) {
                    return None;
                }
                self.nodes.push(node.clone());
            }
        }
        let outputs = graph.output.iter().any(|output| self.is_no_tensor(&output.name));
        if outputs { None } else { Some(()) }
    }

    fn is_no_tensor(&self, name: &str) -> bool {
        self.sequences.contains_key(name) || self.optional.contains_key(name)
    }

    fn node(&mut self, node: &NodeProto) -> Option<()> {
        let output = node.output.first()?.clone();
        let input = |index: usize| node.input.get(index).filter(|name| !name.is_empty());
        match node.op_type.as_str() {
            "SequenceEmpty" => drop(self.sequences.insert(output, Vec::new())),
            "SequenceConstruct" => {
                let elements = node.input.iter().map(|name| (!self.is_no_tensor(name)).then(|| Element::Value(name.clone())));
                let elements = elements.collect::<Option<Vec<_>>>()?;
                self.sequences.insert(output, elements);
            }
            "SequenceInsert" => {
                let mut elements = self.sequences.get(input(0)?)?.clone();
                let new = input(1).filter(|name| !self.is_no_tensor(name))?;
                let at = self.position(input(2), elements.len(), elements.len())?;
                if elements.len() >= MOST_ELEMENTS {
                    return None;
                }
                elements.insert(at, Element::Value(new.clone()));
                self.sequences.insert(output, elements);
            }
            "SequenceErase" => {
                let mut elements = self.sequences.get(input(0)?)?.clone();
                let last = elements.len().checked_sub(1)?;
                let at = self.position(input(1), last, elements.len())?;
                (at < elements.len()).then(|| elements.remove(at))?;
                self.sequences.insert(output, elements);
            }
            "SequenceAt" => {
                let elements = self.sequences.get(input(0)?)?;
                let at = self.position(Some(input(1)?), 0, elements.len())?;
                let element = elements.get(at)?.clone();
                let source = self.value(&element)?;
                self.nodes.push(new_node("Identity", &[source], output, vec![]));
            }
            "SequenceLength" => {
                let length = i64::try_from(self.sequences.get(input(0)?)?.len()).ok()?;
                self.constant(&output, &Tensor::f_from_slice(&[length]).ok()?.f_reshape([0_i64; 0]).ok()?)?;
            }
            "ConcatFromSequence" => self.concat(node, output)?,
            "SplitToSequence" => self.split(node, output)?,
            "Optional" => {
                let held = match input(0) {
                    None => None,
                    Some(name) if self.is_no_tensor(name) => return None,
                    Some(name) => Some(name.clone()),
                };
                self.optional.insert(output, held);
            }
            "OptionalGetElement" => {
                let source = self.held(input(0)?)??;
                self.nodes.push(new_node("Identity", &[source], output, vec![]));
            }
            "OptionalHasElement" => {
                let has = match input(0) {
                    None => false,
                    Some(name) => self.held(name)?.is_some(),
                };
                let flag = Tensor::f_from_slice(&[i64::from(has)]).ok()?.f_to_kind(Kind::Bool).ok()?;
                self.constant(&output, &flag.f_reshape([0_i64; 0]).ok()?)?;
            }
            _ => return None,
        }
        Some(())
    }

    /// What an optional value holds; a plain tensor holds itself. `None` where it is not known.
    fn held(&self, name: &str) -> Option<Option<String>> {
        match self.optional.get(name) {
            Some(held) => Some(held.clone()),
            None if self.known.is_tensor(name) => Some(Some(name.to_string())),
            None => None,
        }
    }

    /// A constant position in a sequence of `length`, negative ones counted from its end; `default` where none is given.
    fn position(&self, name: Option<&String>, default: usize, length: usize) -> Option<usize> {
        let Some(name) = name else { return Some(default) };
        let (values, _) = self.known.integers(name)?;
        let [value] = values.as_slice() else { return None };
        let length = i64::try_from(length).ok()?;
        let wrapped = if *value < 0 { value.checked_add(length)? } else { *value };
        (0..=length).contains(&wrapped).then(|| usize::try_from(wrapped).ok())?
    }

    fn constant(&mut self, name: &str, value: &Tensor) -> Option<()> {
        self.initializers.push(onnx::to_proto(name, value).ok()?);
        Some(())
    }

    /// The name of an element's value, made if it is a piece that nobody read before.
    fn value(&mut self, element: &Element) -> Option<String> {
        let (split, index) = match element {
            Element::Value(name) => return Some(name.clone()),
            Element::Piece { split, index } => (*split, *index),
        };
        let found = self.splits.get_mut(split)?;
        let name = |index: usize| format!("{}/{index}", found.output);
        let piece = name(index);
        if !std::mem::replace(&mut found.is_made, true) {
            let lengths = found.lengths.clone()?;
            let mut node =
                new_node("Split", std::slice::from_ref(&found.source), String::new(), vec![int_attribute("axis", found.axis)]);
            let ends = if found.keeps_axis { "" } else { "/kept" };
            node.output = (0..lengths.len()).map(|index| format!("{}{ends}", name(index))).collect();
            let (axis, output, keeps_axis) = (found.axis, found.output.clone(), found.keeps_axis);
            if self.opset >= 13 {
                let sizes = format!("{output}/lengths");
                self.constant(&sizes, &Tensor::f_from_slice(&lengths).ok()?)?;
                node.input.push(sizes);
            } else {
                node.attribute.push(ints_attribute("split", &lengths));
            }
            let kept = node.output.clone();
            self.nodes.push(node);
            if !keeps_axis {
                for (index, kept) in kept.iter().enumerate() {
                    self.change_rank("Squeeze", kept, format!("{output}/{index}"), axis)?;
                }
            }
        }
        Some(piece)
    }

    /// A Squeeze or an Unsqueeze, whose axes became an input in opset 13.
    fn change_rank(&mut self, operator: &str, source: &str, output: String, axis: i64) -> Option<()> {
        if self.opset >= 13 {
            let axes = format!("{output}/axes");
            self.constant(&axes, &Tensor::f_from_slice(&[axis]).ok()?)?;
            self.nodes.push(new_node(operator, &[source.to_string(), axes], output, vec![]));
        } else {
            self.nodes.push(new_node(operator, &[source.to_string()], output, vec![ints_attribute("axes", &[axis])]));
        }
        Some(())
    }

    /// onnx: ConcatFromSequence-11.
    fn concat(&mut self, node: &NodeProto, output: String) -> Option<()> {
        let axis = int_of(node, "axis")?;
        let elements = self.sequences.get(node.input.first()?)?.clone();
        let mut names = elements.iter().map(|element| self.value(element)).collect::<Option<Vec<_>>>()?;
        if int_of(node, "new_axis").unwrap_or(0) != 0 {
            for (index, name) in names.iter_mut().enumerate() {
                let stacked = format!("{output}/{index}");
                self.change_rank("Unsqueeze", name, stacked.clone(), axis)?;
                *name = stacked;
            }
        }
        if names.is_empty() {
            return None;
        }
        self.nodes.push(new_node("Concat", &names, output, vec![int_attribute("axis", axis)]));
        Some(())
    }

    /// onnx: SplitToSequence-24.
    fn split(&mut self, node: &NodeProto, output: String) -> Option<()> {
        let source = node.input.first()?.clone();
        let axis = int_of(node, "axis").unwrap_or(0);
        let length = || {
            let dimensions = self.known.dimensions(&source)?;
            let index = if axis < 0 { axis + i64::try_from(dimensions.len()).ok()? } else { axis };
            *dimensions.get(usize::try_from(index).ok()?)?
        };
        let sizes = node.input.get(1).filter(|name| !name.is_empty());
        let (count, lengths) = match sizes.map(|name| (name, self.known.integers(name))) {
            None => {
                let count = usize::try_from(length()?).ok()?;
                (count, Some(vec![1; count.min(MOST_ELEMENTS)]))
            }
            Some((_, Some((values, 0)))) => {
                let (size, length) = (*values.first()?, length()?);
                let whole = length.checked_div(size).filter(|_| size > 0)?;
                let mut lengths = vec![size; usize::try_from(whole).ok()?.min(MOST_ELEMENTS)];
                lengths.extend(Some(length % size).filter(|rest| *rest > 0));
                (lengths.len(), Some(lengths))
            }
            Some((_, Some((values, _)))) => (values.len(), Some(values)),
            // Each run splits in its own way, into a number of pieces that is known.
            Some((name, None)) => match self.known.dimensions(name)?.as_slice() {
                [Some(count)] => (usize::try_from(*count).ok()?, None),
                _ => return None,
            },
        };
        if count > MOST_ELEMENTS {
            return None;
        }
        // Without lengths, `keepdims` decides whether the axis of length 1 stays; with lengths it is ignored.
        let keeps_axis = sizes.is_some() || int_of(node, "keepdims").unwrap_or(1) != 0;
        let split = self.splits.len();
        self.splits.push(Split { source, axis, lengths, keeps_axis, output: output.clone(), is_made: false });
        self.sequences.insert(output, (0..count).map(|index| Element::Piece { split, index }).collect());
        Some(())
    }
}
