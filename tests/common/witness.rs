//! Reference values made by PyTorch: `tests/witness/README.md` has the formulas and says what is stored.

use std::path::{Path, PathBuf};

use cmira::tensor::{Tensor, to_f64s};
use serde_json::Value;

pub fn witness(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/witness").join(file)
}

pub fn expected(file: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(witness(file)).unwrap()).unwrap()
}

pub fn hash(name: &str) -> u32 {
    name.bytes().fold(2_166_136_261, |h, byte| (h ^ u32::from(byte)).wrapping_mul(16_777_619))
}

pub fn noise(seed: u32, i: u32) -> i32 {
    let mut x = (i.wrapping_add(1)).wrapping_mul(0x9E37_79B1).wrapping_add(seed);
    x = (x ^ (x >> 16)).wrapping_mul(0x85EB_CA6B);
    x = (x ^ (x >> 13)).wrapping_mul(0xC2B2_AE35);
    x ^= x >> 16;
    (x >> 8) as i32 - (1 << 23)
}

pub fn spread(name: &str, count: usize, bound: f64) -> Vec<f32> {
    let (seed, factor) = (hash(name), (bound / f64::from(1 << 23)) as f32);
    (0..count as u32).map(|i| noise(seed, i) as f32 * factor).collect()
}

/// Compares a tensor with what is stored of it, at a relative tolerance.
pub fn compare(what: &str, name: &str, tensor: &Tensor, stored: &Value, tolerance: f64) {
    let values = to_f64s(tensor).unwrap();
    let norm = values.iter().map(|v| v * v).sum::<f64>().sqrt();
    let number = |key: &str| stored[key].as_f64().unwrap();
    let (expected_norm, expected_max) = (number("norm"), number("max_abs"));
    let close = |key: &str, actual: f64, expected: f64, allowed: f64| {
        assert!((actual - expected).abs() <= allowed, "{what}, {name}: {key} is {actual}, PyTorch has {expected}");
    };
    close("norm", norm, expected_norm, tolerance * expected_norm);
    let max = values.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
    close("max_abs", max, expected_max, tolerance * expected_max);
    let direction = spread(&format!("projection {name}"), values.len(), 1.0);
    let projection: f64 = values.iter().zip(&direction).map(|(v, d)| v * f64::from(*d)).sum();
    close("projection", projection, number("projection"), tolerance * expected_norm);
    close("sum", values.iter().sum(), number("sum"), tolerance * expected_norm * (values.len() as f64).sqrt());
    let samples = stored["samples"].as_array().unwrap();
    assert!(!samples.is_empty());
    for sample in samples {
        let index = sample[0].as_u64().unwrap() as usize;
        close(&format!("entry {index}"), values[index], sample[1].as_f64().unwrap(), tolerance * expected_max);
    }
}
