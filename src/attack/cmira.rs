//! CMIRA's two stages: pretraining of the attack model on the probing set, then mutual knowledge distillation.

use crate::attack::mixup::{Mixture, one_hot};
use crate::attack::sets::{Predictions, Sets};
use crate::attack::settings::{AttackSettings, Variant};
use crate::attack::spectral::SpectralNorm;
use crate::attack::stopping::{StopReason, StopRule, Stopper};
use crate::data::{Augment, Batches};
use crate::error::{Error, Result};
use crate::graph::{Computing, Model};
use crate::nets::{self, InputShape};
use crate::tensor::{Kind, Tensor, derive_seed, no_grad, to_f32s, to_i64s};
use crate::train::{self, Control, Event, TrainSettings};

/// What the attack may see: images of both sets, and labels of the probing set only.
pub struct Evidence<'a> {
    /// Images of the probing set, then of the forget set, resident on the models' device.
    pub images: &'a Batches,
    /// Images of the forget set `X_f` alone.
    pub forget: &'a Batches,
    /// Labels of the probing set, in `0..K`.
    pub probe_labels: &'a [i64],
}

impl Evidence<'_> {
    fn probe_count(&self) -> usize {
        self.probe_labels.len()
    }
}

/// Top-1 accuracy in percent of predicted classes of the forget set. Whoever holds the truth hands this in, so that the attack
/// never does.
pub type Score<'a> = dyn Fn(&[i64]) -> f64 + 'a;

/// One line of the attack's course. Iteration 0 is the state after stage 1.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Iteration {
    /// 0 after stage 1, then 1, 2, ...
    pub iteration: usize,
    /// Accuracy of the attack model on the forget set, percent; empty without labels.
    pub acc_a: Option<f64>,
    /// Accuracy of the unlearned model on the forget set, percent; empty without labels.
    pub acc_u: Option<f64>,
    /// Share of forget images on which both models agree, in `0..=1`. Of self-training, on which the attack model agrees with what it was
    /// taught; 0 before it is taught anything.
    pub agreement_rate: f64,
    /// Size of the agreement set that this iteration trained on.
    pub agreement: usize,
    /// Size of the unlearned model's disagreement set.
    pub from_unlearned: usize,
    /// Size of the attack model's disagreement set.
    pub from_attack: usize,
    /// Mean loss of the attack model in its last epoch.
    pub loss_a: Option<f64>,
    /// Mean loss of the unlearned model in its last epoch; empty while it is frozen.
    pub loss_u: Option<f64>,
}

/// What the attack reports while it runs.
#[derive(Debug)]
pub enum Progress<'a> {
    /// Stage 2 begins, or goes on, by this variant.
    Variant(Variant),
    /// A training epoch of stage 1 or of one model in stage 2.
    Training {
        /// `pretrain`, or `attack` or `unlearned` in stage 2.
        model: &'static str,
        /// Iteration; 0 in stage 1.
        iteration: usize,
        /// The epoch that ended.
        event: &'a Event,
    },
    /// An iteration ended.
    Iteration(&'a Iteration),
}

/// Everything that goes on between two iterations: what a resumed attack continues from.
pub struct Course {
    /// The lines so far, iteration 0 first.
    pub iterations: Vec<Iteration>,
    /// Predictions of the unlearned model before the attack.
    pub before: Predictions,
    /// Predictions of the attack model after stage 1.
    pub pretrained: Predictions,
    /// Predictions of the attack model now.
    pub attack: Predictions,
    /// Predictions of the unlearned model now.
    pub unlearned: Predictions,
    /// Predictions of the attack model at the iteration with the best watched figure.
    pub best: Predictions,
    /// Why the attack ended; `None` while it goes on.
    pub stop: Option<StopReason>,
}

