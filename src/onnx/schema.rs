//! The part of the ONNX schema that decides how the parser treats each field: what it descends into, and what it keeps.
//!
//! Source: `onnx.proto` of the onnx-protobuf release in use (IR version 10). Fields that are newer are unknown to that
//! release, and so to this table; the tests compare the two.

use super::proto;

/// The messages of the ONNX schema, by what they contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    ValueInfo,
    Training,
    Annotation,
    Tensor,
    Segment,
    SparseTensor,
    Shape,
    Dimension,
    Type,
    /// `TypeProto.Tensor` and `TypeProto.SparseTensor`.
    TypeTensor,
    /// `TypeProto.Sequence` and `TypeProto.Optional`.
    TypeElement,
    TypeMap,
    Function,
    OperatorSet,
    /// `StringStringEntryProto`.
    Entry,
}

/// Protobuf wire types that ONNX uses. Types 3 and 4 (groups) never occur in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    Varint,
    Fixed64,
    Bytes,
    Fixed32,
}

/// What the parser does with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    /// Keeps it in a map of unknown fields, unread.
    Unknown,
    /// Stores one value in place: number, string, or element of a repeated field.
    Value,
    /// Expands packed varints to values of so many bytes.
    Packed(u64),
    /// Descends into a message that occurs once.
    One(Message),
    /// Descends into one of a list of messages.
    Many(Message),
}

impl Message {
    /// Field `number` of this message, when it comes with wire type `wire`.
    pub(super) fn field(self, number: u32, wire: Wire) -> Field {
        use Field::{Many, One, Packed, Unknown, Value};
        use Message::*;
        match wire {
            Wire::Bytes => match (self, number) {
                (Model, 2 | 3 | 4 | 6) => Value,
                (Model, 7) => One(Graph),
                (Model, 8) => Many(OperatorSet),
                (Model, 14) => Many(Entry),
                (Model, 20) => Many(Training),
                (Model, 25) => Many(Function),

                (Graph, 2 | 10) => Value,
                (Graph, 1) => Many(Node),
                (Graph, 5) => Many(Tensor),
                (Graph, 11..=13) => Many(ValueInfo),
                (Graph, 14) => Many(Annotation),
                (Graph, 15) => Many(SparseTensor),
                (Graph, 16) => Many(Entry),

                (Node, 1..=4 | 6..=8) => Value,
                (Node, 5) => Many(Attribute),
                (Node, 9) => Many(Entry),

                (Attribute, 1 | 4 | 7 | 9 | 13 | 21) => Value,
                (Attribute, 8) => Packed(8),
                (Attribute, 5) => One(Tensor),
                (Attribute, 6) => One(Graph),
                (Attribute, 14) => One(Type),
                (Attribute, 22) => One(SparseTensor),
                (Attribute, 10) => Many(Tensor),
                (Attribute, 11) => Many(Graph),
                (Attribute, 15) => Many(Type),
                (Attribute, 23) => Many(SparseTensor),

                (ValueInfo, 1 | 3) => Value,
                (ValueInfo, 2) => One(Type),
                (ValueInfo, 4) => Many(Entry),

                (Training, 1 | 2) => One(Graph),
                (Training, 3 | 4) => Many(Entry),

                (Annotation, 1) => Value,
                (Annotation, 2) => Many(Entry),

                (Tensor, 4 | 6 | 8 | 9 | 10 | 12) => Value,
                (Tensor, 5) => Packed(4),
                (Tensor, 1 | 7 | 11) => Packed(8),
                (Tensor, 3) => One(Segment),
                (Tensor, 13 | 16) => Many(Entry),

                (SparseTensor, 1 | 2) => One(Tensor),
                (SparseTensor, 3) => Packed(8),

                (Shape, 1) => Many(Dimension),
                (Dimension, 2 | 3) => Value,

                (Type, 6) => Value,
                (Type, 1 | 8) => One(TypeTensor),
                (Type, 4 | 9) => One(TypeElement),
                (Type, 5) => One(TypeMap),
                (TypeTensor, 2) => One(Shape),
                (TypeElement, 1) => One(Type),
                (TypeMap, 2) => One(Type),

                (Function, 1 | 4..=6 | 8 | 10 | 13) => Value,
                (Function, 7) => Many(Node),
                (Function, 9) => Many(OperatorSet),
                (Function, 11) => Many(Attribute),
                (Function, 12) => Many(ValueInfo),
                (Function, 14) => Many(Entry),

                (OperatorSet, 1) => Value,
                (Entry, 1 | 2) => Value,
                _ => Unknown,
            },
            Wire::Varint => match (self, number) {
                (Model, 1 | 5)
                | (Attribute, 3 | 8 | 20)
                | (Tensor, 1 | 2 | 5 | 7 | 11 | 14)
                | (Segment, 1 | 2)
                | (SparseTensor, 3)
                | (Dimension, 1)
                | (TypeTensor | TypeMap, 1)
                | (OperatorSet, 2) => Value,
                _ => Unknown,
            },
            Wire::Fixed32 => match (self, number) {
                (Attribute, 2 | 7) | (Tensor, 4) => Value,
                _ => Unknown,
            },
            Wire::Fixed64 => match (self, number) {
                (Tensor, 10) => Value,
                _ => Unknown,
            },
        }
    }

