//! Downloads published data sets: resumed where a connection broke off, and believed only if their SHA-256 is right.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::DataSet;
use super::store::hex;
use crate::error::{Error, Result};

/// A published file.
#[derive(Debug, Clone, Copy)]
pub struct Remote<'a> {
    /// Its address.
    pub url: &'a str,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: &'a str,
}

impl Remote<'_> {
    /// The last part of the address.
    pub fn file_name(&self) -> &str {
        self.url.rsplit('/').next().unwrap_or(self.url)
    }
}

/// Where a data set is published; nothing for folders of one's own.
///
/// Sizes and hashes are those by which other libraries know the same files (TensorFlow Datasets, MLDatasets.jl).
pub fn published(set: DataSet) -> &'static [Remote<'static>] {
    const fn remote(url: &'static str, bytes: u64, sha256: &'static str) -> Remote<'static> {
        Remote { url, bytes, sha256 }
    }
    const CIFAR10: &[Remote] = &[remote(
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        170_052_171,
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    )];
    const CIFAR100: &[Remote] = &[remote(
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        168_513_733,
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    )];
    const FMNIST: &[Remote] = &[
        remote(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-images-idx3-ubyte.gz",
            26_421_880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        remote(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-labels-idx1-ubyte.gz",
            29_515,
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        remote(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/t10k-images-idx3-ubyte.gz",
            4_422_102,
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        remote(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/t10k-labels-idx1-ubyte.gz",
            5_148,
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ];
    const TINY: &[Remote] = &[remote(
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        248_100_043,
        "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
    )];
    match set {
        DataSet::Cifar10 => CIFAR10,
        DataSet::Cifar100 => CIFAR100,
        DataSet::Fmnist => FMNIST,
        DataSet::TinyImagenet => TINY,
        DataSet::Folder => &[],
    }
}

/// How patient a download is.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Attempts in a row that bring nothing before it is given up.
    pub attempts: usize,
    /// How long to wait before another; twice as long each time.
    pub pause: Duration,
    /// How long a server may say nothing.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { attempts: 5, pause: Duration::from_secs(1), silence: Duration::from_secs(30) }
    }
}

/// Downloads a file to `target`, unless it is there with the right content. What has come so far lies beside it with `.part` behind its
/// name, and is gone on from. `progress` is told the bytes that are there.
///
/// # Errors
/// Data, when the server refuses, is not reached, sends something else than what was published (that is then deleted), or breaks off
/// again and again; Interrupted, when `stop` is set. Unexpected, where the disk does not cooperate.
pub fn download(
    remote: &Remote,
    target: &Path,
    patience: Patience,
    progress: &mut dyn FnMut(u64),
    stop: &AtomicBool,
) -> Result<()> {
    if target.exists() {
        return verify(remote, target, false);
    }
    if let Some(folder) = target.parent() {
        std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, &error))?;
    }
    let mut name = target.as_os_str().to_os_string();
    name.push(".part");
    let part = PathBuf::from(name);
    let (mut failures, mut pause) = (0, patience.pause);
    loop {
        let before = length(&part);
        if before >= remote.bytes {
            break;
        }
        match attempt(remote, &part, before, patience, progress, stop) {
            Ok(()) if length(&part) >= remote.bytes => break,
            Err(Broken::Final(error)) => return Err(error),
            // It ended early, with or without saying so.
            ended => {
                let reason = if let Err(Broken::Off(reason)) = ended { reason } else { "the server ended early".to_string() };
                (failures, pause) = if length(&part) > before { (0, patience.pause) } else { (failures + 1, pause) };
                if failures >= patience.attempts {
                    let error = Error::data(format!("{reason}, {failures} times in a row")).at(remote.url);
                    return Err(error.help(format!(
                        "{} of {} bytes are kept; run the same command again to go on",
                        length(&part),
                        remote.bytes
                    )));
                }
                if failures > 0 {
                    std::thread::sleep(pause);
                    pause *= 2;
                }
            }
        }
    }
    verify(remote, &part, true)?;
    std::fs::rename(&part, target).map_err(|error| Error::io(target, &error))
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Why an attempt ended.
enum Broken {
    /// The connection failed: another attempt may go on.
    Off(String),
    /// Nothing that another attempt could mend.
    Final(Error),
}

