//! The operators: one table row each, in family files.
//!
//! A row says everything that others derive from an operator: its name and domain, the opset in which this definition
//! begins, how many inputs and outputs it takes, which inputs are weights, which are running statistics, through which
//! inputs gradients flow, and the function that compiles a node. Rows of one operator with different `since` are its
//! versions; the highest `since` that is not above the model's opset is used.

pub use self::node::Node;
pub(crate) use self::operands::with_at_most;
pub use crate::graph::precision::InBf16;

use crate::error::{Error, Result};
pub use conv::Convolution;
pub(crate) use conv::Steps as ConvolutionSteps;

use crate::tensor::native::Normalisation;
use crate::tensor::{Tensor, to_f64s, to_i64s};

pub mod activation;
pub mod arithmetic;
pub mod attention;
pub mod bitwise;
pub mod cast;
pub mod compare;
pub mod concat;
pub mod constant;
pub mod control;
pub mod conv;
pub mod derivative;
pub mod dropout;
pub mod fold;
pub mod gather;
pub mod grid;
pub mod index;
pub mod loss;
pub mod math;
pub mod matmul;
pub mod norm;
pub mod out_of_scope;
pub mod pad;
pub mod pool;
pub mod quant;
pub mod reduce;
pub mod reference;
pub mod resize;
pub mod scatter;
pub mod shape;
pub mod slice;
pub mod softmax;
pub mod statistics;
pub(crate) mod straight_through;

mod node;
mod operands;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod values;
mod window;

/// Whether batch statistics (and dropout) are live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Normalisation uses the batch's statistics and updates its running buffers; dropout drops.
    Train,
    /// Normalisation uses its running buffers; dropout is the identity.
    Eval,
}

/// What one run of a node sees.
pub struct Call<'a> {
    /// The node's inputs in order; `None` for an optional input that is left out.
    pub inputs: &'a [Option<&'a Tensor>],
    /// The mode of this forward pass.
    pub mode: Mode,
}

impl Call<'_> {
    /// The input at `index`, which must be there.
    pub fn input(&self, index: usize) -> Result<&Tensor> {
        self.optional(index).ok_or_else(|| Error::malformed(format!("input {index} is missing")))
    }

    /// The input at `index`, or `None` if it is left out.
    pub fn optional(&self, index: usize) -> Option<&Tensor> {
        self.inputs.get(index).copied().flatten()
    }

    /// The integers held by the input at `index` (a shape, axes, sizes), copied to the host.
    pub fn ints(&self, index: usize) -> Result<Vec<i64>> {
        to_i64s(self.input(index)?)
    }

    /// As [`ints`](Self::ints) for an optional input.
    pub fn optional_ints(&self, index: usize) -> Result<Option<Vec<i64>>> {
        self.optional(index).map(to_i64s).transpose()
    }

    /// The single number held by the optional input at `index`.
    pub fn optional_number(&self, index: usize) -> Result<Option<f64>> {
        let Some(tensor) = self.optional(index) else { return Ok(None) };
        match to_f64s(tensor)?.as_slice() {
            [value] => Ok(Some(*value)),
            other => Err(Error::malformed(format!("input {index} holds {} values where one is expected", other.len()))),
        }
    }
}

