//! How a model wants its images, and what its outputs mean: the settings that an ONNX file does not state.

use std::fmt::Display;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::graph::{Layout, Repairs};
use crate::yaml;

/// The largest image side that can be asked for, in pixels.
const MAX_SIDE: usize = 16_384;

/// What an ONNX classifier file does not say about itself. Every field may be left out.
///
/// ```yaml
/// input:
///   channels: 3
///   height: 32
///   width: 32
///   mean: [0.4914, 0.4822, 0.4465]
///   std: [0.2470, 0.2435, 0.2616]
/// classes: [airplane, automobile, bird]
/// output: logits
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Adapter {
    /// From stored bytes to the numbers that the model was trained on.
    pub input: Input,
    /// The classes' names in the order of the model's outputs; without it, the image folder's own order is taken.
    pub classes: Option<Vec<String>>,
    /// The name of the value in the graph that holds the scores of the classes; without it, the first output that can hold them.
    pub scores: Option<String>,
    /// What the scores are.
    pub output: Output,
    /// What of an exporter's doings is undone.
    pub repairs: Repairs,
}

/// From stored bytes to the numbers that the model was trained on: `(byte * scale - mean) / std`, channel by channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Input {
    /// 1 (grey) or 3 (red, green, blue, in this order); without it, what the model file says.
    pub channels: Option<usize>,
    /// Image height in pixels, at least 1; without it, what the model file says.
    pub height: Option<usize>,
    /// Image width in pixels, at least 1; without it, what the model file says.
    pub width: Option<usize>,
    /// The order in which the file takes an image's numbers; without it, what the file's declared dimensions tell.
    pub layout: Option<Layout>,
    /// What a stored byte is multiplied with; above 0. The default, 1/255, gives numbers from 0 to 1.
    pub scale: f32,
    /// Subtracted after scaling: one number for all channels, or one a channel. Default 0.
    pub mean: Vec<f32>,
    /// Divided by after subtracting: one number for all channels, or one a channel; above 0. Default 1.
    pub std: Vec<f32>,
}

impl Default for Input {
    fn default() -> Self {
        Input { channels: None, height: None, width: None, layout: None, scale: 1.0 / 255.0, mean: vec![0.0], std: vec![1.0] }
    }
}

/// What a classifier's outputs are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// Seen from the graph: a Softmax or LogSoftmax at the end, or numbers that such a function gives; anything else means logits.
    #[default]
    Auto,
    /// Unnormalised scores, any real number.
    Logits,
    /// From 0 to 1, summing to 1 over the classes.
    Probabilities,
    /// Logarithms of probabilities, at most 0.
    LogProbabilities,
}

impl Adapter {
    /// The JSON Schema of adapter files, for editors: `docs/adapter.schema.json` is this.
    pub fn json_schema() -> String {
        let schema = schemars::schema_for!(Adapter);
        // A schema is plain JSON, which can be written.
        serde_json::to_string_pretty(&schema).unwrap_or_default() + "\n"
    }

    /// Reads and checks an adapter file.
    ///
    /// # Errors
    /// Usage, naming the file and, where it can be told, the line: the file cannot be read, is not YAML, has an unknown field
    /// or a wrong type, or breaks a rule stated at a field.
    pub fn read(path: &Path) -> Result<Adapter> {
        let text = yaml::read(path)?;
        Self::parse(&text, path.display())
    }

    /// Reads and checks an adapter that is already in memory; `name` stands for the file in errors.
    ///
    /// # Errors
    /// As [`Adapter::read`].
    pub fn parse(text: &str, name: impl Display) -> Result<Adapter> {
        let adapter: Adapter = yaml::parse(text, &name)?;
        adapter.check().map_err(|broken| {
            let error = Error::usage(broken.reason);
            // Keys are unique in this schema, so no nesting has to be followed.
            match yaml::line_of(text, broken.key) {
                Some(line) => error.at(format!("{name}:{line}")),
                None => error.at(&name),
            }
        })?;
        Ok(adapter)
    }

    /// Checks every rule stated at a field, for an adapter that was built in code.
    ///
    /// # Errors
    /// Usage, naming the field.
    pub fn validate(&self) -> Result<()> {
        self.check().map_err(|broken| Error::usage(broken.reason))
    }

    fn check(&self) -> std::result::Result<(), Broken> {
        self.input.check()?;
        let Some(classes) = &self.classes else { return Ok(()) };
        let broken = |reason| Err(Broken { key: "classes", reason });
        if classes.is_empty() {
            return broken("classes: the list is empty".to_string());
        }
        let mut seen = std::collections::HashSet::new();
        for class in classes {
            if class.is_empty() {
                return broken("classes: a name is empty".to_string());
            }
            if !seen.insert(class) {
                return broken(format!("classes: '{class}' is listed twice"));
            }
        }
        Ok(())
    }
}

impl Input {
    /// `[C, H, W]` of the images, if height and width are stated; 3 channels where none are.
    pub fn image_shape(&self) -> Option<[i64; 3]> {
        let number = |n: usize| i64::try_from(n).ok();
        Some([number(self.channels.unwrap_or(3))?, number(self.height?)?, number(self.width?)?])
    }

    /// Mean and std with exactly one number a channel.
    ///
    /// # Errors
    /// Usage, when a list is neither of length 1 nor of length `channels`, or a number breaks its field's rule.
    pub fn normalisation(&self, channels: usize) -> Result<(Vec<f32>, Vec<f32>)> {
        self.check().map_err(|broken| Error::usage(broken.reason))?;
        let spread = |key: &str, values: &[f32]| match values {
            [one] => Ok(vec![*one; channels]),
            many if many.len() == channels => Ok(many.to_vec()),
            many => Err(Error::usage(format!("input.{key}: has {} numbers for {channels} channels", many.len()))
                .help("give one number, or one a channel")),
        };
        Ok((spread("mean", &self.mean)?, spread("std", &self.std)?))
    }

