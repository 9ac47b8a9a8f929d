//! Lets a graph whose batch size was baked in at export run on any batch.
//!
//! Exporters write `Reshape` targets such as `[1, 197, 768]` or `[197, 12, 64]` (batch and heads merged). The graph is run once on
//! the batch it was made for and, step by step, on three times as many images. Where a `Reshape` has to carry the larger batch,
//! the dimension that holds the batch becomes `-1`; where several could, the likeliest is tried first and a later contradiction
//! brings the next one. Nothing is believed because shapes fit: the images' outputs must equal those of a run by themselves.
//! All runs are sketches, in which products with weights are replaced by something cheaper that keeps images apart as they do.

mod probe;
mod readings;
mod rewire;

use std::collections::HashMap;

use self::probe::{close, find, runs_freely};
pub(crate) use self::probe::{random_images, suspicious};
use self::readings::readings;
use self::rewire::{PerImage, gather_per_image, repeat_inputs};
use crate::error::Result;
use crate::graph::input::Input;
use crate::graph::plan::{OUTPUT, Plan, Source, Trace};
use crate::tensor::{Tensor, no_grad, to_i64s};

/// What was found about the batch dimension.
pub(crate) enum Outcome {
    /// The graph runs on any batch as it is.
    Free,
    /// The graph runs on any batch after these changes.
    Repaired(Vec<Patch>),
    /// The graph runs on the exported batch size only.
    Fixed(String),
}

/// One change to one node, which export has to write into the file as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Patch {
    /// Input `position` of the node at `place` is `values`: a target of Reshape in which the batch is `-1`, a target of Expand in which
    /// it is 1, which keeps what is there, or the ends of a Slice that ends with the batch, whatever that is.
    Integers { place: usize, position: usize, values: Vec<i64> },
    /// Input `position` of the node at `place`, of `rank` dimensions, is repeated along `axis` to the batch of input `like`.
    Repeat { place: usize, position: usize, like: usize, axis: usize, rank: usize },
    /// The `Gather` at `place` reads `indices` (of shape `shape`) out of each run of `stride` numbers, instead of numbers of the
    /// whole flattened batch.
    GatherPerImage { place: usize, stride: i64, indices: Vec<i64>, shape: Vec<i64> },
}

/// How many times the exported batch the trial has. Odd and unlike usual channel ratios, so that a scaled dimension stands out.
const RATIO: i64 = 3;

/// Finds and repairs baked batch sizes. `image` is `[C, H, W]`, `batch` the size that the file states (1 if it states none), `first`
/// what the first [images](random_images) gave.
pub(crate) fn repair(
    plan: &mut Plan,
    stored: &mut Vec<Tensor>,
    image: &[i64],
    batch: i64,
    input: &Input,
    first: Trace,
) -> Result<Outcome> {
    if !suspicious(plan, stored, batch) {
        return Ok(Outcome::Free);
    }
    let _guard = no_grad();
    let images = random_images(image, batch * RATIO, input.kind, input.largest)?;
    // Most suspicions are unfounded, and this is soon seen.
    if runs_freely(plan, stored, &images, batch, &first.output)? {
        return Ok(Outcome::Free);
    }
    let mut search = Search {
        plan,
        stored,
        batch,
        reference: first.shapes,
        choices: Vec::new(),
        standing: Vec::new(),
        learned: HashMap::new(),
        budget: 0,
    };
    search.budget = 50 + 30 * search.plan.steps.len();
    match search.run(&images, &first.output)? {
        Some(patches) if patches.is_empty() => Ok(Outcome::Free),
        Some(patches) => Ok(Outcome::Repaired(patches)),
        None => Ok(Outcome::Fixed(format!("the graph runs on batches of {batch} only"))),
    }
}

/// Handles to what is known at a step; nothing is copied.
fn snapshot(slots: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
    slots.iter().map(|slot| slot.as_ref().map(Tensor::shallow_clone)).collect()
}

/// A step at which more than one reading was possible.
struct Choice {
    step: usize,
    /// What is left to try, likeliest last.
    untried: Vec<Vec<i64>>,
    /// The patch in force, if the step needs one.
    patch: Option<Patch>,
    key: Key,
    /// What the step and those behind it read, to go on from when another reading is tried.
    before: Vec<Option<Tensor>>,
}

type Key = (Vec<i64>, Vec<i64>, usize);

