//! ONNX Runtime, loaded at run time.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use ort::environment::Environment;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::{DynValue, PrimitiveTensorElementType, Tensor as Value, TensorElementType};
use protobuf::Message;

use crate::error::{Error, Place, Result};
use crate::graph::{ImportReport, Layout};
use crate::onnx::proto::ValueInfoProto;
use crate::onnx::{self, Limits};
use crate::tensor::{Element, Kind, Tensor, to_f32s, to_f64s};

/// A model as ONNX Runtime sees it.
pub struct Witness {
    session: Session,
    /// The batch size that the file fixes, if it does.
    batch: Option<i64>,
    /// What the input takes.
    element: TensorElementType,
    layout: Layout,
    /// The value that holds the scores, an output of the session.
    scores: String,
    /// Values that the graph rounds to steps, as far as they are outputs of the session and of a type that can be read.
    rounded: Vec<String>,
}

/// What ONNX Runtime gives for some images.
pub(crate) struct Given {
    /// Scores.
    pub scores: Tensor,
    /// What it rounded on the way, by name.
    pub rounded: HashMap<String, Tensor>,
}

impl Witness {
    /// Opens a file with ONNX Runtime on the CPU. Where the import found the scores inside the graph, they are made its output, and so
    /// are the values that the graph rounds.
    ///
    /// # Errors
    /// Usage, when ONNX Runtime itself is missing; Unsupported, when it refuses a file that this crate accepted.
    pub fn open(path: &Path, import: &ImportReport) -> Result<Witness> {
        let refused = |e: &dyn std::fmt::Display| incomparable(&format!("ONNX Runtime refuses the file: {e}")).at(path.display());
        let builder = Session::builder(environment()?).map_err(|e| refused(&e))?;
        // Optimised graphs compute something else than the file says: products with quantised weights in fewer bits, and sums that cancel,
        // fused into convolutions, with a thousandth of error.
        let mut builder = builder.with_optimization_level(GraphOptimizationLevel::Disable).map_err(|e| refused(&e))?;
        let rewritten = import.scores_inside || import.operators.contains_key(FEW_BITS) || !import.rounded.is_empty();
        let first = if rewritten { None } else { Some(builder.commit_from_file(path)) };
        let session = match first {
            Some(Ok(session)) => session,
            // Some exporters declare shapes of values inside the graph that the nodes contradict. Nothing needs them.
            Some(Err(error)) => {
                let reduced = reduced(path, None, &[]).map_err(|_| refused(&error))?;
                builder.commit_from_memory(&reduced).map_err(|_| refused(&error))?
            }
            None => {
                let scores = Some(import.scores.as_str()).filter(|_| import.scores_inside);
                let reduced = reduced(path, scores, &import.rounded).map_err(|e| refused(&e))?;
                builder.commit_from_memory(&reduced).map_err(|e| refused(&e))?
            }
        };
        let input = session.inputs().first().map(|input| input.dtype());
        let batch = input.and_then(|i| i.tensor_shape()).and_then(|s| s.first().copied()).filter(|&d| d > 0);
        let element = input.and_then(|i| i.tensor_type()).unwrap_or(TensorElementType::Float32);
        let readable = |name: &&String| {
            let outlet = session.outputs().iter().find(|output| output.name() == name.as_str());
            outlet.and_then(|output| output.dtype().tensor_type()).is_some_and(|element| READABLE.contains(&element))
        };
        let rounded = import.rounded.iter().filter(readable).cloned().collect();
        Ok(Witness { session, batch, element, layout: import.layout, scores: import.scores.clone(), rounded })
    }

