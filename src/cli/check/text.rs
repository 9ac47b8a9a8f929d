//! The text that `cmira check` prints.

use std::collections::BTreeMap;

use crate::check::{self, Check, Rounding};
use crate::error::{ErrorKind, readable};
use crate::graph::{ImportReport, TensorInfo};

/// Characters of a line: the narrowest terminals in use.
const WIDTH: usize = 80;

/// Characters of a label and the space behind it.
const BEHIND: usize = 12;

/// Classes whose accuracy is printed.
const MOST_CLASSES: usize = 20;

/// Frozen tensors that are named without being asked for.
const MOST_FROZEN: usize = 20;

/// What the check found, for people: one thing a line, wrapped.
pub fn summary(check: &Check) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(&wrapped(&readable(&text)));
    };
    line(check.model.clone());
    line(format!("SHA-256:    {}", check.sha256));
    if !check.unsupported.is_empty() {
        line(format!("cannot be imported: {} nodes are not supported", check.unsupported.len()));
        for node in &check.unsupported {
            line(format!("  {}: {}", node.node, node.reason));
        }
        return out;
    }
    let operators: Vec<String> = check.operators.iter().map(|(name, count)| format!("{name} {count}")).collect();
    let memory = check.import_peak_mb.map_or_else(String::new, |peak| format!(" and {peak:.0} MB"));
    line(format!("imported in {:.2} s{memory}, opset {}", check.import_s, check.opset));
    line(format!("operators:  {}", operators.join(", ")));
    let p = &check.parameters;
    line(format!("trainable:  {} numbers in {} tensors", p.trainable, p.trainable_tensors));
    line(format!("frozen:     {} numbers in {} tensors", p.frozen, p.frozen_tensors));
    if let Some(import) = &check.import {
        line(format!("            of these {} running statistics", import.buffers.len()));
        let float_like = import.frozen.iter().filter(|tensor| tensor.may_be_learned());
        for tensor in float_like.clone().take(MOST_FROZEN) {
            line(format!("            {}: {}", name_and_shape(tensor), tensor.reason));
        }
        let hidden = float_like.count().saturating_sub(MOST_FROZEN);
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for tensor in import.frozen.iter().filter(|tensor| !tensor.may_be_learned()) {
            *reasons.entry(tensor.reason).or_insert(0) += 1;
        }
        let mut others: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} ({reason})")).collect();
        if hidden > 0 {
            others.insert(0, format!("{hidden} more of these"));
        }
        if !others.is_empty() {
            line(format!("            and {}; --list names them", others.join(", ")));
        }
        line(format!(
            "output:     {}",
            serde_json::to_value(import.head).map_or_else(|_| String::new(), |v| v.as_str().unwrap_or("").to_string())
        ));
        for output in &import.unused_outputs {
            line(format!("            output '{output}' is not used"));
        }
    }
    for repair in &check.repairs {
        line(format!("repaired:   {repair}"));
    }
    for note in check.import.iter().flat_map(|import| &import.notes) {
        line(format!("note:       {note}"));
    }
    if let Some(parity) = &check.parity {
        line(format!("parity:     {parity}, {} random images", parity.images));
        let batches: Vec<String> = check.batches.iter().map(|(batch, error)| format!("{batch}: {error:.2e}")).collect();
        line(format!("            by batch size {}", batches.join(", ")));
        if let Some(rounding) = &parity.rounding {
            let Rounding { places, numbers, differ, alone, .. } = rounding;
            line(format!("            {differ} of {numbers} numbers at {places} places are rounded to another step"));
            line(format!("            carried on, that moves the outputs by up to {alone:.2e} of the largest"));
        }
        if parity.tolerance > check::PARITY_TOLERANCE {
            line(format!(
                "            up to {:.1e} of the largest output is taken for rounding; a smaller fault would not be seen",
                parity.tolerance
            ));
        }
    }
    if let Some(parity) = &check.images {
        line(format!("on images:  {parity}, {} images", parity.images));
    }
    if let Some(check::OnImages { images, accuracy, chance, classes, exchanged }) = &check.accuracy {
        line(format!("accuracy:   {accuracy:.2} % of {images} labelled images (guessing gets {chance:.2} %)"));
        if *accuracy < 2.0 * chance {
            line("            if it should know them, the adapter is wrong: classes, mean, std, or colours".to_string());
        } else if exchanged.is_empty() {
            line("            is that what you were told? if not, look at classes, mean, std and colours".to_string());
        }
        for (a, b) in exchanged {
            line(format!(
                "            images of {a} are mostly taken for {b}, and the other way round: were the names exchanged?"
            ));
        }
        let hardly: Vec<&str> = classes.iter().filter(|one| one.accuracy < chance / 2.0).map(|one| one.class.as_str()).collect();
        if exchanged.is_empty() && *accuracy >= 2.0 * chance && (2..=MOST_CLASSES).contains(&hardly.len()) {
            line(format!(
                "            hardly an image of {} is right: were they forgotten, or their names exchanged?",
                hardly.join(", ")
            ));
        }
        // An order of classes that is wrong in two places shows in these two alone.
        let mut lowest: Vec<&check::OnClass> = classes.iter().collect();
        lowest.sort_by(|a, b| a.accuracy.total_cmp(&b.accuracy));
        let all = if lowest.len() > MOST_CLASSES {
            format!("; {} more, see --json", lowest.len() - MOST_CLASSES)
        } else {
            String::new()
        };
        let shown = lowest.iter().take(MOST_CLASSES).map(|found| format!("{} {:.0} %", found.class, found.accuracy));
        line(format!("            by class, the lowest first: {}{all}", shown.collect::<Vec<String>>().join(", ")));
    }
    if let Some(gradients) = &check.gradients {
        let text = gradients.fault().unwrap_or_else(|| "finite and not zero for every trainable parameter".to_string());
        line(format!("gradients:  {text}"));
        if let Some(first) = gradients.not_run.first() {
            let count = gradients.not_run.len();
            line(format!("            {count} more stand in subgraphs that these images do not run, first '{first}'"));
        }
        if let Some(step) = gradients.step {
            let check::gradients::Step { learning_rate, before, after } = step;
            line(format!("            one step of {learning_rate:.1e} takes the loss from {before:.4} to {after:.4}"));
        }
    }
    let verdict = match check.verdict().map(|e| e.kind()) {
        None => "can be believed",
        Some(ErrorKind::Disagree) => "cannot be believed",
        Some(_) => "cannot be used",
    };
    let adapter = match &check.accuracy {
        Some(found) if found.is_suspect() => ", but the adapter looks wrong",
        Some(_) => ", if the accuracy is what you were told",
        None => "",
    };
    line(format!("verdict:    this import {verdict}{adapter}"));
    out
}

