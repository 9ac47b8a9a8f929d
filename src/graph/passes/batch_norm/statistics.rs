//! Mean and variance of values inside the graph, over images and positions.

use std::collections::HashMap;

use super::sites::Site;
use crate::error::{Error, Result};
use crate::graph::{Mode, Model};
use crate::tensor::{Device, Kind, Tensor};

/// Statistics of one value, one number a channel, in double precision.
pub struct Statistics {
    pub mean: Tensor,
    pub variance: Tensor,
    /// Whether the value is a feature map with more than one position in an image, or no feature map.
    pub has_positions: bool,
    count: f64,
}

/// The statistics of each place's `x`, in evaluation; `None` for one that is not reached.
pub fn measure(
    model: &Model,
    sites: &[Site],
    batches: &mut dyn Iterator<Item = Result<Tensor>>,
) -> Result<Vec<Option<Statistics>>> {
    let places: HashMap<&str, usize> = sites.iter().enumerate().map(|(index, site)| (site.x.as_str(), index)).collect();
    let mut found: Vec<Option<Statistics>> = sites.iter().map(|_| None).collect();
    let mut images = 0;
    for batch in batches {
        let batch = batch?;
        images += batch.size().first().copied().unwrap_or(0);
        model.observe(&batch, Mode::Eval, &mut |name, value| {
            let Some(&index) = places.get(name) else { return Ok(()) };
            let new = of_batch(value)?;
            found[index] = Some(match found[index].take() {
                Some(old) => old.and(&new)?,
                None => new,
            });
            Ok(())
        })?;
    }
    if images == 0 {
        return Err(Error::data("there are no images on which statistics could be measured"));
    }
    Ok(found)
}

fn of_batch(value: &Tensor) -> Result<Statistics> {
    let shape = value.size();
    let (count, has_positions, positions): (i64, bool, &[i64]) = match *shape.as_slice() {
        [n, _, h, w] => (n * h * w, h * w > 1, &[0, 2, 3]),
        [n, _] => (n, true, &[0]),
        _ => return Err(Error::unsupported(format!("values of shape {shape:?} cannot be normalised"))),
    };
    let mean = value.f_mean_dim(positions, true, Kind::Double)?;
    let variance = value.f_sub(&mean)?.f_square()?.f_mean_dim(positions, false, Kind::Double)?;
    Ok(Statistics {
        mean: mean.f_flatten(0, -1)?.f_to_device(Device::Cpu)?,
        variance: variance.f_to_device(Device::Cpu)?,
        has_positions,
        count: count as f64,
    })
}

impl Statistics {
    /// The statistics of both samples together (Chan, Golub and LeVeque 1979).
    fn and(&self, other: &Statistics) -> Result<Statistics> {
        let count = self.count + other.count;
        let (a, b) = (self.count / count, other.count / count);
        let difference = other.mean.f_sub(&self.mean)?;
        let variance = self.variance.f_mul_scalar(a)?.f_add(&other.variance.f_mul_scalar(b)?)?;
        Ok(Statistics {
            mean: self.mean.f_add(&difference.f_mul_scalar(b)?)?,
            variance: variance.f_add(&difference.f_square()?.f_mul_scalar(a * b)?)?,
            has_positions: self.has_positions || other.has_positions,
            count,
        })
    }
}
