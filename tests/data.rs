//! Folders of images, good and bad, through the public interface.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;

use cmira::data::{Adapter, Batches, FolderOptions, ImageSet, OnProblem, Progress, Splits, draw, read_folder, splits};
use cmira::error::{Error, ErrorKind};
use cmira::tensor::{Device, Tensor};
use image::{Rgb, RgbImage};
use tempfile::TempDir;

/// A folder with files; names that end in an image's extension get a plain picture whose red value is the file's number.
fn folder(names: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (number, name) in (0u8..).zip(names) {
        picture(&folder.path().join(name), 4, 3, number);
    }
    folder
}

fn picture(path: &Path, width: u32, height: u32, red: u8) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    RgbImage::from_pixel(width, height, Rgb([red, 100, 200])).save(path).unwrap();
}

fn read(root: &Path) -> Result<ImageSet, Error> {
    read_folder(root, &FolderOptions::default(), &mut |_| {})
}

fn with(root: &Path, change: impl FnOnce(&mut FolderOptions)) -> Result<ImageSet, Error> {
    let mut options = FolderOptions::default();
    change(&mut options);
    read_folder(root, &options, &mut |_| {})
}

fn classes(names: &[&str]) -> Option<Vec<String>> {
    Some(names.iter().map(|name| name.to_string()).collect())
}

/// The one problem, as `relative path: reason`.
fn problem(set: &ImageSet, root: &Path) -> String {
    assert_eq!(set.problems.len(), 1, "{:?}", set.problems);
    let problem = &set.problems[0];
    format!("{}: {}", problem.path.strip_prefix(root).unwrap().display(), problem.reason)
}

fn red(set: &ImageSet) -> Vec<i64> {
    (0..i64::try_from(set.len()).unwrap()).map(|index| set.images.int64_value(&[index, 0, 0, 0])).collect()
}

#[test]
fn class_folders_are_read_in_the_order_of_names() {
    let folder = folder(&["dog/b.png", "cat/10.bmp", "cat/9.PNG", "dog/a.ppm", "ant/x.gif", "ant/y.webp", "ant/z.tif"]);
    let set = read(folder.path()).unwrap();
    assert_eq!(set.names, ["ant/x.gif", "ant/y.webp", "ant/z.tif", "cat/10.bmp", "cat/9.PNG", "dog/a.ppm", "dog/b.png"]);
    assert_eq!(red(&set), [4, 5, 6, 1, 2, 3, 0]);
    assert_eq!(set.classes, ["ant", "cat", "dog"]);
    assert_eq!(set.labels, [0, 0, 0, 1, 1, 2, 2].map(Some));
    assert_eq!((set.channels(), set.height(), set.width()), (3, 3, 4));
    assert!(set.problems.is_empty() && set.ignored == 0);
    let again = read(folder.path()).unwrap();
    assert_eq!(again.sha256, set.sha256);
}

