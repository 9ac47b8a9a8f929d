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
    let found =
        norm_act(&arranged(&rounded, kind), with_other.then_some(&given), tensors, live, SETTINGS, relu, true).unwrap().unwrap();
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
    for (place, (found, expected)) in second_gradients(found, leaves).iter().zip(second_gradients(expected, leaves)).enumerate() {
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
    let none =
        |input: &Tensor, other: Option<&Tensor>| norm_act(input, other, tensors, true, SETTINGS, true, false).unwrap().is_none();
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
