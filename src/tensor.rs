//! The only door to libtorch: devices, threads, seeds, guards and the few conversions that others need.
//!
//! Code in this crate calls the fallible `f_*` methods of [`Tensor`]; the others panic on a libtorch error.

pub mod native;

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::str::FromStr;

pub use tch::kind::Element;
pub use tch::{Device, Kind, NoGradGuard, Reduction, TchError, Tensor};

use crate::error::{Error, Result};
use crate::files::Staged;

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Turns a panic inside `work` into an error. The bindings panic where a call that takes a number fails: they free the number
/// before they look at libtorch's error, and find the error there.
///
/// # Errors
/// What `work` gives; Unexpected with libtorch's message instead of a panic.
pub fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let outer = GUARDED.replace(true);
    // What the work left half done is dropped with the error.
    let result = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(outer);
    result.unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
        // `called Result::unwrap() on an Err value: Torch("message\\nbacktrace")`, with the line break spelt out.
        let message = text.and_then(|text| text.split_once("Torch(\"")).and_then(|(_, rest)| rest.split("\\n").next());
        // What the standard library says where a disk is full.
        let unprinted = text.and_then(|text| text.strip_prefix("failed printing to "));
        Err(Error::unexpected(match (message, unprinted) {
            (Some(message), _) => format!("libtorch: {message}"),
            (None, Some(place)) => format!("cannot print to {place}"),
            (None, None) => format!("a bug of this program: {}", text.unwrap_or("it gives no reason")),
        }))
    })
}

/// Keeps panics that [`guarded`] turns into errors from being printed as well. For programs; a library leaves the hook alone.
pub fn silence_guarded_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !GUARDED.get() {
            usual(info);
        }
    }));
}

/// What the user asked for with `--device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first CUDA device if there is one that works, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device of that index; fails if it cannot be used.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            "cuda" => Ok(DeviceChoice::Cuda(0)),
            other => other
                .strip_prefix("cuda:")
                .and_then(|index| index.parse().ok())
                .map(DeviceChoice::Cuda)
                .ok_or_else(|| Error::usage(format!("unknown device '{other}'")).help("one of auto, cpu, cuda, cuda:N")),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => write!(f, "auto"),
            DeviceChoice::Cpu => write!(f, "cpu"),
            DeviceChoice::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl DeviceChoice {
    /// Turns the wish into a device, loading libtorch's CUDA half first where it is needed.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) when CUDA was asked for by name and cannot be used, with the reason.
    pub fn open(self) -> Result<Device> {
        match self {
            DeviceChoice::Cpu => Ok(Device::Cpu),
            DeviceChoice::Auto => match open_cuda(0) {
                Ok(device) => Ok(device),
                Err(_) => Ok(Device::Cpu),
            },
            DeviceChoice::Cuda(index) => open_cuda(index),
        }
    }
}

/// The binary links only libtorch's CPU half, so that one binary serves both. The CUDA half registers itself when it is
/// loaded, which has to happen before the first tensor is made.
fn open_cuda(index: usize) -> Result<Device> {
    if !std::path::Path::new("/proc/driver/nvidia/version").exists() {
        return Err(Error::usage("no NVIDIA driver is loaded on this machine").help("use --device cpu"));
    }
    load_library("libtorch_cuda.so")?;
    let count = tch::Cuda::device_count();
    if count <= 0 {
        return Err(Error::usage("libtorch finds no CUDA device").help("check `nvidia-smi` and CUDA_VISIBLE_DEVICES"));
    }
    if i64::try_from(index).map_or(true, |index| index >= count) {
        return Err(Error::usage(format!("there is no device cuda:{index}; this machine has {count}")));
    }
    native::settle_cuda();
    Ok(Device::Cuda(index))
}

