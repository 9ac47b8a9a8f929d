//! Passes in which products with constants have cheap stand-ins: they tell shapes, and whether images keep to themselves.

use super::{LOGITS, Mode, OUTPUT, Pass, Plan, Trace};
use crate::error::Result;
use crate::tensor::Tensor;

/// Operators of which no softmax can be made.
const PIECEWISE_LINEAR: [&str; 21] = [
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
    pub fn trace(&self, stored: &[Tensor], input: &Tensor, budget: usize) -> Result<Trace> {
        let mut shapes = vec![Vec::new(); self.slots];
        shapes[0] = input.size();
        let pass = Pass { sketch: true, budget, ..Pass::plain(Mode::Eval) };
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

    /// From now on, sketches do convolutions as they are: where a decision rests on numbers, not on shapes alone.
    pub fn sketch_no_convolutions(&mut self) {
        self.steps.iter_mut().filter(|step| step.operator == "Conv").for_each(|step| step.sketch = None);
    }
}