    /// The scores for images `[N, C, H, W]`, run in pieces where the file fixes its batch size.
    pub fn run(&mut self, images: &Tensor) -> Result<Tensor> {
        let count = images.size().first().copied().unwrap_or(0);
        let pieces = self.pieces(images)?;
        let parts = pieces.iter().map(|piece| Ok(self.run_once(piece)?.scores)).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::f_cat(&parts, 0)?.f_narrow(0, 0, count)?)
    }

    /// Images in as many as the file takes at once. The last image is repeated until the fixed batch size divides their number.
    pub(crate) fn pieces(&self, images: &Tensor) -> Result<Vec<Tensor>> {
        let count = images.size().first().copied().unwrap_or(0);
        let piece = self.batch.unwrap_or(count).max(1);
        let missing = (piece - count % piece) % piece;
        let mut padded = vec![images.shallow_clone()];
        if missing > 0 {
            let last = images.f_narrow(0, count - 1, 1)?;
            padded.extend((0..missing).map(|_| last.shallow_clone()));
        }
        Ok(Tensor::f_cat(&padded, 0)?.f_split(piece, 0)?)
    }

    pub(crate) fn run_once(&mut self, images: &Tensor) -> Result<Given> {
        let name = self.session.inputs().first().map(|i| i.name().to_string()).unwrap_or_default();
        let images = &self.layout.arrange(images)?.f_contiguous()?;
        let shape = images.size();
        let input = match self.element {
            TensorElementType::Float32 => Value::from_array((shape, to_f32s(images)?)).map_err(failed)?.into_dyn(),
            TensorElementType::Float64 => Value::from_array((shape, to_f64s(images)?)).map_err(failed)?.into_dyn(),
            TensorElementType::Float16 => {
                let halves: Vec<half::f16> = to_f32s(images)?.into_iter().map(half::f16::from_f32).collect();
                Value::from_array((shape, halves)).map_err(failed)?.into_dyn()
            }
            TensorElementType::Bfloat16 => {
                let halves: Vec<half::bf16> = to_f32s(images)?.into_iter().map(half::bf16::from_f32).collect();
                Value::from_array((shape, halves)).map_err(failed)?.into_dyn()
            }
            TensorElementType::Uint8 => Value::from_array((shape, whole(images, |n| n as u8)?)).map_err(failed)?.into_dyn(),
            TensorElementType::Int32 => Value::from_array((shape, whole(images, |n| n as i32)?)).map_err(failed)?.into_dyn(),
            TensorElementType::Int64 => Value::from_array((shape, whole(images, |n| n as i64)?)).map_err(failed)?.into_dyn(),
            other => return Err(incomparable(&format!("the input takes {other}, which no image is"))),
        };
        let outputs = self.session.run(ort::inputs![name.as_str() => input]).map_err(failed)?;
        let output = |name: &str| outputs.get(name).ok_or_else(|| incomparable("ONNX Runtime gives no output"));
        let rounded = self.rounded.iter().map(|name| Ok((name.clone(), read(output(name)?)?))).collect::<Result<_>>()?;
        Ok(Given { scores: read(output(&self.scores)?)?, rounded })
    }
}

/// Images as bytes, in a type of whole numbers.
fn whole<T>(images: &Tensor, convert: fn(f64) -> T) -> Result<Vec<T>> {
    let numbers = to_f64s(images)?;
    if numbers.iter().any(|number| number.fract() != 0.0 || !(0.0..=255.0).contains(number)) {
        return Err(incomparable("the file takes whole numbers from 0 to 255, which these images are not"));
    }
    Ok(numbers.into_iter().map(convert).collect())
}

/// Types of rounded values that can be read.
const READABLE: [TensorElementType; 6] = [
    TensorElementType::Uint8,
    TensorElementType::Int8,
    TensorElementType::Uint16,
    TensorElementType::Int16,
    TensorElementType::Float32,
    TensorElementType::Float64,
];

/// An output's numbers in double precision.
fn read(output: &DynValue) -> Result<Tensor> {
    match output.dtype().tensor_type() {
        Some(TensorElementType::Float64) => numbers::<f64>(output),
        Some(TensorElementType::Float16) => numbers::<half::f16>(output),
        Some(TensorElementType::Bfloat16) => numbers::<half::bf16>(output),
        Some(TensorElementType::Uint8) => numbers::<u8>(output),
        Some(TensorElementType::Int8) => numbers::<i8>(output),
        Some(TensorElementType::Int16) => numbers::<i16>(output),
        // libtorch has no unsigned 16 bits.
        Some(TensorElementType::Uint16) => {
            let (shape, data) = output.try_extract_tensor::<u16>().map_err(failed)?;
            let wide: Vec<i32> = data.iter().map(|&number| i32::from(number)).collect();
            Ok(Tensor::f_from_slice(&wide)?.f_to_kind(Kind::Double)?.f_view(&shape[..])?)
        }
        _ => numbers::<f32>(output),
    }
}

