//! Gradients of imported graphs against PyTorch autograd: loss, logits and every parameter, in both modes.
//!
//! The expected values were made by `tests/witness/gradients.py`; `tests/witness/README.md` has the formulas and says what is stored.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use cmira::graph::{Mode, Model, State};
use cmira::nets::{self, Backbone, InputShape};
use cmira::tensor::{Device, Tensor, set_threads, to_f64s};
use serde_json::Value;

use crate::common::witness::{compare, expected, hash, noise, spread, witness};

/// The largest relative difference that is allowed.
const TOLERANCE: f64 = 1e-3;

#[test]
fn the_formula_is_the_documented_one() {
    assert_eq!(hash("conv1.weight"), 0xbdce_c494);
    let values: Vec<i32> = (0..4).map(|i| noise(hash("conv1.weight"), i)).collect();
    assert_eq!(values, [4_465_307, 7_071_898, -5_877_249, 7_686_547]);
}

fn value_of(name: &str, shape: &[i64], expected: &Value) -> Tensor {
    let count = shape.iter().product::<i64>() as usize;
    let step = expected["bias_step"].as_f64().unwrap();
    let values: Vec<f32> = if let Some(biases) = expected["biases"].get(name) {
        biases.as_array().unwrap().iter().map(|b| (b.as_f64().unwrap() * step) as f32).collect()
    } else if shape.len() >= 2 {
        let fan_in: i64 = shape[1..].iter().product();
        spread(name, count, (6.0 / fan_in as f64).sqrt())
    } else if name.ends_with(".weight") {
        spread(name, count, 0.5).iter().map(|v| 1.0 + v).collect()
    } else if name.ends_with(".running_var") {
        spread(name, count, 1.0).iter().map(|v| 2.0 + v).collect()
    } else {
        spread(name, count, 0.2)
    };
    assert_eq!(values.len(), count, "{name}");
    Tensor::f_from_slice(&values).unwrap().f_view(shape).unwrap()
}

/// Puts the documented values into every parameter and running statistic.
fn fill(model: &Model, expected: &Value) {
    let state = model.state().unwrap();
    let filled = state.0.iter().map(|(name, tensor)| (name.clone(), value_of(name, &tensor.size(), expected))).collect();
    model.load_state(&State(filled)).unwrap();
}

fn agrees(make: impl Fn() -> Model, expected: &Value) {
    set_threads(1);
    let images = Tensor::f_from_slice(&spread("images", 8 * 3 * 32 * 32, 2.0)).unwrap().f_view([8, 3, 32, 32]).unwrap();
    let labels: Vec<i64> = expected["labels"].as_array().unwrap().iter().map(|l| l.as_i64().unwrap()).collect();
    let labels = Tensor::f_from_slice(&labels).unwrap();
    for (what, mode) in [("train", Mode::Train), ("eval", Mode::Eval)] {
        let model = make();
        let stored = &expected["modes"][what];
        let logits = model.forward(&images, mode).unwrap();
        let flat: Vec<f64> = stored["logits"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|row| row.as_array().unwrap())
            .map(|v| v.as_f64().unwrap())
            .collect();
        let scale = flat.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
        let ours = to_f64s(&logits).unwrap();
        assert_eq!(ours.len(), flat.len());
        assert!(ours.iter().zip(&flat).all(|(a, b)| (a - b).abs() <= TOLERANCE * scale), "{what}: logits");
        let loss = logits.f_cross_entropy_loss(&labels, None::<&Tensor>, tch::Reduction::Mean, -100, 0.0).unwrap();
        let expected_loss = stored["loss"].as_f64().unwrap();
        assert!((loss.f_double_value(&[]).unwrap() - expected_loss).abs() <= TOLERANCE * expected_loss, "{what}: loss");
        loss.f_backward().unwrap();
        let gradients = stored["gradients"].as_object().unwrap();
        assert_eq!(gradients.len(), model.params().len(), "{what}: parameters");
        for param in model.params() {
            let stored = gradients.get(&param.name).unwrap_or_else(|| panic!("PyTorch has no parameter {}", param.name));
            compare(what, &param.name, &param.tensor.f_grad().unwrap(), stored, TOLERANCE);
        }
        if mode == Mode::Train {
            let running = expected["running_after_train"].as_object().unwrap();
            let buffers: Vec<_> = model.buffers().collect();
            assert_eq!(running.len(), buffers.len());
            for (name, buffer) in buffers {
                compare("running statistics", name, buffer, &running[name], TOLERANCE);
            }
        }
    }
}

#[test]
fn a_small_exported_network_agrees_with_pytorch() {
    let expected = expected("small_cnn.json");
    agrees(|| Model::open(&witness("small_cnn.onnx"), Device::Cpu).unwrap(), &expected);
}

#[test]
fn resnet18_agrees_with_pytorch() {
    let expected = expected("resnet18.json");
    let shape = InputShape { channels: 3, height: 32, width: 32 };
    let make = || {
        let model =
            Model::from_proto("resnet18", nets::classifier(Backbone::Resnet18, shape, 10, 0).unwrap(), Device::Cpu).unwrap();
        fill(&model, &expected);
        model
    };
    agrees(make, &expected);
}
