//! Downloads from servers that break off, send wrong bytes, or refuse; and archives that lead out of their folder.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cmira::data::fetch::{Patience, Remote, download, published, unpack};
use cmira::data::{DataSet, Part};
use cmira::error::{Error, ErrorKind};
use common::{Folder, cmira, text};
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

/// What a server does to a request, by its number and its first byte; gives status and body, and how much of the body it sends.
type Behaviour = dyn Fn(usize, Option<usize>) -> Answer + Send + Sync;

struct Answer {
    status: &'static str,
    /// Where the body begins in the file, if the answer is a part of it.
    from: Option<usize>,
    body: Vec<u8>,
    /// How much of it is sent before the connection is closed.
    sent: usize,
}

/// A server on this machine, and the requests that came: the first byte that each asked for.
struct Server {
    address: String,
    asked: Arc<Mutex<Vec<Option<usize>>>>,
}

impl Server {
    fn start(behaviour: impl Fn(usize, Option<usize>) -> Answer + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, count) = (asked.clone(), AtomicUsize::new(0));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(stream, count.fetch_add(1, Ordering::SeqCst), &seen, &behaviour);
            }
        });
        Server { address, asked }
    }

    fn asked(&self) -> Vec<Option<usize>> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, number: usize, asked: &Mutex<Vec<Option<usize>>>, behaviour: &Behaviour) {
    let mut from = None;
    for line in BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok) {
        if let Some(range) = line.to_lowercase().strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse().ok();
        }
        if line.is_empty() {
            break;
        }
    }
    asked.lock().unwrap().push(from);
    let answer = behaviour(number, from);
    let range = answer.from.map_or_else(String::new, |from| format!("Content-Range: bytes {from}-99/100\r\n"));
    let head = format!("HTTP/1.1 {}\r\nContent-Length: {}\r\n{range}Connection: close\r\n\r\n", answer.status, answer.body.len());
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(&answer.body[..answer.sent.min(answer.body.len())]);
}

fn content() -> Vec<u8> {
    (0..200_000_u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

fn hash(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// Sends what is asked for, up to a number of bytes at a time.
fn part(from: Option<usize>, most: usize) -> Answer {
    let all = content();
    match from {
        None => Answer { status: "200 OK", from: None, sent: most, body: all },
        Some(start) => Answer { status: "206 Partial Content", from, sent: most, body: all[start..].to_vec() },
    }
}

const AT_ONCE: Patience = Patience { attempts: 3, pause: Duration::ZERO, silence: Duration::from_secs(20) };

fn get(server: &Server, target: &Path) -> Result<(), Error> {
    let (url, sha256) = (format!("{}/file.bin", server.address), hash(&content()));
    let remote = Remote { url: &url, bytes: content().len() as u64, sha256: &sha256 };
    download(&remote, target, AT_ONCE, &mut |_| (), &AtomicBool::new(false))
}

#[test]
fn a_connection_that_breaks_off_is_gone_on_from() {
    let folder = Folder::new();
    let server = Server::start(|_, from| part(from, 300_000));
    get(&server, &folder.path("deep/file.bin")).unwrap();
    assert!(fs::read(folder.path("deep/file.bin")).unwrap() == content());
    let asked = server.asked();
    assert_eq!(asked.len(), 3, "800,000 bytes in pieces of 300,000: {asked:?}");
    assert!(asked[0].is_none() && asked[1] == Some(300_000) && asked[2] == Some(600_000), "{asked:?}");
    // What is there and right is not asked for again.
    get(&server, &folder.path("deep/file.bin")).unwrap();
    assert_eq!(server.asked().len(), 3);
}

#[test]
fn a_download_that_was_given_up_goes_on_another_time() {
    let folder = Folder::new();
    let target = folder.path("file.bin");
    // Some bytes, then nothing.
    let server = Server::start(|number, from| part(from, if number == 0 { 100_000 } else { 0 }));
    let error = get(&server, &target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().contains("3 times in a row") && error.to_string().contains("100000 of 800000"), "{error}");
    assert!(!target.exists());
    let server = Server::start(|_, from| part(from, usize::MAX));
    get(&server, &target).unwrap();
    assert_eq!(server.asked(), [Some(100_000)]);
    assert!(fs::read(&target).unwrap() == content());
}

#[test]
fn a_server_that_knows_no_ranges_sends_all_of_it_again() {
    let folder = Folder::new();
    let server = Server::start(|number, _| part(None, if number == 0 { 100_000 } else { usize::MAX }));
    get(&server, &folder.path("file.bin")).unwrap();
    assert!(fs::read(folder.path("file.bin")).unwrap() == content());
}

#[test]
fn wrong_bytes_are_not_believed_and_not_kept() {
    let folder = Folder::new();
    let target = folder.path("file.bin");
    let wrong = |change: fn(&mut Vec<u8>), said: &str| {
        let server = Server::start(move |_, from| {
            let mut answer = part(from, usize::MAX);
            change(&mut answer.body);
            answer
        });
        let error = get(&server, &target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        assert!(error.to_string().contains(said) && error.to_string().contains("file.bin"), "{error}");
        assert_eq!(fs::read_dir(folder.path("")).unwrap().count(), 0, "nothing is left behind");
    };
    wrong(|body| body[1234] ^= 1, "SHA-256");
    wrong(|body| body.extend([0; 5]), "800005 bytes there, 800000 were published");
    // The front door of a network that wants a password first.
    wrong(|body| body.truncate(5), "the server has 5 bytes there");
    let server = Server::start(|_, from| part(from, usize::MAX));
    get(&server, &target).unwrap();
    assert!(fs::read(&target).unwrap() == content(), "and spoils no later download");
}

#[test]
fn a_server_that_refuses_is_quoted() {
    let folder = Folder::new();
    let target = folder.path("file.bin");
    let refuse = |status: &'static str| {
        let server = Server::start(move |_, _| Answer { status, from: None, body: b"no".to_vec(), sent: 2 });
        let error = get(&server, &target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        (error.to_string(), server.asked().len())
    };
    let (error, attempts) = refuse("404 Not Found");
    assert!(error.contains("404") && error.contains("--from"), "{error}");
    assert_eq!(attempts, 1);
    let (error, attempts) = refuse("503 Service Unavailable");
    assert!(error.contains("503"), "{error}");
    assert_eq!(attempts, 3);
    // Nobody listens.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = Server { address: format!("http://{closed}"), asked: Arc::default() };
    let error = get(&server, &target).unwrap_err();
    assert!(error.to_string().contains("3 times in a row"), "{error}");
}

/// A connection that stays open and brings nothing does not come back from a read by itself.
#[test]
fn a_server_that_falls_silent_is_left() {
    let folder = Folder::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/file.bin", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 800000\r\n\r\n");
            let _ = stream.write_all(&content()[..1000]);
            open.push(stream);
        }
    });
    let sha256 = hash(&content());
    let remote = Remote { url: &url, bytes: 800_000, sha256: &sha256 };
    let patience = Patience { silence: Duration::from_millis(300), ..AT_ONCE };
    let target = folder.path("file.bin");
    let error = download(&remote, &target, patience, &mut |_| (), &AtomicBool::new(false)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().contains("said nothing") && error.to_string().contains("1000 of 800000"), "{error}");
}