#[cfg(unix)]
fn load_library(name: &str) -> Result<()> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: libtorch_cuda's initialisers only register kernels; it is the library that our libtorch_cpu was built with.
    let library = unsafe { Library::open(Some(name), RTLD_NOW | RTLD_GLOBAL) }.map_err(|error| {
        Error::usage(format!("CUDA cannot be used: {error}"))
            .help("`cargo xtask setup --cuda` installs the CUDA libraries; or use --device cpu")
    })?;
    // The kernels stay registered, so the library has to stay loaded until the process ends.
    std::mem::forget(library);
    Ok(())
}

#[cfg(not(unix))]
fn load_library(_name: &str) -> Result<()> {
    Err(Error::usage("CUDA is supported on Linux only").help("use --device cpu"))
}

/// Integers as a tensor `[n]` on a device. A GPU is not waited for: the numbers have been read when this returns.
pub fn on_device(values: &[i64], device: Device) -> Result<Tensor> {
    let host = Tensor::f_from_slice(values)?;
    if device == Device::Cpu {
        return Ok(host);
    }
    // CUDA takes what lies in ordinary memory at once into memory of its own.
    Ok(host.f_to_device_(device, Kind::Int64, true, false)?)
}

/// `cpu` or `cuda:N`, as results record it.
pub fn device_name(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        Device::Cpu => "cpu".to_string(),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// Whether a device multiplies numbers in bfloat16 faster than in float32: processors that have instructions for it, and every GPU that
/// this program's libtorch supports.
pub fn multiplies_bf16(device: Device) -> bool {
    match device {
        #[cfg(target_arch = "x86_64")]
        Device::Cpu => std::arch::is_x86_feature_detected!("avx512bf16"),
        Device::Cuda(_) => true,
        _ => false,
    }
}

/// Has the allocator keep what is freed for the next request, whatever its size. By default it gives large blocks back to the system, and
/// every activation of every step is then fetched and cleared anew, page by page. For programs, before the first tensor.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: both only set numbers of the allocator's. What it cannot do it leaves as it is.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}

/// Waits until a device has done everything that it was asked to.
pub fn synchronise(device: Device) {
    if let Device::Cuda(index) = device {
        tch::Cuda::synchronize(i64::try_from(index).unwrap_or(0));
    }
}

/// `cpu` or `cuda`.
pub fn device_kind(device: Device) -> String {
    let name = device_name(device);
    name.split(':').next().unwrap_or(&name).to_string()
}

/// Sets the number of threads that one libtorch operation may use. With the same number, results on the CPU are the same bytes.
pub fn set_threads(threads: usize) {
    tch::set_num_threads(i32::try_from(threads.max(1)).unwrap_or(i32::MAX));
}

/// The number of threads that one libtorch operation may use.
pub fn threads() -> usize {
    usize::try_from(tch::get_num_threads()).unwrap_or(1)
}

/// Seeds libtorch's own generator (dropout masks); everything else draws from [`rng`].
pub fn seed_libtorch(seed: u64) {
    tch::manual_seed(seed.cast_signed());
}

/// A generator for one purpose: the same `(seed, purpose, index)` gives the same numbers, whatever was drawn elsewhere,
/// so that work resumed at epoch or iteration `index` continues as if it had never stopped.
pub fn rng(seed: u64, purpose: &str, index: u64) -> rand_pcg::Pcg64 {
    use rand::SeedableRng;
    use sha2::{Digest, Sha256};
    let digest =
        Sha256::new().chain_update(seed.to_le_bytes()).chain_update(index.to_le_bytes()).chain_update(purpose).finalize();
    rand_pcg::Pcg64::from_seed(digest.into())
}

/// Switches gradient recording off until the guard is dropped, also when a panic unwinds.
#[must_use]
pub fn no_grad() -> NoGradGuard {
    tch::no_grad_guard()
}

/// Copies any integer or boolean tensor to the host, in row-major order.
pub fn to_i64s(tensor: &Tensor) -> Result<Vec<i64>> {
    let flat = tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Int64)?.f_contiguous()?;
    let mut values = vec![0; flat.numel()];
    flat.f_copy_data(&mut values, flat.numel())?;
    Ok(values)
}

