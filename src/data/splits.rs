//! Which images are forgotten, retained, held out or probed: seeded choices, and the files that record them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

use rand::seq::SliceRandom;
use sha2::{Digest, Sha256};

use super::files::write_atomically;
use super::store::{ImageSet, hex};
use crate::error::{Error, Result};
use crate::tensor::rng;

/// Larger index files are refused: 1 GiB is ten million images with long names.
const MAX_FILE_BYTES: u64 = 1 << 30;

const HASH_LINE: &str = "# sha256 of all lines below this one: ";
const SET_LINE: &str = "# sha256 of the image set: ";

/// Positions in a training set, each list in ascending order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Splits {
    /// Every image the original model was trained on (D_t): forget and retain set together.
    pub train: Vec<usize>,
    /// The images to be forgotten (D_f).
    pub forget: Vec<usize>,
    /// The rest (D_r).
    pub retain: Vec<usize>,
}

/// Puts a seeded share of each forgetting class into the forget set and everything else into the retain set.
///
/// `fraction` is above 0 and at most 1 (0.5 in the paper, section 4.1); a class of n images gives `fraction * n`, rounded to
/// the nearest number. The choice in one class does not depend on which other classes are forgotten.
///
/// # Errors
/// Usage, when no class or a class twice is given, or the fraction is out of range. Data, when a class has too few images for
/// one to be forgotten.
pub fn forget_half(labels: &[i64], forget_classes: &[i64], fraction: f64, seed: u64) -> Result<Splits> {
    if !(fraction > 0.0 && fraction <= 1.0) {
        return Err(Error::usage(format!("a share of {fraction} to forget is not above 0 and at most 1")));
    }
    let wanted: BTreeSet<i64> = forget_classes.iter().copied().collect();
    if wanted.is_empty() || wanted.len() != forget_classes.len() {
        return Err(Error::usage("forgetting classes have to be at least one, each given once"));
    }
    let by_class = by_class(labels);
    let mut forget = Vec::new();
    for class in wanted {
        let members = shuffled(by_class.get(&class).map_or(&[], Vec::as_slice), "forget set", class, seed);
        let count = share(members.len(), fraction);
        if count == 0 {
            return Err(Error::data(format!("class {class} has {} images, too few to forget {fraction} of", members.len())));
        }
        forget.extend_from_slice(members.get(..count).unwrap_or(&members));
    }
    forget.sort_unstable();
    let retain = rest(labels.len(), &forget);
    Ok(Splits { train: (0..labels.len()).collect(), forget, retain })
}

/// Takes a seeded share of every class away: `(kept, held out)`, each in ascending order.
///
/// `fraction` is from 0 to below 1; a class of n images gives `fraction * n`, rounded to the nearest number.
///
/// # Errors
/// Usage, when the fraction is out of range.
pub fn holdout(labels: &[i64], fraction: f64, seed: u64) -> Result<(Vec<usize>, Vec<usize>)> {
    if !(0.0..1.0).contains(&fraction) {
        return Err(Error::usage(format!("a share of {fraction} to hold out is not from 0 to below 1")));
    }
    let mut held = Vec::new();
    for (class, members) in by_class(labels) {
        let members = shuffled(&members, "holdout", class, seed);
        held.extend_from_slice(members.get(..share(members.len(), fraction)).unwrap_or(&members));
    }
    held.sort_unstable();
    Ok((rest(labels.len(), &held), held))
}

/// A seeded choice of `n_per_class` images of every class, in ascending order. A smaller choice with the same seed is part of
/// a larger one.
///
/// # Errors
/// Data, when a class has fewer images.
pub fn per_class_subset(labels: &[i64], n_per_class: usize, seed: u64) -> Result<Vec<usize>> {
    let mut chosen = Vec::new();
    for (class, members) in by_class(labels) {
        let members = shuffled(&members, "subset", class, seed);
        let Some(first) = members.get(..n_per_class) else {
            return Err(Error::data(format!("class {class} has {} images, not {n_per_class}", members.len())));
        };
        chosen.extend_from_slice(first);
    }
    chosen.sort_unstable();
    Ok(chosen)
}

