//! How much of anything an untrusted file may ask for.

use serde::{Deserialize, Serialize};

/// Bounds on what a model file may contain. A file that goes beyond one is refused as malformed, with the bound's name.
///
/// The defaults admit every image classifier in use and keep a hostile file from exhausting the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of the `.onnx` file itself, external data apart. Default 2 GiB, which is protobuf's own maximum.
    pub file_bytes: u64,
    /// Bytes of one tensor's values. Default 4 GiB.
    pub tensor_bytes: u64,
    /// Bytes of all tensors' values together, external data included. Default 16 GiB.
    pub total_tensor_bytes: u64,
    /// Bytes that the parsed messages may take in memory beyond the file's own size: a message of two bytes in a file takes
    /// hundreds in memory. Default 512 MiB, enough for more than 100,000 nodes with their attributes.
    pub overhead_bytes: u64,
    /// Messages inside one another, the model itself not counted; a subgraph inside a subgraph is three deeper. Default 64.
    /// Values above 100 change nothing: the protobuf parser stops there.
    pub nesting: usize,
    /// Nodes of all graphs, subgraphs and functions together. Default 1,000,000.
    pub nodes: usize,
    /// Dimensions of one tensor. Default 16.
    pub rank: usize,
    /// Numbers of one batch of images as the file declares it, N x C x H x W. Default 2^25: 222 images of 3 x 224 x 224.
    pub image_numbers: u64,
}

const GIB: u64 = 1 << 30;

impl Default for Limits {
    fn default() -> Self {
        Limits {
            file_bytes: 2 * GIB,
            tensor_bytes: 4 * GIB,
            total_tensor_bytes: 16 * GIB,
            overhead_bytes: GIB / 2,
            nesting: 64,
            nodes: 1_000_000,
            rank: 16,
            image_numbers: 1 << 25,
        }
    }
}
