//! One error type: what went wrong, where, why, what to do, and the exit code that belongs to it.

use std::fmt;
use std::path::Path;

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What sort of failure this is. Each sort has its own exit code, which scripts may rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A failure that no other sort describes, such as a full disk or an error inside a library.
    Unexpected,
    /// Wrong usage of the command line, or an invalid configuration file.
    Usage,
    /// The model file is malformed, or refused because it breaks a limit.
    Malformed,
    /// The model is valid but uses an operator or a feature that is not supported.
    Unsupported,
    /// Two results that should agree do not (parity, conformance, expected fixtures).
    Disagree,
    /// Images, labels or split files are missing, corrupt or inconsistent.
    Data,
    /// The user interrupted the work; its state has been saved.
    Interrupted,
}

impl ErrorKind {
    /// The process exit code for this sort of failure.
    pub const fn exit_code(self) -> u8 {
        match self {
            ErrorKind::Unexpected => 1,
            ErrorKind::Usage => 2,
            ErrorKind::Malformed => 3,
            ErrorKind::Unsupported => 4,
            ErrorKind::Disagree => 5,
            ErrorKind::Data => 6,
            ErrorKind::Interrupted => 130,
        }
    }

    /// The kind that ends with this code; Unexpected for codes of no kind.
    pub fn of_exit_code(code: u8) -> ErrorKind {
        use ErrorKind::{Data, Disagree, Interrupted, Malformed, Unexpected, Unsupported, Usage};
        let all = [Usage, Malformed, Unsupported, Disagree, Data, Interrupted];
        all.into_iter().find(|kind| kind.exit_code() == code).unwrap_or(Unexpected)
    }
}

/// An error that can be acted on without reading the source: `place: place: reason (help)`.
#[derive(Debug, Clone)]
pub struct Error(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    kind: ErrorKind,
    reason: String,
    /// Outermost first: file, then node or tensor.
    places: Vec<String>,
    help: Option<String>,
}

impl Error {
    /// An error of the given kind. `reason` says what is wrong and why, in one line.
    pub fn new(kind: ErrorKind, reason: impl fmt::Display) -> Self {
        Error(Box::new(Inner { kind, reason: one_line(&reason.to_string()), places: Vec::new(), help: None }))
    }

    /// See [`ErrorKind::Unexpected`].
    pub fn unexpected(reason: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Unexpected, reason)
    }

    /// See [`ErrorKind::Usage`].
    pub fn usage(reason: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Usage, reason)
    }

    /// See [`ErrorKind::Malformed`].
    pub fn malformed(reason: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Malformed, reason)
    }

    /// See [`ErrorKind::Unsupported`].
    pub fn unsupported(reason: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Unsupported, reason)
    }

    /// See [`ErrorKind::Disagree`].
    pub fn disagree(reason: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Disagree, reason)
    }

    /// See [`ErrorKind::Data`].
    pub fn data(reason: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Data, reason)
    }

    /// See [`ErrorKind::Interrupted`].
    pub fn interrupted(reason: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Interrupted, reason)
    }

    /// A failed file operation: the path is the place, the system's message the reason.
    pub fn io(path: &Path, error: &std::io::Error) -> Self {
        Self::unexpected(error).at(path.display())
    }

    /// Adds the place in which this error happened, outside the places already named.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.0.places.insert(0, one_line(&place.to_string()));
        self
    }

    /// Says what the user can do about it.
    #[must_use]
    pub fn help(mut self, help: impl fmt::Display) -> Self {
        self.0.help = Some(one_line(&help.to_string()));
        self
    }

    /// Reclassifies an error, for a caller that knows better what the failure means.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// The sort of failure.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What is wrong and why, without the places.
    pub fn reason(&self) -> &str {
        &self.0.reason
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in &self.0.places {
            write!(f, "{}: ", readable(place))?;
        }
        write!(f, "{}", readable(&self.0.reason))?;
        if let Some(help) = &self.0.help {
            write!(f, " ({})", readable(help))?;
        }
        Ok(())
    }
}

/// Text from files, such as a node's name, for one line of a terminal: line breaks and control characters are spelt out.
pub fn readable(text: &str) -> std::borrow::Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text.into();
    }
    let spelt = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(spelt).collect::<String>().into()
}

impl std::error::Error for Error {}

impl From<tch::TchError> for Error {
    /// libtorch's messages carry a C++ backtrace behind their first line; only that line helps a user.
    fn from(error: tch::TchError) -> Self {
        let text = match &error {
            tch::TchError::Torch(text) => text.lines().next().unwrap_or("unknown error").to_string(),
            other => other.to_string(),
        };
        Error::unexpected(format!("libtorch: {text}"))
    }
}

/// Names the place of an error on its way up.
pub trait Place<T> {
    /// Adds the place if this is an error; the closure runs only then.
    fn at<D: fmt::Display>(self, place: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<Error>> Place<T> for std::result::Result<T, E> {
    fn at<D: fmt::Display>(self, place: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| error.into().at(place()))
    }
}

/// Characters of one part of an error; names and shapes from files can have millions.
const MOST_CHARACTERS: usize = 600;

/// Names from files may contain anything; an error stays one line of bearable length and cannot steer a terminal.
fn one_line(text: &str) -> String {
    let spelt = |c: char| if c.is_control() { ' ' } else { c };
    let count = text.chars().count();
    if count <= MOST_CHARACTERS {
        return text.chars().map(spelt).collect();
    }
    let (head, tail) = (MOST_CHARACTERS * 2 / 3, MOST_CHARACTERS / 6);
    let start: String = text.chars().take(head).map(spelt).collect();
    let end: String = text.chars().skip(count - tail).map(spelt).collect();
    format!("{start} [{} characters] {end}", count - head - tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_from_the_outside_in() {
        let error = Error::malformed("no such tensor").at("node 'a'").at("m.onnx").help("export it again");
        assert_eq!(error.to_string(), "m.onnx: node 'a': no such tensor (export it again)");
        assert_eq!(error.kind().exit_code(), 3);
    }

    #[test]
    fn endless_names_are_cut_in_their_middle() {
        let error = Error::malformed("x").at(format!("node 'begin{}end'", "a".repeat(1_000_000))).to_string();
        assert!(error.len() < 700 && error.starts_with("node 'begin") && error.ends_with("end': x"), "{error}");
    }

    #[test]
    fn hostile_names_stay_on_one_line() {
        let error = Error::malformed("x").at("a\n\u{1b}[31mb");
        assert_eq!(error.to_string(), "a  [31mb: x");
    }
}