/// Copies a tensor of bytes to the host, in row-major order.
pub fn to_u8s(tensor: &Tensor) -> Result<Vec<u8>> {
    let flat = tensor.f_to_device(Device::Cpu)?.f_contiguous()?;
    let mut bytes = vec![0; flat.numel()];
    flat.f_copy_data_u8(&mut bytes, flat.numel())?;
    Ok(bytes)
}

/// Copies any numeric tensor to the host as f32, in row-major order.
pub fn to_f32s(tensor: &Tensor) -> Result<Vec<f32>> {
    let flat = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
    let mut values = vec![0.0; flat.numel()];
    flat.f_copy_data(&mut values, flat.numel())?;
    Ok(values)
}

/// Copies any numeric tensor to the host as f64, in row-major order.
pub fn to_f64s(tensor: &Tensor) -> Result<Vec<f64>> {
    let flat = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?.f_contiguous()?;
    let mut values = vec![0.0; flat.numel()];
    flat.f_copy_data(&mut values, flat.numel())?;
    Ok(values)
}

/// Whether this kind holds floating-point numbers that gradients can flow through.
pub fn is_float(kind: Kind) -> bool {
    matches!(kind, Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16)
}

/// Whether this kind holds floating-point numbers of 8 bits, which are stored and converted but not computed with.
pub fn is_small_float(kind: Kind) -> bool {
    matches!(kind, Kind::Float8e4m3fn | Kind::Float8e4m3fnuz | Kind::Float8e5m2 | Kind::Float8e5m2fnuz)
}

/// A copy with storage of its own, outside any gradient graph.
pub fn deep_copy(tensor: &Tensor) -> Result<Tensor> {
    let source = tensor.f_detach()?;
    let mut copy = source.f_empty_like()?;
    copy.f_copy_(&source)?;
    Ok(copy)
}

/// A seed for a piece of work of its own, from the seed of the whole.
pub fn derive_seed(seed: u64, purpose: &str, index: u64) -> u64 {
    use rand::RngCore;
    rng(seed, purpose, index).next_u64()
}

/// What the system said of a file, of an error that holds it only in the form for programmers, with a path that nobody has seen.
fn without_debug(error: &str) -> &str {
    let message = error.split("message: \"").nth(1).and_then(|rest| rest.split('"').next());
    message.unwrap_or(error)
}

/// Writes tensors by name as safetensors, from whatever device; the file appears under its name when all of it is on the disk.
///
/// # Errors
/// Unexpected, naming the file, where the disk does not cooperate.
pub fn write_safetensors(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let host = |tensor: &Tensor| -> Result<Tensor> { Ok(tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?) };
    let tensors: Vec<(String, Tensor)> = tensors.iter().map(|(n, t)| Ok((n.clone(), host(t)?))).collect::<Result<_>>()?;
    let written = |error: TchError| Error::unexpected(without_debug(&error.to_string())).at(path.display());
    Staged::with_path(path, |hidden, _| Tensor::write_safetensors(&tensors, hidden).map_err(written))?.appear()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The words of the system, not libtorch's notes on them and not the hidden file's name.
    #[test]
    fn a_file_that_cannot_be_written_is_said_in_words() {
        let tensors = [("weight".to_string(), Tensor::f_from_slice(&[1.0_f32]).unwrap())];
        let folder = tempfile::tempdir().unwrap();
        let full = Path::new("/dev/full");
        let library = Tensor::write_safetensors(&tensors, full).unwrap_err().to_string();
        assert!(library.contains("Os {"), "{library}");
        assert_eq!(without_debug(&library), "No space left on device");
        let path = folder.path().join("weights.safetensors");
        write_safetensors(&path, &tensors).unwrap();
        assert_eq!(Tensor::read_safetensors(&path).unwrap().len(), 1);
    }
}