#[test]
fn given_classes_give_the_order_and_strangers_are_reported() {
    let folder = folder(&["a/0.png", "b/0.png", "b/1.png", "strange/0.png"]);
    let set = with(folder.path(), |options| options.classes = classes(&["b", "absent", "a"])).unwrap();
    assert_eq!(set.labels, [Some(2), Some(0), Some(0)]);
    assert_eq!(problem(&set, folder.path()), "strange/0.png: its folder 'strange' is not one of the 3 classes");
    let error = with(folder.path(), |options| options.classes = classes(&["a", "a"])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
}

#[test]
fn misplaced_images_and_empty_classes_are_reported() {
    let folder = folder(&["a/0.png", "a/1.png", "stray.png"]);
    assert_eq!(problem(&read(folder.path()).unwrap(), folder.path()), "stray.png: lies beside the class folders, not in one");
    fs::remove_file(folder.path().join("stray.png")).unwrap();
    picture(&folder.path().join("a/deep/0.png"), 4, 3, 0);
    assert_eq!(problem(&read(folder.path()).unwrap(), folder.path()), "a/deep/0.png: lies deeper than <class>/<image>");
    fs::remove_dir_all(folder.path().join("a/deep")).unwrap();
    fs::create_dir(folder.path().join("nothing")).unwrap();
    let set = read(folder.path()).unwrap();
    assert_eq!(set.classes, ["a", "nothing"]);
    assert_eq!(problem(&set, folder.path()), "nothing: this class folder holds no image");
}

#[test]
fn a_root_of_splits_is_not_taken_for_classes() {
    let folder = folder(&["train/a/0.png", "test/a/0.png"]);
    let error = read(folder.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().contains("deeper than <class>/<image>"), "{error}");
    assert_eq!(read(&folder.path().join("train")).unwrap().classes, ["a"]);
}

#[test]
fn every_unusable_file_is_reported_by_path() {
    let folder = folder(&["a/0.png", "a/1.png", "a/2.png", "a/3.png", "a/4.png", "a/5.png", "a/6.png", "a/7.png"]);
    let root = folder.path();
    let whole = fs::read(root.join("a/0.png")).unwrap();
    fs::write(root.join("a/corrupt.png"), &whole[..whole.len() / 2]).unwrap();
    fs::write(root.join("a/empty.jpg"), "").unwrap();
    fs::write(root.join("a/heavy.png"), vec![1; 3000]).unwrap();
    fs::write(root.join("a/notes.txt"), "x").unwrap();
    picture(&root.join("a/large.png"), 40, 30, 0);
    picture(&root.join("a/wide.png"), 8, 3, 0);
    fs::write(root.join("a/.DS_Store"), "x").unwrap();
    fs::write(root.join("a/Thumbs.db"), "x").unwrap();
    let set = with(root, |options| (options.max_pixels, options.max_file_bytes) = (1000, 2000)).unwrap();
    assert_eq!((set.len(), set.ignored), (8, 2));
    let reported: Vec<(String, &str)> = set
        .problems
        .iter()
        .map(|problem| (problem.path.file_name().unwrap().to_string_lossy().into_owned(), problem.reason.as_str()))
        .collect();
    let reason = |name: &str| reported.iter().find(|(file, _)| file == name).unwrap_or_else(|| panic!("{name}: {reported:?}")).1;
    assert_eq!(reported.len(), 6);
    assert!(!reason("corrupt.png").is_empty());
    assert_eq!(reason("empty.jpg"), "is empty");
    assert_eq!(reason("heavy.png"), "is larger than 2000 bytes");
    assert!(reason("notes.txt").contains("extension"));
    assert_eq!(reason("large.png"), "is 40x30 pixels, more than 1000 in all");
    assert_eq!(reason("wide.png"), "is 8x3 pixels, not 4x3");
    let error = with(root, |options| options.on_problem = OnProblem::Fail).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().contains("problems: a/notes.txt"), "{error}");
}

#[cfg(unix)]
#[test]
fn links_and_special_files_are_reported_and_not_followed() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = folder(&["a/0.png", "a/1.png", "a/2.png"]);
    let root = folder.path();
    symlink(root.join("a/0.png"), root.join("a/link.png")).unwrap();
    assert_eq!(problem(&read(root).unwrap(), root), "a/link.png: is a symbolic link, which is not followed");
    fs::remove_file(root.join("a/link.png")).unwrap();
    symlink(root, root.join("a/loop")).unwrap();
    assert_eq!(problem(&read(root).unwrap(), root), "a/loop: is a symbolic link, which is not followed");
    fs::remove_file(root.join("a/loop")).unwrap();
    let locked = root.join("a/2.png");
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
    // Whoever may read everything (root) sees no problem here.
    if fs::read(&locked).is_err() {
        let cache = tempfile::tempdir().unwrap();
        let cached = || with(root, |options| options.cache = Some(cache.path().into())).unwrap();
        assert!(problem(&cached(), root).starts_with("a/2.png: "));
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(cached().len(), 3);
    }
}

