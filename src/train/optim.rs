//! Stochastic gradient descent.

use crate::error::{Error, Result};
use crate::graph::Param;
use crate::tensor::native::{Descent, descend};
use crate::tensor::{Kind, Tensor, no_grad};

/// SGD with momentum, weight decay and, if wanted, Nesterov's look-ahead, without dampening: the update rule of
/// `torch.optim.SGD`, `g = gradient + weight_decay * p; v = momentum * v + g; p -= rate * v` (with Nesterov
/// `p -= rate * (g + momentum * v)`).
#[derive(Debug)]
pub struct Sgd {
    params: Vec<Tensor>,
    /// One for each parameter, of its shape; empty without momentum.
    velocities: Vec<Tensor>,
    momentum: f64,
    weight_decay: f64,
    nesterov: bool,
}

impl Sgd {
    /// An optimiser at rest for these parameters, which it updates in place.
    ///
    /// # Errors
    /// Unexpected, when libtorch cannot allocate.
    pub fn new(params: &[Param], momentum: f64, weight_decay: f64, nesterov: bool) -> Result<Self> {
        let velocity = |param: &Param| -> Result<Tensor> { Ok(param.tensor.f_detach()?.f_zeros_like()?) };
        Ok(Sgd {
            params: params.iter().map(|param| param.tensor.shallow_clone()).collect(),
            velocities: if momentum == 0.0 { Vec::new() } else { params.iter().map(velocity).collect::<Result<_>>()? },
            momentum,
            weight_decay,
            nesterov,
        })
    }

    /// The gradients of a scalar with respect to the parameters. One that the scalar does not depend on is not defined.
    ///
    /// # Errors
    /// Unexpected, when the scalar carries no gradient.
    pub fn gradients(&self, scalar: &Tensor) -> Result<Vec<Tensor>> {
        Ok(Tensor::f_run_backward(&[scalar], &self.params, false, false)?)
    }

