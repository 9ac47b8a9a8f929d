//! Gradients of every example of a batch by itself, in evaluation: what a diagonal Fisher information is made of.
//!
//! Most operators have a rule that gives them for a whole batch at once, out of the operator's inputs and the gradient of its
//! output. Parameters whose operators have none, or with which a rule turns out not to agree with passes of single examples,
//! get theirs from such passes.

use crate::error::{Error, Result};
use crate::graph::plan::{Plan, Source};
use crate::graph::{Mode, Model, Param};
use crate::tensor::{Kind, Tensor, no_grad};

/// From logits `[m, K]` of the examples from a position on to any number of functions, each with a value for every one of these
/// examples, `[m]`, that depends on its logits alone.
pub type Functions<'a> = dyn Fn(&Tensor, i64) -> Result<Vec<Tensor>> + 'a;

/// Gradients of one function with respect to one parameter.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// Which of the functions.
    pub function: usize,
    /// Which of the network's parameters.
    pub param: usize,
    /// The first of the examples that these belong to.
    pub first: i64,
    /// One gradient for each example, `[m, shape of the parameter...]`.
    pub gradients: &'a Tensor,
}

/// Is shown gradients as they are found, in no particular order.
pub type Consumer<'a> = dyn FnMut(Found<'_>) -> Result<()> + 'a;

/// A network whose gradients can be had for every example by itself.
pub trait ExampleGradients {
    /// Gradients of functions of the logits, for all of `images` `[n, C, H, W]`. What does not depend on a parameter is left out.
    ///
    /// # Errors
    /// As the network's forward pass.
    fn of(&self, images: &Tensor, functions: &Functions, consumer: &mut Consumer) -> Result<()>;

    /// Positions of the parameters whose gradients take a pass for every example.
    fn one_by_one(&self) -> &[usize];
}

/// A network's forward pass in evaluation, from images to logits.
pub type Forward<'a> = dyn Fn(&Tensor) -> Result<Tensor> + 'a;

/// A pass for every example. Right for every network.
pub struct OneByOne<'a> {
    forward: Box<Forward<'a>>,
    params: Vec<Tensor>,
    which: Vec<usize>,
}

impl<'a> OneByOne<'a> {
    /// For all parameters of a network with this forward pass in [`Mode::Eval`].
    pub fn new(forward: Box<Forward<'a>>, params: &[Param]) -> OneByOne<'a> {
        OneByOne {
            forward,
            params: params.iter().map(|param| param.tensor.shallow_clone()).collect(),
            which: (0..params.len()).collect(),
        }
    }
}

impl ExampleGradients for OneByOne<'_> {
    fn of(&self, images: &Tensor, functions: &Functions, consumer: &mut Consumer) -> Result<()> {
        let params: Vec<&Tensor> = self.which.iter().filter_map(|&index| self.params.get(index)).collect();
        if params.is_empty() {
            return Ok(());
        }
        for first in 0..images.size().first().copied().unwrap_or(0) {
            let values = functions(&(self.forward)(&images.f_narrow(0, first, 1)?)?, first)?;
            for (function, value) in values.iter().enumerate() {
                let total = value.f_sum(value.f_kind()?)?;
                let gradients = Tensor::f_run_backward(&[total], &params, function + 1 < values.len(), false)?;
                for (&param, gradient) in self.which.iter().zip(gradients).filter(|(_, gradient)| gradient.defined()) {
                    consumer(Found { function, param, first, gradients: &gradient.f_unsqueeze(0)? })?;
                }
            }
        }
        Ok(())
    }

    fn one_by_one(&self) -> &[usize] {
        &self.which
    }
}

/// Where a parameter enters the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Use {
    /// Position among the plan's steps.
    step: usize,
    /// Position among the step's inputs.
    position: usize,
}

/// By the operators' rules as far as they go.
struct ByRules<'a> {
    model: &'a Model,
    /// By parameter; empty for those that are left to `alone`.
    uses: Vec<Vec<Use>>,
    alone: OneByOne<'a>,
}

/// The greatest difference between a rule and a pass of a single example, in shares of the largest gradient: rounding, with
/// much to spare. A rule that takes the wrong axis for the examples is wrong by more.
const TOLERANCE: f64 = 1e-3;

impl Model {
    /// Gradients of every example by itself. On the `trial` images, two or more `[n, C, H, W]`, the operators' rules are first
    /// compared with passes of single examples; parameters with which they do not agree are left to such passes.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn example_gradients(&self, trial: &Tensor) -> Result<Box<dyn ExampleGradients + '_>> {
        let alone = OneByOne::new(Box::new(|images| self.forward(images, Mode::Eval)), self.params());
        if self.shared.fixed_batch.is_some() || self.has_parametrization() {
            return Ok(Box::new(alone));
        }
        let stored_params = &self.shared.params;
        let mut uses = vec![Vec::new(); stored_params.len()];
        let mut lost = vec![false; stored_params.len()];
        for Operand { step, position, stored, ruled } in constant_operands(&self.shared.plan) {
            let Some(param) = stored_params.iter().position(|&index| index == stored) else { continue };
            uses[param].push(Use { step, position });
            lost[param] |= !ruled;
        }
        let mut by_rules = ByRules { model: self, uses, alone };
        by_rules.leave(&lost);
        let lost = by_rules.disagreeing(&trial.f_narrow(0, 0, trial.size().first().copied().unwrap_or(0).min(2))?)?;
        by_rules.leave(&lost);
        let uses = &by_rules.uses;
        by_rules.alone.which.retain(|&param| uses[param].is_empty());
        Ok(Box::new(by_rules))
    }
}

