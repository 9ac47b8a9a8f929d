//! What somebody who knows a model can say about its import.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::graph::Layout;
use crate::graph::passes::head::Head;

/// What the caller knows about a model that its file may not say.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// `[C, H, W]` of the images, where the file leaves these dimensions open.
    pub image: Option<[i64; 3]>,
    /// The order in which the file takes an image's numbers, where somebody said so.
    pub layout: Option<Layout>,
    /// The name of the value that holds the scores, where it is not the file's output.
    pub scores: Option<String>,
    /// What the scores are, where somebody said so.
    pub head: Option<Head>,
    /// Which repairs are made.
    pub repairs: Repairs,
}

/// Which repairs are made, where somebody wants to decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Repairs {
    /// Batch normalisation that the exporter folded into other weights.
    pub batch_norm: BatchNormRepair,
    /// A batch size that the exporter baked into the graph.
    pub batch_size: BatchSizeRepair,
    /// Weights that are stored as integers.
    pub quantization: QuantizationRepair,
}

/// Whether batch normalisation is put back where an exporter folded it away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BatchNormRepair {
    /// Where the graph shows that there was some: products and sums per channel, or a residual network of convolutions with biases,
    /// and no normalisation left.
    #[default]
    Auto,
    /// Wherever it can have been.
    Reinsert,
    /// Nowhere.
    Keep,
}

/// Whether a graph that was exported for one batch size is changed to run on any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BatchSizeRepair {
    /// Where that can be shown to give the same results.
    #[default]
    Auto,
    /// Never: the model is evaluated in pieces, and cannot be trained.
    Keep,
}

/// What becomes of weights that are stored as integers, or rounded to such in the graph. What the graph rounds of an image's numbers on
/// the way is rounded either way, with the straight-through estimator as gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QuantizationRepair {
    /// They are dequantised once, and trained as floats.
    #[default]
    Dequantize,
    /// They are trained as floats that are rounded to the file's steps in every forward pass (fake quantisation).
    Fake,
}
