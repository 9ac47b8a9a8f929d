//! Published data sets, small ones in their official formats and broken ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::io::Write;
use std::path::Path;

use cmira::data::{DataSet, ImageSet, Part};
use cmira::error::{Error, ErrorKind};
use common::{Folder, cmira, text};
use flate2::Compression;
use flate2::write::GzEncoder;
use image::{Rgb, RgbImage};

fn read(set: DataSet, root: &Path, part: Part) -> Result<ImageSet, Error> {
    set.read(root, part, &mut |_| {})
}

/// What is wrong, which has to name the file.
fn refused(set: DataSet, root: &Path, part: Part, file: &str) -> String {
    let error = read(set, root, part).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data, "{error}");
    assert!(error.to_string().contains(file), "{error}");
    error.to_string()
}

fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A record of CIFAR: labels, then 1,024 bytes of each colour, counting from a number.
fn record(labels: &[u8], first: u8) -> Vec<u8> {
    let colour = |offset: u8| (0..1024_u32).map(move |i| first.wrapping_add(offset).wrapping_add((i % 7) as u8));
    labels.iter().copied().chain(colour(0)).chain(colour(50)).chain(colour(100)).collect()
}

fn cifar10(root: &Path) {
    for file in 1..=5_u8 {
        let records = [record(&[file - 1], file), record(&[9], 10 * file)].concat();
        put(&root.join(format!("data_batch_{file}.bin")), &records);
    }
    put(&root.join("test_batch.bin"), &record(&[3], 200));
    let names = "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n";
    put(&root.join("batches.meta.txt"), names.as_bytes());
}

#[test]
fn cifar_10_is_read_from_its_binaries() {
    let folder = Folder::new();
    // As the archive unpacks.
    cifar10(&folder.path("cifar-10-batches-bin"));
    let train = read(DataSet::Cifar10, &folder.path(""), Part::Train).unwrap();
    assert_eq!(train.images.size(), [10, 3, 32, 32]);
    assert_eq!(train.label_list().unwrap(), [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]);
    assert_eq!(train.classes[3], "cat");
    assert_eq!(train.names[1], "data_batch_1.bin/00001");
    // Red, green and blue of the first two pixels of the third image.
    let pixel = |channel: i64, column: i64| train.images.int64_value(&[2, channel, 0, column]);
    assert_eq!([pixel(0, 0), pixel(0, 1), pixel(1, 0), pixel(2, 1)], [2, 3, 52, 103]);
    let test = read(DataSet::Cifar10, &folder.path(""), Part::Test).unwrap();
    assert_eq!((test.len(), test.labels[0]), (1, Some(3)));
}

#[test]
fn cifar_100_has_its_fine_labels() {
    let folder = Folder::new();
    put(&folder.path("train.bin"), &[record(&[19, 99], 1), record(&[0, 4], 2)].concat());
    put(&folder.path("test.bin"), &record(&[5, 17], 3));
    let names: String = (0..100).map(|n| format!("class {n}\n")).collect();
    put(&folder.path("fine_label_names.txt"), names.as_bytes());
    let train = read(DataSet::Cifar100, &folder.path(""), Part::Train).unwrap();
    assert_eq!(train.label_list().unwrap(), [99, 4]);
    assert_eq!(train.classes[99], "class 99");
    assert_eq!(train.images.int64_value(&[0, 0, 0, 0]), 1, "coarse labels are no pixels");
}

