//! The flat plan: resolved slots, compiled kernels, intermediates freed when last used. Compiled once, run many times.

mod sketch;

use std::collections::{HashMap, HashSet};

use crate::error::{Error, Place, Result};
use crate::graph::chain::{self, Chain};
use crate::graph::fold::Folds;
use crate::graph::ir::{Ir, IrNode, ValueId, run_kernel};
use crate::graph::ops::{ByExample, Call, ExampleRule, InBf16, Kernel, Link, Mode, one};
use crate::graph::precision::Precision;
use crate::tensor::{Kind, Tensor, guarded};

/// Where a step finds one of its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Index into the model's stored tensors (parameters, buffers, constants).
    Stored(usize),
    /// Index into a run's intermediates; the graph's inputs come first.
    Slot(usize),
}

impl Source {
    /// The tensor there, if it was computed and is still needed.
    pub fn find<'a>(self, stored: &'a [Tensor], slots: &'a [Option<Tensor>]) -> Option<&'a Tensor> {
        match self {
            Source::Stored(index) => stored.get(index),
            Source::Slot(slot) => slots.get(slot).and_then(Option::as_ref),
        }
    }
}

/// One node, ready to run.
pub(crate) struct Step {
    pub kernel: Kernel,
    /// A stand-in for the kernel, where one may be used; see [`Op::sketched`](crate::graph::ops::Op::sketched).
    sketch: Option<Kernel>,
    /// How constant operands get a gradient from every example.
    by_example: ByExample,
    rule: Option<ExampleRule>,
    in_bf16: InBf16,
    pub link: Option<Link>,
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
    /// How many of the slots, the first ones, are the graph's inputs.
    inputs: usize,
    /// What can be asked for, in the order in which it was named to [`compile`](Plan::compile).
    pub results: Vec<Source>,
    /// How many steps the first result needs; they come first.
    first_steps: usize,
    /// Steps that may be computed as one, by the first of them.
    pub chains: HashMap<usize, Chain>,
}

/// The place of a classifier's logits among its plan's results.
pub(crate) const LOGITS: usize = 0;

/// The place of the file's first output, which is the logits or made of them, among the results of a classifier's plan.
pub(crate) const OUTPUT: usize = 1;

/// What a sketch of a classifier's plan gave.
pub(crate) struct Trace {
    /// Shapes by slot.
    pub shapes: Vec<Vec<i64>>,
    pub logits: Tensor,
    pub output: Tensor,
}

