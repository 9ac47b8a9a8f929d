//! A look at the wire format before protobuf sees it, without recursion.
//!
//! The protobuf release that `onnx-protobuf` needs recurses without bound on nested groups (RUSTSEC-2024-0437), so a file of a few
//! hundred kilobytes could overflow the stack. ONNX never uses groups. Every byte of every message that the parser would enter is
//! read here first: group tags, nesting, lengths and varints are checked, and messages are counted, in time linear in the file's size.

use crate::error::{Error, Result};
use crate::onnx::Limits;

/// The messages of `onnx.proto` that hold other messages or must be entered because the parser enters them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    SparseTensor,
    ValueInfo,
    Type,
    TypeTensor,
    TypeSequence,
    TypeMap,
    Shape,
    Annotation,
    Training,
    Function,
    /// A message without messages in it.
    Leaf,
}

impl Message {
    /// The message that a length-delimited field holds; `None` for strings, bytes, packed numbers and unknown fields, which the
    /// parser takes as opaque bytes.
    fn child(self, field: u64) -> Option<Message> {
        use Message as M;
        Some(match (self, field) {
            (M::Model, 7) | (M::Attribute, 6 | 11) | (M::Training, 1 | 2) => M::Graph,
            (M::Model, 20) => M::Training,
            (M::Model, 25) => M::Function,
            (M::Graph, 1) | (M::Function, 7) => M::Node,
            (M::Graph, 5) | (M::Attribute, 5 | 10) | (M::SparseTensor, 1 | 2) => M::Tensor,
            (M::Graph, 15) | (M::Attribute, 22 | 23) => M::SparseTensor,
            (M::Graph, 11..=13) | (M::Function, 12) => M::ValueInfo,
            (M::Graph, 14) => M::Annotation,
            (M::Node, 5) | (M::Function, 11) => M::Attribute,
            (M::Attribute, 14 | 15) | (M::ValueInfo, 2) | (M::TypeSequence, 1) | (M::TypeMap, 2) => M::Type,
            (M::Type, 1 | 8) => M::TypeTensor,
            (M::Type, 4 | 9) => M::TypeSequence,
            (M::Type, 5) => M::TypeMap,
            (M::TypeTensor, 2) => M::Shape,
            (M::Model, 8 | 14)
            | (M::Graph | M::Tensor, 16)
            | (M::Node, 9)
            | (M::ValueInfo, 4)
            | (M::Tensor, 3 | 13)
            | (M::Shape, 1)
            | (M::Annotation, 2)
            | (M::Training, 3 | 4)
            | (M::Function, 9 | 14) => M::Leaf,
            _ => return None,
        })
    }
}

/// Checks that protobuf can parse these bytes as a model without recursing too deep or meeting a group.
///
/// # Errors
/// Malformed, with the position of the offending byte.
pub fn scan(bytes: &[u8], limits: &Limits) -> Result<()> {
    let mut open = vec![(Message::Model, bytes.len())];
    let (mut position, mut messages, mut fields) = (0_usize, 0_usize, 0_usize);
    while let Some(&(message, end)) = open.last() {
        if position == end {
            open.pop();
            continue;
        }
        let start = position;
        let refuse = |reason: String| Err(Error::malformed(format!("{reason} at byte {start}")));
        fields += 1;
        if fields > limits.fields {
            return refuse(format!("more than {} fields", limits.fields));
        }
        let Some(tag) = varint(bytes, &mut position, end) else { return refuse("a broken or truncated field tag".into()) };
        let (field, wire_type) = (tag >> 3, tag & 7);
        if field == 0 || field > 0x1fff_ffff {
            return refuse(format!("field number {field}"));
        }
        match wire_type {
            0 => {
                if varint(bytes, &mut position, end).is_none() {
                    return refuse("a broken or truncated number".into());
                }
            }
            1 | 5 => {
                let width = if wire_type == 1 { 8 } else { 4 };
                match position.checked_add(width).filter(|&next| next <= end) {
                    Some(next) => position = next,
                    None => return refuse("a truncated number".into()),
                }
            }
            2 => {
                let length = varint(bytes, &mut position, end).and_then(|length| usize::try_from(length).ok());
                let Some(next) = length.and_then(|length| position.checked_add(length)).filter(|&next| next <= end) else {
                    return refuse("a field that is longer than what holds it (the file is truncated or damaged)".into());
                };
                match message.child(field) {
                    None => position = next,
                    Some(child) => {
                        messages += 1;
                        if messages > limits.messages {
                            return refuse(format!("more than {} messages", limits.messages));
                        }
                        if open.len() >= limits.nesting {
                            return refuse(format!("messages nested more than {} deep", limits.nesting));
                        }
                        open.push((child, next));
                    }
                }
            }
            3 | 4 => return refuse("a group, which ONNX does not use,".into()),
            other => return refuse(format!("wire type {other}")),
        }
    }
    Ok(())
}

/// Reads a varint of at most ten bytes that ends before `end`.
fn varint(bytes: &[u8], position: &mut usize, end: usize) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..70).step_by(7) {
        if *position >= end {
            return None;
        }
        let byte = *bytes.get(*position)?;
        *position += 1;
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            return None;
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A field of wire type 2 around `inside`.
    fn wrap(field: u8, inside: &[u8]) -> Vec<u8> {
        let mut out = vec![field << 3 | 2];
        let mut length = inside.len();
        while length >= 0x80 {
            out.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(inside);
        out
    }

    #[test]
    fn groups_are_refused_wherever_a_message_is_read() {
        let limits = Limits::default();
        let nested: Vec<u8> = std::iter::repeat_n(0x0b, 100_000).chain(std::iter::repeat_n(0x0c, 100_000)).collect();
        for bytes in [nested.clone(), wrap(7, &nested), wrap(7, &wrap(1, &nested)), wrap(7, &wrap(1, &wrap(5, &nested)))] {
            let error = scan(&bytes, &limits).unwrap_err();
            assert!(error.to_string().contains("a group"), "{error}");
        }
        // In a string field the same bytes are only text.
        assert!(scan(&wrap(2, &nested), &limits).is_ok());
    }

    #[test]
    fn nesting_is_bounded() {
        let mut bytes = Vec::new();
        for _ in 0..40 {
            bytes = wrap(1, &wrap(5, &wrap(6, &bytes)));
        }
        let error = scan(&wrap(7, &bytes), &Limits::default()).unwrap_err();
        assert!(error.to_string().contains("nested"), "{error}");
    }

    #[test]
    fn lengths_and_varints_are_bounded() {
        let limits = Limits::default();
        for bytes in [&[0x3a, 5, 0][..], &[0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], &[0x08], &[0x08, 0x80], &[0x00], &[0x0f]] {
            assert!(scan(bytes, &limits).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn empty_messages_are_counted() {
        let limits = Limits { messages: 100, ..Limits::default() };
        let nodes: Vec<u8> = (0..101).flat_map(|_| wrap(1, &[])).collect();
        assert!(scan(&wrap(7, &nodes), &limits).is_err());
    }
}
