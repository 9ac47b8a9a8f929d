//! From an audit's outcome to files and a summary.

use std::path::Path;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::attack::{AttackSettings, Course, Iteration, Variant};
use crate::check::Parity;
use crate::data::{Adapter, ImageSet, Problem};
use crate::error::{Error, Result, readable};
use crate::files;
use crate::graph::Model;
use crate::harness::audit::{self, Audit, Outcome, VariantOutcome};
use crate::metrics::{accuracy, interval, polygon, recovery};
use crate::onnx;
use crate::report::{ClassRecord, Provenance, Record, csv, tables};
use crate::tensor::{Device, device_name, threads};

/// The libtorch release that the bindings are made for.
const LIBTORCH: &str = "2.11.0";

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
}

/// The headline of an audit: what `--json` prints. Accuracies are top-1 in percent, empty without labels.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// See [`Record::acc_u`].
    pub acc_u: Option<f64>,
    /// See [`Record::acc_a_last`].
    pub acc_a_last: Option<f64>,
    /// See [`Record::acc_a_best`].
    pub acc_a_best: Option<f64>,
    /// See [`Record::acc_u_after`].
    pub acc_u_after: Option<f64>,
    /// See [`Record::r_i`].
    pub r_i: Option<f64>,
    /// See [`Record::r_r`].
    pub r_r: Option<f64>,
    /// See [`Record::a_r`].
    pub a_r: Option<f64>,
    /// See [`Record::a_r_geometric`].
    pub a_r_geometric: Option<f64>,
    /// See [`Record::acc_u_best`].
    pub acc_u_best: Option<f64>,
    /// See [`Record::excess`].
    pub excess: Option<f64>,
    /// See [`Record::excess_low`].
    pub excess_low: Option<f64>,
    /// See [`Record::excess_high`].
    pub excess_high: Option<f64>,
    /// See [`Record::excess_p`].
    pub excess_p: Option<f64>,
    /// See [`Record::excess_u`].
    pub excess_u: Option<f64>,
    /// See [`Record::excess_self`].
    pub excess_self: Option<f64>,
    /// See [`Record::control`].
    pub control: Option<String>,
    /// See [`Record::control_sha256`].
    pub control_sha256: Option<String>,
    /// See [`Record::agreement_rate`].
    pub agreement_rate: f64,
    /// Iterations of stage 2.
    pub iterations: usize,
    /// Why it ended.
    pub stop_reason: String,
    /// Stage 1's accuracy on held-out probing images, percent.
    pub probe_holdout_accuracy: Option<f64>,
    /// Largest singular value of any weight matrix of the attack model after stage 1.
    pub largest_spectral_norm: Option<f64>,
    /// Forget images that are in the probing set as well.
    pub shared_images: usize,
    /// Class names in the order of the model's outputs.
    pub classes: Vec<String>,
    /// How images were turned into numbers.
    pub adapter: Adapter,
    /// The import's agreement with ONNX Runtime on the first forget images; empty where a note says why it was not compared.
    pub parity: Option<Parity>,
    /// What the import changed in the audited model so that it can be trained.
    pub repairs: Vec<String>,
    /// Parameters of the audited model that were trained.
    pub trainable: usize,
    /// Files that could not be used, by set; each was named on stderr.
    pub left_out: LeftOut,
    /// Every setting of the attack.
    pub settings: AttackSettings,
    /// Where the numbers come from.
    pub provenance: Provenance,
    /// Every variant that was run.
    pub records: Vec<Record>,
    /// What comes back beyond each control, in words: effect, interval and control.
    pub verdicts: Vec<String>,
    /// What a reader should know before relying on the numbers, in words.
    pub notes: Vec<String>,
    /// Seconds of wall-clock time; of an audit that was interrupted, those after it was taken up again.
    pub seconds: f64,
}

/// How many image files were left out.
#[derive(Debug, Clone, Serialize)]
pub struct LeftOut {
    /// Of the forget set.
    pub forget: usize,
    /// Of the probing set.
    pub probe: usize,
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
    write_predictions(audit, main)?;
    write_left_out(audit)?;
    write_iterations(audit.results, outcome)?;
    export(&main.attack, audit, &provenance, "recovered.onnx")?;
    export(&main.unlearned, audit, &provenance, "unlearned_after.onnx")?;
    let mut summary = Summary {
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
        agreement_rate: headline.agreement_rate,
        iterations: headline.iterations,
        stop_reason: headline.stop_reason.clone(),
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
            .chain(starved(audit.settings, main.variant, audit.forget.len(), &main.course))
            .collect(),
        seconds,
    };
    finish(audit.results, &mut summary)?;
    Ok(summary)
}

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
    tables::write_all(results, &summary.records)?;
    let json = serde_json::to_vec_pretty(summary).map_err(Error::unexpected)?;
    files::write(&results.join("run.json"), &json)
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

fn class_name(audit: &Audit, class: i64) -> String {
    let name = usize::try_from(class).ok().and_then(|c| audit.probe.classes.get(c));
    name.cloned().unwrap_or_else(|| class.to_string())
}

fn write_predictions(audit: &Audit, variant: &VariantOutcome) -> Result<()> {
    let header = ["image", "unlearned_label", "unlearned_confidence", "recovered_label", "recovered_confidence", "truth"];
    let lines = audit::image_predictions(audit.forget, &variant.course.before, &variant.course.attack);
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|line| {
            vec![
                csv::text(line.image),
                csv::text(&class_name(audit, line.unlearned)),
                line.unlearned_confidence.to_string(),
                csv::text(&class_name(audit, line.recovered)),
                line.recovered_confidence.to_string(),
                line.truth.map_or_else(String::new, |t| csv::text(&class_name(audit, t))),
            ]
        })
        .collect();
    csv::write(&audit.results.join("predictions.csv"), &header, &rows)
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

/// The recovered model tells as much about the images as the predictions: like the other results it is for its owner alone.
fn private(path: &Path) -> Result<()> {
    #[cfg(unix)]
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).map_err(|e| Error::io(path, &e))?;
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
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
    private(&path)
}

/// The recovery table and the list of files, for a terminal of 100 columns.
pub fn text(summary: &Summary, outcome: &Outcome, results: &Path) -> String {
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
    for verdict in &summary.verdicts {
        line(format!("verdict: {verdict}"));
    }
    if summary.acc_u.is_none() {
        line("the forget images have no labels: accuracies stay empty; predictions.csv holds what was recovered".to_string());
    }
    for note in &summary.notes {
        line(format!("note: {note}"));
    }
    let last = outcome.variants.last();
    line(format!(
        "ended after {} iterations ({}) in {:.0} s",
        summary.iterations,
        last.map_or(String::new(), |v| v.stop.to_string()),
        summary.seconds
    ));
    line(format!(
        "written to {}: table1.csv table2.csv table3.csv results.csv predictions.csv iterations.csv left_out.csv",
        results.display()
    ));
    line("run.json recovered.onnx unlearned_after.onnx".to_string());
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
