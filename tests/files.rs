//! A process that is ended in the middle of its work leaves no half-written file behind. Alone in its program: the list of files that are
//! being written is the whole process's.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Write;

use cmira::files::{Staged, discard_hidden};

#[test]
fn what_has_not_appeared_is_discarded() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let files = || std::fs::read_dir(folder.path()).unwrap().count();
    let path = folder.path().join("model.onnx");
    Staged::new(&path, |file| file.write_all(b"whole")).unwrap().appear().unwrap();
    let staged = Staged::new(&folder.path().join("other.onnx"), |file| file.write_all(b"half")).unwrap();
    assert_eq!(files(), 2);
    discard_hidden();
    assert_eq!(files(), 1);
    assert!(staged.appear().is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"whole");
}
