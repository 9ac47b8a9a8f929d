//! Gradients of imported graphs against PyTorch autograd: loss, logits and every parameter, in both modes.
//!
//! The expected values were made by `tests/witness/gradients.py`; `tests/witness/README.md` has the formulas and says what is stored.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use cmira::graph::{Mode, Model, State};
use cmira::nets::{self, Backbone, InputShape};
use cmira::tensor::{Device, Tensor, set_threads, to_f64s};
use serde_json::Value;

/// The largest relative difference that is allowed.
const TOLERANCE: f64 = 1e-3;

fn witness(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/witness").join(file)
}

fn expected(file: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(witness(file)).unwrap()).unwrap()
}

fn hash(name: &str) -> u32 {
    name.bytes().fold(2_166_136_261, |h, byte| (h ^ u32::from(byte)).wrapping_mul(16_777_619))
}

fn noise(seed: u32, i: u32) -> i32 {
    let mut x = (i.wrapping_add(1)).wrapping_mul(0x9E37_79B1).wrapping_add(seed);
    x = (x ^ (x >> 16)).wrapping_mul(0x85EB_CA6B);
    x = (x ^ (x >> 13)).wrapping_mul(0xC2B2_AE35);
    x ^= x >> 16;
    (x >> 8) as i32 - (1 << 23)
}

fn spread(name: &str, count: usize, bound: f64) -> Vec<f32> {
    let (seed, factor) = (hash(name), (bound / f64::from(1 << 23)) as f32);
    (0..count as u32).map(|i| noise(seed, i) as f32 * factor).collect()
}

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

/// Compares a tensor with what is stored of it.
fn compare(what: &str, name: &str, tensor: &Tensor, stored: &Value) {
    let values = to_f64s(tensor).unwrap();
    let norm = values.iter().map(|v| v * v).sum::<f64>().sqrt();
    let number = |key: &str| stored[key].as_f64().unwrap();
    let (expected_norm, expected_max) = (number("norm"), number("max_abs"));
    let close = |key: &str, actual: f64, expected: f64, allowed: f64| {
        assert!((actual - expected).abs() <= allowed, "{what}, {name}: {key} is {actual}, PyTorch has {expected}");
    };
    close("norm", norm, expected_norm, TOLERANCE * expected_norm);
    let max = values.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
    close("max_abs", max, expected_max, TOLERANCE * expected_max);
    let direction = spread(&format!("projection {name}"), values.len(), 1.0);
    let projection: f64 = values.iter().zip(&direction).map(|(v, d)| v * f64::from(*d)).sum();
    close("projection", projection, number("projection"), TOLERANCE * expected_norm);
    close("sum", values.iter().sum(), number("sum"), TOLERANCE * expected_norm * (values.len() as f64).sqrt());
    let samples = stored["samples"].as_array().unwrap();
    assert!(!samples.is_empty());
    for sample in samples {
        let index = sample[0].as_u64().unwrap() as usize;
        close(&format!("entry {index}"), values[index], sample[1].as_f64().unwrap(), TOLERANCE * expected_max);
    }
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
            compare(what, &param.name, &param.tensor.f_grad().unwrap(), stored);
        }
        if mode == Mode::Train {
            let running = expected["running_after_train"].as_object().unwrap();
            let buffers: Vec<_> = model.buffers().collect();
            assert_eq!(running.len(), buffers.len());
            for (name, buffer) in buffers {
                compare("running statistics", name, buffer, &running[name]);
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
