//! What a network makes of an image before its last layer.

use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::graph::Mode;
use crate::graph::model::Model;
use crate::graph::plan::{LOGITS, Plan, Source};
use crate::tensor::{Kind, Tensor};

impl Model {
    /// Penultimate features `[N, D]` (paper, Figure 5) of normalised images `[N, C, H, W]`, in evaluation mode and float32: what the last
    /// product with weights (a convolution or linear layer) reads on the way to the logits, averaged over places or tokens. They are the
    /// logits themselves where there is no such product, and the numbers of the image where the first one is the last. `None` where what it
    /// reads cannot be told apart by image.
    ///
    /// # Errors
    /// What a node raises, with its name.
    pub fn features(&self, images: &Tensor) -> Result<Option<Tensor>> {
        let images = images.f_to_kind(self.shared.input_kind)?;
        let plan = &self.shared.plan;
        // Scores that are scaled by a constant matrix have no layer more.
        let is_weight = |index: usize| {
            let trained = self.shared.stored.get(index).is_some_and(|info| info.trainable);
            trained && self.stored.get(index).is_some_and(|tensor| tensor.dim() >= 2)
        };
        let last = LastLayer::of(plan, is_weight);
        let wanted = last.as_ref().map(|layer| layer.reads);
        // The images are the graph's only input.
        let mut found = (wanted == Some(0)).then(|| images.shallow_clone());
        let logits = plan.run_watched(&self.effective(Mode::Eval)?, &images, Mode::Eval, LOGITS, &mut |step, outputs| {
            let position = step.outputs.iter().position(|slot| slot.is_some() && *slot == wanted);
            if let Some(value) = position.and_then(|position| outputs.get(position)) {
                found = Some(value.shallow_clone());
            }
            Ok(())
        })?;
        let axis = last.map_or(Axis::Last, |layer| layer.axis);
        one_row_each(&found.unwrap_or(logits), images.size().first().copied().unwrap_or(0), axis)
    }
}

/// Which axis of what a layer reads is summed over with its weights.
#[derive(Clone, Copy, PartialEq)]
enum Axis {
    /// A convolution's channels.
    Second,
    Last,
    /// Where the weights stand on the left.
    BeforeLast,
}

/// The last layer before the logits.
struct LastLayer {
    /// The slot of what it reads.
    reads: usize,
    axis: Axis,
}

impl LastLayer {
    fn of(plan: &Plan, is_weight: impl Fn(usize) -> bool) -> Option<LastLayer> {
        // Slots that depend on constants alone, and those of them that weights are part of: weights may be transposed or dequantised first.
        let (mut fixed, mut weighted): (HashSet<usize>, HashSet<usize>) = (HashSet::new(), HashSet::new());
        let mut last = None;
        for step in plan.first_steps() {
            let inputs = || step.inputs.iter().flatten().copied();
            let has_weights = inputs().any(|source| match source {
                Source::Stored(index) => is_weight(index),
                Source::Slot(slot) => weighted.contains(&slot),
            });
            let read = inputs().enumerate().find_map(|(place, source)| match source {
                Source::Slot(slot) if !fixed.contains(&slot) => Some((place, slot)),
                _ => None,
            });
            match read {
                Some((place, reads)) if has_weights => {
                    let axis = match step.operator {
                        "Conv" | "ConvTranspose" => Axis::Second,
                        "Gemm" | "MatMul" | "FusedMatMul" | "Einsum" if place == 0 => Axis::Last,
                        "Gemm" | "MatMul" | "FusedMatMul" | "Einsum" => Axis::BeforeLast,
                        // Not a product: a slope, a scale of each channel.
                        _ => continue,
                    };
                    last = Some(LastLayer { reads, axis });
                }
                Some(_) => {}
                None => {
                    fixed.extend(step.outputs.iter().flatten());
                    if has_weights {
                        weighted.extend(step.outputs.iter().flatten());
                    }
                }
            }
        }
        last
    }
}