#[test]
fn broken_binaries_are_named() {
    let folder = Folder::new();
    let root = folder.path("");
    cifar10(&root);
    put(&folder.path("data_batch_4.bin"), &record(&[1], 0)[..3000]);
    let short = refused(DataSet::Cifar10, &root, Part::Train, "data_batch_4.bin");
    assert!(short.contains("3000 bytes"), "{short}");
    put(&folder.path("data_batch_4.bin"), &[record(&[1], 0), record(&[10], 0)].concat());
    let label = refused(DataSet::Cifar10, &root, Part::Train, "data_batch_4.bin");
    assert!(label.contains("record 1 has the label 10"), "{label}");
    fs::remove_file(folder.path("data_batch_4.bin")).unwrap();
    refused(DataSet::Cifar10, &root, Part::Train, "data_batch_4.bin");
    put(&folder.path("test_batch.bin"), &[]);
    refused(DataSet::Cifar10, &root, Part::Test, "test_batch.bin");
    cifar10(&root);
    put(&folder.path("batches.meta.txt"), b"one\ntwo\n");
    refused(DataSet::Cifar10, &root, Part::Test, "batches.meta.txt");
}

fn idx(sizes: &[u32], content: &[u8]) -> Vec<u8> {
    let sizes_bytes = sizes.iter().flat_map(|size| size.to_be_bytes());
    [0, 0, 8, u8::try_from(sizes.len()).unwrap()].into_iter().chain(sizes_bytes).chain(content.iter().copied()).collect()
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

const IMAGES: &str = "train-images-idx3-ubyte";
const LABELS: &str = "train-labels-idx1-ubyte";

fn fashion(root: &Path, count: u32) {
    let pixels: Vec<u8> = (0..count * 28 * 28).map(|i| (i % 251) as u8).collect();
    put(&root.join(format!("{IMAGES}.gz")), &packed(&idx(&[count, 28, 28], &pixels)));
    let labels: Vec<u8> = (0..count).map(|i| (i % 10) as u8).collect();
    put(&root.join(LABELS), &idx(&[count], &labels));
}

#[test]
fn fashion_mnist_is_read_packed_or_not() {
    let folder = Folder::new();
    let root = folder.path("");
    fashion(&root, 12);
    let set = read(DataSet::Fmnist, &root, Part::Train).unwrap();
    assert_eq!(set.images.size(), [12, 1, 28, 28]);
    assert_eq!(set.label_list().unwrap(), (0..12).map(|i| i % 10).collect::<Vec<i64>>());
    assert_eq!(set.classes[9], "Ankle boot");
    assert_eq!(set.images.int64_value(&[1, 0, 0, 1]), (28 * 28 + 1) % 251);
    refused(DataSet::Fmnist, &root, Part::Test, "t10k-images-idx3-ubyte");
}

#[test]
fn broken_idx_files_are_named() {
    let folder = Folder::new();
    let root = folder.path("");
    let (images, labels) = (format!("{IMAGES}.gz"), LABELS);
    let with = |file: &str, bytes: &[u8]| {
        fashion(&root, 12);
        put(&folder.path(file), bytes);
        refused(DataSet::Fmnist, &root, Part::Train, file)
    };
    let short = with(&images, &packed(&idx(&[12, 28, 28], &[0; 9000])));
    assert!(short.contains("holds 9000 bytes"), "{short}");
    let count = with(labels, &idx(&[11], &[1; 11]));
    assert!(count.contains("11 labels") && count.contains("12 images"), "{count}");
    let label = with(labels, &idx(&[12], &[10; 12]));
    assert!(label.contains("label 10"), "{label}");
    with(labels, &[0, 0, 8]);
    with(labels, &idx(&[12, 1], &[1; 12]));
    // Sizes that no machine has, and ones whose product overflows.
    with(&images, &packed(&idx(&[u32::MAX, u32::MAX, u32::MAX], &[])));
    let whole = packed(&idx(&[12, 28, 28], &[7; 12 * 28 * 28]));
    with(&images, &whole[..whole.len() - 9]);
    with(&images, b"no gzip");
}

fn picture(path: &Path, width: u32, red: u8) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    RgbImage::from_pixel(width, width, Rgb([red, 100, 200])).save_with_format(path, image::ImageFormat::Jpeg).unwrap();
}

