//! From an audit's outcome to files and a summary.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::attack::{AttackSettings, Course, Iteration, StopReason, Variant};
use crate::check::Parity;
use crate::data::{ImageSet, Problem};
use crate::error::{Error, Result, readable};
use crate::files;
use crate::graph::Model;
use crate::harness::audit::{Audit, Outcome, VariantOutcome};
use crate::harness::kept;
use crate::metrics::{accuracy, interval, polygon, recovery};
use crate::onnx;
use crate::report::summary::{LeftOut, Summary};
use crate::report::{ClassRecord, Provenance, Record, csv, tables};
use crate::tensor::{Device, device_name, threads};

/// The libtorch release that the bindings are made for.
pub const LIBTORCH: &str = "2.11.0";

/// What the tables call things.
pub struct Described<'a> {
    /// The data set.
    pub dataset: &'a str,
    /// The audited model's backbone.
    pub backbone: &'a str,
    /// The unlearning method.
    pub method: &'a str,
    /// Where the audit ran.
    pub device: Device,
    /// How the import of the audited model compares with ONNX Runtime on the first forget images; `None` where it could not be
    /// compared.
    pub parity: Option<Parity>,
    /// What the caller found out that a reader should know, in words.
    pub notes: Vec<String>,
    /// The command that was given, word by word.
    pub command: &'a [String],
    /// The folder in which it was given.
    pub working_directory: &'a str,
    /// The audited file, as it was named.
    pub model_file: &'a str,
}

/// Writes all results of an audit and gives its headline.
///
/// # Errors
/// Unexpected, when the folder is not writable or the disk is full.
pub fn write(audit: &Audit, outcome: &Outcome, described: &Described, seconds: f64) -> Result<Summary> {
    let provenance = provenance(audit, described.device)?;
    let of = |v: &VariantOutcome| {
        let record = record(audit, v, described, &provenance);
        if v.variant == Variant::PA { record.without_model() } else { record }
    };
    let records: Vec<Record> = outcome.variants.iter().map(of).collect();
    let (Some(main), Some(headline)) = (outcome.variants.last(), records.last()) else {
        return Err(Error::usage("no variant of the attack was run"));
    };
    kept::write_predictions(audit, main)?;
    let thumbnails = kept::write_thumbnails(audit)?;
    let (features, no_features) = match kept::write_features(audit, outcome, main)? {
        Ok(kept) => (kept, None),
        Err(note) => (None, Some(note)),
    };
    write_left_out(audit)?;
    write_iterations(audit.results, outcome)?;
    export(&main.attack, audit, &provenance, "recovered.onnx")?;
    export(&main.unlearned, audit, &provenance, "unlearned_after.onnx")?;
    let mut summary = Summary {
        command: described.command.to_vec(),
        working_directory: described.working_directory.to_string(),
        model_file: described.model_file.to_string(),
        acc_u: headline.acc_u,
        acc_a_last: headline.acc_a_last,
        acc_a_best: headline.acc_a_best,
        acc_u_after: headline.acc_u_after,
        r_i: headline.r_i,
        r_r: headline.r_r,
        a_r: headline.a_r,
        a_r_geometric: headline.a_r_geometric,
        acc_u_best: headline.acc_u_best,
        excess: None,
        excess_low: None,
        excess_high: None,
        excess_p: None,
        excess_u: None,
        excess_self: None,
        control: None,
        control_sha256: None,
        control_folder: None,
        agreement_rate: headline.agreement_rate,
        iterations: headline.iterations,
        stop_reason: headline.stop_reason.clone(),
        probe_accuracy: outcome.own_accuracy,
        probe_learned_accuracy: outcome.learned_accuracy,
        probe_holdout_accuracy: outcome.holdout_accuracy,
        largest_spectral_norm: outcome.largest_spectral_norm,
        shared_images: outcome.shared_images,
        classes: audit.probe.classes.clone(),
        adapter: audit.adapter.clone(),
        parity: described.parity.clone(),
        repairs: audit.model.report().repairs.clone(),
        trainable: audit.model.report().trainable.len(),
        left_out: LeftOut { forget: audit.forget.problems.len(), probe: audit.probe.problems.len() },
        settings: audit.settings.clone(),
        provenance,
        records,
        verdicts: Vec::new(),
        notes: described
            .notes
            .iter()
            .cloned()
            // What a grid makes itself needs no adapter.
            .chain(lost(outcome.own_accuracy, audit.model.classes()).filter(|_| audit.identity.is_none()))
            .chain(exchanged(audit, &outcome.exchanged).filter(|_| audit.identity.is_none()))
            .chain(audit.model.report().notes.iter().filter(|_| audit.identity.is_none()).cloned())
            .chain(no_features)
            .chain(weak(outcome.learned_accuracy))
            .chain((main.variant != Variant::P && audit.settings.iterations == 0).then(|| NOT_TAUGHT.to_string()))
            .chain(still_gaining(main).then(|| STILL_GAINING.to_string()))
            .chain(starved(audit.settings, main.variant, audit.forget.len(), &main.course))
            .collect(),
        thumbnails,
        features,
        seconds,
    };
    finish(audit.results, &mut summary)?;
    Ok(summary)
}

