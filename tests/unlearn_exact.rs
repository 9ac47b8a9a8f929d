//! The unlearning methods' changes of the weights against computations that share no code with them: closed forms in double
//! precision for a linear classifier, and PyTorch for a small convolutional network (`tests/witness/unlearning.py`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::needless_range_loop, reason = "formulas are written with the indices of the formulas")]

mod common;

use cmira::graph::{Mode, Model, OneByOne};
use cmira::nets::{self, Backbone, InputShape};
use cmira::onnx::proto::attribute_proto::AttributeType;
use cmira::onnx::proto::tensor_proto::DataType;
use cmira::onnx::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};
use cmira::tensor::{Device, Kind, Tensor, rng, set_threads, to_f32s, to_f64s};
use cmira::train::{Control, Held, Schedule, Targets, TrainSettings};
use cmira::unlearn::{Fisher, Sets, UnlearnSettings, method};
use rand_distr::{Distribution, StandardNormal};

use crate::common::witness::{compare, expected, spread, witness};
use crate::common::{node, value};

/// The largest relative difference that is allowed.
const TOLERANCE: f64 = 1e-4;

const PIXELS: usize = 4;
const CLASSES: usize = 3;

/// A classifier from "images" `[N, ...]` to "logits".
fn classifier(node: Vec<NodeProto>, initializer: Vec<TensorProto>, image: &[i64], classes: usize) -> ModelProto {
    let shape: Vec<i64> = [-1].iter().chain(image).copied().collect();
    let mut model = common::model(GraphProto {
        name: "classifier".into(),
        node,
        input: vec![value("images", DataType::FLOAT, &shape)],
        output: vec![value("logits", DataType::FLOAT, &[-1, classes as i64])],
        initializer,
        ..Default::default()
    });
    // Axes are attributes yet.
    model.opset_import[0].version = 11;
    model
}

/// A node with a list of integers among its attributes.
fn with_list(mut node: NodeProto, name: &str, values: &[i64]) -> NodeProto {
    node.attribute.push(AttributeProto {
        name: name.into(),
        type_: AttributeType::INTS.into(),
        ints: values.to_vec(),
        ..Default::default()
    });
    node
}

/// `softmax(W x + b)` with W `[3, 4]`.
fn linear() -> Model {
    let proto = classifier(
        vec![node("Flatten", &["images"], "x", &[("axis", 1)]), node("Gemm", &["x", "w", "b"], "logits", &[("transB", 1)])],
        vec![
            common::weight("w", &[CLASSES as i64, PIXELS as i64], Kind::Float),
            common::weight("b", &[CLASSES as i64], Kind::Float),
        ],
        &[PIXELS as i64, 1, 1],
        CLASSES,
    );
    Model::from_proto("linear", proto, Device::Cpu).unwrap()
}

/// Images that no plane separates, and their labels.
fn data(name: &str, count: usize) -> (Vec<f64>, Vec<usize>) {
    let pixels = spread(name, count * PIXELS, 1.5).into_iter().map(f64::from).collect();
    (pixels, (0..count).map(|index| (index * 2 + index / 3) % CLASSES).collect())
}

fn held((pixels, labels): &(Vec<f64>, Vec<usize>)) -> Held {
    let pixels: Vec<f32> = pixels.iter().map(|&p| p as f32).collect();
    let images = Tensor::f_from_slice(&pixels).unwrap().f_reshape([-1, PIXELS as i64, 1, 1]).unwrap();
    Held::new(images, Targets::hard(labels, CLASSES, Device::Cpu).unwrap()).unwrap()
}

/// W row by row, then b.
fn weights(model: &Model) -> Vec<f64> {
    model.params().iter().flat_map(|param| to_f64s(&param.tensor).unwrap()).collect()
}

const NUMBERS: usize = CLASSES * PIXELS + CLASSES;