#[test]
fn a_download_can_be_interrupted_and_keeps_what_it_has() {
    let folder = Folder::new();
    let server = Server::start(|_, from| part(from, usize::MAX));
    let (url, sha256) = (format!("{}/file.bin", server.address), hash(&content()));
    let remote = Remote { url: &url, bytes: 800_000, sha256: &sha256 };
    let stop = AtomicBool::new(false);
    let target = folder.path("file.bin");
    let error = download(&remote, &target, AT_ONCE, &mut |_| stop.store(true, Ordering::SeqCst), &stop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    assert!(fs::metadata(folder.path("file.bin.part")).unwrap().len() > 0 && !target.exists());
}

fn packed(name: &str, entries: &[(&str, &[u8])], folder: &Folder) -> std::path::PathBuf {
    let path = folder.path(name);
    let mut tar = tar::Builder::new(GzEncoder::new(File::create(&path).unwrap(), Compression::fast()));
    for (name, bytes) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        // Set as it stands: the crate's own way refuses names that lead out.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        tar.append(&header, *bytes).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap();
    path
}

#[test]
fn archives_unpack_whole_or_not_at_all() {
    let folder = Folder::new();
    let record: Vec<u8> = std::iter::once(3).chain(std::iter::repeat_n(7, 3072)).collect();
    let names = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n";
    let entries =
        [("cifar-10-batches-bin/test_batch.bin", record.as_slice()), ("cifar-10-batches-bin/batches.meta.txt", names.as_bytes())];
    unpack(&packed("whole.tar.gz", &entries, &folder), &folder.path(""), &AtomicBool::new(false)).unwrap();
    let set = DataSet::Cifar10.read(&folder.path(""), Part::Test, &mut |_| ()).unwrap();
    assert_eq!(set.label_list().unwrap(), [3]);

    // The same command again finds it there.
    let whole = folder.path("whole.tar.gz");
    unpack(&whole, &folder.path(""), &AtomicBool::new(false)).unwrap();
    let error = unpack(&whole, &folder.path(""), &AtomicBool::new(true)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);

    let outside = folder.path("outside");
    fs::create_dir(&outside).unwrap();
    let bad = packed("bad.tar.gz", &[("fine.txt", b"1"), ("../escaped.txt", b"2")], &folder);
    let error = unpack(&bad, &outside, &AtomicBool::new(false)).unwrap_err();
    assert!(error.to_string().contains("leads out") && error.to_string().contains("bad.tar.gz"), "{error}");
    assert!(!folder.path("escaped.txt").exists());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    let whole = fs::read(folder.path("whole.tar.gz")).unwrap();
    fs::write(folder.path("cut.tar.gz"), &whole[..whole.len() / 2]).unwrap();
    assert_eq!(unpack(&folder.path("cut.tar.gz"), &outside, &AtomicBool::new(false)).unwrap_err().kind(), ErrorKind::Data);
    fs::write(folder.path("no.zip"), b"no zip").unwrap();
    assert_eq!(unpack(&folder.path("no.zip"), &outside, &AtomicBool::new(false)).unwrap_err().kind(), ErrorKind::Data);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn the_command_says_what_is_wrong_with_a_server() {
    let folder = Folder::new();
    // An answer that another attempt could not change: nothing is waited for.
    let server = Server::start(|_, _| Answer { status: "404 Not Found", from: None, body: vec![], sent: 0 });
    let target = folder.path("fashion");
    let (code, _, errors) = cmira(&["data", "fetch", "fmnist", text(&target), "--from", &server.address, "--quiet"]);
    assert_eq!(code, 6, "{errors}");
    let file = published(DataSet::Fmnist)[0].file_name();
    assert!(errors.contains(file), "{errors}");
    let (code, _, errors) = cmira(&["data", "fetch", "folder", text(&target)]);
    assert_eq!(code, 2, "{errors}");
}