/// Says so when the audited model knows hardly anything of the probing images: more often than not, that is the adapter's fault.
fn lost(accuracy: Option<f64>, classes: usize) -> Option<String> {
    let (accuracy, chance) = (accuracy?, 100.0 / classes.max(1) as f64);
    (accuracy < 2.0 * chance).then(|| {
        format!(
            "the audited model gets {accuracy:.1} % of the probing images right, where guessing gets {chance:.1} %: if it should know them, the \
             adapter is wrong (the order of the classes, mean and std, or the order of the colours), and so is every number here"
        )
    })
}

/// Says so when the audited model takes classes for each other.
fn exchanged(audit: &Audit, pairs: &[(i64, i64)]) -> Option<String> {
    let named = pairs.iter().map(|(a, b)| format!("'{}' for '{}'", class_name(audit, *a), class_name(audit, *b)));
    let named: Vec<String> = named.collect();
    (!named.is_empty()).then(|| {
        format!(
            "the audited model mostly takes probing images of {}, and the other way round: unless it was made to, the adapter exchanges the names of \
             these classes, and every number here is wrong",
            named.join(", of ")
        )
    })
}

/// Said where the settings ended an attack that was still gaining.
const STILL_GAINING: &str = "the settings ended the attack while the models still came to agree on more images than ever: more iterations may \
                             recover more";

/// Whether the last iteration was the best by what is watched without labels.
fn still_gaining(variant: &VariantOutcome) -> bool {
    let lines = &variant.course.iterations;
    let Some((last, earlier)) = lines.split_last().filter(|(last, _)| last.iteration > 0) else { return false };
    variant.stop == StopReason::Iterations && earlier.iter().all(|line| line.agreement_rate < last.agreement_rate)
}

/// What an attack model gets right of the images that it was trained on, percent, below which it has learned little.
const LEARNED: f64 = 50.0;

/// Says so when stage 1 left the attack model without much to bring into stage 2.
fn weak(learned: Option<f64>) -> Option<String> {
    learned.filter(|accuracy| *accuracy < LEARNED).map(|accuracy| {
        format!(
            "after stage 1 the attack model gets only {accuracy:.1} % of the probing images right that it was trained on: it has learned little, \
             and what it does not recover says little about the audited model. More epochs (pretrain.epochs) or another backbone help"
        )
    })
}

/// Said of an attack whose second stage has no iterations.
const NOT_TAUGHT: &str =
    "the settings allow no iterations, so that neither model taught the other: the numbers are those of stage 1";

