//! What a forward pass costs, counted rather than timed.

use serde::Serialize;

use crate::error::Result;
use crate::graph::Mode;
use crate::graph::model::Model;
use crate::graph::plan::{LOGITS, Step};
use crate::tensor::{Kind, Tensor, is_float, no_grad};

/// Of one image on its way to the logits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Multiplications, each with an addition, in convolutions and matrix products. Training takes three times as many: forwards, for the
    /// gradient of the input, and for that of the weights.
    pub multiplications: u64,
    /// Numbers that nodes write, views of what is there already not counted.
    pub numbers: u64,
}

impl Model {
    /// Counts what a forward pass over images of a shape `[C, H, W]` costs, by running one image.
    ///
    /// # Errors
    /// What a node raises.
    pub fn cost(&self, shape: [i64; 3]) -> Result<Cost> {
        let _guard = no_grad();
        let image = Tensor::f_zeros([1, shape[0], shape[1], shape[2]], (Kind::Float, self.device()))?;
        let mut cost = Cost::default();
        let plan = &self.shared.plan;
        let stored = &self.stored;
        let mut known: Vec<Option<Tensor>> = vec![Some(image.shallow_clone())];
        known.resize_with(plan.slots, || None);
        let _ = plan.run_watched(stored, &image, Mode::Eval, LOGITS, &mut |step, outputs| {
            let inputs = step.find_inputs(stored, &known);
            if let Some(output) = outputs.first() {
                cost.multiplications += multiplications(step, &inputs, output);
                let is_view = inputs.iter().flatten().any(|input| input.data_ptr() == output.data_ptr());
                if is_float(output.kind()) && !is_view {
                    cost.numbers += output.numel() as u64;
                }
            }
            step.store(outputs.iter().map(Tensor::shallow_clone).collect(), &mut known);
            Ok(())
        })?;
        Ok(cost)
    }
}

/// Of one node: every number of the output of a product is a sum over as many products as an inner axis is long.
fn multiplications(step: &Step, inputs: &[Option<&Tensor>], output: &Tensor) -> u64 {
    let size = |input: usize, axis: usize| -> u64 {
        let shape = inputs.get(input).copied().flatten().map(Tensor::size).unwrap_or_default();
        shape.get(axis).and_then(|&side| u64::try_from(side).ok()).unwrap_or(1)
    };
    let numbers = |input: usize| inputs.get(input).copied().flatten().map_or(0, |tensor| tensor.numel() as u64);
    let inner = match step.operator {
        // Of a filter [O, C / groups, h, w], one output's sum.
        "Conv" => numbers(1) / size(1, 0).max(1),
        // A filter is [C, O / groups, h, w] and every number of the input meets a whole row of it.
        "ConvTranspose" => return numbers(0) * (numbers(1) / size(1, 0).max(1)),
        // Of A [n, k] or [k, n], what A has beside the rows of the output.
        "Gemm" => numbers(0) / output.size().first().map_or(1, |&rows| u64::try_from(rows).unwrap_or(1)).max(1),
        "MatMul" | "FusedMatMul" => {
            let rank = inputs.first().copied().flatten().map_or(0, Tensor::dim);
            size(0, rank.saturating_sub(1))
        }
        _ => return 0,
    };
    output.numel() as u64 * inner
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::nets::{self, Backbone, InputShape};
    use crate::tensor::Device;

    /// ResNet18 in its CIFAR form is known for 0.56 billion multiplications an image: 0.555 in convolutions, and 512 for every class.
    #[test]
    fn the_known_cost_of_resnet18() {
        let input = InputShape { channels: 3, height: 32, width: 32 };
        let proto = nets::classifier(Backbone::Resnet18, input, 10, 0).unwrap();
        let cost = Model::from_proto("resnet18", proto, Device::Cpu).unwrap().cost([3, 32, 32]).unwrap();
        let stem = 64 * 1024 * 27;
        let stage = |side: u64, inputs: u64, width: u64, shortcut: bool| {
            let place = 9 * width * (inputs + 3 * width) + if shortcut { inputs * width } else { 0 };
            side * side * place
        };
        let convolutions =
            stem + stage(32, 64, 64, false) + stage(16, 64, 128, true) + stage(8, 128, 256, true) + stage(4, 256, 512, true);
        assert_eq!(cost.multiplications, convolutions + 5120);
        // Every convolution's output is normalised, most are activated: some two and a half numbers for one.
        assert!((1_200_000..2_200_000).contains(&cost.numbers), "{}", cost.numbers);
    }
}
