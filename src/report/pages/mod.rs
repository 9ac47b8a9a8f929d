//! One page an audit and one a grid, in HTML that is whole by itself: it opens from a mail, loads nothing, and prints. Everything that comes
//! from files is escaped by the templates; a policy in the page lets no script and no style run but its own, whatever was missed.

mod audit;
mod grid;
mod words;

use std::path::{Path, PathBuf};

use askama::Template;
use base64::Engine;
use sha2::{Digest, Sha256};

use super::figures::Figure;
use super::{csv, verdict};
use crate::error::{Error, Result};
use crate::files;

pub use audit::audit;
pub use grid::grid;

/// The page's name in a results folder.
pub const FILE: &str = "report.html";

/// The folder of figures in a results folder.
const FIGURES: &str = "figures";

/// Whether maps of features, which take a while, are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maps {
    /// Where features were kept.
    Drawn,
    /// Nowhere.
    LeftOut,
}

/// What a page has.
#[derive(Template)]
#[template(path = "page.html")]
struct Page<'a> {
    title: &'a str,
    subtitle: String,
    verdict: Verdict,
    cards: Vec<Card>,
    notes: Vec<String>,
    sections: Vec<Section>,
    reproduce: Reproduce,
    limits: Vec<String>,
    /// What symbols and words of the page mean.
    words: Vec<(String, String)>,
    frame: Frame,
}

/// What all pages share.
struct Frame {
    version: &'static str,
    style: &'static str,
    script: &'static str,
    /// What the policy in the page knows the style by.
    style_hash: String,
    /// The same of the script.
    script_hash: String,
}

impl Frame {
    fn new() -> Frame {
        let (style, script) = (include_str!("style.css"), include_str!("script.js"));
        let (style_hash, script_hash) = (policy_hash(style), policy_hash(script));
        Frame { version: env!("CARGO_PKG_VERSION"), style, script, style_hash, script_hash }
    }
}

/// What came out, in plain words.
struct Verdict {
    /// `more`, `less`, `none` or `open`: how it looks.
    tone: &'static str,
    headline: String,
    sentences: Vec<String>,
}

/// One number that stands out.
struct Card {
    name: &'static str,
    value: String,
    about: String,
}

/// A part of the page.
#[derive(Default)]
struct Section {
    id: &'static str,
    title: &'static str,
    about: String,
    facts: Vec<(String, String)>,
    figures: Vec<Figure>,
    tables: Vec<Table>,
}

/// A table that sorts and filters.
struct Table {
    id: &'static str,
    title: &'static str,
    about: String,
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

struct Column {
    name: String,
    numeric: bool,
}

struct Cell {
    text: String,
    numeric: bool,
    /// A number to sort by.
    sort: Option<String>,
}

struct Reproduce {
    about: String,
    command: String,
    facts: Vec<(String, String)>,
}

impl Cell {
    fn text(text: impl Into<String>) -> Cell {
        Cell { text: text.into(), numeric: false, sort: None }
    }

    /// With two decimals; empty for none.
    fn percent(value: Option<f64>) -> Cell {
        Cell {
            text: csv::percent(value),
            numeric: true,
            sort: value.filter(|value| value.is_finite()).map(|value| value.to_string()),
        }
    }

    fn count(value: usize) -> Cell {
        Cell { text: value.to_string(), numeric: true, sort: Some(value.to_string()) }
    }

    /// As it is, at the right if it is a number.
    fn plain(text: &str) -> Cell {
        let number = text.parse::<f64>().ok().filter(|value| value.is_finite());
        Cell { text: text.to_string(), numeric: number.is_some(), sort: number.map(|value| value.to_string()) }
    }

    /// A p.
    fn probability(value: Option<f64>) -> Cell {
        let text = value.map_or_else(String::new, super::verdict::probability);
        Cell { text, numeric: true, sort: value.map(|value| value.to_string()) }
    }
}

impl Table {
    fn new(id: &'static str, title: &'static str, about: &str, columns: &[&str], rows: Vec<Vec<Cell>>) -> Table {
        // A column is of numbers if all its cells are that are not empty.
        let numeric = |place: usize| {
            let cells = || rows.iter().filter_map(|row| row.get(place)).filter(|cell| !cell.text.is_empty());
            cells().next().is_some() && cells().all(|cell| cell.numeric)
        };
        // One without a word in it says nothing, as where no class is known.
        let said = |place: &usize| rows.iter().any(|row| row.get(*place).is_some_and(|cell| !cell.text.is_empty()));
        let kept: Vec<usize> = (0..columns.len()).filter(said).collect();
        let columns = kept.iter().map(|&place| Column { name: columns[place].to_string(), numeric: numeric(place) }).collect();
        let keep = |row: Vec<Cell>| {
            row.into_iter().enumerate().filter(|(place, _)| kept.contains(place)).map(|(_, cell)| cell).collect()
        };
        let rows = rows.into_iter().map(keep).collect();
        Table { id, title, about: about.to_string(), columns, rows }
    }
}

/// Facts with their names, without those of which nothing is known.
fn known<const N: usize>(facts: [(&str, String); N]) -> Vec<(String, String)> {
    facts.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name.to_string(), value)).collect()
}

/// All values of a document, with the path to each.
fn settings(value: &serde_json::Value) -> Vec<(String, String)> {
    fn walk(path: &str, value: &serde_json::Value, out: &mut Vec<(String, String)>) {
        match value {
            serde_json::Value::Object(map) if !map.is_empty() => {
                for (key, value) in map {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    walk(&path, value, out);
                }
            }
            serde_json::Value::Array(list) if list.iter().any(|item| item.is_object() || item.is_array()) => {
                for (place, value) in list.iter().enumerate() {
                    walk(&format!("{path}[{place}]"), value, out);
                }
            }
            serde_json::Value::Array(list) => {
                let items: Vec<String> = list.iter().map(plain).collect();
                out.push((path.to_string(), items.join(", ")));
            }
            other => out.push((path.to_string(), plain(other))),
        }
    }
    fn plain(value: &serde_json::Value) -> String {
        match value {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Null => "-".to_string(),
            other => other.to_string(),
        }
    }
    let mut out = Vec::new();
    walk("", value, &mut out);
    out
}

/// A command as a shell takes it.
fn shell(command: &[String]) -> String {
    let words = command.iter().map(String::as_str);
    // Only a NUL cannot be quoted, which no argument of a process has.
    shlex::try_join(words).unwrap_or_else(|_| command.join(" "))
}

fn write(folder: &Path, page: &Page) -> Result<PathBuf> {
    let path = folder.join(FILE);
    let html = page.render().map_err(|error| Error::unexpected(error).at(path.display()))?;
    files::write(&path, without_tricks(&html).as_bytes())?;
    Ok(path)
}

/// Spells out what turns the direction of text around, and what no page can hold: names from files may have it.
fn without_tricks(html: &str) -> String {
    let tricks =
        |c: char| matches!(c, '\0' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    if !html.contains(tricks) {
        return html.to_string();
    }
    html.chars().map(|c| if tricks(c) { c.escape_unicode().to_string() } else { c.to_string() }).collect()
}

/// What a content security policy knows a script or style by.
fn policy_hash(text: &str) -> String {
    format!("sha256-{}", base64::engine::general_purpose::STANDARD.encode(Sha256::digest(text)))
}