fn tiny(root: &Path) {
    put(&root.join("wnids.txt"), b"n02\nn01\n");
    put(&root.join("words.txt"), b"n01\tgoldfish, Carassius auratus\nn02\tsalamander, Salamandra\nn03\tother\n");
    for (number, red) in [("n01", 10), ("n02", 200)] {
        for image in 0..3_u8 {
            picture(&root.join(format!("train/{number}/images/{number}_{image}.JPEG")), 64, red + image);
        }
        put(&root.join(format!("train/{number}/{number}_boxes.txt")), b"n01_0.JPEG\t0\t0\t62\t62\n");
    }
    picture(&root.join("val/images/val_0.JPEG"), 64, 200);
    picture(&root.join("val/images/val_1.JPEG"), 64, 10);
    put(&root.join("val/val_annotations.txt"), b"val_0.JPEG\tn02\t0\t32\t44\t62\nval_1.JPEG\tn01\t52\t55\t57\t59\n");
}

#[test]
fn tiny_imagenet_is_read_with_its_annotations() {
    let folder = Folder::new();
    tiny(&folder.path("tiny-imagenet-200"));
    let train = read(DataSet::TinyImagenet, &folder.path(""), Part::Train).unwrap();
    assert_eq!(train.images.size(), [6, 3, 64, 64]);
    assert_eq!(train.label_list().unwrap(), [0, 0, 0, 1, 1, 1]);
    assert_eq!(train.classes, ["goldfish", "salamander"]);
    let val = read(DataSet::TinyImagenet, &folder.path(""), Part::Test).unwrap();
    assert_eq!(val.label_list().unwrap(), [1, 0]);
    assert!((val.images.int64_value(&[0, 0, 5, 5]) - 200).abs() < 4);
}

#[test]
fn broken_tiny_imagenet_files_are_named() {
    let folder = Folder::new();
    let root = folder.path("");
    let with = |file: &str, bytes: &[u8], part: Part, named: &str| {
        tiny(&root);
        put(&folder.path(file), bytes);
        refused(DataSet::TinyImagenet, &root, part, named)
    };
    let whole = fs::read({
        tiny(&root);
        folder.path("train/n01/images/n01_1.JPEG")
    })
    .unwrap();
    with("train/n01/images/n01_1.JPEG", &whole[..200], Part::Train, "n01_1.JPEG");
    with("train/n01/images/n01_1.JPEG", b"<html>not found</html>", Part::Train, "n01_1.JPEG");
    let line = with("val/val_annotations.txt", b"val_0.JPEG\tn99\t0\n", Part::Test, "val_annotations.txt");
    assert!(line.contains("line 1"), "{line}");
    with("val/val_annotations.txt", b"../../secret\tn01\n", Part::Test, "val_annotations.txt");
    with("val/val_annotations.txt", b"gone.JPEG\tn01\nval_0.JPEG\tn02\nval_1.JPEG\tn01\n", Part::Test, "gone.JPEG");
    with("words.txt", b"n01\tgoldfish\n", Part::Train, "words.txt");
    with("wnids.txt", &[0xff, 0xfe], Part::Train, "wnids.txt");
}

#[test]
fn the_command_line_ends_with_6_and_names_the_file() {
    let folder = Folder::new();
    fashion(&folder.path(""), 12);
    let root = folder.path("");
    let run = |part: &str| cmira(&["data", "check", text(&root), "--format", "fmnist", "--part", part]);
    let (code, out, _) = run("train");
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("12 of 28x28, 1 channels") && out.contains("Ankle boot"), "{out}");
    put(&folder.path(LABELS), &idx(&[11], &[1; 11]));
    let (code, _, errors) = run("train");
    assert_eq!(code, 6);
    assert!(errors.contains(LABELS), "{errors}");
    let (code, _, errors) = run("test");
    assert_eq!(code, 6);
    assert!(errors.contains("t10k-images"), "{errors}");
}
