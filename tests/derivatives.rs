//! Gradients of operators against central differences, in double precision, on the inputs of ONNX's own test cases.
//!
//! Every case of a single node is run with its float inputs widened and moved a little, away from the kinks that round numbers sit
//! on. Through every input that the operator's row calls differentiable, the derivative of a random combination of all float
//! outputs along a random direction has to agree with autograd's. An operator whose row promises gradients and that no case
//! shows is a fault, unless it is listed here with the reason.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cmira::check::conformance::{Case, cases};
use cmira::graph::ops::{ALL, all, find};
use cmira::graph::{Mode, Program};
use cmira::onnx::proto::NodeProto;
use cmira::onnx::{self, Limits};
use cmira::tensor::{Kind, Tensor, derive_seed, is_float, no_grad, rng, seed_libtorch, to_f64s};
use rand_distr::{Distribution, StandardNormal};

/// Operators that promise gradients and whose cases cannot show them, with the reason.
const UNSHOWN: &[(&str, &str)] = &[
    ("Cast", "its cases change the precision"),
    ("CastLike", "its cases change the precision"),
    ("GlobalLpPool", "there is no case"),
    ("If", "its cases choose between constants"),
    ("Trilu", "its cases hold integers"),
];

/// Cases whose own definition loses the precision that a difference needs, with the reason.
const LOSSY: &[(&str, &str)] =
    &[("test_attention_24_qk_matmul_output_mode3_softmax_precision", "its softmax is taken in single precision")];

/// Operators of which only the first output counts, with the reason.
const FIRST_OUTPUT: &[(&str, &str)] = &[("BatchNormalization", "running statistics are followed, not trained through")];

/// How far a point is moved for a difference. The error of a central difference is of the square of this.
const STEP: f64 = 1e-5;

/// What comes of it relative to the larger of the two derivatives, or absolutely where they are small.
const TOLERANCE: f64 = 1e-5;

/// Points that are tried before a disagreement counts: one of them may lie on a kink.
const POINTS: u64 = 4;

fn normal(seed: u64, like: &Tensor) -> Tensor {
    let mut generator = rng(seed, "direction", 0);
    let values: Vec<f64> = (0..like.numel()).map(|_| StandardNormal.sample(&mut generator)).collect();
    Tensor::from_slice(&values).reshape(like.size())
}

/// A random combination of all float outputs; `None` where there is none, or where precision is lost on the way.
fn combined(single: &Single, inputs: &[Tensor]) -> Result<Option<Tensor>, String> {
    seed_libtorch(0);
    let mut outputs = single.program.run(inputs, Mode::Eval).map_err(|error| error.to_string())?;
    if FIRST_OUTPUT.iter().any(|(name, _)| *name == single.node.op_type) {
        outputs.truncate(1);
    }
    let mut total: Option<Tensor> = None;
    for (index, output) in (0..).zip(&outputs) {
        match output.kind() {
            Kind::Double => {
                // Masked scores are infinite, wherever the input is.
                let finite = output.where_self(&output.isfinite(), &output.zeros_like());
                let part = (finite * normal(1000 + index, output)).sum(Kind::Double);
                total = Some(total.map_or_else(|| part.shallow_clone(), |total| total + &part));
            }
            kind if is_float(kind) => return Ok(None),
            _ => {}
        }
    }
    Ok(total)
}

/// Autograd's derivative and the central difference along one direction of one input.
fn derivatives(single: &Single, inputs: &[Tensor], which: usize, direction: &Tensor) -> Result<Option<(f64, f64)>, String> {
    let mut leaves: Vec<Tensor> = inputs.iter().map(Tensor::shallow_clone).collect();
    leaves[which] = inputs[which].detach().copy().set_requires_grad(true);
    let Some(total) = combined(single, &leaves)? else { return Ok(None) };
    let autograd = if total.requires_grad() {
        total.backward();
        let gradient = leaves[which].grad();
        if gradient.defined() { (gradient * direction).sum(Kind::Double).double_value(&[]) } else { 0.0 }
    } else {
        0.0
    };
    let _guard = no_grad();
    let mut at = |step: f64| -> Result<Option<f64>, String> {
        leaves[which] = &inputs[which] + direction * step;
        Ok(combined(single, &leaves)?.map(|total| total.double_value(&[])))
    };
    let (Some(ahead), Some(behind)) = (at(STEP)?, at(-STEP)?) else { return Ok(None) };
    Ok(Some((autograd, (ahead - behind) / (2.0 * STEP))))
}

