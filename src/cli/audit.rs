//! `cmira audit`: attacks one model and reports what came back.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::attack::{Iteration, Progress, Variant};
use crate::check::{self, Parity};
use crate::cli::board::{Board, Watched};
use crate::cli::common::{self, Compute, Expected, Precise, Reading};
use crate::cli::progress::{Bar, rough};
use crate::cli::report;
use crate::cli::settings;
use crate::data::Batches;
use crate::error::{Error, ErrorKind, Place, Result};
use crate::files;
use crate::graph::Model;
use crate::harness::audit::{self, Audit, Outcome};
use crate::harness::controls::{self, ProbeOnly};
use crate::harness::kept::Keep;
use crate::harness::results::{self, Described};
use crate::nets::Backbone;
use crate::report::pages::Maps;
use crate::report::record::UNNAMED;
use crate::report::{Summary, csv, verdict};
use crate::tensor::{Device, Tensor};
use crate::train;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  cmira audit --model unlearned.onnx --adapter adapter.yaml --forget images/forget --probe images/probe --out audit
Settings of the attack stand in a YAML file (--settings); `cmira audit --print-settings` shows all of them with their defaults.")]
pub struct Args {
    /// The unlearned model.
    #[arg(long, value_name = "MODEL.onnx", required_unless_present = "print_settings")]
    model: Option<PathBuf>,
    /// Images that the model should have forgotten: class folders, a flat folder with labels.csv, or a flat folder without labels.
    #[arg(long, value_name = "DIR", required_unless_present = "print_settings")]
    forget: Option<PathBuf>,
    /// Similar images with labels: a folder for every class of the model.
    #[arg(long, value_name = "DIR", required_unless_present = "print_settings")]
    probe: Option<PathBuf>,
    /// How the model wants its images.
    #[arg(long, value_name = "ADAPTER.yaml")]
    adapter: Option<PathBuf>,
    /// A model that never saw the forget images, best of all one retrained without them: what the same attack reaches on it is no leak. By
    /// default, the audited network trained on the probing images alone.
    #[arg(long, value_name = "MODEL.onnx")]
    control: Option<PathBuf>,
    /// Run neither a control nor self-training: less than half the time, and nothing can be said about a leak.
    #[arg(long, conflicts_with = "control")]
    no_control: bool,
    /// Where results go; an unfinished audit in this folder is continued.
    #[arg(long, default_value = "audit", value_name = "DIR")]
    out: PathBuf,
    /// Settings of the attack; what is left out keeps its default.
    #[arg(long, value_name = "SETTINGS.yaml")]
    settings: Option<PathBuf>,
    /// Run the paper's ablation as well: P, P+U and P+U+A.
    #[arg(long)]
    ablation: bool,
    /// Overrides the settings' seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Overrides the settings' backbone of the attack model.
    #[arg(long, value_parser = common::backbone())]
    backbone: Option<Backbone>,
    /// Use the paper's stopping rule, which needs labels for the forget images.
    #[arg(long)]
    oracle: bool,
    /// What the tables call the data set.
    #[arg(long, default_value = UNNAMED[0])]
    dataset: String,
    /// What the tables call the model's backbone.
    #[arg(long, default_value = UNNAMED[1])]
    model_name: String,
    /// What the tables call the unlearning method: RT, FT, GA, FF, IU, WP or a name of yours.
    #[arg(long, default_value = UNNAMED[2])]
    method: String,
    /// The same for the control.
    #[arg(long, default_value = "control", value_name = "METHOD", requires = "control")]
    control_method: String,
    /// Resize images of another size instead of leaving them out.
    #[arg(long)]
    resize: bool,
    /// Images, forget and probing together, whose features are kept for a map of them (t-SNE), at most; 0 keeps none.
    #[arg(long, default_value_t = 2_000, value_name = "N")]
    features: usize,
    /// Keep no small pictures of the forget images, and show none on the page.
    #[arg(long)]
    no_pictures: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
    /// Print all settings with their values as YAML, each explained, and do nothing.
    #[arg(long)]
    print_settings: bool,
    #[command(flatten)]
    watched: Watched,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    precise: Precise,
    #[command(flatten)]
    compute: Compute,
}

pub fn run(args: &Args) -> Result<()> {
    common::or_json(args.json, audit(args))
}

