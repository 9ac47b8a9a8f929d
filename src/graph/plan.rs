//! The flat plan: resolved slots, compiled kernels, intermediates freed when last used. Compiled once, run many times.

use std::collections::HashMap;

use crate::error::{Error, Place, Result};
use crate::graph::ir::{Ir, IrNode, ValueId, run_kernel};
use crate::graph::ops::{Call, Kernel, Mode};
use crate::tensor::Tensor;

/// Where a step finds one of its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Index into the model's stored tensors (parameters, buffers, constants).
    Stored(usize),
    /// Index into a run's intermediates; the model's input is slot 0.
    Slot(usize),
}

/// One node, ready to run.
pub(crate) struct Step {
    pub kernel: Kernel,
    pub label: String,
    pub operator: &'static str,
    /// Index of the node in the file.
    pub place: usize,
    pub inputs: Vec<Option<Source>>,
    pub outputs: Vec<Option<usize>>,
    /// Slots that nobody reads after this step.
    last_uses: Vec<usize>,
}

/// A compiled graph.
pub(crate) struct Plan {
    pub steps: Vec<Step>,
    pub slots: usize,
    /// What a forward pass returns: logits.
    pub logits: Source,
    /// How many steps the logits need; the rest only turn them into the file's own output.
    pub logits_steps: usize,
    /// The file's first output, as ONNX Runtime would give it.
    pub output: Source,
}

/// Which of the two results of a plan is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// The logits, without a trailing softmax.
    Logits,
    /// The file's first output.
    Output,
}

impl Plan {
    /// Resolves the graph into slots. `stored` gives the index of every constant that a node reads; `logits` is the value to return.
    pub fn compile(ir: Ir, stored: &HashMap<ValueId, usize>, logits: ValueId) -> Result<Plan> {
        let input = match ir.inputs.as_slice() {
            [input] => *input,
            inputs => {
                let names: Vec<&str> = inputs.iter().map(|&i| ir.values[i].name.as_str()).collect();
                let reason =
                    format!("the graph has {} inputs ({}) where an image classifier has one", inputs.len(), names.join(", "));
                return Err(Error::unsupported(reason));
            }
        };
        let output_value = ir.outputs[0];
        let nodes = logits_first(ir.nodes, logits);
        let mut slots: HashMap<ValueId, usize> = HashMap::from([(input, 0)]);
        let find = |slots: &HashMap<ValueId, usize>, id: ValueId| -> Result<Source> {
            if let Some(&index) = stored.get(&id) {
                return Ok(Source::Stored(index));
            }
            let slot = slots.get(&id).copied().map(Source::Slot);
            slot.ok_or_else(|| Error::malformed(format!("'{}' is used before it is produced", ir.values[id].name)))
        };
        let (nodes, logits_steps) = nodes;
        let mut steps = Vec::with_capacity(nodes.len());
        for node in nodes {
            let inputs = node
                .inputs
                .iter()
                .map(|i| i.map(|id| find(&slots, id)).transpose())
                .collect::<Result<Vec<_>>>()
                .at(|| &node.label)?;
            let mut outputs = Vec::with_capacity(node.outputs.len());
            for output in &node.outputs {
                let next = slots.len();
                outputs.push(output.map(|id| *slots.entry(id).or_insert(next)));
            }
            let IrNode { place, label, op, kernel, .. } = node;
            steps.push(Step { kernel, label, operator: op.name, place, inputs, outputs, last_uses: Vec::new() });
        }
        let (logits, output) = (find(&slots, logits)?, find(&slots, output_value)?);
        let mut plan = Plan { steps, slots: slots.len(), logits, logits_steps, output };
        plan.find_last_uses();
        Ok(plan)
    }

    fn find_last_uses(&mut self) {
        let mut seen = vec![false; self.slots];
        for kept in [self.logits, self.output] {
            if let Source::Slot(slot) = kept {
                seen[slot] = true;
            }
        }
        for step in self.steps.iter_mut().rev() {
            let inputs = step.inputs.iter().flatten().filter_map(|s| if let Source::Slot(slot) = s { Some(*slot) } else { None });
            for slot in inputs.chain(step.outputs.iter().flatten().copied()) {
                if !seen[slot] {
                    seen[slot] = true;
                    step.last_uses.push(slot);
                }
            }
        }
    }

