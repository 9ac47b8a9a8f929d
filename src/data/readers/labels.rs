//! Which image has which label: by its folder, by a line of `labels.csv`, or by nothing.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::listing::{Entry, Finding, LABELS_FILE, Listing};
use crate::error::{Error, Result};

/// Larger label files are refused; 1 GiB is more than ten million lines.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// Integer labels above this are refused where no list of classes says how many there are.
const MAX_UNNAMED_CLASS: usize = 100_000;

/// An image that may be decoded, and its label.
pub(super) type Candidate = (Entry, Option<i64>);

/// Images that may be decoded, with their labels.
pub(super) struct Labelled {
    pub(super) images: Vec<Candidate>,
    pub(super) classes: Vec<String>,
}

/// Labels what was listed, adding to the listing's findings what cannot be labelled.
///
/// # Errors
/// Data, when `labels.csv` cannot be read or has no header `file,label`.
pub(super) fn assign(root: &Path, listing: &mut Listing, classes: Option<&[String]>) -> Result<Labelled> {
    let images = std::mem::take(&mut listing.images);
    if let Some(path) = listing.labels_file.clone() {
        let table = Table::read(&path)?;
        Ok(by_table(root, &path, images, table, classes, &mut listing.findings))
    } else if listing.folders.is_empty() {
        let classes = classes.map(<[String]>::to_vec).unwrap_or_default();
        Ok(Labelled { images: images.into_iter().map(|image| (image, None)).collect(), classes })
    } else {
        Ok(by_folder(root, images, listing, classes))
    }
}

fn by_folder(root: &Path, images: Vec<Entry>, listing: &mut Listing, classes: Option<&[String]>) -> Labelled {
    let classes = classes.map_or_else(|| listing.folders.clone(), <[String]>::to_vec);
    let positions = index(&classes);
    let mut used = HashSet::new();
    let mut labelled = Vec::with_capacity(images.len());
    for image in images {
        let (folder, file) = image.name.split_once('/').unwrap_or(("", &image.name));
        used.insert(folder.to_string());
        let problem = if folder.is_empty() {
            "lies beside the class folders, not in one".to_string()
        } else if file.contains('/') {
            "lies deeper than <class>/<image>".to_string()
        } else if let Some(label) = positions.get(folder) {
            labelled.push((image, Some(*label)));
            continue;
        } else {
            format!("its folder '{folder}' is not one of the {} classes", classes.len())
        };
        listing.findings.push(Finding::image(image.path, problem));
    }
    for folder in listing.folders.iter().filter(|folder| !used.contains(*folder)) {
        listing.findings.push(Finding::other(root.join(folder), "this class folder holds no image"));
    }
    Labelled { images: labelled, classes }
}

fn by_table(
    root: &Path,
    path: &Path,
    images: Vec<Entry>,
    table: Table,
    classes: Option<&[String]>,
    findings: &mut Vec<Finding>,
) -> Labelled {
    let mut reported: HashSet<PathBuf> = findings.iter().map(|finding| finding.problem.path.clone()).collect();
    findings.extend(table.broken.into_iter().map(|reason| Finding::other(path.to_path_buf(), reason)));
    let classes = classes.map_or_else(|| classes_of(&table.lines), <[String]>::to_vec);
    let positions = index(&classes);
    let label_of = |label: &str| match positions.get(label) {
        Some(position) => Some(*position),
        None => label.parse().ok().filter(|position: &usize| *position < classes.len()).and_then(|it| i64::try_from(it).ok()),
    };
    let mut by_file: HashMap<&str, Vec<&Line>> = HashMap::new();
    for line in &table.lines {
        by_file.entry(&line.file).or_default().push(line);
    }
    let mut labelled = Vec::with_capacity(images.len());
    for image in images {
        let lines = by_file.remove(image.name.as_str()).unwrap_or_default();
        let [first, more @ ..] = lines.as_slice() else {
            findings.push(Finding::image(image.path, format!("has no line in {LABELS_FILE}")));
            continue;
        };
        if let Some(other) = more.iter().find(|line| line.label != first.label) {
            let (one, two) = (first.number, other.number);
            let reason =
                format!("{LABELS_FILE} gives it two labels: '{}' (line {one}), '{}' (line {two})", first.label, other.label);
            findings.push(Finding::image(image.path, reason));
            continue;
        }
        for line in more {
            let reason = format!("line {} repeats line {} ('{}')", line.number, first.number, image.name);
            findings.push(Finding::other(path.to_path_buf(), reason));
        }
        if first.label.is_empty() {
            labelled.push((image, None));
        } else if let Some(label) = label_of(&first.label) {
            labelled.push((image, Some(label)));
        } else {
            let reason = format!(
                "its label '{}' ({LABELS_FILE} line {}) is not one of the {} classes",
                first.label,
                first.number,
                classes.len()
            );
            findings.push(Finding::image(image.path, reason));
        }
    }
    // What is left names no image. A file that was reported already is not reported twice.
    for line in &table.lines {
        let path = root.join(&line.file);
        if by_file.contains_key(line.file.as_str()) && reported.insert(path.clone()) {
            findings.push(Finding::image(path, format!("is named in {LABELS_FILE} (line {}), but is not there", line.number)));
        }
    }
    Labelled { images: labelled, classes }
}

