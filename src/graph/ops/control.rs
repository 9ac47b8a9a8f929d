//! Control flow: If, Loop and Scan, which run the subgraphs that they hold.

use std::sync::Arc;

use super::operands::elements;
use super::{ALL, Call, Kernel, Node, Op, axis_in};
use crate::error::{Error, Result};
use crate::graph::body::Body;
use crate::tensor::{Device, Kind, Tensor, to_i64s};

/// The rows of this family. What a subgraph reads from outside stands behind a node's own inputs.
pub const OPS: &[Op] = &[
    Op::new("If", 1, 1, branch).outputs(usize::MAX).gradients(ALL),
    Op::new("Loop", 1, usize::MAX, repeat).at_least(0).outputs(usize::MAX).gradients(ALL),
    Op::new("Scan", 9, usize::MAX, scan).outputs(usize::MAX).gradients(ALL),
];

/// Rounds after which a loop counts as endless.
const MOST_ROUNDS: usize = 1 << 20;

fn is_true(tensor: &Tensor) -> Result<bool> {
    match to_i64s(tensor)?.as_slice() {
        [value] => Ok(*value != 0),
        other => Err(Error::malformed(format!("a condition holds {} values where one is expected", other.len()))),
    }
}

/// onnx: If-1.
fn branch(node: &Node<'_>) -> Result<Kernel> {
    let (yes, no) = (node.body("then_branch")?, node.body("else_branch")?);
    for body in [&yes, &no] {
        if body.outputs() < node.outputs.len() {
            return Err(Error::malformed(format!("a branch gives {} of {} outputs", body.outputs(), node.outputs.len())));
        }
    }
    Ok(Box::new(move |call| (if is_true(call.input(0)?)? { &yes } else { &no }).run(call, Vec::new())))
}

/// onnx: Loop-13. The body takes the round's number, the condition and the carried values; it gives the next condition, the carried
/// values, and what is stacked over all rounds.
fn repeat(node: &Node<'_>) -> Result<Kernel> {
    let body = node.body("body")?;
    let carried = node.inputs.len().saturating_sub(2);
    if body.inputs() != carried + 2 || body.outputs() < carried + 1 {
        let (inputs, outputs) = (body.inputs(), body.outputs());
        return Err(Error::malformed(format!("a body of {inputs} inputs and {outputs} outputs for {carried} carried values")));
    }
    Ok(Box::new(move |call| repeated(call, &body, carried)))
}

fn repeated(call: &Call<'_>, body: &Body, carried: usize) -> Result<Vec<Tensor>> {
    let rounds = match call.optional_ints(0)?.as_deref() {
        None => i64::MAX,
        Some([rounds]) => *rounds,
        Some(other) => return Err(Error::malformed(format!("a number of rounds of {} values", other.len()))),
    };
    let mut condition = call.optional(1).map(is_true).transpose()?.unwrap_or(true);
    let mut values: Vec<Tensor> = (2..2 + carried).map(|index| Ok(call.input(index)?.shallow_clone())).collect::<Result<_>>()?;
    let mut stacks = Stacks::new(body.outputs() - 1 - carried);
    let mut round = 0;
    while condition && round < rounds {
        stacks.admit_round()?;
        let number = Tensor::f_from_slice(&[round])?.f_reshape([0_i64; 0])?;
        let flag = Tensor::f_from_slice(&[1_i64])?.f_to_kind(Kind::Bool)?.f_reshape([0_i64; 0])?;
        let own = [number, flag].into_iter().chain(values).collect();
        let mut given = body.run(call, own)?.into_iter();
        condition = given.next().as_ref().map(is_true).transpose()?.unwrap_or(false);
        values = given.by_ref().take(carried).collect();
        stacks.push(given)?;
        round += 1;
    }
    values.extend(stacks.stacked(&vec![0; body.outputs() - 1 - carried], &[])?);
    Ok(values)
}

/// What a body gives in every round, to be stacked.
struct Stacks {
    parts: Vec<Vec<Tensor>>,
    rounds: usize,
}

impl Stacks {
    fn new(count: usize) -> Stacks {
        Stacks { parts: (0..count).map(|_| Vec::new()).collect(), rounds: 0 }
    }

    fn admit_round(&mut self) -> Result<()> {
        self.rounds += 1;
        if self.rounds > MOST_ROUNDS {
            return Err(Error::malformed(format!("a loop of more than {MOST_ROUNDS} rounds is refused")));
        }
        Ok(())
    }

