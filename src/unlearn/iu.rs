//! IU: influence unlearning (Koh and Liang 2017; Izzo et al. 2021; as Jia et al. 2023 use it, with the WoodFisher curvature of
//! Singh and Alistarh 2020).

use super::curvature::{Passes, dot};
use super::{Method, Needs, Sets, Setting, Start, Step, UnlearnSettings};
use crate::error::{Error, Result};
use crate::graph::Mode;
use crate::tensor::{Kind, Reduction, Tensor, deep_copy, no_grad};
use crate::train::{Control, Network, Samples, Targets};

/// Takes one Newton-like step to where the loss on the retain set alone has its minimum:
/// `w + alpha (damping I + F)^(-1) v`, with `v = 1/n sum over D_f of grad l - n_f / (n n_r) sum over D_r of grad l`, and the empirical
/// Fisher information `F = 1/N sum grad l grad l'` on the retain set in the place of the Hessian.
pub(super) struct InfluenceUnlearning;

impl Method for InfluenceUnlearning {
    fn name(&self) -> &'static str {
        "IU"
    }

    fn summary(&self) -> &'static str {
        "takes the forget images' influence on the weights back"
    }

    fn needs(&self) -> Needs {
        Needs { start: Start::Original, retain: true, forget: true }
    }

    fn heeds(&self) -> &'static [Setting] {
        &[Setting::BatchSize, Setting::Seed, Setting::Alpha, Setting::Damping, Setting::CurvatureImages]
    }

    fn tuned(&self) -> Option<Setting> {
        Some(Setting::Alpha)
    }

    fn candidates(&self) -> &'static [f64] {
        &[0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0]
    }

    fn defaults(&self) -> UnlearnSettings {
        UnlearnSettings { alpha: 16.0, damping: 1.0, curvature_images: 1000, ..UnlearnSettings::default() }
    }

    fn step(
        &self,
        network: &dyn Network,
        sets: &Sets,
        settings: &UnlearnSettings,
        control: &mut Control,
    ) -> Result<Option<Step>> {
        settings.check()?;
        let (retain, forget) = (sets.retain(self)?, sets.forget(self)?);
        let difference = difference(network, retain, forget, settings, control)?;
        let passes = Passes::new(retain, settings.curvature_images, settings.train.batch_size, settings.train.seed)?;
        let mut curvature = Curvature::of(network, retain, passes, settings.damping, control)?;
        curvature.solve(&difference, control).map(Some)
    }
}

/// `v`: by how much the mean gradient over all training images changes when the forget images get the weight 0.
fn difference(
    network: &dyn Network,
    retain: &dyn Samples,
    forget: &dyn Samples,
    settings: &UnlearnSettings,
    control: &mut Control,
) -> Result<Vec<Tensor>> {
    let (n_r, n_f) = (retain.len() as f64, forget.len() as f64);
    let n = n_r + n_f;
    let mut sum: Vec<Tensor> = network.params().iter().map(|p| Ok(wide(&p.tensor)?.f_zeros_like()?)).collect::<Result<_>>()?;
    for (data, weight) in [(forget, 1.0 / n), (retain, -n_f / (n * n_r))] {
        let mut passes = Passes::new(data, 0, settings.train.batch_size, settings.train.seed)?;
        while let Some(indices) = passes.next(control)? {
            let loss = losses(network, data, &indices)?.f_sum(None::<Kind>)?;
            add(&mut sum, &gradients(&loss, network, false, false)?, weight)?;
        }
    }
    Ok(sum)
}

/// Cross-entropy of each image, in evaluation.
fn losses(network: &dyn Network, data: &dyn Samples, indices: &Tensor) -> Result<Tensor> {
    each_loss(&network.exact(&data.images(indices)?, Mode::Eval)?, data, indices)
}

fn each_loss(logits: &Tensor, data: &dyn Samples, indices: &Tensor) -> Result<Tensor> {
    let target = match data.targets(indices)? {
        Targets::Hard(labels) => labels,
        Targets::Soft(rows) => rows.f_to_kind(logits.f_kind()?)?,
    };
    Ok(logits.f_cross_entropy_loss(&target, None::<&Tensor>, Reduction::None, -100, 0.0)?)
}

fn gradients(scalar: &Tensor, network: &dyn Network, keep: bool, create: bool) -> Result<Vec<Tensor>> {
    let params: Vec<&Tensor> = network.params().iter().map(|param| &param.tensor).collect();
    Ok(Tensor::f_run_backward(&[scalar], &params, keep, create)?)
}

