//! Top-1 accuracy, over all images and by class.

/// Right answers among images whose truth is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Images whose predicted class is the true one.
    pub correct: usize,
    /// Images whose true class is known.
    pub total: usize,
}

impl Tally {
    /// Accuracy in percent, `0..=100`; not a number without images.
    pub fn percent(self) -> f64 {
        100.0 * self.correct as f64 / self.total as f64
    }

    fn count(&mut self, correct: bool) {
        self.total += 1;
        self.correct += usize::from(correct);
    }
}

/// Top-1 accuracy over the images with a known label; `None` if there are none or the lengths differ.
pub fn top1(predicted: &[i64], truth: &[Option<i64>]) -> Option<Tally> {
    if predicted.len() != truth.len() {
        return None;
    }
    let mut tally = Tally::default();
    for (predicted, truth) in predicted.iter().zip(truth) {
        if let Some(truth) = truth {
            tally.count(predicted == truth);
        }
    }
    (tally.total > 0).then_some(tally)
}

/// Top-1 accuracy of every true class that occurs, in class order: `(class, tally)`.
pub fn by_class(predicted: &[i64], truth: &[Option<i64>]) -> Vec<(i64, Tally)> {
    let mut tallies = std::collections::BTreeMap::<i64, Tally>::new();
    for (predicted, truth) in predicted.iter().zip(truth) {
        if let Some(truth) = truth {
            tallies.entry(*truth).or_default().count(predicted == truth);
        }
    }
    tallies.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_truth_does_not_count() {
        let truth = [Some(0), None, Some(1), Some(1)];
        assert_eq!(top1(&[0, 0, 1, 0], &truth), Some(Tally { correct: 2, total: 3 }));
        assert_eq!(top1(&[0], &[None]), None);
        assert_eq!(top1(&[0], &truth), None);
        let by_class = by_class(&[0, 0, 1, 0], &truth);
        assert_eq!(by_class, [(0, Tally { correct: 1, total: 1 }), (1, Tally { correct: 1, total: 2 })]);
    }
}
