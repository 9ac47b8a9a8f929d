//! Recovery as the growth of a polygon whose corners are accuracies by class (paper, `A_R`).

/// Area of the paper's polygon, up to a constant factor.
///
/// The paper closes the polygon by repeating the first class on a spoke of its own: n classes give n + 1 equally spaced spokes, so the
/// area is proportional to `sum_{i<n} r_i r_{(i+1) mod n} + r_0^2`. All rows of Table A3 follow this.
pub fn area_as_printed(radii: &[f64]) -> f64 {
    geometric_area(radii) + radii.first().map_or(0.0, |r| r * r)
}

/// Area of the polygon with one spoke a class, up to a constant factor: `sum_{i<n} r_i r_{(i+1) mod n}`.
pub fn geometric_area(radii: &[f64]) -> f64 {
    (0..radii.len()).map(|i| radii[i] * radii[(i + 1) % radii.len()]).sum()
}

/// Growth in percent, of -100 or more; `None` for an area of zero.
fn growth(before: f64, after: f64) -> Option<f64> {
    // The quotient first: it is never rounded below -1, of which 100 times is exact.
    (before > 0.0).then(|| 100.0 * ((after - before) / before))
}

/// `A_R` as the paper prints it, from per-class accuracies in percent, classes in the paper's order; `None` where the unlearned model's polygon has no area.
pub fn area_recovery(acc_u: &[f64], acc_a: &[f64]) -> Option<f64> {
    if acc_u.len() != acc_a.len() {
        return None;
    }
    growth(area_as_printed(acc_u), area_as_printed(acc_a))
}

/// `A_R` over the true n-gon, which treats all classes alike.
pub fn area_recovery_geometric(acc_u: &[f64], acc_a: &[f64]) -> Option<f64> {
    if acc_u.len() != acc_a.len() {
        return None;
    }
    growth(geometric_area(acc_u), geometric_area(acc_a))
}
