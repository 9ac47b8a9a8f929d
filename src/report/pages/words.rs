//! What pages say in words, in one place.

use super::{csv, verdict};
use crate::report::read::Predicted;
use crate::report::record::UNNAMED;
use crate::report::{Record, Summary};

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
        // As long as nothing rules out that other images taught it.
        verdict::BEYOND_PROBING => "some",
        head if head.starts_with("more") => "more",
        head if head.starts_with("less") => "less",
        _ => "none",
    };
    (headline, tone)
}

/// Why no headline can be relied on, where that is so.
pub(super) fn unreliable(summary: &Summary, record: &Record) -> Option<String> {
    if 2 * summary.shared_images > record.n_forget {
        return Some(format!(
            "No verdict: {} of {} forget images are in the probing set as well",
            summary.shared_images, record.n_forget
        ));
    }
    let chance = 100.0 / summary.classes.len().max(1) as f64;
    // Of an imported model; what a grid makes itself needs no adapter.
    let lost = !summary.model_file.is_empty() && summary.probe_accuracy? < 2.0 * chance;
    lost.then(|| "No verdict before the adapter is looked at: the model hardly knows the probing images".to_string())
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

/// What the audited model is, as far as anybody said.
pub(super) fn subject(file: &str, record: &Record) -> String {
    let file = if file.is_empty() { "a model" } else { file };
    let [dataset, backbone, method] = said(record);
    let parts = [
        backbone.map(ToString::to_string),
        dataset.map(|name| format!("trained on {name}")),
        method.map(|name| format!("unlearned by {name}")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { file.to_string() } else { format!("{file}: {}", parts.join(", ")) }
}

/// Backbone and method, as far as anybody said.
pub(super) fn named(record: &Record) -> String {
    let [_, backbone, method] = said(record);
    [backbone, method].into_iter().flatten().collect::<Vec<&str>>().join(", ")
}

/// Data set, backbone and method, where they were given a name.
fn said(record: &Record) -> [Option<&str>; 3] {
    let given = [&record.dataset, &record.backbone, &record.method].map(String::as_str);
    let mut unnamed = UNNAMED.into_iter();
    given.map(|name| Some(name).filter(|name| unnamed.next() != Some(*name)))
}

fn count(number: usize, of: &str) -> String {
    if number == 1 { format!("1 {of}") } else { format!("{number} {of}s") }
}

/// What the words of a grid's page mean, beyond those of an audit's.
pub(super) fn of_grids() -> Vec<(String, String)> {
    explained(&[
        (
            "RT, FT, GA, FF, IU, WP",
            "retraining, fine-tuning, gradient ascent, Fisher forgetting, influence unlearning, weight pruning.",
        ),
        (
            "D_t, D_f, D_r, D_p",
            "numbers of training, forget, retain and probing images; the retain set is what is trained on but not forgotten.",
        ),
        ("N_fc", "the number of forgetting classes."),
        (
            "MIA efficacy",
            "the share of forget images that an attack on confidences takes for images that were not trained on, in percent: the more, the better \
             they seem to be forgotten.",
        ),
        ("Strength", "what a method was calibrated by: its learning rate, or its alpha."),
        ("Empty R_R, A_R", "what they are relative to is zero."),
    ])
}

/// What the page's words and symbols mean.
pub(super) fn meanings() -> Vec<(String, String)> {
    explained(&[
        ("Forget set", "the images that the model is said to have forgotten; their true classes are used for scoring only."),
        ("Probing set", "like images that were not trained on, with known classes, from which the attack learns."),
        ("M_U", "the unlearned model: the one that is audited."),
        ("M_A", "the attack model: a network of the attacker's own."),
        ("Stage 1", "M_A learns the probing set. What it gets right of the forget set then, any outsider would: the variant P."),
        (
            "Iteration",
            "M_A and M_U teach each other about the forget images: those on which they agree, and a few on which one is sure (by the setting \
             confidence_threshold) and the other disagrees. Agreement is the share on which both say the same.",
        ),
        (
            "Acc_U, Acc_A",
            "the share of the forget images to which M_U, before the attack, and M_A, after it, give their true class.",
        ),
        ("Acc_U then", "the same of M_U after the attack, in which it is taught as well."),
        ("R_I, R_R", "recovery improvement, Acc_A - Acc_U in points; recovery rate, the same in percent of Acc_U."),
        (
            "A_R",
            "area recovery: how much the polygon grows whose corners are the accuracies of the forgetting classes, in percent; a_r_geometric, in \
             the tables, takes the polygon's area as it is drawn.",
        ),
        (
            "Control",
            "a model that never saw the forget images. What the same attack reaches on it is no leak of the audited model.",
        ),
        ("Excess", "Acc_A less what the same attack reaches on the control, in points."),
        (
            "95 %",
            "an interval that holds the true difference 19 times in 20, over the choice of images (over seeds where it says so): of R_I by Wald's \
             formula for pairs with Agresti and Min's correction, of the excess by bootstrap.",
        ),
        (
            "p (McNemar)",
            "how often a difference of this size or more would come about by chance, if the attack got the same right on both models.",
        ),
        ("Silhouette", "how well points of a class keep to themselves, from -1 to 1; 0 is where classes cannot be told apart."),
    ])
}

fn explained(words: &[(&str, &str)]) -> Vec<(String, String)> {
    words.iter().map(|(word, meaning)| ((*word).to_string(), sentence(meaning))).collect()
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

/// Said where the attack gets no more right in sum than the model did by itself, or hardly more.
pub(super) fn no_gain(record: &Record) -> Option<&'static str> {
    if record.r_i? <= 0.0 {
        return Some("In sum that is no more than the model still knew by itself.");
    }
    (record.r_i_low? <= 0.0).then_some("The interval holds zero: by these images alone, a gain in sum is not shown.")
}

/// What became of the images that the model had lost, and of those that it still knew: sums hide that one makes up for the other.
pub(super) fn back_and_lost(images: &[Predicted]) -> Option<String> {
    let of = |knew: bool, gets: bool| {
        let known = images.iter().filter_map(|image| Some((image, image.truth?)));
        known.filter(|(image, truth)| (image.unlearned.class == *truth, image.recovered.class == *truth) == (knew, gets)).count()
    };
    let (back, gone) = (of(false, true), of(false, false));
    let (kept, lost) = (of(true, true), of(true, false));
    (back + gone + kept + lost > 0).then(|| {
        format!(
            "Of the {} to which the model gave a wrong class, the class of {back} came back; of the {} that it still knew, the attack model gets \
             {lost} wrong.",
            count(back + gone, "image"),
            kept + lost
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