impl Plan {
    /// Resolves the graph into slots. `stored` gives the index of every constant that a node reads; `results` are the values that
    /// runs will be asked for, of which at least one has to be named.
    pub fn compile(ir: Ir, stored: &HashMap<ValueId, usize>, results: &[ValueId]) -> Result<Plan> {
        let nodes = match results.first() {
            Some(&first) => needed_first(ir.nodes, first),
            None => return Err(Error::malformed("the graph has no outputs")),
        };
        let mut slots: HashMap<ValueId, usize> = ir.inputs.iter().copied().zip(0..).collect();
        let inputs = slots.len();
        let find = |slots: &HashMap<ValueId, usize>, id: ValueId| -> Result<Source> {
            if let Some(&index) = stored.get(&id) {
                return Ok(Source::Stored(index));
            }
            let slot = slots.get(&id).copied().map(Source::Slot);
            slot.ok_or_else(|| Error::malformed(format!("'{}' is used before it is produced", ir.values[id].name)))
        };
        let (nodes, first_steps) = nodes;
        // Computed from constants alone.
        let mut fixed: HashSet<ValueId> = stored.keys().copied().collect();
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
            let is_fixed = |id: &ValueId| fixed.contains(id);
            let by_constant = node.inputs.get(1).copied().flatten().is_none_or(|id| is_fixed(&id));
            let all_fixed = node.inputs.iter().flatten().all(is_fixed);
            if all_fixed {
                fixed.extend(node.outputs.iter().flatten());
            }
            let IrNode { place, label, op, kernel, sketch, rule, link, .. } = node;
            let sketch = sketch.filter(|_| by_constant && !all_fixed);
            let (operator, by_example, in_bf16, last_uses) = (op.name, op.by_example, op.in_bf16, Vec::new());
            steps.push(Step {
                kernel,
                sketch,
                by_example,
                rule,
                in_bf16,
                link,
                label,
                operator,
                place,
                inputs,
                outputs,
                last_uses,
            });
        }
        // The last product decides what the scores look like, and whether they are probabilities.
        if let Some(last) = steps[..first_steps].iter_mut().rev().find(|step: &&mut Step| step.sketch.is_some()) {
            last.sketch = None;
        }
        let results = results.iter().map(|&id| find(&slots, id)).collect::<Result<_>>()?;
        let mut plan = Plan { steps, slots: slots.len(), inputs, results, first_steps, chains: HashMap::new() };
        plan.find_last_uses();
        plan.chains = chain::find(&plan);
        Ok(plan)
    }

    /// Makes the logarithm of a classifier's [`OUTPUT`] its [`LOGITS`].
    pub fn take_logarithm(&mut self) -> Result<()> {
        // The smallest probability that still has a logarithm and a gradient in half precision as well.
        let kernel = one(|call| Ok(call.input(0)?.f_clamp_min(1e-7)?.f_log()?))?;
        let source = self.results.get(OUTPUT).copied();
        self.steps.push(Step {
            kernel,
            sketch: None,
            by_example: ByExample::Alone,
            rule: None,
            in_bf16: InBf16::Widens,
            link: None,
            label: "the logarithm of the scores".to_string(),
            operator: "(logarithm)",
            place: usize::MAX,
            inputs: vec![source],
            outputs: vec![Some(self.slots)],
            last_uses: Vec::new(),
        });
        self.results[LOGITS] = Source::Slot(self.slots);
        self.slots += 1;
        self.first_steps = self.steps.len();
        self.find_last_uses();
        Ok(())
    }

    fn find_last_uses(&mut self) {
        self.steps.iter_mut().for_each(|step| step.last_uses.clear());
        let mut seen = vec![false; self.slots];
        for kept in &self.results {
            if let Source::Slot(slot) = kept {
                seen[*slot] = true;
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

    /// Runs a plan of one input on one batch, as far as `result` needs. `stored` are the model's tensors in their order.
    pub fn run(&self, stored: &[Tensor], input: &Tensor, mode: Mode, result: usize) -> Result<Tensor> {
        self.run_one(stored, input, result, &Pass::plain(mode))
    }

    /// As [`run`](Self::run), computed in this precision, by [chains](Chain), and in evaluation by [`Folds`] of the same tensors. Results
    /// are never in bfloat16 unless the file says so.
    pub fn run_in(&self, by: By<'_>, stored: &[Tensor], input: &Tensor, mode: Mode, result: usize) -> Result<Tensor> {
        let By { precision, folds } = by;
        let images = input.size().first().copied();
        let found =
            self.run_one(stored, input, result, &Pass { precision, images, chained: true, folds, ..Pass::plain(mode) })?;
        let rounded = precision == Precision::Bf16 && input.f_kind()? == Kind::Float && found.f_kind()? == Kind::BFloat16;
        if rounded { Ok(found.f_to_kind(Kind::Float)?) } else { Ok(found) }
    }

    fn run_one(&self, stored: &[Tensor], input: &Tensor, result: usize, pass: &Pass) -> Result<Tensor> {
        let slots = self.run_steps(stored, std::slice::from_ref(input), self.steps_for(result), pass, &mut |_, _| Ok(()))?;
        self.result(stored, &slots, result)
    }

    /// The steps that the first result needs.
    pub fn first_steps(&self) -> &[Step] {
        &self.steps[..self.first_steps]
    }

    /// Runs what the first result needs in evaluation and keeps all values, by slot.
    pub fn run_kept(&self, stored: &[Tensor], input: &Tensor) -> Result<(Tensor, Vec<Option<Tensor>>)> {
        let mut slots = vec![Some(input.shallow_clone())];
        slots.resize_with(self.slots, || None);
        for step in self.first_steps() {
            let outputs = step.run(stored, &slots, Mode::Eval)?;
            step.store(outputs, &mut slots);
        }
        Ok((self.result(stored, &slots, 0)?, slots))
    }

    fn steps_for(&self, result: usize) -> usize {
        if result == 0 { self.first_steps } else { self.steps.len() }
    }

    /// As [`run`](Self::run), and shows every step with its outputs, which may be exchanged before the next step reads them.
    pub fn run_watched(&self, stored: &[Tensor], input: &Tensor, mode: Mode, result: usize, see: &mut See<'_>) -> Result<Tensor> {
        let pass = Pass::plain(mode);
        let slots = self.run_steps(stored, std::slice::from_ref(input), self.steps_for(result), &pass, see)?;
        self.result(stored, &slots, result)
    }

    /// Runs the whole plan and gives all results.
    pub fn run_all(&self, stored: &[Tensor], inputs: &[Tensor], mode: Mode) -> Result<Vec<Tensor>> {
        let pass = Pass::plain(mode);
        let slots = self.run_steps(stored, inputs, self.steps.len(), &pass, &mut |_, _| Ok(()))?;
        (0..self.results.len()).map(|result| self.result(stored, &slots, result)).collect()
    }

    fn run_steps(
        &self,
        stored: &[Tensor],
        inputs: &[Tensor],
        count: usize,
        pass: &Pass,
        see: &mut See<'_>,
    ) -> Result<Vec<Option<Tensor>>> {
        if inputs.len() != self.inputs {
            return Err(Error::unexpected(format!("{} tensors for a graph of {} inputs", inputs.len(), self.inputs)));
        }
        let mut slots: Vec<Option<Tensor>> = inputs.iter().map(|input| Some(input.shallow_clone())).collect();
        slots.resize_with(self.slots, || None);
        let mut next = 0;
        while let Some(step) = self.steps[..count].get(next) {
            if let Some(folds) = pass.folds
                && let Some(length) = folds.length(self, next)
                && let Some(steps) = self.steps[..count].get(next..next + length)
                && let Some(output) = folds.run(self, next, stored, &slots)?
            {
                self.settle(steps, output, &mut slots);
                next += length;
                continue;
            }
            if pass.chained
                && let Some(chain) = self.chains.get(&next)
                && let Some(steps) = self.steps[..count].get(next..next + chain.len())
                && let Some(output) = chain.run(steps, stored, &slots, pass.mode)?
            {
                self.settle(steps, output, &mut slots);
                next += chain.len();
                continue;
            }
            next += 1;
            let mut outputs = match pass {
                Pass { only_shapes: true, .. } => step.outline(stored, &slots)?,
                Pass { sketch: true, .. } => step.sketch(stored, &slots)?,
                _ => step.run_in(stored, &slots, pass)?,
            };
            see(step, &mut outputs)?;
            step.store(outputs, &mut slots);
            step.release(&mut slots);
            if pass.budget < usize::MAX && slots.iter().flatten().map(bytes).sum::<usize>() > pass.budget {
                let budget = pass.budget;
                let reason = format!("intermediate results take more than {budget} bytes, far more than the images do");
                return Err(Error::malformed(reason).at(&step.label));
            }
        }
        Ok(slots)
    }

    /// Keeps what several steps gave together, and lets go of what they read.
    fn settle(&self, steps: &[Step], output: Tensor, slots: &mut [Option<Tensor>]) {
        if let Some(last) = steps.last() {
            last.store(vec![output], slots);
        }
        steps.iter().for_each(|step| step.release(slots));
    }

    fn result(&self, stored: &[Tensor], slots: &[Option<Tensor>], result: usize) -> Result<Tensor> {
        let found = self.results.get(result).and_then(|source| source.find(stored, slots));
        found.map(Tensor::shallow_clone).ok_or_else(|| Error::unexpected("the plan did not compute its result"))
    }
}

fn bytes(tensor: &Tensor) -> usize {
    tensor.numel().saturating_mul(tensor.kind().elt_size_in_bytes())
}

/// What is shown the outputs of every step.
type See<'a> = dyn FnMut(&Step, &mut [Tensor]) -> Result<()> + 'a;

/// How a pass is computed.
#[derive(Clone, Copy)]
pub(crate) struct By<'a> {
    pub precision: Precision,
    pub folds: Option<&'a Folds>,
}

/// How a plan is run.
struct Pass<'a> {
    mode: Mode,
    sketch: bool,
    /// Whether no number of a sketch matters.
    only_shapes: bool,
    budget: usize,
    precision: Precision,
    /// How many images there are; of no meaning in float32.
    images: Option<i64>,
    /// Whether chains may be computed as one.
    chained: bool,
    /// What evaluation may do in place of convolutions and chains.
    folds: Option<&'a Folds>,
}

