//! Arguments and steps that several commands share.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::cli::progress::Reporter;
use crate::data::adapter::Output;
use crate::data::{Adapter, Batches, FolderOptions, ImageSet, read_folder};
use crate::error::{Error, Result};
use crate::graph::{Head, ImportOptions, Model, Precision, PrecisionChoice};
use crate::nets::Backbone;
use crate::onnx::{self, Limits};
use crate::tensor::{Device, DeviceChoice, Tensor, set_threads};

/// Where and how to compute.
#[derive(Debug, Clone, clap::Args)]
pub struct Compute {
    /// Where to compute: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub device: DeviceChoice,
    /// Threads of one libtorch operation; by default one for every core.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Print results and errors only.
    #[arg(long)]
    pub quiet: bool,
}

/// What models are trained in.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Precise {
    /// What models compute in while they are trained: auto, fp32 or bf16; auto is bf16 where the device multiplies it faster. Weights,
    /// normalisation and losses are float32 either way.
    #[arg(long, default_value = "auto", value_name = "PRECISION")]
    precision: PrecisionChoice,
}

impl Precise {
    /// What that is on a device.
    pub fn on(self, device: Device) -> Precision {
        self.precision.on(device)
    }
}

impl Compute {
    /// Opens the device and sets the number of threads.
    pub fn start(&self) -> Result<Device> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let device = self.device.open()?;
        set_threads(self.threads.unwrap_or(cores));
        Ok(device)
    }

    /// As [`Compute::start`], on the first of several devices, of which each has so many workers. Threads are shared out among them.
    pub fn start_many(&self, devices: &[DeviceChoice], jobs: Option<usize>) -> Result<Vec<Device>> {
        let all = if devices.is_empty() { std::slice::from_ref(&self.device) } else { devices };
        let opened = all.iter().map(|choice| choice.open()).collect::<Result<Vec<Device>>>()?;
        let jobs = jobs.unwrap_or(opened.len());
        if jobs == 0 {
            return Err(Error::usage("--jobs is 0: nothing would be done"));
        }
        if jobs < opened.len() {
            return Err(Error::usage(format!("--jobs {jobs} leaves some of {} devices without work", opened.len())));
        }
        if opened.iter().any(|device| device.is_cuda() != opened[0].is_cuda()) {
            return Err(Error::usage("CPU and GPU give different last bits, so a grid runs on one kind").at("--devices"));
        }
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        set_threads(self.threads.unwrap_or((cores / jobs).max(1)));
        Ok(opened.iter().copied().cycle().take(jobs).collect())
    }

    /// Progress output as the user wants it.
    pub fn reporter(&self) -> Reporter {
        Reporter::new(self.quiet)
    }
}

/// How much an untrusted model file may ask for.
#[derive(Debug, Clone, clap::Args)]
pub struct Reading {
    /// Changes a limit of what a model file may ask for (file_bytes, tensor_bytes, total_tensor_bytes, overhead_bytes, nesting,
    /// nodes, rank, image_numbers); a refusal names the limit.
    #[arg(long = "limit", value_name = "NAME=NUMBER")]
    limits: Vec<String>,
}

impl Reading {
    /// The defaults with what was changed.
    pub fn limits(&self) -> Result<Limits> {
        let mut named = serde_json::Map::new();
        for text in &self.limits {
            let pair = text.split_once('=').and_then(|(name, number)| Some((name, number.parse::<u64>().ok()?)));
            let Some((name, number)) = pair else {
                return Err(Error::usage(format!("--limit {text} is not of the form NAME=NUMBER")));
            };
            named.insert(name.to_string(), number.into());
        }
        serde_json::from_value(named.into()).map_err(|error| Error::usage(error).at("--limit"))
    }
}

/// The user's Ctrl-C. The first one asks the work to save and end, the second one ends the process.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Whether that was by a signal; a closed input asks for the same and must not make the first signal a second one.
static SIGNALLED: AtomicBool = AtomicBool::new(false);

/// Starts to listen for Ctrl-C and gives the flag that it sets.
pub fn listen_for_interrupt() -> &'static AtomicBool {
    // A second call fails because the handler is already there, which is what is wanted.
    let _ = ctrlc::set_handler(|| {
        INTERRUPTED.store(true, Ordering::SeqCst);
        if SIGNALLED.swap(true, Ordering::SeqCst) {
            end_at_once();
        }
        eprintln!("\nstopping: the state is being saved (press Ctrl-C again to end at once)");
    });
    &INTERRUPTED
}

/// As Ctrl-C does, asks the work to save and end when whoever started this process closes its standard input, or ends.
///
/// Nobody may read what it prints any more then, which must not end it before it has saved.
pub fn stop_when_input_closes() {
    // SAFETY: sets a signal's disposition; writing to a closed pipe then fails as an error that the writer sees.
    #[cfg(unix)]
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
    std::thread::spawn(|| {
        // Nothing is sent; an error is an end as well.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        INTERRUPTED.store(true, Ordering::SeqCst);
    });
}