/// One connection, from `start` on.
fn attempt(
    remote: &Remote,
    part: &Path,
    start: u64,
    patience: Patience,
    progress: &mut dyn FnMut(u64),
    stop: &AtomicBool,
) -> std::result::Result<(), Broken> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(patience.silence))
        .timeout_recv_response(Some(patience.silence))
        .build()
        .into();
    let mut request = agent.get(remote.url);
    if start > 0 {
        request = request.header("Range", format!("bytes={start}-"));
    }
    let response = request.call().map_err(|error| Broken::Off(error.to_string()))?;
    let status = response.status().as_u16();
    let range = response.headers().get("content-range").and_then(|value| value.to_str().ok()).map(String::from);
    let goes_on = status == 206 && range.is_some_and(|range| range.starts_with(&format!("bytes {start}-")));
    match status {
        200 | 206 => {}
        // Too busy, or a passing fault of the server.
        408 | 429 | 500..=599 => return Err(Broken::Off(format!("the server answers {status}"))),
        416 => {
            // What is here is no beginning of what the server has.
            std::fs::remove_file(part).map_err(|error| Broken::Final(Error::io(part, &error)))?;
            return Err(Broken::Off("the server has no more than what is here".to_string()));
        }
        _ => {
            let error = Error::data(format!("the server answers {status}")).at(remote.url);
            return Err(Broken::Final(error.help("give another address that has the same file with --from")));
        }
    }
    // A page that says something else, such as a network's front door, is no beginning of the file.
    let stated = response.headers().get("content-length").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if let (200, Some(stated)) = (status, stated)
        && stated != remote.bytes
    {
        let error = Error::data(format!("the server has {stated} bytes there, {} were published", remote.bytes)).at(remote.url);
        return Err(Broken::Final(error.help("give another address that has the same file with --from")));
    }
    let failed = |error: std::io::Error| Broken::Final(Error::io(part, &error));
    let mut file = OpenOptions::new().create(true).append(true).open(part).map_err(failed)?;
    let mut held = start;
    if start > 0 && !goes_on {
        file.set_len(0).map_err(failed)?;
        held = 0;
    }
    let pieces = pieces(response.into_body().into_reader());
    let mut heard = Instant::now();
    loop {
        if stop.load(Ordering::SeqCst) {
            let error = Error::interrupted("stopped; what has come so far is kept");
            return Err(Broken::Final(error.help("run the same command again to go on")));
        }
        let piece = match pieces.recv_timeout(patience.silence.min(TICK)) {
            Ok(Ok(piece)) => piece,
            Ok(Err(reason)) => return Err(Broken::Off(reason)),
            Err(RecvTimeoutError::Timeout) if heard.elapsed() < patience.silence => continue,
            Err(RecvTimeoutError::Timeout) => {
                return Err(Broken::Off(format!("the server said nothing for {:.0} s", patience.silence.as_secs_f64())));
            }
            // Its end.
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        heard = Instant::now();
        file.write_all(&piece).map_err(failed)?;
        held += piece.len() as u64;
        progress(held);
        if held > remote.bytes {
            // More than was published: the hash will say so.
            return Ok(());
        }
    }
}

/// How often it is looked whether somebody asked to stop.
const TICK: Duration = Duration::from_millis(250);

/// Reads on a thread of its own, because a read of a silent connection does not come back.
fn pieces(mut body: impl Read + Send + 'static) -> Receiver<std::result::Result<Vec<u8>, String>> {
    // Few at a time: the disk may be slower than the network.
    let (sender, receiver) = sync_channel(4);
    std::thread::spawn(move || {
        loop {
            let mut buffer = vec![0; 1 << 16];
            let piece = match body.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => {
                    buffer.truncate(count);
                    Ok(buffer)
                }
                Err(error) => Err(error.to_string()),
            };
            let last = piece.is_err();
            // Nobody waits for it any more.
            if sender.send(piece).is_err() || last {
                return;
            }
        }
    });
    receiver
}

