//! What a network makes of an image before its last layer.

use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::graph::Mode;
use crate::graph::model::Model;
use crate::graph::plan::{LOGITS, Plan, Source};
use crate::tensor::{Kind, Tensor};

impl Model {
    /// Penultimate features `[N, D]` (paper, Figure 5) of normalised images `[N, C, H, W]`, in evaluation mode and float32: what the last
    /// layer with a matrix of weights reads on the way to the logits, averaged over places or tokens. They are the logits themselves where
    /// no layer has such weights, and the numbers of the image where the first one is the last.
    ///
    /// # Errors
    /// What a node raises, with its name.
    pub fn features(&self, images: &Tensor) -> Result<Tensor> {
        let images = images.f_to_kind(self.shared.input_kind)?;
        let plan = &self.shared.plan;
        let wanted = input_of_last_layer(plan, |index| self.shared.stored.get(index).is_some_and(|info| info.is_weight_matrix));
        // The images are the graph's only input.
        let mut found = (wanted == Some(0)).then(|| images.shallow_clone());
        let logits = plan.run_watched(&self.effective(Mode::Eval)?, &images, Mode::Eval, LOGITS, &mut |step, outputs| {
            let position = step.outputs.iter().position(|slot| slot.is_some() && *slot == wanted);
            if let Some(value) = position.and_then(|position| outputs.get(position)) {
                found = Some(value.shallow_clone());
            }
            Ok(())
        })?;
        one_row_each(&found.unwrap_or(logits), images.size().first().copied().unwrap_or(0))
    }
}

/// The slot that the last step reads which multiplies by weights.
fn input_of_last_layer(plan: &Plan, is_weight_matrix: impl Fn(usize) -> bool) -> Option<usize> {
    // Slots that depend on constants alone, and those of them that weights are part of: weights may be transposed or dequantised first.
    let (mut fixed, mut weighted): (HashSet<usize>, HashSet<usize>) = (HashSet::new(), HashSet::new());
    let mut last = None;
    for step in plan.first_steps() {
        let inputs = || step.inputs.iter().flatten().copied();
        let has_weights = inputs().any(|source| match source {
            Source::Stored(index) => is_weight_matrix(index),
            Source::Slot(slot) => weighted.contains(&slot),
        });
        let read = inputs().find_map(|source| match source {
            Source::Slot(slot) if !fixed.contains(&slot) => Some(slot),
            _ => None,
        });
        match read {
            Some(slot) if has_weights => last = Some(slot),
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

/// `[N, C, H, W]` and `[N, tokens, D]` averaged over places and tokens.
fn one_row_each(value: &Tensor, count: i64) -> Result<Tensor> {
    let value = value.f_to_kind(Kind::Float)?;
    let shape = value.size();
    if shape.first() != Some(&count) {
        let reason = format!("the last layer reads {shape:?} for {count} images, which are no features of each");
        return Err(Error::unsupported(reason));
    }
    Ok(match shape.len() {
        0 | 1 => value.f_reshape([count, -1])?,
        2 => value,
        3 => value.f_mean_dim([1_i64].as_slice(), false, Kind::Float)?,
        _ => value.f_flatten(2, -1)?.f_mean_dim([2_i64].as_slice(), false, Kind::Float)?,
    })
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
            let features = model.features(&images).unwrap();
            let parameters = model.params();
            let [weight, bias] = parameters.last_chunk().unwrap();
            assert_eq!((weight.tensor.size()[0], bias.tensor.size()), (5, vec![5]), "{}", weight.name);
            let logits = features.f_linear(&weight.tensor, Some(&bias.tensor)).unwrap();
            let expected = model.forward(&images, Mode::Eval).unwrap();
            let difference = (logits - expected).f_abs().unwrap().f_max().unwrap();
            assert!(to_f32s(&difference).unwrap()[0] < 1e-5, "{backbone}");
        }
    }
}
