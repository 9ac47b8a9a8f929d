//! Passes in which products with constants have cheap stand-ins: they tell shapes, and whether images keep to themselves.

use super::{LOGITS, Mode, OUTPUT, Pass, Plan, Step, Trace};
use crate::error::{Place, Result};
use crate::graph::ops::Link;
use crate::tensor::Tensor;

/// Operators of which no softmax can be made.
const PIECEWISE_LINEAR: &[&str] = &[
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Clip",
    "Concat",
    "Conv",
    "Dropout",
    "Flatten",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Identity",
    "LeakyRelu",
    "MatMul",
    "MaxPool",
    "Pad",
    "PRelu",
    "ReduceMean",
    "Relu",
    "Squeeze",
    "Transpose",
];

impl Plan {
    /// As [`run`](Self::run) for evaluation, with [stand-ins](crate::graph::ops::Op::sketched) for products with constants.
    pub fn sketch(&self, stored: &[Tensor], input: &Tensor, result: usize) -> Result<Tensor> {
        self.run_one(stored, input, result, &Pass { sketch: true, ..Pass::plain(Mode::Eval) })
    }

    /// [Sketches](Self::sketch) a classifier's whole plan, and keeps what it gave, as long as intermediate results take at most `budget`
    /// bytes at any time. A node's result is counted when it is there, so that the budget can be passed by one of them.
    ///
    /// # Errors
    /// Malformed, naming the node at which the budget was passed; else what a node raises.
    /// With `only_shapes`, convolutions are [outlined](crate::graph::ops::Convolution::outline), and no number means anything.
    pub fn trace(&self, stored: &[Tensor], input: &Tensor, budget: usize, only_shapes: bool) -> Result<Trace> {
        let mut shapes = vec![Vec::new(); self.slots];
        shapes[0] = input.size();
        let pass = Pass { sketch: true, only_shapes, budget, ..Pass::plain(Mode::Eval) };
        let slots = self.run_steps(stored, std::slice::from_ref(input), self.steps.len(), &pass, &mut |step, outputs| {
            for (tensor, slot) in outputs.iter().zip(&step.outputs) {
                if let Some(slot) = *slot {
                    shapes[slot] = tensor.size();
                }
            }
            Ok(())
        })?;
        Ok(Trace { shapes, logits: self.result(stored, &slots, LOGITS)?, output: self.result(stored, &slots, OUTPUT)? })
    }

    /// Whether scores cannot be probabilities by their numbers alone: nothing here but linear layers, normalisation by stored statistics,
    /// pools and activations that are pieces of lines.
    pub fn is_piecewise_linear(&self) -> bool {
        self.steps.iter().all(|step| PIECEWISE_LINEAR.contains(&step.operator))
    }
}

impl Step {
    /// Runs this step alone, or what may stand in for it where only shapes are asked.
    pub(super) fn outline(&self, stored: &[Tensor], slots: &[Option<Tensor>]) -> Result<Vec<Tensor>> {
        if let Some(Link::Conv(convolution)) = &self.link
            && let [Some(x), Some(weight), bias @ ..] = self.find_inputs(stored, slots).as_slice()
            && let Some(output) = convolution.outline(x, weight, bias.first().copied().flatten()).at(|| &self.label)?
        {
            return Ok(vec![output]);
        }
        self.sketch(stored, slots)
    }
}
