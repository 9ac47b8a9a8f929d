//! A plan is looked at, and run on the batch that it was made for.

use crate::error::{Error, Result};
use crate::graph::plan::{OUTPUT, Plan, Source};
use crate::tensor::{Kind, Tensor, rng, to_f64s, to_i64s};

/// Whether a plan has anything in which a batch size could be baked; plans of most convolutional networks have not.
pub(crate) fn suspicious(plan: &Plan, stored: &[Tensor], batch: i64) -> bool {
    // Any constant can hold a larger one.
    batch > 1
        || plan.steps.iter().any(|step| match step.operator {
            "Reshape" => match step.inputs.get(1) {
                Some(Some(Source::Stored(index))) => {
                    stored.get(*index).and_then(|t| to_i64s(t).ok()).is_none_or(|shape| shape.len() < 2 || shape[0] > 0)
                }
                Some(Some(Source::Slot(_))) => false,
                _ => true,
            },
            "Slice" => match step.inputs.get(2) {
                Some(Some(Source::Stored(index))) => {
                    stored.get(*index).and_then(|t| to_i64s(t).ok()).is_none_or(|ends| ends.contains(&1))
                }
                _ => false,
            },
            "ScatterND" | "ScatterElements" | "Scatter" | "GatherND" | "GatherElements" | "Where" => {
                step.inputs.iter().any(|i| matches!(i, Some(Source::Stored(_))))
            }
            "Concat" => step.inputs.iter().any(|i| matches!(i, Some(Source::Stored(_)))),
            "Expand" | "Resize" | "Upsample" | "Tile" => matches!(step.inputs.last(), Some(Some(Source::Stored(_)))),
            _ => false,
        })
}

/// `count` images of evenly spread numbers from 0 to `largest`, always the same.
pub(crate) fn random_images(image: &[i64], count: i64, kind: Kind, largest: f64) -> Result<Tensor> {
    use rand::Rng;
    let mut shape = vec![count];
    shape.extend_from_slice(image);
    let numel: i64 = shape.iter().product();
    let mut rng = rng(0, "batch-size probe", 0);
    let values: Vec<f32> = (0..numel).map(|_| rng.random::<f32>()).collect();
    Ok(Tensor::f_from_slice(&values)?.f_view(shape.as_slice())?.f_mul_scalar(largest)?.f_to_kind(kind)?)
}

/// Whether a plan as it is gives two batches of images together what it gives each by itself, which is `first` for the first one.
pub(super) fn runs_freely(plan: &Plan, stored: &[Tensor], images: &Tensor, batch: i64, first: &Tensor) -> Result<bool> {
    let run = |start: i64, count: i64| plan.sketch(stored, &images.f_narrow(0, start, count)?, OUTPUT);
    let Ok(both) = run(0, 2 * batch) else { return Ok(false) };
    if both.size().first() != Some(&(2 * batch)) || !close(&both.f_narrow(0, 0, batch)?, first)? {
        return Ok(false);
    }
    close(&both.f_narrow(0, batch, batch)?, &run(batch, batch)?)
}

/// Whether two outputs are the same up to rounding.
pub(super) fn close(part: &Tensor, whole: &Tensor) -> Result<bool> {
    if part.size() != whole.size() {
        return Ok(false);
    }
    let (part, whole) = (to_f64s(part)?, to_f64s(whole)?);
    let scale = whole.iter().fold(0.0_f64, |m, v| m.max(v.abs())).max(1e-30);
    Ok(part.iter().zip(&whole).all(|(a, b)| (a - b).abs() <= 1e-3 * scale))
}

pub(super) fn find(source: Source, stored: &[Tensor], slots: &[Option<Tensor>]) -> Result<Tensor> {
    let tensor = match source {
        Source::Stored(index) => stored.get(index),
        Source::Slot(slot) => slots.get(slot).and_then(Option::as_ref),
    };
    tensor.map(Tensor::shallow_clone).ok_or_else(|| Error::unexpected("the plan did not compute its result"))
}
