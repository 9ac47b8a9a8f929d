//! `excess.csv`: what attacks reach beyond their controls.

use super::csv;
use super::grid::Cell;
use super::record::{Record, method_rank};
use super::verdict::{PROBE_ONLY, SELF_TRAINING, verdict, verdict_of_seeds};
use crate::metrics::paired::{self, Comparison};

/// The method that never saw the forget images: what an attack on it reaches is no leak.
pub(super) const RETRAINED: &str = "RT";

pub(super) const COLUMNS: [&str; 16] = [
    "dataset",
    "backbone",
    "method",
    "variant",
    "control",
    "seed",
    "images",
    "acc_a",
    "acc_a_control",
    "excess",
    "excess_low",
    "excess_high",
    "only_this",
    "only_control",
    "mcnemar_p",
    "verdict",
];

/// Whether a record is of something that is attacked, or trained, to compare with and for nothing else.
pub(super) fn is_control_alone(record: &Record) -> bool {
    [PROBE_ONLY, SELF_TRAINING].contains(&record.method.as_str())
}

/// What an attack is compared with, the strictest first: the retrained model knows all that may be known. Self-training takes the place of
/// what a teacher would say, so that only variants with a teacher are compared with it.
fn controls(record: &Record) -> Vec<&'static str> {
    [(RETRAINED, record.method != RETRAINED), (PROBE_ONLY, true), (SELF_TRAINING, record.is_taught())]
        .into_iter()
        .filter(|(_, fits)| *fits)
        .map(|(name, _)| name)
        .collect()
}

/// The attack with the same data set, backbone and seed on a control, by the same variant if it has variants.
fn control<'a>(cell: &Cell, name: &str, cells: &'a [Cell]) -> Option<&'a Cell> {
    let own = &cell.record;
    cells.iter().find(|other| {
        let r = &other.record;
        r.method == name
            && r.dataset == own.dataset
            && r.backbone == own.backbone
            && (r.variant == own.variant || name == SELF_TRAINING)
            && r.provenance.seed == own.provenance.seed
    })
}

/// A cell's record with what is beyond its strictest control, and beyond self-training.
pub(super) fn with_excess(cell: &Cell, cells: &[Cell]) -> Record {
    let mut record = cell.record.clone();
    if is_control_alone(&record) {
        return record;
    }
    let names = controls(&record);
    let strictest = names.iter().filter(|name| **name != SELF_TRAINING).find_map(|name| control(cell, name, cells));
    if let Some(other) = strictest {
        record.compare_with(&other.record, &bits(&cell.right), &bits(&other.right));
    }
    if let Some(other) = names.iter().find(|name| **name == SELF_TRAINING).and_then(|name| control(cell, name, cells)) {
        record.compare_with_self(&other.record);
    }
    record
}

/// A row for every seed, then one for all seeds where there are several: means, with an interval over the seeds. Images are no unit there,
/// since those of one seed share a model and seeds share images.
pub(super) fn rows(cells: &[Cell]) -> Vec<Vec<String>> {
    let mut rows: Vec<([String; 4], usize, Vec<String>)> = Vec::new();
    let mut seen: Vec<[&str; 4]> = Vec::new();
    for cell in cells.iter().filter(|cell| !is_control_alone(&cell.record)) {
        let group = group(&cell.record);
        if seen.contains(&group) {
            continue;
        }
        seen.push(group);
        for (order, name) in controls(&cell.record).into_iter().enumerate() {
            let mut found = Vec::new();
            let mut put = |row: Vec<String>| rows.push((group.map(str::to_string), order, row));
            for cell in cells.iter().filter(|cell| self::group(&cell.record) == group) {
                let Some(control) = control(cell, name, cells) else { continue };
                let compared = paired::compare(&bits(&control.right), &bits(&cell.right));
                put(row(&group, name, &cell.record.provenance.seed.to_string(), compared.as_ref()));
                found.extend(compared);
            }
            if let Some(row) = row_of_seeds(&group, name, &found) {
                put(row);
            }
        }
    }
    let rank = |key: &[String; 4], order: usize| {
        let [dataset, backbone, method, variant] = key.clone();
        let (rank, name) = method_rank(&method);
        (dataset, backbone, rank, name.to_string(), variant, order)
    };
    rows.sort_by_cached_key(|(key, order, _)| rank(key, *order));
    rows.into_iter().map(|(.., row)| row).collect()
}

fn group(record: &Record) -> [&str; 4] {
    [record.dataset.as_str(), record.backbone.as_str(), record.method.as_str(), record.variant.as_str()]
}

fn bits(text: &str) -> Vec<bool> {
    text.chars().map(|c| c == '1').collect()
}

fn row(group: &[&str; 4], name: &str, seed: &str, found: Option<&Comparison>) -> Vec<String> {
    let mut row: Vec<String> = group.iter().map(|name| csv::text(name)).collect();
    row.extend([name.to_string(), seed.to_string()]);
    if let Some(found) = found {
        let (low, high) = found.interval;
        row.push(found.images.to_string());
        row.extend([found.accuracy, found.control, found.difference, low, high].map(|value| csv::number(Some(value))));
        row.extend([found.gained.to_string(), found.lost.to_string(), csv::number(Some(found.p))]);
        row.push(csv::text(&verdict(found, name)));
    }
    row.resize(COLUMNS.len(), String::new());
    row
}

