//! Settings of the attack: from a file and options, and as a file to begin with, every key explained.

use std::path::Path;

use serde_json::Value as Json;
use serde_yaml::{Mapping, Value};

use crate::attack::{AttackSettings, StopRule};
use crate::error::{Error, Place, Result};
use crate::nets::Backbone;
use crate::yaml;

/// Characters of a line of comment.
const WIDTH: usize = 100;

/// Keys of a stage's training that the attack decides itself, so that no file can set them.
const DECIDED: [&str; 2] = ["seed", "direction"];

/// What a file and options say, the options having the last word.
///
/// # Errors
/// Usage, naming file and key.
pub fn read(file: Option<&Path>, seed: Option<u64>, backbone: Option<Backbone>, oracle: bool) -> Result<AttackSettings> {
    let mut settings = match file {
        None => AttackSettings::default(),
        Some(path) => {
            let settings: AttackSettings = yaml::parse(&yaml::read(path)?, path.display())?;
            settings.validate().at(|| path.display())?;
            settings
        }
    };
    settings.seed = seed.unwrap_or(settings.seed);
    settings.backbone = backbone.unwrap_or(settings.backbone);
    if oracle {
        settings.stop = StopRule::Oracle;
    }
    settings.validate()?;
    Ok(settings)
}

/// All settings with their values as YAML that can be read again, what each is for above it.
///
/// # Errors
/// Unexpected, when they cannot be written as YAML.
pub fn explained(settings: &AttackSettings) -> Result<String> {
    let schema = serde_json::to_value(schemars::schema_for!(AttackSettings)).map_err(Error::unexpected)?;
    let Value::Mapping(all) = serde_yaml::to_value(settings).map_err(Error::unexpected)? else {
        return Err(Error::unexpected("settings are no mapping"));
    };
    let mut out = String::new();
    mapping(&mut out, 0, &all, &schema, &schema)?;
    Ok(out)
}

/// Writes a mapping as its part of the schema explains it; `whole` is the schema that parts refer to.
fn mapping(out: &mut String, indent: usize, keys: &Mapping, schema: &Json, whole: &Json) -> Result<()> {
    let margin = " ".repeat(indent);
    for (key, value) in keys {
        let key = key.as_str().unwrap_or_default();
        if indent > 0 && DECIDED.contains(&key) {
            continue;
        }
        let property = &schema["properties"][key];
        // What a training loop has by default is not what the attack has.
        let about = property["description"].as_str().unwrap_or_default();
        let about = about.split(" Default ").next().unwrap_or_default();
        for line in wrapped(about, WIDTH - indent) {
            out.push_str(&format!("{margin}# {line}\n"));
        }
        if let Value::Mapping(inner) = value {
            out.push_str(&format!("{margin}{key}:\n"));
            mapping(out, indent + 2, inner, referred(property, whole), whole)?;
        } else {
            let value = serde_yaml::to_string(value).map_err(Error::unexpected)?;
            out.push_str(&format!("{margin}{key}: {}\n", value.trim_end()));
        }
    }
    Ok(())
}

/// The part of a schema that another part names instead of having it.
fn referred<'a>(part: &'a Json, whole: &'a Json) -> &'a Json {
    let place = part["$ref"].as_str().and_then(|name| name.strip_prefix('#'));
    place.and_then(|place| whole.pointer(place)).unwrap_or(part)
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_string()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_printed_is_explained_and_can_be_read_again() {
        let changed = AttackSettings { iterations: 17, ..AttackSettings::default() };
        let text = explained(&changed).unwrap();
        assert_eq!(serde_yaml::from_str::<AttackSettings>(&text).unwrap(), changed);
        serde_yaml::from_str::<AttackSettings>(&text).unwrap().validate().unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let explained = |start: &str| {
            let place = lines.iter().position(|line| line.starts_with(start)).unwrap();
            assert!(lines[place - 1].trim_start().starts_with("# "), "{start}: {text}");
        };
        ["seed:", "confidence_threshold:", "pretrain:", "  epochs:", "  schedule:"].into_iter().for_each(explained);
        // The attack has one seed.
        assert_eq!(lines.iter().filter(|line| line.trim_start().starts_with("seed:")).count(), 1, "{text}");
        assert!(!text.contains("Default 30") && lines.iter().all(|line| line.chars().count() <= WIDTH + 2), "{text}");
    }
}
