//! Tiny-ImageNet as it is published: JPEG files of 64x64 pixels, 200 classes by their WordNet numbers.
//!
//! Source: <http://cs231n.stanford.edu/tiny-imagenet-200.zip>. `train/<wnid>/images/*.JPEG`; `val/images/*.JPEG` with the class of each in
//! `val/val_annotations.txt`; `words.txt` names the numbers. The labels of `test/` are not published.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use super::folder::{FolderOptions, OnProblem, read_listed};
use super::listing::Entry;
use super::official::read_text;
use crate::data::Progress;
use crate::data::store::ImageSet;
use crate::error::{Error, Result};

/// Classes are in the order of their WordNet numbers, as `torchvision.datasets.ImageFolder` has them; their names are those of
/// `words.txt`, the first of each, and the number where two classes share it.
///
/// # Errors
/// Data, naming the file: a list is missing or a line of it cannot be read, an image is missing, corrupt or of another size.
pub(in crate::data) fn tiny_imagenet(root: &Path, train: bool, progress: &mut dyn FnMut(Progress)) -> Result<ImageSet> {
    let numbers: BTreeSet<String> =
        read_text(&root.join("wnids.txt"))?.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect();
    if numbers.is_empty() {
        return Err(Error::data("names no class").at(root.join("wnids.txt").display()));
    }
    let positions: HashMap<&str, i64> = numbers.iter().map(String::as_str).zip(0..).collect();
    let images = if train { training(root, &numbers)? } else { validation(root, &positions)? };
    let images = images.into_iter().map(|(name, number)| {
        let label = positions.get(number.as_str()).copied();
        (Entry { path: root.join(&name), name }, label)
    });
    let options = FolderOptions { size: Some((64, 64)), on_problem: OnProblem::Fail, ..FolderOptions::default() };
    read_listed(root, images.collect(), names(root, &numbers)?, &options, progress)
}

/// Paths below the root, each with its class's number.
type Listed = Vec<(String, String)>;

fn training(root: &Path, numbers: &BTreeSet<String>) -> Result<Listed> {
    let mut images = Vec::new();
    for number in numbers {
        let folder = format!("train/{number}/images");
        let path = root.join(&folder);
        let failed = |error: std::io::Error| Error::data(error).at(path.display());
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') {
                files.push((format!("{folder}/{name}"), number.clone()));
            }
        }
        if files.is_empty() {
            return Err(Error::data("holds no image").at(path.display()));
        }
        files.sort_unstable();
        images.append(&mut files);
    }
    Ok(images)
}

fn validation(root: &Path, positions: &HashMap<&str, i64>) -> Result<Listed> {
    let path = root.join("val/val_annotations.txt");
    let mut images = Vec::new();
    for (line, number) in read_text(&path)?.lines().zip(1..) {
        let mut columns = line.split('\t');
        let (Some(file), Some(class)) = (columns.next(), columns.next()) else {
            return Err(Error::data(format!("line {number} is not `file`, tab, `class`")).at(path.display()));
        };
        // The file is untrusted: a name must not lead out of the folder.
        if Path::new(file).file_name() != Some(file.as_ref()) {
            return Err(Error::data(format!("line {number}: '{file}' is no file's name")).at(path.display()));
        }
        if !positions.contains_key(class) {
            return Err(Error::data(format!("line {number}: '{class}' is not in wnids.txt")).at(path.display()));
        }
        images.push((format!("val/images/{file}"), class.to_string()));
    }
    if images.is_empty() {
        return Err(Error::data("names no image").at(path.display()));
    }
    Ok(images)
}

fn names(root: &Path, numbers: &BTreeSet<String>) -> Result<Vec<String>> {
    let path = root.join("words.txt");
    let text = read_text(&path)?;
    let words: HashMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(number, words)| (number, words.split(',').next().unwrap_or(words).trim()))
        .collect();
    let mut uses: HashMap<&str, usize> = HashMap::new();
    for number in numbers {
        let word = words.get(number.as_str()).copied();
        let word = word.ok_or_else(|| Error::data(format!("does not name '{number}'")).at(path.display()))?;
        *uses.entry(word).or_insert(0) += 1;
    }
    let name = |number: &String| match words.get(number.as_str()) {
        Some(word) if uses.get(word) == Some(&1) => (*word).to_string(),
        _ => number.clone(),
    };
    Ok(numbers.iter().map(name).collect())
}
