//! What exporters do to a model is undone here, one repair a file; each says what it did.

pub mod batch_norm;
pub mod batch_size;
pub mod computed_statistics;
pub mod head;
pub mod quantization;
pub mod straight_through;
pub mod subgraph_weights;
pub mod whole_numbers;