fn probabilities(weights: &[f64], x: &[f64]) -> Vec<f64> {
    let logit = |k: usize| (0..PIXELS).map(|j| weights[k * PIXELS + j] * x[j]).sum::<f64>() + weights[CLASSES * PIXELS + k];
    let exponentials: Vec<f64> = (0..CLASSES).map(|k| logit(k).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.iter().map(|e| e / sum).collect()
}

/// The gradient of `-log p(y|x)`: `(p - e_y)` times `(x, 1)`.
fn gradient(weights: &[f64], x: &[f64], y: usize) -> Vec<f64> {
    let p = probabilities(weights, x);
    let error: Vec<f64> = (0..CLASSES).map(|k| p[k] - f64::from(u8::from(k == y))).collect();
    let mut gradient: Vec<f64> = error.iter().flat_map(|e| x.iter().map(move |x| e * x)).collect();
    gradient.extend(error);
    gradient
}

fn mean_gradient(weights: &[f64], (pixels, labels): &(Vec<f64>, Vec<usize>)) -> Vec<f64> {
    let mut mean = vec![0.0; NUMBERS];
    for (x, &y) in pixels.chunks_exact(PIXELS).zip(labels) {
        mean.iter_mut().zip(gradient(weights, x, y)).for_each(|(m, g)| *m += g / labels.len() as f64);
    }
    mean
}

/// Full batches, so that the order of the images does not matter.
fn training(epochs: usize) -> TrainSettings {
    TrainSettings {
        epochs,
        batch_size: 100,
        learning_rate: 0.05,
        momentum: 0.9,
        weight_decay: 0.01,
        schedule: Schedule::Constant {},
        seed: 5,
        ..TrainSettings::default()
    }
}

/// The change that a method makes, compared with an expected one.
fn changes(name: &str, settings: &UnlearnSettings, expected: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    set_threads(1);
    let model = linear();
    let before = weights(&model);
    let (retain, forget) = (held(&data("retain", 20)), held(&data("forget", 7)));
    let sets = Sets { retain: Some(&retain), forget: Some(&forget) };
    method(name).unwrap().run(&model, &sets, settings, &mut Control::default()).unwrap();
    let after = weights(&model);
    let expected = expected(&before);
    let largest = expected.iter().fold(0.0_f64, |m, e| m.max(e.abs()));
    assert!(largest > 1e-3, "{name} changes nothing");
    for (index, (before, (after, expected))) in before.iter().zip(after.iter().zip(&expected)).enumerate() {
        let change = after - before;
        assert!((change - expected).abs() <= TOLERANCE * largest, "{name}: weight {index} changed by {change}, not {expected}");
    }
    after
}

/// SGD with momentum and weight decay on full batches; `adjust` changes weights and gradient before each step.
fn descend(
    start: &[f64],
    data: &(Vec<f64>, Vec<usize>),
    epochs: usize,
    sign: f64,
    adjust: impl Fn(usize, &[f64], &mut [f64]),
) -> Vec<f64> {
    let (mut weights, mut velocity) = (start.to_vec(), vec![0.0; NUMBERS]);
    for epoch in 0..epochs {
        let mut gradient: Vec<f64> = mean_gradient(&weights, data).into_iter().map(|g| sign * g).collect();
        adjust(epoch, &weights, &mut gradient);
        for index in 0..NUMBERS {
            velocity[index] = 0.9 * velocity[index] + gradient[index] + 0.01 * weights[index];
            weights[index] -= 0.05 * velocity[index];
        }
    }
    weights
}

fn less(a: Vec<f64>, b: &[f64]) -> Vec<f64> {
    a.into_iter().zip(b).map(|(a, b)| a - b).collect()
}

#[test]
fn fine_tuning_descends_on_the_retain_set() {
    let settings = UnlearnSettings { train: training(4), ..UnlearnSettings::default() };
    changes("FT", &settings, |w| less(descend(w, &data("retain", 20), 4, 1.0, |_, _, _| ()), w));
}

#[test]
fn gradient_ascent_ascends_on_the_forget_set() {
    let settings = UnlearnSettings { train: training(4), ..UnlearnSettings::default() };
    changes("GA", &settings, |w| less(descend(w, &data("forget", 7), 4, -1.0, |_, _, _| ()), w));
}

#[test]
fn pruning_removes_the_smallest_weights_and_trains_the_rest_under_a_falling_penalty() {
    let (epochs, alpha, sparsity) = (5, 0.02, 0.45);
    // 0.45 of the twelve numbers of W; biases are not pruned.
    let removed = 5;
    let pruned = |w: &[f64]| {
        let mut order: Vec<usize> = (0..CLASSES * PIXELS).collect();
        order.sort_by(|&a, &b| w[a].abs().total_cmp(&w[b].abs()));
        order[..removed].to_vec()
    };
    let settings = UnlearnSettings { train: training(epochs), alpha, sparsity, ..UnlearnSettings::default() };
    let after = changes("WP", &settings, |w| {
        let gone = pruned(w);
        let mut start = w.to_vec();
        gone.iter().for_each(|&index| start[index] = 0.0);
        let end = descend(&start, &data("retain", 20), epochs, 1.0, |epoch, weights, gradient| {
            let strength = alpha * (1.0 - epoch as f64 / epochs as f64);
            gradient.iter_mut().zip(weights).for_each(|(g, w)| *g += if *w == 0.0 { 0.0 } else { strength * w.signum() });
            gone.iter().for_each(|&index| gradient[index] = 0.0);
        });
        less(end, w)
    });
    let gone = pruned(&weights(&linear()));
    let zeros: Vec<usize> = (0..NUMBERS).filter(|&index| after[index] == 0.0).collect();
    let mut expected = gone;
    expected.sort_unstable();
    assert_eq!(zeros, expected);
}

/// The diagonal Fisher information of the linear classifier: `sum over y of p_y (p_k - [k = y])^2 x_j^2`, in the mean over the images.
fn fisher(weights: &[f64], (pixels, labels): &(Vec<f64>, Vec<usize>)) -> Vec<f64> {
    let mut diagonal = vec![0.0; NUMBERS];
    for x in pixels.chunks_exact(PIXELS) {
        let p = probabilities(weights, x);
        for y in 0..CLASSES {
            let gradient = gradient(weights, x, y);
            diagonal.iter_mut().zip(gradient).for_each(|(d, g)| *d += p[y] * g * g / labels.len() as f64);
        }
    }
    diagonal
}

#[test]
fn fisher_forgetting_adds_noise_by_the_fourth_root() {
    let (alpha, damping) = (500.0, 1e-3);
    let settings = UnlearnSettings { train: training(1), alpha, damping, ..UnlearnSettings::default() };
    changes("FF", &settings, |w| {
        let fisher = fisher(w, &data("retain", 20));
        let mut noise: Vec<f64> = Vec::new();
        for (param, count) in [(0, CLASSES * PIXELS), (1, CLASSES)] {
            let draws: Vec<f64> = StandardNormal.sample_iter(rng(5, "FF: noise", param)).take(count).collect();
            noise.extend(draws);
        }
        fisher.iter().zip(noise).map(|(f, n)| 1e-4 * alpha * n / (f + damping).sqrt().sqrt()).collect()
    });
}

#[test]
fn influence_unlearning_solves_the_damped_system() {
    for (alpha, damping) in [(30.0, 1.0), (3.0, 0.01)] {
        let settings = UnlearnSettings { train: training(1), alpha, damping, curvature_images: 0, ..UnlearnSettings::default() };
        changes("IU", &settings, |w| {
            let (retain, forget) = (data("retain", 20), data("forget", 7));
            let (n_r, n_f) = (20.0, 7.0);
            let n = n_r + n_f;
            let (g_r, g_f) = (mean_gradient(w, &retain), mean_gradient(w, &forget));
            let v: Vec<f64> = (0..NUMBERS).map(|i| n_f / n * g_f[i] - n_f / n * g_r[i]).collect();
            let mut matrix = vec![vec![0.0; NUMBERS]; NUMBERS];
            for (x, &y) in retain.0.chunks_exact(PIXELS).zip(&retain.1) {
                let g = gradient(w, x, y);
                for i in 0..NUMBERS {
                    for j in 0..NUMBERS {
                        matrix[i][j] += g[i] * g[j] / n_r;
                    }
                }
            }
            (0..NUMBERS).for_each(|i| matrix[i][i] += damping);
            eliminate(matrix, v).into_iter().map(|x| alpha * x).collect()
        });
    }
}

/// Gaussian elimination with pivots.
fn eliminate(mut matrix: Vec<Vec<f64>>, mut right: Vec<f64>) -> Vec<f64> {
    let n = right.len();
    for column in 0..n {
        let pivot = (column..n).max_by(|&a, &b| matrix[a][column].abs().total_cmp(&matrix[b][column].abs())).unwrap();
        matrix.swap(column, pivot);
        right.swap(column, pivot);
        for row in column + 1..n {
            let factor = matrix[row][column] / matrix[column][column];
            for k in column..n {
                matrix[row][k] -= factor * matrix[column][k];
            }
            right[row] -= factor * right[column];
        }
    }
    for row in (0..n).rev() {
        let known: f64 = (row + 1..n).map(|k| matrix[row][k] * right[k]).sum();
        right[row] = (right[row] - known) / matrix[row][row];
    }
    right
}

/// The retain and forget images of the witness, and the network that PyTorch had.
fn small_cnn() -> (Model, Held, Held) {
    let stored = expected("small_cnn.json");
    let images = Tensor::f_from_slice(&spread("images", 8 * 3 * 32 * 32, 2.0)).unwrap().f_view([8, 3, 32, 32]).unwrap();
    let labels: Vec<usize> = stored["labels"].as_array().unwrap().iter().map(|l| l.as_u64().unwrap() as usize).collect();
    let forget = expected("unlearning.json")["forget"].as_u64().unwrap() as usize;
    let part = |from: usize, to: usize| {
        let images = images.f_narrow(0, from as i64, (to - from) as i64).unwrap();
        Held::new(images, Targets::hard(&labels[from..to], 10, Device::Cpu).unwrap()).unwrap()
    };
    (Model::open(&witness("small_cnn.onnx"), Device::Cpu).unwrap(), part(forget, 8), part(0, forget))
}

/// Compares tensors by parameter with what PyTorch computed under a name.
fn as_pytorch(name: &str, model: &Model, tensors: &[Tensor]) {
    let all = expected("unlearning.json");
    let stored = all["results"][name].as_object().unwrap();
    assert_eq!(stored.len(), tensors.len());
    for (param, tensor) in model.params().iter().zip(tensors) {
        compare(name, &param.name, tensor, &stored[&param.name], TOLERANCE);
    }
}

#[test]
fn a_convolutional_networks_fisher_information_is_pytorchs() {
    set_threads(1);
    let (model, retain, _) = small_cnn();
    // Batches that do not divide the number of images.
    for batch_size in [4, 100] {
        let settings = TrainSettings { batch_size, ..training(1) };
        let fisher = Fisher::of(&model, &retain, 0, &settings, &mut Control::default()).unwrap();
        assert_eq!(fisher.one_by_one, 0, "convolutions, normalisations and products have rules");
        as_pytorch("fisher", &model, &fisher.diagonal);
    }
}

#[test]
fn a_convolutional_networks_influence_step_is_pytorchs() {
    set_threads(1);
    for (damping, name) in [(1.0, "influence_damping_1"), (0.01, "influence_damping_0.01")] {
        let (model, retain, forget) = small_cnn();
        let settings = UnlearnSettings {
            train: TrainSettings { batch_size: 4, ..training(1) },
            damping,
            curvature_images: 0,
            ..UnlearnSettings::default()
        };
        let sets = Sets { retain: Some(&retain), forget: Some(&forget) };
        let step = method("IU").unwrap().step(&model, &sets, &settings, &mut Control::default()).unwrap().unwrap();
        as_pytorch(name, &model, &step.change);
    }
}

#[test]
fn a_convolutional_network_trains_as_in_pytorch() {
    set_threads(1);
    let train = TrainSettings { learning_rate: 0.02, weight_decay: 5e-4, ..training(3) };
    let plain = UnlearnSettings { train: train.clone(), ..UnlearnSettings::default() };
    let pruned = UnlearnSettings { train, alpha: 0.01, sparsity: 0.6, ..UnlearnSettings::default() };
    for (name, settings) in [("ft", &plain), ("ga", &plain), ("wp", &pruned)] {
        let (model, retain, forget) = small_cnn();
        let copy = |model: &Model| -> Vec<Tensor> { model.params().iter().map(|p| p.tensor.f_detach_copy().unwrap()).collect() };
        let before = copy(&model);
        let sets = Sets { retain: Some(&retain), forget: Some(&forget) };
        method(name).unwrap().run(&model, &sets, settings, &mut Control::default()).unwrap();
        let change: Vec<Tensor> = copy(&model).iter().zip(&before).map(|(after, before)| after.f_sub(before).unwrap()).collect();
        as_pytorch(name, &model, &change);
        if name == "wp" {
            let filters = model.params().iter().filter(|param| param.tensor.dim() > 2);
            let values: Vec<f32> = filters.flat_map(|param| to_f32s(&param.tensor).unwrap()).collect();
            assert_eq!(values.iter().filter(|v| **v == 0.0).count(), (values.len() as f64 * 0.6) as usize);
        }
    }
}

/// The squares of all examples' gradients of the logits' sum of squares, by parameter.
fn squares(model: &Model, images: &Tensor, alone: bool) -> (Vec<Tensor>, usize) {
    let rules = if alone {
        Box::new(OneByOne::new(Box::new(|images| model.forward(images, Mode::Eval)), model.params()))
    } else {
        model.example_gradients(images).unwrap()
    };
    let mut sums: Vec<Tensor> = model.params().iter().map(|p| p.tensor.f_detach().unwrap().f_zeros_like().unwrap()).collect();
    let functions = |logits: &Tensor, _| Ok(vec![logits.f_square()?.f_sum_dim_intlist(1_i64, false, None::<Kind>)?]);
    rules
        .of(images, &functions, &mut |found| {
            let square = found.gradients.f_square()?.f_sum_dim_intlist(0_i64, false, None::<Kind>)?;
            sums[found.param] = sums[found.param].f_add(&square)?;
            Ok(())
        })
        .unwrap();
    (sums, rules.one_by_one().len())
}

/// Compares the rules for batches with a pass for each example, and gives how many parameters had no rule.
fn rules_agree(name: &str, proto: ModelProto, shape: [i64; 4]) -> usize {
    set_threads(1);
    let model = Model::from_proto(name, proto, Device::Cpu).unwrap();
    let count = shape.iter().product::<i64>() as usize;
    let images = Tensor::f_from_slice(&spread("images", count, 1.0)).unwrap().f_view(shape).unwrap();
    let ((by_rules, left), (alone, _)) = (squares(&model, &images, false), squares(&model, &images, true));
    for (param, (ours, expected)) in model.params().iter().zip(by_rules.iter().zip(&alone)) {
        let (ours, expected) = (to_f64s(ours).unwrap(), to_f64s(expected).unwrap());
        let largest = expected.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
        assert!(largest > 0.0, "{name}: {} gets no gradient", param.name);
        assert!(ours.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= TOLERANCE * largest), "{name}: {}", param.name);
    }
    left
}

