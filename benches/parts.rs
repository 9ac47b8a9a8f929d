//! How long the parts of an audit take: `cargo bench`, or `cargo bench -- step` for one of them.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;

use cmira::attack::mixup::{Mixture, one_hot};
use cmira::attack::sets::{Predictions, Selection, Sets};
use cmira::attack::spectral::SpectralNorm;
use cmira::data::{Adapter, Augment, Batches, ImageSet};
use cmira::graph::{ImportOptions, Mode, Model, Parametrization, Precision, lower};
use cmira::metrics::{paired, polygon};
use cmira::nets::{self, Backbone, InputShape};
use cmira::onnx::{self, Limits};
use cmira::report::csv;
use cmira::tensor::{Device, Kind, Tensor, no_grad, rng};
use cmira::train::optim::Sgd;
use cmira::train::{Samples, loss};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use rand::{Rng, RngCore};

const SIDE: usize = 32;
const CLASSES: usize = 10;
const BATCH: i64 = 64;

fn model(backbone: Backbone) -> Model {
    let proto = nets::classifier(backbone, InputShape { channels: 3, height: SIDE, width: SIDE }, CLASSES, 0).unwrap();
    Model::from_proto("model", proto, Device::Cpu).unwrap()
}

fn images(count: usize) -> Batches {
    let mut bytes = vec![0; count * 3 * SIDE * SIDE];
    rng(0, "images", 0).fill_bytes(&mut bytes);
    let shape = [count, 3, SIDE, SIDE].map(|side| i64::try_from(side).unwrap());
    let tensor = Tensor::f_from_data_size(&bytes, &shape, Kind::Uint8).unwrap();
    let names = (0..count).map(|index| index.to_string()).collect();
    let set = ImageSet::new(tensor, vec![None; count], names, Vec::new(), Vec::new()).unwrap();
    Batches::new(&set, &Adapter::default(), Device::Cpu).unwrap()
}

fn importing(c: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resnet18.onnx");
    model(Backbone::Resnet18).save(&path, &[]).unwrap();
    let read = |path: &Path| onnx::read(path, &Limits::default()).unwrap();
    c.bench_function("import: read a file", |b| b.iter(|| read(&path)));
    c.bench_function("import: lower", |b| b.iter_batched(|| read(&path), |file| lower(file).unwrap(), BatchSize::PerIteration));
    c.bench_function("import: compile the plan", |b| {
        let lowered = || lower(read(&path)).unwrap();
        let compile = |lowered| Model::import_lowered(lowered, &ImportOptions::default(), Device::Cpu).unwrap();
        b.iter_batched(lowered, compile, BatchSize::PerIteration);
    });
}

fn steps(c: &mut Criterion) {
    let batch = images(64).range(0, BATCH).unwrap();
    let labels = Tensor::f_from_slice(&(0..BATCH).map(|index| index % 10).collect::<Vec<i64>>()).unwrap();
    let mut group = c.benchmark_group("step");
    group.sample_size(10);
    for backbone in [Backbone::Resnet8, Backbone::Resnet18] {
        for precision in [Precision::Fp32, Precision::Bf16] {
            let model = model(backbone).computing_in(precision).unwrap();
            let mut sgd = Sgd::new(model.params(), 0.9, 5e-4, false).unwrap();
            group.bench_function(format!("{backbone}, {precision}"), |b| {
                b.iter(|| {
                    let targets = cmira::train::Targets::Hard(labels.shallow_clone());
                    let loss = loss::cross_entropy(&model.forward(&batch, Mode::Train).unwrap(), &targets).unwrap();
                    let gradients = sgd.gradients(&loss).unwrap();
                    sgd.step(gradients, 1e-3).unwrap();
                });
            });
            let evaluator = model.evaluator(precision).unwrap();
            group
                .bench_function(format!("{backbone}, {precision}, evaluation"), |b| b.iter(|| evaluator.logits(&batch).unwrap()));
        }
    }
    group.finish();
}

fn attack(c: &mut Criterion) {
    let images = images(1000);
    let labels: Vec<i64> = (0..1000).map(|index| index % 10).collect();
    let rows: Vec<i64> = (0..1000).collect();
    let indices = Tensor::f_arange(BATCH, (Kind::Int64, Device::Cpu)).unwrap();
    for (name, augment) in [("mixup", Augment::NONE), ("mixup, cropped and mirrored", Augment::default())] {
        let samples = Mixture::new(&images, &rows, one_hot(&labels, CLASSES).unwrap(), 0.75, augment).unwrap();
        let mut chance = rng(0, "mixup", 0);
        c.bench_function(name, |b| b.iter(|| samples.batch(&indices, &mut chance).unwrap()));
    }
    let mut chance = rng(0, "predictions", 0);
    let mut predictions = || Predictions {
        classes: (0..5000).map(|_| chance.random_range(0..10)).collect(),
        confidences: (0..5000).map(|_| chance.random_range(0.1..1.0)).collect(),
    };
    let (a, u) = (predictions(), predictions());
    let selection = Selection { confidence_threshold: 0.5, share: 0.2 };
    c.bench_function("sets of 5000 images", |b| b.iter(|| Sets::of(&u, &a, selection).unwrap()));
    let model = model(Backbone::Resnet18);
    let mut norm = SpectralNorm::new(model.params());
    let _guard = no_grad();
    c.bench_function("spectral norm, a round of training", |b| b.iter(|| norm.apply(model.params(), Mode::Train).unwrap()));
}

fn reporting(c: &mut Criterion) {
    let mut chance = rng(0, "right", 0);
    let mut right = |share: f64| (0..5000).map(|_| chance.random_bool(share)).collect::<Vec<bool>>();
    let (first, second) = (right(0.5), right(0.6));
    c.bench_function("paired comparison of 5000 images", |b| b.iter(|| paired::compare(&first, &second)));
    let radii: Vec<f64> = (0..100).map(|index| f64::from(index) * 0.9).collect();
    c.bench_function("polygons of 100 classes", |b| b.iter(|| polygon::area_recovery(&radii, &radii)));
    let folder = tempfile::tempdir().unwrap();
    let rows: Vec<Vec<String>> = (0..5000).map(|row| (0..8).map(|column| format!("{row}.{column}")).collect()).collect();
    let header = ["a", "b", "c", "d", "e", "f", "g", "h"];
    c.bench_function("csv of 5000 rows", |b| b.iter(|| csv::write(&folder.path().join("table.csv"), &header, &rows).unwrap()));
}

criterion_group!(parts, importing, steps, attack, reporting);
criterion_main!(parts);
