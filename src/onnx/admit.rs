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
    /// Where it ends in the whole, exclusive.
    end: usize,
    /// Bit `n` says that field `n`, a message that may occur once, has been read.
    seen: u64,
}

/// A scan that takes the bytes of a message as they come.
pub(super) struct Admission<'a> {
    limits: &'a Limits,
    stack: Vec<Frame>,
    /// How many bytes were admitted before those at hand.
    base: usize,
    /// Where the scan goes on, in the whole.
    position: usize,
    overhead: u64,
}

impl<'a> Admission<'a> {
    /// Of a message of sort `root` and of `length` bytes.
    pub fn new(root: Message, length: usize, limits: &'a Limits) -> Admission<'a> {
        Admission { limits, stack: vec![Frame { message: root, end: length, seen: 0 }], base: 0, position: 0, overhead: 0 }
    }

    /// Scans the bytes that follow those that were admitted so far, and says how many of them are: those of the last field may have to
    /// be shown once more, with what follows them.
    ///
    /// Refused is what the ONNX parser must not see: groups, messages nested deeper than `limits.nesting`, lengths that leave the
    /// enclosing message, truncated or overlong varints, unknown wire types, field number 0, a second copy of a message that may occur
    /// only once (readers differ in which one counts), and messages that would take more than `limits.overhead_bytes` of memory beyond
    /// the size of all bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`](crate::error::ErrorKind::Malformed), with the byte's offset.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<usize> {
        let there = self.base.saturating_add(bytes.len());
        loop {
            let depth = self.stack.len();
            // A field may end behind what is there.
            let Some(frame) = self.stack.last_mut().filter(|_| self.position < there) else { break };
            if self.position == frame.end {
                self.stack.pop();
                continue;
            }
            let mut reader = Reader { bytes, base: self.base, position: self.position, end: frame.end };
            let (start, inside) = (self.position, frame.message.name());
            let refuse = |reason: String| Error::malformed(format!("byte {start}, in {inside}: {reason}"));
            let (number, wire, length) = match reader.field() {
                Ok(field) => field,
                Err(Stop::MoreNeeded) => break,
                Err(Stop::Refused(reason)) => return Err(refuse(reason)),
            };
            self.position = reader.position;

            let field = frame.message.field(number, wire);
            let memory = match field {
                Field::Unknown => UNKNOWN_MEMORY,
                Field::Value => VALUE_MEMORY,
                Field::Packed(width) => (length as u64).saturating_mul(width - 1),
                Field::One(child) | Field::Many(child) => child.memory(),
            };
            self.overhead = self.overhead.saturating_add(memory);
            if self.overhead > self.limits.overhead_bytes {
                return Err(refuse(format!(
                    "the file holds so many small messages that they would take more than {} bytes of memory beyond its own size (limit overhead_bytes)",
                    self.limits.overhead_bytes
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
                    self.position = self.position.saturating_add(length);
                    continue;
                }
            };
            if depth > self.limits.nesting {
                return Err(refuse(format!("messages are nested deeper than {} (limit nesting)", self.limits.nesting)));
            }
            self.stack.push(Frame { message: child, end: self.position.saturating_add(length), seen: 0 });
        }
        let admitted = self.position.min(there) - self.base;
        self.base += admitted;
        Ok(admitted)
    }
}

/// Why a field could not be read.
enum Stop {
    /// It is not one.
    Refused(String),
    /// It goes on behind the bytes at hand.
    MoreNeeded,
}

impl From<&str> for Stop {
    fn from(reason: &str) -> Stop {
        Stop::Refused(reason.to_string())
    }
}

/// A cursor over the bytes of one message; it never passes `end`.
struct Reader<'a> {
    bytes: &'a [u8],
    /// Where `bytes` begin, in the whole.
    base: usize,
    position: usize,
    end: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> std::result::Result<u8, Stop> {
        if self.position >= self.end {
            return Err("the data ends in the middle of a field".into());
        }
        let byte = self.bytes.get(self.position - self.base).copied().ok_or(Stop::MoreNeeded)?;
        self.position += 1;
        Ok(byte)
    }

    /// A base-128 number of at most ten bytes and 64 bits.
    fn varint(&mut self) -> std::result::Result<u64, Stop> {
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
        Err("a number takes more than 64 bits".into())
    }

    /// The number and wire type of the next field, whose value begins at the cursor then, and how many bytes that has; a base-128 number
    /// is passed.
    fn field(&mut self) -> std::result::Result<(u32, Wire, usize), Stop> {
        let (number, wire) = self.tag()?;
        let length = match wire {
            Wire::Varint => self.varint().map(|_| 0)?,
            Wire::Fixed64 => self.fixed(8)?,
            Wire::Fixed32 => self.fixed(4)?,
            Wire::Bytes => self.length()?,
        };
        Ok((number, wire, length))
    }

    fn tag(&mut self) -> std::result::Result<(u32, Wire), Stop> {
        let tag = u32::try_from(self.varint()?).map_err(|_| "a field tag takes more than 32 bits")?;
        let wire = match tag & 7 {
            0 => Wire::Varint,
            1 => Wire::Fixed64,
            2 => Wire::Bytes,
            5 => Wire::Fixed32,
            3 | 4 => return Err("a group, which ONNX never uses".into()),
            other => return Err(Stop::Refused(format!("unknown wire type {other}"))),
        };
        match tag >> 3 {
            0 => Err("field number 0".into()),
            number => Ok((number, wire)),
        }
    }

    /// A length that stays within this message.
    fn length(&mut self) -> std::result::Result<usize, Stop> {
        let length = self.varint()?;
        let left = self.end.saturating_sub(self.position);
        match usize::try_from(length) {
            Ok(length) if length <= left => Ok(length),
            _ => Err(Stop::Refused(format!("a length of {length} bytes, where {left} are left"))),
        }
    }

    fn fixed(&self, count: usize) -> std::result::Result<usize, Stop> {
        if count > self.end.saturating_sub(self.position) {
            return Err("the data ends in the middle of a field".into());
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn admit(bytes: &[u8], limits: &Limits) -> Result<()> {
        let admitted = Admission::new(Message::Model, bytes.len(), limits).advance(bytes)?;
        assert_eq!(admitted, bytes.len());
        Ok(())
    }

    /// As [`admit`], where bytes come so many at a time.
    fn admit_in_parts(bytes: &[u8], size: usize) -> Result<()> {
        let limits = Limits::default();
        let mut admission = Admission::new(Message::Model, bytes.len(), &limits);
        let (mut admitted, mut there) = (0, 0);
        while there < bytes.len() {
            there = bytes.len().min(there + size);
            admitted += admission.advance(&bytes[admitted..there])?;
        }
        assert_eq!(admitted, bytes.len(), "in parts of {size}");
        Ok(())
    }

    fn verdict(bytes: &[u8]) -> String {
        let told = |result: Result<()>| result.map_or_else(|error| error.to_string(), |()| "admitted".to_string());
        let verdict = told(admit(bytes, &Limits::default()));
        if bytes.len() < 1000 {
            for size in [1, 2, 3, 7, 64] {
                assert_eq!(told(admit_in_parts(bytes, size)), verdict, "in parts of {size}");
            }
        }
        verdict
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
        assert!(admit(&nested(3), &shallow).is_ok());
        assert!(admit(&nested(4), &shallow).is_err());
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
