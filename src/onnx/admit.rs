//! A scan of the protobuf wire format, before the parser sees it.
//!
//! The protobuf release that the ONNX types need recurses once for every level of nested unknown groups
//! (RUSTSEC-2024-0437), so that a few hundred kilobytes can overflow the stack. ONNX has no groups at all: this scan refuses
//! their tags wherever the parser would read one. It keeps its own stack, reads every byte at most once, and takes memory in
//! proportion to the nesting, which is bounded.
//!
//! Source: protobuf's "Encoding" page; the messages and their fields are in `schema`.

use super::limits::Limits;
use super::schema::{Field, Message, Wire};
use crate::error::{Error, Result};

/// Memory of one string or list element in a parsed message beyond its bytes: a `Vec` and the allocator's rounding.
const VALUE_MEMORY: u64 = 40;
/// Memory of the first unknown field in a message: a boxed hash map, one entry, and the list inside it.
const UNKNOWN_MEMORY: u64 = 640;

/// A message that is being read.
struct Frame {
    message: Message,
    /// Where it ends, exclusive.
    end: usize,
    /// Bit `n` says that field `n`, a message that may occur once, has been read.
    seen: u64,
}

/// Refuses bytes, of a message of sort `root`, that the ONNX parser must not see: groups, messages nested deeper than `limits.nesting`, lengths that leave
/// the enclosing message, truncated or overlong varints, unknown wire types, field number 0, a second copy of a message that
/// may occur only once (readers differ in which one counts), and messages that would take more than `limits.overhead_bytes`
/// of memory beyond the size of `bytes`.
///
/// # Errors
/// [`ErrorKind::Malformed`](crate::error::ErrorKind::Malformed), with the byte's offset.
pub(super) fn admit(bytes: &[u8], root: Message, limits: &Limits) -> Result<()> {
    let mut stack = vec![Frame { message: root, end: bytes.len(), seen: 0 }];
    let mut reader = Reader { bytes, position: 0, end: bytes.len() };
    let mut overhead = 0_u64;
    loop {
        let depth = stack.len();
        let Some(frame) = stack.last_mut() else { return Ok(()) };
        if reader.position == frame.end {
            stack.pop();
            continue;
        }
        reader.end = frame.end;
        let start = reader.position;
        let inside = frame.message.name();
        let refuse = |reason: String| Error::malformed(format!("byte {start}, in {inside}: {reason}"));

        let (number, wire) = reader.tag().map_err(refuse)?;
        let length = match wire {
            Wire::Varint => reader.varint().map(|_| 0),
            Wire::Fixed64 => reader.skip(8).map(|()| 0),
            Wire::Fixed32 => reader.skip(4).map(|()| 0),
            Wire::Bytes => reader.length(),
        }
        .map_err(refuse)?;

        let field = frame.message.field(number, wire);
        let memory = match field {
            Field::Unknown => UNKNOWN_MEMORY,
            Field::Value => VALUE_MEMORY,
            Field::Packed(width) => (length as u64).saturating_mul(width - 1),
            Field::One(child) | Field::Many(child) => child.memory(),
        };
        overhead = overhead.saturating_add(memory);
        if overhead > limits.overhead_bytes {
            return Err(refuse(format!(
                "the file holds so many small messages that they would take more than {} bytes of memory beyond its own size (limit overhead_bytes)",
                limits.overhead_bytes
            )));
        }

        let child = match field {
            Field::One(child) => {
                let bit = 1_u64 << number.min(63);
                if frame.seen & bit != 0 {
                    return Err(refuse(format!("field {number} occurs twice, but {inside} has only one {}", child.name())));
                }
                frame.seen |= bit;
                child
            }
            Field::Many(child) => child,
            _ => {
                reader.skip(length).map_err(refuse)?;
                continue;
            }
        };
        if depth > limits.nesting {
            return Err(refuse(format!("messages are nested deeper than {} (limit nesting)", limits.nesting)));
        }
        stack.push(Frame { message: child, end: reader.position.saturating_add(length), seen: 0 });
    }
}