/// Builds a fresh attack model `M_A = LipSoftMax(BBN(x))` for images of a shape, which computes as the audited model does.
///
/// # Errors
/// Usage, when the backbone cannot take such images.
pub fn attack_model(settings: &AttackSettings, input: InputShape, classes: usize, on: Computing) -> Result<Model> {
    // A seed of its own: reference models are made from the same seeds, and the attack must not begin where one of them began.
    let seed = derive_seed(settings.seed, "attack model", 0);
    let proto = nets::with_mlp_head(settings.backbone, input, classes, settings.head_width, settings.logit_scale, seed)?;
    let mut model = Model::from_proto("attack model", proto, on.device)?.computing_in(on.precision)?;
    normalise(&mut model, settings);
    Ok(model)
}

/// Puts spectral normalisation between the attack model's weights and its forward pass, if the settings ask for it.
pub fn normalise(model: &mut Model, settings: &AttackSettings) {
    if settings.spectral_norm {
        let norm = SpectralNorm::new(model.params());
        model.set_parametrization(Box::new(norm));
    }
}

/// Stage 1: trains the attack model on the labelled probing images at `rows` of the evidence.
///
/// # Errors
/// What training raises; Interrupted with a checkpoint if `control` has one.
pub fn pretrain(
    attack: &Model,
    evidence: &Evidence,
    rows: &[i64],
    settings: &AttackSettings,
    control: &mut Control,
) -> Result<()> {
    let labels: Vec<i64> = rows
        .iter()
        .map(|&row| usize::try_from(row).ok().and_then(|row| evidence.probe_labels.get(row)).copied())
        .collect::<Option<_>>()
        .ok_or_else(|| Error::unexpected("a probing image has no label"))?;
    let labels = one_hot(&labels, attack.classes())?.f_to_device(attack.device())?;
    let samples = Mixture::new(evidence.images, rows, labels, 0.0, augment(settings))?;
    let plan = TrainSettings { seed: derive_seed(settings.seed, "pretrain", 0), ..settings.pretrain.clone() };
    train::fit(attack, &samples, &plan, control)?;
    Ok(())
}

fn augment(settings: &AttackSettings) -> Augment {
    if settings.augment { Augment::default() } else { Augment::NONE }
}

/// Both models' predictions on the forget set, softmax probabilities `[n, K]` on the models' device included.
struct Snapshot {
    predictions: Predictions,
    probabilities: Tensor,
}

impl Snapshot {
    fn copy(&self) -> Snapshot {
        Snapshot { predictions: self.predictions.clone(), probabilities: self.probabilities.shallow_clone() }
    }
}

/// How many images are evaluated at once.
const EVALUATION_BATCH: usize = 500;

/// Predictions of a model on the forget set, in evaluation mode.
pub fn predict_forget(model: &Model, evidence: &Evidence) -> Result<Predictions> {
    Ok(snapshot(model, evidence)?.predictions)
}

fn snapshot(model: &Model, evidence: &Evidence) -> Result<Snapshot> {
    let _guard = no_grad();
    let logits = train::evaluate::logits(model, evidence.forget, EVALUATION_BATCH)?;
    let probabilities = logits.f_softmax(-1, Kind::Float)?;
    let (confidences, classes) = probabilities.f_max_dim(-1, false)?;
    Ok(Snapshot { predictions: Predictions { classes: to_i64s(&classes)?, confidences: to_f32s(&confidences)? }, probabilities })
}

/// Share of images on which two predictions agree, in `0..=1`; 0 for no images.
pub fn agreement_rate(a: &Predictions, b: &Predictions) -> f64 {
    let same = a.classes.iter().zip(&b.classes).filter(|(a, b)| a == b).count();
    if a.classes.is_empty() { 0.0 } else { same as f64 / a.classes.len() as f64 }
}

