//! Operators: quant.

use super::Op;

/// The rows of this family.
pub const OPS: &[Op] = &[];
