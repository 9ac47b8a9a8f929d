//! Membership inference by confidence: does a model still treat forgotten images as it treats images that it was trained on?

/// The threshold on the confidence in the true class that tells members from non-members best (Song et al. 2019; Yeom et al. 2018):
/// of the same number of each, `confidence >= threshold` is right about most. Of thresholds that are equally good the lowest.
///
/// `None` if one of the lists is empty or holds what is not a number.
pub fn threshold(members: &[f64], others: &[f64]) -> Option<f64> {
    if members.is_empty() || others.is_empty() || members.iter().chain(others).any(|value| value.is_nan()) {
        return None;
    }
    let mut all: Vec<(f64, f64)> = Vec::with_capacity(members.len() + others.len());
    all.extend(members.iter().map(|&value| (value, 1.0 / members.len() as f64)));
    all.extend(others.iter().map(|&value| (value, -1.0 / others.len() as f64)));
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    // Above every value, nobody is taken for a member.
    let (mut best, mut chosen) = (0.0, f64::INFINITY);
    let mut advantage = 0.0;
    for (index, &(value, weight)) in all.iter().enumerate() {
        advantage += weight;
        let last_of_its_value = all.get(index + 1).is_none_or(|next| next.0 < value);
        if last_of_its_value && advantage >= best - ROUNDING {
            (best, chosen) = (advantage, value);
        }
    }
    Some(chosen)
}

/// Far below the weight of one image.
const ROUNDING: f64 = 1e-12;

/// MIA-efficacy (Jia et al. 2023): the share of forgotten images that the attack takes for images that the model was never trained on,
/// in percent; high where unlearning worked. The attack's threshold comes from retained and from unseen images.
///
/// Confidences are softmax probabilities of the true class. `None` as for [`threshold`], or without forgotten images.
pub fn efficacy(retained: &[f64], unseen: &[f64], forgotten: &[f64]) -> Option<f64> {
    let threshold = threshold(retained, unseen)?;
    let outside = forgotten.iter().filter(|&&confidence| confidence < threshold).count();
    (!forgotten.is_empty()).then(|| 100.0 * outside as f64 / forgotten.len() as f64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_threshold_parts_what_can_be_parted() {
        assert_eq!(threshold(&[0.9, 0.8, 0.95], &[0.5, 0.1]), Some(0.8));
        // Right about three of three members and two of three others.
        assert_eq!(threshold(&[0.9, 0.8, 0.6], &[0.7, 0.2, 0.1]), Some(0.6));
        // Not to be told apart: every image counts as a member.
        assert_eq!(threshold(&[0.5, 0.5], &[0.5]), Some(0.5));
        // Members are the less sure: no threshold is better than to take everybody for one.
        assert_eq!(threshold(&[0.1], &[0.9]), Some(0.1));
        assert_eq!(threshold(&[0.1, 0.2], &[0.9, 0.15]), Some(0.1));
        assert_eq!(threshold(&[], &[0.9]), None);
        assert_eq!(threshold(&[f64::NAN], &[0.9]), None);
    }

    #[test]
    fn efficacy_counts_the_forgotten_that_look_unseen() {
        assert_eq!(efficacy(&[0.9, 0.8], &[0.3, 0.2], &[0.85, 0.1, 0.2, 0.79]), Some(75.0));
        assert_eq!(efficacy(&[0.9], &[0.3], &[]), None);
        assert_eq!(efficacy(&[], &[0.3], &[0.5]), None);
    }
}