/// One line for every stored tensor.
pub fn list(import: &ImportReport) -> String {
    let trainable = import.trainable.iter().map(|t| ("trainable", t));
    let buffers = import.buffers.iter().map(|t| ("statistic", t));
    let frozen = import.frozen.iter().map(|t| ("frozen", t));
    let line = |(role, tensor): (&str, &TensorInfo)| {
        let reason = if tensor.reason.is_empty() { String::new() } else { format!("  {}", tensor.reason) };
        format!("{}\n", readable(&format!("{role:<10} {}{reason}", name_and_shape(tensor))))
    };
    trainable.chain(buffers).chain(frozen).map(line).collect()
}

fn name_and_shape(tensor: &TensorInfo) -> String {
    format!("{} {:?}", tensor.name, tensor.shape)
}

/// A text as lines of at most [`WIDTH`] characters, broken between words. What is behind a label stays behind it. A word that is longer
/// stands on a line of its own.
fn wrapped(text: &str) -> String {
    let indent =
        text.chars().take_while(|c| *c == ' ').count().max(if text.get(..BEHIND).is_some_and(is_label) { BEHIND } else { 2 });
    let (start, rest) = text.split_at(text.char_indices().nth(indent).map_or(text.len(), |(at, _)| at));
    let (mut lines, mut line) = (Vec::new(), start.to_string());
    for word in rest.split(' ') {
        let fits = line.chars().count() + 1 + word.chars().count() <= WIDTH;
        if line.trim().is_empty() || line == start {
            line.push_str(word);
        } else if fits {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(std::mem::replace(&mut line, format!("{}{word}", " ".repeat(indent))));
        }
    }
    lines.push(line);
    lines.iter().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn is_label(start: &str) -> bool {
    start.trim_end().ends_with(':') && start.ends_with(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_broken_behind_their_label() {
        let names: Vec<String> = (0..40).map(|i| format!("name{i}")).collect();
        let text = wrapped(&format!("repaired:   {}", names.join(" ")));
        assert!(text.lines().count() > 3 && text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(text.starts_with("repaired:   name0 name1 ") && text.lines().skip(1).all(|l| l.starts_with("            name")));
        let words = |text: &str| text.split_whitespace().map(String::from).collect::<Vec<_>>();
        assert_eq!(words(&text)[1..], names);
    }

    #[test]
    fn what_cannot_be_broken_stays_whole() {
        let name = "x".repeat(3 * WIDTH);
        assert_eq!(wrapped(&name), format!("{name}\n"));
        assert_eq!(wrapped("trainable:  5 numbers"), "trainable:  5 numbers\n");
        assert_eq!(wrapped("é".repeat(200).as_str()).trim_end().chars().count(), 200);
    }
}
