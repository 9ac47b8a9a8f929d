//! YAML files that people write: read whole, bounded, with the place of what is wrong.

use std::fmt::Display;
use std::io::Read;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// More than any settings need (a list of 20,000 class names takes half of it); a larger file is something else.
const MAX_BYTES: u64 = 1 << 20;

/// Brackets inside one another. The parser's time grows with the square of this.
const MAX_NESTING: usize = 100;

/// The text of a file.
///
/// # Errors
/// Usage, naming the file: it cannot be read, is no text, or is larger than 1 MiB.
pub fn read(path: &Path) -> Result<String> {
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text));
    read.map_err(|error| Error::usage(error).at(path.display()))?;
    if u64::try_from(text.len()).is_ok_and(|bytes| bytes > MAX_BYTES) {
        return Err(Error::usage(format!("is larger than {MAX_BYTES} bytes, which no settings need")).at(path.display()));
    }
    Ok(text)
}

/// What a text says; of one without content, the default. `name` stands for the file in errors.
///
/// # Errors
/// Usage, naming file and line: the text is not YAML, nests too deep, has an unknown field or a wrong type.
pub fn parse<T: DeserializeOwned + Default>(text: &str, name: impl Display) -> Result<T> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(T::default());
    }
    if let Some(line) = nests_too_deep(text) {
        return Err(Error::usage(format!("brackets nest deeper than {MAX_NESTING}")).at(format!("{name}:{line}")));
    }
    serde_yaml::from_str(text).map_err(|error| {
        let reason = error.to_string();
        let nearest = nearest_known(&reason);
        let error = match error.location() {
            // What is read a second time, as a part that has defaults of its own, has lost its place.
            Some(place) if (place.line(), place.column()) == (1, 1) && unknown(&reason).is_some() => {
                let tail = " at line 1 column 1";
                // Below the part's own key, if the message begins with it: elsewhere the unknown key may be a known one.
                let before = reason.split_once(": unknown field").and_then(|(part, _)| line_of(text, part)).unwrap_or(1) - 1;
                let below: String = text.lines().skip(before).map(|line| format!("{line}\n")).collect();
                let line = before + unknown(&reason).and_then(|key| line_of(&below, key)).unwrap_or(1);
                Error::usage(reason.strip_suffix(tail).unwrap_or(&reason)).at(format!("{name}:{line}"))
            }
            Some(place) => {
                let tail = format!(" at line {} column {}", place.line(), place.column());
                let reason = reason.strip_suffix(&tail).unwrap_or(&reason).to_string();
                Error::usage(reason).at(format!("{name}:{}:{}", place.line(), place.column()))
            }
            None => Error::usage(reason).at(&name),
        };
        match nearest {
            Some(nearest) => error.help(format!("did you mean `{nearest}`?")),
            None => error,
        }
    })
}

/// The key that an error message is about that nobody knows.
fn unknown(reason: &str) -> Option<&str> {
    reason.split_once("unknown field `")?.1.split_once('`').map(|(key, _)| key)
}

/// Of the keys that an error message about an unknown one lists, the one that is most like it, if any is.
fn nearest_known(reason: &str) -> Option<String> {
    let unknown = unknown(reason)?;
    let (_, rest) = reason.split_once(&format!("unknown field `{unknown}`"))?;
    let known = rest.split('`').skip(1).step_by(2);
    let (distance, nearest) = known.map(|key| (distance(unknown, key), key)).min()?;
    (distance <= 2.max(unknown.chars().count() / 3)).then(|| nearest.to_string())
}

/// How many letters have to be put in, taken away or exchanged (Levenshtein 1966), two neighbours that changed places counting as two.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut before = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let replaced = before + usize::from(from != *to);
            before = row[j + 1];
            row[j + 1] = replaced.min(before + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// The line, from 1, in which brackets nest too deep. Brackets in quotes and comments count as well: settings have neither so many.
fn nests_too_deep(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (index, line) in text.lines().enumerate() {
        for letter in line.chars() {
            match letter {
                '[' | '{' => depth += 1,
                ']' | '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > MAX_NESTING {
                return Some(index + 1);
            }
        }
    }
    None
}

/// The line, from 1, on which a key stands first.
pub fn line_of(text: &str, key: &str) -> Option<usize> {
    let mentions = |line: &str| {
        line.match_indices(key).any(|(start, _)| {
            let before = line.get(..start).and_then(|before| before.chars().next_back());
            let after = line.get(start + key.len()..).map(str::trim_start);
            before.is_none_or(|c| !c.is_alphanumeric() && c != '_') && after.is_some_and(|after| after.starts_with(':'))
        })
    };
    text.lines().position(|line| !line.trim_start().starts_with('#') && mentions(line)).map(|index| index + 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn deep_brackets_are_refused_at_once_with_their_line() {
        let error = parse::<BTreeMap<String, i64>>(&format!("a: 1\nb: {}", "[".repeat(200_000)), "s.yaml").unwrap_err();
        assert_eq!(error.to_string(), "s.yaml:2: brackets nest deeper than 100");
    }

    #[test]
    fn a_file_without_content_is_the_default() {
        for text in ["", "\n# nothing\n"] {
            assert_eq!(parse::<BTreeMap<String, i64>>(text, "s.yaml").unwrap(), BTreeMap::new());
        }
    }

    #[test]
    fn the_nearest_key_is_named() {
        #[derive(Debug, Default, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        #[allow(dead_code, reason = "only its keys matter")]
        struct Keys {
            learning_rate: f64,
            epochs: usize,
        }
        let error = |text: &str| parse::<Keys>(text, "s.yaml").unwrap_err().to_string();
        assert!(error("epochs: 1\nlearning_rat: 0.1\n").ends_with("(did you mean `learning_rate`?)"));
        assert!(error("epcohs: 1\n").ends_with("(did you mean `epochs`?)"));
        assert!(!error("colour: 1\n").contains("did you mean"));
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn what_is_wrong_has_a_place() {
        let error = parse::<BTreeMap<String, i64>>("a: 1\nb: x\n", "s.yaml").unwrap_err().to_string();
        assert!(error.starts_with("s.yaml:2:4: "), "{error}");
    }
}
