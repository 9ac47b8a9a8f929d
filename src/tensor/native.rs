//! The parts of a training step that libtorch has no operator for, in C++ beside it (`kernels.cpp`), so that they are nodes of its
//! gradient graph like any other. Each does what some of libtorch's operators do one by one, and is used where those are slow.

use std::ffi::{CStr, c_char, c_void};

use crate::error::{Error, Result};
use crate::tensor::{Device, Kind, Tensor};

unsafe extern "C" {
    fn cmira_settle_cuda();
    fn cmira_last_error() -> *const c_char;
    fn cmira_norm_act(
        input: *const c_void,
        other: *const c_void,
        scale: *const c_void,
        bias: *const c_void,
        mean: *const c_void,
        variance: *const c_void,
        live: bool,
        momentum: f64,
        epsilon: f64,
        relu: bool,
        overwrite: bool,
    ) -> *mut c_void;
    fn cmira_conv_by_product(input: *const c_void, weight: *const c_void, bias: *const c_void, steps: *const i64) -> *mut c_void;
    fn cmira_conv_act(
        input: *const c_void,
        weight: *const c_void,
        bias: *const c_void,
        steps: *const i64,
        groups: i64,
        other: *const c_void,
        relu: bool,
        overwrite: bool,
    ) -> *mut c_void;
    fn cmira_by_spectral_norm(weight: *const c_void, u: *const c_void, v: *const c_void, norm: f64) -> *mut c_void;
    fn cmira_sgd(
        params: *const *const c_void,
        gradients: *const *const c_void,
        velocities: *const *const c_void,
        count: i64,
        weight_decay: f64,
        momentum: f64,
        learning_rate: f64,
        nesterov: bool,
    ) -> bool;
}

/// Has a process that computes on GPUs multiply float32 as such, where libtorch by itself lets convolutions round their operands to TF32,
/// and find the fastest way to do each convolution by trying.
pub fn settle_cuda() {
    // SAFETY: it sets flags of libtorch's.
    unsafe { cmira_settle_cuda() }
}

fn pointer(tensor: &Tensor) -> *const c_void {
    tensor.as_ptr().cast()
}

fn optional(tensor: Option<&Tensor>) -> *const c_void {
    tensor.map_or(std::ptr::null(), pointer)
}

fn last_error() -> Error {
    // SAFETY: the text ends with a zero and lives until the same thread's next call into the kernels.
    let text = unsafe { CStr::from_ptr(cmira_last_error()) };
    // As the bindings do: what follows the first line is where in libtorch it happened.
    Error::unexpected(format!("libtorch: {}", text.to_string_lossy().lines().next().unwrap_or_default()))
}

fn owned(result: *mut c_void) -> Result<Tensor> {
    if result.is_null() {
        return Err(last_error());
    }
    // SAFETY: the kernels give a tensor on the heap that nobody else owns.
    Ok(unsafe { Tensor::from_ptr(result.cast()) })
}

/// Whether these are images `[N, C, H, W]` of a kind on the CPU, which the kernels are for.
fn is_image_of(tensor: &Tensor, kind: Kind) -> bool {
    tensor.device() == Device::Cpu && tensor.kind() == kind && tensor.dim() == 4 && tensor.numel() > 0
}

/// What batch normalisation knows beside its tensors.
#[derive(Debug, Clone, Copy)]
pub struct Normalisation {
    /// Added to variances.
    pub epsilon: f64,
    /// The share of a new statistic in the running one.
    pub momentum: f64,
}

/// Batch normalisation, then the sum with `other`, then ReLU, in one pass over the images: `batch_norm`, `add` and `relu` of libtorch,
/// with one rounding in place of three. Images come out with a pixel's channels side by side. With `live`, statistics are the batch's,
/// and the running ones follow. `tensors` are scale, bias, running mean and running variance, float32 `[C]`.
///
/// With `overwrite`, which is for an input that nobody reads any more, the result may take its place where no gradient is asked for.
///
/// `None` for what this is not made for: anything but images `[N, C, H, W]` in float32 or bfloat16 on the CPU, of which there is more than
/// one number a channel.
///
/// # Errors
/// Unexpected, with libtorch's message.
pub fn norm_act(
    input: &Tensor,
    other: Option<&Tensor>,
    tensors: [&Tensor; 4],
    live: bool,
    settings: Normalisation,
    relu: bool,
    overwrite: bool,
) -> Result<Option<Tensor>> {
    let (shape, kind) = (input.size(), input.kind());
    let fits = |tensor: &&Tensor| {
        tensor.device() == Device::Cpu && tensor.kind() == Kind::Float && tensor.size() == shape[1..2] && tensor.is_contiguous()
    };
    let other_fits = |tensor: &Tensor| is_image_of(tensor, kind) && tensor.size() == shape;
    if !(is_image_of(input, Kind::Float) || is_image_of(input, Kind::BFloat16))
        || !tensors.iter().all(fits)
        || !other.is_none_or(other_fits)
    {
        return Ok(None);
    }
    if shape[0] * shape[2] * shape[3] < 2 {
        return Ok(None);
    }
    let [scale, bias, mean, variance] = tensors;
    // SAFETY: all are live tensors of the kinds and shapes that the kernel reads and writes, as was just checked.
    owned(unsafe {
        cmira_norm_act(
            pointer(input),
            optional(other),
            pointer(scale),
            pointer(bias),
            pointer(mean),
            pointer(variance),
            live,
            settings.momentum,
            settings.epsilon,
            relu,
            overwrite,
        )
    })
    .map(Some)
}

