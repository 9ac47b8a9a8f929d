//! The paper's findings, looked for in a grid's results, one by one.

use std::collections::BTreeMap;

use super::Page;
use super::cifar10::{Rows, distinct, spread};

type Row = BTreeMap<String, String>;

/// The methods of which the paper says that they leak the most, and those that leak little.
const LEAKY: [&str; 3] = ["IU", "GA", "FF"];
const TIGHT: [&str; 2] = ["RT", "FT"];

fn number(row: &Row, column: &str) -> Option<f64> {
    row.get(column).and_then(|text| text.parse().ok())
}

/// A figure of a method and variant, one value a seed.
fn values(results: &Rows, method: &str, variant: &str, column: &str) -> Vec<f64> {
    let is_it = |row: &&Row| row["method"] == method && row["variant"] == variant && row["class"] == "all";
    results.iter().filter(is_it).filter_map(|row| number(row, column)).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn held(yes: bool) -> &'static str {
    if yes { "**held**" } else { "**not held**" }
}

/// Writes the section.
pub fn write(page: &mut Page, results: &Rows, excess: &Rows) {
    let methods: Vec<String> = distinct(results, "method")
        .into_iter()
        .filter(|name| !["probe-only", "self-training"].contains(&name.as_str()))
        .collect();
    page.line("## The paper's findings\n");
    let ends: Vec<&Row> = results
        .iter()
        .filter(|row| row["variant"] == "P+U+A" && row["class"] == "all" && methods.contains(&row["method"]))
        .collect();
    let limited = ends.iter().filter(|row| row["stop_reason"] == "iterations").count();
    let agreement: Vec<f64> = ends.iter().filter_map(|row| number(row, "agreement_rate")).collect();
    page.line(&format!(
        "Of {} attacks by P+U+A, {limited} ended at the limit of iterations, the others because Acc_A had not improved for as long as `patience` says; both models then agreed on {} of the forget images. Where models do not agree yet, longer attacks would bring more of what M_U knows to M_A.\n",
        ends.len(),
        spread(&agreement)
    ));
    positive(page, results, &methods);
    far_more(page, results, excess, &methods);
    ablation(page, results, &methods);
    unlearned_recovers(page, results, &methods);
    controls(page, excess);
}

/// All values of a figure after the whole attack, over methods and seeds.
fn all(results: &Rows, methods: &[String], column: &str) -> Vec<f64> {
    methods.iter().flat_map(|method| values(results, method, "P+U+A", column)).collect()
}

fn positive(page: &mut Page, results: &Rows, methods: &[String]) {
    let gains = all(results, methods, "r_i");
    let above = gains.iter().filter(|gain| **gain > 0.0).count();
    let sure = all(results, methods, "r_i_low").iter().filter(|low| **low > 0.0).count();
    page.line(&format!(
        "1. *Recovery is positive for most cells.* {}: R_I is above zero in {above} of {} cells (method and seed), and in {sure} of them its 95 % interval lies above zero.",
        held(2 * above > gains.len()),
        gains.len()
    ));
}

fn far_more(page: &mut Page, results: &Rows, excess: &Rows, methods: &[String]) {
    let rate = |method: &str| mean(&values(results, method, "P+U+A", "r_r"));
    let named = |list: &[&str], get: &dyn Fn(&str) -> String| -> String {
        list.iter().map(|method| format!("{method} {}", get(method))).collect::<Vec<_>>().join(", ")
    };
    let text = |method: &str| format!("{} %", spread(&values(results, method, "P+U+A", "r_r")));
    let most = TIGHT.iter().map(|method| rate(method)).fold(f64::NEG_INFINITY, f64::max);
    let above: Vec<&str> = LEAKY.into_iter().filter(|method| rate(method) > 2.0 * most.max(0.0)).collect();
    page.line(&format!(
        "2. *IU, GA and FF recover far more than RT and FT, in R_R* (each more than twice the greater of RT and FT). {}: {}; against {}.",
        held(above.len() == LEAKY.len()),
        named(&LEAKY, &text),
        named(&TIGHT, &text)
    ));
    let all_seeds = |method: &str| {
        excess.iter().find(|row| {
            row["method"] == method
                && row["variant"] == "P+U+A"
                && row["control"] == "RT"
                && ["all", "0"].contains(&row["seed"].as_str())
                && (row["seed"] == "all" || !excess.iter().any(|other| other["seed"] == "all"))
        })
    };
    let interval = |method: &str| {
        all_seeds(method).map_or_else(String::new, |row| {
            let get = |column: &str| number(row, column).unwrap_or(f64::NAN);
            format!("{:+.2} ({:+.2} to {:+.2})", get("excess"), get("excess_low"), get("excess_high"))
        })
    };
    let value = |method: &str, column: &str| all_seeds(method).and_then(|row| number(row, column)).unwrap_or(f64::NAN);
    let by_excess: Vec<&str> =
        LEAKY.into_iter().filter(|method| value(method, "excess_low") > value("FT", "excess").max(0.0)).collect();
    page.line(&format!(
        "3. *The same in excess over RT*, the same attack on the retrained model (each interval above zero and above FT's excess). {}: {}; FT {}; WP {} points with 95 % intervals over the seeds.",
        held(by_excess.len() == LEAKY.len()),
        named(&LEAKY, &interval),
        interval("FT"),
        interval("WP")
    ));
    let in_u = |method: &str| format!("{method} {}", spread(&values(results, method, "P+U+A", "excess_u")));
    let others: Vec<String> = methods.iter().filter(|method| method.as_str() != "RT").map(|method| in_u(method)).collect();
    page.line(&format!(
        "   In M_U itself, after the attack, the excess over RT's M_U after the same attack: {} points.",
        others.join(", ")
    ));
    // R_R says that a method leaks more than retraining; excess says whether it does.
    let disagree: Vec<String> = methods
        .iter()
        .filter(|method| method.as_str() != "RT")
        .filter_map(|method| {
            let (more, leak) = (rate(method) > rate("RT"), value(method, "excess_low") > 0.0);
            match (more, leak) {
                (true, false) => Some(format!("{method} (R_R above RT's, and no excess is shown)")),
                (false, true) => Some(format!("{method} (R_R not above RT's, and an excess all the same)")),
                _ => None,
            }
        })
        .collect();
    let where_they = if disagree.is_empty() { "nowhere".to_string() } else { disagree.join("; ") };
    page.line(&format!(
        "   R_R and excess disagree: {where_they}. R_R divides by Acc_U, so that a model that was driven down has a large R_R whatever comes back, and one that never forgot has a small R_R with everything still in it."
    ));
}

