//! The attack model's head.

use super::builder::{Builder, Value};
use crate::error::Result;

/// The initializer that holds the factor of the logits: a constant of the architecture, not a parameter.
pub const SCALE: &str = "head.scale";

/// From features `[F]` to logits `[K]`: linear to `hidden`, rectifier, linear to `classes`, times the constant `scale`.
///
/// The constant makes up for what spectral normalisation takes: two layers that stretch nothing leave logits too small to
/// learn from. It is not learned, because weight decay would pull it to zero and the Lipschitz bound with it.
///
/// # Errors
/// Usage, when `features` is no vector, a size is 0 or too large, or `scale` is not a finite number above zero.
pub fn mlp(builder: &mut Builder, features: &Value, hidden: usize, classes: usize, scale: f64) -> Result<Value> {
    let mut x = builder.gemm("head.fc1", features, hidden)?;
    x = builder.relu("head.relu", &x);
    x = builder.gemm("head.fc2", &x, classes)?;
    builder.scale("head.mul", &x, SCALE, scale)
}
