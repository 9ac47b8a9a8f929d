//! Passes over some images of a set for what is summed over them.

use rand::seq::SliceRandom;

use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor, rng};
use crate::train::{Control, Event, Images};

/// Batches of positions, each given once.
pub(super) struct Passes {
    positions: Tensor,
    batch_size: i64,
    next: i64,
}

impl Passes {
    /// Over `count` images of a set, chosen by the seed, in ascending order; 0 takes all.
    pub(super) fn new(images: &(impl Images + ?Sized), count: usize, batch_size: usize, seed: u64) -> Result<Passes> {
        if images.is_empty() {
            return Err(Error::data("there is no image to look at"));
        }
        let mut positions: Vec<i64> = (0..).take(images.len()).collect();
        if count > 0 && count < positions.len() {
            positions.shuffle(&mut rng(seed, "curvature: images", 0));
            positions.truncate(count);
            positions.sort_unstable();
        }
        let positions = Tensor::f_from_slice(&positions)?.f_to_device(images.device())?;
        Ok(Passes { positions, batch_size: i64::try_from(batch_size.max(1)).map_err(Error::usage)?, next: 0 })
    }

    /// How many images there are.
    pub(super) fn count(&self) -> usize {
        self.positions.numel()
    }

    /// The first `count` positions, or all if there are fewer.
    pub(super) fn first(&self, count: i64) -> Result<Tensor> {
        Ok(self.positions.f_narrow(0, 0, count.min(self.total()))?)
    }

    /// Begins anew.
    pub(super) fn rewind(&mut self) {
        self.next = 0;
    }

    /// The next batch; `None` behind the last.
    ///
    /// # Errors
    /// Interrupted, when [`Control::stop`] is set.
    pub(super) fn next(&mut self, control: &mut Control) -> Result<Option<Tensor>> {
        let left = self.total() - self.next;
        if left <= 0 {
            return Ok(None);
        }
        if control.stopped() {
            return Err(Error::interrupted("stopped while looking at the retain set").help("nothing was saved of this step"));
        }
        let batch = self.positions.f_narrow(0, self.next, left.min(self.batch_size))?;
        self.next += self.batch_size;
        let number = |count: i64| usize::try_from(count).unwrap_or(0);
        let of = number((self.total() + self.batch_size - 1) / self.batch_size);
        control.tell(&Event::Batch { epoch: 1, epochs: 1, batch: number(self.next / self.batch_size), of });
        Ok(Some(batch))
    }

    fn total(&self) -> i64 {
        // Never negative, and far below the limit.
        i64::try_from(self.positions.numel()).unwrap_or(i64::MAX)
    }
}

/// The sum over the images of a scalar product, in double precision: one number out of two lists of tensors.
pub(super) fn dot(a: &[Tensor], b: &[Tensor]) -> Result<f64> {
    let mut total = 0.0;
    for (a, b) in a.iter().zip(b) {
        total += a.f_mul(b)?.f_sum(Kind::Double)?.f_double_value(&[])?;
    }
    Ok(total)
}
