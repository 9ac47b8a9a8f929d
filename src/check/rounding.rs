//! Models that round numbers on the way are compared place by place. Where a number lies at the edge between two steps, two engines that
//! add up in different orders take different ones, and the rest of the network carries it on: the outputs of two honest runs can be far
//! apart. So each place at which both round is compared by itself, to within one step, and goes on from what ONNX Runtime has there.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::check::witness::{Given, Witness};
use crate::error::Result;
use crate::graph::Model;
use crate::graph::ops::quant::jittered;
use crate::tensor::{Device, Kind, Tensor, to_f64s};

/// How the rounded numbers of a model compare with ONNX Runtime's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Rounding {
    /// Places of the graph at which rounded numbers were compared.
    pub places: usize,
    /// Numbers that were compared.
    pub numbers: usize,
    /// Those of them that differ, by one step unless there is a fault.
    pub differ: usize,
    /// The first place that differs by more than rounding explains.
    pub fault: Option<String>,
    /// Largest difference of the outputs, divided by the largest output, where each engine goes its own way.
    pub alone: f64,
}

impl Rounding {
    /// Both comparisons in one.
    pub fn and(&self, other: &Rounding) -> Rounding {
        Rounding {
            places: self.places.max(other.places),
            numbers: self.numbers + other.numbers,
            differ: self.differ + other.differ,
            fault: self.fault.clone().or_else(|| other.fault.clone()),
            alone: self.alone.max(other.alone),
        }
    }

    /// Compares one value with ONNX Runtime's, up to `tolerance` of the largest number where that is more than a step.
    fn see(&mut self, name: &str, position: usize, ours: &Tensor, theirs: &Tensor, tolerance: f64) -> Result<()> {
        if ours.size() != theirs.size() {
            self.blame(format!("'{name}' has shape {:?} where ONNX Runtime has {:?}", ours.size(), theirs.size()));
            return Ok(());
        }
        let (ours, theirs) = (to_f64s(&ours.f_to_device(Device::Cpu)?)?, to_f64s(theirs)?);
        let largest = theirs.iter().fold(0.0_f64, |most, number| most.max(number.abs()));
        let off = |(ours, theirs): (&f64, &f64)| if ours.to_bits() == theirs.to_bits() { 0.0 } else { (ours - theirs).abs() };
        let mut worst = 0.0_f64;
        let mut differ = 0;
        for off in ours.iter().zip(&theirs).map(off) {
            // What is no number is off by any amount.
            worst = if off.is_nan() { f64::INFINITY } else { worst.max(off) };
            differ += usize::from(off.is_nan() || off >= 0.5);
        }
        // A scale found in the data is a number of its own, not one of steps.
        let is_scale = position == 1;
        let step = if is_scale { 0.0 } else { 1.0 };
        if worst > (tolerance * largest).max(step) {
            self.blame(format!("'{name}' differs by {worst} from ONNX Runtime's"));
        }
        if is_scale {
            return Ok(());
        }
        // In networks of millions of numbers a few hundred are at the edge between two steps. Weights that are off by a hundredth move a
        // tenth of them.
        if differ > (ours.len() / 100).max(2) {
            self.blame(format!("'{name}' differs from ONNX Runtime's in {differ} of {} numbers", ours.len()));
        }
        self.places += usize::from(position == 0);
        self.numbers += ours.len();
        self.differ += differ;
        Ok(())
    }

    fn blame(&mut self, fault: String) {
        self.fault.get_or_insert(fault);
    }
}

/// What a comparison of a model that rounds gave.
pub(super) struct Led {
    pub ours: Tensor,
    pub theirs: Tensor,
    pub rounding: Rounding,
    /// By how much, relative to the largest output, outputs move when the numbers that are rounded are [a little off](jittered), twice
    /// the largest of a few such moves. It is 0 unless something is rounded out of sight, inside what ONNX Runtime runs as one operator:
    /// there no comparison can be finer.
    pub noise: f64,
}

/// Runs both on the same images. Wherever both round, the model goes on from ONNX Runtime's numbers.
pub(super) fn compare(model: &Model, witness: &mut Witness, images: &Tensor, tolerance: f64) -> Result<Led> {
    let count = images.size().first().copied().unwrap_or(0);
    let (mut ours, mut theirs, mut alone, mut rounding, mut moved) =
        (Vec::new(), Vec::new(), Vec::new(), Rounding::default(), 0.0);
    for piece in witness.pieces(images)? {
        let given = witness.run_once(&piece)?;
        let piece = piece.f_to_device(model.device())?;
        let mut here = Rounding::default();
        let output =
            lead(model, &piece, &given, &mut |name, position, ours, theirs| here.see(name, position, ours, theirs, tolerance))?;
        rounding = rounding.and(&here);
        let in_sight = model.report().rounded.iter().all(|name| given.rounded.contains_key(name));
        if !in_sight {
            moved = f64::max(moved, moves(model, &piece, &given, &output)?);
        }
        alone.push(model.output(&piece)?.f_to_device(Device::Cpu)?);
        ours.push(output);
        theirs.push(given.scores);
    }
    let all = |parts: &[Tensor]| -> Result<Tensor> { Ok(Tensor::f_cat(parts, 0)?.f_narrow(0, 0, count)?) };
    let theirs = all(&theirs)?;
    let largest = to_f64s(&theirs)?.iter().fold(0.0_f64, |most, number| most.max(number.abs())).max(f64::MIN_POSITIVE);
    let alone = all(&alone)?;
    if alone.size() == theirs.size() {
        rounding.alone = largest_difference(&alone, &theirs)? / largest;
    }
    Ok(Led { ours: all(&ours)?, theirs, rounding, noise: (2.0 * moved / largest).min(COARSEST) })
}

/// How many runs [`moves`] tries.
const TRIALS: u8 = 4;

/// A tolerance above this would let anything pass.
const COARSEST: f64 = 0.3;

fn moves(model: &Model, piece: &Tensor, given: &Given, still: &Tensor) -> Result<f64> {
    let mut moved = 0.0_f64;
    for seed in 0..TRIALS {
        let off = jittered(seed, || lead(model, piece, given, &mut |_, _, _, _| Ok(())))?;
        moved = moved.max(largest_difference(&off, still)?);
    }
    Ok(moved)
}

/// Shows every value that ONNX Runtime gave as well, and puts its in place.
fn lead(
    model: &Model,
    piece: &Tensor,
    given: &Given,
    see: &mut dyn FnMut(&str, usize, &Tensor, &Tensor) -> Result<()>,
) -> Result<Tensor> {
    let rounded: &HashMap<String, Tensor> = &given.rounded;
    let output = model.output_led(piece, &mut |name, position, value| {
        let Some(theirs) = rounded.get(name) else { return Ok(()) };
        see(name, position, value, theirs)?;
        if value.size() == theirs.size() {
            *value = theirs.f_to_device(value.device())?.f_to_kind(Kind::Double)?.f_to_kind(value.kind())?;
        }
        Ok(())
    })?;
    Ok(output.f_to_device(Device::Cpu)?)
}

fn largest_difference(one: &Tensor, other: &Tensor) -> Result<f64> {
    let pairs = to_f64s(one)?.into_iter().zip(to_f64s(other)?);
    Ok(pairs.fold(0.0_f64, |most, (a, b)| most.max((a - b).abs())))
}