    /// Bytes that one message of this sort takes in memory, its strings and lists apart.
    pub(super) fn memory(self) -> u64 {
        let bytes = match self {
            Message::Model => size_of::<proto::ModelProto>(),
            Message::Graph => size_of::<proto::GraphProto>(),
            Message::Node => size_of::<proto::NodeProto>(),
            Message::Attribute => size_of::<proto::AttributeProto>(),
            Message::ValueInfo => size_of::<proto::ValueInfoProto>(),
            Message::Training => size_of::<proto::TrainingInfoProto>(),
            Message::Annotation => size_of::<proto::TensorAnnotation>(),
            Message::Tensor => size_of::<proto::TensorProto>(),
            Message::Segment => size_of::<proto::tensor_proto::Segment>(),
            Message::SparseTensor => size_of::<proto::SparseTensorProto>(),
            Message::Shape => size_of::<proto::TensorShapeProto>(),
            Message::Dimension => size_of::<proto::tensor_shape_proto::Dimension>(),
            Message::Type => size_of::<proto::TypeProto>(),
            Message::TypeTensor => size_of::<proto::type_proto::Tensor>(),
            Message::TypeElement => size_of::<proto::type_proto::Sequence>(),
            Message::TypeMap => size_of::<proto::type_proto::Map>(),
            Message::Function => size_of::<proto::FunctionProto>(),
            Message::OperatorSet => size_of::<proto::OperatorSetIdProto>(),
            Message::Entry => size_of::<proto::StringStringEntryProto>(),
        };
        bytes as u64
    }

