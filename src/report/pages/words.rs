//! What pages say in words, in one place.

use super::csv;
use crate::report::Record;

/// Percent, or a dash.
pub(super) fn percent(value: Option<f64>) -> String {
    let text = csv::percent(value);
    if text.is_empty() { "-".to_string() } else { format!("{text} %") }
}

/// Points with a sign, or a dash.
pub(super) fn points(value: Option<f64>) -> String {
    let text = csv::percent(value);
    match text.as_str() {
        "" => "-".to_string(),
        negative if negative.starts_with('-') => text,
        _ => format!("+{text}"),
    }
}

/// ` (95 % +1.00 to +2.00)`, or nothing.
pub(super) fn interval(low: Option<f64>, high: Option<f64>) -> String {
    match (low, high) {
        (Some(_), Some(_)) => format!(" (95 % {} to {})", points(low), points(high)),
        _ => String::new(),
    }
}

/// What a verdict's sentence begins with, as a headline, and how it looks.
pub(super) fn headline(verdict: &str) -> (String, &'static str) {
    let head = verdict.split(':').next().unwrap_or(verdict);
    let mut letters = head.chars();
    let headline = letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect());
    let tone = match head {
        head if head.starts_with("more") => "more",
        head if head.starts_with("less") => "less",
        _ => "none",
    };
    (headline, tone)
}

/// A sentence with a capital letter and a full stop.
pub(super) fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let text: String = letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect());
    if text.ends_with(['.', '!', '?']) { text } else { format!("{text}.") }
}

/// What the attack did to the accuracy on the forget set.
pub(super) fn effect(record: &Record) -> Option<String> {
    let (acc_u, acc_a) = (record.acc_u?, record.acc_a_last?);
    let all = if record.n_scored == record.n_forget {
        String::new()
    } else {
        format!(" whose class is known ({} in all)", record.n_forget)
    };
    Some(format!(
        "As it was handed over, the model gives {} of {} forget images{all} their true class. After the attack, the attack model does so for \
         {}: {} points{}.",
        percent(Some(acc_u)),
        record.n_scored,
        percent(Some(acc_a)),
        points(record.r_i),
        interval(record.r_i_low, record.r_i_high),
    ))
}

/// What nobody should read into the numbers.
pub(super) fn limits(labelled: bool, seeds: usize) -> Vec<String> {
    let mut limits = vec![
        "The attack is a lower bound: that nothing was recovered does not prove that nothing is left. Another attack, more probing images or \
         other settings may recover more."
            .to_string(),
        "R_R alone misleads: a model that was driven far down recovers by a large factor whatever it remembers. The excess over a control is \
         what can be put down to the audited model."
            .to_string(),
        "A control of the probing images alone rules out what these images teach, but not what the audited model may keep of others. A model \
         that was retrained without the forget images rules out both."
            .to_string(),
        if seeds > 1 {
            "Intervals of a single seed are over images, those of all seeds are over seeds: what another seed would give, its split and models \
             included."
                .to_string()
        } else {
            "Intervals are over images, of one attack with one seed; a grid with several seeds shows how much seeds matter.".to_string()
        },
    ];
    if !labelled {
        limits.push("The true classes of the forget images were not given, so that nothing can be scored.".to_string());
    }
    limits
}

/// Said where the attack gets no more right than the model did by itself.
pub(super) fn no_gain(record: &Record) -> Option<String> {
    let compared = if record.excess.is_some() {
        " The comparison with the control says how much of what is there does not come from the probing images."
    } else {
        ""
    };
    (record.r_i? <= 0.0).then(|| {
        format!(
            "That is no more than the model still knew by itself: nothing is shown to have come back that was gone.{compared}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_become_headlines() {
        let (text, tone) = headline("more comes back than from the control: 50.00 % of 100 forget images");
        assert_eq!((text.as_str(), tone), ("More comes back than from the control", "more"));
        assert_eq!(headline("no difference from the control is shown: x").1, "none");
        assert_eq!(sentence("less comes back"), "Less comes back.");
    }
}