fn audit(args: &Args) -> Result<()> {
    let settings = settings::read(args.settings.as_deref(), args.seed, args.backbone, args.oracle)?;
    if args.print_settings {
        print!("{}", settings::explained(&settings)?);
        return Ok(());
    }
    let (Some(model_path), Some(forget_path), Some(probe_path)) = (&args.model, &args.forget, &args.probe) else {
        return Err(Error::usage("--model, --forget and --probe are needed"));
    };
    let device = args.compute.start()?;
    let reporter = args.compute.reporter();
    let adapter = common::adapter(args.adapter.as_deref())?;
    let open = |path: &Path| -> Result<Model> {
        let bar = reporter.wait(&format!("importing {}", path.display()));
        let model =
            common::open(path, &adapter, &args.reading, device).and_then(|model| model.computing_in(args.precise.on(device)));
        bar.finish();
        model
    };
    let model = open(model_path)?;
    let expected = common::expected(&model, &adapter, args.resize)?;
    // What is in it tells of images and of people.
    files::private_folder(&args.out)?;
    let probe = common::images(probe_path, &expected, Some(args.out.join("state/cache")), &reporter)?;
    let repaired = |model: Model, path: &Path| -> Result<Model> {
        let model = common::with_batch_norm(model, &Batches::new(&probe, &adapter, device)?).at(|| path.display())?;
        let report = model.report();
        for text in report.repairs.iter().chain(&report.notes) {
            reporter.note(&format!("{}: {text}", path.display()));
        }
        Ok(model)
    };
    let model = repaired(model, model_path)?;
    let with_classes = Expected { size: Some((probe.height(), probe.width())), classes: Some(probe.classes.clone()), ..expected };
    let forget = common::images(forget_path, &with_classes, Some(args.out.join("state/cache")), &reporter)?;
    let plain: &[Variant] = if args.ablation { &Variant::ABLATION } else { &[settings.variant] };
    // Self-training does not depend on the model: it is run once.
    let with_self = [plain, &[Variant::PA]].concat();
    let keep = Keep { features: args.features, pictures: if args.no_pictures { 0 } else { MOST_PICTURES } };
    let command = common::command_line();
    let working_directory = files::working_directory();
    let of = |model, variants, results, stage_one_of| Audit {
        model,
        forget: &forget,
        probe: &probe,
        adapter: &adapter,
        settings: &settings,
        variants,
        results,
        stage_one_of,
        device,
        keep,
        identity: None,
    };
    let one = |audit: &Audit, method: &str, what: &str, witnessed: Witnessed| -> Result<Finished> {
        let Witnessed { file, parity, notes } = witnessed;
        let described = Described {
            dataset: &args.dataset,
            backbone: &args.model_name,
            method,
            device,
            parity,
            notes,
            command: &command,
            working_directory: &working_directory,
            model_file: &file,
        };
        let outcome = attack(audit, what, args)?;
        let mut described = described;
        if outcome.shared_images > 0 {
            let text =
                format!("{} forget images are in the probing set as well: what they teach is no recovery", outcome.shared_images);
            reporter.warn(&text);
            described.notes.push(text);
        }
        if args.resize {
            described.notes.push("images of another size than the model's were resized (--resize)".to_string());
        }
        Ok(Finished { summary: results::write(audit, &outcome, &described, outcome.seconds)?, outcome })
    };
    let open_control = |path: &Path| open(path).and_then(|control| repaired(control, path)).at(|| "control");
    let given = args.control.as_deref().map(|path| open_control(path).map(|control| (path, control))).transpose()?;
    // Both are tried before the first of them is attacked for hours.
    let compared = !args.no_control && controls::wanted(&of(&model, plain, &args.out, None));
    let main = of(&model, if compared { &with_self } else { plain }, &args.out, None);
    audit::admit(&main)?;
    if let Some((path, control)) = &given {
        if control.sha256() == model.sha256() {
            let error = Error::usage("the control is the audited model itself, and would excuse everything");
            return Err(error.at(format!("--control {}", path.display())));
        }
        audit::admit(&of(control, plain, &args.out, None)).at(|| format!("--control {}", path.display()))?;
    }
    let first = i64::try_from(forget.len().min(COMPARED_IMAGES)).map_err(Error::unexpected)?;
    let images = Batches::new(&forget, &adapter, Device::Cpu)?.range(0, first)?;
    let trained = plain.contains(&Variant::PUA);
    let witnessed = Witnessed::of(model_path, &model, &images, trained)?;
    let control_witnessed =
        given.as_ref().map(|(path, control)| Witnessed::of(path, control, &images, trained).at(|| "control")).transpose()?;
    for note in witnessed.notes.iter().chain(control_witnessed.iter().flat_map(|witnessed| &witnessed.notes)) {
        reporter.warn(note);
    }
    let labelled = forget.labels.iter().any(Option::is_some);
    let with_control = labelled && (compared || given.is_some());
    let mut witnessed = witnessed;
    if !labelled && !args.no_control {
        witnessed.notes.push("no control was run: without labels of the forget images there is nothing to compare".to_string());
    }
    if with_control {
        // Results are written before the control is run for as long again, and are not finished before it is.
        witnessed.notes.push(controls::PENDING.to_string());
    }
    let mut finished = one(&main, &args.method, "attack", witnessed)?;
    if with_control {
        let folder = controls::folder(&args.out, given.as_ref().map(|(_, control)| control));
        let attacked = |control: &Model, method: &str, witnessed: Witnessed| {
            let its = Audit {
                model: control,
                variants: plain,
                results: &folder,
                stage_one_of: Some(&args.out),
                keep: Keep::NOTHING,
                ..main
            };
            one(&its, method, "control", witnessed)
        };
        let trained_here = || -> Result<(Finished, Vec<String>)> {
            let (path, made) = train_control(&main, &folder, args)?;
            // What the adapter wants repaired was repaired before it was trained.
            let control = open(&path)?;
            let witnessed = Witnessed::of(&path, &control, &images, trained)?;
            let attacked = attacked(&control, verdict::PROBE_ONLY, witnessed)?;
            let notes = made.notes(&model, attacked.summary.acc_u);
            Ok((attacked, notes))
        };
        let (other, notes) = match &given {
            Some((_, control)) => (attacked(control, &args.control_method, control_witnessed.unwrap_or_default())?, Vec::new()),
            None => trained_here().map_err(|error| match error.kind() {
                ErrorKind::Interrupted => error,
                _ => error
                    .at("control")
                    .help("the attack is done: run the same command again to go on here, or with --no-control to do without"),
            })?,
        };
        finished.summary.notes.extend(notes);
        finished.summary.notes.retain(|note| note != controls::PENDING);
        reporter.note(&format!("the control's own results are in {}", folder.display()));
        let its = (&other.summary, folder.as_path());
        controls::add_control(&main, &finished.outcome, &mut finished.summary, &other.outcome, its)?;
        controls::add_self_training(&main, &finished.outcome, &mut finished.summary)?;
    }
    let written = report::write_page(&args.out, report::Results::Audit, Maps::Drawn, &reporter)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&finished.summary).map_err(Error::unexpected)?);
    } else {
        print!("{}", results::text(&finished.summary, &args.out));
        println!("{}", in_one_line(&finished.summary, written.first()));
    }
    Ok(())
}