/// A cursor over the bytes of one message; it never passes `end`.
struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
    end: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> std::result::Result<u8, String> {
        if self.position >= self.end {
            return Err("the data ends in the middle of a field".to_string());
        }
        let byte = self.bytes.get(self.position).copied().ok_or("the data ends in the middle of a field")?;
        self.position += 1;
        Ok(byte)
    }

    /// A base-128 number of at most ten bytes and 64 bits.
    fn varint(&mut self) -> std::result::Result<u64, String> {
        let mut value = 0_u64;
        for index in 0..10 {
            let byte = self.byte()?;
            if index == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number takes more than 64 bits".to_string())
    }

    fn tag(&mut self) -> std::result::Result<(u32, Wire), String> {
        let tag = u32::try_from(self.varint()?).map_err(|_| "a field tag takes more than 32 bits")?;
        let wire = match tag & 7 {
            0 => Wire::Varint,
            1 => Wire::Fixed64,
            2 => Wire::Bytes,
            5 => Wire::Fixed32,
            3 | 4 => return Err("a group, which ONNX never uses".to_string()),
            other => return Err(format!("unknown wire type {other}")),
        };
        match tag >> 3 {
            0 => Err("field number 0".to_string()),
            number => Ok((number, wire)),
        }
    }

    /// A length that stays within this message.
    fn length(&mut self) -> std::result::Result<usize, String> {
        let length = self.varint()?;
        let left = self.end.saturating_sub(self.position);
        match usize::try_from(length) {
            Ok(length) if length <= left => Ok(length),
            _ => Err(format!("a length of {length} bytes, where {left} are left")),
        }
    }

    fn skip(&mut self, count: usize) -> std::result::Result<(), String> {
        if count > self.end.saturating_sub(self.position) {
            return Err("the data ends in the middle of a field".to_string());
        }
        self.position += count;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn verdict(bytes: &[u8]) -> String {
        match admit(bytes, Message::Model, &Limits::default()) {
            Ok(()) => "admitted".to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// `payload` as a length-delimited field.
    fn wrap(number: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2];
        let mut length = payload.len();
        while length >= 0x80 {
            bytes.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn groups_are_refused_wherever_a_message_is_read() {
        assert!(verdict(&[0x0b, 0x0c]).contains("group"));
        assert!(verdict(&[0x0c]).contains("group"));
        let inside_node = wrap(7, &wrap(1, &[0xfb, 0x01]));
        assert_eq!(verdict(&inside_node), "byte 4, in NodeProto: a group, which ONNX never uses");
    }

    #[test]
    fn a_hundred_thousand_groups_are_refused_at_the_first() {
        assert!(verdict(&[0x0b; 100_000]).starts_with("byte 0, in ModelProto: a group"));
        assert!(verdict(&wrap(7, &vec![0x0b; 100_000])).starts_with("byte 4, in GraphProto: a group"));
    }

    #[test]
    fn group_tags_in_opaque_bytes_do_not_matter() {
        assert_eq!(verdict(&wrap(15, &[0x0b; 64])), "admitted");
        assert_eq!(verdict(&wrap(2, &[0x0b; 64])), "admitted");
        let raw_data = wrap(7, &wrap(5, &wrap(9, &[0x0b; 64])));
        assert_eq!(verdict(&raw_data), "admitted");
    }

    #[test]
    fn nesting_is_bounded_by_the_limit() {
        // graph 7 > node 1 > attribute 5 > graph 6 > ...
        let nested = |levels: usize| {
            let mut bytes = Vec::new();
            for level in (0..levels).rev() {
                bytes = wrap(if level == 0 { 7 } else { [6, 1, 5][level % 3] }, &bytes);
            }
            bytes
        };
        assert_eq!(verdict(&nested(64)), "admitted");
        assert!(verdict(&nested(65)).contains("nested deeper than 64"));
        let shallow = Limits { nesting: 3, ..Limits::default() };
        assert!(admit(&nested(3), Message::Model, &shallow).is_ok());
        assert!(admit(&nested(4), Message::Model, &shallow).is_err());
    }

    #[test]
    fn broken_fields_are_refused() {
        assert!(verdict(&[0x0e]).contains("unknown wire type 6"));
        assert!(verdict(&[0x02, 0x00]).contains("field number 0"));
        assert!(verdict(&[0x08]).contains("middle of a field"));
        assert!(verdict(&[0x08, 0xff]).contains("middle of a field"));
        assert!(verdict(&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]).contains("more than 64 bits"));
        assert!(verdict(&[0x80, 0x80, 0x80, 0x80, 0x10]).contains("more than 32 bits"));
        assert!(verdict(&[0x09, 0, 0, 0]).contains("middle of a field"));
        assert!(verdict(&[0x12, 0x05, 0x41]).contains("a length of 5 bytes, where 1 are left"));
        assert!(
            verdict(&[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01])
                .contains("a length of 18446744073709551615")
        );
    }

    #[test]
    fn a_length_may_not_leave_the_enclosing_message() {
        // A graph of two bytes whose name claims one byte more than the graph has; the model itself goes on.
        assert!(verdict(&[0x3a, 0x02, 0x12, 0x01, 0x08, 0x01]).contains("in GraphProto: a length of 1 bytes, where 0 are left"));
    }

    #[test]
    fn a_second_graph_is_refused() {
        let twice = [wrap(7, &[]), wrap(7, &[])].concat();
        assert!(verdict(&twice).contains("occurs twice"));
    }

    #[test]
    fn small_messages_that_grow_in_memory_are_refused() {
        let nodes = wrap(7, &wrap(1, &[]).repeat(4_000_000));
        assert!(verdict(&nodes).contains("overhead_bytes"));
        let unknown = wrap(7, &wrap(9, &[]).repeat(1_000_000));
        assert!(verdict(&unknown).contains("overhead_bytes"));
    }
}
