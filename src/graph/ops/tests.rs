//! Behaviour that the official ONNX cases do not show: old opsets, training, refusals. Expected numbers come from ONNX Runtime
//! 1.30 and PyTorch 2.11, unless they are plain to see.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::testing::{assert_close, float, floats, int, ints, list, outline, ramp, run, run_in, text};
use super::{ALL, Mode, all, find, with_at_most};
use crate::error::ErrorKind;
use crate::tensor::{Kind, Tensor, seed_libtorch, to_f32s, to_i64s};

#[test]
fn rows_are_consistent() {
    let mut seen = std::collections::BTreeSet::new();
    for op in all() {
        assert!(seen.insert((op.domain, op.name, op.since)), "{} {} stands twice", op.name, op.since);
        assert!(op.min_inputs <= op.max_inputs && op.max_outputs >= 1, "{}", op.name);
        for &index in op.weights.iter().chain(op.buffers).chain(op.differentiable) {
            assert!(index < op.max_inputs || [index] == ALL, "{} has no input {index}", op.name);
        }
        // ALL among the weights stands for whichever operands are floats.
        let reached = |index: &usize| op.differentiable == ALL || op.differentiable.contains(index);
        let trains = if op.weights == ALL { !op.differentiable.is_empty() } else { op.weights.iter().all(reached) };
        assert!(trains, "{} trains without gradients", op.name);
    }
}