/// The most places of a result, in height times width, for which [`conv_by_product`] is the faster way. Measured on a processor with
/// AMX: at 4 x 4 places and 512 channels three times as fast, forwards and back together; at 8 x 8 no longer.
const FEW_PLACES: i64 = 16;

/// `conv2d` as one matrix product, for images that have become small and deep; `steps` are strides, paddings and dilations, two of each.
///
/// `None` where libtorch's own way is faster, and for what this is not made for: anything but images `[N, C, H, W]` and filters
/// `[O, C, h, w]`, both in float32 or both in bfloat16, on the CPU.
///
/// # Errors
/// Unexpected, with libtorch's message.
pub fn conv_by_product(
    input: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    steps: [i64; 6],
    places: &[i64],
) -> Result<Option<Tensor>> {
    let kind = input.kind();
    let alike = is_image_of(input, kind) && is_image_of(weight, kind) && bias.is_none_or(|bias| bias.kind() == kind);
    if !alike || !matches!(kind, Kind::Float | Kind::BFloat16) || input.size()[1] != weight.size()[1] {
        return Ok(None);
    }
    let (filters, window) = (weight.size()[..2].iter().product::<i64>(), weight.size()[2..].iter().product::<i64>());
    if places.iter().product::<i64>() > FEW_PLACES || window < 2 || filters < 64 * 64 {
        return Ok(None);
    }
    // SAFETY: all are live tensors of the kinds and shapes that the kernel reads, as was just checked, and there are six steps.
    owned(unsafe { cmira_conv_by_product(pointer(input), pointer(weight), optional(bias), steps.as_ptr()) }).map(Some)
}

/// `weight / norm`, where `norm = u' W v` is the spectral norm of the weight as a matrix of O rows whose columns are in the order of its
/// memory. Gradients flow through the norm, and not into the singular vectors `u` and `v`.
///
/// `None` for what this is not made for: anything but float32 on the CPU with `u` and `v` that fit.
///
/// # Errors
/// Unexpected, with libtorch's message.
pub fn by_spectral_norm(weight: &Tensor, u: &Tensor, v: &Tensor, norm: f64) -> Result<Option<Tensor>> {
    let all = [weight, u, v].iter().all(|tensor| tensor.device() == Device::Cpu && tensor.kind() == Kind::Float);
    let vectors = [u, v].iter().all(|vector| vector.dim() == 1 && vector.is_contiguous());
    if !all || !vectors || u.numel() * v.numel() != weight.numel() || !is_dense(weight) {
        return Ok(None);
    }
    // SAFETY: all are live tensors of the kind and the numbers that the kernel reads, as was just checked.
    owned(unsafe { cmira_by_spectral_norm(pointer(weight), pointer(u), pointer(v), norm) }).map(Some)
}

/// Whether a weight's numbers lie without gaps, row behind row.
fn is_dense(weight: &Tensor) -> bool {
    let channels_last = || weight.dim() == 4 && weight.f_permute([0, 2, 3, 1]).is_ok_and(|turned| turned.is_contiguous());
    weight.is_contiguous() || channels_last()
}

/// What follows a convolution in the same kernel.
#[derive(Debug, Clone, Copy)]
pub struct Then<'a> {
    /// What is added to its result.
    pub other: Option<&'a Tensor>,
    /// Whether what is below zero becomes zero then.
    pub relu: bool,
    /// Whether the result may take the other tensor's place, which nobody reads any more.
    pub overwrite: bool,
}

