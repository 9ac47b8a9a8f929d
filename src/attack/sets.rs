//! Agreement and disagreement sets: what two teachers say of the forget set, from one snapshot of both.

use crate::error::{Error, Result};

/// One model's predictions on the forget set, on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Predictions {
    /// Arg-max class of every image, in `0..K`. Of equal probabilities the lowest class wins.
    pub classes: Vec<i64>,
    /// Probability of that class, in `0..=1`.
    pub confidences: Vec<f32>,
}

/// Which images the two models learn from in one iteration. All indices are into the forget set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sets {
    /// Images on which both models predict the same class.
    pub agreement: Vec<usize>,
    /// Images on which they differ and the unlearned model is confident; most confident first.
    pub from_unlearned: Vec<usize>,
    /// Images on which they differ and the attack model is confident; most confident first.
    pub from_attack: Vec<usize>,
}

/// How disagreement sets are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Selection {
    /// tau: the least confidence of a teacher, in `0..=1`.
    pub confidence_threshold: f32,
    /// The greatest share of the disagreeing images that goes into each disagreement set, in `0..=1`.
    pub share: f64,
}

impl Selection {
    /// The greatest size of a disagreement set when both models disagree on `disagreeing` images.
    pub fn most(&self, disagreeing: usize) -> usize {
        // Truncation is meant: a share of 5 % of 30 images is one image, not two. 29 % of 100 are 28.999... in binary.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let most = (self.share.clamp(0.0, 1.0) * disagreeing as f64 + 1e-9) as usize;
        most
    }
}

impl Sets {
    /// Builds the sets of one iteration.
    ///
    /// # Errors
    /// Unexpected, when the two predictions are not about the same images.
    pub fn of(unlearned: &Predictions, attack: &Predictions, selection: Selection) -> Result<Sets> {
        let n = unlearned.classes.len();
        let lengths = [attack.classes.len(), unlearned.confidences.len(), attack.confidences.len()];
        if lengths.iter().any(|&l| l != n) {
            return Err(Error::unexpected(format!("predictions of {n} and {lengths:?} images cannot be compared")));
        }
        let (agreement, rest): (Vec<usize>, Vec<usize>) = (0..n).partition(|&i| unlearned.classes[i] == attack.classes[i]);
        let most = selection.most(rest.len());
        Ok(Sets {
            from_unlearned: most_confident(&rest, &unlearned.confidences, selection.confidence_threshold, most),
            from_attack: most_confident(&rest, &attack.confidences, selection.confidence_threshold, most),
            agreement,
        })
    }
}

/// The `most` images of `candidates` with the highest confidence of at least `threshold`; ties keep the images' order.
fn most_confident(candidates: &[usize], confidences: &[f32], threshold: f32, most: usize) -> Vec<usize> {
    let mut chosen: Vec<usize> = candidates.iter().copied().filter(|&i| confidences[i] >= threshold).collect();
    chosen.sort_by(|&a, &b| confidences[b].total_cmp(&confidences[a]));
    chosen.truncate(most);
    chosen
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn predictions(classes: &[i64], confidences: &[f32]) -> Predictions {
        Predictions { classes: classes.to_vec(), confidences: confidences.to_vec() }
    }

    #[test]
    fn sets_partition_by_agreement_and_rank_by_confidence() {
        let unlearned = predictions(&[0, 1, 2, 3, 4, 0], &[0.9, 0.95, 0.8, 0.99, 0.97, 0.3]);
        let attack = predictions(&[0, 2, 2, 4, 1, 1], &[0.2, 0.99, 0.9, 0.5, 0.96, 0.98]);
        let sets = Sets::of(&unlearned, &attack, Selection { confidence_threshold: 0.9, share: 0.5 }).unwrap();
        assert_eq!(sets.agreement, vec![0, 2]);
        assert_eq!(sets.from_unlearned, vec![3, 4]);
        assert_eq!(sets.from_attack, vec![1, 5]);
    }

    #[test]
    fn nobody_confident_gives_empty_sets() {
        let unlearned = predictions(&[0, 1], &[0.5, 0.5]);
        let attack = predictions(&[1, 0], &[0.5, 0.5]);
        let sets = Sets::of(&unlearned, &attack, Selection { confidence_threshold: 0.9, share: 1.0 }).unwrap();
        assert_eq!(sets, Sets::default());
    }

    #[test]
    fn a_share_is_cut_down_to_whole_images() {
        let most = |share, images| Selection { confidence_threshold: 0.5, share }.most(images);
        assert_eq!((most(0.29, 100), most(0.05, 30), most(0.1, 9), most(1.0, 7), most(0.0, 7)), (29, 1, 0, 7, 0));
    }

    #[test]
    fn lengths_must_match() {
        let one = predictions(&[0], &[1.0]);
        let two = predictions(&[0, 1], &[1.0, 1.0]);
        assert!(Sets::of(&one, &two, Selection { confidence_threshold: 0.5, share: 1.0 }).is_err());
    }
}