/// Compares a file with what was published, and deletes it if it is something else and `ours`.
fn verify(remote: &Remote, path: &Path, ours: bool) -> Result<()> {
    let failed = |error: std::io::Error| Error::io(path, &error);
    let mut hash = Sha256::new();
    std::io::copy(&mut File::open(path).map_err(failed)?, &mut hash).map_err(failed)?;
    let found = hex(&hash.finalize());
    if found == remote.sha256 {
        return Ok(());
    }
    let error = Error::data(format!("has {} bytes with SHA-256 {found}, which is not what was published", length(path)));
    if ours {
        std::fs::remove_file(path).map_err(failed)?;
        let help = format!("{} bytes with SHA-256 {} were; what came was deleted", remote.bytes, remote.sha256);
        return Err(error.at(remote.url).help(help));
    }
    Err(error.at(path.display()).help("remove it to download it again"))
}

/// The greatest content of an archive that is unpacked; the largest that is published has 500 MB.
const MAX_UNPACKED: u64 = 8 << 30;

/// Unpacks a `.tar.gz` or `.zip` into a folder: what was in it appears there as a whole or not at all. What is there already stays as it
/// is, and so do files of other kinds.
///
/// # Errors
/// Data, when the archive is damaged, or holds anything but folders and plain files inside of it; Interrupted, when `stop` is set;
/// Unexpected, where the disk does not cooperate.
pub fn unpack(archive: &Path, folder: &Path, stop: &AtomicBool) -> Result<()> {
    let name = archive.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let damaged = |error: &dyn std::fmt::Display| Error::data(format!("cannot be unpacked: {error}")).at(archive.display());
    let file = File::open(archive).map_err(|error| Error::io(archive, &error))?;
    if !name.ends_with(".tar.gz") && !name.ends_with(".zip") {
        return Ok(());
    }
    let partial = tempfile::Builder::new().prefix(".cmira-").suffix(".partial").tempdir_in(folder);
    let partial = partial.map_err(|error| Error::io(folder, &error))?;
    let mut left = MAX_UNPACKED;
    let mut put = |path: PathBuf, content: &mut dyn Read| -> Result<()> {
        if stop.load(Ordering::SeqCst) {
            let error = Error::interrupted("stopped while unpacking; the archive is kept").at(archive.display());
            return Err(error.help("run the same command again to go on"));
        }
        let inside = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        if !inside {
            return Err(damaged(&format!("'{}' leads out of it", path.display())));
        }
        let target = partial.path().join(path);
        let parent = target.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent).map_err(|error| Error::io(parent, &error))?;
        let mut file = File::create(&target).map_err(|error| Error::io(&target, &error))?;
        let count = std::io::copy(&mut content.take(left + 1), &mut file).map_err(|error| damaged(&error))?;
        left = left.checked_sub(count).ok_or_else(|| damaged(&format!("it holds more than {MAX_UNPACKED} bytes")))?;
        Ok(())
    };
    if name.ends_with(".zip") {
        let mut zip = zip::ZipArchive::new(file).map_err(|error| damaged(&error))?;
        for index in 0..zip.len() {
            let mut entry = zip.by_index(index).map_err(|error| damaged(&error))?;
            if entry.is_file() {
                let path = entry.name().map_err(|error| damaged(&error))?.into_owned();
                put(PathBuf::from(path), &mut entry)?;
            }
        }
    } else {
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(file));
        for entry in tar.entries().map_err(|error| damaged(&error))? {
            let mut entry = entry.map_err(|error| damaged(&error))?;
            let kind = entry.header().entry_type();
            if kind.is_file() {
                let path = entry.path().map_err(|error| damaged(&error))?.into_owned();
                put(path, &mut entry)?;
            } else if !kind.is_dir() && !kind.is_pax_global_extensions() {
                return Err(damaged(&"it holds a link or a device"));
            }
        }
    }
    for entry in std::fs::read_dir(partial.path()).map_err(|error| Error::io(partial.path(), &error))? {
        let entry = entry.map_err(|error| Error::io(partial.path(), &error))?;
        let target = folder.join(entry.file_name());
        // It appeared as a whole when it was unpacked before.
        if target.exists() {
            continue;
        }
        std::fs::rename(entry.path(), &target).map_err(|error| Error::io(&target, &error))?;
    }
    Ok(())
}
