//! Spectral normalisation of every weight matrix of the attack model (Miyato et al. 2018, Alg. 1).

use crate::error::Result;
use crate::graph::{Mode, Param, Parametrization};
use crate::tensor::{Device, Kind, Tensor, native, no_grad};

/// Divides every weight matrix by its largest singular value: in training estimated by one round of power iteration a step, in
/// evaluation exact, because the iteration is slow where the two largest singular values are close.
///
/// Convolutions `[O, I, h, w]` are taken as matrices `[O, I*h*w]`. Biases and normalisation scales pass unchanged. Gradients
/// flow through the division as in the paper: the singular vectors are constants, the norm `u' W v` is not.
pub struct SpectralNorm {
    /// By parameter, what is known of it; `None` before the first use and for what is no matrix.
    known: Vec<Option<Singular>>,
    state: Settled,
}

/// The largest singular value of a matrix as far as it is known.
struct Singular {
    /// Left singular vector, `[O]`.
    u: Tensor,
    /// Right singular vector, in the order of [`as_matrix`].
    v: Tensor,
    /// `u' W v`, a scalar.
    norm: Tensor,
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
        SpectralNorm { known: params.iter().map(|_| None).collect(), state: Settled::Never }
    }

    /// One round of power iteration for every matrix.
    fn follow(&mut self, params: &[Param]) -> Result<()> {
        let _guard = no_grad();
        for (known, param) in self.known.iter_mut().zip(params) {
            let Some(Singular { u, .. }) = known else { continue };
            let matrix = as_matrix(&param.tensor)?;
            let v = unit(&matrix.f_transpose(0, 1)?.f_mv(u)?)?;
            let product = matrix.f_mv(&v)?;
            // u is the product's direction, so that u' W v is its length.
            *known = Some(Singular { u: unit(&product)?, norm: product.f_norm()?, v });
        }
        Ok(())
    }

    /// The singular vectors of the present weights: eigenvectors of `W W'`, in double precision.
    fn settle(&mut self, params: &[Param]) -> Result<()> {
        let _guard = no_grad();
        for (known, param) in self.known.iter_mut().zip(params).filter(|(_, param)| param.is_weight_matrix) {
            let matrix = as_matrix(&param.tensor)?;
            let wide = matrix.f_to_kind(Kind::Double)?;
            let gram = wide.f_mm(&wide.f_transpose(0, 1)?)?;
            // Eigenvalues come in ascending order.
            let vectors = gram.f_linalg_eigh("L")?.1;
            let u = vectors.f_select(1, -1)?.f_contiguous()?.f_to_kind(param.tensor.kind())?;
            let v = unit(&matrix.f_transpose(0, 1)?.f_mv(&u)?)?;
            let norm = u.f_dot(&matrix.f_mv(&v)?)?;
            *known = Some(Singular { u, v, norm });
        }
        Ok(())
    }
}

impl Singular {
    /// The matrix divided by its largest singular value.
    fn divide(&self, weight: &Tensor) -> Result<Tensor> {
        // To read the norm makes a GPU wait; there, the division is libtorch's.
        if weight.device() == Device::Cpu
            && let Some(normal) = native::by_spectral_norm(weight, &self.u, &self.v, self.norm.f_double_value(&[])?)?
        {
            return Ok(normal);
        }
        let norm = self.u.f_dot(&as_matrix(weight)?.f_mv(&self.v)?)?;
        Ok(weight.f_div(&norm)?)
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
        let effective = self.known.iter().zip(params).map(|(known, param)| match known {
            None => Ok(param.tensor.shallow_clone()),
            Some(singular) => singular.divide(&param.tensor),
        });
        effective.collect()
    }

    fn reset(&mut self) {
        self.known.fill_with(|| None);
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

    /// In double precision the division is libtorch's, in single precision our own.
    #[test]
    fn both_ways_to_divide_agree() {
        let values: Vec<f64> = (0..4 * 3 * 3 * 2).map(|i| f64::from(i * 7 % 23) / 11.0 - 1.0).collect();
        let weights = |kind: Kind, turned: bool| {
            let weight = matrix(&values, &[4, 3, 3, 2]).to_kind(kind);
            let weight = if turned { weight.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]) } else { weight };
            Param { name: "w".into(), tensor: weight.set_requires_grad(true), is_weight_matrix: true }
        };
        let run = |param: Param| {
            let params = [param];
            let direction = matrix(&values, &[4, 3, 3, 2]).flip([0, 3]).to_kind(params[0].tensor.kind());
            let mut norm = SpectralNorm::new(&params);
            norm.apply(&params, Mode::Train).unwrap();
            let effective = norm.apply(&params, Mode::Train).unwrap().remove(0);
            let gradient =
                Tensor::f_run_backward(&[(&effective * direction).sum(None)], &[&params[0].tensor], false, false).unwrap();
            [to_f32s(&effective).unwrap(), to_f32s(&gradient[0]).unwrap()]
        };
        let expected = run(weights(Kind::Double, false));
        for turned in [false, true] {
            for (found, expected) in run(weights(Kind::Float, turned)).iter().zip(&expected) {
                assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{turned}: {found:?} {expected:?}");
            }
        }
    }

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