/// A constant that one of the steps reads which the logits need.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operand {
    pub step: usize,
    /// Position among the step's inputs.
    pub position: usize,
    /// Index among the stored tensors.
    pub stored: usize,
    /// Whether the step's rule may know its gradient: where the step reads something that depends on the images as well.
    ruled: bool,
}

/// All of them, in the order of the steps.
pub(crate) fn constant_operands(plan: &Plan) -> Vec<Operand> {
    let mut depends = vec![false; plan.slots];
    if let Some(input) = depends.first_mut() {
        *input = true;
    }
    let mut found = Vec::new();
    for (index, step) in plan.first_steps().iter().enumerate() {
        let live = step.inputs.iter().flatten().any(|source| matches!(source, Source::Slot(slot) if depends[*slot]));
        step.outputs.iter().flatten().for_each(|&slot| depends[slot] = live);
        for (position, source) in step.inputs.iter().enumerate() {
            if let Some(Source::Stored(stored)) = source {
                found.push(Operand { step: index, position, stored: *stored, ruled: live && step.has_rule() });
            }
        }
    }
    found
}

impl ByRules<'_> {
    /// Leaves these parameters to single passes.
    fn leave(&mut self, lost: &[bool]) {
        self.uses.iter_mut().zip(lost).filter(|(_, lost)| **lost).for_each(|(uses, _)| uses.clear());
    }

    /// The parameters whose gradients by the rules are not those of single passes.
    fn disagreeing(&self, images: &Tensor) -> Result<Vec<bool>> {
        let functions = |logits: &Tensor, _| -> Result<Vec<Tensor>> {
            let classes = logits.size().get(1).copied().unwrap_or(1);
            // Different weights for different classes, so that no gradient is zero by symmetry.
            let weights = Tensor::f_arange(classes, (Kind::Float, logits.device()))?.f_add_scalar(1.0)?.f_cos()?;
            Ok(vec![logits.f_mul(&weights.f_to_kind(logits.f_kind()?)?)?.f_sum_dim_intlist(1_i64, false, None::<Kind>)?])
        };
        let mut ruled: Vec<Option<Tensor>> = Vec::new();
        ruled.resize_with(self.uses.len(), || None);
        let fits = self.by_rules(images, &functions, &mut |found| {
            ruled[found.param] = Some(found.gradients.shallow_clone());
            Ok(())
        })?;
        let mut lost: Vec<bool> = fits.iter().map(|fits| !fits).collect();
        self.alone.of(images, &functions, &mut |found| {
            let _guard = no_grad();
            if let Some(all) = &ruled[found.param] {
                let own = all.f_narrow(0, found.first, 1)?;
                let largest = |x: &Tensor| -> Result<f64> { Ok(x.f_abs()?.f_max()?.f_double_value(&[])?) };
                let agrees = own.size() == found.gradients.size()
                    && largest(&own.f_sub(found.gradients)?)? <= TOLERANCE * largest(found.gradients)?.max(f64::MIN_POSITIVE);
                lost[found.param] |= !agrees;
            }
            Ok(())
        })?;
        Ok(lost)
    }

    /// As [`ExampleGradients::of`] for the parameters with rules; gives for every parameter whether its rules fitted.
    fn by_rules(&self, images: &Tensor, functions: &Functions, consumer: &mut Consumer) -> Result<Vec<bool>> {
        let mut fits = vec![true; self.uses.len()];
        let mut steps: Vec<usize> = self.uses.iter().flatten().map(|one| one.step).collect();
        steps.sort_unstable();
        steps.dedup();
        if steps.is_empty() {
            return Ok(fits);
        }
        let (model, plan) = (self.model, &self.model.shared.plan);
        let (logits, slots) = plan.run_kept(&model.stored, &images.f_to_kind(model.shared.input_kind)?)?;
        let values = functions(&crate::graph::model::flatten_logits(logits)?, 0)?;
        let output = |step: usize| -> Result<&Tensor> {
            let slot = plan.first_steps()[step].outputs.first().copied().flatten();
            slot.and_then(|slot| slots[slot].as_ref()).ok_or_else(|| Error::unexpected("a step has no output"))
        };
        let outputs = steps.iter().map(|&step| output(step)).collect::<Result<Vec<_>>>()?;
        for (function, value) in values.iter().enumerate() {
            let total = value.f_sum(value.f_kind()?)?;
            let gradients = Tensor::f_run_backward(&[total], &outputs, function + 1 < values.len(), false)?;
            for (param, uses) in self.uses.iter().enumerate() {
                let mut all: Option<Tensor> = None;
                for one in uses {
                    let gradient = steps.binary_search(&one.step).ok().and_then(|found| gradients.get(found));
                    let Some(gradient) = gradient.filter(|gradient| gradient.defined()) else { continue };
                    let step = &plan.first_steps()[one.step];
                    match step.by_example(&model.stored, &slots, gradient, one.position)? {
                        // A parameter that enters in several places has the sum of what it gets there.
                        Some(own) => all = Some(if let Some(sum) = all { sum.f_add(&own)? } else { own }),
                        None => fits[param] = false,
                    }
                }
                if let (Some(gradients), true) = (&all, fits[param]) {
                    consumer(Found { function, param, first: 0, gradients })?;
                }
            }
        }
        Ok(fits)
    }
}

impl ExampleGradients for ByRules<'_> {
    fn of(&self, images: &Tensor, functions: &Functions, consumer: &mut Consumer) -> Result<()> {
        if self.by_rules(images, functions, consumer)?.contains(&false) {
            return Err(Error::unexpected("a rule for the gradients of single examples fits some images only"));
        }
        self.alone.of(images, functions, consumer)
    }

    fn one_by_one(&self) -> &[usize] {
        self.alone.one_by_one()
    }
}
