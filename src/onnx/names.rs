//! Names from a file, as error messages show them.

use super::proto::NodeProto;

/// The name in quotes, cut where it would drown the message.
pub(super) fn quoted(name: &str) -> String {
    const SHOWN: usize = 100;
    match name.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("'{}...'", &name[..end]),
        None => format!("'{name}'"),
    }
}

/// `node 'conv1' (Conv)`, or by position where the node has no name.
pub(super) fn node_place(node: &NodeProto, position: usize) -> String {
    let operator = if node.op_type.is_empty() { "?".to_string() } else { quoted(&node.op_type).replace('\'', "") };
    if node.name.is_empty() {
        format!("node {position} ({operator})")
    } else {
        format!("node {} ({operator})", quoted(&node.name))
    }
}
