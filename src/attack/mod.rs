//! The attack: CMIRA (Class Membership Inducing Recovery Attack).
//!
//! Stage 1 trains an attack model `M_A` on the probing set `D_p`. In stage 2 `M_A` and the unlearned model `M_U` teach each other
//! about the forget images `X_f`: on what they agree, and on the little on which one of them is confident and the other
//! disagrees. The true labels of `X_f` never come here; see [`cmira::Score`].

pub mod cmira;
pub mod mixup;
pub mod sets;
pub mod settings;
pub mod spectral;
pub mod stopping;

pub use cmira::{Course, Evidence, Hooks, Iteration, Progress};
pub use settings::{AttackSettings, Variant};
pub use stopping::{StopReason, StopRule};
