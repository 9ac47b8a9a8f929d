//! What unlearning did to a model, as Jia et al. (2023) score it.

use crate::data::{Adapter, Batches, ImageSet};
use crate::error::{Error, Result};
use crate::graph::Model;
use crate::metrics::membership;
use crate::report::Scores;
use crate::tensor::{Kind, Tensor, no_grad, to_f64s, to_i64s};
use crate::train::evaluate;

/// The sets that a model is scored on.
#[derive(Clone, Copy)]
pub struct Scored<'a> {
    /// The forget set.
    pub forget: &'a ImageSet,
    /// The retain set.
    pub retain: &'a ImageSet,
    /// Labelled images that the model was never trained on.
    pub test: Option<&'a ImageSet>,
    /// How the model wants its images.
    pub adapter: &'a Adapter,
}

impl Scored<'_> {
    /// Scores a model in evaluation mode. The membership inference learns from the test images and as many retain images, evenly
    /// spread over the set, or from all retain images and as many test images if there are fewer of those.
    ///
    /// # Errors
    /// Data, when a set is empty or has no labels.
    pub fn score(&self, model: &Model) -> Result<Scores> {
        let of = |set: &ImageSet| Judged::of(model, set, self.adapter);
        let (forget, retain) = (of(self.forget)?, of(self.retain)?);
        let test = self.test.map(of).transpose()?;
        let mia_efficacy = test.as_ref().and_then(|test| {
            let count = test.confidences.len().min(retain.confidences.len());
            membership::efficacy(&spread(&retain.confidences, count), &spread(&test.confidences, count), &forget.confidences)
        });
        Ok(Scores { forget: forget.accuracy, retain: retain.accuracy, test: test.map(|test| test.accuracy), mia_efficacy })
    }
}

/// `count` of the values, evenly spread.
fn spread(values: &[f64], count: usize) -> Vec<f64> {
    (0..count).filter_map(|index| values.get(index * values.len() / count.max(1)).copied()).collect()
}

/// A labelled set as a model sees it.
struct Judged {
    accuracy: f64,
    /// Softmax probability of the true class.
    confidences: Vec<f64>,
}

impl Judged {
    fn of(model: &Model, set: &ImageSet, adapter: &Adapter) -> Result<Judged> {
        let _guard = no_grad();
        let labels = set.label_list()?;
        if labels.is_empty() {
            return Err(Error::data("there is no image to score on"));
        }
        let logits = evaluate::logits(model, &Batches::new(set, adapter, model.device())?, 500)?;
        if logits.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
            let error = Error::unexpected("the model's scores are no longer finite numbers");
            return Err(error.help("use a smaller strength or learning rate"));
        }
        let truth = Tensor::f_from_slice(&labels)?.f_to_device(logits.device())?;
        let right = logits.f_argmax(-1, false)?.f_eq_tensor(&truth)?.f_sum(Kind::Int64)?;
        let right = to_i64s(&right.f_reshape([1])?)?.first().copied().unwrap_or(0);
        let confidences = logits.f_softmax(1, Kind::Double)?.f_gather(1, &truth.f_unsqueeze(1)?, false)?;
        Ok(Judged { accuracy: 100.0 * right as f64 / labels.len() as f64, confidences: to_f64s(&confidences.f_flatten(0, -1)?)? })
    }
}
