//! The page of operators is what the tables say.
#![allow(clippy::expect_used, clippy::panic)]

use cmira::graph::ops::{all, out_of_scope, reference};

#[test]
fn the_page_of_operators_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operators.md");
    let stored = std::fs::read_to_string(path).expect("the page");
    assert!(stored == reference::markdown(), "`cargo run -- operators > docs/operators.md` makes it anew");
}

#[test]
fn nothing_is_both_supported_and_left_out() {
    for op in all() {
        let qualified = if op.domain.is_empty() { op.name.to_string() } else { format!("{}.{}", op.domain, op.name) };
        assert_eq!(out_of_scope::reason(&qualified), None, "{qualified}");
    }
}
