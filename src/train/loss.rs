//! Cross-entropy.

use super::samples::Targets;
use crate::error::Result;
use crate::tensor::Tensor;

/// The mean over the batch of `-sum_k target_k log softmax(logits)_k`, a scalar with gradient; logits are `[n, K]`.
///
/// # Errors
/// Unexpected, when shapes do not fit, or (on the CPU) a label is not below K.
pub fn cross_entropy(logits: &Tensor, targets: &Targets) -> Result<Tensor> {
    // libtorch takes class indices and distributions alike, and tells them apart by kind.
    let target = match targets {
        Targets::Hard(labels) => labels.shallow_clone(),
        Targets::Soft(rows) => rows.f_to_kind(logits.f_kind()?)?,
    };
    Ok(logits.f_cross_entropy_loss(&target, None::<&Tensor>, crate::tensor::Reduction::Mean, -100, 0.0)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::tensor::{Device, to_f32s};

    // torch.nn.functional.cross_entropy (PyTorch 2.11, float32) of these logits, and its gradient.
    const LOGITS: [f32; 6] = [1.0, -2.0, 0.5, 0.25, 3.0, -1.0];

    fn check(targets: &Targets, loss: f32, gradient: [f32; 6]) {
        let logits = Tensor::f_from_slice(&LOGITS).unwrap().f_reshape([2, 3]).unwrap().f_set_requires_grad(true).unwrap();
        let result = cross_entropy(&logits, targets).unwrap();
        assert!((to_f32s(&result).unwrap()[0] - loss).abs() < 1e-6);
        let actual = to_f32s(&Tensor::f_run_backward(&[result], &[&logits], false, false).unwrap()[0]).unwrap();
        assert!(actual.iter().zip(gradient).all(|(a, b)| (a - b).abs() < 1e-6), "{actual:?}");
    }

    #[test]
    fn hard_labels_as_in_pytorch() {
        let gradient = [0.301_874_46, 0.015_029_443, -0.316_903_9, 0.029_534_878, -0.037_996_8, 0.008_461_884];
        check(&Targets::hard(&[2, 1], 3, Device::Cpu).unwrap(), 0.541_816_6, gradient);
    }

    #[test]
    fn distributions_as_in_pytorch() {
        let rows = Tensor::f_from_slice(&[0.7f32, 0.1, 0.2, 0.0, 0.4, 0.6]).unwrap().f_reshape([2, 3]).unwrap();
        let gradient = [-0.048_125_535, -0.034_970_56, 0.083_096_11, 0.029_534_878, 0.262_003_18, -0.291_538_12];
        check(&Targets::Soft(rows), 1.691_816_7, gradient);
    }
}
