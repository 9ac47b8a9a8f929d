//! Results as CSV tables.
