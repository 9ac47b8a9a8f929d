//! [`read_folder`]: a folder of image files to an [`ImageSet`].

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::cache;
use super::decode::{self, Failure, Limits, Size};
use super::labels::{self, Candidate, Labelled};
use super::listing::{self, Entry, Finding};
use crate::data::store::{ImageSet, Problem, hex};
use crate::data::{Adapter, Progress};
use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor};

/// Raised when the same files would give another set, which makes older caches stale.
const READER_VERSION: u32 = 1;

/// Files decoded between two reports of progress.
const CHUNK: usize = 256;

/// What to do when something in the folder cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnProblem {
    /// Leave it out and list it in [`ImageSet::problems`], as long as at least half of the images can be used.
    #[default]
    Skip,
    /// Fail, naming the first few.
    Fail,
}

/// How a folder is read.
#[derive(Debug, Clone)]
pub struct FolderOptions {
    /// Height and width of every image in pixels; without it, the size that most of the decodable images have.
    pub size: Option<(usize, usize)>,
    /// 1 (grey) or 3 (red, green, blue).
    pub channels: usize,
    /// The classes in the order of their numbers; without it, the class folders or the labels that are found, sorted.
    pub classes: Option<Vec<String>>,
    /// Resize images of another size (bilinear, averaging where it shrinks) instead of leaving them out.
    pub resize: bool,
    /// A folder for decoded sets, made when needed. A cache that cannot be written is done without.
    pub cache: Option<PathBuf>,
    /// Images with more pixels than this are not decoded.
    pub max_pixels: u64,
    /// Files with more bytes than this are not read.
    pub max_file_bytes: u64,
    /// A set with more bytes of pixels than this is not built.
    pub max_set_bytes: u64,
    /// What to do about images that cannot be used.
    pub on_problem: OnProblem,
}

impl Default for FolderOptions {
    /// RGB, no resizing, no cache; up to 64 million pixels and 256 MiB a file, 16 GiB a set; problems are skipped.
    fn default() -> Self {
        FolderOptions {
            size: None,
            channels: 3,
            classes: None,
            resize: false,
            cache: None,
            max_pixels: 64_000_000,
            max_file_bytes: 256 << 20,
            max_set_bytes: 16 << 30,
            on_problem: OnProblem::Skip,
        }
    }
}

/// Reads a folder of images: `<root>/<class>/<image>`; or images with a `<root>/labels.csv` (header `file,label`, a label being
/// a class's name, or its number, or empty for none); or images alone, which then have no labels. Where integer labels stand
/// in `labels.csv` and no classes are given, the classes are called `0`, `1`...
///
/// Images come in the order of their names, folder by folder. The content tells the format (PNG, JPEG, BMP, WebP, TIFF, GIF,
/// PNM), whatever the extension. Symbolic links are not followed. Everything that cannot be used is in
/// [`ImageSet::problems`]; hidden files are only counted.
///
/// # Errors
/// Data, when the folder or `labels.csv` cannot be read, no image can be used, more than half cannot, the set would be
/// too large, or there is any problem and [`OnProblem::Fail`] was asked for. Usage, when the options are invalid.
pub fn read_folder(root: &Path, options: &FolderOptions, progress: &mut dyn FnMut(Progress)) -> Result<ImageSet> {
    check(options)?;
    progress(Progress { done: 0, total: 0, what: "listing files" });
    let mut listing = listing::list(root)?;
    let key = options.key(&listing.fingerprint);
    let cache = options.cache.as_deref().map(|folder| options.cache_file(folder, root));
    if let Some(set) = cache.as_deref().and_then(|path| cache::load(path, &key, root)) {
        progress(Progress { done: set.len(), total: set.len(), what: "reading the cache" });
        return options.accept(root, set);
    }
    let Labelled { images, classes } = labels::assign(root, &mut listing, options.classes.as_deref())?;
    let findings = std::mem::take(&mut listing.findings);
    let mut work = Work { options, findings, lasting: listing.complete, progress };
    let size = work.common_size(&images)?;
    let (kept, pixels) = work.decode(images, size)?;
    let (findings, lasting) = (work.findings, work.lasting);
    enough(root, kept.len(), &findings)?;
    let mut set = assemble(options, size, kept, &pixels, classes, findings)?;
    drop(pixels);
    set.ignored = listing.ignored;
    if let Some(path) = cache
        && lasting
    {
        // A cache only saves time; a full or read-only disk must not cost the images.
        let _ = cache::save(&path, &key, root, &set);
    }
    options.accept(root, set)
}