impl Pass<'_> {
    /// All of it, as the file says.
    fn plain(mode: Mode) -> Self {
        let (sketch, only_shapes, chained) = (false, false, false);
        Pass { mode, sketch, only_shapes, budget: usize::MAX, precision: Precision::Fp32, images: None, chained, folds: None }
    }
}

impl Step {
    /// Runs this step alone.
    pub fn run(&self, stored: &[Tensor], slots: &[Option<Tensor>], mode: Mode) -> Result<Vec<Tensor>> {
        self.run_in(stored, slots, &Pass::plain(mode))
    }

    fn run_in(&self, stored: &[Tensor], slots: &[Option<Tensor>], pass: &Pass) -> Result<Vec<Tensor>> {
        let inputs = self.find_inputs(stored, slots);
        if pass.precision == Precision::Fp32 {
            return self.run_kernel(&self.kernel, &inputs, pass.mode);
        }
        let first = inputs.first().copied().flatten().map(Tensor::size).unwrap_or_default();
        let in_bf16 = self.in_bf16.for_rows(&first, pass.images);
        let prepare = |input: &Option<&Tensor>| match input {
            Some(tensor) => in_bf16.prepared(tensor),
            None => Ok(None),
        };
        let prepared = inputs.iter().map(prepare).collect::<Result<Vec<_>>>().at(|| &self.label)?;
        let inputs: Vec<_> = inputs.iter().zip(&prepared).map(|(input, prepared)| prepared.as_ref().or(*input)).collect();
        self.run_kernel(&self.kernel, &inputs, pass.mode)
    }