fn row_of_seeds(group: &[&str; 4], name: &str, found: &[Comparison]) -> Option<Vec<String>> {
    let (difference, (low, high)) = paired::over_seeds(found)?;
    let mean = |of: fn(&Comparison) -> f64| found.iter().map(of).sum::<f64>() / found.len() as f64;
    let total = |of: fn(&Comparison) -> usize| found.iter().map(of).sum::<usize>().to_string();
    let mut row: Vec<String> = group.iter().map(|name| csv::text(name)).collect();
    row.extend([name.to_string(), "all".to_string(), total(|one| one.images)]);
    let figures = [mean(|one| one.accuracy), mean(|one| one.control), difference, low, high];
    row.extend(figures.map(|value| csv::number(Some(value))));
    row.extend([total(|one| one.gained), total(|one| one.lost), String::new()]);
    row.push(csv::text(&verdict_of_seeds(found.len(), difference, (low, high), name)));
    Some(row)
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::report::tables::tests::record;

    fn cell(method: &str, variant: &str, seed: u64, right: &str) -> Cell {
        let acc_a = 100.0 * right.matches('1').count() as f64 / right.len() as f64;
        let mut record = record(method, variant, acc_a);
        record.provenance.seed = seed;
        Cell { record, right: right.to_string(), folder: String::new() }
    }

    pub(in crate::report) fn cells() -> Vec<Cell> {
        vec![
            cell("RT", "P", 1, "1111111100"),
            cell("RT", "P+U+A", 1, "1100000000"),
            cell("RT", "P+U+A", 2, "1110000000"),
            cell("IU", "P", 1, "1111111100"),
            cell("IU", "P+U+A", 1, "1011110000"),
            cell("IU", "P+U+A", 2, "1111100000"),
        ]
    }

    #[test]
    fn an_attack_is_compared_with_its_own_control() {
        let rows = rows(&cells());
        let find = |variant: &str, seed: &str| rows.iter().find(|row| row[3] == variant && row[5] == seed).unwrap();
        // images, acc_a, acc_a_control, excess; then images that only one gets right, and p.
        let numbers = |variant: &str, seed: &str| -> (Vec<String>, Vec<String>) {
            let row = find(variant, seed);
            (row[6..10].to_vec(), row[12..15].to_vec())
        };
        assert_eq!(
            numbers("P", "1"),
            (["10", "80", "80", "0"].map(String::from).to_vec(), ["0", "0", "1"].map(String::from).to_vec())
        );
        let (figures, paired) = numbers("P+U+A", "1");
        assert_eq!(figures, ["10", "50", "20", "30"]);
        // 4 and 1: twice (1 + 5) / 32.
        assert_eq!(paired[..2], ["4", "1"]);
        assert!((paired[2].parse::<f64>().unwrap() - 0.375).abs() < 1e-12);
        assert_eq!(numbers("P+U+A", "2").0, ["10", "50", "30", "20"]);
        // Means of both seeds.
        assert_eq!(numbers("P+U+A", "all").0, ["20", "50", "25", "25"]);
        let all = find("P+U+A", "all");
        // 30 and 20 points of ten images each: the images alone give variances of 410 and 160, which is more than the seeds' 50. So 12.706
        // times the square root of 285 / 2 around 25.
        let bound = |column: usize| all[column].parse::<f64>().unwrap();
        assert!((bound(10) + 126.678_240).abs() < 1e-5 && (bound(11) - 176.678_240).abs() < 1e-5, "{all:?}");
        assert_eq!(all[12..15], ["6".to_string(), "1".to_string(), String::new()]);
        assert_eq!(rows.len(), 4, "one seed alone has no row for all, and RT has no control here");
        assert!(find("P+U+A", "all")[15].starts_with("no difference from the control is shown: +25.00 points"));
    }

    #[test]
    fn every_control_has_its_rows_and_the_strictest_is_the_excess() {
        let mut cells = cells();
        cells.push(cell(PROBE_ONLY, "P+U+A", 1, "1000000000"));
        cells.push(cell(SELF_TRAINING, "P+A", 1, "1111000000"));
        let rows = rows(&cells);
        let of = |method: &str, control: &str, variant: &str| {
            let is_it = |row: &&Vec<String>| row[2] == method && row[4] == control && row[3] == variant && row[5] == "1";
            rows.iter().find(is_it).map(|row| row[9].clone())
        };
        assert_eq!(of("IU", "RT", "P+U+A").unwrap(), "30");
        assert_eq!(of("IU", PROBE_ONLY, "P+U+A").unwrap(), "40");
        assert_eq!(of("IU", SELF_TRAINING, "P+U+A").unwrap(), "10");
        assert_eq!(of("RT", PROBE_ONLY, "P+U+A").unwrap(), "10");
        assert_eq!(of("IU", SELF_TRAINING, "P"), None, "nobody teaches anything in P");
        assert!(rows.iter().all(|row| row[2] != PROBE_ONLY && row[2] != SELF_TRAINING));
        let record = |method: &str, seed: u64| {
            let is_it = |cell: &&Cell| {
                cell.record.method == method && cell.record.variant == "P+U+A" && cell.record.provenance.seed == seed
            };
            with_excess(cells.iter().find(is_it).unwrap(), &cells)
        };
        let iu = record("IU", 1);
        assert_eq!((iu.excess, iu.control.as_deref(), iu.excess_self), (Some(30.0), Some("RT"), Some(10.0)));
        assert!(iu.excess_low.unwrap() < 30.0 && iu.excess_high.unwrap() > 30.0 && (iu.excess_p.unwrap() - 0.375).abs() < 1e-12);
        let rt = record("RT", 1);
        assert_eq!((rt.excess, rt.control.as_deref(), rt.excess_self), (Some(10.0), Some(PROBE_ONLY), Some(-20.0)));
        assert_eq!((record("RT", 2).excess, record(PROBE_ONLY, 1).excess), (None, None));
    }
}
