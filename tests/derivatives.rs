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
use cmira::onnx::proto::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto};
use cmira::onnx::{self, Limits};
use cmira::tensor::{Device, Kind, Tensor, derive_seed, is_float, no_grad, rng, seed_libtorch, to_f64s};
use rand_distr::{Distribution, StandardNormal};

/// Inputs through which operators promise gradients and whose cases cannot show them, with the reason.
const UNSHOWN: &[(&str, &[usize], &str)] = &[
    ("Cast", &[0], "its cases change the precision"),
    ("CastLike", &[0], "its cases change the precision"),
    ("If", &[0], "its condition has no derivative, and its cases choose between constants"),
    ("Loop", &[0], "its number of rounds has no derivative"),
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
    let [node] = file.model.graph.get_or_default().node.as_slice() else { return None };
    let (node, imports) = (node.clone(), file.model.opset_import.clone());
    let program = Program::compile(file).ok()?;
    let set = case.folder.join("test_data_set_0");
    let mut inputs = Vec::new();
    for index in 0..program.inputs().len() {
        let tensor = onnx::read_tensor(&set.join(format!("input_{index}.pb")), &Limits::default()).ok()?.1;
        inputs.push(if is_float(tensor.kind()) { tensor.to_kind(Kind::Double) } else { tensor });
    }
    let places = node.input.iter().map(|name| program.inputs().iter().position(|input| input == name)).collect();
    let opset = imports.iter().find(|o| o.domain == node.domain).map_or(1, |o| o.version);
    // Operators on sequences and optional values are replaced by others, which are shown by themselves.
    find(&node.domain, &node.op_type, opset).ok()?;
    Some(Single { node, program, opset, inputs, places })
}

/// One node, named with its domain, on random inputs of these shapes, where ONNX's own cases leave something out.
fn own(op: &str, shapes: &[&[i64]]) -> Single {
    let names: Vec<String> = (0..shapes.len()).map(|index| format!("x{index}")).collect();
    let value = |name: &str| ValueInfoProto { name: name.into(), ..Default::default() };
    let (domain, op_type) = op.rsplit_once('.').unwrap_or(("", op));
    let (domain, op_type) = (domain.into(), op_type.into());
    let node = NodeProto { domain, op_type, input: names.clone(), output: vec!["y".into()], ..Default::default() };
    let graph = GraphProto {
        node: vec![node.clone()],
        input: names.iter().map(|name| value(name)).collect(),
        output: vec![value("y")],
        ..Default::default()
    };
    let opset = 22;
    let opset_import = vec![OperatorSetIdProto { version: opset, ..Default::default() }];
    let model = ModelProto { ir_version: 8, graph: Some(graph).into(), opset_import, ..Default::default() };
    let file = onnx::from_model(op, model, &Limits::default()).expect("a valid model");
    let program = Program::compile(file).expect("a supported node");
    let inputs =
        (0..).zip(shapes).map(|(index, shape)| normal(index, &Tensor::zeros(*shape, (Kind::Double, Device::Cpu)))).collect();
    let opset = if node.domain.is_empty() { opset } else { 1 };
    Single { program, node, opset, inputs, places: (0..shapes.len()).map(Some).collect() }
}

/// What ONNX's own cases leave out: biases of convolutions, and operators that they show on integers only or not at all.
fn own_cases() -> Vec<Single> {
    vec![
        own("Conv", &[&[2, 2, 5, 4], &[3, 2, 3, 2], &[3]]),
        own("ConvTranspose", &[&[2, 2, 5, 4], &[2, 3, 3, 2], &[3]]),
        own("GlobalLpPool", &[&[2, 3, 4, 5]]),
        own("Trilu", &[&[2, 4, 5]]),
        own("SimplifiedLayerNormalization", &[&[2, 4, 5], &[5]]),
        own("com.microsoft.FastGelu", &[&[2, 5], &[5]]),
        own("com.microsoft.BiasGelu", &[&[2, 5], &[5]]),
        own("com.microsoft.QuickGelu", &[&[2, 5]]),
        own("com.microsoft.FusedMatMul", &[&[2, 4, 5], &[5, 3]]),
    ]
}

/// The inputs through which a case shows that gradients are right.
fn shows(single: &Single, seed: u64) -> Result<Vec<usize>, String> {
    let op = find(&single.node.domain, &single.node.op_type, single.opset).map_err(|error| error.to_string())?;
    let mut shown = Vec::new();
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
            Some(true) => shown.push(position),
            Some(false) => return Err(worst),
            None => {}
        }
    }
    Ok(shown)
}

#[test]
fn gradients_agree_with_central_differences() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(".native/conformance/node");
    let mut shown: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    let (mut faults, mut count) = (Vec::new(), 0);
    let official = cases(&folder).expect("the official cases");
    let official = official.iter().filter(|case| !LOSSY.iter().any(|(name, _)| case.name.ends_with(name)));
    let official = official.filter_map(|case| Some((case.name.clone(), single(case)?)));
    let own = own_cases().into_iter().map(|single| (format!("own case of {}", single.node.op_type), single));
    for (name, single) in official.chain(own) {
        match shows(&single, 1) {
            Ok(positions) => {
                count += usize::from(!positions.is_empty());
                shown.entry(single.node.op_type.clone()).or_default().extend(positions);
            }
            Err(fault) => faults.push(format!("{name}: {fault}")),
        }
    }
    let mut excused: BTreeMap<(&str, usize), &str> =
        UNSHOWN.iter().flat_map(|&(name, positions, reason)| positions.iter().map(move |&p| ((name, p), reason))).collect();
    for op in all() {
        let positions = if op.differentiable == ALL { &[0][..] } else { op.differentiable };
        for &position in positions {
            let known = shown.get(op.name).is_some_and(|shown| shown.contains(&position));
            match (known, excused.contains_key(&(op.name, position))) {
                (false, false) => {
                    faults.push(format!("{} promises gradients through input {position}, and no case shows them", op.name))
                }
                (true, true) => {
                    faults.push(format!("input {position} of {} is shown by a case, and need not be excused", op.name))
                }
                _ => {}
            }
        }
    }
    excused.retain(|(name, _), _| !all().any(|op| op.name == *name));
    faults.extend(excused.into_keys().map(|(name, _)| format!("{name} is excused and no operator")));
    for (name, positions, reason) in UNSHOWN {
        println!("not shown: {name}, inputs {positions:?}: {reason}");
    }
    for (name, reason) in LOSSY {
        println!("not shown: {name}: {reason}");
    }
    println!("{} operators by {count} cases", shown.values().filter(|shown| !shown.is_empty()).count());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
