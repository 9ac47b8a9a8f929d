//! The paper's grid: data sets, backbones, methods and seeds, from one file to all tables.
//!
//! A grid is a list of steps, each with a key: a hash of everything that its result depends on. A step's folder is named by its key and
//! holds `done.json` once it is finished, so that the same work is never done twice, whichever cells share it, and a changed setting
//! redoes what depends on it and nothing else.

mod column;
pub mod config;
mod data;
mod gather;
mod plan;
mod run;
mod steps;
mod store;
mod workers;

pub use config::Harness;
pub use run::{GridEvent, Hooks, run, run_step};
pub use store::Workspace;
pub use workers::{Message, Workers};
