//! `cmira` audits image classifiers that are said to have *unlearned* some of their training images.
//!
//! A model from any framework comes as ONNX, becomes a trainable plan over libtorch tensors ([`graph`]), and is attacked with
//! CMIRA ([`attack`]): an attack model pretrained on a probing set and the unlearned model teach each other until the
//! forgotten class memberships come back. A module uses only what stands to its left:
//!
//! `error, files, tensor, yaml -> onnx -> graph -> nets | data -> check | train -> unlearn | attack -> metrics -> report -> harness -> cli`

pub mod attack;
pub mod check;
pub mod cli;
pub mod data;
pub mod error;
pub mod files;
pub mod graph;
pub mod harness;
pub mod metrics;
pub mod nets;
pub mod onnx;
pub mod report;
pub mod tensor;
pub mod train;
pub mod unlearn;
pub mod yaml;