    fn check(&self) -> std::result::Result<(), Broken> {
        let broken = |key, reason: String| Err(Broken { key, reason: format!("input.{key}: {reason}") });
        if let Some(channels) = self.channels
            && channels != 1
            && channels != 3
        {
            return broken("channels", format!("is {channels}, but only 1 (grey) and 3 (RGB) are possible"));
        }
        for (key, side) in [("height", self.height), ("width", self.width)] {
            if let Some(side) = side
                && !(1..=MAX_SIDE).contains(&side)
            {
                return broken(key, format!("is {side}, but has to be from 1 to {MAX_SIDE}"));
            }
        }
        if !(self.scale.is_finite() && self.scale > 0.0) {
            return broken("scale", format!("is {}, but has to be above 0", self.scale));
        }
        for (key, values) in [("mean", &self.mean), ("std", &self.std)] {
            let fits = match self.channels {
                Some(channels) => values.len() == 1 || values.len() == channels,
                None => values.len() == 1 || values.len() == 3,
            };
            if !fits {
                let wanted = self.channels.map_or("3".to_string(), |channels| channels.to_string());
                return broken(key, format!("has {} numbers; give one, or one a channel ({wanted})", values.len()));
            }
            if let Some(value) = values.iter().find(|value| !value.is_finite()) {
                return broken(key, format!("{value} is not a finite number"));
            }
        }
        match self.std.iter().find(|value| **value <= 0.0) {
            Some(value) => broken("std", format!("is {value}, but has to be above 0")),
            None => Ok(()),
        }
    }
}

/// A broken rule and the YAML key that it stands under.
struct Broken {
    key: &'static str,
    reason: String,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::error::ErrorKind;

    fn refusal(text: &str) -> String {
        let error = Adapter::parse(text, "a.yaml").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        error.to_string()
    }

    #[test]
    fn nothing_stated_is_the_default() {
        for text in ["", "# only a comment\n", "{}", "input: {}"] {
            assert_eq!(Adapter::parse(text, "a.yaml").unwrap(), Adapter::default(), "{text:?}");
        }
        assert_eq!(Adapter::default().input.normalisation(3).unwrap(), (vec![0.0; 3], vec![1.0; 3]));
    }

    #[test]
    fn every_field_is_read_and_written_back() {
        let text = "input:\n  channels: 3\n  height: 32\n  width: 48\n  layout: nchw\n  scale: 1\n  mean: [1, 2, 3]\n  std: [4]\n\
                    classes: [cat, dog]\noutput: log_probabilities\n";
        let adapter = Adapter::parse(text, "a.yaml").unwrap();
        assert_eq!((adapter.input.channels, adapter.input.height, adapter.input.width), (Some(3), Some(32), Some(48)));
        assert_eq!(adapter.input.normalisation(3).unwrap(), (vec![1.0, 2.0, 3.0], vec![4.0; 3]));
        assert_eq!(adapter.classes.as_deref().unwrap(), ["cat", "dog"]);
        assert_eq!(adapter.output, Output::LogProbabilities);
        assert_eq!(Adapter::parse(&serde_yaml::to_string(&adapter).unwrap(), "b").unwrap(), adapter);
    }

    #[test]
    fn refusals_name_file_line_and_rule() {
        let cases = [
            ("input:\n  std: [1, 0, 1]\n", "a.yaml:2: input.std: is 0"),
            ("input:\n  mean: [.nan]\n", "a.yaml:2: input.mean: NaN is not a finite number"),
            ("input:\n  std: [1, 1]\n", "a.yaml:2: input.std: has 2 numbers"),
            ("input:\n  channels: 1\n  mean: [0, 0, 0]\n", "a.yaml:3: input.mean: has 3 numbers"),
            ("input:\n  channels: 4\n", "a.yaml:2: input.channels: is 4"),
            ("input: {scale: 0}\n", "a.yaml:1: input.scale: is 0"),
            ("input:\n  height: 0\n", "a.yaml:2: input.height: is 0"),
            ("# classes: none\nclasses: [a, b, a]\n", "a.yaml:2: classes: 'a' is listed twice"),
            ("classes: []\n", "a.yaml:1: classes: the list is empty"),
        ];
        for (text, expected) in cases {
            let message = refusal(text);
            assert!(message.starts_with(expected), "{message}");
        }
    }

    #[test]
    fn malformed_yaml_names_file_and_line() {
        for (text, line, word) in [
            ("input:\n  means: [0]\n", "a.yaml:2:", "means"),
            ("output: softmax\n", "a.yaml:1:", "softmax"),
            ("input:\n  layout: nwhc\n", "a.yaml:2:", "nwhc"),
            ("input:\n  height: -3\n", "a.yaml:2:", "-3"),
            ("input: [\n", "a.yaml:", ""),
        ] {
            let message = refusal(text);
            assert!(message.starts_with(line) && message.contains(word), "{message}");
        }
    }

    #[test]
    fn missing_and_huge_files_are_usage_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yaml");
        assert_eq!(Adapter::read(&path).unwrap_err().kind(), ErrorKind::Usage);
        std::fs::write(&path, vec![b'#'; 2 << 20]).unwrap();
        assert!(Adapter::read(&path).unwrap_err().to_string().contains("larger than"));
        std::fs::write(&path, "output: logits\n").unwrap();
        assert_eq!(Adapter::read(&path).unwrap().output, Output::Logits);
    }
}
