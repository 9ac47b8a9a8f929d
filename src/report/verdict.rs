//! What a comparison with a control says, in words.

use super::csv;
use crate::metrics::paired::Comparison;

/// What tables call a model that was trained on the probing set alone.
pub const PROBE_ONLY: &str = "probe-only";

/// What tables call an attack model that taught itself.
pub const SELF_TRAINING: &str = "self-training";

/// What a verdict begins with that a control of the probing images alone allows: an upper bound of what leaks.
pub const BEYOND_PROBING: &str = "more comes back than the probing images alone explain";

/// The p above which a difference is not called one.
const LEVEL: f64 = 0.05;

/// One sentence that names effect, interval and control, and says no more than they do: more or less comes back only where the interval lies
/// on one side of zero and the test agrees. On few images a bootstrap's interval is too narrow by itself.
pub fn verdict(compared: &Comparison, control: &str) -> String {
    let (low, high) = compared.interval;
    // An interval of no width would look like certainty.
    let same = if (low, high) == (0.0, 0.0) { "; both get the same images right" } else { "" };
    format!(
        "{}: {} % of {} forget images against {} %, {} points (95 % {} to {}, McNemar p {}{same}); the control is {}",
        begins(compared.interval, compared.p, control),
        csv::percent(Some(compared.accuracy)),
        compared.images,
        csv::percent(Some(compared.control)),
        signed(compared.difference),
        signed(low),
        signed(high),
        probability(compared.p),
        described(control),
    )
}

/// The same over several seeds: whether another seed would show it, too.
pub fn verdict_of_seeds(seeds: usize, difference: f64, (low, high): (f64, f64), control: &str) -> String {
    format!(
        "{}: {} points (95 % {} to {} over {seeds} seeds); the control is {}",
        found(low > 0.0, high < 0.0, control),
        signed(difference),
        signed(low),
        signed(high),
        described(control)
    )
}

/// What a verdict on such an excess begins with.
pub fn begins(excess: (f64, f64), p: f64, control: &str) -> &'static str {
    let ((low, high), sure) = (excess, p < LEVEL);
    found(low > 0.0 && sure, high < 0.0 && sure, control)
}

fn found(more: bool, less: bool, control: &str) -> &'static str {
    // The attack model that teaches itself is no other model from which something could come back.
    match (more, less, control == SELF_TRAINING) {
        (true, _, false) if control == PROBE_ONLY => BEYOND_PROBING,
        (true, _, false) => "more comes back than from the control",
        (_, true, false) => "less comes back than from the control",
        (_, _, false) => "no difference from the control is shown",
        (true, _, true) => "more comes back than by self-training",
        (_, true, true) => "less comes back than by self-training",
        (_, _, true) => "no difference from self-training is shown",
    }
}

/// What a control can and cannot rule out.
fn described(control: &str) -> String {
    match control {
        PROBE_ONLY => {
            "the same attack on a model that knows the probing images alone. What the audited model learned from images that it may keep \
             counts as excess too, so that this is an upper bound of a leak: a model retrained without the forget images is the stricter control"
                .to_string()
        }
        SELF_TRAINING => "the attack model teaching itself, without the audited model".to_string(),
        "RT" => "the same attack on a model retrained without the forget images".to_string(),
        other => format!("the same attack on {other}"),
    }
}

fn signed(points: f64) -> String {
    let text = csv::percent(Some(points));
    if text.starts_with('-') { text } else { format!("+{text}") }
}

/// A p in words: three decimals, or that it is less.
pub(super) fn probability(p: f64) -> String {
    if p < 0.001 { "< 0.001".to_string() } else { format!("{p:.3}") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::metrics::paired::compare;

    fn said(gained: usize, lost: usize, control: &str) -> String {
        // 100 images: `gained` right with the attack alone, `lost` with the control alone, 20 with both.
        let own: Vec<bool> = (0..100).map(|i| i < gained || (60..80).contains(&i)).collect();
        let other: Vec<bool> = (0..100).map(|i| (gained..gained + lost).contains(&i) || (60..80).contains(&i)).collect();
        verdict(&compare(&other, &own).unwrap(), control)
    }

    #[test]
    fn the_interval_decides() {
        let more = said(30, 2, "RT");
        assert!(
            more.starts_with("more comes back than from the control: 50.00 % of 100 forget images against 22.00 %"),
            "{more}"
        );
        assert!(more.contains("+28.00 points") && more.contains("p < 0.001") && more.contains("retrained"), "{more}");
        assert!(said(2, 30, "RT").starts_with("less comes back"));
        // What other images taught is not ruled out.
        assert!(said(30, 2, PROBE_ONLY).starts_with(BEYOND_PROBING) && said(30, 2, PROBE_ONLY).contains("upper bound of a leak"));
        assert!(said(30, 2, SELF_TRAINING).starts_with("more comes back than by self-training: "));
        // No image differs: that is no certainty.
        assert!(said(0, 0, "RT").contains("p 1.000; both get the same images right)"), "{}", said(0, 0, "RT"));
        let none = said(10, 9, PROBE_ONLY);
        assert!(none.starts_with("no difference from the control is shown"), "{none}");
        assert!(none.contains("+1.00 points (95 % -") && none.contains("stricter control"), "{none}");
        // Without a loss every resample is a gain, on however few images.
        for (gained, verdict) in [(1, "no difference"), (4, "no difference"), (5, "no difference"), (6, "more comes back")] {
            assert!(said(gained, 0, "RT").starts_with(verdict), "{}", said(gained, 0, "RT"));
            assert!(said(0, gained, "RT").starts_with(&verdict.replace("more", "less")), "{}", said(0, gained, "RT"));
        }
        assert!(said(9, 9, "Scratch").contains("+0.00 points") && said(9, 9, "Scratch").contains("p 1.000"));
    }
}