fn numbers<T: PrimitiveTensorElementType + Element>(output: &DynValue) -> Result<Tensor> {
    let (shape, data) = output.try_extract_tensor::<T>().map_err(failed)?;
    Ok(Tensor::f_from_slice(data)?.f_to_kind(Kind::Double)?.f_view(&shape[..])?)
}

fn failed(error: ort::Error) -> Error {
    incomparable(&format!("ONNX Runtime fails on the model: {error}"))
}

/// An operator that ONNX Runtime computes as exactly as the file asks for.
const FEW_BITS: &str = "com.microsoft.MatMulNBits";

/// The file without the shapes that it declares for values inside the graph, with the value `scores` as its only output if that is
/// named, the values `rounded` as outputs where it has them, and computed as exactly as can be.
fn reduced(path: &Path, scores: Option<&str>, rounded: &[String]) -> Result<Vec<u8>> {
    let mut file = onnx::read(path, &Limits::default())?;
    if let Some(graph) = file.model.graph.as_mut() {
        graph.value_info.clear();
        for node in graph.node.iter_mut().filter(|node| node.domain == "com.microsoft") {
            node.attribute.retain(|attribute| attribute.name != "accuracy_level");
        }
        if let Some(name) = scores {
            graph.output = vec![untyped(name)];
        }
        let made: HashSet<&str> = graph.node.iter().flat_map(|node| &node.output).map(String::as_str).collect();
        let already: HashSet<&str> = graph.output.iter().map(|output| output.name.as_str()).collect();
        let new = |name: &&String| made.contains(name.as_str()) && !already.contains(name.as_str());
        let further: Vec<ValueInfoProto> = rounded.iter().filter(new).map(|name| untyped(name)).collect();
        graph.output.extend(further);
    }
    file.embed_external_data()?;
    file.model.write_to_bytes().map_err(Error::unexpected)
}

/// ONNX Runtime finds out types by itself.
fn untyped(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: name.to_string(), ..Default::default() }
}

/// There is nothing to compare with, which is no disagreement.
fn incomparable(reason: &str) -> Error {
    Error::unsupported(format!("{reason}; the import cannot be compared with anything"))
}

/// Where ONNX Runtime was looked for, in order: `ORT_DYLIB_PATH`, beside the executable, where the set-up command put it.
fn candidates() -> Vec<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(|dir| dir.join("lib/libonnxruntime.so")));
    let built_in = option_env!("CMIRA_ONNXRUNTIME").map(PathBuf::from);
    std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from).into_iter().chain(beside).chain(built_in).collect()
}

fn environment() -> Result<&'static Environment> {
    static ENVIRONMENT: OnceLock<Result<Environment>> = OnceLock::new();
    let environment = ENVIRONMENT.get_or_init(|| {
        let candidates = candidates();
        let Some(path) = candidates.iter().find(|p| p.is_file()) else {
            let tried: Vec<String> = candidates.iter().map(|p| p.display().to_string()).collect();
            let error = Error::usage(format!("ONNX Runtime is not there; looked at {}", tried.join(", ")));
            return Err(error.help("`cargo xtask setup` installs it, or set ORT_DYLIB_PATH"));
        };
        let unusable = |e: &dyn std::fmt::Display| Error::usage(format!("ONNX Runtime cannot be loaded: {e}"));
        let builder = ort::init_from(path).map_err(|e| unusable(&e)).at(|| path.display().to_string())?;
        // What it has to say comes back as an error. Its log would print names from files as they are.
        builder.with_logger(Arc::new(|_, _, _, _, _| ())).build().map_err(|e| unusable(&e))
    });
    environment.as_ref().map_err(Clone::clone)
}