/// Says so when the confidence threshold, not the share, decided how little a model taught the other at the end: an attack that
/// stalls for want of confident teachers shows nothing about the audited model.
fn starved(settings: &AttackSettings, variant: Variant, forget: usize, course: &Course) -> Option<String> {
    let last = course.iterations.last().filter(|line| line.iteration > 0)?;
    let most = settings.selection().most(forget.saturating_sub(last.agreement));
    let attack_teaches = variant == Variant::PUA;
    let teachers = [("the unlearned model", last.from_unlearned, true), ("the attack model", last.from_attack, attack_teaches)];
    let short: Vec<String> = teachers
        .into_iter()
        .filter(|(_, taught, teaches)| *teaches && 2 * taught < most)
        .map(|(name, taught, _)| format!("{name} was sure of {taught}"))
        .collect();
    (!short.is_empty()).then(|| {
        format!(
            "in the last iteration {}, where disagreement_share allows {most}: confidence_threshold ({}) kept the models from \
             teaching each other. A lower one lets them",
            short.join(" and "),
            settings.confidence_threshold
        )
    })
}

/// Headline, tables and `run.json`, which are written again when a control is added.
pub(super) fn finish(results: &Path, summary: &mut Summary) -> Result<()> {
    let headline = summary.records.last();
    summary.excess = headline.and_then(|r| r.excess);
    summary.excess_low = headline.and_then(|r| r.excess_low);
    summary.excess_high = headline.and_then(|r| r.excess_high);
    summary.excess_p = headline.and_then(|r| r.excess_p);
    summary.excess_u = headline.and_then(|r| r.excess_u);
    summary.excess_self = headline.and_then(|r| r.excess_self);
    summary.control = headline.and_then(|r| r.control.clone());
    summary.control_sha256 = headline.and_then(|r| r.control_sha256.clone());
    let _ = tables::write_all(results, &summary.records)?;
    summary.write(results)
}

fn provenance(audit: &Audit, device: Device) -> Result<Provenance> {
    let settings = serde_json::to_vec(audit.settings).map_err(Error::unexpected)?;
    let adapter = serde_json::to_vec(audit.adapter).map_err(Error::unexpected)?;
    Ok(Provenance {
        seed: audit.settings.seed,
        settings_sha256: format!("{:x}", Sha256::digest(&settings)),
        model_sha256: audit.model.sha256().to_string(),
        forget_sha256: audit.forget.sha256.clone(),
        probe_sha256: audit.probe.sha256.clone(),
        adapter_sha256: format!("{:x}", Sha256::digest(&adapter)),
        device: device_name(device),
        threads: threads(),
        precision: audit.model.computing().precision.to_string(),
        cmira: env!("CARGO_PKG_VERSION").to_string(),
        libtorch: LIBTORCH.to_string(),
    })
}

fn record(audit: &Audit, variant: &VariantOutcome, described: &Described, provenance: &Provenance) -> Record {
    let truth = &audit.forget.labels;
    let course = &variant.course;
    let percent = |classes: &[i64]| accuracy::top1(classes, truth).map(accuracy::Tally::percent);
    let (acc_u, acc_a) = (percent(&course.before.classes), percent(&course.attack.classes));
    let by_u = accuracy::by_class(&course.before.classes, truth);
    let by_a = accuracy::by_class(&course.attack.classes, truth);
    let radii = |tallies: &[(i64, accuracy::Tally)]| tallies.iter().map(|(_, t)| t.percent()).collect::<Vec<f64>>();
    let (radii_u, radii_a) = (radii(&by_u), radii(&by_a));
    let right = |classes: &[i64]| -> Vec<bool> { classes.iter().zip(truth).filter_map(|(c, t)| t.map(|t| t == *c)).collect() };
    let bounds = interval::paired_difference(&right(&course.before.classes), &right(&course.attack.classes));
    let best = |accuracy: fn(&Iteration) -> Option<f64>| course.iterations.iter().filter_map(accuracy).reduce(f64::max);
    Record {
        dataset: described.dataset.to_string(),
        backbone: described.backbone.to_string(),
        method: described.method.to_string(),
        variant: variant.variant.name().to_string(),
        n_forget: audit.forget.len(),
        n_scored: truth.iter().flatten().count(),
        n_probe: audit.probe.len(),
        acc_u,
        acc_a_last: acc_a,
        acc_a_best: best(|line| line.acc_a),
        acc_u_after: percent(&course.unlearned.classes),
        acc_u_best: best(|line| line.acc_u),
        r_i: acc_u.zip(acc_a).map(|(u, a)| recovery::improvement(u, a)),
        r_r: acc_u.zip(acc_a).and_then(|(u, a)| recovery::rate(u, a)),
        a_r: polygon::area_recovery(&radii_u, &radii_a),
        a_r_geometric: polygon::area_recovery_geometric(&radii_u, &radii_a),
        r_i_low: bounds.map(|b| b.0),
        r_i_high: bounds.map(|b| b.1),
        excess: None,
        excess_low: None,
        excess_high: None,
        excess_p: None,
        excess_u: None,
        excess_self: None,
        control: None,
        control_sha256: None,
        agreement_rate: course.iterations.last().map_or(0.0, |line| line.agreement_rate),
        iterations: course.iterations.len().saturating_sub(1),
        stop_reason: variant.stop.to_string(),
        classes: by_u
            .iter()
            .zip(&by_a)
            .map(|((class, u), (_, a))| ClassRecord {
                class: class_name(audit, *class),
                images: u.total,
                acc_u: u.percent(),
                acc_a: a.percent(),
                r_i: a.percent() - u.percent(),
            })
            .collect(),
        provenance: provenance.clone(),
    }
}

