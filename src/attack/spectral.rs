//! Spectral normalisation of every weight matrix of the attack model (Miyato et al. 2018, Alg. 1).

use crate::error::Result;
use crate::graph::{Mode, Param, Parametrization};
use crate::tensor::{Device, Kind, Tensor, no_grad, rng};

/// Rounds of power iteration before evaluation, at most. One round a training step keeps the vectors close already.
const SETTLING_ROUNDS: usize = 200;
/// These rounds end when the norm moves by less than this, relatively.
const SETTLED: f64 = 1e-5;

/// Divides every weight matrix by its largest singular value, estimated by power iteration.
///
/// Convolutions `[O, I, h, w]` are taken as matrices `[O, I*h*w]`. Biases and normalisation scales pass unchanged. Gradients
/// flow through the division as in the paper: the singular vectors are constants, the norm `u' W v` is not.
pub struct SpectralNorm {
    /// By parameter, where the power iteration starts; `None` for those that are no matrices.
    start: Vec<Option<Tensor>>,
    /// By parameter, the left singular vector as far as it is known.
    left: Vec<Option<Tensor>>,
    state: Settled,
}

/// How good the singular vectors are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settled {
    /// Random: they have to settle before anything is computed with them.
    Never,
    /// They followed the weights by one round a step.
    Following,
    /// They belong to the present weights.
    Exactly,
}

impl SpectralNorm {
    /// Starts from random vectors for the weight matrices among `params`.
    pub fn new(params: &[Param], seed: u64) -> Result<SpectralNorm> {
        use rand_distr::{Distribution, StandardNormal};
        let mut start = Vec::with_capacity(params.len());
        for (index, param) in params.iter().enumerate() {
            let rows = param.tensor.size().first().copied().unwrap_or(1);
            start.push(if param.is_weight_matrix {
                let mut rng = rng(seed, "spectral norm", index as u64);
                let values: Vec<f32> = (0..rows).map(|_| StandardNormal.sample(&mut rng)).collect();
                Some(unit(&Tensor::f_from_slice(&values)?.f_to_device(param.tensor.device())?)?)
            } else {
                None
            });
        }
        let left = copies(&start);
        Ok(SpectralNorm { start, left, state: Settled::Never })
    }

    fn power_iterations(&mut self, params: &[Param], rounds: usize) -> Result<()> {
        let _guard = no_grad();
        for (left, param) in self.left.iter_mut().zip(params) {
            let Some(u) = left else { continue };
            let matrix = as_matrix(&param.tensor)?;
            if rounds == 1 {
                *u = unit(&matrix.f_mv(&unit(&matrix.f_transpose(0, 1)?.f_mv(u)?)?)?)?;
                continue;
            }
            let mut before = 0.0;
            for _ in 0..rounds {
                let image = matrix.f_mv(&unit(&matrix.f_transpose(0, 1)?.f_mv(u)?)?)?;
                let norm = image.f_norm()?.f_double_value(&[])?;
                *u = unit(&image)?;
                if (norm - before).abs() <= SETTLED * norm {
                    break;
                }
                before = norm;
            }
        }
        Ok(())
    }
}

impl Parametrization for SpectralNorm {
    fn apply(&mut self, params: &[Param], mode: Mode) -> Result<Vec<Tensor>> {
        let rounds = match (mode, self.state) {
            (Mode::Eval, Settled::Exactly) => 0,
            (Mode::Train, Settled::Following | Settled::Exactly) => 1,
            (_, Settled::Never) | (Mode::Eval, Settled::Following) => SETTLING_ROUNDS,
        };
        if rounds > 0 {
            self.power_iterations(params, rounds)?;
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
        self.left = copies(&self.start);
        self.state = Settled::Never;
    }
}

/// Handles are enough: the vectors are replaced, never changed in place.
fn copies(vectors: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
    vectors.iter().map(|v| v.as_ref().map(Tensor::shallow_clone)).collect()
}

/// The largest singular value of a weight, by singular value decomposition: the independent check of the power iteration.
pub fn measured_norm(weight: &Tensor) -> Result<f64> {
    let _guard = no_grad();
    let values = as_matrix(weight)?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?.f_svd(true, false)?.1;
    Ok(values.f_max()?.f_double_value(&[])?)
}

fn as_matrix(weight: &Tensor) -> Result<Tensor> {
    Ok(weight.f_flatten(1, -1)?)
}

fn unit(vector: &Tensor) -> Result<Tensor> {
    Ok(vector.f_div(&vector.f_norm()?.f_clamp_min(1e-12)?)?)
}