/// Reads images that somebody has listed and labelled, in their order.
///
/// # Errors
/// As [`read_folder`].
pub(super) fn read_listed(
    root: &Path,
    images: Vec<Candidate>,
    classes: Vec<String>,
    options: &FolderOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<ImageSet> {
    let mut work = Work { options, findings: Vec::new(), lasting: true, progress };
    let size = work.common_size(&images)?;
    let (kept, pixels) = work.decode(images, size)?;
    let findings = work.findings;
    enough(root, kept.len(), &findings)?;
    options.accept(root, assemble(options, size, kept, &pixels, classes, findings)?)
}

fn assemble(
    options: &FolderOptions,
    size: Size,
    kept: Vec<Candidate>,
    pixels: &[u8],
    classes: Vec<String>,
    findings: Vec<Finding>,
) -> Result<ImageSet> {
    let shape = [kept.len(), options.channels, size.0, size.1].map(i64::try_from);
    let shape = shape.into_iter().collect::<std::result::Result<Vec<_>, _>>().map_err(Error::data)?;
    let tensor = Tensor::f_from_data_size(pixels, &shape, Kind::Uint8)?;
    let (labels, names) = kept.into_iter().map(|(entry, label)| (label, entry.name)).unzip();
    let problems = findings.into_iter().map(|finding| finding.problem).collect();
    ImageSet::new(tensor, labels, names, classes, problems)
}

fn check(options: &FolderOptions) -> Result<()> {
    if options.channels != 1 && options.channels != 3 {
        return Err(Error::usage(format!("images cannot have {} channels, only 1 or 3", options.channels)));
    }
    if let Some((height, width)) = options.size
        && (height == 0 || width == 0)
    {
        return Err(Error::usage(format!("images cannot be {width}x{height} pixels")));
    }
    if let Some(classes) = &options.classes {
        let mut seen = HashSet::new();
        if let Some(twice) = classes.iter().find(|class| !seen.insert(class.as_str())) {
            return Err(Error::usage(format!("class '{twice}' is listed twice")));
        }
    }
    Ok(())
}

impl FolderOptions {
    /// Size, channels and classes as far as an adapter states them, the defaults for the rest.
    pub fn from_adapter(adapter: &Adapter) -> FolderOptions {
        let default = FolderOptions::default();
        FolderOptions {
            size: adapter.input.height.zip(adapter.input.width),
            channels: adapter.input.channels.unwrap_or(default.channels),
            classes: adapter.classes.clone(),
            ..default
        }
    }

    /// Everything, apart from the files, that decides what comes out.
    fn identity(&self) -> String {
        format!(
            "{READER_VERSION} {} {:?} {} {:?} {} {} {}",
            env!("CARGO_PKG_VERSION"),
            self.size,
            self.channels,
            self.classes,
            self.resize,
            self.max_pixels,
            self.max_file_bytes
        )
    }

    fn key(&self, fingerprint: &[u8]) -> String {
        hex(&Sha256::new().chain_update(fingerprint).chain_update(self.identity()).finalize())
    }

    /// One file for each folder and way of reading it, so that a new version of a folder replaces the old one.
    fn cache_file(&self, folder: &Path, root: &Path) -> PathBuf {
        let whole = std::fs::canonicalize(root).unwrap_or_else(|_| root.to_path_buf());
        let hash =
            Sha256::new().chain_update(whole.as_os_str().as_encoded_bytes()).chain_update([0]).chain_update(self.identity());
        let name = whole.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')).take(40).collect();
        folder.join(format!("{name}-{}.images", hex(hash.finalize().get(..8).unwrap_or_default())))
    }

    fn accept(&self, root: &Path, set: ImageSet) -> Result<ImageSet> {
        if self.on_problem == OnProblem::Fail && !set.problems.is_empty() {
            let count = set.problems.len();
            return Err(Error::data(format!("{count} problems: {}", first_few(root, set.problems.iter()))).at(root.display()));
        }
        Ok(set)
    }
}

/// Refuses a folder of which hardly anything is left.
fn enough(root: &Path, usable: usize, findings: &[Finding]) -> Result<()> {
    let lost: Vec<&Problem> = findings.iter().filter(|finding| finding.image).map(|finding| &finding.problem).collect();
    if usable > 0 && lost.len() <= usable {
        return Ok(());
    }
    let error = if !lost.is_empty() {
        let total = usable.saturating_add(lost.len());
        let few = first_few(root, lost.iter().copied());
        Error::data(format!("{} of {total} images cannot be used: {few}", lost.len()))
    } else if findings.is_empty() {
        Error::data("holds no image")
    } else {
        Error::data(format!("holds no image: {}", first_few(root, findings.iter().map(|finding| &finding.problem))))
    };
    let help = if usable == 0 {
        "images have to lie in <folder>/<class>/, or in <folder>/ with or without a labels.csv"
    } else {
        "repair or remove them"
    };
    Err(error.at(root.display()).help(help))
}

fn first_few<'a>(root: &Path, problems: impl ExactSizeIterator<Item = &'a Problem>) -> String {
    const FEW: usize = 5;
    let more = problems.len().saturating_sub(FEW);
    let mut texts: Vec<String> = problems
        .take(FEW)
        .map(|problem| format!("{}: {}", problem.path.strip_prefix(root).unwrap_or(&problem.path).display(), problem.reason))
        .collect();
    if more > 0 {
        texts.push(format!("and {more} more"));
    }
    texts.join("; ")
}