    /// Runs the plan on one batch. `stored` are the model's tensors in their order.
    pub fn run(&self, stored: &[Tensor], input: &Tensor, mode: Mode, target: Target) -> Result<Tensor> {
        self.run_within(stored, input, mode, target, usize::MAX)
    }

    /// As [`run`](Self::run), as long as intermediate results take at most `budget` bytes at any time. A node's result is counted
    /// when it is there, so that the budget can be passed by one of them.
    ///
    /// # Errors
    /// Malformed, naming the node at which the budget was passed; else what a node raises.
    pub fn run_within(&self, stored: &[Tensor], input: &Tensor, mode: Mode, target: Target, budget: usize) -> Result<Tensor> {
        let mut slots: Vec<Option<Tensor>> = Vec::with_capacity(self.slots);
        slots.resize_with(self.slots, || None);
        slots[0] = Some(input.shallow_clone());
        let count = if target == Target::Logits { self.logits_steps } else { self.steps.len() };
        for step in &self.steps[..count] {
            let outputs = step.run(stored, &slots, mode)?;
            step.store(outputs, &mut slots);
            for &slot in &step.last_uses {
                slots[slot] = None;
            }
            if budget < usize::MAX && slots.iter().flatten().map(bytes).sum::<usize>() > budget {
                let reason = format!("intermediate results take more than {budget} bytes, far more than the images do");
                return Err(Error::malformed(reason).at(&step.label));
            }
        }
        let wanted = if target == Target::Logits { self.logits } else { self.output };
        let result = match wanted {
            Source::Stored(index) => stored.get(index),
            Source::Slot(slot) => slots.get(slot).and_then(Option::as_ref),
        };
        result.map(Tensor::shallow_clone).ok_or_else(|| Error::unexpected("the plan did not compute its result"))
    }
}

fn bytes(tensor: &Tensor) -> usize {
    tensor.numel().saturating_mul(tensor.kind().elt_size_in_bytes())
}

impl Step {
    /// Runs this step alone.
    pub fn run(&self, stored: &[Tensor], slots: &[Option<Tensor>], mode: Mode) -> Result<Vec<Tensor>> {
        let inputs: Vec<Option<&Tensor>> = self
            .inputs
            .iter()
            .map(|source| match source {
                None => None,
                Some(Source::Stored(index)) => stored.get(*index),
                Some(Source::Slot(slot)) => slots.get(*slot).and_then(Option::as_ref),
            })
            .collect();
        let outputs = run_kernel(&self.kernel, &Call { inputs: &inputs, mode }).at(|| &self.label)?;
        let needed = self.outputs.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        if outputs.len() < needed {
            return Err(
                Error::unsupported(format!("output {} of {} is not supported", needed - 1, self.operator)).at(&self.label)
            );
        }
        Ok(outputs)
    }

    /// Puts this step's results where later steps look for them.
    pub fn store(&self, outputs: Vec<Tensor>, slots: &mut [Option<Tensor>]) {
        for (tensor, slot) in outputs.into_iter().zip(&self.outputs) {
            if let Some(slot) = *slot {
                slots[slot] = Some(tensor);
            }
        }
    }
}

/// Moves what the logits do not need behind what they need, and counts the latter.
fn logits_first(nodes: Vec<IrNode>, logits: ValueId) -> (Vec<IrNode>, usize) {
    let mut needed: std::collections::HashSet<ValueId> = std::collections::HashSet::from([logits]);
    let mut flags = vec![false; nodes.len()];
    for (index, node) in nodes.iter().enumerate().rev() {
        if node.outputs.iter().flatten().any(|o| needed.contains(o)) {
            flags[index] = true;
            needed.extend(node.inputs.iter().flatten());
        }
    }
    let (mut first, mut rest) = (Vec::new(), Vec::new());
    for (node, flag) in nodes.into_iter().zip(flags) {
        if flag { first.push(node) } else { rest.push(node) }
    }
    let count = first.len();
    first.extend(rest);
    (first, count)
}