    /// One step at a learning rate. The gradients, one for each parameter, stay as they are; a parameter whose gradient is not
    /// defined stays as it is.
    ///
    /// # Errors
    /// Unexpected, when numbers or shapes do not fit.
    pub fn step(&mut self, gradients: Vec<Tensor>, learning_rate: f64) -> Result<()> {
        if gradients.len() != self.params.len() {
            return Err(Error::unexpected(format!("{} gradients for {} parameters", gradients.len(), self.params.len())));
        }
        let _guard = no_grad();
        // A kernel takes parameters of one kind; nearly always there is one.
        let mut kinds: Vec<Kind> = Vec::new();
        for kind in self.params.iter().map(Tensor::kind) {
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        for kind in kinds {
            let chosen = |index: &usize| gradients[*index].defined() && self.params[*index].kind() == kind;
            let chosen: Vec<usize> = (0..gradients.len()).filter(chosen).collect();
            fn pick<'a>(from: &'a [Tensor], indices: &[usize]) -> Vec<&'a Tensor> {
                indices.iter().filter_map(|&index| from.get(index)).collect()
            }
            let (momentum, weight_decay, nesterov) = (self.momentum, self.weight_decay, self.nesterov);
            let descent = Descent { weight_decay, momentum, learning_rate, nesterov };
            descend(&pick(&self.params, &chosen), &pick(&gradients, &chosen), &pick(&self.velocities, &chosen), descent)?;
        }
        Ok(())
    }

    /// The velocities in the order of the parameters; none without momentum.
    pub fn velocities(&self) -> &[Tensor] {
        &self.velocities
    }

    /// Copies velocities back in.
    ///
    /// # Errors
    /// Data, when their number or a shape differs.
    pub fn load_velocities(&mut self, velocities: &[Tensor]) -> Result<()> {
        let same = |(own, other): (&Tensor, &Tensor)| own.size() == other.size();
        if velocities.len() != self.velocities.len() || !self.velocities.iter().zip(velocities).all(same) {
            return Err(Error::data("the momentum belongs to other parameters"));
        }
        for (own, other) in self.velocities.iter_mut().zip(velocities) {
            own.f_copy_(other)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::tensor::to_f32s;

    fn leaf(name: &str, values: &[f32]) -> Param {
        let tensor = Tensor::f_from_slice(values).unwrap().f_set_requires_grad(true).unwrap();
        Param { name: name.to_string(), tensor, is_weight_matrix: false }
    }

    fn close(actual: &Tensor, expected: &[f32]) {
        let actual = to_f32s(actual).unwrap();
        assert!(actual.iter().zip(expected).all(|(a, b)| (a - b).abs() < 2e-6), "{actual:?} is not {expected:?}");
    }

    /// Four steps of `torch.optim.SGD([w, b], momentum=0.9, weight_decay=0.05)` (PyTorch 2.11, float32) on
    /// `(w ** 3).sum() + ((b * [2, 3]) ** 2).sum()`, at the rates 0.1, 0.1 / 2, 0.1 / 3, 0.1 / 4.
    #[test]
    fn momentum_and_weight_decay_as_in_pytorch() {
        let expected: [(bool, &[f32], &[f32]); 2] = [
            (false, &[0.266_555_22, -0.322_865_1, 0.221_836_4, 0.274_104_48], &[-0.048_882_652, -0.020_819_17]),
            (true, &[0.204_876_74, -0.367_947_8, 0.076_205_455, 0.172_732_01], &[-0.016_705_215, -0.044_284_042]),
        ];
        for (nesterov, weights, biases) in expected {
            let params = [leaf("w", &[0.5, -0.25, 1.0, 0.75]), leaf("b", &[0.1, -0.2]), leaf("unused", &[3.0])];
            let mut sgd = Sgd::new(&params, 0.9, 0.05, nesterov).unwrap();
            let factors = Tensor::f_from_slice(&[2.0f32, 3.0]).unwrap();
            for step in 1..=4 {
                let cubes = params[0].tensor.f_pow_tensor_scalar(3).unwrap().f_sum(None).unwrap();
                let squares = params[1].tensor.f_mul(&factors).unwrap().f_square().unwrap().f_sum(None).unwrap();
                let gradients = sgd.gradients(&cubes.f_add(&squares).unwrap()).unwrap();
                sgd.step(gradients, 0.1 / f64::from(step)).unwrap();
            }
            close(&params[0].tensor, weights);
            close(&params[1].tensor, biases);
            // PyTorch, too, leaves alone what got no gradient, weight decay included.
            close(&params[2].tensor, &[3.0]);
        }
    }

    /// The gradient of a filter may have its numbers in another order in memory than the filter.
    #[test]
    fn the_order_in_memory_does_not_matter() {
        let values: Vec<f32> = (0..24_i16).map(f32::from).collect();
        let gradient = Tensor::f_from_slice(&values).unwrap().reshape([2, 3, 2, 2]);
        let turned = gradient.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
        let after = |gradient: &Tensor, param: Tensor| {
            let params = [Param { name: "w".into(), tensor: param.set_requires_grad(true), is_weight_matrix: true }];
            let mut sgd = Sgd::new(&params, 0.9, 0.1, false).unwrap();
            for _ in 0..2 {
                sgd.step(vec![gradient.shallow_clone()], 0.5).unwrap();
            }
            to_f32s(&params[0].tensor).unwrap()
        };
        let expected = after(&gradient, gradient.copy());
        assert_eq!(after(&turned, gradient.copy()), expected);
        assert_eq!(after(&gradient, turned.copy()), expected);
        assert_eq!(after(&turned, turned.copy()), expected);
    }

    /// Three steps of `torch.optim.SGD([w], lr=0.1)` on `(w ** 2).sum()`.
    #[test]
    fn without_momentum_there_is_nothing_to_keep() {
        let params = [leaf("w", &[0.5, -1.5])];
        let mut sgd = Sgd::new(&params, 0.0, 0.0, false).unwrap();
        for _ in 0..3 {
            let gradients = sgd.gradients(&params[0].tensor.f_square().unwrap().f_sum(None).unwrap()).unwrap();
            sgd.step(gradients, 0.1).unwrap();
        }
        close(&params[0].tensor, &[0.256, -0.768]);
        assert!(sgd.velocities().is_empty());
        assert!(sgd.load_velocities(&[Tensor::f_from_slice(&[0.0f32]).unwrap()]).is_err());
    }
}