/// One reading in progress.
struct Work<'a> {
    options: &'a FolderOptions,
    findings: Vec<Finding>,
    /// Whether reading the same files again must give the same, which is what a cache stands for.
    lasting: bool,
    progress: &'a mut dyn FnMut(Progress),
}

impl Work<'_> {
    fn limits(&self) -> Limits {
        Limits { max_pixels: self.options.max_pixels, max_file_bytes: self.options.max_file_bytes }
    }

    /// Runs `work` on every image, in parallel, reporting progress in between; results come in the order of images.
    fn each<T: Send>(
        &mut self,
        what: &'static str,
        images: &[Candidate],
        work: impl Fn(&Path) -> T + Sync,
        mut take: impl FnMut(&mut Self, usize, T),
    ) {
        let total = images.len();
        (self.progress)(Progress { done: 0, total, what });
        for (number, chunk) in images.chunks(CHUNK).enumerate() {
            let results: Vec<T> = chunk.par_iter().map(|(entry, _)| work(&entry.path)).collect();
            let start = number * CHUNK;
            for (offset, result) in results.into_iter().enumerate() {
                take(self, start + offset, result);
            }
            (self.progress)(Progress { done: start + chunk.len(), total, what });
        }
    }

    fn report(&mut self, entry: &Entry, failure: Failure) {
        self.lasting &= failure.lasting;
        self.findings.push(Finding::image(entry.path.clone(), failure.reason));
    }

    /// The size asked for, or that of most images which can be decoded; of equally frequent ones the smallest.
    ///
    /// Headers lie at times: so the images whose headers state the commonest size are decoded to make sure that they count.
    fn common_size(&mut self, images: &[Candidate]) -> Result<Size> {
        if let Some(size) = self.options.size {
            return Ok(size);
        }
        let limits = self.limits();
        let mut sizes: Vec<Option<Size>> = vec![None; images.len()];
        self.each(
            "reading image sizes",
            images,
            |path| decode::size(path, limits).ok(),
            |_, index, size| {
                if let Some(slot) = sizes.get_mut(index) {
                    *slot = size;
                }
            },
        );
        let mut proven = HashSet::new();
        loop {
            let mut counts: BTreeMap<Size, usize> = BTreeMap::new();
            for size in sizes.iter().flatten() {
                *counts.entry(*size).or_default() += 1;
            }
            let commonest = counts.iter().max_by_key(|((height, width), count)| (**count, std::cmp::Reverse(height * width)));
            // Without any readable header the size does not matter: no image will be decoded.
            let Some(size) = commonest.map(|(size, _)| *size) else { return Ok((1, 1)) };
            if counts.len() == 1 || !proven.insert(size) {
                return Ok(size);
            }
            let channels = self.options.channels;
            let of_that_size = sizes.par_iter_mut().zip(images).filter(|(stated, _)| **stated == Some(size));
            of_that_size.for_each(|(stated, (entry, _))| {
                if decode::decode(&entry.path, limits, channels, size, false).is_err() {
                    *stated = None;
                }
            });
        }
    }

    /// The images that can be used, and their pixels one after the other.
    fn decode(&mut self, images: Vec<Candidate>, size: Size) -> Result<(Vec<Candidate>, Vec<u8>)> {
        let options = self.options;
        let bytes = [options.channels, size.0, size.1].into_iter().try_fold(images.len(), usize::checked_mul);
        let allowed = |bytes: usize| u64::try_from(bytes).is_ok_and(|bytes| bytes <= options.max_set_bytes);
        if !bytes.is_some_and(allowed) {
            let (count, limit) = (images.len(), options.max_set_bytes);
            return Err(Error::data(format!("{count} images of {}x{} pixels take more than {limit} bytes", size.1, size.0))
                .help("resize them to the size that the model wants"));
        }
        let limits = self.limits();
        let mut pixels = Vec::new();
        let mut usable = vec![false; images.len()];
        self.each(
            "decoding images",
            &images,
            |path| decode::decode(path, limits, options.channels, size, options.resize),
            |this, index, result| match (result, images.get(index), usable.get_mut(index)) {
                (Ok(bytes), _, Some(slot)) => {
                    pixels.extend_from_slice(&bytes);
                    *slot = true;
                }
                (Err(failure), Some((entry, _)), _) => this.report(entry, failure),
                _ => {}
            },
        );
        let kept = images.into_iter().zip(usable).filter(|(_, usable)| *usable).map(|(image, _)| image).collect();
        Ok((kept, pixels))
    }
}