/// `sum += factor * other`; what is not defined is zero.
fn add(sum: &mut [Tensor], other: &[Tensor], factor: f64) -> Result<()> {
    let _guard = no_grad();
    for (sum, other) in sum.iter_mut().zip(other).filter(|(_, other)| other.defined()) {
        let _ = sum.f_add_(&wide(other)?.f_mul_scalar(factor)?)?;
    }
    Ok(())
}

/// Sums over many images, and the linear system, are kept in double precision.
fn wide(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.f_detach()?.f_to_kind(Kind::Double)?)
}

/// The damped empirical Fisher information of a network, as a linear map.
struct Curvature<'a> {
    network: &'a dyn Network,
    data: &'a dyn Samples,
    passes: Passes,
    damping: f64,
    /// The gradients of all images, for each parameter as a matrix `[N, numbers]`, where these do not take too much memory.
    stored: Option<Vec<Tensor>>,
}

/// Where the linear system counts as solved: products with the curvature are in single precision.
const TOLERANCE: f64 = 1e-6;

/// The greatest residual that is let pass after [`MOST_ITERATIONS`].
const TOLERATED: f64 = 1e-2;

const MOST_ITERATIONS: usize = 100;

/// 1 GiB of float gradients.
const MOST_STORED: usize = 1 << 28;

