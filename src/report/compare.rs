//! The paper's figures, ours, and the difference, side by side.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::csv;
use crate::error::{Error, Result};

/// A line of a CSV file by its header.
type Line = BTreeMap<String, String>;

/// One figure of the paper and where it stands.
struct Printed {
    table: &'static str,
    dataset: String,
    backbone: String,
    method: String,
    /// The class or the variant, where the table has them.
    part: String,
    figure: &'static str,
    value: f64,
}

const HEADER: [&str; 10] = ["table", "dataset", "backbone", "method", "part", "figure", "paper", "ours", "difference", "seeds"];

/// Compares `results.csv` of a folder with the paper's tables in another (`table1_overall.csv`, `tableA3_classwise.csv`,
/// `tableA4_A5_ablation.csv`) and writes `compare.csv` beside the former: a row for every figure of the paper, ours empty where the grid
/// has no such cell. Ours are means over seeds.
///
/// # Errors
/// Data, when a file is missing or a number in it cannot be read.
pub fn write(results: &Path, paper: &Path) -> Result<PathBuf> {
    let ours = read(&results.join("results.csv"))?;
    let mut rows = Vec::new();
    for printed in printed(paper)? {
        let found: Vec<f64> = ours.iter().filter_map(|line| value(line, &printed)).collect();
        let mean = (!found.is_empty()).then(|| found.iter().sum::<f64>() / found.len() as f64);
        let mut row = vec![printed.table.to_string()];
        row.extend([&printed.dataset, &printed.backbone, &printed.method, &printed.part].map(|text| csv::text(text)));
        row.push(printed.figure.to_string());
        row.extend([Some(printed.value), mean, mean.map(|mean| mean - printed.value)].map(csv::percent));
        row.push(found.len().to_string());
        rows.push(row);
    }
    let path = results.join("compare.csv");
    csv::write(&path, &HEADER, &rows)?;
    Ok(path)
}

fn read(path: &Path) -> Result<Vec<Line>> {
    let failed = |error: ::csv::Error| Error::data(error).at(path.display());
    let lines = ::csv::Reader::from_path(path).map_err(failed)?.into_deserialize().collect::<std::result::Result<Vec<Line>, _>>();
    lines.map_err(failed)
}

fn printed(paper: &Path) -> Result<Vec<Printed>> {
    let mut all = Vec::new();
    let mut add = |file: &str, table: &'static str, figures: &[(&str, &'static str)], part: &str| -> Result<()> {
        let path = paper.join(file);
        for (line, number) in read(&path)?.iter().zip(2..) {
            let get = |key: &str| line.get(key).cloned().unwrap_or_default();
            for (column, figure) in figures {
                let text = get(column);
                if text.is_empty() {
                    continue;
                }
                let value = text.parse().map_err(|_| {
                    Error::data(format!("line {number}: '{text}' in column '{column}' is no number")).at(path.display())
                })?;
                let [dataset, backbone, method, part] = ["dataset", "backbone", "method", part].map(get);
                all.push(Printed { table, dataset, backbone, method, part, figure, value });
            }
        }
        Ok(())
    };
    add("table1_overall.csv", "1", &[("acc_u", "acc_u"), ("acc_a", "acc_a_last"), ("r_r", "r_r")], "")?;
    add("tableA3_classwise.csv", "A3", &[("acc_u", "acc_u"), ("r_i", "r_i")], "class_name")?;
    add("tableA4_A5_ablation.csv", "A4/A5", &[("acc", "acc"), ("r_r", "r_r"), ("a_r", "a_r")], "model")?;
    Ok(all)
}

/// Names without what people write differently: `Cifar-10` and `cifar10`, `TinyImg` and `tiny-imagenet`.
fn plain(name: &str) -> String {
    let plain: String = name.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase();
    match plain.as_str() {
        "tinyimg" => "tinyimagenet".to_string(),
        "salamander" => "europeanfiresalamander".to_string(),
        _ => plain,
    }
}

/// Our figure in a line of `results.csv`, if it is the printed one's cell.
fn value(line: &Line, printed: &Printed) -> Option<f64> {
    let is = |key: &str, name: &str| line.get(key).is_some_and(|own| plain(own) == plain(name));
    if !is("dataset", &printed.dataset) || !is("backbone", &printed.backbone) || !is("method", &printed.method) {
        return None;
    }
    let get = |key: &str| line.get(key)?.parse().ok();
    let exactly = |key: &str, name: &str| line.get(key).is_some_and(|own| own == name);
    match printed.table {
        "A3" => (exactly("variant", "P+U+A") && is("class", &printed.part)).then(|| get(printed.figure))?,
        "1" => (exactly("variant", "P+U+A") && exactly("class", "all")).then(|| get(printed.figure))?,
        // The baseline is the unlearned model, the same beside every variant.
        _ if printed.part == "Baseline" => (exactly("variant", "P+U+A") && exactly("class", "all")).then(|| get("acc_u"))?,
        _ => {
            let column = if printed.figure == "acc" { "acc_a_last" } else { printed.figure };
            (exactly("variant", &printed.part) && exactly("class", "all")).then(|| get(column))?
        }
    }
}
