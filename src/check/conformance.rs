//! The ONNX project's own test cases: folders that hold a model, its inputs, and what has to come out.
//!
//! ```text
//! KIND/CASE/model.onnx
//! KIND/CASE/tolerance.txt                            relative and absolute tolerance; without it 1e-3 and 1e-7
//! KIND/CASE/test_data_set_N/{input,output}_I.pb      one value each, in the order of the graph's inputs and outputs
//! ```

use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::error::{Error, ErrorKind, Place, Result};
use crate::graph::{Mode, Program};
use crate::onnx::proto::ValueInfoProto;
use crate::onnx::{self, Limits, kind_of};
use crate::tensor::{Kind, Tensor, is_float, is_small_float, seed_libtorch, to_f64s, to_i64s};

/// What came of one case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Every output has the expected type, shape and values.
    Pass,
    /// An output is wrong, or the case could not be run although nothing in it is unsupported.
    Fail(String),
    /// The model was refused as unsupported, with the reason.
    Unsupported(String),
}

/// A folder that holds a `model.onnx`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Case {
    /// `KIND/CASE`, after the last two parts of the path.
    pub name: String,
    /// The folder.
    pub folder: PathBuf,
}

/// All cases below a directory, sorted by name.
///
/// # Errors
/// Usage where the directory cannot be read or holds no case.
pub fn cases(directory: &Path) -> Result<Vec<Case>> {
    let mut found = Vec::new();
    for entry in WalkDir::new(directory) {
        let entry = entry.map_err(Error::usage)?;
        if let ("model.onnx", Some(folder)) = (entry.file_name().to_string_lossy().as_ref(), entry.path().parent()) {
            let folder = std::path::absolute(folder).map_err(Error::usage)?;
            let mut parts: Vec<_> = folder.components().rev().take(2).map(|part| part.as_os_str().to_string_lossy()).collect();
            parts.reverse();
            found.push(Case { name: parts.join("/"), folder });
        }
    }
    if found.is_empty() {
        return Err(Error::usage("no folder below it holds a model.onnx").at(directory.display()));
    }
    found.sort();
    Ok(found)
}

/// Runs one case.
pub fn run(case: &Case) -> Outcome {
    match judge(&case.folder) {
        Ok(None) => Outcome::Pass,
        Ok(Some(difference)) => Outcome::Fail(difference),
        Err(error) if error.kind() == ErrorKind::Unsupported => Outcome::Unsupported(error.reason().to_string()),
        Err(error) => Outcome::Fail(error.to_string()),
    }
}

/// `None`, or the first difference.
fn judge(folder: &Path) -> Result<Option<String>> {
    let file = onnx::read(&folder.join("model.onnx"), &Limits::default())?;
    let tolerance = Tolerance::read(&folder.join("tolerance.txt"))?;
    let graph = file.model.graph.get_or_default().clone();
    let program = Program::compile(file)?;
    let inputs: Vec<&ValueInfoProto> = graph.input.iter().filter(|input| program.inputs().contains(&input.name)).collect();
    let mut sets = 0;
    for set in (0..).map(|number| folder.join(format!("test_data_set_{number}"))).take_while(|set| set.is_dir()) {
        sets += 1;
        let given = values(&set, "input", &inputs)?;
        let expected = values(&set, "output", &graph.output.iter().collect::<Vec<_>>())?;
        // Whatever a case draws, it draws the same every time.
        seed_libtorch(0);
        let found = program.run(&given, Mode::Eval)?;
        for ((found, expected), info) in found.iter().zip(&expected).zip(&graph.output) {
            if let Some(difference) = tolerance.difference(found, expected, declared(info)?)? {
                return Ok(Some(format!("output '{}' of data set {}: {difference}", info.name, sets - 1)));
            }
        }
    }
    if sets == 0 {
        return Err(Error::data("the case has no test_data_set_0").at(folder.display()));
    }
    Ok(None)
}

/// The values of one role, one file for each of the graph's.
fn values(set: &Path, role: &str, infos: &[&ValueInfoProto]) -> Result<Vec<Tensor>> {
    let read = |(index, info): (usize, &&ValueInfoProto)| {
        if info.type_.as_ref().is_some_and(|kind| !kind.has_tensor_type()) {
            return Err(Error::unsupported(format!("{role} '{}' is no tensor, which is not supported", info.name)));
        }
        Ok(onnx::read_tensor(&set.join(format!("{role}_{index}.pb")), &Limits::default())?.1)
    };
    infos.iter().enumerate().map(read).collect()
}

fn declared(info: &ValueInfoProto) -> Result<Option<Kind>> {
    match info.type_.as_ref().filter(|kind| kind.has_tensor_type()).map(|kind| kind.tensor_type().elem_type) {
        None | Some(0) => Ok(None),
        Some(code) => kind_of(code).map(Some),
    }
}

/// What ONNX's own runner of the cases grants results of type bfloat16, whose neighbours are up to 2^-7 apart.
const TWO_BFLOAT16_STEPS: f64 = 1.0 / 64.0;

struct Tolerance {
    relative: f64,
    absolute: f64,
}

impl Tolerance {
    fn read(path: &Path) -> Result<Tolerance> {
        if !path.exists() {
            return Ok(Tolerance { relative: 1e-3, absolute: 1e-7 });
        }
        let text = std::fs::read_to_string(path).map_err(Error::data).at(|| path.display())?;
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        match numbers.as_slice() {
            &[relative, absolute] if relative >= 0.0 && absolute >= 0.0 => Ok(Tolerance { relative, absolute }),
            _ => Err(Error::data("a relative and an absolute tolerance are expected").at(path.display())),
        }
    }

    /// `None` where type, shape and values agree. Whole numbers have to be equal; floats may differ by
    /// `absolute + relative * |expected|`; NaN equals NaN.
    fn difference(&self, found: &Tensor, expected: &Tensor, declared: Option<Kind>) -> Result<Option<String>> {
        let (kind, wanted) = (found.f_kind()?, expected.f_kind()?);
        if kind != wanted || declared.is_some_and(|declared| declared != kind) {
            return Ok(Some(format!("type {kind:?} instead of {wanted:?}")));
        }
        if found.size() != expected.size() {
            return Ok(Some(format!("shape {:?} instead of {:?}", found.size(), expected.size())));
        }
        if !is_float(kind) && !is_small_float(kind) {
            let pairs = to_i64s(found)?.into_iter().zip(to_i64s(expected)?);
            return Ok(first_wrong(pairs, |found, expected| found == expected));
        }
        let relative = if kind == Kind::BFloat16 { self.relative.max(TWO_BFLOAT16_STEPS) } else { self.relative };
        let pairs = to_f64s(found)?.into_iter().zip(to_f64s(expected)?);
        Ok(first_wrong(pairs, |found, expected| {
            found == expected
                || (found.is_nan() && expected.is_nan())
                || (found - expected).abs() <= self.absolute + relative * expected.abs()
        }))
    }
}

fn first_wrong<T: Copy + std::fmt::Display>(pairs: impl Iterator<Item = (T, T)>, agree: impl Fn(T, T) -> bool) -> Option<String> {
    let wrong: Vec<(usize, (T, T))> = pairs.enumerate().filter(|(_, (found, expected))| !agree(*found, *expected)).collect();
    let (index, (found, expected)) = wrong.first()?;
    Some(format!("{found} instead of {expected} at position {index}, and {} more", wrong.len() - 1))
}