#[test]
fn the_commonest_decodable_size_wins() {
    let folder = folder(&["a/0.png", "a/1.png", "a/2.png"]);
    let root = folder.path();
    for name in ["5", "6"] {
        picture(&root.join(format!("a/{name}.png")), 5, 5, 0);
    }
    let set = read(root).unwrap();
    assert_eq!((set.len(), set.height(), set.width(), set.problems.len()), (3, 3, 4, 2));
    // A size counts only where images decode: two of these are now corrupt behind an intact header.
    for name in ["1", "2"] {
        let path = root.join(format!("a/{name}.png"));
        let whole = fs::read(&path).unwrap();
        fs::write(path, &whole[..whole.len() - 20]).unwrap();
    }
    let set = with(root, |options| options.resize = true).unwrap();
    assert_eq!((set.len(), set.height(), set.width(), set.problems.len()), (3, 5, 5, 2));
    let set = with(root, |options| (options.size, options.resize) = (Some((3, 4)), true)).unwrap();
    assert_eq!((set.len(), set.height(), set.width(), set.problems.len()), (3, 3, 4, 2));
    assert_eq!(red(&set), [0, 0, 0]);
    assert_eq!(with(root, |options| options.size = Some((9, 9))).unwrap_err().kind(), ErrorKind::Data);
}

#[test]
fn grey_and_colour_are_converted() {
    let folder = folder(&["a/0.png"]);
    image::GrayImage::from_pixel(4, 3, image::Luma([77])).save(folder.path().join("a/1.png")).unwrap();
    let colour = read(folder.path()).unwrap();
    assert_eq!(colour.images.size(), [2, 3, 3, 4]);
    assert_eq!((0..3).map(|channel| colour.images.int64_value(&[1, channel, 2, 3])).collect::<Vec<_>>(), [77; 3]);
    let grey = with(folder.path(), |options| options.channels = 1).unwrap();
    assert_eq!(grey.images.size(), [2, 1, 3, 4]);
    // What Pillow's convert("L") makes of (0, 100, 200).
    assert_eq!(grey.images.int64_value(&[0, 0, 0, 0]), 82);
    assert_eq!(grey.images.int64_value(&[1, 0, 0, 0]), 77);
    assert_eq!(with(folder.path(), |options| options.channels = 2).unwrap_err().kind(), ErrorKind::Usage);
}

#[test]
fn nothing_usable_is_an_error_that_says_why() {
    let empty = tempfile::tempdir().unwrap();
    for (root, words) in [(empty.path().to_path_buf(), "holds no image"), (empty.path().join("missing"), "missing")] {
        let error = read(&root).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        assert!(error.to_string().contains(words), "{error}");
    }
    fs::write(empty.path().join("file"), "x").unwrap();
    assert!(read(&empty.path().join("file")).unwrap_err().to_string().contains("is not a folder"));
    let mostly_bad = folder(&["a/0.png", "a/1.png"]);
    for name in ["2", "3", "4"] {
        fs::write(mostly_bad.path().join(format!("a/{name}.png")), "").unwrap();
    }
    let error = read(mostly_bad.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().contains("3 of 5 images cannot be used: a/2.png: is empty; a/3.png"), "{error}");
    fs::remove_file(mostly_bad.path().join("a/4.png")).unwrap();
    assert_eq!(read(mostly_bad.path()).unwrap().len(), 2);
    let error = with(mostly_bad.path(), |options| options.max_set_bytes = 100).unwrap_err();
    assert!(error.to_string().contains("more than 100 bytes"), "{error}");
}

#[test]
fn a_flat_folder_has_no_labels() {
    let folder = folder(&["b.png", "a.png"]);
    let set = with(folder.path(), |options| options.classes = classes(&["x", "y"])).unwrap();
    assert_eq!(set.names, ["a.png", "b.png"]);
    assert_eq!(set.labels, [None, None]);
    assert_eq!(set.classes, ["x", "y"]);
    let error = set.label_tensor().unwrap_err();
    assert!(error.to_string().starts_with("a.png: "), "{error}");
}