/// Lets Ctrl-C end work that has no state to save, without leaving half a file behind.
pub fn end_on_interrupt() {
    // As above.
    let _ = ctrlc::set_handler(|| end_at_once());
}

fn end_at_once() -> ! {
    crate::files::discard_hidden();
    // Not `exit`, which would take libtorch apart while it is at work on other threads.
    // SAFETY: `_exit` takes a number and does not come back.
    unsafe { libc::_exit(i32::from(crate::error::ErrorKind::Interrupted.exit_code())) }
}

/// The command that was given, word by word.
pub fn command_line() -> Vec<String> {
    std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect()
}

/// Reads a backbone's name; help and errors list all of them.
pub fn backbone() -> impl TypedValueParser<Value = Backbone> {
    PossibleValuesParser::new(Backbone::ALL.map(Backbone::name)).try_map(|name| name.parse::<Backbone>())
}

/// Reads the adapter file, or states nothing.
pub fn adapter(path: Option<&Path>) -> Result<Adapter> {
    let Some(path) = path else { return Ok(Adapter::default()) };
    Adapter::read(path).map_err(|error| match path.exists() {
        true => error,
        false => error.help("`cmira check MODEL.onnx --suggest > adapter.yaml` makes a first one"),
    })
}

/// With `--json`, an error is a document of its own, so that there is exactly one on stdout whatever happens.
pub fn or_json<T>(json: bool, result: Result<T>) -> Result<T> {
    if let (true, Err(error)) = (json, &result) {
        let document = serde_json::json!({ "error": error.to_string(), "exit_code": error.kind().exit_code() });
        println!("{document:#}");
    }
    result
}

/// What the adapter says of the model that its file may not.
pub fn import_options(adapter: &Adapter) -> ImportOptions {
    let head = match adapter.output {
        Output::Auto => None,
        Output::Logits => Some(Head::Logits),
        Output::Probabilities => Some(Head::Probabilities),
        Output::LogProbabilities => Some(Head::LogProbabilities),
    };
    ImportOptions {
        image: adapter.input.image_shape(),
        layout: adapter.input.layout,
        scores: adapter.scores.clone(),
        head,
        repairs: adapter.repairs,
    }
}

/// Imports a model as its adapter says.
pub fn open(path: &Path, adapter: &Adapter, reading: &Reading, device: Device) -> Result<Model> {
    let file = onnx::read(path, &reading.limits()?)?;
    Model::import(file, &import_options(adapter), device)
}

/// How images have to look for a model: size, channels and class names.
#[derive(Debug, Clone)]
pub struct Expected {
    /// `(height, width)`; `None` takes the images' own size.
    pub size: Option<(usize, usize)>,
    /// 1 or 3.
    pub channels: usize,
    /// Class names in the order of the model's outputs, as the adapter or the file says; `None` takes the folders' names in order.
    pub classes: Option<Vec<String>>,
    /// Whether images of another size are resized.
    pub resize: bool,
}

/// Image size, channels and classes that the model expects, as far as file and adapter say.
///
/// # Errors
/// Usage, when the adapter would scale images that the file takes as bytes.
pub fn expected(model: &Model, adapter: &Adapter, resize: bool) -> Result<Expected> {
    let input = &adapter.input;
    let plain = input.scale == 1.0 && input.mean.iter().all(|&mean| mean == 0.0) && input.std.iter().all(|&std| std == 1.0);
    if model.report().whole_numbers && !plain {
        let error = Error::usage("the file takes images as whole numbers from 0 to 255, and the adapter scales them");
        return Err(error.help("give `input: {scale: 1}` in an adapter file, without mean and std"));
    }
    if let Some(names) = adapter.classes.as_ref().filter(|names| names.len() != model.classes()) {
        let error = Error::usage(format!(
            "`classes` of the adapter has {} names, and the model {} outputs",
            names.len(),
            model.classes()
        ));
        return Err(error.help("name every class, in the order of the model's outputs"));
    }
    let [c, h, w] = model.image_shape();
    let number = |d: Option<i64>| d.and_then(|d| usize::try_from(d).ok());
    let size = number(h).zip(number(w));
    // Labels that only count the classes name no folder.
    let labels = Some(&model.report().labels).filter(|l| l.iter().zip(0..).any(|(label, index)| *label != index.to_string()));
    let classes = adapter.classes.as_ref().or(labels).cloned();
    Ok(Expected { size, channels: number(c).or(adapter.input.channels).unwrap_or(3), classes, resize })
}

/// Images on which the statistics of batch normalisation are measured, at most, and how many at a time.
const STATISTICS_IMAGES: (i64, usize) = (2_000, 50);

/// Puts folded batch normalisation back, where the adapter and the graph want that, with statistics of some of the images.
pub fn with_batch_norm(model: Model, images: &Batches) -> Result<Model> {
    let (most, at_a_time) = STATISTICS_IMAGES;
    let all = i64::try_from(images.len()).map_err(Error::unexpected)?;
    let count = all.min(most);
    // Folders are read class by class: the images have to be spread over all of them.
    let positions: Vec<i64> = (0..count).map(|index| index * all / count.max(1)).collect();
    model.with_batch_norm(&mut positions.chunks(at_a_time).map(|positions| images.batch(&Tensor::f_from_slice(positions)?)))
}

