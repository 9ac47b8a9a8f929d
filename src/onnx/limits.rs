//! How much a file may ask for.

/// Limits on untrusted files. Each default is far above what real models need and far below what would exhaust a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The greatest size of the `.onnx` file itself: 2 GiB, protobuf's own maximum.
    pub file_bytes: u64,
    /// The greatest size of one tensor in memory: 8 GiB.
    pub tensor_bytes: u64,
    /// The greatest size of all initializers together, external data included: 16 GiB.
    pub total_tensor_bytes: u64,
    /// How deep messages may nest: 64. A subgraph in a subgraph takes three levels.
    pub nesting: usize,
    /// The greatest number of messages (nodes, attributes, tensors, ...): 1,000,000. Every message takes some hundred bytes in memory
    /// however short it is in the file.
    pub messages: usize,
    /// The greatest number of fields: 20,000,000.
    pub fields: usize,
    /// The greatest rank of a tensor: 16.
    pub rank: usize,
}

impl Default for Limits {
    fn default() -> Self {
        const GIB: u64 = 1 << 30;
        Limits {
            file_bytes: 2 * GIB,
            tensor_bytes: 8 * GIB,
            total_tensor_bytes: 16 * GIB,
            nesting: 64,
            messages: 1_000_000,
            fields: 20_000_000,
            rank: 16,
        }
    }
}