impl<'a> Curvature<'a> {
    fn of(
        network: &'a dyn Network,
        data: &'a dyn Samples,
        mut passes: Passes,
        damping: f64,
        control: &mut Control,
    ) -> Result<Curvature<'a>> {
        let numbers: usize = network.params().iter().map(|param| param.tensor.numel()).sum();
        let mut stored = None;
        if numbers.saturating_mul(passes.count()) <= MOST_STORED {
            let count = i64::try_from(passes.count()).map_err(Error::unexpected)?;
            let rows = |tensor: &Tensor| -> Result<Tensor> {
                let length = i64::try_from(tensor.numel()).map_err(Error::unexpected)?;
                Ok(Tensor::f_zeros([count, length], (Kind::Float, tensor.device()))?)
            };
            let all = network.params().iter().map(|param| rows(&param.tensor)).collect::<Result<Vec<_>>>()?;
            let gradients = network.example_gradients(&data.images(&passes.first(2)?)?)?;
            let mut done = 0;
            while let Some(indices) = passes.next(control)? {
                let each = |logits: &Tensor, first: i64| -> Result<Vec<Tensor>> {
                    let indices = indices.f_narrow(0, first, logits.size()[0])?;
                    Ok(vec![each_loss(logits, data, &indices)?])
                };
                gradients.of(&data.images(&indices)?, &each, &mut |found| {
                    let _guard = no_grad();
                    let rows = all.get(found.param).ok_or_else(|| Error::unexpected("a gradient of no parameter"))?;
                    let own = found.gradients.f_flatten(1, -1)?;
                    rows.f_narrow(0, done + found.first, own.size()[0])?.f_copy_(&own)?;
                    Ok(())
                })?;
                done += indices.size()[0];
            }
            stored = Some(all);
        }
        Ok(Curvature { network, data, passes, damping, stored })
    }

    /// `damping x + 1/N sum over the images of g (g' x)`.
    fn times(&mut self, x: &[Tensor], control: &mut Control) -> Result<Vec<Tensor>> {
        match &self.stored {
            Some(rows) => self.by_rows(rows, x),
            None => self.by_passes(x, control),
        }
    }

    fn by_rows(&self, rows: &[Tensor], x: &[Tensor]) -> Result<Vec<Tensor>> {
        let _guard = no_grad();
        let mut along: Option<Tensor> = None;
        for (rows, x) in rows.iter().zip(x) {
            let own = rows.f_mv(&x.f_flatten(0, -1)?.f_to_kind(Kind::Float)?)?.f_to_kind(Kind::Double)?;
            along = Some(if let Some(sum) = along { sum.f_add(&own)? } else { own });
        }
        let along = along.ok_or_else(|| Error::unexpected("there are no parameters"))?;
        let along = along.f_div_scalar(self.passes.count() as f64)?.f_to_kind(Kind::Float)?;
        let image = |(rows, x): (&Tensor, &Tensor)| -> Result<Tensor> {
            let own = rows.f_transpose(0, 1)?.f_mv(&along)?.f_to_kind(Kind::Double)?;
            Ok(x.f_mul_scalar(self.damping)?.f_add(&own.f_reshape(x.size())?)?)
        };
        rows.iter().zip(x).map(image).collect()
    }

    /// All products `g' x` of a batch come from one backward pass through the gradient of a weighted sum of losses, with respect to
    /// the weights.
    fn by_passes(&mut self, x: &[Tensor], control: &mut Control) -> Result<Vec<Tensor>> {
        let mut result = x.iter().map(|x| Ok(x.f_mul_scalar(self.damping)?)).collect::<Result<Vec<_>>>()?;
        let count = self.passes.count() as f64;
        self.passes.rewind();
        while let Some(indices) = self.passes.next(control)? {
            let losses = losses(self.network, self.data, &indices)?;
            let weights = losses.f_detach()?.f_ones_like()?.f_set_requires_grad(true)?;
            let weighted = losses.f_mul(&weights)?.f_sum(None::<Kind>)?;
            let mut product: Option<Tensor> = None;
            for (gradient, x) in gradients(&weighted, self.network, true, true)?.iter().zip(x) {
                if gradient.defined() {
                    let own = gradient.f_mul(&x.f_to_kind(gradient.f_kind()?)?)?.f_sum(None::<Kind>)?;
                    product = Some(if let Some(sum) = product { sum.f_add(&own)? } else { own });
                }
            }
            let Some(product) = product else { continue };
            let along = Tensor::f_run_backward(&[product], &[&weights], true, false)?;
            let Some(along) = along.first().filter(|along| along.defined()) else { continue };
            let weighted = losses.f_mul(&along.f_detach()?)?.f_sum(None::<Kind>)?;
            add(&mut result, &gradients(&weighted, self.network, false, false)?, 1.0 / count)?;
        }
        Ok(result)
    }

    /// Solves `(damping I + F) x = b` by conjugate gradients.
    ///
    /// # Errors
    /// Unexpected, when the system is too ill-conditioned.
    fn solve(&mut self, b: &[Tensor], control: &mut Control) -> Result<Step> {
        let mut x = b.iter().map(|b| Ok(b.f_zeros_like()?)).collect::<Result<Vec<_>>>()?;
        let mut rest = b.iter().map(deep_copy).collect::<Result<Vec<_>>>()?;
        let mut direction = rest.iter().map(deep_copy).collect::<Result<Vec<_>>>()?;
        let start = dot(b, b)?;
        let mut length = start;
        let mut iterations = 0;
        while length > TOLERANCE * TOLERANCE * start && iterations < MOST_ITERATIONS {
            let image = self.times(&direction, control)?;
            let step = length / dot(&direction, &image)?;
            add(&mut x, &direction, step)?;
            add(&mut rest, &image, -step)?;
            let next = dot(&rest, &rest)?;
            for (direction, rest) in direction.iter_mut().zip(&rest) {
                *direction = direction.f_mul_scalar(next / length)?.f_add(rest)?;
            }
            length = next;
            iterations += 1;
        }
        let residual = if start > 0.0 { (length / start).sqrt() } else { 0.0 };
        if residual.is_nan() || residual > TOLERATED {
            let error = Error::unexpected(format!(
                "the linear system of IU is not solved after {iterations} iterations: a share of {residual:.1e} is left"
            ));
            return Err(error.help(format!("use a damping above {}", self.damping)));
        }
        let notes =
            vec![("iterations of the linear system", iterations as f64), ("share of the right-hand side that is left", residual)];
        Ok(Step { change: x, notes })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::tensor::to_f64s;
    use crate::train::testing::{Linear, noisy};

    #[test]
    fn stored_gradients_and_passes_give_the_same_products() {
        let (network, data) = (Linear::new(), noisy(11));
        let passes = Passes::new(&data, 7, 3, 1).unwrap();
        let mut control = Control::default();
        let mut curvature = Curvature::of(&network, &data, passes, 0.25, &mut control).unwrap();
        let x = [&[1.0, -2.0, 0.5, 3.0, 0.25, -1.0][..], &[0.75, -0.5]].map(|x| Tensor::f_from_slice(x).unwrap());
        let x = [x[0].f_reshape([2, 3]).unwrap(), x[1].shallow_clone()];
        let stored = curvature.times(&x, &mut control).unwrap();
        assert!(curvature.stored.take().is_some());
        let passes = curvature.times(&x, &mut control).unwrap();
        for (stored, passes) in stored.iter().zip(&passes) {
            assert_eq!(stored.size(), passes.size());
            let (stored, passes) = (to_f64s(stored).unwrap(), to_f64s(passes).unwrap());
            assert!(stored.iter().zip(&passes).all(|(a, b)| (a - b).abs() < 1e-5), "{stored:?} {passes:?}");
        }
        // Damping alone would give a quarter.
        assert!((to_f64s(&stored[0]).unwrap()[0] - 0.25).abs() > 1e-3);
    }
}