struct Search<'a> {
    plan: &'a mut Plan,
    stored: &'a mut Vec<Tensor>,
    batch: i64,
    reference: Vec<Vec<i64>>,
    choices: Vec<Choice>,
    /// Changes that do nothing to a batch of the exported size, so they outlive the choice that led to them.
    standing: Vec<Patch>,
    /// The reading that held before for the same shapes: blocks of a network repeat.
    learned: HashMap<Key, Vec<i64>>,
    budget: usize,
}

impl Search<'_> {
    /// Walks the plan on the larger batch. `None` when no reading holds.
    fn run(&mut self, images: &Tensor, expected: &Tensor) -> Result<Option<Vec<Patch>>> {
        let mut slots: Vec<Option<Tensor>> = Vec::new();
        slots.resize_with(self.plan.slots, || None);
        slots[0] = Some(images.shallow_clone());
        let mut index = 0;
        loop {
            if self.budget == 0 {
                return Ok(None);
            }
            self.budget -= 1;
            if index == self.plan.steps.len() {
                let output = find(self.plan.results[OUTPUT], self.stored, &slots)?;
                if self.agrees(&output, images, expected)? {
                    return Ok(Some(self.choices.iter().filter_map(|c| c.patch.clone()).chain(self.standing.clone()).collect()));
                }
            } else if self.step(index, &mut slots) {
                self.plan.steps[index].release(&mut slots);
                index += 1;
                continue;
            }
            match self.back_up()? {
                Some(step) => {
                    index = step;
                    slots = self.choices.last().map(|choice| snapshot(&choice.before)).unwrap_or_default();
                }
                None => return Ok(None),
            }
        }
    }

    /// Runs one step on the larger batch; false when it cannot hold.
    fn step(&mut self, index: usize, slots: &mut [Option<Tensor>]) -> bool {
        let chosen = self.choices.last().is_some_and(|c| c.step == index);
        if !chosen && self.plan.steps[index].operator == "Reshape" {
            self.open_choice(index, slots);
        }
        let result = self.plan.steps[index].sketch(self.stored, slots).ok();
        let outputs = match result {
            Some(outputs) => outputs,
            None if self.expand_whole_batch(index, slots).is_some()
                || (self.plan.steps[index].operator == "Concat" && self.repeat_constants(index, slots)) =>
            {
                match self.plan.steps[index].sketch(self.stored, slots) {
                    Ok(outputs) => outputs,
                    Err(_) => return false,
                }
            }
            None => return false,
        };
        let repaired = self.lost_batch(index, slots, &outputs)
            && (self.read_per_image(index, slots).is_some() || self.slice_whole_batch(index, slots).is_some());
        let outputs = if repaired {
            match self.plan.steps[index].sketch(self.stored, slots) {
                Ok(outputs) => outputs,
                Err(_) => return false,
            }
        } else {
            outputs
        };
        let step = &self.plan.steps[index];
        for (tensor, slot) in outputs.iter().zip(&step.outputs) {
            if let Some(slot) = *slot
                && !scaled_once(&self.reference[slot], &tensor.size())
            {
                return false;
            }
        }
        step.store(outputs, slots);
        true
    }

    /// Lists the readings of a Reshape whose constant target has to carry the larger batch, and takes the likeliest.
    fn open_choice(&mut self, index: usize, slots: &[Option<Tensor>]) {
        let step = &self.plan.steps[index];
        let (Some(Some(Source::Slot(input))), Some(Some(Source::Stored(_)))) = (step.inputs.first(), step.inputs.get(1)) else {
            return;
        };
        let (Some(Some(tensor)), Some(Some(output))) = (slots.get(*input), step.outputs.first()) else { return };
        let (from, to) = (&self.reference[*input], &self.reference[*output]);
        let Some(axis) = tensor.size().iter().zip(from).position(|(now, then)| *now != *then) else { return };
        let key = (from.clone(), to.clone(), axis);
        let mut readings = readings(from, to, axis, self.batch);
        if let Some(learned) = self.learned.get(&key) {
            readings.sort_by_key(|r| r == learned);
        }
        let as_it_is = step.sketch(self.stored, slots).ok().and_then(|o| o.first().map(Tensor::size));
        let likeliest =
            readings.last().map(|r| r.iter().zip(to).map(|(&d, &was)| if d == -1 { was * RATIO } else { d }).collect::<Vec<_>>());
        if as_it_is.is_some() && as_it_is == likeliest {
            readings.pop();
            self.choices.push(Choice { step: index, untried: readings, patch: None, key, before: snapshot(slots) });
            self.forget_if_decided();
            return;
        }
        self.choices.push(Choice { step: index, untried: readings, patch: None, key, before: snapshot(slots) });
        self.take_reading();
        self.forget_if_decided();
    }

    /// Nobody comes back to a choice without another reading.
    fn forget_if_decided(&mut self) {
        if let Some(choice) = self.choices.last_mut().filter(|choice| choice.untried.is_empty()) {
            choice.before = Vec::new();
        }
    }

    /// Puts the next reading of the last choice into force; false if there is none.
    fn take_reading(&mut self) -> bool {
        let Some(choice) = self.choices.last_mut() else { return false };
        let Some(shape) = choice.untried.pop() else { return false };
        let step = &mut self.plan.steps[choice.step];
        self.learned.insert(choice.key.clone(), shape.clone());
        let Ok(tensor) = Tensor::f_from_slice(&shape) else { return false };
        // A step keeps one slot of its own for all its readings.
        match choice.patch {
            Some(_) => {
                if let Some(Some(Source::Stored(own))) = step.inputs.get(1)
                    && let Some(stored) = self.stored.get_mut(*own)
                {
                    *stored = tensor;
                }
            }
            None => {
                self.stored.push(tensor);
                step.inputs[1] = Some(Source::Stored(self.stored.len() - 1));
            }
        }
        choice.patch = Some(Patch::Integers { place: step.place, position: 1, values: shape });
        true
    }

    /// Goes back to the last choice with a reading left, and gives its step.
    fn back_up(&mut self) -> Result<Option<usize>> {
        while let Some(choice) = self.choices.last() {
            let step = choice.step;
            if self.take_reading() {
                return Ok(Some(step));
            }
            self.choices.pop();
        }
        Ok(None)
    }

    /// Repeats a Concat's constant operands (class tokens) along the batch.
    fn repeat_constants(&mut self, index: usize, slots: &[Option<Tensor>]) -> bool {
        let step = &self.plan.steps[index];
        let grown = |slot: usize| -> Option<usize> {
            let now = slots.get(slot)?.as_ref()?.size();
            (0..now.len()).find(|&axis| self.reference[slot].get(axis) != Some(&now[axis]))
        };
        let operand = |(position, source): (usize, &Option<Source>)| match source {
            Some(Source::Slot(slot)) => grown(*slot).map(|axis| (position, axis)),
            _ => None,
        };
        let Some((like, axis)) = step.inputs.iter().enumerate().find_map(operand) else { return false };
        // All operands of a Concat have the same rank.
        let rank = match step.inputs[like] {
            Some(Source::Slot(slot)) => self.reference[slot].len(),
            _ => return false,
        };
        let holds_batch = |source: &Option<Source>| match source {
            Some(Source::Stored(i)) => self.stored.get(*i).is_some_and(|t| t.size().get(axis) == Some(&self.batch)),
            // A constant that is expanded or moved in every pass, so that it can be trained.
            Some(Source::Slot(s)) => grown(*s).is_none() && self.reference[*s].get(axis) == Some(&self.batch),
            None => false,
        };
        let repeated: Vec<usize> = (0..step.inputs.len()).filter(|&i| holds_batch(&step.inputs[i])).collect();
        if repeated.is_empty() {
            return false;
        }
        let place = step.place;
        repeat_inputs(&mut self.plan.steps[index], &repeated, like, axis);
        self.standing.extend(repeated.iter().map(|&position| Patch::Repeat { place, position, like, axis, rank }));
        true
    }

    /// Whether a `Gather` or `Slice` takes the larger batch and gives what it gave for the exported one.
    fn lost_batch(&self, index: usize, slots: &[Option<Tensor>], outputs: &[Tensor]) -> bool {
        let step = &self.plan.steps[index];
        let (Some(Some(Source::Slot(input))), Some(Some(output))) = (step.inputs.first(), step.outputs.first()) else {
            return false;
        };
        let grown = slots.get(*input).and_then(Option::as_ref).is_some_and(|t| t.size() != self.reference[*input]);
        let same = outputs.first().is_some_and(|t| t.size() == self.reference[*output]);
        matches!(step.operator, "Gather" | "Slice") && grown && same
    }

    /// Lets a `Gather` with constant indices into the flattened batch read each image by itself; `None` if it cannot.
    fn read_per_image(&mut self, index: usize, slots: &[Option<Tensor>]) -> Option<()> {
        let step = self.plan.steps.get_mut(index).filter(|step| step.operator == "Gather")?;
        let (Some(Some(Source::Slot(input))), Some(Some(Source::Stored(indices)))) = (step.inputs.first(), step.inputs.get(1))
        else {
            return None;
        };
        let [elements] = *self.reference[*input].as_slice() else { return None };
        if slots.get(*input)?.as_ref()?.size() != [elements * RATIO] {
            return None;
        }
        let found = PerImage::of(self.stored.get(*indices)?, elements, self.batch).ok()??;
        self.stored.push(found.tensor().ok()?);
        step.inputs[1] = Some(Source::Stored(self.stored.len() - 1));
        gather_per_image(step, found.stride);
        let PerImage { stride, shape, indices } = found;
        self.standing.push(Patch::GatherPerImage { place: step.place, stride, indices, shape });
        Some(())
    }

    /// Lets a `Slice` with constant ends, one of which is that of the batch, end where the batch does; `None` if there is none.
    fn slice_whole_batch(&mut self, index: usize, slots: &[Option<Tensor>]) -> Option<()> {
        let step = self.plan.steps.get(index).filter(|step| step.operator == "Slice")?;
        let constant = |position: usize| match step.inputs.get(position) {
            Some(Some(Source::Stored(stored))) => self.stored.get(*stored).and_then(|tensor| to_i64s(tensor).ok()),
            _ => None,
        };
        let (starts, mut ends) = (constant(1)?, constant(2)?);
        let Some(Some(Source::Slot(input))) = step.inputs.first() else { return None };
        let (now, then) = (slots.get(*input)?.as_ref()?.size(), self.reference.get(*input)?);
        let grown = now.iter().zip(then).position(|(now, then)| now != then)?;
        let axes = constant(3).unwrap_or_else(|| (0..).take(ends.len()).collect());
        let rank = i64::try_from(now.len()).ok()?;
        let entry = axes.iter().position(|&axis| usize::try_from(if axis < 0 { axis + rank } else { axis }) == Ok(grown))?;
        let end = ends.get_mut(entry).filter(|end| **end == self.batch && starts.get(entry) == Some(&0))?;
        *end = i64::MAX;
        self.replace_integers(index, 2, ends)
    }

    /// Lets an `Expand` with a constant target keep what the larger batch has where the target states the exported one; `None` if it
    /// does not.
    fn expand_whole_batch(&mut self, index: usize, slots: &[Option<Tensor>]) -> Option<()> {
        let step = self.plan.steps.get(index).filter(|step| step.operator == "Expand")?;
        let (Some(Some(Source::Slot(input))), Some(Some(Source::Stored(target)))) = (step.inputs.first(), step.inputs.get(1))
        else {
            return None;
        };
        let (now, then) = (slots.get(*input)?.as_ref()?.size(), self.reference.get(*input)?);
        let grown = now.iter().zip(then).position(|(now, then)| now != then)?;
        let mut target = to_i64s(self.stored.get(*target)?).ok()?;
        // Shapes are aligned at their ends.
        let place = (target.len() + grown).checked_sub(now.len())?;
        let size = target.get_mut(place).filter(|size| **size == then[grown])?;
        *size = 1;
        self.replace_integers(index, 1, target)
    }

    /// Gives a step other integers at one of its inputs, which do the same to a batch of the exported size.
    fn replace_integers(&mut self, index: usize, position: usize, values: Vec<i64>) -> Option<()> {
        self.stored.push(Tensor::f_from_slice(&values).ok()?);
        let step = self.plan.steps.get_mut(index)?;
        *step.inputs.get_mut(position)? = Some(Source::Stored(self.stored.len() - 1));
        self.standing.push(Patch::Integers { place: step.place, position, values });
        Some(())
    }

    /// Whether the first two batches of the larger run give what they give by themselves.
    fn agrees(&self, output: &Tensor, images: &Tensor, expected: &Tensor) -> Result<bool> {
        let batch = self.batch;
        if output.size().first() != Some(&(batch * RATIO)) {
            return Ok(false);
        }
        let second = self.plan.sketch(self.stored, &images.f_narrow(0, batch, batch)?, OUTPUT)?;
        Ok(close(&output.f_narrow(0, 0, batch)?, expected)? && close(&output.f_narrow(0, batch, batch)?, &second)?)
    }
}

/// Whether `now` is `then`, or `then` with one dimension scaled by the ratio.
fn scaled_once(then: &[i64], now: &[i64]) -> bool {
    if then.len() != now.len() {
        return false;
    }
    let changed: Vec<usize> = (0..then.len()).filter(|&i| then[i] != now[i]).collect();
    match changed.as_slice() {
        [] => true,
        [axis] => now[*axis] == then[*axis] * RATIO,
        _ => false,
    }
}