#[test]
fn the_definition_of_the_models_opset_is_used() {
    assert_eq!(find("", "Softmax", 12).unwrap().since, 1);
    assert_eq!(find("ai.onnx", "Softmax", 26).unwrap().since, 13);
    assert_eq!(find("", "Gelu", 19).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(find("", "NoSuchOperator", 19).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn unknown_attributes_and_values_are_refused() {
    let x = ramp(&[1, 1, 4, 4]);
    for (op, attributes) in [
        (("Gelu", 20), vec![text("approximate", "erf")]),
        (("Relu", 13), vec![int("leak", 1)]),
        (("MaxPool", 12), vec![ints("kernel_shape", &[2, 2]), text("auto_pad", "SOME")]),
        (("AveragePool", 11), vec![ints("kernel_shape", &[2, 2]), ints("pads", &[-1, 0, 0, 0])]),
        (("LpNormalization", 1), vec![int("p", 3)]),
        (("Cast", 13), vec![int("to", 8)]),
    ] {
        assert_eq!(run(op, &attributes, &[&x]).unwrap_err().kind(), ErrorKind::Unsupported, "{op:?}");
    }
}

#[test]
fn hostile_numbers_are_malformed() {
    let x = ramp(&[2, 3]);
    let huge = i64::MAX;
    for (op, attributes, inputs) in [
        (("Reshape", 13), vec![], vec![&x, &list(&[huge, huge])]),
        (("Reshape", 13), vec![], vec![&x, &list(&[-1, -1])]),
        (("Reshape", 13), vec![], vec![&x, &list(&[4, -1])]),
        (("Expand", 13), vec![], vec![&x, &list(&[huge, 2, 3])]),
        (("Tile", 13), vec![], vec![&x, &list(&[huge, 2])]),
        (("ConstantOfShape", 9), vec![], vec![&list(&[huge, huge])]),
        (("ConstantOfShape", 9), vec![], vec![&list(&[-1])]),
        (("Gather", 13), vec![], vec![&x, &list(&[2])]),
        (("Transpose", 13), vec![ints("perm", &[0, 0])], vec![&x]),
        (("Unsqueeze", 13), vec![], vec![&x, &list(&[1, 1])]),
        (("Squeeze", 13), vec![], vec![&x, &list(&[1])]),
        (("Slice", 13), vec![], vec![&x, &list(&[0]), &list(&[1]), &list(&[0]), &list(&[0])]),
        (("Slice", 13), vec![], vec![&x, &list(&[0]), &list(&[1]), &list(&[i64::MIN])]),
        (("Pad", 13), vec![], vec![&x, &list(&[huge, 0, 1, 0])]),
        (("MaxPool", 12), vec![ints("kernel_shape", &[huge, 1])], vec![&x]),
        (("Range", 11), vec![], vec![&list(&[0]), &list(&[huge]), &list(&[0])]),
        (("Range", 11), vec![], vec![&list(&[i64::MIN]), &list(&[huge]), &list(&[1])]),
        (("Range", 11), vec![], vec![&list(&[0]), &list(&[huge]), &list(&[1])]),
        (("DepthToSpace", 13), vec![int("blocksize", 0)], vec![&x]),
        (("Flatten", 13), vec![int("axis", i64::MIN)], vec![&x]),
    ] {
        assert_eq!(run(op, &attributes, &inputs).unwrap_err().kind(), ErrorKind::Malformed, "{op:?} {inputs:?}");
    }
}

/// Every result here has 10,000 numbers out of operands of at most 400.
#[test]
fn results_far_larger_than_their_operands_are_bounded() {
    let (column, row, x) = (ramp(&[100, 1]), ramp(&[1, 100]), ramp(&[1, 1, 1, 1]));
    let yes = column.gt(50.0);
    let whole = |x: &Tensor| x.to_kind(Kind::Int64);
    let (many, filter, wide) = (list(&[0; 100]), ramp(&[1, 1, 1, 1]), ramp(&[1, 1, 100, 4]));
    for (op, attributes, inputs) in [
        (("Add", 14), vec![], vec![&column, &row]),
        (("Add", 6), vec![int("broadcast", 1)], vec![&ramp(&[100, 1]), &row]),
        (("Max", 13), vec![], vec![&column, &row]),
        (("Mean", 13), vec![], vec![&column, &row]),
        (("PRelu", 16), vec![], vec![&row, &column]),
        (("Less", 13), vec![], vec![&column, &row]),
        (("Where", 16), vec![], vec![&yes, &row, &column]),
        (("BitwiseAnd", 18), vec![], vec![&whole(&column), &whole(&row)]),
        (("Einsum", 12), vec![text("equation", "ab,bc->ac")], vec![&column, &row]),
        (("Einsum", 12), vec![text("equation", "a b, b c")], vec![&column, &row]),
        (("Einsum", 12), vec![text("equation", "...,...->...")], vec![&column, &row]),
        (
            ("Einsum", 12),
            vec![text("equation", "ab,cd,ad->")],
            vec![&column, &row, &ramp(&[100, 100]).narrow(0, 0, 1).expand([100, 100], false)],
        ),
        (("Conv", 11), vec![ints("pads", &[50, 50, 49, 49])], vec![&x, &filter]),
        (("ConvTranspose", 11), vec![ints("strides", &[100, 1])], vec![&wide, &filter]),
        (("Gather", 13), vec![int("axis", 1)], vec![&column, &many]),
        (("GatherND", 13), vec![], vec![&row, &many.reshape([100, 1])]),
        (("Concat", 13), vec![int("axis", 0)], vec![&row; 100]),
        (("Attention", 23), vec![], vec![&wide, &wide, &wide]),
        (("GridSample", 20), vec![], vec![&ramp(&[1, 100, 1, 1]), &ramp(&[1, 10, 10, 2])]),
    ] {
        let error = with_at_most(9_000, || run(op, &attributes, &inputs)).unwrap_err();
        assert_eq!((error.kind(), error.reason().contains("is refused")), (ErrorKind::Malformed, true), "{op:?} {error}");
        let numbers = with_at_most(40_000, || run(op, &attributes, &inputs)).map(|y| y.numel());
        assert!(numbers.is_ok(), "{op:?} {numbers:?}");
    }
}

#[test]
fn operands_broadcast_as_the_attributes_say_below_opset_7() {
    let (a, b) = (ramp(&[2, 2, 2]), floats(&[10.0, 20.0], &[2]));
    let y = run(("Add", 6), &[int("broadcast", 1), int("axis", 1)], &[&a, &b]).unwrap();
    assert_close(&y, &[2, 2, 2], &[10.0, 11.0, 22.0, 23.0, 14.0, 15.0, 26.0, 27.0]);
    let y = run(("Add", 6), &[int("broadcast", 1)], &[&a, &b]).unwrap();
    assert_close(&y, &[2, 2, 2], &[10.0, 21.0, 12.0, 23.0, 14.0, 25.0, 16.0, 27.0]);
    assert_eq!(run(("Add", 6), &[], &[&a, &b]).unwrap_err().kind(), ErrorKind::Malformed);
    assert_eq!(run(("Add", 7), &[int("broadcast", 1)], &[&a, &b]).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn integers_divide_towards_zero_and_keep_the_bases_type() {
    let y = run(("Div", 13), &[], &[&list(&[-7, 7, -7, 7]), &list(&[2, -2, -2, 2])]).unwrap();
    assert_eq!(to_i64s(&y).unwrap(), [-3, -3, 3, 3]);
    let base = list(&[2, 3]).to_kind(Kind::Int);
    let y = run(("Pow", 13), &[], &[&base, &floats(&[0.5, 2.5], &[2])]).unwrap();
    assert_eq!((y.kind(), to_i64s(&y).unwrap()), (Kind::Int, vec![1, 15]));
}

#[test]
fn softmax_is_over_all_later_axes_below_opset_13() {
    let x = ramp(&[2, 2, 2]) / 4.0;
    let half = [0.165_296_18, 0.212_244_5, 0.272_527_34, 0.349_932];
    assert_close(&run(("Softmax", 11), &[], &[&x]).unwrap(), &[2, 2, 2], &[half, half].concat());
    let half = [0.377_540_68, 0.377_540_68, 0.622_459_35, 0.622_459_35];
    assert_close(&run(("Softmax", 13), &[int("axis", 1)], &[&x]).unwrap(), &[2, 2, 2], &[half, half].concat());
}

struct Norm {
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
}

impl Norm {
    fn new() -> Norm {
        Norm {
            x: floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 0.0, -2.0], &[2, 2, 2]).set_requires_grad(true),
            scale: floats(&[2.0, 0.5], &[2]).set_requires_grad(true),
            bias: floats(&[0.1, -0.1], &[2]).set_requires_grad(true),
            mean: floats(&[0.5, -0.5], &[2]),
            variance: floats(&[2.0, 3.0], &[2]),
        }
    }

    fn inputs(&self) -> [Option<&Tensor>; 5] {
        [&self.x, &self.scale, &self.bias, &self.mean, &self.variance].map(Some)
    }
}

const BATCH_NORMALISED: [f32; 8] =
    [-2.206_224_7, -1.367_597_5, 0.266_899_4, 0.476_556_18, 1.148_284, 2.825_538_4, -0.362_070_98, -0.781_384_6];

/// torch.nn.functional.batch_norm with momentum 0.1, which is 0.9 in ONNX.
#[test]
fn batch_normalisation_trains_as_pytorch_does() {
    let norm = Norm::new();
    let y = run_in(Mode::Train, ("BatchNormalization", 15), &[], &norm.inputs(), 1).unwrap().remove(0);
    assert_close(&y, &[2, 2, 2], &BATCH_NORMALISED);
    assert_close(&norm.mean, &[2], &[0.825, -0.325]);
    assert_close(&norm.variance, &[2], &[2.558_333_4, 3.458_333_3]);
    (y * ramp(&[2, 2, 2])).sum(Kind::Float).backward();
    assert_close(&norm.scale.grad(), &[2], &[8.176_615, -7.757_301]);
    assert_close(&norm.bias.grad(), &[2], &[10.0, 18.0]);
    let gradient = [-0.119_807_3, -2.174e-6, -0.225_784_75, 0.154_361_9, 0.359_413_2, -0.239_603_73, 0.101_372_87, -0.029_950_04];
    assert_close(&norm.x.grad(), &[2, 2, 2], &gradient);
}

#[test]
fn batch_normalisation_evaluates_with_its_running_statistics() {
    let norm = Norm::new();
    for opset in [6, 7, 9, 14, 15] {
        let y = run_in(Mode::Eval, ("BatchNormalization", opset), &[], &norm.inputs(), 1).unwrap().remove(0);
        let expected = [0.807_105, 2.221_315, 0.910_361_3, 1.199_035_9, 6.463_945, 9.292_365, 0.044_337_325, -0.533_012];
        assert_close(&y, &[2, 2, 2], &expected);
    }
    assert_close(&norm.mean, &[2], &[0.5, -0.5]);
}

/// The page's running variance is blended with the population's (5.6875 of 1, 2, 5, 7), not with the sample's.
#[test]
fn batch_normalisation_in_training_mode_gives_running_statistics() {
    let norm = Norm::new();
    let outputs = run_in(Mode::Eval, ("BatchNormalization", 15), &[int("training_mode", 1)], &norm.inputs(), 3).unwrap();
    assert_close(&outputs[0], &[2, 2, 2], &BATCH_NORMALISED);
    assert_close(&outputs[1], &[2], &[0.825, -0.325]);
    assert_close(&outputs[2], &[2], &[2.0 * 0.9 + 0.1 * 5.6875, 3.0 * 0.9 + 0.1 * 5.6875]);
    assert_close(&norm.variance, &[2], &[2.0, 3.0]);
}

#[test]
fn batch_normalisation_refuses_what_it_cannot_do() {
    let norm = Norm::new();
    let saved = run_in(Mode::Eval, ("BatchNormalization", 7), &[], &norm.inputs(), 5);
    assert_eq!(saved.unwrap_err().kind(), ErrorKind::Unsupported);
    let one = floats(&[1.0, 2.0], &[1, 2]);
    let inputs = [Some(&one), Some(&norm.scale), Some(&norm.bias), Some(&norm.mean), Some(&norm.variance)];
    let lone = run_in(Mode::Train, ("BatchNormalization", 15), &[], &inputs, 1);
    assert_eq!(lone.unwrap_err().kind(), ErrorKind::Data);
}

#[test]
fn dropout_drops_in_training_only() {
    let (x, ratio) = (Tensor::ones([1000], (Kind::Float, crate::tensor::Device::Cpu)), Tensor::from(0.25_f32));
    let inputs = [Some(&x), Some(&ratio)];
    let outputs = run_in(Mode::Eval, ("Dropout", 13), &[], &inputs, 2).unwrap();
    assert!(outputs[0].equal(&x));
    assert_eq!((outputs[1].kind(), outputs[1].sum(Kind::Int64).int64_value(&[])), (Kind::Bool, 1000));
    seed_libtorch(1);
    let outputs = run_in(Mode::Train, ("Dropout", 13), &[], &inputs, 2).unwrap();
    let kept = outputs[1].sum(Kind::Int64).int64_value(&[]);
    assert!((650..850).contains(&kept), "{kept} of 1000 kept");
    assert!(to_f32s(&outputs[0]).unwrap().iter().all(|&value| value == 0.0 || (value - 4.0 / 3.0).abs() < 1e-6));
    let training = Tensor::from(true);
    let active = run_in(Mode::Eval, ("Dropout", 13), &[], &[Some(&x), None, Some(&training)], 1);
    assert_eq!(active.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn convolutions_pad_unevenly() {
    let (x, w) = (ramp(&[1, 1, 4, 4]), floats(&[1.0, 2.0, 3.0, 4.0], &[1, 1, 2, 2]));
    let upper = run(("Conv", 11), &[text("auto_pad", "SAME_UPPER")], &[&x, &w]).unwrap();
    let expected = [34, 44, 54, 24, 74, 84, 94, 40, 114, 124, 134, 56, 38, 41, 44, 15].map(|v: i16| f32::from(v));
    assert_close(&upper, &[1, 1, 4, 4], &expected);
    let lower = run(("Conv", 11), &[text("auto_pad", "SAME_LOWER")], &[&x, &w]).unwrap();
    let expected = [0, 4, 11, 18, 16, 34, 44, 54, 40, 74, 84, 94, 64, 114, 124, 134].map(|v: i16| f32::from(v));
    assert_close(&lower, &[1, 1, 4, 4], &expected);
    let attributes = [ints("pads", &[1, 0, 0, 1]), ints("strides", &[2, 2]), ints("dilations", &[2, 1])];
    assert_close(&run(("Conv", 11), &attributes, &[&x, &w]).unwrap(), &[1, 1, 2, 2], &[32.0, 46.0, 102.0, 122.0]);
    let x = floats(&[0.0, 1.0, 4.0, 5.0], &[1, 1, 2, 2]);
    let attributes = [ints("pads", &[0, 1, 1, 0]), ints("strides", &[2, 2])];
    let y = run(("ConvTranspose", 11), &attributes, &[&x, &w]).unwrap();
    assert_close(&y, &[1, 1, 3, 3], &[0.0, 1.0, 2.0, 0.0, 3.0, 4.0, 8.0, 5.0, 10.0]);
}

/// By a product of matrices. oneDNN by itself writes outside of its memory here, where channels lie side by side.
#[test]
fn filters_of_one_place_that_skip_others_have_their_gradient() {
    for (pads, side) in [(0, 120), (1, 122)] {
        let wave = |shape: &[i64], step: f64| ramp(shape).multiply_scalar(step).sin();
        let x = wave(&[2, 120, 120, 3], 0.71).permute([0, 3, 1, 2]);
        let weight = wave(&[48, 3, 1, 1], 0.37).set_requires_grad(true);
        let attributes = [ints("strides", &[2, 2]), ints("pads", &[pads; 4])];
        let y = run(("Conv", 11), &attributes, &[&x, &weight]).unwrap();
        let direction = wave(&y.size(), 0.13);
        let gradient = Tensor::run_backward(&[(&y * &direction).sum(Kind::Float)], &[&weight], false, false).remove(0);
        let met = x.constant_pad_nd([pads; 4]).slice(2, 0, side, 2).slice(3, 0, side, 2);
        let expected = Tensor::einsum("nohw,nchw->oc", &[&direction, &met], None::<i64>);
        let error = (gradient.reshape([48, 3]) - &expected).abs().max() / expected.abs().max();
        assert!(error.double_value(&[]) < 1e-4, "{error:?}");
    }
}

/// Between the places of a window of one place there is nothing, and oneDNN by itself ends the process over it.
#[test]
fn a_distance_within_one_place_means_nothing() {
    let x = ramp(&[4, 8, 1, 16]).multiply_scalar(0.71).sin().permute([0, 3, 1, 2]);
    let weight = ramp(&[16, 16, 3, 1]).multiply_scalar(0.37).sin();
    let conv = |dilations: &[i64]| {
        let attributes = [ints("dilations", dilations), ints("pads", &[1; 4]), ints("strides", &[1, 2])];
        run(("Conv", 11), &attributes, &[&x, &weight]).unwrap()
    };
    assert_eq!(to_f32s(&conv(&[1, 3])).unwrap(), to_f32s(&conv(&[1, 1])).unwrap());
}

/// oneDNN by itself gives what was in memory before.
#[test]
fn windows_that_skip_and_are_spread_are_computed_in_bfloat16_as_well() {
    let x = ramp(&[2, 60, 7, 64]).multiply_scalar(0.71).sin().permute([0, 3, 1, 2]);
    let weight = ramp(&[64, 64, 5, 5]).multiply_scalar(0.37).sin();
    let attributes = [ints("dilations", &[1, 2]), ints("pads", &[2; 4]), ints("strides", &[3, 3])];
    let [x, weight] = [x, weight].map(|tensor| tensor.to_kind(Kind::BFloat16));
    let exact = run(("Conv", 11), &attributes, &[&x.to_kind(Kind::Float), &weight.to_kind(Kind::Float)]).unwrap();
    for _ in 0..4 {
        let found = run(("Conv", 11), &attributes, &[&x, &weight]).unwrap().to_kind(Kind::Float);
        let error = (found - &exact).abs().max().double_value(&[]) / exact.abs().max().double_value(&[]);
        assert!(error < 0.02, "{error}");
    }
}

/// And there is none where there is no convolution.
#[test]
fn outlines_of_convolutions_have_their_shapes() {
    for (image, filters, bias, attributes) in [
        (&[2, 3, 5, 6][..], &[4, 3, 3, 3][..], 4, vec![ints("pads", &[1, 1, 1, 1])]),
        (&[2, 5, 5, 6], &[2, 5, 1, 1], 2, vec![ints("strides", &[2, 2])]),
        (&[2, 2, 7, 7], &[3, 2, 2, 3], 3, vec![ints("strides", &[2, 3]), ints("pads", &[1, 0, 0, 2])]),
        (&[2, 2, 7, 7], &[5, 2, 3, 3], 5, vec![ints("dilations", &[2, 1]), text("auto_pad", "SAME_UPPER")]),
        (&[2, 4, 6, 6], &[4, 2, 3, 3], 4, vec![int("group", 2)]),
        (&[2, 3, 9], &[4, 3, 4], 4, vec![ints("strides", &[3])]),
        (&[2, 3, 4, 4, 3], &[2, 3, 2, 2, 2], 2, vec![]),
        // Channels, groups, biases and windows that do not fit.
        (&[2, 3, 5, 5], &[4, 2, 3, 3], 4, vec![]),
        (&[2, 4, 5, 5], &[3, 2, 3, 3], 3, vec![int("group", 2)]),
        (&[2, 3, 5, 5], &[4, 3, 3, 3], 3, vec![]),
        (&[2, 3, 5, 5], &[4, 3, 6, 6], 4, vec![]),
    ] {
        let (x, weight, bias) = (ramp(image), ramp(filters), ramp(&[bias]));
        let (exact, outline) =
            (run(("Conv", 11), &attributes, &[&x, &weight, &bias]), outline(&attributes, &[&x, &weight, &bias]));
        match (exact, outline) {
            (Ok(exact), Ok(Some(outline))) => {
                assert_eq!((outline.size(), outline.kind()), (exact.size(), exact.kind()), "{filters:?}");
            }
            (Err(_), Ok(None)) => {}
            (Err(exact), Err(outline)) => assert_eq!(outline.to_string(), exact.to_string()),
            (exact, outline) => panic!("{image:?} by {filters:?}: {exact:?}, {outline:?}"),
        }
    }
}

#[test]
fn pools_round_up_and_pad_unevenly() {
    let x = ramp(&[1, 1, 4, 4]);
    let narrow = x.narrow(3, 0, 3);
    let attributes = [ints("kernel_shape", &[2, 2]), ints("pads", &[1, 0, 0, 1]), ints("strides", &[2, 2]), int("ceil_mode", 1)];
    for (order, places) in [(0, [1, 2, 7, 8, 10, 11]), (1, [4, 8, 6, 10, 7, 11])] {
        let attributes = [&attributes[..], &[int("storage_order", order)]].concat();
        let outputs = run_in(Mode::Eval, ("MaxPool", 12), &attributes, &[Some(&narrow)], 2).unwrap();
        assert_close(&outputs[0], &[1, 1, 3, 2], &[1.0, 2.0, 9.0, 10.0, 13.0, 14.0]);
        assert_eq!(to_i64s(&outputs[1]).unwrap(), places);
    }
    let attributes = [ints("kernel_shape", &[3, 3]), ints("pads", &[0, 0, 1, 1]), ints("strides", &[2, 2]), int("ceil_mode", 1)];
    let y = run(("AveragePool", 11), &attributes, &[&x]).unwrap();
    assert_close(&y, &[1, 1, 2, 2], &[5.0, 6.5, 11.0, 12.5]);
    let y = run(("AveragePool", 11), &[&attributes[..], &[int("count_include_pad", 1)]].concat(), &[&x]).unwrap();
    assert_close(&y, &[1, 1, 2, 2], &[5.0, 4.333_333_5, 7.333_333_5, 5.555_555_3]);
}

#[test]
fn old_resizing_takes_the_lower_neighbour_when_enlarging_and_the_higher_when_shrinking() {
    let scales = floats(&[1.0, 1.0, 0.6, 0.6], &[4]);
    let y = run(("Resize", 10), &[], &[&ramp(&[1, 1, 2, 4]), &scales]).unwrap();
    assert_close(&y, &[1, 1, 1, 2], &[0.0, 2.0]);
    let scales = floats(&[1.0, 1.0, 2.0, 1.5], &[4]);
    let y = run(("Upsample", 9), &[], &[&ramp(&[1, 1, 2, 2]), &scales]).unwrap();
    assert_close(&y, &[1, 1, 4, 3], &[0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 2.0, 2.0, 3.0, 2.0, 2.0, 3.0]);
}

#[test]
fn equal_values_are_ordered_by_index() {
    let x = floats(&[3.0, 1.0, 3.0, 2.0, 3.0], &[1, 5]);
    let outputs = run_in(Mode::Eval, ("TopK", 11), &[], &[Some(&x), Some(&list(&[2]))], 2).unwrap();
    assert_eq!(to_i64s(&outputs[1]).unwrap(), [0, 2]);
    let last = run(("ArgMax", 12), &[int("axis", 1), int("select_last_index", 1)], &[&x]).unwrap();
    assert_eq!((last.size(), to_i64s(&last).unwrap()), (vec![1, 1], vec![4]));
}

#[test]
fn slices_run_backwards() {
    let inputs = [&ramp(&[10]), &list(&[-2]), &list(&[-(1 << 40)]), &list(&[0]), &list(&[-3])];
    assert_close(&run(("Slice", 13), &[], &inputs).unwrap(), &[3], &[8.0, 5.0, 2.0]);
}

#[test]
fn shapes_were_attributes_once() {
    let x = ramp(&[2, 3]);
    assert_eq!(run(("Reshape", 1), &[ints("shape", &[0, -1, 1])], &[&x]).unwrap().size(), [2, 3, 1]);
    assert_eq!(run(("Unsqueeze", 11), &[ints("axes", &[-1, 0])], &[&x]).unwrap().size(), [1, 2, 3, 1]);
    assert_eq!(run(("Slice", 1), &[ints("starts", &[1]), ints("ends", &[9])], &[&x]).unwrap().size(), [1, 3]);
    let padded = run(("Pad", 2), &[ints("pads", &[0, 1, 0, 0]), float("value", 9.0)], &[&x]).unwrap();
    assert_close(&padded, &[2, 4], &[9.0, 0.0, 1.0, 2.0, 9.0, 3.0, 4.0, 5.0]);
    let clipped = run(("Clip", 6), &[float("min", 1.5), float("max", 3.0)], &[&x]).unwrap();
    assert_close(&clipped, &[2, 3], &[1.5, 1.5, 2.0, 3.0, 3.0, 3.0]);
    let tiled = run(("Tile", 1), &[], &[&x, &floats(&[2.0], &[1]), &floats(&[1.0], &[1])]).unwrap();
    assert_eq!(tiled.size(), [2, 6]);
    let cast = run(("Cast", 1), &[text("to", "INT32")], &[&x]).unwrap();
    assert_eq!(cast.kind(), Kind::Int);
    let sum = run(("ReduceSum", 11), &[ints("axes", &[1]), int("keepdims", 0)], &[&x]).unwrap();
    assert_close(&sum, &[2], &[3.0, 12.0]);
}

/// Norms and masked rows are where a formula taken literally gives NaN.
#[test]
fn gradients_are_finite_where_formulas_are_not() {
    let zeros = Tensor::zeros([1, 2, 2, 2], (Kind::Float, crate::tensor::Device::Cpu)).set_requires_grad(true);
    for (op, attributes) in [
        (("ReduceL2", 11), vec![]),
        (("LpPool", 11), vec![ints("kernel_shape", &[2, 2])]),
        (("LpNormalization", 1), vec![]),
        (("GlobalLpPool", 2), vec![]),
        (("Elu", 6), vec![]),
    ] {
        run(op, &attributes, &[&zeros]).unwrap().sum(Kind::Float).backward();
        assert!(to_f32s(&zeros.grad()).unwrap().iter().all(|value| value.is_finite()), "{op:?}");
    }
    let mask = Tensor::from_slice(&[false, false, true, true]).reshape([2, 2]);
    let y = run(("Attention", 23), &[], &[&zeros, &zeros, &zeros, &mask]).unwrap();
    y.sum(Kind::Float).backward();
    assert!(to_f32s(&zeros.grad()).unwrap().iter().all(|value| value.is_finite()));
}
