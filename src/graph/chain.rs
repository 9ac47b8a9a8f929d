//! Chains of steps that are computed as one: batch normalisation, the sum that closes a residual block, ReLU. What they read and write
//! once is otherwise read and written three times.

use std::collections::HashMap;

use crate::error::{Place, Result};
use crate::graph::ir::{IrNode, ValueId};
use crate::graph::ops::{Link, Mode};
use crate::graph::plan::{Plan, Source, Step};
use crate::tensor::Tensor;
use crate::tensor::native::{self, Normalisation};

/// Steps in a row, each of which reads what the one before it gives and nobody else reads.
#[derive(Debug)]
pub(crate) struct Chain {
    pub norm: Normalisation,
    /// The other operand of the sum, if there is one.
    pub other: Option<Source>,
    pub relu: bool,
    /// Whether the normalisation's input has memory of its own that nobody reads behind it.
    pub overwrites: bool,
    /// The same of the other operand, behind the sum.
    pub overwrites_other: bool,
}

impl Chain {
    /// How many steps it stands for.
    pub fn len(&self) -> usize {
        1 + usize::from(self.other.is_some()) + usize::from(self.relu)
    }

    /// The other operand of the sum, which is none where there is no sum; `None` where it should be there and is not.
    pub fn operand<'a>(&self, stored: &'a [Tensor], slots: &'a [Option<Tensor>]) -> Option<Option<&'a Tensor>> {
        match self.other {
            None => Some(None),
            Some(source) => source.find(stored, slots).map(Some),
        }
    }

    /// The output of the last of its steps; `None` where the tensors are none that a chain can be computed on.
    pub fn run(&self, steps: &[Step], stored: &[Tensor], slots: &[Option<Tensor>], mode: Mode) -> Result<Option<Tensor>> {
        let Some(first) = steps.first() else { return Ok(None) };
        let [Some(input), Some(scale), Some(bias), Some(mean), Some(variance)] = first.find_inputs(stored, slots)[..] else {
            return Ok(None);
        };
        let Some(other) = self.operand(stored, slots) else { return Ok(None) };
        let tensors = [scale, bias, mean, variance];
        native::norm_act(input, other, tensors, mode == Mode::Train, self.norm, self.relu, self.overwrites).at(|| &first.label)
    }
}

/// Moves nodes that can be computed as one next to each other; everybody stays behind what it reads.
pub(crate) fn side_by_side(nodes: Vec<IrNode>) -> Vec<IrNode> {
    let mut makers: HashMap<ValueId, usize> = HashMap::new();
    let mut readers: HashMap<ValueId, Vec<usize>> = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        makers.extend(node.outputs.iter().flatten().map(|&id| (id, index)));
        node.inputs.iter().flatten().for_each(|&id| readers.entry(id).or_default().push(index));
    }
    let mut nodes: Vec<Option<IrNode>> = nodes.into_iter().map(Some).collect();
    let mut ordered = Vec::with_capacity(nodes.len());
    for start in 0..nodes.len() {
        let mut next = Some(start);
        while let Some(node) = next.take().and_then(|index| nodes.get_mut(index)).and_then(Option::take) {
            let result = node.outputs.first().copied().flatten();
            ordered.push(node);
            // What reads this result, goes on with a chain, and waits for nothing else.
            let waits = |index: usize| nodes.get(index).and_then(Option::as_ref);
            next = result.and_then(|id| readers.get(&id)).into_iter().flatten().copied().find(|&index| {
                waits(index).is_some_and(|reader| {
                    let is_link = matches!(reader.link, Some(Link::Norm(_) | Link::Add | Link::Relu));
                    let mut read = reader.inputs.iter().flatten().filter_map(|id| makers.get(id));
                    is_link && read.all(|&maker| waits(maker).is_none())
                })
            });
        }
    }
    ordered
}

/// Who makes and who reads the values of a plan, by slot.
struct Uses<'a> {
    makers: Vec<Option<&'a Step>>,
    readers: Vec<Vec<&'a Step>>,
    /// How often a value is read, by steps and as a result.
    reads: Vec<usize>,
}

impl<'a> Uses<'a> {
    fn of(plan: &'a Plan) -> Uses<'a> {
        let (mut makers, mut readers) = (vec![None; plan.slots], vec![Vec::new(); plan.slots]);
        let mut reads = vec![0; plan.slots];
        for step in &plan.steps {
            if let Some(slot) = step.outputs.first().copied().flatten() {
                makers[slot] = Some(step);
            }
            for source in step.inputs.iter().flatten() {
                if let Source::Slot(slot) = source {
                    readers[*slot].push(step);
                    reads[*slot] += 1;
                }
            }
        }
        for source in &plan.results {
            if let Source::Slot(slot) = source {
                reads[*slot] += 1;
            }
        }
        Uses { makers, readers, reads }
    }

    /// What a step gives, where only one other reads it.
    fn given(&self, step: &Step) -> Option<Source> {
        step.outputs.first().copied().flatten().filter(|&slot| self.reads[slot] == 1).map(Source::Slot)
    }

    /// Whether a value has memory of its own, which is free behind `step`, the last to read it: nobody made or read it who may give the
    /// same memory another name.
    fn ends_in(&self, step: &Step, value: Option<Source>) -> bool {
        let Some(Source::Slot(slot)) = value else { return false };
        let alone = self.readers[slot].iter().all(|reader| std::ptr::eq(*reader, step) || gives_new(reader));
        step.last_uses().contains(&slot) && self.makers[slot].is_some_and(gives_new) && alone
    }
}

/// Whether this step's first output has memory of its own, and is not another's under a second name.
fn gives_new(step: &Step) -> bool {
    matches!(step.link, Some(Link::Conv(_) | Link::Norm(_) | Link::Add | Link::Relu))
}

/// The chains of a plan, by the first of their steps.
pub(crate) fn find(plan: &Plan) -> HashMap<usize, Chain> {
    let uses = Uses::of(plan);
    let mut chains = HashMap::new();
    for (index, step) in plan.steps.iter().enumerate() {
        let Some(Link::Norm(norm)) = step.link else { continue };
        let overwrites = uses.ends_in(step, step.inputs.first().copied().flatten());
        let mut chain = Chain { norm, other: None, relu: false, overwrites, overwrites_other: false };
        let mut last = step;
        if let Some(next) = plan.steps.get(index + 1)
            && matches!(next.link, Some(Link::Add))
            && let [Some(a), Some(b)] = next.inputs[..]
            && let Some(value) = uses.given(last)
        {
            // The same value twice is read twice, and no chain.
            if let Some(other) = [(a, b), (b, a)].into_iter().find_map(|(one, other)| (one == value).then_some(other)) {
                chain.other = Some(other);
                chain.overwrites_other = uses.ends_in(next, Some(other));
                last = next;
            }
        }
        if let Some(next) = plan.steps.get(index + chain.len())
            && matches!(next.link, Some(Link::Relu))
            && let Some(value) = uses.given(last)
        {
            chain.relu = next.inputs.first().copied().flatten() == Some(value);
        }
        chains.insert(index, chain);
    }
    chains
}
