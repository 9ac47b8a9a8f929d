//! Whole audits: files in, results out. This is where the truth about the forget set is held, and handed to the attack only as a
//! function that scores predictions.

pub mod audit;
pub mod bench;
pub mod controls;
pub mod grid;
pub mod kept;
pub mod probing;
pub mod results;
pub mod state;
pub mod unlearning;