/// Reads a folder of images with progress, says what was wrong with which image, and keeps decoded images beside `cache` if given.
pub fn images(root: &Path, expected: &Expected, cache: Option<PathBuf>, reporter: &Reporter) -> Result<ImageSet> {
    images_naming(MOST_PROBLEMS, root, expected, cache, reporter)
}

/// The same, naming so many of the files that are no use.
pub fn images_naming(
    most: usize,
    root: &Path,
    expected: &Expected,
    cache: Option<PathBuf>,
    reporter: &Reporter,
) -> Result<ImageSet> {
    let options = FolderOptions {
        size: expected.size,
        channels: expected.channels,
        classes: expected.classes.clone(),
        resize: expected.resize,
        cache,
        ..FolderOptions::default()
    };
    let bar = reporter.bar(&format!("reading {}", root.display()), "files");
    let set = read_folder(root, &options, &mut |progress| bar.set(progress.done as u64, progress.total as u64))?;
    bar.finish();
    let mut named = 0;
    for alike in set.problems.chunk_by(|a, b| (a.path.parent(), &a.reason) == (b.path.parent(), &b.reason)) {
        match alike {
            // A folder that is no class has one reason for all that is in it.
            [first, .., last] if alike.len() > ALIKE && most != usize::MAX => {
                let (first, last) = (first.path.display(), last.path.file_name().unwrap_or_default().display());
                reporter.warn(&format!("{first} and {} more, to {last}: {}", alike.len() - 1, alike[0].reason));
                named += alike.len();
            }
            _ => {
                for problem in alike.iter().take(most.saturating_sub(named)) {
                    reporter.warn(&format!("{}: {}", problem.path.display(), problem.reason));
                    named += 1;
                }
            }
        }
    }
    match (set.problems.len(), set.problems.len().saturating_sub(named)) {
        (0, _) => {}
        (all, 0) => reporter.warn(&format!("{}: {all} problems, all named above", root.display())),
        (all, more) => {
            let root = root.display();
            reporter
                .warn(&format!("{root}: {all} problems, {more} of them not named above; `cmira data check {root}` names all"));
        }
    }
    if set.ignored > 0 {
        reporter.note(&format!("{}: {} hidden files and folders were passed over", root.display(), set.ignored));
    }
    Ok(set)
}

/// Files beside each other that are no use for the same reason, which are named one by one.
const ALIKE: usize = 3;

/// Files of a folder that are named because they are no use.
const MOST_PROBLEMS: usize = 30;

/// Refuses a folder that exists, so that nothing is mixed with what is in it.
pub fn must_be_new(folder: &Path) -> Result<()> {
    match folder.exists() {
        false => Ok(()),
        true => {
            let error = Error::usage("the folder exists already").at(folder.display());
            Err(error.help("name a new one, or remove it first"))
        }
    }
}

/// Copies the files of a labelled set into class folders below `to`, wherever their labels came from. The folder is filled beside
/// its place and renamed, so that an interrupted copy is not taken for a whole one.
///
/// # Errors
/// Usage, when `to` exists; Data, when two images would become one file.
pub fn copy_images(from: &Path, to: &Path, set: &ImageSet) -> Result<()> {
    copy_images_as(from, to, set, &|name| name.rsplit('/').next().unwrap_or(name).to_string())
}

/// As [`copy_images`], with file names made of the images' names.
pub fn copy_images_as(from: &Path, to: &Path, set: &ImageSet, rename: &dyn Fn(&str) -> String) -> Result<()> {
    must_be_new(to)?;
    let mut name = to.file_name().ok_or_else(|| Error::usage("not a folder's name").at(to.display()))?.to_os_string();
    name.push(".partial");
    let partial = to.with_file_name(name);
    if partial.exists() {
        std::fs::remove_dir_all(&partial).map_err(|e| Error::io(&partial, &e))?;
    }
    fill(from, &partial, set, rename)?;
    std::fs::rename(&partial, to).map_err(|e| Error::io(to, &e))
}

fn fill(from: &Path, to: &Path, set: &ImageSet, rename: &dyn Fn(&str) -> String) -> Result<()> {
    for (name, label) in set.names.iter().zip(set.label_list()?) {
        let class = usize::try_from(label).ok().and_then(|label| set.classes.get(label)).map_or("", String::as_str);
        // Names from a labels.csv can be anything.
        if Path::new(class).file_name() != Some(class.as_ref()) {
            return Err(Error::data(format!("the class '{class}' of {name} cannot be a folder's name")).at(from.display()));
        }
        let folder = to.join(class);
        let source = from.join(name);
        let target = folder.join(rename(name));
        std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, &e))?;
        if target.exists() {
            let error = Error::data(format!(
                "two images of class '{class}' are named {}",
                target.file_name().unwrap_or_default().display()
            ));
            return Err(error.at(source.display()).help("give them different names"));
        }
        std::fs::copy(&source, &target).map_err(|e| Error::io(&target, &e))?;
    }
    Ok(())
}
