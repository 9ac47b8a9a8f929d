//! The metric code against the paper's printed tables (`fixtures/paper`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use cmira::metrics::{polygon, recovery};

fn rows(file: &str) -> Vec<BTreeMap<String, String>> {
    let path = format!("{}/fixtures/paper/{file}", env!("CARGO_MANIFEST_DIR"));
    csv::Reader::from_path(path).unwrap().deserialize().map(|row| row.unwrap()).collect()
}

fn number(row: &BTreeMap<String, String>, key: &str) -> Option<f64> {
    let text = &row[key];
    if text.is_empty() { None } else { Some(text.parse().unwrap()) }
}

/// What a printed number may have been before it was rounded to two decimals.
fn unrounded(value: f64) -> [f64; 2] {
    [value - 0.005, value + 0.005]
}

/// Whether `printed` is what `f` gives for some numbers that round to the printed ones. `f` is monotonic in each argument, so
/// the corners of the box decide.
fn follows(printed: f64, a: f64, b: f64, f: impl Fn(f64, f64) -> f64) -> bool {
    let values: Vec<f64> = unrounded(a).into_iter().flat_map(|a| unrounded(b).map(|b| f(a, b))).collect();
    let (low, high) =
        (values.iter().copied().fold(f64::INFINITY, f64::min), values.iter().copied().fold(f64::NEG_INFINITY, f64::max));
    printed >= low - 0.005 - 1e-9 && printed <= high + 0.005 + 1e-9
}

#[test]
fn every_recovery_rate_of_table_1_follows_from_its_accuracies() {
    let rows = rows("table1_overall.csv");
    assert_eq!(rows.len(), 44);
    for row in &rows {
        let (acc_u, acc_a, printed) = (number(row, "acc_u").unwrap(), number(row, "acc_a").unwrap(), number(row, "r_r").unwrap());
        assert!(
            follows(printed, acc_u, acc_a, |u, a| recovery::rate(u, a).unwrap()),
            "{row:?}: {:?}",
            recovery::rate(acc_u, acc_a)
        );
    }
}

#[test]
fn every_polygon_of_table_a3_follows_from_its_classes() {
    let mut groups: BTreeMap<(String, String, String), Vec<BTreeMap<String, String>>> = BTreeMap::new();
    for row in rows("tableA3_classwise.csv") {
        groups.entry((row["dataset"].clone(), row["backbone"].clone(), row["method"].clone())).or_default().push(row);
    }
    assert_eq!(groups.len(), 44);
    let mut signs_mended = 0;
    for (key, mut classes) in groups {
        classes.sort_by_key(|row| row["class_rank"].parse::<u32>().unwrap());
        let printed = number(&classes[0], "a_r_printed").unwrap();
        let acc_u: Vec<f64> = classes.iter().map(|row| number(row, "acc_u").unwrap()).collect();
        let r_i: Vec<f64> = classes.iter().map(|row| number(row, "r_i").unwrap()).collect();
        let acc_a = |r_i: &[f64]| acc_u.iter().zip(r_i).map(|(u, r)| u + r).collect::<Vec<f64>>();
        // Every class's values were rounded to 0.01 before they were printed: the same rounding of all bounds the area's.
        let bounds = |r_i: &[f64]| {
            let a = acc_a(r_i);
            let shift = |values: &[f64], by: f64| values.iter().map(|v| v + by).collect::<Vec<f64>>();
            let low = polygon::area_recovery(&shift(&acc_u, 0.005), &a).unwrap();
            let high = polygon::area_recovery(&shift(&acc_u, -0.005), &shift(&a, 0.01)).unwrap();
            let lowest = polygon::area_recovery(&shift(&acc_u, 0.005), &shift(&a, -0.01)).unwrap();
            (low.min(lowest) - 0.006, high + 0.006)
        };
        let holds = |r_i: &[f64]| {
            let (low, high) = bounds(r_i);
            printed >= low && printed <= high
        };
        assert!(holds(&r_i), "{key:?}: printed {printed}, computed {:?}", polygon::area_recovery(&acc_u, &acc_a(&r_i)));
        // Two groups hold a row whose sign the paper prints the wrong way; only the mended sign gives the printed area.
        let noted: Vec<usize> = (0..classes.len()).filter(|&i| !classes[i]["note"].is_empty()).collect();
        if !noted.is_empty() {
            let mut as_printed = r_i.clone();
            noted.iter().for_each(|&i| as_printed[i] = -as_printed[i]);
            assert!(!holds(&as_printed), "{key:?}");
            signs_mended += 1;
        }
    }
    assert_eq!(signs_mended, 2);
}

/// The whole attack is in both tables; what it leaves out is printed for no class, so that its areas follow from nothing.
#[test]
fn every_area_of_the_ablation_is_that_of_its_classes() {
    let key = |row: &BTreeMap<String, String>| ["dataset", "backbone", "method"].map(|column| row[column].clone());
    let by_class: BTreeMap<_, f64> =
        rows("tableA3_classwise.csv").iter().map(|row| (key(row), number(row, "a_r_printed").unwrap())).collect();
    let ablation = rows("tableA4_A5_ablation.csv");
    let (whole, parts): (Vec<_>, Vec<_>) =
        ablation.iter().filter(|row| number(row, "a_r").is_some()).partition(|row| row["model"] == "P+U+A");
    let astray: Vec<String> = whole
        .iter()
        // One table prints a digit less in places.
        .filter(|row| {
            let decimals = row["a_r"].split_once('.').map_or(0, |(_, digits)| digits.len());
            let within = 0.5 * 0.1_f64.powi(i32::try_from(decimals).unwrap()) + 1e-9;
            let difference = by_class.get(&key(row)).zip(number(row, "a_r")).map(|(class, whole)| (class - whole).abs());
            let exact = decimals >= 2;
            difference.is_none_or(|difference| difference > if exact { 1e-9 } else { within })
        })
        .map(|row| format!("{:?}: {} in the ablation, {:?} by class", key(row), row["a_r"], by_class.get(&key(row))))
        .collect();
    println!("{} areas checked, {} of P and P+U follow from nothing printed, astray: {astray:?}", whole.len(), parts.len());
    assert_eq!((whole.len(), by_class.len()), (44, 44));
    assert!(astray.is_empty(), "{astray:?}");
}

#[test]
fn every_recovery_rate_of_the_ablation_follows_from_its_baseline() {
    let rows = rows("tableA4_A5_ablation.csv");
    let cell = |row: &BTreeMap<String, String>| (row["dataset"].clone(), row["backbone"].clone(), row["method"].clone());
    let baselines: BTreeMap<_, f64> =
        rows.iter().filter(|r| r["model"] == "Baseline").filter_map(|r| Some((cell(r), number(r, "acc")?))).collect();
    let mut checked = 0;
    let mut astray = Vec::new();
    for row in rows.iter().filter(|r| r["model"] != "Baseline") {
        let (Some(acc_a), Some(printed), Some(&acc_u)) = (number(row, "acc"), number(row, "r_r"), baselines.get(&cell(row)))
        else {
            continue;
        };
        checked += 1;
        if !follows(printed, acc_u, acc_a, |u, a| recovery::rate(u, a).unwrap()) {
            astray.push(format!("{} {} {} {}", row["dataset"], row["backbone"], row["method"], row["model"]));
        }
    }
    assert!(checked >= 120, "{checked}");
    println!("{checked} checked, {} astray: {astray:?}", astray.len());
    assert!(astray.is_empty(), "{astray:?}");
}