/// Integers are positions, so that folders which hold only some of a model's classes keep its numbers; anything else is a name.
fn classes_of(lines: &[Line]) -> Vec<String> {
    let labels = || lines.iter().map(|line| line.label.as_str()).filter(|label| !label.is_empty());
    let numbers: Option<Vec<usize>> =
        labels().map(|label| label.parse().ok().filter(|number| *number <= MAX_UNNAMED_CLASS)).collect();
    match numbers.and_then(|numbers| numbers.into_iter().max()) {
        Some(most) => (0..=most).map(|number| number.to_string()).collect(),
        None => labels().collect::<BTreeSet<_>>().into_iter().map(String::from).collect(),
    }
}

fn index(classes: &[String]) -> HashMap<&str, i64> {
    classes.iter().map(String::as_str).zip(0..).collect()
}

struct Line {
    number: u64,
    file: String,
    label: String,
}

struct Table {
    lines: Vec<Line>,
    /// Lines that cannot be read, as `line 7: why`.
    broken: Vec<String>,
}

impl Table {
    fn read(path: &Path) -> Result<Table> {
        let mut bytes = Vec::new();
        let read = std::fs::File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
        read.map_err(|error| Error::data(error).at(path.display()))?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_FILE_BYTES) {
            return Err(Error::data(format!("is larger than {MAX_FILE_BYTES} bytes")).at(path.display()));
        }
        Table::parse(&bytes).map_err(|error| error.at(path.display()))
    }

    fn parse(bytes: &[u8]) -> Result<Table> {
        let mut reader = csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(bytes);
        let header = reader.headers().map_err(|error| Error::data(error).at("line 1"))?;
        let column = |name: &str| {
            header.iter().position(|title| title.eq_ignore_ascii_case(name)).ok_or_else(|| {
                Error::data(format!("has no column '{name}'")).at("line 1").help("the first line has to be: file,label")
            })
        };
        let (file, label) = (column("file")?, column("label")?);
        let mut table = Table { lines: Vec::new(), broken: Vec::new() };
        for record in reader.records() {
            match record {
                Ok(record) => {
                    let number = record.position().map_or(0, csv::Position::line);
                    match (record.get(file).filter(|file| !file.is_empty()), record.get(label)) {
                        (Some(file), Some(label)) => {
                            table.lines.push(Line { number, file: portable(file), label: label.to_string() })
                        }
                        _ => table.broken.push(format!("line {number}: has no file or no label")),
                    }
                }
                Err(error) => {
                    let number = error.position().map_or(0, csv::Position::line);
                    table.broken.push(format!("line {number}: is not UTF-8 text"));
                }
            }
        }
        Ok(table)
    }
}

/// Names as the listing has them, whatever system wrote the table.
fn portable(file: &str) -> String {
    let file = file.replace('\\', "/");
    file.strip_prefix("./").unwrap_or(&file).to_string()
}