struct Single {
    program: Program,
    node: NodeProto,
    opset: i64,
    /// The case's inputs, floats in double precision.
    inputs: Vec<Tensor>,
    /// Places of the node's inputs among the case's.
    places: Vec<Option<usize>>,
}

/// A case of one node, or `None`.
fn single(case: &Case) -> Option<Single> {
    let file = onnx::read(&case.folder.join("model.onnx"), &Limits::default()).ok()?;
    let graph = file.model.graph.get_or_default();
    let [node] = graph.node.as_slice() else { return None };
    let program = Program::compile(&file).ok()?;
    let set = case.folder.join("test_data_set_0");
    let mut inputs = Vec::new();
    for index in 0..program.inputs().len() {
        let tensor = onnx::read_tensor(&set.join(format!("input_{index}.pb")), &Limits::default()).ok()?.1;
        inputs.push(if is_float(tensor.kind()) { tensor.to_kind(Kind::Double) } else { tensor });
    }
    let places = node.input.iter().map(|name| program.inputs().iter().position(|input| input == name)).collect();
    let opset = file.model.opset_import.iter().find(|o| o.domain == node.domain).map_or(1, |o| o.version);
    Some(Single { node: node.clone(), program, opset, inputs, places })
}

/// What a case shows: `Ok(true)` that gradients are right, `Ok(false)` nothing.
fn shows(single: &Single, seed: u64) -> Result<bool, String> {
    let op = find(&single.node.domain, &single.node.op_type, single.opset).map_err(|error| error.to_string())?;
    let mut shown = false;
    for (position, place) in single.places.iter().enumerate() {
        let differentiable = op.differentiable == ALL || op.differentiable.contains(&position);
        let Some(place) = place.filter(|&place| differentiable && single.inputs[place].kind() == Kind::Double) else { continue };
        if single.inputs[place].numel() == 0 || to_f64s(&single.inputs[place]).unwrap().iter().any(|value| !value.is_finite()) {
            continue;
        }
        let mut worst = String::new();
        let mut agrees = None;
        for point in 0..POINTS {
            let of = |what: &str| derive_seed(seed, what, point * 64 + position as u64);
            let moved: Vec<Tensor> = (0..)
                .zip(&single.inputs)
                .map(
                    |(index, x)| {
                        if x.kind() == Kind::Double { x + normal(of("point") ^ index, x) * 1e-3 } else { x.shallow_clone() }
                    },
                )
                .collect();
            let direction = normal(of("direction"), &moved[place]);
            match derivatives(single, &moved, place, &direction) {
                // Kernels that take one precision only, as the reference's file has it.
                Err(_) | Ok(None) => break,
                Ok(Some((autograd, difference))) => {
                    let scale = autograd.abs().max(difference.abs()).max(1.0);
                    if (autograd - difference).abs() <= TOLERANCE * scale {
                        agrees = Some(true);
                        break;
                    }
                    agrees = Some(false);
                    worst = format!("input {position}: autograd {autograd}, difference {difference}");
                }
            }
        }
        match agrees {
            Some(true) => shown = true,
            Some(false) => return Err(worst),
            None => {}
        }
    }
    Ok(shown)
}

#[test]
fn gradients_agree_with_central_differences() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(".native/conformance/node");
    let mut shown: BTreeMap<String, usize> = BTreeMap::new();
    let mut faults = Vec::new();
    for case in cases(&folder).expect("the official cases") {
        let Some(single) = single(&case) else { continue };
        if LOSSY.iter().any(|(name, _)| case.name.ends_with(name)) {
            continue;
        }
        match shows(&single, 1) {
            Ok(true) => *shown.entry(single.node.op_type.clone()).or_default() += 1,
            Ok(false) => {}
            Err(fault) => faults.push(format!("{}: {fault}", case.name)),
        }
    }
    let promised: BTreeSet<&str> = all().filter(|op| !op.differentiable.is_empty()).map(|op| op.name).collect();
    let excused: BTreeMap<&str, &str> = UNSHOWN.iter().copied().collect();
    for name in &promised {
        if !shown.contains_key(*name) && !excused.contains_key(name) {
            faults.push(format!("{name} promises gradients, and no case shows any"));
        }
    }
    for name in excused.keys() {
        if shown.contains_key(*name) {
            faults.push(format!("{name} is shown by a case, and need not be excused"));
        }
    }
    for (name, reason) in UNSHOWN.iter().chain(LOSSY) {
        println!("not shown: {name}: {reason}");
    }
    println!("{} operators by {} cases", shown.len(), shown.values().sum::<usize>());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