    /// The message's name in the schema.
    pub(super) fn name(self) -> &'static str {
        match self {
            Message::Model => "ModelProto",
            Message::Graph => "GraphProto",
            Message::Node => "NodeProto",
            Message::Attribute => "AttributeProto",
            Message::ValueInfo => "ValueInfoProto",
            Message::Training => "TrainingInfoProto",
            Message::Annotation => "TensorAnnotation",
            Message::Tensor => "TensorProto",
            Message::Segment => "TensorProto.Segment",
            Message::SparseTensor => "SparseTensorProto",
            Message::Shape => "TensorShapeProto",
            Message::Dimension => "TensorShapeProto.Dimension",
            Message::Type => "TypeProto",
            Message::TypeTensor => "TypeProto.Tensor",
            Message::TypeElement => "TypeProto.Sequence",
            Message::TypeMap => "TypeProto.Map",
            Message::Function => "FunctionProto",
            Message::OperatorSet => "OperatorSetIdProto",
            Message::Entry => "StringStringEntryProto",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::onnx::proto::Message as _;

    const WIRES: [(Wire, u32); 4] = [(Wire::Varint, 0), (Wire::Fixed64, 1), (Wire::Bytes, 2), (Wire::Fixed32, 5)];

    /// One field whose payload is eight bytes of "start group 1" where it has a length: text, packed numbers and unknown
    /// bytes swallow that, a message cannot.
    fn field(number: u32, wire: u32) -> Vec<u8> {
        let tag = number << 3 | wire;
        let mut bytes = if tag < 0x80 { vec![tag as u8] } else { vec![(tag & 0x7f) as u8 | 0x80, (tag >> 7) as u8] };
        match wire {
            0 => bytes.push(0x0b),
            1 => bytes.extend([0x0b; 8]),
            2 => bytes.extend([8].into_iter().chain([0x0b; 8])),
            _ => bytes.extend([0x0b; 4]),
        }
        bytes
    }

    fn compare<M: proto::Message>(message: Message) {
        for number in 1..=40 {
            for (wire, code) in WIRES {
                let said = message.field(number, wire);
                let parsed = M::parse_from_bytes(&field(number, code));
                let context = format!("{} field {number} {wire:?} is {said:?}", message.name());
                match said {
                    Field::One(_) | Field::Many(_) => assert!(parsed.is_err(), "{context}"),
                    other => {
                        let unknown = parsed.unwrap().special_fields().unknown_fields().iter().count() > 0;
                        assert_eq!(unknown, other == Field::Unknown, "{context}");
                    }
                }
            }
        }
    }

    #[test]
    fn agrees_with_the_parser_on_every_field() {
        compare::<proto::ModelProto>(Message::Model);
        compare::<proto::GraphProto>(Message::Graph);
        compare::<proto::NodeProto>(Message::Node);
        compare::<proto::AttributeProto>(Message::Attribute);
        compare::<proto::ValueInfoProto>(Message::ValueInfo);
        compare::<proto::TrainingInfoProto>(Message::Training);
        compare::<proto::TensorAnnotation>(Message::Annotation);
        compare::<proto::TensorProto>(Message::Tensor);
        compare::<proto::tensor_proto::Segment>(Message::Segment);
        compare::<proto::SparseTensorProto>(Message::SparseTensor);
        compare::<proto::TensorShapeProto>(Message::Shape);
        compare::<proto::tensor_shape_proto::Dimension>(Message::Dimension);
        compare::<proto::TypeProto>(Message::Type);
        compare::<proto::type_proto::Tensor>(Message::TypeTensor);
        compare::<proto::type_proto::SparseTensor>(Message::TypeTensor);
        compare::<proto::type_proto::Sequence>(Message::TypeElement);
        compare::<proto::type_proto::Optional>(Message::TypeElement);
        compare::<proto::type_proto::Map>(Message::TypeMap);
        compare::<proto::FunctionProto>(Message::Function);
        compare::<proto::OperatorSetIdProto>(Message::OperatorSet);
        compare::<proto::StringStringEntryProto>(Message::Entry);
    }

    /// Reaches every message from the model, so that what a field leads to is compared as well.
    #[test]
    fn agrees_with_the_parser_on_what_each_field_leads_to() {
        let mut paths: Vec<(Message, Vec<u32>)> = vec![(Message::Model, vec![])];
        let mut next = 0;
        while let Some((message, path)) = paths.get(next).cloned() {
            next += 1;
            for number in 1..=40 {
                let said = message.field(number, Wire::Bytes);
                let mut bytes = field(number, 2);
                for &step in path.iter().rev() {
                    let mut outer = field(step, 2);
                    outer.truncate(outer.len() - 9);
                    outer.push(u8::try_from(bytes.len()).unwrap());
                    outer.extend(&bytes);
                    bytes = outer;
                }
                let descends = matches!(said, Field::One(_) | Field::Many(_));
                assert_eq!(proto::ModelProto::parse_from_bytes(&bytes).is_err(), descends, "{path:?} {number} is {said:?}");
                if let Field::One(child) | Field::Many(child) = said
                    && path.len() < 6
                {
                    paths.push((child, [path.as_slice(), &[number]].concat()));
                }
            }
        }
        assert!(next > 19);
    }
}
