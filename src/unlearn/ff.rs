//! FF: Fisher forgetting (Golatkar et al. 2020, "Eternal sunshine of the spotless net"; Becker and Liebig 2022).

use rand_distr::{Distribution, StandardNormal};

use super::curvature::Passes;
use super::{Method, Needs, Sets, Setting, Start, Step, UnlearnSettings};
use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor, no_grad, rng};
use crate::train::{Control, Network, Samples, TrainSettings};

/// What alpha counts: the noise's standard deviation is so many ten-thousandths of `(F + damping)^(-1/4)`. Chosen so that the
/// paper's alphas (Table A2: 16.5 to 20) are of use.
const UNIT: f64 = 1e-4;

/// Adds Gaussian noise to every weight, the more the less the retain set depends on it: of standard deviation
/// `1e-4 alpha (F + damping)^(-1/4)`, F being the weight's diagonal entry of the Fisher information on the retain set.
pub(super) struct FisherForgetting;

impl Method for FisherForgetting {
    fn name(&self) -> &'static str {
        "FF"
    }

    fn summary(&self) -> &'static str {
        "adds noise to what the retain set does not depend on"
    }

    fn needs(&self) -> Needs {
        Needs { start: Start::Original, retain: true, forget: false }
    }

    fn heeds(&self) -> &'static [Setting] {
        &[Setting::BatchSize, Setting::Seed, Setting::Alpha, Setting::Damping, Setting::CurvatureImages]
    }

    fn tuned(&self) -> Option<Setting> {
        Some(Setting::Alpha)
    }

    fn candidates(&self) -> &'static [f64] {
        &[1.0, 2.0, 4.0, 8.0, 12.0, 16.5, 20.0, 25.0, 32.0, 45.0, 64.0, 90.0, 128.0]
    }

    fn defaults(&self) -> UnlearnSettings {
        UnlearnSettings { alpha: 16.5, damping: 1e-8, ..UnlearnSettings::default() }
    }

    fn step(
        &self,
        network: &dyn Network,
        sets: &Sets,
        settings: &UnlearnSettings,
        control: &mut Control,
    ) -> Result<Option<Step>> {
        settings.check()?;
        let fisher = Fisher::of(network, sets.retain(self)?, settings.curvature_images, &settings.train, control)?;
        fisher.noise(settings).map(Some)
    }
}

/// The diagonal of the Fisher information of a network on a set of images.
pub struct Fisher {
    /// `F_j = mean over x of sum over y of p(y|x) (d log p(y|x) / d w_j)^2`, for each parameter and of its shape, in double precision:
    /// the expectation over images and, for every image by itself, over the classes as the network believes in them. No label is used.
    pub diagonal: Vec<Tensor>,
    /// Parameters whose gradients had to be computed image by image.
    pub one_by_one: usize,
}

impl Fisher {
    /// Measures it in evaluation mode, on `images` images of the set chosen by the seed, or on all if that is 0.
    ///
    /// # Errors
    /// Data, when there is no image; Interrupted, when [`Control::stop`] is set.
    pub fn of(
        network: &dyn Network,
        data: &dyn Samples,
        images: usize,
        settings: &TrainSettings,
        control: &mut Control,
    ) -> Result<Fisher> {
        let params = network.params();
        let zeros = |tensor: &Tensor| -> Result<Tensor> { Ok(tensor.f_detach()?.f_to_kind(Kind::Double)?.f_zeros_like()?) };
        let mut diagonal = params.iter().map(|param| zeros(&param.tensor)).collect::<Result<Vec<_>>>()?;
        // Gradients of all images of a batch are held for one parameter at a time.
        let largest = params.iter().map(|param| param.tensor.numel()).max().unwrap_or(1).max(1);
        let batch_size = settings.batch_size.min((MOST_NUMBERS / largest).max(1));
        let mut passes = Passes::new(data, images, batch_size, settings.seed)?;
        let trial = data.images(&passes.first(2)?)?;
        let gradients = network.example_gradients(&trial)?;
        let count = passes.count();
        while let Some(indices) = passes.next(control)? {
            gradients.of(&data.images(&indices)?, &believed, &mut |found| {
                let _guard = no_grad();
                let squares = found.gradients.f_square()?.f_sum_dim_intlist(0_i64, false, Kind::Double)?;
                let sum = diagonal.get_mut(found.param).ok_or_else(|| Error::unexpected("a gradient of no parameter"))?;
                let _ = sum.f_add_(&squares)?;
                Ok(())
            })?;
        }
        let one_by_one = gradients.one_by_one().len();
        for sum in &mut diagonal {
            let _ = sum.f_div_scalar_(count as f64)?;
        }
        Ok(Fisher { diagonal, one_by_one })
    }

    /// The noise of FF for alpha 1, drawn by the settings' seed alone: on every device the same.
    fn noise(&self, settings: &UnlearnSettings) -> Result<Step> {
        let _guard = no_grad();
        let mut change = Vec::with_capacity(self.diagonal.len());
        for (index, fisher) in (0..).zip(&self.diagonal) {
            let mut chance = rng(settings.train.seed, "FF: noise", index);
            let draws: Vec<f64> = StandardNormal.sample_iter(&mut chance).take(fisher.numel()).collect();
            let draws = Tensor::f_from_slice(&draws)?.f_reshape(fisher.size())?.f_to_device(fisher.device())?;
            let deviation = fisher.f_add_scalar(settings.damping)?.f_pow_tensor_scalar(-0.25)?.f_mul_scalar(UNIT)?;
            change.push(deviation.f_mul(&draws)?);
        }
        Ok(Step { change, notes: vec![("parameters looked at image by image", self.one_by_one as f64)] })
    }
}

/// 2 GiB of float gradients.
const MOST_NUMBERS: usize = 1 << 29;

/// For every class y, a function whose squared gradient is `p(y|x) (d log p(y|x) / d w)^2`.
fn believed(logits: &Tensor, _: i64) -> Result<Vec<Tensor>> {
    let logarithms = logits.f_log_softmax(1, None::<Kind>)?;
    let weights = logarithms.f_detach()?.f_mul_scalar(0.5)?.f_exp()?;
    Ok(logarithms.f_mul(&weights)?.f_unbind(1)?)
}
