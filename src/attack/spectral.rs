//! Spectral normalisation of every weight matrix of the attack model (Miyato et al. 2018, Alg. 1).

use crate::error::Result;
use crate::graph::{Mode, Param, Parametrization};
use crate::tensor::{Device, Kind, Tensor, no_grad};

/// Divides every weight matrix by its largest singular value: in training estimated by one round of power iteration a step, in
/// evaluation exact, because the iteration is slow where the two largest singular values are close.
///
/// Convolutions `[O, I, h, w]` are taken as matrices `[O, I*h*w]`. Biases and normalisation scales pass unchanged. Gradients
/// flow through the division as in the paper: the singular vectors are constants, the norm `u' W v` is not.
pub struct SpectralNorm {
    /// By parameter, the left singular vector as far as it is known; `None` before the first use and for what is no matrix.
    left: Vec<Option<Tensor>>,
    state: Settled,
}

/// How good the singular vectors are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settled {
    /// They are not known.
    Never,
    /// They followed the weights by one round a step.
    Following,
    /// They belong to the present weights.
    Exactly,
}

impl SpectralNorm {
    /// Knows nothing of the weights yet; the first use looks at them.
    pub fn new(params: &[Param]) -> SpectralNorm {
        SpectralNorm { left: params.iter().map(|_| None).collect(), state: Settled::Never }
    }

    /// One round of power iteration for every matrix.
    fn follow(&mut self, params: &[Param]) -> Result<()> {
        let _guard = no_grad();
        for (left, param) in self.left.iter_mut().zip(params) {
            let Some(u) = left else { continue };
            let matrix = as_matrix(&param.tensor)?;
            *u = unit(&matrix.f_mv(&unit(&matrix.f_transpose(0, 1)?.f_mv(u)?)?)?)?;
        }
        Ok(())
    }

    /// The left singular vectors of the present weights: eigenvectors of `W W'`, in double precision.
    fn settle(&mut self, params: &[Param]) -> Result<()> {
        let _guard = no_grad();
        for (left, param) in self.left.iter_mut().zip(params).filter(|(_, param)| param.is_weight_matrix) {
            let matrix = as_matrix(&param.tensor)?.f_to_kind(Kind::Double)?;
            let gram = matrix.f_mm(&matrix.f_transpose(0, 1)?)?;
            // Eigenvalues come in ascending order.
            let vectors = gram.f_linalg_eigh("L")?.1;
            *left = Some(vectors.f_select(1, -1)?.f_to_kind(param.tensor.kind())?);
        }
        Ok(())
    }
}

impl Parametrization for SpectralNorm {
    fn apply(&mut self, params: &[Param], mode: Mode) -> Result<Vec<Tensor>> {
        match (mode, self.state) {
            (Mode::Eval, Settled::Exactly) => {}
            (Mode::Train, Settled::Following | Settled::Exactly) => self.follow(params)?,
            (_, Settled::Never) | (Mode::Eval, Settled::Following) => self.settle(params)?,
        }
        self.state = if mode == Mode::Train { Settled::Following } else { Settled::Exactly };
        let mut effective = Vec::with_capacity(params.len());
        for (left, param) in self.left.iter().zip(params) {
            effective.push(match left {
                None => param.tensor.shallow_clone(),
                Some(u) => {
                    let matrix = as_matrix(&param.tensor)?;
                    let v = unit(&matrix.f_detach()?.f_transpose(0, 1)?.f_mv(u)?)?;
                    let norm = u.f_dot(&matrix.f_mv(&v)?)?;
                    param.tensor.f_div(&norm)?
                }
            });
        }
        Ok(effective)
    }

    fn reset(&mut self) {
        self.left.fill_with(|| None);
        self.state = Settled::Never;
    }
}

/// The largest singular value of a weight, by singular value decomposition: the independent check of the power iteration.
pub fn measured_norm(weight: &Tensor) -> Result<f64> {
    let _guard = no_grad();
    let values = as_matrix(weight)?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?.f_svd(true, false)?.1;
    Ok(values.f_max()?.f_double_value(&[])?)
}

/// Convolutions `[O, I, h, w]` as matrices of O rows. The order of columns changes no singular value, so it is the one in memory.
fn as_matrix(weight: &Tensor) -> Result<Tensor> {
    let in_order =
        if weight.is_contiguous() || weight.dim() != 4 { weight.shallow_clone() } else { weight.f_permute([0, 2, 3, 1])? };
    Ok(in_order.f_flatten(1, -1)?)
}

