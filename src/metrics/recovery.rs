//! What the attack brought back, overall.

/// `R_I = Acc_A - Acc_U`, in points of percent, `-100..=100`.
pub fn improvement(acc_u: f64, acc_a: f64) -> f64 {
    acc_a - acc_u
}

/// `R_R = 100 R_I / Acc_U`, in percent of the unlearned model's accuracy; `None` where that is zero. At least -100, without upper bound.
pub fn rate(acc_u: f64, acc_a: f64) -> Option<f64> {
    (acc_u > 0.0).then(|| 100.0 * improvement(acc_u, acc_a) / acc_u)
}

/// Excess recovery: `Acc_A(model) - Acc_A(control)`, in points of percent. The control never saw the forget set, so this is what the audited
/// model itself gave away, beyond what probing images alone teach.
pub fn excess(acc_a: f64, acc_a_control: f64) -> f64 {
    acc_a - acc_a_control
}
