//! `results.csv`: every number with its provenance, a row an attacked model and variant, then a row a class of it.

use super::Table;
use crate::report::Record;
use crate::report::csv::{number, text};

const COLUMNS: [&str; 42] = [
    "dataset",
    "backbone",
    "method",
    "variant",
    "class",
    "n_forget",
    "n_scored",
    "n_probe",
    "acc_u",
    "acc_a_last",
    "acc_a_best",
    "acc_u_after",
    "acc_u_best",
    "r_i",
    "r_r",
    "a_r",
    "a_r_geometric",
    "r_i_low",
    "r_i_high",
    "excess",
    "excess_low",
    "excess_high",
    "excess_p",
    "excess_u",
    "excess_self",
    "agreement_rate",
    "iterations",
    "stop_reason",
    "seed",
    "settings_sha256",
    "model_sha256",
    "forget_sha256",
    "probe_sha256",
    "adapter_sha256",
    "control",
    "control_sha256",
    "device",
    "threads",
    "precision",
    "cmira",
    "libtorch",
    "schema",
];

/// Changes when a column changes its meaning.
const SCHEMA: &str = "3";

/// Makes the table.
pub fn make(records: &[Record]) -> Table {
    let rows = records.iter().flat_map(|record| std::iter::once(overall(record)).chain(by_class(record)));
    (COLUMNS.map(str::to_string).to_vec(), rows.collect())
}

fn key(record: &Record, class: &str) -> Vec<String> {
    vec![text(&record.dataset), text(&record.backbone), text(&record.method), record.variant.clone(), text(class)]
}

fn overall(record: &Record) -> Vec<String> {
    let mut row = key(record, "all");
    row.extend([record.n_forget, record.n_scored, record.n_probe].map(|n| n.to_string()));
    let r = record;
    row.extend([r.acc_u, r.acc_a_last, r.acc_a_best, r.acc_u_after, r.acc_u_best].map(number));
    row.extend([r.r_i, r.r_r, r.a_r, r.a_r_geometric, r.r_i_low, r.r_i_high].map(number));
    row.extend([r.excess, r.excess_low, r.excess_high, r.excess_p, r.excess_u, r.excess_self].map(number));
    row.push(number(Some(r.agreement_rate)));
    row.extend([r.iterations.to_string(), r.stop_reason.clone()]);
    row.extend(provenance(record));
    row
}

fn by_class(record: &Record) -> impl Iterator<Item = Vec<String>> {
    record.classes.iter().map(|class| {
        let mut row = key(record, &class.class);
        row.extend([class.images, class.images, record.n_probe].map(|n| n.to_string()));
        row.extend([Some(class.acc_u), Some(class.acc_a), None, None, None, Some(class.r_i)].map(number));
        let empty = COLUMNS.len() - row.len() - provenance(record).len();
        row.extend(std::iter::repeat_n(String::new(), empty));
        row.extend(provenance(record));
        row
    })
}

fn provenance(record: &Record) -> Vec<String> {
    let p = &record.provenance;
    let hashes = [&p.settings_sha256, &p.model_sha256, &p.forget_sha256, &p.probe_sha256, &p.adapter_sha256].map(Clone::clone);
    let mut cells = vec![p.seed.to_string()];
    cells.extend(hashes);
    cells.push(text(record.control.as_deref().unwrap_or_default()));
    cells.push(record.control_sha256.clone().unwrap_or_default());
    cells.extend([
        p.device.clone(),
        p.threads.to_string(),
        p.precision.clone(),
        p.cmira.clone(),
        p.libtorch.clone(),
        SCHEMA.to_string(),
    ]);
    cells
}
