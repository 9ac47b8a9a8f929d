//! Reference unlearning methods.
