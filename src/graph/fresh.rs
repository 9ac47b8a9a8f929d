//! Fresh weights for a model of any origin: retraining from scratch begins with them.

use rand::Rng;
use rand_distr::{Distribution, Normal};

use crate::error::{Error, Result};
use crate::graph::Model;
use crate::graph::by_example::constant_operands;
use crate::tensor::{Tensor, no_grad, rng};

/// What a parameter begins with.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Start {
    All(f64),
    Deviation(f64),
}

impl Model {
    /// Replaces parameters and running statistics by what a network begins with, drawn by the seed. Nothing of the trained values
    /// remains, only shapes and places: filters and matrices get a normal distribution (He et al. 2015 for filters, by the number of
    /// numbers that one output is made of; Glorot and Bengio 2010 for matrices, which files hold either way round), scales 1, shifts
    /// 0, slopes 0.25, running means 0 and variances 1, and embeddings a normal distribution of deviation 0.02.
    ///
    /// # Errors
    /// Unexpected, when libtorch fails.
    pub fn reinitialise(&self, seed: u64) -> Result<()> {
        let _guard = no_grad();
        let operands = constant_operands(&self.shared.plan);
        for (index, (param, &stored)) in (0..).zip(self.params().iter().zip(&self.shared.params)) {
            let place = operands.iter().find(|operand| operand.stored == stored);
            let place = place.map(|operand| (self.shared.plan.steps[operand.step].operator, operand.position));
            let start = start_of(&param.tensor.size(), param.is_weight_matrix, place);
            let values = match start {
                Start::All(value) => param.tensor.f_detach()?.f_full_like(value)?,
                Start::Deviation(deviation) => draw(&param.tensor, deviation, &mut rng(seed, "fresh weights", index))?,
            };
            param.tensor.shallow_clone().f_copy_(&values)?;
        }
        for operand in &operands {
            let (Some(info), Some(tensor)) = (self.shared.stored.get(operand.stored), self.stored.get(operand.stored)) else {
                continue;
            };
            if info.buffer {
                // Running mean and variance are the last two inputs of a normalisation.
                let value = if operand.position == 4 { 1.0 } else { 0.0 };
                let _ = tensor.shallow_clone().f_fill_(value)?;
            }
        }
        Ok(())
    }
}

fn start_of(shape: &[i64], is_matrix: bool, place: Option<(&str, usize)>) -> Start {
    let numbers = shape.iter().product::<i64>().max(1) as f64;
    match (shape, place) {
        (&[outputs, _, _, ..], _) if is_matrix => Start::Deviation((2.0 * outputs.max(1) as f64 / numbers).sqrt()),
        (&[rows, columns], _) if is_matrix => Start::Deviation((2.0 / (rows + columns).max(1) as f64).sqrt()),
        (_, Some((operator, 1))) if operator.contains("Norm") => Start::All(1.0),
        (_, Some((operator, 2))) if operator.contains("Norm") => Start::All(0.0),
        (_, Some(("Mul" | "Div", _))) => Start::All(1.0),
        (_, Some(("PRelu", _))) => Start::All(0.25),
        (_, Some((_, 2))) => Start::All(0.0),
        (_, Some(("Add" | "Sub", _))) if numbers == shape.iter().copied().max().unwrap_or(1) as f64 => Start::All(0.0),
        _ => Start::Deviation(0.02),
    }
}

fn draw(like: &Tensor, deviation: f64, chance: &mut impl Rng) -> Result<Tensor> {
    let normal = Normal::new(0.0, deviation).map_err(Error::unexpected)?;
    let values: Vec<f64> = normal.sample_iter(chance).take(like.numel()).collect();
    Ok(Tensor::f_from_slice(&values)?.f_reshape(like.size())?.f_to_kind(like.f_kind()?)?.f_to_device(like.device())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_begin_by_their_place() {
        let filter = start_of(&[16, 3, 3, 3], true, Some(("Conv", 1)));
        assert_eq!(filter, Start::Deviation((2.0_f64 / 27.0).sqrt()));
        let either_way = start_of(&[10, 30], true, Some(("Gemm", 1)));
        assert_eq!(either_way, start_of(&[30, 10], true, Some(("MatMul", 1))));
        assert_eq!(start_of(&[16], false, Some(("BatchNormalization", 1))), Start::All(1.0));
        assert_eq!(start_of(&[16], false, Some(("LayerNormalization", 2))), Start::All(0.0));
        assert_eq!(start_of(&[10], false, Some(("Gemm", 2))), Start::All(0.0));
        assert_eq!(start_of(&[1, 10, 1], false, Some(("Add", 1))), Start::All(0.0));
        // An embedding of positions.
        assert_eq!(start_of(&[1, 5, 8], false, Some(("Add", 1))), Start::Deviation(0.02));
        assert_eq!(start_of(&[8, 1, 1], false, Some(("PRelu", 1))), Start::All(0.25));
        assert_eq!(start_of(&[1, 1, 8], false, None), Start::Deviation(0.02));
    }
}
