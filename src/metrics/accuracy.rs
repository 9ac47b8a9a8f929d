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

/// Images of a class below which nothing is said of it.
const FEW: usize = 4;

/// Pairs of classes whose images are taken for each other more than for anything else, and hardly for their own: more often than not, their
/// names changed places.
pub fn exchanged(predicted: &[i64], truth: &[Option<i64>]) -> Vec<(i64, i64)> {
    let mut taken = std::collections::BTreeMap::<i64, (usize, std::collections::BTreeMap<i64, usize>)>::new();
    for (predicted, truth) in predicted.iter().zip(truth) {
        if let Some(truth) = truth {
            let (images, by_class) = taken.entry(*truth).or_default();
            *images += 1;
            *by_class.entry(*predicted).or_default() += 1;
        }
    }
    let mostly = |class: &i64| {
        let (images, by_class) = taken.get(class)?;
        let (most, count) = by_class.iter().max_by_key(|(_, count)| **count)?;
        let own = by_class.get(class).copied().unwrap_or(0);
        (*images >= FEW && 2 * own < *count).then_some(*most)
    };
    let pairs = taken.keys().filter_map(|class| Some((*class, mostly(class)?)));
    pairs.filter(|(class, other)| class < other && mostly(other) == Some(*class)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_changed_places_are_seen() {
        let truth: Vec<Option<i64>> = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3].map(Some).to_vec();
        assert_eq!(exchanged(&[1, 1, 1, 0, 0, 0, 0, 2, 2, 2, 2, 1, 0], &truth), [(0, 1)]);
        // One of them alone is taken for the other, or hardly more than half is not.
        assert_eq!(exchanged(&[1, 1, 1, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3], &truth), []);
        assert_eq!(exchanged(&[1, 1, 0, 0, 0, 0, 0, 1, 2, 2, 2, 2, 3], &truth), []);
    }

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
