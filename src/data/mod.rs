//! Images to batches.