fn by_class(labels: &[i64]) -> BTreeMap<i64, Vec<usize>> {
    let mut classes: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    for (index, label) in labels.iter().enumerate() {
        classes.entry(*label).or_default().push(index);
    }
    classes
}

fn shuffled(members: &[usize], purpose: &str, class: i64, seed: u64) -> Vec<usize> {
    let mut members = members.to_vec();
    members.shuffle(&mut rng(seed, purpose, class.cast_unsigned()));
    members
}

fn share(count: usize, fraction: f64) -> usize {
    // A share of at most 1 of a count of images is a count again, so `as` loses nothing.
    ((count as f64 * fraction).round() as usize).min(count)
}

fn rest(count: usize, taken: &[usize]) -> Vec<usize> {
    (0..count).filter(|index| taken.binary_search(index).is_err()).collect()
}

/// Writes which images of a set play which role, as CSV with the columns `role,index,image`, under two comment lines that hold
/// the file's own hash and the image set's. Whoever doubts a file can run `tail -n +2 FILE | sha256sum`. The file is complete
/// or absent, whenever the process ends.
///
/// # Errors
/// Data, when a position is not below N. Unexpected, when the file cannot be written.
pub fn write_indices(path: &Path, set: &ImageSet, roles: &[(&str, &[usize])]) -> Result<()> {
    let mut body = format!("{SET_LINE}{}\n", set.sha256).into_bytes();
    let mut csv = csv::Writer::from_writer(Vec::new());
    let failed = |error: csv::Error| Error::unexpected(error).at(path.display());
    csv.write_record(["role", "index", "image"]).map_err(failed)?;
    for (role, indices) in roles {
        for index in *indices {
            let name = set
                .names
                .get(*index)
                .ok_or_else(|| Error::data(format!("there is no image {index} in a set of {}", set.len())).at(path.display()))?;
            csv.write_record([*role, &index.to_string(), &harmless(name)]).map_err(failed)?;
        }
    }
    body.extend(csv.into_inner().map_err(|error| Error::unexpected(error.error()).at(path.display()))?);
    let head = format!("{HASH_LINE}{}\n", hex(&Sha256::digest(&body)));
    write_atomically(path, &[head.as_bytes(), &body])
}

/// A path that no spreadsheet takes for a formula; it leads to the same file.
fn harmless(name: &str) -> String {
    if crate::files::is_formula(name) { format!("./{name}") } else { name.to_string() }
}

/// Reads what [`write_indices`] wrote: the roles in their order, each with its positions.
///
/// # Errors
/// Data, naming the file and what is wrong: it cannot be read, was changed since it was written, belongs to another image
/// set, or names a position twice in one role.
pub fn read_indices(path: &Path, set: &ImageSet) -> Result<Vec<(String, Vec<usize>)>> {
    parse_indices(path, set).map_err(|error| error.at(path.display()))
}

fn parse_indices(path: &Path, set: &ImageSet) -> Result<Vec<(String, Vec<usize>)>> {
    let mut text = String::new();
    std::fs::File::open(path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_string(&mut text)).map_err(Error::data)?;
    let not_ours = || Error::data("is not an index file: its first two lines do not hold the hashes");
    let (stated, body) = text.strip_prefix(HASH_LINE).and_then(|rest| rest.split_once('\n')).ok_or_else(not_ours)?;
    if stated.trim_end() != hex(&Sha256::digest(body)) {
        return Err(Error::data("was changed after it was written: its lines do not have the stated SHA-256"));
    }
    let (set_hash, table) = body.strip_prefix(SET_LINE).and_then(|rest| rest.split_once('\n')).ok_or_else(not_ours)?;
    if set_hash.trim_end() != set.sha256 {
        return Err(Error::data(format!("belongs to another image set (SHA-256 {})", set_hash.trim_end()))
            .help(format!("the images that were read have SHA-256 {}", set.sha256)));
    }
    let mut roles: Vec<(String, Vec<usize>)> = Vec::new();
    let mut seen = BTreeSet::new();
    for record in csv::Reader::from_reader(table.as_bytes()).into_deserialize::<(String, usize, String)>() {
        let (role, index, image) = record.map_err(Error::data)?;
        if set.names.get(index).map(|name| harmless(name)) != Some(image.clone()) {
            return Err(Error::data(format!("image {index} of the set is not '{image}'")));
        }
        let position = match roles.iter().position(|(known, _)| *known == role) {
            Some(position) => position,
            None => {
                roles.push((role, Vec::new()));
                roles.len() - 1
            }
        };
        if !seen.insert((position, index)) {
            return Err(Error::data(format!("names image {index} twice")));
        }
        if let Some((_, indices)) = roles.get_mut(position) {
            indices.push(index);
        }
    }
    Ok(roles)
}

