//! Evaluation with normalisation folded into the convolutions before it, and with the sum and the activation behind it in the same kernel.

use std::collections::HashMap;

use crate::error::{Place, Result};
use crate::graph::ops::{ConvolutionSteps, Link};
use crate::graph::plan::{Plan, Source};
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

    /// How many steps a fold at `place` stands for: the convolution and the chain behind it. `None` where there is none.
    pub fn length(&self, plan: &Plan, place: usize) -> Option<usize> {
        let chain = plan.chains.get(&(place + 1)).filter(|_| self.0.contains_key(&place))?;
        Some(1 + chain.len())
    }

    /// The output of the last of the steps at `place`; `None` where the tensors are none that a fold can be computed on.
    pub fn run(&self, plan: &Plan, place: usize, stored: &[Tensor], slots: &[Option<Tensor>]) -> Result<Option<Tensor>> {
        let (Some(fold), Some(chain)) = (self.0.get(&place), plan.chains.get(&(place + 1))) else { return Ok(None) };
        let step = &plan.steps[place];
        let (Some(Link::Conv(convolution)), Some(Some(x))) = (&step.link, step.find_inputs(stored, slots).first().copied())
        else {
            return Ok(None);
        };
        let Some(over) = convolution.over(x, &fold.weight).at(|| &step.label)? else { return Ok(None) };
        let Some(other) = chain.operand(stored, slots) else { return Ok(None) };
        // What the convolution reads while it writes is not written over.
        let overwrite = chain.overwrites_other && chain.other != step.inputs.first().copied().flatten();
        fold.run(x, &over, Then { other, relu: chain.relu, overwrite }).at(|| &step.label)
    }
}

impl Fold {
    fn run(&self, x: &Tensor, over: &ConvolutionSteps, then: Then<'_>) -> Result<Option<Tensor>> {
        let shape = [x.size()[0], self.weight.size()[0], over.places[0], over.places[1]];
        if then.other.is_some_and(|other| other.size() != shape) {
            return Ok(None);
        }
        if over.groups == 1
            && let Some(mut y) = native::conv_by_product(x, &self.weight, Some(&self.bias), over.steps, &over.places)?
        {
            if let Some(other) = then.other {
                y = y.f_add_(other)?;
            }
            return Ok(Some(if then.relu { y.f_relu_()? } else { y }));
        }
        native::conv_act(x, &self.weight, &self.bias, over.steps, over.groups, then)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::graph::{Mode, Model, Precision};
    use crate::nets::builder::{Builder, Value};
    use crate::nets::{self, Backbone, InputShape};
    use crate::onnx::proto::ModelProto;
    use crate::onnx::to_proto;
    use crate::tensor::to_f32s;

    const INPUT: InputShape = InputShape { channels: 3, height: 32, width: 32 };

    /// Evaluation with so many convolutions folded gives the scores that the operators give one by one.
    fn compare(name: &str, proto: ModelProto, convolutions: usize) {
        let model = Model::from_proto("model", proto, Device::Cpu).unwrap();
        let _guard = no_grad();
        for (_, statistic) in model.buffers() {
            let _ = statistic.shallow_clone().f_uniform_(0.5, 1.5).unwrap();
        }
        let stored = model.effective(Mode::Eval).unwrap();
        let plan = &model.shared.plan;
        assert_eq!(Folds::of(plan, &stored).unwrap().0.len(), convolutions, "{name}");
        let images = Tensor::f_rand([3, 3, 32, 32], (Kind::Float, Device::Cpu)).unwrap();
        let one_by_one = to_f32s(&plan.run(&stored, &images, Mode::Eval, crate::graph::plan::LOGITS).unwrap()).unwrap();
        let chained = to_f32s(&model.forward(&images, Mode::Eval).unwrap()).unwrap();
        let folded = to_f32s(&model.evaluator(Precision::Fp32).unwrap().logits(&images).unwrap()).unwrap();
        let largest = one_by_one.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        for (what, found) in [("chained", chained), ("folded", folded)] {
            let close = one_by_one.iter().zip(&found).all(|(a, b)| (a - b).abs() < 2e-5 * largest);
            assert!(close, "{name}, {what}: {one_by_one:?} {found:?}");
        }
    }

    #[test]
    fn networks_give_the_same_scores() {
        for (backbone, convolutions) in [(Backbone::Resnet8, 9), (Backbone::Vgg5, 4), (Backbone::Resnet18, 20)] {
            compare(&backbone.to_string(), nets::classifier(backbone, INPUT, 10, 3).unwrap(), convolutions);
        }
    }

    #[test]
    fn biases_of_convolutions_are_folded_as_well() {
        let mut proto = nets::classifier(Backbone::Resnet8, INPUT, 10, 3).unwrap();
        let graph = proto.graph.mut_or_insert_default();
        let filters: HashMap<String, i64> =
            graph.initializer.iter().filter(|t| t.dims.len() == 4).map(|t| (t.name.clone(), t.dims[0])).collect();
        for node in graph.node.iter_mut().filter(|node| node.op_type == "Conv") {
            let name = format!("{}.bias", node.input[1]);
            let bias = Tensor::f_linspace(-0.5, 1.0, filters[&node.input[1]], (Kind::Float, Device::Cpu)).unwrap();
            graph.initializer.push(to_proto(&name, &bias).unwrap());
            node.input.push(name);
        }
        compare("with biases", proto, 9);
    }

    /// A result takes the place of what it is added to only where nobody reads that any more, under whatever name.
    #[test]
    fn what_is_still_read_is_not_overwritten() {
        for (view, deep) in [(false, false), (true, false), (false, true), (true, true)] {
            let mut net = Builder::new(INPUT, 1).unwrap();
            let images = net.images();
            let block = |net: &mut Builder, name: &str, x: &Value| {
                let x = net.conv(&format!("{name}.conv"), x, 32, 3, 1).unwrap();
                net.batch_norm(&format!("{name}.norm"), &x).unwrap()
            };
            let first = block(&mut net, "first", &images);
            let x = net.relu("first.relu", &first);
            let named_again = view.then(|| net.relu("again", &x));
            // The convolution reads what its result is added to, or something else.
            let inner = deep.then(|| block(&mut net, "inner", &x)).map(|inner| net.relu("inner.relu", &inner));
            let second = block(&mut net, "second", inner.as_ref().unwrap_or(&x));
            let sum = net.add("second.sum", &second, &x).unwrap();
            let mut y = net.relu("second.relu", &sum);
            // And so does somebody behind the sum, under another name.
            if let Some(again) = &named_again {
                y = net.add("late", &y, again).unwrap();
            }
            let pooled = net.global_average_pool("pool", &y).unwrap();
            let row = net.flatten("row", &pooled).unwrap();
            let scores = net.gemm("scores", &row, 10).unwrap();
            let mut proto = net.finish("residual", &scores).unwrap();
            for node in &mut proto.graph.mut_or_insert_default().node {
                if node.name == "again" {
                    node.op_type = "Identity".into();
                }
            }
            compare(&format!("view {view}, deep {deep}"), proto, if deep { 3 } else { 2 });
        }
    }
}