/// The state after stage 1.
pub fn begin(attack: &Model, unlearned: &Model, evidence: &Evidence, variant: Variant, score: Option<&Score>) -> Result<Course> {
    let (a, u) = (predict_forget(attack, evidence)?, predict_forget(unlearned, evidence)?);
    let first = Iteration {
        iteration: 0,
        acc_a: score.map(|score| score(&a.classes)),
        acc_u: score.map(|score| score(&u.classes)),
        agreement_rate: if variant == Variant::PA { 0.0 } else { agreement_rate(&a, &u) },
        agreement: 0,
        from_unlearned: 0,
        from_attack: 0,
        loss_a: None,
        loss_u: None,
    };
    Ok(Course {
        iterations: vec![first],
        before: u.clone(),
        pretrained: a.clone(),
        best: a.clone(),
        attack: a,
        unlearned: u,
        stop: None,
    })
}

/// Stage 2: iterates until a stopping rule holds. `save` is called after every iteration, and may refuse to go on.
///
/// # Errors
/// Usage, when the oracle rule is asked for without labels; what training raises.
pub fn distil(
    attack: &Model,
    unlearned: &Model,
    evidence: &Evidence,
    settings: &AttackSettings,
    score: Option<&Score>,
    course: &mut Course,
    hooks: &mut Hooks,
) -> Result<()> {
    if settings.variant == Variant::P {
        course.stop = Some(StopReason::NoMutualStage);
        return Ok(());
    }
    let watched = |line: &Iteration| match settings.stop {
        StopRule::Agreement => Ok(line.agreement_rate),
        StopRule::Oracle => line.acc_a.ok_or_else(|| {
            Error::usage("the oracle stopping rule needs labels for the forget set")
                .help("use `stop: agreement`, or label the images")
        }),
    };
    // A resumed attack replays the figures so far, so that it stops where an uninterrupted one would have.
    let mut stopper = Stopper::new(settings.patience, watched(&course.iterations[0])?);
    let mut best = watched(&course.iterations[0])?;
    for line in &course.iterations[1..] {
        let figure = watched(line)?;
        best = best.max(figure);
        if stopper.stop_after(figure) {
            course.stop = Some(StopReason::Patience);
        }
    }
    let mut known = None;
    while course.stop.is_none() {
        let iteration = course.iterations.len();
        if iteration > settings.iterations {
            course.stop = Some(StopReason::Iterations);
            break;
        }
        let line = iterate(attack, unlearned, evidence, settings, score, course, &mut known, iteration, hooks)?;
        let figure = watched(&line)?;
        if figure > best {
            best = figure;
            course.best = course.attack.clone();
        }
        (hooks.report)(&Progress::Iteration(&line));
        course.iterations.push(line);
        if stopper.stop_after(figure) {
            course.stop = Some(StopReason::Patience);
        }
        (hooks.save)(course)?;
    }
    Ok(())
}

/// What the attack calls while it runs.
pub struct Hooks<'a> {
    /// Progress, for a person to see.
    pub report: &'a mut dyn FnMut(&Progress),
    /// Called after every iteration with the course so far; stores it. An error ends the attack.
    pub save: &'a mut dyn FnMut(&Course) -> Result<()>,
    /// Set from outside to end the work.
    pub stop: &'a std::sync::atomic::AtomicBool,
}

