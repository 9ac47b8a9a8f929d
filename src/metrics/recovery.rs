//! What the attack brought back, overall.

/// `R_I = Acc_A - Acc_U`, in points of percent, `-100..=100`.
pub fn improvement(acc_u: f64, acc_a: f64) -> f64 {
    acc_a - acc_u
}

/// `R_R = 100 R_I / Acc_U`, in percent of the unlearned model's accuracy; `None` where that is zero. At least -100, without upper bound.
pub fn rate(acc_u: f64, acc_a: f64) -> Option<f64> {
    // The quotient first: it is never rounded below -1, of which 100 times is exact.
    (acc_u > 0.0).then(|| 100.0 * (improvement(acc_u, acc_a) / acc_u))
}

/// Excess recovery: `Acc_A(model) - Acc_A(control)`, in points of percent. The control never saw the forget set, so this is what the audited
/// model itself gave away, beyond what probing images alone teach.
pub fn excess(acc_a: f64, acc_a_control: f64) -> f64 {
    acc_a - acc_a_control
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::polygon::{area_recovery, area_recovery_geometric};

    #[test]
    fn nothing_falls_by_more_than_all_of_it() {
        for images in 1..200 {
            for right in 1..=images {
                let acc_u = 100.0 * f64::from(right) / f64::from(images);
                assert_eq!(rate(acc_u, 0.0), Some(-100.0), "{right} of {images}");
                let of = [acc_u, 100.0 / 3.0, 200.0 / 3.0];
                for growth in [area_recovery(&of, &[0.0; 3]), area_recovery_geometric(&of, &[0.0; 3])] {
                    assert_eq!(growth, Some(-100.0), "{right} of {images}");
                }
            }
        }
    }
}