fn unit(vector: &Tensor) -> Result<Tensor> {
    Ok(vector.f_div(&vector.f_norm()?.f_clamp_min(1e-12)?)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::tensor::to_f32s;

    fn param(values: &Tensor, is_weight_matrix: bool) -> Param {
        let tensor = values.f_to_kind(Kind::Double).unwrap().f_set_requires_grad(true).unwrap();
        Param { name: "w".into(), tensor, is_weight_matrix }
    }

    fn matrix(values: &[f64], shape: &[i64]) -> Tensor {
        Tensor::f_from_slice(values).unwrap().f_reshape(shape).unwrap()
    }

    fn applied(params: &[Param], mode: Mode) -> Vec<Tensor> {
        SpectralNorm::new(params).apply(params, mode).unwrap()
    }

    #[test]
    fn evaluation_is_exact_also_where_power_iteration_would_crawl() {
        // Singular values 2, 1.9999 and 1: by ratio 0.99995, a thousand rounds are not enough.
        let close = matrix(&[2.0, 0.0, 0.0, 0.0, 1.9999, 0.0, 0.0, 0.0, 1.0], &[3, 3]);
        let kernel = matrix(&(0..36).map(|i| f64::from(i * 7 % 11) - 5.0).collect::<Vec<_>>(), &[3, 3, 2, 2]);
        let params = [param(&close, true), param(&kernel, true)];
        for mode in [Mode::Eval, Mode::Train] {
            for weight in applied(&params, mode) {
                assert!((measured_norm(&weight).unwrap() - 1.0).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn what_is_no_matrix_passes_unchanged() {
        let bias = param(&matrix(&[3.0, 4.0], &[2]), false);
        assert_eq!(to_f32s(&applied(&[bias], Mode::Train)[0]).unwrap(), [3.0, 4.0]);
    }

    #[test]
    fn training_follows_moving_weights_and_a_reset_forgets() {
        let start = matrix(&[1.0, 0.2, -0.4, 0.3, 0.5, 2.0], &[2, 3]);
        let params = [param(&start, true)];
        let mut norm = SpectralNorm::new(&params);
        norm.apply(&params, Mode::Train).unwrap();
        let step = matrix(&[0.02, -0.01, 0.0, 0.03, 0.01, -0.02], &[2, 3]);
        for _ in 0..50 {
            let moved = {
                let _guard = no_grad();
                let _ = params[0].tensor.shallow_clone().f_add_(&step).unwrap();
                norm.apply(&params, Mode::Train).unwrap()
            };
            assert!((measured_norm(&moved[0]).unwrap() - 1.0).abs() < 0.01);
        }
        norm.reset();
        let again = norm.apply(&params, Mode::Train).unwrap();
        assert!((measured_norm(&again[0]).unwrap() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn gradients_are_those_of_the_whole_division() {
        let start = matrix(&[1.0, 0.2, -0.4, 0.3, 0.5, 2.0], &[2, 3]);
        let direction = matrix(&[0.3, -1.0, 0.7, 0.2, 0.9, -0.5], &[2, 3]);
        let value = |weight: &Tensor| {
            let params = [param(weight, true)];
            let loss = applied(&params, Mode::Eval)[0].f_mul(&direction).unwrap().f_sum(Kind::Double).unwrap();
            (loss, params)
        };
        let (loss, params) = value(&start);
        loss.f_backward().unwrap();
        let gradient = params[0].tensor.f_grad().unwrap();
        for index in 0..6 {
            let unit = matrix(&(0..6).map(|i| if i == index { 1e-6 } else { 0.0 }).collect::<Vec<_>>(), &[2, 3]);
            let up = value(&start.f_add(&unit).unwrap()).0.f_double_value(&[]).unwrap();
            let down = value(&start.f_sub(&unit).unwrap()).0.f_double_value(&[]).unwrap();
            let seen = gradient.f_double_value(&[i64::from(index) / 3, i64::from(index) % 3]).unwrap();
            assert!((seen - (up - down) / 2e-6).abs() < 1e-6, "{index}: {seen} {}", (up - down) / 2e-6);
        }
    }
}