    fn push(&mut self, given: impl Iterator<Item = Tensor>) -> Result<()> {
        for (parts, tensor) in self.parts.iter_mut().zip(given) {
            let so_far = i64::try_from(tensor.numel().saturating_mul(parts.len() + 1)).map_err(Error::malformed)?;
            elements(&[so_far])?;
            parts.push(tensor);
        }
        Ok(())
    }

    /// Each stack along its axis, the last round first where `backwards` says so.
    fn stacked(self, axes: &[i64], backwards: &[i64]) -> Result<Vec<Tensor>> {
        let mut results = Vec::with_capacity(self.parts.len());
        for (index, mut parts) in self.parts.into_iter().enumerate() {
            let Some(first) = parts.first() else {
                // What no round gave has no shape that this program could know.
                results.push(Tensor::f_zeros([0_i64], (Kind::Float, Device::Cpu))?);
                continue;
            };
            let axis = axis_in(axes.get(index).copied().unwrap_or(0), first.dim() + 1)?;
            if backwards.get(index).copied().unwrap_or(0) != 0 {
                parts.reverse();
            }
            results.push(Tensor::f_stack(&parts, axis)?);
        }
        Ok(results)
    }
}

/// onnx: Scan-11.
struct Scan {
    body: Arc<Body>,
    /// Carried values, the first of the node's inputs and outputs.
    states: usize,
    /// Inputs that are walked along, behind them.
    walked: usize,
    input_axes: Vec<i64>,
    input_backwards: Vec<i64>,
    output_axes: Vec<i64>,
    output_backwards: Vec<i64>,
}

fn scan(node: &Node<'_>) -> Result<Kernel> {
    let body = node.body("body")?;
    let walked = usize::try_from(node.int_or("num_scan_inputs", 0)?).map_err(Error::malformed)?;
    let states = node.inputs.len().checked_sub(walked);
    let fits = states.is_some_and(|states| body.inputs() == node.inputs.len() && body.outputs() >= states);
    let (Some(states), true, true) = (states, fits, walked > 0) else {
        let (inputs, outputs) = (body.inputs(), body.outputs());
        return Err(Error::malformed(format!("a body of {inputs} inputs and {outputs} outputs for {walked} scanned inputs")));
    };
    let list = |name: &str| -> Result<Vec<i64>> { Ok(node.ints(name)?.unwrap_or_default()) };
    let scan = Scan {
        body,
        states,
        walked,
        input_axes: list("scan_input_axes")?,
        input_backwards: list("scan_input_directions")?,
        output_axes: list("scan_output_axes")?,
        output_backwards: list("scan_output_directions")?,
    };
    Ok(Box::new(move |call| scan.run(call)))
}

impl Scan {
    fn run(&self, call: &Call<'_>) -> Result<Vec<Tensor>> {
        let mut values: Vec<Tensor> =
            (0..self.states).map(|index| Ok(call.input(index)?.shallow_clone())).collect::<Result<_>>()?;
        let mut walked = Vec::with_capacity(self.walked);
        for index in 0..self.walked {
            let tensor = call.input(self.states + index)?;
            let axis = axis_in(self.input_axes.get(index).copied().unwrap_or(0), tensor.dim())?;
            let backwards = self.input_backwards.get(index).copied().unwrap_or(0) != 0;
            walked.push((tensor, axis, backwards));
        }
        let length = |&(tensor, axis, _): &(&Tensor, i64, bool)| super::operands::dim(&tensor.size(), axis);
        let rounds = walked.first().map_or(Ok(0), length)?;
        if walked.iter().map(length).collect::<Result<Vec<_>>>()?.iter().any(|&own| own != rounds) {
            return Err(Error::malformed("the scanned inputs differ in length"));
        }
        let mut stacks = Stacks::new(self.body.outputs() - self.states);
        for round in 0..rounds {
            stacks.admit_round()?;
            let mut own = values;
            for &(tensor, axis, backwards) in &walked {
                own.push(tensor.f_select(axis, if backwards { rounds - 1 - round } else { round })?);
            }
            let mut given = self.body.run(call, own)?.into_iter();
            values = given.by_ref().take(self.states).collect();
            stacks.push(given)?;
        }
        values.extend(stacks.stacked(&self.output_axes, &self.output_backwards)?);
        Ok(values)
    }
}