#[allow(clippy::too_many_arguments)]
fn iterate(
    attack: &Model,
    unlearned: &Model,
    evidence: &Evidence,
    settings: &AttackSettings,
    score: Option<&Score>,
    course: &mut Course,
    known: &mut Option<[Snapshot; 2]>,
    iteration: usize,
    hooks: &mut Hooks,
) -> Result<Iteration> {
    // An attack that is resumed here goes on as one that was not interrupted.
    attack.reset_parametrization();
    // What the last iteration ended with is what this one begins with.
    let [a, u] = match known.take() {
        Some(snapshots) => snapshots,
        None => {
            let a = snapshot(attack, evidence)?;
            let u = if settings.variant == Variant::PA { a.copy() } else { snapshot(unlearned, evidence)? };
            [a, u]
        }
    };
    let sets = Sets::of(&u.predictions, &a.predictions, settings.selection())?;
    let taught = Lesson { evidence, settings, sets: &sets, agreed: &u.predictions.classes, iteration };
    let loss_a = taught.teach(attack, &sets.from_unlearned, &u.probabilities, "attack", hooks)?;
    let loss_u = match settings.variant {
        Variant::PUA => Some(taught.teach(unlearned, &sets.from_attack, &a.probabilities, "unlearned", hooks)?),
        _ => None,
    };
    let after = snapshot(attack, evidence)?;
    course.attack = after.predictions.clone();
    let teacher = match settings.variant {
        Variant::PA => after.copy(),
        Variant::PUA => snapshot(unlearned, evidence)?,
        // A frozen teacher says what it said.
        _ => u.copy(),
    };
    if loss_u.is_some() {
        course.unlearned = teacher.predictions.clone();
    }
    *known = Some([after, teacher]);
    let other = if settings.variant == Variant::PA { &u.predictions } else { &course.unlearned };
    Ok(Iteration {
        iteration,
        acc_a: score.map(|score| score(&course.attack.classes)),
        acc_u: score.map(|score| score(&course.unlearned.classes)),
        agreement_rate: agreement_rate(&course.attack, other),
        agreement: sets.agreement.len(),
        from_unlearned: sets.from_unlearned.len(),
        from_attack: sets.from_attack.len(),
        loss_a: Some(loss_a),
        loss_u,
    })
}

/// What both models learn from in one iteration, apart from the other's disagreement set.
struct Lesson<'a> {
    evidence: &'a Evidence<'a>,
    settings: &'a AttackSettings,
    sets: &'a Sets,
    /// The class on which both agree; read at agreement images only.
    agreed: &'a [i64],
    iteration: usize,
}

impl Lesson<'_> {
    /// Trains one model on `D_p`, the agreement set with hard labels, and the other model's disagreement set with soft ones.
    fn teach(
        &self,
        student: &Model,
        disagreement: &[usize],
        teacher: &Tensor,
        name: &'static str,
        hooks: &mut Hooks,
    ) -> Result<f64> {
        let offset = self.evidence.probe_count();
        let row = |&image: &usize| i64::try_from(offset + image).map_err(Error::unexpected);
        let mut rows: Vec<i64> = (0..i64::try_from(offset).map_err(Error::unexpected)?).collect();
        for image in self.sets.agreement.iter().chain(disagreement) {
            rows.push(row(image)?);
        }
        let mut hard = self.evidence.probe_labels.to_vec();
        hard.extend(self.sets.agreement.iter().map(|&image| self.agreed[image]));
        let mut labels = one_hot(&hard, student.classes())?.f_to_device(student.device())?;
        if !disagreement.is_empty() {
            let chosen: Vec<i64> =
                disagreement.iter().map(|&i| i64::try_from(i).map_err(Error::unexpected)).collect::<Result<_>>()?;
            let soft = teacher.f_index_select(0, &Tensor::f_from_slice(&chosen)?.f_to_device(teacher.device())?)?;
            labels = Tensor::f_cat(&[labels, soft], 0)?;
        }
        let plan = &self.settings.mutual;
        let samples = Mixture::new(self.evidence.images, &rows, labels, self.settings.mixup_alpha, augment(self.settings))?;
        // Every iteration and model draws an order of its own.
        let seed = derive_seed(self.settings.seed, &format!("mutual {name}"), self.iteration as u64);
        let plan = TrainSettings { seed, ..plan.clone() };
        let iteration = self.iteration;
        let report = &mut hooks.report;
        let mut forward = |event: &Event| report(&Progress::Training { model: name, iteration, event });
        let mut control = Control { on_event: Some(&mut forward), stop: Some(hooks.stop), checkpoint: None };
        let history = train::fit(student, &samples, &plan, &mut control)?;
        history.epochs.last().map(|e| e.loss).ok_or_else(|| Error::usage("mutual.epochs is 0: nothing would be taught"))
    }
}
