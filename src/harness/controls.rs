//! What an audit compares its attack with: the same attack on a model that never saw the forget images, and the attack model teaching itself.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

use crate::attack::cmira::{self, Evidence};
use crate::attack::{Progress, Variant};
use crate::data::Batches;
use crate::error::{Error, Result};
use crate::files;
use crate::graph::Model;
use crate::harness::audit::{self, Audit, Outcome};
use crate::harness::results;
use crate::metrics::{accuracy, paired};
use crate::report::Summary;
use crate::report::verdict::{PROBE_ONLY, SELF_TRAINING, verdict};
use crate::tensor::derive_seed;
use crate::train::checkpoint::Checkpoint;
use crate::train::{self, Control};

/// Whether a control means anything: without a teacher there is nothing to take its place, and without labels nothing to compare.
pub fn wanted(audit: &Audit) -> bool {
    let taught = audit.variants.iter().any(|variant| matches!(variant, Variant::PU | Variant::PUA));
    taught && audit.forget.labels.iter().any(Option::is_some)
}

/// Stands among an audit's notes until its control is run.
pub const PENDING: &str = "the control is not run yet, so that nothing can be said about a leak: run the same command again";

/// Where a control's own results are: each control has a folder of its own, so that one audit can have several, one after the other.
pub fn folder(results: &Path, given: Option<&Model>) -> PathBuf {
    let name = match given {
        None => PROBE_ONLY,
        Some(model) => model.sha256().get(..12).unwrap_or_else(|| model.sha256()),
    };
    results.join("control").join(name)
}

/// A control that was made for an audit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProbeOnly {
    /// A hash of what its weights depend on.
    identity: String,
    /// Its accuracy on the images that it was trained on, percent. A control that learned little excuses nothing.
    pub probe_accuracy: f64,
}

/// Numbers in a constant that scales an image's colours, at most.
const COLOURS: i64 = 3;

impl ProbeOnly {
    /// What a reader should know of it; `on_forget` is its accuracy on the forget images before the attack, percent.
    pub fn notes(&self, audited: &Model, on_forget: Option<f64>) -> Vec<String> {
        let forget = on_forget.map_or_else(String::new, |accuracy| {
            format!(
                ", and {accuracy:.2} % of the forget images, before it is attacked: what a model that was trained on more would get of these without \
                 having seen them is not known"
            )
        });
        let mut notes = vec![format!(
            "the control, the audited network trained on the probing images alone, gets {:.2} % of the images right that it was trained on{forget}",
            self.probe_accuracy
        )];
        // Numbers by which images or colours are scaled were not learned.
        let kept =
            audited.report().frozen.iter().filter(|info| info.may_be_learned() && info.shape.iter().product::<i64>() > COLOURS);
        let kept = kept.count();
        if kept > 0 {
            let tensors = if kept == 1 { "one frozen tensor".to_string() } else { format!("{kept} frozen tensors") };
            notes.push(format!(
                "the control has {tensors} from the audited file (cmira check --list names what is frozen): if that was learned, it knows more \
                 than the probing images, or fits them less"
            ));
        }
        notes
    }
}