/// A compiled node: takes the inputs, gives the outputs in order.
pub type Kernel = Box<dyn Fn(&Call<'_>) -> Result<Vec<Tensor>> + Send + Sync>;

/// From a node's inputs and the gradient of its first output, `[n, ...]`, to the gradient of the constant operand at a position for
/// every example by itself, `[n, shape of the operand...]`; `None` where shapes are not those that the rule is for.
pub type ExampleRule = Box<dyn Fn(&Call<'_>, &Tensor, usize) -> Result<Option<Tensor>> + Send + Sync>;

/// How the gradients of an operator's constant operands are found for every example of a batch by itself.
#[derive(Debug, Clone, Copy, Default)]
pub enum ByExample {
    /// There is no rule: the examples have to be looked at one by one.
    #[default]
    Alone,
    /// The operand is broadcast against the batch: the node is run once more with a copy of the operand for each example.
    Copies,
    /// By a rule of the operator's own.
    Rule(fn(&Node<'_>) -> Result<ExampleRule>),
}

/// Wraps a function with a single output as a [`Kernel`].
pub fn one(run: impl Fn(&Call<'_>) -> Result<Tensor> + Send + Sync + 'static) -> Result<Kernel> {
    Ok(Box::new(move |call| Ok(vec![run(call)?])))
}

/// One row of the operator table.
#[derive(Debug, Clone, Copy)]
pub struct Op {
    /// The operator's name, such as `Conv`.
    pub name: &'static str,
    /// The operator's domain; empty for the standard one.
    pub domain: &'static str,
    /// The opset in which this definition begins.
    pub since: i64,
    /// The least number of inputs.
    pub min_inputs: usize,
    /// The greatest number of inputs.
    pub max_inputs: usize,
    /// The greatest number of outputs.
    pub max_outputs: usize,
    /// The inputs that are weights when they are constant: these become trainable parameters.
    pub weights: &'static [usize],
    /// The inputs that hold running statistics: these are neither trained nor folded, and training updates them in place.
    pub buffers: &'static [usize],
    /// How a constant that passes through this node is related to weights behind it.
    pub flow: Flow,
    /// The inputs through which gradients flow. [`ALL`] stands for every input.
    pub differentiable: &'static [usize],
    /// Parses a node's attributes once and gives the function that runs it.
    pub compile: fn(&Node<'_>) -> Result<Kernel>,
    /// As `compile`, for a stand-in that may be run where input 1, if there is one, is a constant: see [`Op::sketched`].
    pub sketch: Option<fn(&Node<'_>) -> Result<Kernel>>,
    /// How constant operands get a gradient from every example.
    pub by_example: ByExample,
    /// How it behaves where a pass is computed in bfloat16.
    pub in_bf16: InBf16,
    /// The part that a node can have in a chain of nodes that is computed as one.
    pub link: Option<LinkOf>,
}

/// Reads a node's part in a chain; `None` where its attributes make it something else.
pub type LinkOf = fn(&Node<'_>) -> Result<Option<Link>>;

/// A node's part in a chain of nodes that is computed as one, in this order: normalisation, a sum, an activation.
#[derive(Debug, Clone)]
pub enum Link {
    /// A convolution, into which normalisation can be folded.
    Conv(Convolution),
    /// Normalisation by running statistics, or the batch's in training, for every channel.
    Norm(Normalisation),
    /// The sum of two tensors.
    Add,
    /// What is below zero becomes zero.
    Relu,
}

/// How constants are treated on their way through an operator to a weight position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// The output is computed from the inputs: a constant input is a weight only where the row says so.
    Computes,
    /// Input 0's values are moved, cast or copied: if the output is a weight, so is input 0.
    Moves,
    /// All inputs' values are moved into the output (Concat).
    MovesAll,
    /// Values are put together by position or condition: made of constants alone, the output is a mask or a table that the
    /// network's author wrote down, not a weight.
    Assembles,
}

/// Stands for all inputs in [`Op::differentiable`] and [`Op::weights`].
pub const ALL: &[usize] = &[usize::MAX];

impl Op {
    /// A row with one or more inputs up to `max_inputs` (the first one required), a single output, no weights, and gradients through input 0.
    pub const fn new(name: &'static str, since: i64, max_inputs: usize, compile: fn(&Node<'_>) -> Result<Kernel>) -> Self {
        let min_inputs = if max_inputs == 0 { 0 } else { 1 };
        Op {
            name,
            domain: "",
            since,
            min_inputs,
            max_inputs,
            max_outputs: 1,
            weights: &[],
            buffers: &[],
            flow: Flow::Computes,
            differentiable: &[0],
            compile,
            sketch: None,
            by_example: ByExample::Alone,
            in_bf16: InBf16::Widens,
            link: None,
        }
    }

    /// Sets the least number of inputs.
    pub const fn at_least(mut self, min_inputs: usize) -> Self {
        self.min_inputs = min_inputs;
        self
    }

    /// Sets the greatest number of outputs.
    pub const fn outputs(mut self, max_outputs: usize) -> Self {
        self.max_outputs = max_outputs;
        self
    }

    /// Says which inputs are weights when constant.
    pub const fn weights(mut self, weights: &'static [usize]) -> Self {
        self.weights = weights;
        self
    }

    /// Says which inputs hold running statistics.
    pub const fn buffers(mut self, buffers: &'static [usize]) -> Self {
        self.buffers = buffers;
        self
    }

    /// Says how constants pass through.
    pub const fn flow(mut self, flow: Flow) -> Self {
        self.flow = flow;
        self
    }

    /// Says through which inputs gradients flow; `&[]` for none.
    pub const fn gradients(mut self, inputs: &'static [usize]) -> Self {
        self.differentiable = inputs;
        self
    }

    /// Gives a stand-in for a product with a constant at input 1: a function of the same shapes that treats the rows of input 0 each by
    /// itself, as the product does whatever the constant is, and lets every number of a row count. Or for what rounds its input: the
    /// same without rounding. Where only shapes matter, and whether images keep to themselves, the stand-in tells the same, but for what
    /// hides behind a dead activation or a single heavy weight; the comparison with ONNX Runtime on several images shows that.
    pub const fn sketched(mut self, sketch: fn(&Node<'_>) -> Result<Kernel>) -> Self {
        self.sketch = Some(sketch);
        self
    }

    /// Says how constant operands get a gradient from every example.
    pub const fn by_example(mut self, by_example: ByExample) -> Self {
        self.by_example = by_example;
        self
    }

    /// Says how it behaves where a pass is computed in bfloat16.
    pub const fn in_bf16(mut self, in_bf16: InBf16) -> Self {
        self.in_bf16 = in_bf16;
        self
    }

    /// Says which part a node can have in a chain of nodes that is computed as one.
    pub const fn link(mut self, link: LinkOf) -> Self {
        self.link = Some(link);
        self
    }

    /// Sets the domain.
    pub const fn domain(mut self, domain: &'static str) -> Self {
        self.domain = domain;
        self
    }
}

/// All rows, family by family.
pub fn all() -> impl Iterator<Item = &'static Op> {
    [
        activation::OPS,
        arithmetic::OPS,
        attention::OPS,
        bitwise::OPS,
        cast::OPS,
        compare::OPS,
        concat::OPS,
        constant::OPS,
        control::OPS,
        conv::OPS,
        derivative::OPS,
        dropout::OPS,
        gather::OPS,
        fold::OPS,
        grid::OPS,
        index::OPS,
        loss::OPS,
        math::OPS,
        matmul::OPS,
        norm::OPS,
        pad::OPS,
        pool::OPS,
        quant::OPS,
        reduce::OPS,
        resize::OPS,
        scatter::OPS,
        shape::OPS,
        slice::OPS,
        softmax::OPS,
        statistics::OPS,
    ]
    .into_iter()
    .flatten()
}

/// The newest opset of the standard domain that the table was written against.
pub const NEWEST_OPSET: i64 = 28;

/// Finds the row that defines `name` in `opset` of `domain`.
///
/// # Errors
/// Unsupported, saying whether the operator is unknown or only older or newer than the table.
pub fn find(domain: &str, name: &str, opset: i64) -> Result<&'static Op> {
    let domain = if domain == "ai.onnx" { "" } else { domain };
    let mut known = false;
    let row = all()
        .filter(|op| op.domain == domain && op.name == name)
        .inspect(|_| known = true)
        .filter(|op| op.since <= opset)
        .max_by_key(|op| op.since);
    match row {
        Some(row) => Ok(row),
        None if known => Err(Error::unsupported(format!("operator {name} is not supported in opset {opset}"))),
        None => {
            let qualified = if domain.is_empty() { name.to_string() } else { format!("{domain}.{name}") };
            Err(Error::unsupported(match out_of_scope::reason(&qualified) {
                Some(reason) => format!("operator {qualified} is not supported: {reason}"),
                None => format!("operator {qualified} is not supported"),
            }))
        }
    }
}

/// Turns an axis in `-rank..rank` into one in `0..rank`.
pub fn axis_in(axis: i64, rank: usize) -> Result<i64> {
    let rank = i64::try_from(rank).map_err(Error::malformed)?;
    let wrapped = if axis < 0 { axis.checked_add(rank).unwrap_or(-1) } else { axis };
    if (0..rank.max(1)).contains(&wrapped) {
        Ok(wrapped)
    } else {
        Err(Error::malformed(format!("axis {axis} is outside a tensor of rank {rank}")))
    }
}