impl Splits {
    /// Writes forget and retain set; see [`write_indices`].
    ///
    /// # Errors
    /// As [`write_indices`].
    pub fn write(&self, path: &Path, set: &ImageSet) -> Result<()> {
        write_indices(path, set, &[("forget", &self.forget), ("retain", &self.retain)])
    }

    /// Reads what [`Splits::write`] wrote.
    ///
    /// # Errors
    /// As [`read_indices`]; also Data, when the file has other roles, or an image in both.
    pub fn read(path: &Path, set: &ImageSet) -> Result<Splits> {
        let (mut forget, mut retain) = (Vec::new(), Vec::new());
        for (role, indices) in read_indices(path, set)? {
            match role.as_str() {
                "forget" => forget = indices,
                "retain" => retain = indices,
                other => return Err(Error::data(format!("role '{other}' is neither forget nor retain")).at(path.display())),
            }
        }
        let train: BTreeSet<usize> = forget.iter().chain(&retain).copied().collect();
        if train.len() != forget.len() + retain.len() {
            return Err(Error::data("an image is in the forget set and in the retain set").at(path.display()));
        }
        forget.sort_unstable();
        retain.sort_unstable();
        Ok(Splits { train: train.into_iter().collect(), forget, retain })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::error::ErrorKind;
    use crate::tensor::{Kind, Tensor};

    /// 10 images of class 0, 20 of class 1, 30 of class 2, mixed.
    fn labels() -> Vec<i64> {
        (0..60).map(|index| [0, 1, 1, 2, 2, 2][index % 6]).collect()
    }

    fn count(labels: &[i64], indices: &[usize]) -> [usize; 3] {
        [0, 1, 2].map(|class| indices.iter().filter(|index| labels[**index] == class).count())
    }

    fn set() -> ImageSet {
        let images = Tensor::f_zeros([60, 1, 1, 1], (Kind::Uint8, crate::tensor::Device::Cpu)).unwrap();
        let names = (0..60).map(|index| format!("odd, \"name\" {index}.png")).collect();
        ImageSet::new(images, labels().into_iter().map(Some).collect(), names, vec![], vec![]).unwrap()
    }

    #[test]
    fn half_of_each_forgetting_class_is_forgotten() {
        let labels = labels();
        let splits = forget_half(&labels, &[2, 0], 0.5, 7).unwrap();
        assert_eq!(count(&labels, &splits.forget), [5, 0, 15]);
        assert_eq!(count(&labels, &splits.retain), [5, 20, 15]);
        let mut union = [splits.forget.clone(), splits.retain.clone()].concat();
        union.sort_unstable();
        assert_eq!(union, splits.train);
        assert_eq!(splits.train, (0..60).collect::<Vec<_>>());
        assert!(splits.forget.is_sorted() && splits.retain.is_sorted());
        assert_eq!(splits, forget_half(&labels, &[0, 2], 0.5, 7).unwrap());
        assert_ne!(splits, forget_half(&labels, &[0, 2], 0.5, 8).unwrap());
        let only = forget_half(&labels, &[2], 0.5, 7).unwrap().forget;
        assert!(only.iter().all(|index| splits.forget.contains(index)));
        assert_eq!(count(&labels, &forget_half(&labels, &[1], 1.0, 7).unwrap().forget), [0, 20, 0]);
    }

    #[test]
    fn impossible_forget_sets_are_refused() {
        let kind = |classes: &[i64], fraction| forget_half(&labels(), classes, fraction, 1).unwrap_err().kind();
        assert_eq!(kind(&[3], 0.5), ErrorKind::Data);
        assert_eq!(kind(&[0], 0.01), ErrorKind::Data);
        assert_eq!(kind(&[0, 0], 0.5), ErrorKind::Usage);
        assert_eq!(kind(&[], 0.5), ErrorKind::Usage);
        for fraction in [0.0, -1.0, 1.1, f64::NAN] {
            assert_eq!(kind(&[0], fraction), ErrorKind::Usage);
        }
    }

    #[test]
    fn a_holdout_takes_its_share_of_every_class() {
        let labels = labels();
        let (kept, held) = holdout(&labels, 0.1, 3).unwrap();
        assert_eq!(count(&labels, &held), [1, 2, 3]);
        assert_eq!(count(&labels, &kept), [9, 18, 27]);
        assert!(held.iter().all(|index| !kept.contains(index)));
        assert_eq!(holdout(&labels, 0.1, 3).unwrap().1, held);
        assert_ne!(holdout(&labels, 0.1, 4).unwrap().1, held);
        assert!(holdout(&labels, 0.0, 3).unwrap().1.is_empty());
        assert!(holdout(&labels, 1.0, 3).is_err());
    }

    #[test]
    fn a_subset_has_so_many_of_every_class_and_grows() {
        let labels = labels();
        let small = per_class_subset(&labels, 4, 5).unwrap();
        let large = per_class_subset(&labels, 10, 5).unwrap();
        assert_eq!(count(&labels, &small), [4, 4, 4]);
        assert_eq!(count(&labels, &large), [10, 10, 10]);
        assert!(small.iter().all(|index| large.contains(index)));
        assert_ne!(small, per_class_subset(&labels, 4, 6).unwrap());
        assert_eq!(per_class_subset(&labels, 11, 5).unwrap_err().kind(), ErrorKind::Data);
    }

    #[test]
    fn index_files_come_back_as_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("splits.csv");
        let splits = forget_half(&labels(), &[1], 0.5, 7).unwrap();
        splits.write(&path, &set()).unwrap();
        assert_eq!(Splits::read(&path, &set()).unwrap(), splits);
        write_indices(&path, &set(), &[("b", &[3, 1]), ("a", &[1])]).unwrap();
        assert_eq!(read_indices(&path, &set()).unwrap(), [("b".to_string(), vec![3, 1]), ("a".to_string(), vec![1])]);
        assert!(Splits::read(&path, &set()).unwrap_err().to_string().contains("role 'b'"));
        assert_eq!(write_indices(&path, &set(), &[("a", &[60])]).unwrap_err().kind(), ErrorKind::Data);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn changed_and_foreign_index_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("splits.csv");
        forget_half(&labels(), &[1], 0.5, 7).unwrap().write(&path, &set()).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let refusal = |text: &str, set: &ImageSet| {
            std::fs::write(&path, text).unwrap();
            let error = Splits::read(&path, set).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Data);
            error.to_string()
        };
        assert!(refusal(&text.replacen("forget,", "retain,", 1), &set()).contains("was changed"));
        assert!(refusal(text.get(..text.len() - 30).unwrap(), &set()).contains("was changed"));
        assert!(refusal("role,index,image\n", &set()).contains("not an index file"));
        let other = set().subset(&[0]).unwrap();
        assert!(refusal(&text, &other).contains("another image set"));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(Splits::read(&path, &set()).unwrap_err().kind(), ErrorKind::Data);
    }

    #[test]
    fn an_image_is_not_forgotten_and_retained() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("splits.csv");
        write_indices(&path, &set(), &[("forget", &[1]), ("retain", &[1])]).unwrap();
        assert!(Splits::read(&path, &set()).unwrap_err().to_string().contains("in the forget set and in the retain set"));
        write_indices(&path, &set(), &[("forget", &[1, 1])]).unwrap();
        assert!(Splits::read(&path, &set()).unwrap_err().to_string().contains("twice"));
    }
}
