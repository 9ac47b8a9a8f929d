//! Losses, which stand at the end of graphs that were exported with their training objective.

use super::operands::{indices, on};
use super::{Call, Node, Op, one};
use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor};

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("NegativeLogLikelihoodLoss", 12, 3, |node| {
        let loss = Loss::of(node)?;
        one(move |call| loss.of_log_probabilities(call, call.input(0)?))
    })
    .at_least(2)
    .gradients(&[0, 2]),
    Op::new("SoftmaxCrossEntropyLoss", 12, 3, |node| {
        let loss = Loss::of(node)?;
        Ok(Box::new(move |call| {
            let log_probabilities = call.input(0)?.f_log_softmax(1, None::<Kind>)?;
            Ok(vec![loss.of_log_probabilities(call, &log_probabilities)?, log_probabilities])
        }))
    })
    .at_least(2)
    .outputs(2)
    .gradients(&[0, 2]),
];

#[derive(Debug, Clone, Copy)]
enum Reduction {
    None,
    Sum,
    Mean,
}

/// onnx: NegativeLogLikelihoodLoss-13, SoftmaxCrossEntropyLoss-13.
struct Loss {
    reduction: Reduction,
    /// Places with this label count nothing.
    ignored: Option<i64>,
}

impl Loss {
    fn of(node: &Node<'_>) -> Result<Loss> {
        let reduction = match node.text_or("reduction", "mean")?.as_str() {
            "none" => Reduction::None,
            "sum" => Reduction::Sum,
            "mean" => Reduction::Mean,
            other => return node.unsupported(format!("reduction '{other}'")),
        };
        Ok(Loss { reduction, ignored: node.int("ignore_index")? })
    }

    /// `log_probabilities` `[N, K, places...]`, input 1 the labels `[N, places...]`, input 2 the classes' weights `[K]`.
    fn of_log_probabilities(&self, call: &Call<'_>, log_probabilities: &Tensor) -> Result<Tensor> {
        let device = log_probabilities.device();
        let Some(&classes) = log_probabilities.size().get(1) else {
            return Err(Error::malformed(format!("shape {:?} has no classes", log_probabilities.size())));
        };
        let labels = on(call.input(1)?, device)?.f_to_kind(Kind::Int64)?;
        let ignored = self.ignored.map(|ignored| labels.f_eq(ignored)).transpose()?;
        let labels = match &ignored {
            Some(ignored) => labels.f_masked_fill(ignored, 0)?,
            None => labels,
        };
        let labels = indices(&labels, classes, device)?;
        let mut loss = log_probabilities.f_gather(1, &labels.f_unsqueeze(1)?, false)?.f_squeeze_dim(1)?.f_neg()?;
        let mut weight = match call.optional(2) {
            Some(weights) => on(weights, device)?.f_index_select(0, &labels.f_reshape([-1])?)?.f_reshape(labels.size())?,
            None => loss.f_ones_like()?,
        };
        if let Some(ignored) = &ignored {
            loss = loss.f_masked_fill(ignored, 0.0)?;
            weight = weight.f_masked_fill(ignored, 0.0)?;
        }
        let loss = loss.f_mul(&weight)?;
        Ok(match self.reduction {
            Reduction::None => loss,
            Reduction::Sum => loss.f_sum(None::<Kind>)?,
            Reduction::Mean => loss.f_sum(None::<Kind>)?.f_div(&weight.f_sum(None::<Kind>)?)?,
        })
    }
}