fn ablation(page: &mut Page, results: &Rows, methods: &[String]) {
    let acc = |method: &str, variant: &str| mean(&values(results, method, variant, "acc_a_last"));
    let count = |more: &str, less: &str| methods.iter().filter(|method| acc(method, more) > acc(method, less)).count();
    let (full, part) = (count("P+U+A", "P+U"), count("P+U", "P"));
    let n = methods.len();
    page.line(&format!(
        "4. *P+U+A beats P+U.* {}: for {full} of {n} methods (means over the seeds). *P+U beats P.* {}: for {part} of {n}.",
        held(full == n),
        held(part == n)
    ));
}

fn unlearned_recovers(page: &mut Page, results: &Rows, methods: &[String]) {
    let (before, after) = (all(results, methods, "acc_u"), all(results, methods, "acc_u_after"));
    let above = before.iter().zip(&after).filter(|(before, after)| after > before).count();
    let gains: Vec<String> = methods
        .iter()
        .map(|method| {
            let gain = mean(&values(results, method, "P+U+A", "acc_u_after")) - mean(&values(results, method, "P+U+A", "acc_u"));
            format!("{method} {gain:+.2}")
        })
        .collect();
    page.line(&format!(
        "5. *Mutual distillation raises M_U as well.* {}: in {above} of {} cells; {} points.\n",
        held(above == before.len()),
        before.len(),
        gains.join(", ")
    ));
}

/// What every attack reaches beyond each control, all seeds together.
fn controls(page: &mut Page, excess: &Rows) {
    page.line("## Beyond the controls\n\nP+U+A, means over the seeds: the accuracy of the attack, and in points, with 95 % intervals over the seeds (Student's t), what it is beyond the same attack on the retrained model, beyond the same attack on a model that knows the probing images alone, and beyond an attack model that teaches itself. In parentheses, in how many of the seeds the verdict over their images is that more comes back.\n");
    let rows: Rows = excess.iter().filter(|row| row["variant"] == "P+U+A" && row["seed"] == "all").cloned().collect();
    let mut lines = Vec::new();
    for method in distinct(&rows, "method") {
        let of = |control: &str| rows.iter().find(|row| row["method"] == method && row["control"] == control);
        let mut line = vec![method.clone()];
        line.push(of("probe-only").and_then(|row| number(row, "acc_a")).map_or_else(String::new, |acc| format!("{acc:.2}")));
        for control in ["RT", "probe-only", "self-training"] {
            line.push(of(control).map_or_else(String::new, |row| {
                let get = |column: &str| number(row, column).unwrap_or(f64::NAN);
                let seeds: Vec<&Row> = excess
                    .iter()
                    .filter(|other| {
                        ["dataset", "backbone", "method", "variant", "control"].iter().all(|key| other[*key] == row[*key])
                            && other["seed"] != "all"
                    })
                    .collect();
                let more = seeds.iter().filter(|row| row["verdict"].starts_with("more")).count();
                format!(
                    "{:+.2}, {:+.2} to {:+.2} ({more} of {})",
                    get("excess"),
                    get("excess_low"),
                    get("excess_high"),
                    seeds.len()
                )
            }));
        }
        lines.push(line);
    }
    page.table(&["model", "Acc_A", "beyond RT", "beyond probe-only", "beyond self-training"], &lines);
}