/// Means over all axes but the images' and that of the features.
fn one_row_each(value: &Tensor, count: i64, axis: Axis) -> Result<Option<Tensor>> {
    let value = value.f_to_kind(Kind::Float)?;
    let shape = value.size();
    let value = match (shape.as_slice(), axis) {
        // All tokens of all images below each other.
        ([rows, features], Axis::Last) if count > 0 && *rows > count && rows % count == 0 => {
            value.f_reshape([count, rows / count, *features])?
        }
        // Features above images.
        ([_, images], Axis::BeforeLast) if *images == count => value.f_transpose(0, 1)?,
        ([images, ..], _) if *images == count => value,
        _ => return Ok(None),
    };
    let rank = value.dim();
    let kept = match axis {
        Axis::Second => 1,
        Axis::BeforeLast if rank > 2 => rank - 2,
        _ => rank - 1,
    };
    if rank < 2 {
        return Ok(Some(value.f_reshape([count, -1])?));
    }
    let kept = i64::try_from(kept).map_err(Error::unexpected)?;
    let rows = value.f_movedim_int(kept, 1)?;
    Ok(Some(if rank == 2 { rows } else { rows.f_flatten(2, -1)?.f_mean_dim([2_i64].as_slice(), false, Kind::Float)? }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::nets::{Backbone, InputShape, classifier};
    use crate::tensor::{Device, no_grad, to_f32s};

    #[test]
    fn the_last_layer_makes_the_logits_of_the_features() {
        let _guard = no_grad();
        let input = InputShape { channels: 3, height: 16, width: 16 };
        for backbone in [Backbone::Resnet8, Backbone::Vgg5] {
            let model = Model::from_proto("m", classifier(backbone, input, 5, 1).unwrap(), Device::Cpu).unwrap();
            let images = Tensor::f_arange(2 * 3 * 16 * 16, (Kind::Float, Device::Cpu)).unwrap().f_sin().unwrap();
            let images = images.f_reshape([2, 3, 16, 16]).unwrap();
            let features = model.features(&images).unwrap().unwrap();
            let parameters = model.params();
            let [weight, bias] = parameters.last_chunk().unwrap();
            assert_eq!((weight.tensor.size()[0], bias.tensor.size()), (5, vec![5]), "{}", weight.name);
            let logits = features.f_linear(&weight.tensor, Some(&bias.tensor)).unwrap();
            let expected = model.forward(&images, Mode::Eval).unwrap();
            let difference = (logits - expected).f_abs().unwrap().f_max().unwrap();
            assert!(to_f32s(&difference).unwrap()[0] < 1e-5, "{backbone}");
        }
    }

    #[test]
    fn features_are_told_apart_by_image_or_not_at_all() {
        let value = |shape: &[i64]| {
            let count = shape.iter().product::<i64>();
            Tensor::f_arange(count, (Kind::Float, Device::Cpu)).unwrap().f_reshape(shape).unwrap()
        };
        let of = |shape: &[i64], axis| {
            let rows = one_row_each(&value(shape), 2, axis).unwrap()?;
            Some((rows.size(), to_f32s(&rows).unwrap()))
        };
        // Channels of a convolution, averaged over four places.
        assert_eq!(of(&[2, 1, 2, 2], Axis::Second), Some((vec![2, 1], vec![1.5, 5.5])));
        // Channels last: averaged over both places.
        assert_eq!(of(&[2, 1, 2, 2], Axis::Last), Some((vec![2, 2], vec![1.0, 2.0, 5.0, 6.0])));
        // Weights on the left of features above tokens.
        assert_eq!(of(&[2, 1, 2], Axis::BeforeLast), Some((vec![2, 1], vec![0.5, 2.5])));
        // Three tokens of each image below each other; features above images.
        assert_eq!(of(&[6, 1], Axis::Last), Some((vec![2, 1], vec![1.0, 4.0])));
        assert_eq!(of(&[3, 2], Axis::BeforeLast), Some((vec![2, 3], vec![0.0, 2.0, 4.0, 1.0, 3.0, 5.0])));
        assert_eq!(of(&[5, 3], Axis::Last), None);
    }
}