#[test]
fn labels_come_from_a_table_by_name_or_number() {
    let folder = folder(&["0.png", "1.png", "2.png", "sub/3.png"]);
    let table = folder.path().join("labels.csv");
    fs::write(&table, "\u{feff}file,label\n0.png,dog\n./1.png, cat\n2.png,\nsub\\3.png,dog\n").unwrap();
    let set = read(folder.path()).unwrap();
    assert_eq!(set.classes, ["cat", "dog"]);
    assert_eq!(set.labels, [Some(1), Some(0), None, Some(1)]);
    assert!(set.problems.is_empty(), "{:?}", set.problems);
    fs::write(&table, "label,file\n2,0.png\ndog,1.png\n0,2.png\n1,sub/3.png\n").unwrap();
    let set = with(folder.path(), |options| options.classes = classes(&["ant", "cat", "dog"])).unwrap();
    assert_eq!(set.labels, [2, 2, 0, 1].map(Some));
    fs::write(&table, "file,label\n0.png,11\n1.png,2\n2.png,2\nsub/3.png,0\n").unwrap();
    let set = read(folder.path()).unwrap();
    assert_eq!((set.classes.len(), set.classes[11].as_str()), (12, "11"));
    assert_eq!(set.labels, [11, 2, 2, 0].map(Some));
}

#[test]
fn every_bad_line_of_a_table_is_reported() {
    let folder = folder(&["0.png", "1.png", "2.png", "3.png", "4.png", "5.png", "6.png", "7.png", "8.png"]);
    let root = folder.path();
    let text = "file,label\n0.png,a\n1.png,b\n2.png,a\n3.png,b\n4.png,a\n5.png,a\ngone.png,a\n6.png,what\n0.png,a\n7.png,a\n7.png,b\n\
                only\n../../etc/passwd,a\n";
    fs::write(root.join("labels.csv"), [text.as_bytes(), b"\xff.png,a\n"].concat()).unwrap();
    let set = with(root, |options| options.classes = classes(&["a", "b"])).unwrap();
    assert_eq!(set.names, ["0.png", "1.png", "2.png", "3.png", "4.png", "5.png"]);
    let texts: Vec<String> = set
        .problems
        .iter()
        .map(|problem| format!("{}: {}", problem.path.strip_prefix(root).unwrap().display(), problem.reason))
        .collect();
    let expected = [
        "labels.csv: line 13: has no file or no label",
        "labels.csv: line 15: is not UTF-8 text",
        "labels.csv: line 10 repeats line 2 ('0.png')",
        "6.png: its label 'what' (labels.csv line 9) is not one of the 2 classes",
        "7.png: labels.csv gives it two labels: 'a' (line 11), 'b' (line 12)",
        "8.png: has no line in labels.csv",
        "gone.png: is named in labels.csv (line 8), but is not there",
        "../../etc/passwd: is named in labels.csv (line 14), but is not there",
    ];
    assert_eq!(texts, expected);
    for header in ["", "name,label\n0.png,a\n", "0.png,a\n"] {
        fs::write(root.join("labels.csv"), header).unwrap();
        let error = read(root).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        assert!(error.to_string().contains("labels.csv: line 1: has no column 'file'"), "{error}");
    }
}

#[test]
fn a_cache_is_used_until_something_changes() {
    let folder = folder(&["a/0.png", "a/1.png", "b/2.png"]);
    fs::write(folder.path().join("a/notes.txt"), "x").unwrap();
    let cache = tempfile::tempdir().unwrap();
    let read = |change: &dyn Fn(&mut FolderOptions)| {
        let mut options = FolderOptions { cache: Some(cache.path().join("sets")), ..FolderOptions::default() };
        change(&mut options);
        let mut decoded = false;
        let set = read_folder(folder.path(), &options, &mut |progress| decoded |= progress.what == "decoding images");
        (set, decoded)
    };
    let caches = || fs::read_dir(cache.path().join("sets")).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let (first, decoded) = read(&|_| {});
    let first = first.unwrap();
    assert!(decoded && caches().len() == 1);
    let (again, decoded) = read(&|_| {});
    let again = again.unwrap();
    assert!(!decoded, "the cache was not used");
    assert_eq!((again.sha256, again.names, again.labels), (first.sha256.clone(), first.names.clone(), first.labels.clone()));
    assert_eq!((again.problems, again.classes), (first.problems.clone(), first.classes.clone()));
    assert_eq!(again.images, first.images);
    // A set with problems is not let through by having been cached.
    assert_eq!(read(&|options| options.on_problem = OnProblem::Fail).0.unwrap_err().kind(), ErrorKind::Data);

    // Other options have a cache of their own; so one does not throw the other out.
    assert!(read(&|options| options.channels = 1).1);
    assert!(!read(&|_| {}).1 && !read(&|options| options.channels = 1).1);
    assert_eq!(caches().len(), 2);

    // A changed file and a new one make it stale.
    picture(&folder.path().join("a/0.png"), 4, 3, 99);
    let (changed, decoded) = read(&|_| {});
    assert!(decoded && red(&changed.unwrap())[0] == 99);
    picture(&folder.path().join("b/3.png"), 4, 3, 3);
    let (grown, decoded) = read(&|_| {});
    assert!(decoded && grown.unwrap().len() == 4);
    assert_eq!(caches().len(), 2);

    // Damage anywhere is noticed, and repaired without a word.
    for path in caches() {
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    }
    let (repaired, decoded) = read(&|_| {});
    assert!(decoded && repaired.unwrap().len() == 4);
    assert!(!read(&|_| {}).1);

    // A cache that cannot be written is done without.
    fs::write(cache.path().join("blocked"), "a file, not a folder").unwrap();
    let blocked = cache.path().join("blocked");
    assert!(read(&|options| options.cache = Some(blocked.clone())).0.is_ok());
}

