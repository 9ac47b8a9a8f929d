//! Data flows one way: a module of `src/` uses only modules to its left.

use super::rust::{Token, tokens};

/// The modules of `src/` from left to right. Those that share a place know nothing of each other.
const ORDER: &[&[&str]] = &[
    &["error"],
    &["files"],
    &["tensor"],
    &["yaml"],
    &["onnx"],
    &["graph"],
    &["nets", "data"],
    &["check", "train"],
    &["unlearn", "attack"],
    &["metrics"],
    &["report"],
    &["harness"],
    &["cli"],
];

/// Crates that have one door, and the modules that are the door.
const DOORS: &[(&str, &[&str])] = &[
    // libtorch: every other module gets at it through `tensor`; `error` turns its errors into ours.
    ("tch", &["error", "tensor"]),
    // ONNX Runtime is the independent witness, never part of the work that it is a witness of.
    ("ort", &["check", "cli"]),
];

/// Every path in a file of `src/` that goes the wrong way: its line and what is wrong. `path` is relative to `src/`. Test code is
/// exempt, since it may want what stands to the right to check its results.
pub fn check(path: &str, source: &str) -> Vec<(usize, String)> {
    let parts: Vec<&str> = path.trim_end_matches(".rs").trim_end_matches("/mod").split('/').collect();
    let module = parts[0];
    if matches!(module, "lib" | "main") || parts.ends_with(&["tests"]) {
        return Vec::new();
    }
    let Some(place) = place(module) else {
        return vec![(1, format!("module '{module}' has no place in the order; give it one in xtask/src/tidy/modules.rs"))];
    };
    let tokens = tokens(source);
    let code = &tokens[..start_of_tests(&tokens)];
    let mut wrong = Vec::new();
    for (line, target) in crate_paths(code, parts.len()) {
        let reaches_right = self::place(&target).is_some_and(|other| other > place || other == place && target != module);
        if reaches_right {
            wrong.push((line, format!("'{module}' uses '{target}', which does not stand to its left")));
        }
    }
    for (line, name) in path_roots(code) {
        if let Some((_, doors)) = DOORS.iter().find(|(door, _)| *door == name)
            && !doors.contains(&module)
        {
            wrong.push((line, format!("'{module}' uses the crate '{name}', which only {} may", doors.join(" and "))));
        }
    }
    wrong
}

fn place(module: &str) -> Option<usize> {
    ORDER.iter().position(|names| names.contains(&module))
}

/// The index of `#[cfg(test)] mod`, behind which only tests come.
fn start_of_tests(tokens: &[Token]) -> usize {
    const ATTRIBUTE: [&str; 8] = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];
    tokens
        .windows(ATTRIBUTE.len())
        .position(|window| window.iter().map(|token| token.text.as_str()).eq(ATTRIBUTE))
        .unwrap_or(tokens.len())
}

/// The names that follow `crate::`, or as many `super::` as lead there from a module of that depth, with their lines; of
/// `crate::{a, b::c}` both `a` and `b`.
fn crate_paths(tokens: &[Token], depth: usize) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let is_root = tokens[at].text == "crate" || supers(tokens, at) == depth;
        let behind = if tokens[at].text == "crate" { at + 1 } else { at + 3 * depth - 2 };
        if is_root && !preceded_by_path(tokens, at) && is_separator(tokens, behind) {
            found.extend(names_of_group(tokens, behind + 2));
        }
        at += 1;
    }
    found
}

/// How many times `super` stands here, joined by `::`.
fn supers(tokens: &[Token], at: usize) -> usize {
    let is_super = |index: usize| tokens.get(index).is_some_and(|token| token.text == "super");
    let mut count = 0;
    while is_super(at + 3 * count) && (count == 0 || is_separator(tokens, at + 3 * count - 2)) {
        count += 1;
    }
    count
}

fn is_separator(tokens: &[Token], at: usize) -> bool {
    matches!(tokens.get(at..at + 2), Some([first, second]) if first.text == ":" && second.text == ":")
}

