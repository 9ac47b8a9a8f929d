//! The parts of a training step that libtorch has no operator for, in C++ beside it (`kernels.cpp`), so that they are nodes of its
//! gradient graph like any other. Each does what some of libtorch's operators do one by one, and is used where those are slow.

use std::ffi::{CStr, c_char, c_void};

use crate::error::{Error, Result};
use crate::tensor::{Device, Kind, Tensor};

unsafe extern "C" {
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
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::tensor::to_f32s;

    const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

    /// Numbers that bfloat16 holds exactly, as float32, each a leaf.
    fn drawn(shape: &[i64], seed: u64) -> Tensor {
        use rand::Rng;
        let mut chance = crate::tensor::rng(seed, "kernels", 0);
        let count = usize::try_from(shape.iter().product::<i64>()).unwrap();
        let values: Vec<f32> = (0..count).map(|_| chance.random_range(-2.0..2.0)).collect();
        let exact = Tensor::f_from_slice(&values).unwrap().reshape(shape).to_kind(Kind::BFloat16).to_kind(Kind::Float);
        exact.set_requires_grad(true)
    }

    /// Those numbers in bfloat16, in the graph behind them.
    fn small(tensor: &Tensor) -> Tensor {
        arranged(tensor, Kind::BFloat16)
    }

    fn arranged(tensor: &Tensor, kind: Kind) -> Tensor {
        let tensor = tensor.to_kind(kind);
        if tensor.dim() == 4 { tensor.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]) } else { tensor }
    }

    /// Gradients of a product with fixed numbers, by leaf.
    fn gradients(output: &Tensor, leaves: &[&Tensor]) -> Vec<Tensor> {
        let weights = drawn(&output.size(), 99).detach();
        let scalar = (output.to_kind(Kind::Float) * weights).sum(Kind::Float);
        Tensor::f_run_backward(&[scalar], leaves, false, false).unwrap()
    }

    /// Of the largest number, what bfloat16 can miss: it rounds to 8 bits.
    fn close(what: &str, actual: &Tensor, expected: &Tensor, share: f64) {
        assert_eq!(actual.size(), expected.size(), "{what}");
        let largest = to_f32s(&expected.abs().max()).unwrap()[0].max(1e-3);
        let difference = to_f32s(&(actual.to_kind(Kind::Float) - expected).abs().max()).unwrap()[0];
        assert!(f64::from(difference / largest) < share, "{what}: {difference} of {largest}");
    }

    const SETTINGS: Normalisation = Normalisation { epsilon: 1e-5, momentum: 0.1 };

    fn compare_norm_act(kind: Kind, channels: i64, with_other: bool, live: bool, relu: bool) {
        // What float32 and bfloat16 can miss of values and of gradients.
        let (off, gradients_off) = if kind == Kind::Float { (2e-6, 2e-5) } else { (4e-3, 2e-2) };
        let what = format!("{kind:?}, {channels} channels, other {with_other}, live {live}, relu {relu}");
        let shape = [5, channels, 7, 6];
        let (x, other) = (drawn(&shape, 1), drawn(&shape, 2));
        // Far from zero, where a variance out of sums of squares would lose its digits.
        let shifted = &x + 30.0;
        let (scale, bias) = (drawn(&[channels], 3), drawn(&[channels], 4));
        let statistics = || [drawn(&[channels], 5).detach(), drawn(&[channels], 6).detach().abs() + 0.5];
        let ([mean, variance], [own_mean, own_variance]) = (statistics(), statistics());
        let rounded = shifted.detach().to_kind(Kind::BFloat16).to_kind(Kind::Float).set_requires_grad(true);
        let leaves = [&rounded, &scale, &bias, &other];

        let normal = rounded.batch_norm(Some(&scale), Some(&bias), Some(&mean), Some(&variance), live, 0.1, 1e-5, true);
        let sum = if with_other { &normal + &other } else { normal };
        let expected = if relu { sum.relu() } else { sum };
        let tensors = [&scale, &bias, &own_mean, &own_variance];
        let given = arranged(&other, kind);
        let found = norm_act(&arranged(&rounded, kind), with_other.then_some(&given), tensors, live, SETTINGS, relu, true)
            .unwrap()
            .unwrap();
        close(&format!("{what}: values"), &found, &expected, off);
        close(&format!("{what}: running mean"), &own_mean, &mean, 1e-5);
        close(&format!("{what}: running variance"), &own_variance, &variance, 1e-5);
        let leaves = &leaves[..if with_other { 4 } else { 3 }];
        let names = ["input", "scale", "bias", "other"];
        // Where the sum is nearly zero, rounding decides whether the activation lets a gradient through: only where both agree are
        // gradients compared.
        let open = |tensor: &Tensor| tensor.detach().gt(0.0);
        let agreed = open(&found).eq_tensor(&open(&expected)).to_kind(Kind::Float);
        let (found, expected) = (found.to_kind(Kind::Float) * &agreed, expected * &agreed);
        for ((name, found), expected) in names.iter().zip(gradients(&found, leaves)).zip(gradients(&expected, leaves)) {
            close(&format!("{what}: gradient of {name}"), &found, &expected, gradients_off);
        }
    }

    #[test]
    fn normalisation_sum_and_activation_as_in_libtorch() {
        for channels in [1, 5, 16, 70] {
            for with_other in [false, true] {
                for live in [false, true] {
                    for relu in [false, true] {
                        compare_norm_act(Kind::BFloat16, channels, with_other, live, relu);
                        compare_norm_act(Kind::Float, channels, with_other, live, relu);
                    }
                }
            }
        }
    }

    #[test]
    fn nobody_pays_for_numbers_that_are_not_numbers() {
        let x = Tensor::f_from_slice(&[f32::NAN, 1.0, 2.0, 3.0]).unwrap().reshape([4, 1, 1, 1]);
        let [ones, zeros] = [Tensor::ones([1], FLOAT), Tensor::zeros([1], FLOAT)];
        let found = norm_act(&small(&x), None, [&ones, &zeros, &zeros, &ones], false, SETTINGS, true, false).unwrap().unwrap();
        let found = to_f32s(&found).unwrap();
        assert!(found[0].is_nan() && found[1..].iter().all(|value| *value > 0.0), "{found:?}");
    }

    fn compare_conv(shape: [i64; 4], filters: [i64; 4], steps: [i64; 6], with_bias: bool) {
        let what = format!("{shape:?} {filters:?} {steps:?}");
        let (x, weight, bias) = (drawn(&shape, 1), drawn(&filters, 2), drawn(&filters[..1], 3));
        let [stride, padding, dilation] = [&steps[..2], &steps[2..4], &steps[4..]];
        let expected = x.conv2d(&weight, with_bias.then_some(&bias), stride, padding, dilation, 1);
        let places = &expected.size()[2..];
        let leaves = [&x, &weight, &bias];
        let leaves = &leaves[..if with_bias { 3 } else { 2 }];
        let names = ["input", "weight", "bias"];
        let expected_gradients = gradients(&expected, leaves);
        for kind in [Kind::Float, Kind::BFloat16] {
            let (off, gradients_off) = if kind == Kind::Float { (2e-6, 5e-6) } else { (5e-3, 2e-2) };
            let given = arranged(&bias, kind);
            // Filters in both orders in memory.
            for filters in [weight.to_kind(kind), arranged(&weight, kind)] {
                let found = conv_by_product(&arranged(&x, kind), &filters, with_bias.then_some(&given), steps, places);
                let found = found.unwrap().expect("it is small enough");
                close(&format!("{what} {kind:?}: values"), &found, &expected, off);
                for ((name, found), expected) in names.iter().zip(gradients(&found, leaves)).zip(&expected_gradients) {
                    close(&format!("{what} {kind:?}: gradient of {name}"), &found, expected, gradients_off);
                }
            }
        }
    }

    /// Influence unlearning differentiates gradients, and so do files with a Gradient node.
    fn second_gradients(output: &Tensor, leaves: &[&Tensor]) -> Vec<Tensor> {
        let weigh = |tensor: &Tensor, seed: u64| (tensor * drawn(&tensor.size(), seed).detach()).sum(Kind::Float);
        let first = Tensor::f_run_backward(&[weigh(output, 99)], leaves, true, true).unwrap();
        let total: Tensor = (0..).zip(&first).map(|(seed, gradient)| weigh(gradient, seed)).sum();
        Tensor::f_run_backward(&[total], leaves, false, false).unwrap()
    }

    fn compare_second_gradients(what: &str, found: &Tensor, expected: &Tensor, leaves: &[&Tensor]) {
        for (place, (found, expected)) in
            second_gradients(found, leaves).iter().zip(second_gradients(expected, leaves)).enumerate()
        {
            assert_eq!(found.defined(), expected.defined(), "{what}: leaf {place}");
            if expected.defined() {
                close(&format!("{what}: leaf {place}"), found, &expected, 1e-4);
            }
        }
    }

    #[test]
    fn gradients_have_gradients_as_in_libtorch() {
        // Squares, so that the gradient that arrives depends on the leaves, too.
        for live in [false, true] {
            let shape = [4, 6, 3, 3];
            let (x, other, scale, bias) = (drawn(&shape, 1), drawn(&shape, 2), drawn(&[6], 3), drawn(&[6], 4));
            let [mean, variance] = [drawn(&[6], 5).detach(), drawn(&[6], 6).detach().abs() + 0.5];
            let (own_mean, own_variance) = (mean.copy(), variance.copy());
            let normal = x.batch_norm(Some(&scale), Some(&bias), Some(&mean), Some(&variance), live, 0.1, 1e-5, true);
            let expected = (normal + &other).relu().square();
            let tensors = [&scale, &bias, &own_mean, &own_variance];
            let found = norm_act(&x, Some(&other), tensors, live, SETTINGS, true, false).unwrap().unwrap().square();
            compare_second_gradients(&format!("live {live}"), &found, &expected, &[&x, &scale, &bias, &other]);
        }
        let (x, weight, bias) = (drawn(&[2, 64, 4, 4], 1), drawn(&[64, 64, 3, 3], 2), drawn(&[64], 3));
        let expected = x.conv2d(&weight, Some(&bias), [1, 1], [1, 1], [1, 1], 1).square();
        let found = conv_by_product(&x, &weight, Some(&bias), [1; 6], &[4, 4]).unwrap().unwrap().square();
        compare_second_gradients("convolution", &found, &expected, &[&x, &weight, &bias]);
    }

    #[test]
    fn an_input_is_overwritten_only_where_nobody_needs_it() {
        let [ones, zeros] = [Tensor::ones([4], FLOAT), Tensor::zeros([4], FLOAT)];
        let tensors = [&ones, &zeros, &zeros, &ones];
        let run =
            |image: &Tensor, overwrite: bool| norm_act(image, None, tensors, false, SETTINGS, true, overwrite).unwrap().unwrap();
        let image = small(&drawn(&[2, 4, 3, 3], 1)).detach();
        let before = to_f32s(&image).unwrap();
        let expected = to_f32s(&run(&image, false)).unwrap();
        let in_graph = run(&image, true);
        assert_eq!(to_f32s(&in_graph).unwrap(), expected);
        assert_eq!(to_f32s(&image).unwrap(), before, "a gradient may still be asked for");
        let _guard = crate::tensor::no_grad();
        assert_eq!(to_f32s(&run(&image, false)).unwrap(), expected);
        assert_eq!(to_f32s(&image).unwrap(), before);
        assert_eq!(to_f32s(&run(&image, true)).unwrap(), expected);
        assert_eq!(to_f32s(&image).unwrap(), expected);
    }

    #[test]
    fn convolutions_by_product_as_in_libtorch() {
        compare_conv([3, 64, 4, 4], [64, 64, 3, 3], [1, 1, 1, 1, 1, 1], false);
        compare_conv([3, 64, 7, 8], [80, 64, 3, 3], [2, 2, 1, 1, 1, 1], true);
        compare_conv([2, 72, 6, 5], [64, 72, 3, 2], [2, 1, 0, 1, 1, 2], true);
        compare_conv([2, 64, 1, 1], [64, 64, 3, 3], [1, 1, 1, 1, 1, 1], false);
        compare_conv([2, 64, 9, 9], [64, 64, 3, 3], [3, 4, 2, 0, 2, 1], false);
    }

    #[test]
    fn what_the_kernels_are_not_for_is_left_to_libtorch() {
        let [ones, zeros] = [Tensor::ones([4], FLOAT), Tensor::zeros([4], FLOAT)];
        let tensors = [&ones, &zeros, &zeros, &ones];
        let none = |input: &Tensor, other: Option<&Tensor>| {
            norm_act(input, other, tensors, true, SETTINGS, true, false).unwrap().is_none()
        };
        let image = small(&drawn(&[2, 4, 3, 3], 1));
        assert!(!none(&image, None));
        assert!(none(&image.to_kind(Kind::Double), None));
        assert!(none(&image, Some(&image.to_kind(Kind::Float))));
        assert!(none(&small(&drawn(&[2, 5, 3, 3], 1)), None));
        assert!(none(&image, Some(&small(&drawn(&[2, 4, 1, 1], 1)))));
        assert!(none(&image.reshape([2, 4, 9]), None));
        assert!(none(&small(&drawn(&[1, 4, 1, 1], 1)), None));
        let filters = drawn(&[64, 64, 3, 3], 1).to_kind(Kind::BFloat16);
        let conv = |image: &Tensor| conv_by_product(image, &filters, None, [1; 6], &image.size()[2..]).unwrap();
        assert!(conv(&small(&drawn(&[1, 64, 8, 8], 1))).is_none());
        assert!(conv(&small(&drawn(&[1, 63, 4, 4], 1))).is_none());
        assert!(conv(&small(&drawn(&[1, 64, 4, 4], 1))).is_some());
    }

    /// A message of libtorch's comes through as an error.
    #[test]
    fn what_libtorch_refuses_is_an_error() {
        let param = Tensor::zeros([2], FLOAT);
        let descent = Descent { weight_decay: 0.0, momentum: 0.0, learning_rate: 0.1, nesterov: false };
        assert!(descend(&[&param], &[], &[], descent).is_err());
        // Where no parameter has a gradient there is nothing to do.
        descend(&[], &[], &[], descent).unwrap();
        let image = small(&drawn(&[1, 64, 2, 2], 1));
        let filters = drawn(&[64, 64, 3, 3], 1).to_kind(Kind::BFloat16);
        let error = conv_by_product(&image, &filters, None, [1, 1, 0, 0, 1, 1], &[1, 1]).unwrap_err();
        assert!(error.to_string().contains("a window is larger than its padded image"), "{error}");
    }
}
