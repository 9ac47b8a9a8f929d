//! `native.lock`: which wheels `setup` installs, each pinned by its SHA-256.

use std::fs;
use std::path::Path;

use crate::failure::{At, Failure, Result};

/// What a wheel is installed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// libtorch and the two CUDA libraries that even its CPU half is linked to.
    Libtorch,
    /// ONNX Runtime, the independent witness.
    Onnxruntime,
    /// What writes the official ONNX test cases; differs by Python version.
    Conformance,
    /// The libraries behind libtorch's CUDA half.
    Cuda,
}

impl Group {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "libtorch" => Some(Group::Libtorch),
            "onnxruntime" => Some(Group::Onnxruntime),
            "conformance" => Some(Group::Conformance),
            "cuda" => Some(Group::Cuda),
            _ => None,
        }
    }
}

/// One line of the lock file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wheel {
    pub group: Group,
    pub package: String,
    pub version: String,
    pub bytes: u64,
    /// Lower-case hexadecimal.
    pub sha256: String,
    pub file: String,
}

impl Wheel {
    /// The compatibility tags of the file name: Pythons, ABIs, platforms.
    fn tags(&self) -> [&str; 3] {
        let mut tags = self.file.trim_end_matches(".whl").rsplit('-');
        let mut next = || tags.next().unwrap_or_default();
        let (platform, abi, python) = (next(), next(), next());
        [python, abi, platform]
    }

    /// The platform tags that pip has to be told of.
    pub fn platforms(&self) -> impl Iterator<Item = &str> {
        self.tags()[2].split('.').filter(|platform| *platform != "any")
    }

    /// The `3.x` that pip has to pretend to be where this wheel is not for every Python.
    pub fn python(&self) -> Option<PythonVersion> {
        PythonVersion::from_tag(self.tags()[0])
    }

    /// Whether CPython of this version can import the wheel.
    pub fn runs_on(&self, version: PythonVersion) -> bool {
        let [python, abi, _] = self.tags();
        match PythonVersion::from_tag(python) {
            Some(built_for) if abi == "abi3" => built_for <= version,
            Some(built_for) => built_for == version,
            None => python.split('.').any(|tag| tag == "py3"),
        }
    }
}

/// A CPython 3 by its minor version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PythonVersion {
    pub minor: u32,
}

impl PythonVersion {
    /// From `cp311` and the like.
    pub fn from_tag(tag: &str) -> Option<Self> {
        tag.strip_prefix("cp3")?.parse().ok().map(|minor| PythonVersion { minor })
    }
}

impl std::fmt::Display for PythonVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "3.{}", self.minor)
    }
}

/// Reads and checks the lock file.
pub fn read(path: &Path) -> Result<Vec<Wheel>> {
    parse(&fs::read_to_string(path).at(path)?).map_err(|reason| Failure::new(format!("{}: {reason}", path.display())))
}

fn parse(text: &str) -> std::result::Result<Vec<Wheel>, String> {
    let mut wheels: Vec<Wheel> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wheel = parse_line(line).map_err(|reason| format!("line {}: {reason}", number + 1))?;
        if wheels.iter().any(|other| other.file == wheel.file) {
            return Err(format!("line {}: {} is listed twice", number + 1, wheel.file));
        }
        wheels.push(wheel);
    }
    Ok(wheels)
}

fn parse_line(line: &str) -> std::result::Result<Wheel, String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [group, package, version, bytes, sha256, file] = fields[..] else {
        return Err(format!("{} fields instead of 6", fields.len()));
    };
    if sha256.len() != 64 || !sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(format!("'{sha256}' is not a SHA-256 in lower-case hexadecimal"));
    }
    // The name becomes a path below .native/downloads.
    if !file.ends_with(".whl") || file.contains('/') || file.matches('-').count() < 4 {
        return Err(format!("'{file}' is not the name of a wheel"));
    }
    Ok(Wheel {
        group: Group::parse(group).ok_or_else(|| format!("there is no group '{group}'"))?,
        package: package.to_string(),
        version: version.to_string(),
        bytes: bytes.parse().map_err(|_| format!("'{bytes}' is not a number of bytes"))?,
        sha256: sha256.to_string(),
        file: file.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a";

    fn wheel(tags: &str) -> Wheel {
        parse_line(&format!("cuda a 1 2 {HASH} a-1-{tags}.whl")).unwrap()
    }

    #[test]
    fn reads_a_line() {
        let text = format!("# comment\n\nonnxruntime onnxruntime 1.30.0 99 {HASH} onnxruntime-1.30.0-cp311-cp311-x_86.whl\n");
        let wheels = parse(&text).unwrap();
        assert_eq!(wheels.len(), 1);
        assert_eq!((wheels[0].group, wheels[0].bytes), (Group::Onnxruntime, 99));
        assert_eq!((wheels[0].version.as_str(), wheels[0].sha256.as_str()), ("1.30.0", HASH));
    }

    #[test]
    fn refuses_what_could_lead_astray() {
        let short = &HASH[1..];
        for (line, reason) in [
            (format!("cuda a 1 2 {HASH}"), "line 1: 5 fields"),
            (format!("cud a 1 2 {HASH} a-1-py3-none-any.whl"), "no group 'cud'"),
            (format!("cuda a 1 2 {short} a-1-py3-none-any.whl"), "not a SHA-256"),
            (format!("cuda a 1 two {HASH} a-1-py3-none-any.whl"), "'two' is not a number"),
            (format!("cuda a 1 2 {HASH} ../a-1-py3-none-any.whl"), "not the name of a wheel"),
            (format!("cuda a 1 2 {HASH} a-1-py3-none-any.whl\ncuda a 1 2 {HASH} a-1-py3-none-any.whl"), "line 2: a-1"),
        ] {
            let refusal = parse(&line).unwrap_err();
            assert!(refusal.contains(reason), "{line}: {refusal}");
        }
    }

    #[test]
    fn chooses_by_the_wheels_tags() {
        let version = |minor| PythonVersion { minor };
        assert!(wheel("cp311-cp311-manylinux_2_27_x86_64").runs_on(version(11)));
        assert!(!wheel("cp311-cp311-manylinux_2_27_x86_64").runs_on(version(12)));
        assert!(wheel("cp312-abi3-manylinux_2_27_x86_64").runs_on(version(14)));
        assert!(!wheel("cp312-abi3-manylinux_2_27_x86_64").runs_on(version(11)));
        assert!(wheel("py2.py3-none-any").runs_on(version(9)));
        assert_eq!(wheel("py3-none-any").platforms().count(), 0);
        assert_eq!(wheel("py3-none-p1.p2").platforms().collect::<Vec<_>>(), ["p1", "p2"]);
    }

    #[test]
    fn the_repositorys_lock_file_is_valid_and_serves_every_supported_python() {
        let wheels = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../native.lock")).unwrap();
        for minor in 10..=14 {
            let mut packages: Vec<_> = wheels
                .iter()
                .filter(|wheel| wheel.group == Group::Conformance && wheel.runs_on(PythonVersion { minor }))
                .map(|wheel| wheel.package.as_str())
                .collect();
            packages.sort_unstable();
            assert_eq!(packages, ["ml-dtypes", "numpy", "onnx", "protobuf", "typing-extensions"], "Python 3.{minor}");
        }
    }
}
