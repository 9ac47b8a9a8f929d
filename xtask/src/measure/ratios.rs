//! Speeds that do not depend on how fast a processor is, so that they can be stored and compared.

use std::fs;
use std::process::Command;

use serde_json::{Map, Value};

use super::peers::middle;
use super::{OutputWithStderr, machine};
use crate::failure::{At, Failure, Result};
use crate::setup::{self, Wishes};
use crate::workspace::{self, Workspace};

pub const DETAILS: &str = "\
Makes a ResNet18 and the demonstration's small network, times both by `cmira bench` three times in float32 and bfloat16, and gives ratios:
bfloat16 over float32, and the share that training has of how fast the processor multiplies matrices. `--check` compares with
docs/results/speed-ratios.json and fails where a ratio has fallen by more than a sixth; `--bless` writes that file. Ratios depend on what a
processor can do, so that those of another kind are refused. Leave the machine alone meanwhile.";

/// How much of a ratio has to be left.
const LEFT: f64 = 5.0 / 6.0;

const ROUNDS: usize = 3;

/// Network, images of a batch, images of an epoch.
const RUNS: [(&str, &str, &str); 2] = [("resnet18", "64", "256"), ("resnet8", "64", "2048")];

pub fn run(workspace: &Workspace, check: bool, bless: bool) -> Result<()> {
    if check && bless {
        return Err(Failure::usage("--check and --bless exclude each other"));
    }
    let stored = workspace.root().join("docs/results/speed-ratios.json");
    let known: Option<Value> = if check {
        let text = fs::read_to_string(&stored).at(&stored)?;
        Some(serde_json::from_str(&text).map_err(|error| Failure::new(format!("{}: {error}", stored.display())))?)
    } else {
        None
    };
    if let Some(known) = &known
        && known["machine"] != machine().as_str()
    {
        let reason = format!("the stored ratios are of {}, and this is {}", known["machine"], machine());
        return Err(Failure::usage(format!("{reason}\n  `cargo xtask bench --bless` stores this machine's")));
    }
    setup::run(workspace, Wishes { conformance: false, cuda: false })?;
    let ratios = measure(workspace)?;
    for (name, value) in &ratios {
        println!("{name:<40} {:.3}", value.as_f64().unwrap_or(f64::NAN));
    }
    if bless {
        let all = serde_json::json!({ "machine": machine(), "ratios": ratios });
        let text = serde_json::to_string_pretty(&all).map_err(Failure::new)?;
        return fs::write(&stored, text + "\n").at(&stored);
    }
    let Some(known) = known else { return Ok(()) };
    let fallen = fallen(&known["ratios"], &ratios);
    if fallen.is_empty() {
        println!("no ratio has fallen by more than a sixth");
        return Ok(());
    }
    Err(Failure::new(format!("slower than it was:\n  {}", fallen.join("\n  "))))
}

/// The stored ratios that are no longer reached, or no longer measured.
fn fallen(known: &Value, found: &Map<String, Value>) -> Vec<String> {
    let known = known.as_object().into_iter().flatten();
    let pairs = known.map(|(name, stored)| (name, stored.as_f64().unwrap_or(f64::NAN), found.get(name).and_then(Value::as_f64)));
    let bad = pairs.filter(|(_, stored, found)| !found.is_some_and(|found| found >= stored * LEFT));
    bad.map(|(name, stored, found)| match found {
        Some(found) => format!("{name}: {found:.3}, stored is {stored:.3}"),
        None => format!("{name} was not measured"),
    })
    .collect()
}

fn measure(workspace: &Workspace) -> Result<Map<String, Value>> {
    let binary = workspace::build_released(workspace)?;
    let folder = workspace.root().join("out/bench");
    fs::create_dir_all(&folder).at(&folder)?;
    let mut ratios = Map::new();
    for (network, batch, images) in RUNS {
        let model = folder.join(format!("{network}.onnx"));
        let mut make = Command::new(&binary);
        make.args(["train", "--epochs", "0", "--backbone", network, "--device", "cpu", "--quiet", "--data"]);
        make.arg(workspace.root().join("fixtures/images/probe")).arg("--out").arg(&model).output_with_stderr()?;
        let mut seen: [Vec<Value>; 2] = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (precision, seen) in ["fp32", "bf16"].into_iter().zip(&mut seen) {
                let mut command = Command::new(&binary);
                command.args([
                    "bench",
                    "--json",
                    "--device",
                    "cpu",
                    "--precision",
                    precision,
                    "--batch",
                    batch,
                    "--images",
                    images,
                ]);
                let printed = command.arg(&model).output_with_stderr()?;
                seen.push(serde_json::from_str(printed.trim()).map_err(Failure::new)?);
            }
        }
        let [exact, small] = &seen;
        let figure =
            |rounds: &[Value], key: &str| middle(&rounds.iter().filter_map(|round| round[key].as_f64()).collect::<Vec<_>>());
        let share = |rounds: &[Value]| {
            let multiplied = |round: &Value| {
                let per_image = 3.0 * round["cost"]["multiplications"].as_f64()?;
                Some(round["train_images_per_s"].as_f64()? * per_image / 1e9 / round["multiply_gmacs_per_s"].as_f64()?)
            };
            middle(&rounds.iter().filter_map(multiplied).collect::<Vec<_>>())
        };
        let over = |key: &str| figure(small, key).zip(figure(exact, key)).map(|(small, exact)| small / exact);
        let found = [
            ("training, bf16 over fp32", over("train_images_per_s")),
            ("evaluation, bf16 over fp32", over("eval_images_per_s")),
            ("training in fp32, share of products", share(exact)),
            ("training in bf16, share of products", share(small)),
        ];
        for (name, value) in found {
            let value = value.ok_or_else(|| Failure::new(format!("{network}: {name} was not measured")))?;
            ratios.insert(format!("{network}: {name}"), value.into());
        }
    }
    Ok(ratios)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_falls_or_is_gone_is_named() {
        let known = serde_json::json!({ "a": 2.0, "b": 2.0, "c": 1.0 });
        let found = serde_json::json!({ "a": 1.7, "b": 1.6 });
        let found = fallen(&known, found.as_object().unwrap());
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("b: 1.600") && found[1].starts_with("c was not measured"), "{found:?}");
    }
}
