//! What a network makes of images: logits, predictions, accuracy.

use super::network::{Logits, Network};
use super::samples::{Images, Samples};
use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor, no_grad};

/// Logits `[N, K]` of all images in order, in evaluation mode, in float32 and without gradients, computed `batch_size` at a time (0
/// counts as 1).
///
/// # Errors
/// Data, when there is no image.
pub fn logits(network: &dyn Network, images: &dyn Images, batch_size: usize) -> Result<Tensor> {
    in_batches(images, batch_size, &network.evaluator()?)
}

/// What `logits` gives for all images in order, without gradients, `batch_size` at a time (0 counts as 1).
///
/// # Errors
/// Data, when there is no image.
pub fn in_batches(images: &dyn Images, batch_size: usize, logits: &Logits<'_>) -> Result<Tensor> {
    let _guard = no_grad();
    let all = positions(images)?;
    let batches = all.f_split(i64::try_from(batch_size.max(1)).unwrap_or(i64::MAX), 0)?;
    let rows = batches.iter().map(|batch| logits(&images.images(batch)?));
    Ok(Tensor::f_cat(&rows.collect::<Result<Vec<_>>>()?, 0)?)
}

/// The class that each image is taken for, and how surely.
#[derive(Debug)]
pub struct Predictions {
    /// Class indices, int64 `[N]`.
    pub classes: Tensor,
    /// The softmax probability of that class, float `[N]`, from 1 / K to 1.
    pub confidences: Tensor,
}

/// The most likely class of each row of logits `[N, K]`.
///
/// # Errors
/// Unexpected, when `logits` has another shape.
pub fn predictions(logits: &Tensor) -> Result<Predictions> {
    let (confidences, classes) = logits.f_detach()?.f_softmax(1, Kind::Float)?.f_max_dim(1, false)?;
    Ok(Predictions { classes, confidences })
}

/// Top-1 accuracy in percent, from 0 to 100; of soft targets the most likely class counts.
///
/// # Errors
/// Data, when there is no image.
pub fn accuracy(network: &dyn Network, samples: &dyn Samples, batch_size: usize) -> Result<f64> {
    let predicted = predictions(&logits(network, samples, batch_size)?)?.classes;
    let labels = samples.targets(&positions(samples)?)?.labels()?.f_to_device(predicted.device())?;
    let right = predicted.f_eq_tensor(&labels)?.f_sum(Kind::Int64)?.f_int64_value(&[])?;
    Ok(100.0 * right as f64 / samples.len() as f64)
}

/// 0 to N - 1, where the images want it.
fn positions(images: &dyn Images) -> Result<Tensor> {
    if images.is_empty() {
        return Err(Error::data("there is no image to look at"));
    }
    let count = i64::try_from(images.len()).map_err(Error::data)?;
    Ok(Tensor::f_arange(count, (Kind::Int64, images.device()))?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::error::ErrorKind;
    use crate::tensor::{to_f32s, to_i64s};
    use crate::train::testing::{Linear, four, noisy};

    #[test]
    fn predictions_are_arg_max_and_softmax() {
        let logits = Tensor::f_from_slice(&[0.0f32, 3.0f32.ln(), 0.0, 0.0, -1.0, -1.0]).unwrap().f_reshape([2, 3]).unwrap();
        let predictions = predictions(&logits).unwrap();
        assert_eq!(to_i64s(&predictions.classes).unwrap(), [1, 0]);
        let confidences = to_f32s(&predictions.confidences).unwrap();
        // 3 / (1 + 3 + 1), and 1 / (1 + 2 / e).
        assert!((confidences[0] - 0.6).abs() < 1e-6 && (confidences[1] - 0.576_117).abs() < 1e-6, "{confidences:?}");
    }

    #[test]
    fn batch_size_does_not_change_logits() {
        let (network, images) = (Linear::new(), noisy(7));
        let whole = logits(&network, &images, 7).unwrap();
        assert_eq!(whole.size(), [7, 2]);
        assert!(!whole.requires_grad());
        for batch_size in [0, 1, 3, 100] {
            let difference = (&whole - logits(&network, &images, batch_size).unwrap()).abs().max();
            assert!(to_f32s(&difference).unwrap()[0] < 1e-6);
        }
    }

    #[test]
    fn accuracy_is_in_percent() {
        // Logits by hand: [0.7, -0.15], [-0.5, 0.25], [-0.1, 0.15], [-0.35, 0.2]; the labels are 0, 1, 1, 0.
        assert_eq!(accuracy(&Linear::new(), &four(), 3).unwrap(), 75.0);
        assert_eq!(accuracy(&Linear::new(), &noisy(0), 3).unwrap_err().kind(), ErrorKind::Data);
    }
}
