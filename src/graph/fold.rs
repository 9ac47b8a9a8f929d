//! Evaluation with normalisation folded into the convolutions before it, and with the sum and the activation behind it in the same kernel.

use std::collections::HashMap;

use crate::error::{Place, Result};
use crate::graph::ops::Link;
use crate::graph::plan::{Plan, Source, Step};
use crate::tensor::native::{self, Then};
use crate::tensor::{Device, Kind, Tensor, no_grad};

/// What takes the place of convolutions and of the [chains](crate::graph::chain) behind them, by the place of the convolution.
pub(crate) struct Folds(HashMap<usize, Fold>);

/// A convolution that normalises: `norm(conv(x)) = conv'(x)` with filters `w factor` and bias `(b - mean) factor + shift`, where
/// `factor = scale / sqrt(variance + epsilon)`.
struct Fold {
    weight: Tensor,
    bias: Tensor,
}

impl Folds {
    /// Of a plan with these tensors, as they are now.
    pub fn of(plan: &Plan, stored: &[Tensor]) -> Result<Folds> {
        let _guard = no_grad();
        let mut folds = HashMap::new();
        for (&norm, chain) in &plan.chains {
            let Some(place) = norm.checked_sub(1).filter(|_| chain.overwrites) else { continue };
            let (convolution, norm) = (&plan.steps[place], &plan.steps[norm]);
            let follows =
                convolution.outputs.first().copied().flatten().map(Source::Slot) == norm.inputs.first().copied().flatten();
            if !matches!(convolution.link, Some(Link::Conv(_))) || !follows {
                continue;
            }
            let known = |source: Option<Source>| match source {
                Some(Source::Stored(index)) => {
                    stored.get(index).filter(|tensor| tensor.kind() == Kind::Float && tensor.device() == Device::Cpu)
                }
                _ => None,
            };
            let Some([_, scale, shift, mean, variance]) = norm.inputs.get(..5) else { continue };
            let tensors = [convolution.inputs.get(1).copied().flatten(), *scale, *shift, *mean, *variance].map(known);
            let [Some(weight), Some(scale), Some(shift), Some(mean), Some(variance)] = tensors else { continue };
            let bias = match convolution.inputs.get(2).copied().flatten() {
                None => None,
                some => match known(some) {
                    Some(bias) => Some(bias),
                    None => continue,
                },
            };
            // As many scales as filters: what does not fit is refused where it is run.
            if weight.dim() != 4 || scale.size() != weight.size()[..1] {
                continue;
            }
            let double = |tensor: &Tensor| tensor.f_to_kind(Kind::Double);
            let factor = double(scale)?.f_div(&double(variance)?.f_add_scalar(chain.norm.epsilon)?.f_sqrt()?)?;
            let centre = match bias {
                Some(bias) => double(bias)?.f_sub(&double(mean)?)?,
                None => double(mean)?.f_neg()?,
            };
            let bias = centre.f_mul(&factor)?.f_add(&double(shift)?)?.f_to_kind(Kind::Float)?;
            let weight = weight.f_mul(&factor.f_to_kind(Kind::Float)?.f_reshape([-1, 1, 1, 1])?)?;
            folds.insert(place, Fold { weight, bias });
        }
        Ok(Folds(folds))
    }

    /// Runs the convolution at `place` and the chain behind it; gives how many steps that were, and the output of the last. `None` where
    /// that is no such place, or the tensors are none that this can be computed on.
    pub fn run(&self, plan: &Plan, place: usize, stored: &[Tensor], slots: &[Option<Tensor>]) -> Result<Option<(usize, Tensor)>> {
        let (Some(fold), Some(chain)) = (self.0.get(&place), plan.chains.get(&(place + 1))) else { return Ok(None) };
        let step = &plan.steps[place];
        let (Some(Link::Conv(convolution)), Some(Some(x))) = (&step.link, step.find_inputs(stored, slots).first().copied())
        else {
            return Ok(None);
        };
        let Some(over) = convolution.over(x, &fold.weight).at(|| &step.label)? else { return Ok(None) };
        let other = match chain.other {
            None => None,
            Some(source) => match source.find(stored, slots) {
                Some(other) => Some(other),
                None => return Ok(None),
            },
        };
        let output = fold.run(x, &over, other, chain.relu, chain.overwrites_other).at(|| &step.label)?;
        Ok(output.map(|output| (1 + chain.len(), output)))
    }

    /// The places, for tests and reports.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl Fold {
    fn run(
        &self,
        x: &Tensor,
        over: &crate::graph::ops::ConvolutionSteps,
        other: Option<&Tensor>,
        relu: bool,
        overwrite: bool,
    ) -> Result<Option<Tensor>> {
        let shape = [x.size()[0], self.weight.size()[0], over.places[0], over.places[1]];
        if other.is_some_and(|other| other.size() != shape) {
            return Ok(None);
        }
        if over.groups == 1
            && let Some(mut y) = native::conv_by_product(x, &self.weight, Some(&self.bias), over.steps, &over.places)?
        {
            if let Some(other) = other {
                y = y.f_add_(other)?;
            }
            return Ok(Some(if relu { y.f_relu_()? } else { y }));
        }
        native::conv_act(x, &self.weight, &self.bias, over.steps, over.groups, Then { other, relu, overwrite })
    }
}

/// Whether this step's first output is a tensor of its own, and not another's under a second name.
pub(crate) fn gives_new(step: &Step) -> bool {
    matches!(step.link, Some(Link::Conv(_) | Link::Norm(_) | Link::Add | Link::Relu))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::graph::{Model, Precision};
    use crate::nets::{self, Backbone, InputShape};
    use crate::tensor::to_f32s;

    /// Every convolution of these networks is followed by normalisation, and evaluation with all of them folded gives the same scores.
    #[test]
    fn folded_networks_give_the_same_scores() {
        for (backbone, convolutions) in [(Backbone::Resnet8, 9), (Backbone::Vgg5, 4), (Backbone::Resnet18, 20)] {
            let input = InputShape { channels: 3, height: 32, width: 32 };
            let model = Model::from_proto("model", nets::classifier(backbone, input, 10, 3).unwrap(), Device::Cpu).unwrap();
            let _guard = no_grad();
            for (_, statistic) in model.buffers() {
                let _ = statistic.shallow_clone().f_uniform_(0.5, 1.5).unwrap();
            }
            let folds = Folds::of(&model.shared.plan, &model.effective(crate::graph::Mode::Eval).unwrap()).unwrap();
            assert_eq!(folds.len(), convolutions, "{backbone}");
            let images = Tensor::f_rand([3, 3, 32, 32], (Kind::Float, Device::Cpu)).unwrap();
            let expected = to_f32s(&model.forward(&images, crate::graph::Mode::Eval).unwrap()).unwrap();
            let found = to_f32s(&model.evaluator(Precision::Fp32).unwrap().logits(&images).unwrap()).unwrap();
            let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            assert!(
                expected.iter().zip(&found).all(|(a, b)| (a - b).abs() < 2e-5 * largest),
                "{backbone}: {expected:?} {found:?}"
            );
        }
    }
}