pub(super) fn class_name(audit: &Audit, class: i64) -> String {
    let name = usize::try_from(class).ok().and_then(|c| audit.probe.classes.get(c));
    name.cloned().unwrap_or_else(|| class.to_string())
}

/// Every file that was no use, in words: what was not audited is part of the result.
fn write_left_out(audit: &Audit) -> Result<()> {
    let of = |set: &'static str, images: &ImageSet| {
        let row = move |problem: &Problem| {
            vec![set.to_string(), csv::text(&problem.path.display().to_string()), csv::text(&problem.reason)]
        };
        images.problems.iter().map(row).collect::<Vec<_>>()
    };
    let rows = [of("forget", audit.forget), of("probe", audit.probe)].concat();
    csv::write(&audit.results.join("left_out.csv"), &["set", "file", "reason"], &rows)
}

fn write_iterations(results: &Path, outcome: &Outcome) -> Result<()> {
    let header = [
        "variant",
        "iteration",
        "acc_a",
        "acc_u",
        "agreement_rate",
        "agreement",
        "from_unlearned",
        "from_attack",
        "loss_a",
        "loss_u",
    ];
    let rows: Vec<Vec<String>> = outcome
        .variants
        .iter()
        .flat_map(|variant| variant.course.iterations.iter().map(|line| (variant.variant, line)))
        .map(|(variant, line)| {
            let mut row = vec![variant.name().to_string(), line.iteration.to_string()];
            row.extend([line.acc_a, line.acc_u, Some(line.agreement_rate)].map(csv::number));
            row.extend([line.agreement, line.from_unlearned, line.from_attack].map(|n| n.to_string()));
            row.extend([line.loss_a, line.loss_u].map(csv::number));
            row
        })
        .collect();
    csv::write(&results.join("iterations.csv"), &header, &rows)
}

/// Writes a model with a note of how it came about.
fn export(model: &Model, audit: &Audit, provenance: &Provenance, name: &str) -> Result<()> {
    let mut proto = model.to_onnx()?;
    onnx::annotate(
        &mut proto,
        &[
            ("version", &provenance.cmira),
            ("audited_model_sha256", &provenance.model_sha256),
            ("settings_sha256", &provenance.settings_sha256),
            ("repairs", &model.report().repairs.join("; ")),
        ],
    );
    let path = audit.results.join(name);
    onnx::save(&proto, &path)?;
    files::make_private(&path)
}