fn preceded_by_path(tokens: &[Token], at: usize) -> bool {
    at >= 2 && is_separator(tokens, at - 2)
}

/// The name here, or the first name of each member of the group here.
fn names_of_group(tokens: &[Token], start: usize) -> Vec<(usize, String)> {
    let Some(first) = tokens.get(start) else { return Vec::new() };
    if first.text != "{" {
        return vec![(first.line, first.text.clone())];
    }
    let mut names = Vec::new();
    let mut depth = 0_usize;
    let mut expects_name = true;
    for token in &tokens[start..] {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" if depth == 1 => break,
            "}" => depth -= 1,
            "," if depth == 1 => expects_name = true,
            name if depth == 1 && expects_name => {
                names.push((token.line, name.to_string()));
                expects_name = false;
            }
            _ => {}
        }
    }
    names
}

/// The first names of all paths, with their lines.
fn path_roots(tokens: &[Token]) -> impl Iterator<Item = (usize, &str)> {
    tokens.iter().enumerate().filter_map(|(at, token)| {
        let is_used = is_separator(tokens, at + 1) || at > 0 && tokens[at - 1].text == "use";
        // `::ort::x` begins with the crate, `a::ort::x` does not.
        let before = (preceded_by_path(tokens, at) && at >= 3).then(|| tokens[at - 3].text.as_str());
        let follows_name = before.is_some_and(|text| text != "use" && text.chars().all(|c| c.is_alphanumeric() || c == '_'));
        (is_used && !follows_name).then_some((token.line, token.text.as_str()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(path: &str, source: &str) -> Vec<(usize, String)> {
        check(path, source)
    }

    #[test]
    fn paths_to_the_left_are_right() {
        for (path, source) in [
            ("graph/model.rs", "use crate::{error::Result, onnx, tensor::{Kind, Tensor}};"),
            ("graph/ops/conv.rs", "use crate::graph::plan::Plan; use super::super::plan; use super::pad;"),
            ("cli/check.rs", "use crate::check; use ort::session::Session;"),
            ("tensor.rs", "pub use tch::Tensor;"),
            ("attack/mutual.rs", "/// See [`crate::report`].\nfn f() { \"crate::cli\"; } // crate::cli\n"),
            ("onnx/read.rs", "#[cfg(test)]\nmod tests { use crate::graph::Model; }"),
            ("graph/tests.rs", "use crate::cli;"),
            ("lib.rs", "pub use crate::cli::run;"),
            ("data/mod.rs", "fn sort(ort: u8) { other::ort::f(); }"),
        ] {
            assert_eq!(wrong(path, source), [], "{path}: {source}");
        }
    }

    #[test]
    fn paths_to_the_right_are_found() {
        for (path, source, line, target) in [
            ("onnx/read.rs", "use crate::error;\nuse crate::graph::Model;", 2, "'graph'"),
            ("onnx/mod.rs", "fn f() -> crate::cli::X {}", 1, "'cli'"),
            ("graph/model.rs", "use crate::{\n    onnx,\n    nets::{a, b},\n};", 3, "'nets'"),
            ("graph/mod.rs", "use super::attack;", 1, "'attack'"),
            ("graph/ops/conv.rs", "use super::super::super::attack;", 1, "'attack'"),
            ("nets/resnet.rs", "use crate::data;", 1, "'data'"),
            ("unlearn/ga.rs", "use crate::attack::mutual;", 1, "'attack'"),
            ("attack/mod.rs", "use crate::report; /* */", 1, "'report'"),
            ("graph/mod.rs", "fn f() { ort::init(); }", 1, "crate 'ort'"),
            ("graph/mod.rs", "use ::ort::init;", 1, "crate 'ort'"),
            ("attack/mod.rs", "use tch;", 1, "crate 'tch'"),
            ("novel.rs", "", 1, "'novel' has no place"),
        ] {
            let findings = wrong(path, source);
            assert_eq!(findings.len(), 1, "{path}: {source}: {findings:?}");
            assert!(findings[0].0 == line && findings[0].1.contains(target), "{path}: {findings:?}");
        }
    }
}