    /// Runs this step alone, or what may stand in for it.
    pub fn sketch(&self, stored: &[Tensor], slots: &[Option<Tensor>]) -> Result<Vec<Tensor>> {
        self.run_kernel(self.sketch.as_ref().unwrap_or(&self.kernel), &self.find_inputs(stored, slots), Mode::Eval)
    }

    fn run_kernel(&self, kernel: &Kernel, inputs: &[Option<&Tensor>], mode: Mode) -> Result<Vec<Tensor>> {
        let outputs = run_kernel(kernel, &Call { inputs, mode }).at(|| &self.label)?;
        let needed = self.outputs.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        if outputs.len() < needed {
            return Err(
                Error::unsupported(format!("output {} of {} is not supported", needed - 1, self.operator)).at(&self.label)
            );
        }
        Ok(outputs)
    }

    /// Whether a constant operand may get a gradient from every example without looking at them one by one.
    pub fn has_rule(&self) -> bool {
        !matches!(self.by_example, ByExample::Alone)
    }

    /// From the gradient of the first output, `[n, ...]`, to that of the constant operand at `position` for every example,
    /// `[n, shape...]`; `None` where the operator has no rule for these shapes. `slots` still hold this step's inputs.
    pub fn by_example(
        &self,
        stored: &[Tensor],
        slots: &[Option<Tensor>],
        gradient: &Tensor,
        position: usize,
    ) -> Result<Option<Tensor>> {
        let inputs = self.find_inputs(stored, slots).into_iter().map(|input| input.map(Tensor::f_detach).transpose());
        let inputs = inputs.collect::<std::result::Result<Vec<_>, _>>()?;
        let inputs: Vec<Option<&Tensor>> = inputs.iter().map(Option::as_ref).collect();
        match &self.rule {
            Some(rule) => guarded(|| rule(&Call { inputs: &inputs, mode: Mode::Eval }, gradient, position)).at(|| &self.label),
            None => self.by_copies(&inputs, gradient, position).at(|| &self.label),
        }
    }

    /// See [`ByExample::Copies`].
    fn by_copies(&self, inputs: &[Option<&Tensor>], gradient: &Tensor, position: usize) -> Result<Option<Tensor>> {
        let Some(operand) = inputs.get(position).copied().flatten() else { return Ok(None) };
        let (shape, wanted) = (operand.size(), gradient.size());
        let Some(missing) = wanted.len().checked_sub(shape.len()) else { return Ok(None) };
        let mut copies: Vec<i64> = std::iter::repeat_n(1, missing).chain(shape.iter().copied()).collect();
        match (copies.first_mut(), wanted.first()) {
            (Some(first), Some(&n)) if *first == 1 => *first = n,
            _ => return Ok(None),
        }
        let mut one = copies.clone();
        one[0] = 1;
        let copies = operand.f_reshape(one)?.f_expand(copies, false)?.f_contiguous()?.f_set_requires_grad(true)?;
        let mut inputs = inputs.to_vec();
        inputs[position] = Some(&copies);
        let output = run_kernel(&self.kernel, &Call { inputs: &inputs, mode: Mode::Eval })?.into_iter().next();
        let Some(output) = output.filter(|output| output.size() == wanted) else { return Ok(None) };
        let total = output.f_mul(gradient)?.f_sum(gradient.f_kind()?)?;
        let found = Tensor::f_run_backward(&[total], &[&copies], false, false)?.into_iter().next();
        let shape: Vec<i64> = wanted[..1].iter().copied().chain(shape).collect();
        Ok(found.filter(Tensor::defined).map(|found| found.f_reshape(shape)).transpose()?)
    }

    pub fn find_inputs<'a>(&self, stored: &'a [Tensor], slots: &'a [Option<Tensor>]) -> Vec<Option<&'a Tensor>> {
        self.inputs.iter().map(|source| source.and_then(|source| source.find(stored, slots))).collect()
    }

    /// Slots that nobody reads after this step.
    pub fn last_uses(&self) -> &[usize] {
        &self.last_uses
    }

    /// Lets go of what nobody reads after this step.
    pub fn release(&self, slots: &mut [Option<Tensor>]) {
        self.last_uses.iter().for_each(|&slot| slots[slot] = None);
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

/// Moves what a result does not need behind what it needs, and counts the latter.
fn needed_first(nodes: Vec<IrNode>, result: ValueId) -> (Vec<IrNode>, usize) {
    let mut needed: std::collections::HashSet<ValueId> = std::collections::HashSet::from([result]);
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
    let mut ordered = chain::side_by_side(first);
    ordered.extend(chain::side_by_side(rest));
    (ordered, count)
}