/// The last line on the screen: what came out, and where all of it can be seen.
fn in_one_line(summary: &Summary, page: Option<&PathBuf>) -> String {
    let number =
        |name: &str, value: Option<f64>, unit: &str| value.map(|value| format!("{name} {}{unit}", csv::percent(Some(value))));
    let numbers = [
        number("Acc_U", summary.acc_u, " %"),
        number("Acc_A", summary.acc_a_last, " %"),
        number("excess", summary.excess, " points"),
        Some(format!("agreement {:.1} %", 100.0 * summary.agreement_rate)),
    ];
    let numbers: Vec<String> = numbers.into_iter().flatten().collect();
    format!("{}: {}", page.map_or_else(String::new, |page| page.display().to_string()), numbers.join(", "))
}

/// Trains the control that every audit has, with a bar.
fn train_control(audit: &Audit, folder: &Path, args: &Args) -> Result<(PathBuf, ProbeOnly)> {
    let bar = args.compute.reporter().bar("control", "batches");
    let mut board = Board::new(&args.watched);
    let mut show = |progress: &Progress| {
        board.attack("control's training", progress);
        if let Progress::Training { model, iteration, event } = progress {
            show_epoch(&bar, "control's own training", (model, *iteration), event);
        }
    };
    let made = controls::train_probe_only(audit, folder, &mut show, common::listen_for_interrupt());
    bar.finish();
    board.warn(&args.compute.reporter());
    made
}