/// The recovery table and the list of files, for a terminal of 100 columns.
pub fn text(summary: &Summary, results: &Path) -> String {
    use std::fmt::Write;
    let percent = |value: Option<f64>| value.map_or_else(|| "-".to_string(), |v| format!("{v:.2}"));
    let mut out = String::new();
    // Writing to a String cannot fail.
    let mut line = |text: String| {
        let _ = writeln!(out, "{}", readable(&text));
    };
    line(format!(
        "{:<8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>10} {:>8}",
        "variant", "Acc_U", "Acc_A", "R_I", "R_R", "A_R", "excess", "Acc_U then", "agree"
    ));
    for r in &summary.records {
        let cells = [r.acc_u, r.acc_a_last, r.r_i, r.r_r, r.a_r, r.excess].map(|v| format!("{:>8}", percent(v))).join(" ");
        line(format!("{:<8} {cells} {:>10} {:>8.2}", r.variant, percent(r.acc_u_after), 100.0 * r.agreement_rate));
    }
    if let Some(r) = summary.records.last() {
        for class in &r.classes {
            line(format!(
                "  {:<24} {:>4} images  Acc_U {:>6.2}  Acc_A {:>6.2}  R_I {:>+7.2}",
                class.class, class.images, class.acc_u, class.acc_a, class.r_i
            ));
        }
        if let (Some(low), Some(high)) = (r.r_i_low, r.r_i_high) {
            line(format!("R_I is between {low:+.2} and {high:+.2} points (95 %, over {} images)", r.n_scored));
        }
    }
    line(
        "Acc_U, Acc_A: percent of the forget images right by M_U before the attack, by M_A after it; Acc_U then: by M_U after it"
            .to_string(),
    );
    for (place, verdict) in summary.verdicts.iter().enumerate() {
        line(format!("{}: {verdict}", if place == 0 { "verdict" } else { "besides" }));
    }
    if summary.acc_u.is_none() {
        line("the forget images have no labels: accuracies stay empty; predictions.csv holds what was recovered".to_string());
    }
    for note in &summary.notes {
        line(format!("note: {note}"));
    }
    line(format!("ended after {}; {:.0} s in all", summary.ended(), summary.seconds));
    line(format!("written to {}: report.html figures run.json table1.csv table2.csv table3.csv results.csv", results.display()));
    line("predictions.csv iterations.csv left_out.csv recovered.onnx unlearned_after.onnx".to_string());
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::attack::sets::Predictions;

    fn course(sizes: [usize; 3], iterations: usize) -> Course {
        let none = Predictions { classes: Vec::new(), confidences: Vec::new() };
        let [agreement, from_unlearned, from_attack] = sizes;
        let line = |iteration| Iteration {
            iteration,
            acc_a: None,
            acc_u: None,
            agreement_rate: 0.5,
            agreement,
            from_unlearned,
            from_attack,
            loss_a: None,
            loss_u: None,
        };
        let iterations = (0..=iterations).map(line).collect();
        let [before, pretrained, attack, unlearned, best] = [(); 5].map(|()| none.clone());
        Course { iterations, before, pretrained, attack, unlearned, best, stop: None }
    }

    #[test]
    fn an_attack_without_confident_teachers_is_told_of() {
        let settings = AttackSettings { disagreement_share: 0.1, confidence_threshold: 0.75, ..AttackSettings::default() };
        let note = |variant, sizes, iterations| starved(&settings, variant, 1000, &course(sizes, iterations));
        // 400 of 1,000 images disagree, so 40 may be taught.
        let both = note(Variant::PUA, [600, 12, 2], 3).unwrap();
        assert!(both.contains("the unlearned model was sure of 12 and the attack model was sure of 2"), "{both}");
        assert!(both.contains("allows 40") && both.contains("(0.75)"), "{both}");
        let one = note(Variant::PUA, [600, 40, 0], 3).unwrap();
        assert!(one.contains("in the last iteration the attack model was sure of 0"), "{one}");
        assert_eq!(note(Variant::PU, [600, 40, 0], 3), None);
        assert_eq!(note(Variant::PUA, [600, 40, 20], 3), None);
        assert_eq!(note(Variant::PUA, [0, 0, 0], 0), None);
        assert_eq!(note(Variant::PUA, [1000, 0, 0], 3), None);
    }
}