#[test]
fn reference_networks_are_looked_at_in_batches() {
    let shape = InputShape { channels: 3, height: 32, width: 32 };
    for backbone in [Backbone::Resnet8, Backbone::Vgg16] {
        let left = rules_agree(&backbone.to_string(), nets::classifier(backbone, shape, 5, 3).unwrap(), [3, 3, 32, 32]);
        assert_eq!(left, 0, "{backbone}");
    }
}

#[test]
fn operators_with_and_without_rules_agree_with_single_passes() {
    let weight = |name: &str, shape: &[i64]| common::weight(name, shape, Kind::Float);
    // Arithmetic with constants, a weight that is turned first, one that enters twice, and a normalisation without a rule.
    let proto = classifier(
        vec![
            // First, where it takes away nothing that a parameter adds.
            node("InstanceNormalization", &["images", "scale", "bias"], "e", &[]),
            node("Conv", &["e", "filter", "shift"], "a", &[("group", 2)]),
            node("Mul", &["a", "layer_scale"], "b", &[]),
            node("Add", &["b", "layer_shift"], "c", &[]),
            node("PRelu", &["c", "slope"], "d", &[]),
            node("Add", &["d", "layer_shift"], "f", &[]),
            node("Flatten", &["f"], "g", &[("axis", 1)]),
            node("Transpose", &["turned"], "matrix", &[]),
            node("MatMul", &["g", "matrix"], "h", &[]),
            node("Add", &["h", "h_bias"], "i", &[]),
            node("Gemm", &["i", "last", "last_bias"], "logits", &[]),
        ],
        vec![
            weight("filter", &[4, 1, 1, 1]),
            weight("shift", &[4]),
            weight("layer_scale", &[4, 1, 1]),
            weight("layer_shift", &[1, 4, 1, 1]),
            weight("slope", &[4, 1, 1]),
            weight("scale", &[2]),
            weight("bias", &[2]),
            weight("turned", &[6, 64]),
            weight("h_bias", &[6]),
            weight("last", &[6, 3]),
            weight("last_bias", &[1, 3]),
        ],
        &[2, 4, 4],
        3,
    );
    // The turned matrix, and scale and bias of the normalisation.
    assert_eq!(rules_agree("mixed", proto, [5, 2, 4, 4]), 3);
}