/// Trains the audited graph from fresh weights on the probing set alone, with the settings of stage 1, and saves it as `probe_only.onnx` in
/// `folder`. A model that was made there for the same audit is kept.
///
/// # Errors
/// Interrupted, with a checkpoint; what training raises.
pub fn train_probe_only(
    audit: &Audit,
    folder: &Path,
    report: &mut dyn FnMut(&Progress),
    stop: &AtomicBool,
) -> Result<(PathBuf, ProbeOnly)> {
    let (path, made_for) = (folder.join("probe_only.onnx"), folder.join("probe_only.json"));
    let identity = identity(audit)?;
    match std::fs::read(&made_for) {
        Ok(bytes) => match serde_json::from_slice::<ProbeOnly>(&bytes) {
            Ok(found) if found.identity == identity && path.exists() => return Ok((path, found)),
            // Of another audit, or damaged: it is made anew.
            _ => {}
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io(&made_for, &error)),
    }
    std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, &error))?;
    let model = audit.model.duplicate()?;
    model.reinitialise(derive_seed(audit.settings.seed, "probe-only model", 0))?;
    let images = Batches::new(audit.probe, audit.adapter, audit.device)?;
    let labels = audit.probe.label_list()?;
    let evidence = Evidence { images: &images, forget: &images, probe_labels: &labels };
    let rows: Vec<i64> = (0..images.len()).map(|row| i64::try_from(row).map_err(Error::unexpected)).collect::<Result<_>>()?;
    let mut forward = |event: &train::Event| report(&Progress::Training { model: "control", iteration: 0, event });
    let checkpoint = folder.join("probe_only.checkpoint.safetensors");
    let kept = Checkpoint { path: checkpoint.clone(), every: 10, fingerprint: identity.clone() };
    let mut control = Control { on_event: Some(&mut forward), stop: Some(stop), checkpoint: Some(kept) };
    cmira::pretrain(&model, &evidence, &rows, audit.settings, &mut control).map_err(audit::interrupted)?;
    model.save(&path, &[("version", env!("CARGO_PKG_VERSION")), ("trained_on", "the probing set alone")])?;
    let predicted = cmira::predict_forget(&model, &evidence)?.classes;
    let known = accuracy::top1(&predicted, &audit.probe.labels).map_or(f64::NAN, accuracy::Tally::percent);
    let made = ProbeOnly { identity, probe_accuracy: known };
    files::write(&made_for, &serde_json::to_vec_pretty(&made).map_err(Error::unexpected)?)?;
    match std::fs::remove_file(&checkpoint) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&checkpoint, &error)),
        _ => Ok((path, made)),
    }
}

/// What the control's weights depend on.
fn identity(audit: &Audit) -> Result<String> {
    let settings = (&audit.settings.pretrain, audit.settings.seed, audit.settings.augment);
    let settings = serde_json::to_string(&settings).map_err(Error::unexpected)?;
    let adapter = serde_json::to_string(audit.adapter).map_err(Error::unexpected)?;
    let compute = audit.model.computing().name();
    Ok(files::digest(&[audit.model.sha256(), &audit.probe.sha256, &settings, &adapter, &compute, env!("CARGO_PKG_VERSION")]))
}

/// Of the images whose class is known, which a variant of the attack gets right at the end.
fn right(audit: &Audit, outcome: &Outcome, variant: &str) -> Option<Vec<bool>> {
    let found = outcome.variants.iter().find(|found| found.variant.name() == variant)?;
    let classes = found.course.attack.classes.iter().zip(&audit.forget.labels);
    Some(classes.filter_map(|(class, truth)| truth.map(|truth| truth == *class)).collect())
}

/// Takes a control into account: what the same attack reaches on it is no leak of the audited model. The headline's comparison is the verdict.
/// `folder` is where the control's own results are.
///
/// # Errors
/// Unexpected, when the folder is not writable or the disk is full.
pub fn add_control(
    audit: &Audit,
    own: &Outcome,
    summary: &mut Summary,
    other: &Outcome,
    (control, folder): (&Summary, &Path),
) -> Result<()> {
    let mut last = None;
    for record in &mut summary.records {
        let found = control.records.iter().find(|found| found.variant == record.variant);
        let rights = right(audit, own, &record.variant).zip(right(audit, other, &record.variant));
        last = found.zip(rights).and_then(|(found, (own, others))| {
            let compared = record.compare_with(found, &own, &others)?;
            Some(verdict(&compared, &found.method))
        });
    }
    summary.verdicts.extend(last);
    // Relative, so that the folder may be moved, or sent to somebody.
    let below = folder.strip_prefix(audit.results).unwrap_or(folder);
    summary.control_folder = Some(below.display().to_string());
    results::finish(audit.results, summary)
}

/// Takes the attack model that taught itself into account, where it was run.
///
/// # Errors
/// As [`add_control`].
pub fn add_self_training(audit: &Audit, own: &Outcome, summary: &mut Summary) -> Result<()> {
    let alone = summary.records.iter().find(|record| record.variant == Variant::PA.name()).cloned();
    let Some(alone) = alone else { return Ok(()) };
    summary.records.iter_mut().for_each(|record| record.compare_with_self(&alone));
    let headline = summary.records.last().filter(|headline| headline.is_taught());
    let rights = headline.and_then(|headline| right(audit, own, &headline.variant)).zip(right(audit, own, &alone.variant));
    let compared = rights.and_then(|(own, others)| paired::compare(&others, &own));
    summary.verdicts.extend(compared.map(|found| verdict(&found, SELF_TRAINING)));
    results::finish(audit.results, summary)
}