/// Forget images of which small pictures are kept for the page, at most.
const MOST_PICTURES: usize = 2_000;

/// Forget images on which an import is compared with ONNX Runtime before it is attacked.
const COMPARED_IMAGES: usize = 16;

/// What ONNX Runtime says about an import.
#[derive(Default)]
struct Witnessed {
    file: String,
    parity: Option<Parity>,
    notes: Vec<String>,
}

impl Witnessed {
    /// Numbers about a model that was imported wrongly are about another model: disagreement ends the audit. Where nothing can be
    /// compared, the results say so.
    ///
    /// # Errors
    /// Also Unsupported, for a model that would be trained and that no gradient reaches.
    fn of(path: &Path, model: &Model, images: &Tensor, trained: bool) -> Result<Witnessed> {
        let file = path.display().to_string();
        let mut witnessed = match check::compare_on(path, model, images) {
            Ok(parity) => Witnessed { file, parity: Some(parity), notes: Vec::new() },
            Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Usage) => {
                Witnessed { file, parity: None, notes: vec![format!("not compared with ONNX Runtime: {error}")] }
            }
            Err(error) => return Err(error),
        };
        if let (true, &[_, c, h, w]) = (trained, images.size().as_slice()) {
            let found = check::gradients::check(model, &[c, h, w]).at(|| path.display())?;
            if let Some(fault) = found.unreached() {
                witnessed.notes.push(format!("{fault}: the attack trains a part of the model only"));
            }
        }
        Ok(witnessed)
    }
}

struct Finished {
    summary: Summary,
    outcome: Outcome,
}

/// Runs the attack with a bar for the stage in hand.
fn attack(audit: &Audit, what: &str, args: &Args) -> Result<Outcome> {
    let reporter = args.compute.reporter();
    let bar = reporter.bar(what, "batches");
    let mut board = Board::new(&args.watched);
    let most = audit.settings.iterations;
    // When stage 2 began, or went on, and iterations since.
    let (mut begun, mut done) = (Instant::now(), 0);
    let mut show = |progress: &Progress| {
        board.attack(what, progress);
        match progress {
            Progress::Training { model, iteration, event } => show_epoch(&bar, what, (model, *iteration), event),
            Progress::Iteration(line) => {
                done += 1;
                let left = u32::try_from(most.saturating_sub(line.iteration)).unwrap_or(u32::MAX);
                let left = (begun.elapsed() / done).checked_mul(left).unwrap_or(Duration::MAX);
                let left = if line.iteration < most { format!("; at most {} left", rough(left)) } else { String::new() };
                reporter.note(&format!("{}{left}", describe(what, line, most)));
            }
            Progress::Variant(variant) => {
                (begun, done) = (Instant::now(), 0);
                reporter.note(&format!("{what}: {}", variant.about()));
            }
        }
    };
    let outcome = audit::run(audit, &mut show, common::listen_for_interrupt());
    bar.finish();
    board.warn(&reporter);
    outcome
}

fn show_epoch(bar: &Bar, what: &str, (model, iteration): (&str, usize), event: &train::Event) {
    match event {
        train::Event::Epoch { loss, .. } => {
            let stage = match (iteration, model) {
                (0, "control") => String::new(),
                (0, _) => ": stage 1".to_string(),
                (iteration, "attack") => format!(": iteration {iteration}, M_A learns"),
                (iteration, _) => format!(": iteration {iteration}, M_U learns"),
            };
            bar.message(&format!("{what}{stage}, loss {loss:.3}"));
        }
        train::Event::Batch { epoch, epochs, batch, of } => bar.batch(*epoch, *epochs, *batch, *of),
        train::Event::Resumed { .. } => {}
    }
}

/// What an iteration did: how far the models agree, what they get right, and what they were taught.
fn describe(what: &str, line: &Iteration, most: usize) -> String {
    let percent = |value: Option<f64>| value.map_or_else(|| "-".to_string(), |v| format!("{v:.2} %"));
    format!(
        "{what}: iteration {:>3}/{most}  agreement {:5.1} %  Acc_A {}  Acc_U {}  taught {} agreed, {} by M_U, {} by M_A",
        line.iteration,
        100.0 * line.agreement_rate,
        percent(line.acc_a),
        percent(line.acc_u),
        line.agreement,
        line.from_unlearned,
        line.from_attack
    )
}