#[test]
fn a_rule_that_takes_another_axis_for_the_examples_is_found_out() {
    let weight = |name: &str, shape: &[i64]| common::weight(name, shape, Kind::Float);
    // Three rows and three images: shapes cannot tell. The product runs over [rows, images, pixels].
    let perm = |output: &str, input: &str| with_list(node("Transpose", &[input], output, &[]), "perm", &[1, 0, 2]);
    let shape = with_list(node("Squeeze", &["images"], "rows", &[]), "axes", &[1]);
    let flat = with_list(node("ReduceMean", &["back"], "logits", &[("keepdims", 0)]), "axes", &[1]);
    let proto = classifier(
        vec![shape, perm("turned", "rows"), node("MatMul", &["turned", "matrix"], "product", &[]), perm("back", "product"), flat],
        vec![weight("matrix", &[4, 5])],
        &[1, 3, 4],
        5,
    );
    assert_eq!(rules_agree("turned", proto, [3, 1, 3, 4]), 1);
}

#[test]
fn fresh_weights_owe_nothing_to_the_trained_ones() {
    set_threads(1);
    let (model, ..) = small_cnn();
    let (other, ..) = small_cnn();
    // Whatever the weights were.
    for param in other.params() {
        let _guard = cmira::tensor::no_grad();
        let _ = param.tensor.shallow_clone().f_mul_scalar_(-3.0).unwrap();
    }
    model.reinitialise(7).unwrap();
    other.reinitialise(7).unwrap();
    for ((name, ours), (_, theirs)) in model.state().unwrap().0.iter().zip(&other.state().unwrap().0) {
        assert_eq!(to_f32s(ours).unwrap(), to_f32s(theirs).unwrap(), "{name}");
        let all = |value: f32| to_f32s(ours).unwrap().iter().all(|v| *v == value);
        match name.as_str() {
            "bn1.weight" | "bn2.weight" | "bn1.running_var" => assert!(all(1.0), "{name}"),
            "bn1.bias" | "conv3.bias" | "fc.bias" | "bn2.running_mean" => assert!(all(0.0), "{name}"),
            "conv1.weight" => {
                let values = to_f64s(ours).unwrap();
                let deviation = (values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64).sqrt();
                // 216 draws of deviation sqrt(2 / 27).
                assert!((deviation / (2.0_f64 / 27.0).sqrt() - 1.0).abs() < 0.15, "{deviation}");
            }
            _ => {}
        }
    }
    let third = small_cnn().0;
    third.reinitialise(8).unwrap();
    let values = |model: &Model| to_f32s(&model.params()[0].tensor).unwrap();
    assert_ne!(values(&model), values(&third));
}

#[test]
fn the_linear_classifier_is_what_the_closed_forms_are_for() {
    let model = linear();
    assert_eq!(model.classes(), CLASSES);
    let (pixels, _) = data("retain", 2);
    let images = Tensor::f_from_slice(&pixels.iter().map(|p| *p as f32).collect::<Vec<_>>()).unwrap();
    let logits = model.forward(&images.f_reshape([2, PIXELS as i64, 1, 1]).unwrap(), Mode::Eval).unwrap();
    let ours = to_f64s(&logits.f_softmax(1, Kind::Double).unwrap()).unwrap();
    let expected = probabilities(&weights(&model), &pixels[..PIXELS]);
    assert!(ours.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6));
}
