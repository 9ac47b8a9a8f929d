//! Pure functions of predictions and labels.
