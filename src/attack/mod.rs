//! The attack: CMIRA's two stages.
