//! Pure functions of predictions and labels: what the tables hold. `docs/definitions.md` has every formula with its pitfalls.

pub mod accuracy;
pub mod interval;
pub mod membership;
pub mod paired;
pub mod polygon;
pub mod recovery;
pub mod silhouette;