/// `conv2d`, the sum with another tensor and ReLU as one, without gradients: for evaluation, where normalisation is folded into filters and
/// bias. `steps` are strides, paddings and dilations, two of each. Images come out with a pixel's channels side by side.
///
/// `None` for what this is not made for: anything but images and filters of four axes in float32 on the CPU.
///
/// # Errors
/// Unexpected, with libtorch's message.
pub fn conv_act(
    input: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    steps: [i64; 6],
    groups: i64,
    then: Then<'_>,
) -> Result<Option<Tensor>> {
    let fits = is_image_of(input, Kind::Float) && is_image_of(weight, Kind::Float) && bias.kind() == Kind::Float;
    // oneDNN is handed memory and a description of it: what does not fit together is libtorch's to refuse.
    let fits = fits && input.size()[1] == weight.size()[1].saturating_mul(groups) && bias.size() == weight.size()[..1];
    if !fits || !then.other.is_none_or(|other| is_image_of(other, Kind::Float)) {
        return Ok(None);
    }
    let Then { other, relu, overwrite } = then;
    let (x, w, b) = (pointer(input), pointer(weight), pointer(bias));
    // SAFETY: all are live tensors of the kinds and shapes that the kernel takes, as was just checked, and there are six steps.
    owned(unsafe { cmira_conv_act(x, w, b, steps.as_ptr(), groups, optional(other), relu, overwrite) }).map(Some)
}

/// How stochastic gradient descent steps.
#[derive(Debug, Clone, Copy)]
pub struct Descent {
    /// Times the parameter, added to its gradient.
    pub weight_decay: f64,
    /// The share of the old velocity in the new one; 0 for none.
    pub momentum: f64,
    /// Times the velocity, taken from the parameter.
    pub learning_rate: f64,
    /// Whether the gradient is looked at where the velocity leads.
    pub nesterov: bool,
}

/// Whether two tensors have their numbers in the same order in memory.
fn same_layout(a: &Tensor, b: &Tensor) -> bool {
    let steps = |tensor: &Tensor| -> Vec<(i64, i64)> {
        let long = tensor.size().into_iter().zip(tensor.stride());
        long.filter(|(side, _)| *side > 1).collect()
    };
    a.size() == b.size() && steps(a) == steps(b)
}

/// The numbers of a tensor in the order in which another has its own.
fn laid_out_as(pattern: &Tensor, tensor: &Tensor) -> Result<Tensor> {
    if same_layout(pattern, tensor) {
        return Ok(tensor.shallow_clone());
    }
    let mut copy = pattern.f_detach()?.f_empty_like()?;
    copy.f_copy_(tensor)?;
    Ok(copy)
}

/// One step of stochastic gradient descent for all parameters at once, in one pass over them: libtorch's `_fused_sgd_`, which the
/// bindings leave out. Parameters and `velocities` (of the same number, or none) change in place. All are of one kind and on one device.
///
/// # Errors
/// Unexpected, with libtorch's message, or when the numbers differ.
pub fn descend(params: &[&Tensor], gradients: &[&Tensor], velocities: &[&Tensor], descent: Descent) -> Result<()> {
    let count = params.len();
    if gradients.len() != count || (!velocities.is_empty() && velocities.len() != count) {
        return Err(Error::unexpected(format!("{count} parameters, {} gradients", gradients.len())));
    }
    // The kernel walks through memory, whatever the axes' order there is.
    let gradients: Vec<Tensor> =
        params.iter().zip(gradients).map(|(param, gradient)| laid_out_as(param, gradient)).collect::<Result<_>>()?;
    let gradients: Vec<&Tensor> = gradients.iter().collect();
    let velocities_fit = params.iter().zip(velocities).all(|(param, velocity)| same_layout(param, velocity));
    if !velocities_fit {
        return Err(Error::unexpected("a velocity is laid out in another way than its parameter"));
    }
    if params.is_empty() {
        return Ok(());
    }
    let pointers = |tensors: &[&Tensor]| tensors.iter().map(|tensor| pointer(tensor)).collect::<Vec<_>>();
    let (params, gradients, momenta) = (pointers(params), pointers(&gradients), pointers(velocities));
    let momenta = if momenta.is_empty() { std::ptr::null() } else { momenta.as_ptr() };
    let Descent { weight_decay, momentum, learning_rate, nesterov } = descent;
    let count = i64::try_from(count).map_err(Error::unexpected)?;
    // SAFETY: the arrays hold so many live tensors each.
    let done = unsafe {
        cmira_sgd(params.as_ptr(), gradients.as_ptr(), momenta, count, weight_decay, momentum, learning_rate, nesterov)
    };
    if done { Ok(()) } else { Err(last_error()) }
}

#[cfg(test)]
mod tests;