#[test]
fn progress_goes_up_to_the_total() {
    let folder = folder(&["a/0.png", "a/1.png"]);
    let mut events: Vec<Progress> = Vec::new();
    read_folder(folder.path(), &FolderOptions::default(), &mut |progress| events.push(progress)).unwrap();
    assert!(events.iter().all(|event| event.done <= event.total));
    assert_eq!(events.last().unwrap(), &Progress { done: 2, total: 2, what: "decoding images" });
}

#[test]
fn drawn_images_become_batches() {
    let root = tempfile::tempdir().unwrap();
    let options = draw::DrawOptions { train_per_class: 4, test_per_class: 1, ..draw::DrawOptions::default() };
    let summary = draw::draw(root.path(), &options, &mut |_| {}).unwrap();
    let set = read_folder(&root.path().join("train"), &FolderOptions::default(), &mut |_| {}).unwrap();
    assert_eq!((set.classes.clone(), set.len()), (summary.classes, summary.train));
    assert_eq!(set.class_counts(), [4; 10]);
    let splits = splits::forget_half(&set.label_list().unwrap(), &[0, 3], 0.5, 1).unwrap();
    let file = root.path().join("splits.csv");
    splits.write(&file, &set).unwrap();
    assert_eq!(Splits::read(&file, &set).unwrap(), splits);
    let forget = set.subset(&splits.forget).unwrap();
    assert_eq!(forget.class_counts(), [2, 0, 0, 2, 0, 0, 0, 0, 0, 0]);
    let batches = Batches::new(&forget, &Adapter::default(), Device::Cpu).unwrap();
    let batch = batches.batch(&Tensor::f_from_slice(&[3i64, 0]).unwrap()).unwrap();
    assert_eq!(batch.size(), [2, 3, 32, 32]);
    let direct = draw::draw_image(0, "train", 0, options.seed);
    let stored = set.names.iter().position(|name| name == "disc/0000.png").unwrap();
    let stored = set.images.get(i64::try_from(stored).unwrap());
    assert_eq!(stored.int64_value(&[1, 7, 5]), i64::from(direct.get_pixel(5, 7).0[1]));
}

#[test]
fn readers_at_the_same_time_share_a_cache() {
    let folder = folder(&["a/0.png", "a/1.png", "b/2.png"]);
    let cache = tempfile::tempdir().unwrap();
    let hashes: Vec<String> = std::thread::scope(|scope| {
        let read = || with(folder.path(), |options| options.cache = Some(cache.path().into())).unwrap().sha256;
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(read)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(hashes.iter().all(|hash| *hash == hashes[0]));
    assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 1);
}

#[test]
fn options_follow_an_adapter() {
    let adapter = Adapter::parse("input: {channels: 1, height: 3, width: 4}\nclasses: [b, a]\n", "adapter.yaml").unwrap();
    let options = FolderOptions::from_adapter(&adapter);
    assert_eq!((options.channels, options.size, options.classes), (1, Some((3, 4)), classes(&["b", "a"])));
}
