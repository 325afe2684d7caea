//! Which fields of a message may hold many elements, and what those take in memory once they are decoded.
//!
//! A message that is not listed with a field has none that repeats. What is counted is the structs, not the bytes that they point
//! into: those are slices of the message's own buffer. A test compares the lists with the .proto files.

use std::mem::size_of;

use bytes::Bytes;

use crate::v1;

/// A field that repeats, or that has such within.
#[derive(Debug)]
pub struct Field {
    tag: u64,
    /// Memory of each occurrence.
    each: usize,
    /// Memory of each byte of it: numbers are packed.
    each_byte: usize,
    within: &'static [Field],
}

/// Who decodes a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// A node, of a call that is all in this message.
    Call,
    /// A client, or a node that reads one message of many.
    Part,
}

/// The fields of a message that make it grow in memory.
pub trait Elements {
    /// Which.
    const ELEMENTS: &'static [Field];
    /// For whom.
    const ROLE: Role;
}

const fn repeated<T>(tag: u64, within: &'static [Field]) -> Field {
    Field { tag, each: size_of::<T>(), each_byte: 0, within }
}

const fn one(tag: u64, within: &'static [Field]) -> Field {
    Field { tag, each: 0, each_byte: 0, within }
}

const fn numbers(tag: u64) -> Field {
    Field { tag, each: size_of::<u32>(), each_byte: size_of::<u32>(), within: &[] }
}

const EVIDENCE: &[Field] = &[repeated::<Bytes>(2, &[])];
const GET_RESPONSE: &[Field] = &[repeated::<v1::Sibling>(1, &[]), one(3, EVIDENCE)];
const PUT_RESPONSE: &[Field] = &[one(2, EVIDENCE)];
const SESSION_RESPONSE: &[Field] = &[one(2, GET_RESPONSE), one(3, PUT_RESPONSE)];
const FORWARDED_REQUEST: &[Field] = &[numbers(6)];
const PEER_MESSAGE: &[Field] = &[
    one(6, &[one(3, FORWARDED_REQUEST)]),
    one(7, &[repeated::<Bytes>(5, &[])]),
    one(8, &[repeated::<v1::GossipMember>(2, &[])]),
    one(12, &[repeated::<v1::PushedObject>(5, &[])]),
    one(16, &[repeated::<v1::KeyDigest>(4, &[])]),
    one(17, &[repeated::<v1::PushedObject>(3, &[]), repeated::<v1::KeyDigest>(4, &[])]),
    one(18, &[repeated::<v1::ActorCounter>(4, &[])]),
    one(20, &[repeated::<v1::ReapedName>(3, &[])]),
    one(21, &[repeated::<v1::PushedObject>(4, &[])]),
    one(22, &[repeated::<v1::KeyName>(2, &[])]),
];

macro_rules! elements {
    ($($role:ident { $($message:ident: $fields:expr;)* })*) => {
        $($(impl Elements for v1::$message {
            const ELEMENTS: &'static [Field] = $fields;
            const ROLE: Role = Role::$role;
        })*)*
        /// The messages that are decoded, for the test of these lists.
        #[cfg(test)]
        const LISTED: &[(&str, &[Field])] = &[$($((stringify!($message), $fields)),*),*];
    };
}

elements! {
    Call {
        GetRequest: &[];
        PutRequest: &[];
        DeleteRequest: &[];
        TopologyRequest: &[];
        StatusRequest: &[];
        RingViewRequest: &[];
        ProposeRingRequest: &[];
        DrainReceiptRequest: &[];
        PartitionDigestsRequest: &[numbers(1)];
    }
    Part {
        GetResponse: GET_RESPONSE;
        PutResponse: PUT_RESPONSE;
        SessionRequests: &[repeated::<v1::SessionRequest>(1, &[])];
        SessionResponses: &[repeated::<v1::SessionResponse>(1, SESSION_RESPONSE)];
        TopologyResponse: &[repeated::<v1::MemberAddress>(3, &[])];
        PeerFrame: &[repeated::<v1::PeerMessage>(2, PEER_MESSAGE)];
        StatusResponse: &[
            repeated::<v1::HintBacklog>(14, &[]),
            repeated::<v1::TransferStatus>(15, &[]),
            repeated::<v1::PeerStatus>(16, &[]),
            numbers(17),
            repeated::<(String, u64)>(19, &[]),
        ];
        RingViewResponse: &[];
        ProposeRingResponse: &[];
        DrainReceiptResponse: &[repeated::<v1::HandedOver>(5, &[])];
        PartitionDigestsResponse: &[repeated::<v1::PartitionDigest>(1, &[])];
    }
}

/// Memory that the elements of `message` take when it is decoded. Where it is malformed the count ends, as decoding does.
pub fn element_bytes(mut message: &[u8], fields: &'static [Field]) -> usize {
    let mut bytes = 0;
    while !fields.is_empty()
        && let Some((tag, payload)) = next_field(&mut message)
    {
        if let Some(field) = fields.iter().find(|field| field.tag == tag) {
            bytes += field.each + field.each_byte * payload.len() + element_bytes(payload, field.within);
        }
    }
    bytes
}

/// The next field's tag, and its bytes if it has a length; `None` at the end, and where nothing can be read.
fn next_field<'a>(message: &mut &'a [u8]) -> Option<(u64, &'a [u8])> {
    let key = varint(message)?;
    let length = match key & 7 {
        // What is in a group counts as if it were outside.
        3 | 4 => 0,
        0 => {
            varint(message)?;
            0
        }
        1 => skip(message, 8)?,
        2 => usize::try_from(varint(message)?).ok()?,
        5 => skip(message, 4)?,
        _ => return None,
    };
    let (payload, rest) = message.split_at_checked(length)?;
    *message = rest;
    Some((key >> 3, payload))
}

/// Leaves out so many bytes; no payload remains.
fn skip(message: &mut &[u8], bytes: usize) -> Option<usize> {
    *message = message.get(bytes..)?;
    Some(0)
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..70).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost::Message as _;
    use prost_types::field_descriptor_proto::{Label, Type};
    use prost_types::{DescriptorProto, FileDescriptorSet};

    use super::*;

    type Messages = BTreeMap<String, DescriptorProto>;

    fn messages() -> Messages {
        fn put(messages: &mut Messages, scope: &str, message: DescriptorProto) {
            let name = format!("{scope}.{}", message.name());
            message.nested_type.iter().for_each(|nested| put(messages, &name, nested.clone()));
            messages.insert(name, message);
        }
        let files = FileDescriptorSet::decode(crate::FILE_DESCRIPTOR_SET).unwrap().file;
        let mut messages = Messages::new();
        files.into_iter().flat_map(|file| file.message_type).for_each(|message| put(&mut messages, ".dynamo.v1", message));
        messages
    }

    /// Something in it, or in what it is made of, repeats.
    fn repeats(messages: &Messages, message: &DescriptorProto) -> bool {
        let within = |name: &str| messages.get(name).is_some_and(|message| repeats(messages, message));
        message.field.iter().any(|field| field.label() == Label::Repeated || within(field.type_name()))
    }

    /// Exactly what repeats is listed, at every depth.
    fn compare(messages: &Messages, name: &str, listed: &[Field]) {
        let message = &messages[name];
        for field in &message.field {
            let within = messages.get(field.type_name());
            let wanted = field.label() == Label::Repeated || within.is_some_and(|message| repeats(messages, message));
            let found = listed.iter().find(|listed| listed.tag == u64::try_from(field.number()).unwrap());
            assert_eq!(found.is_some(), wanted, "{name}.{}", field.name());
            let Some(found) = found else { continue };
            assert_eq!(found.each > 0, field.label() == Label::Repeated, "{name}.{}", field.name());
            let is_number = !matches!(field.r#type(), Type::Message | Type::Bytes | Type::String);
            assert_eq!(found.each_byte > 0, is_number, "{name}.{}", field.name());
            if within.is_some() {
                compare(messages, field.type_name(), found.within);
            }
        }
    }

    #[test]
    fn whatever_repeats_in_a_message_that_is_decoded_is_listed() {
        let messages = messages();
        for (name, listed) in LISTED {
            compare(&messages, &format!(".dynamo.v1.{name}"), listed);
        }
    }

    #[test]
    fn elements_are_counted_at_every_depth_and_not_in_what_is_malformed() {
        let response = v1::SessionResponse {
            id: 7,
            response: Some(v1::session_response::Response::Get(v1::GetResponse {
                siblings: vec![v1::Sibling::default(); 3],
                context: "context".into(),
                evidence: Some(v1::Evidence { nodes: vec![Bytes::from_static(&[1; 16]); 2], ..Default::default() }),
            })),
        };
        let each = size_of::<v1::SessionResponse>() + 3 * size_of::<v1::Sibling>() + 2 * size_of::<Bytes>();
        let encoded = v1::SessionResponses { responses: vec![response; 5], epoch: 9 }.encode_to_vec();
        assert_eq!(element_bytes(&encoded, v1::SessionResponses::ELEMENTS), 5 * each);
        let digests = v1::PartitionDigestsRequest { partitions: vec![1; 100] }.encode_to_vec();
        assert_eq!(element_bytes(&digests, v1::PartitionDigestsRequest::ELEMENTS), 101 * size_of::<u32>());
        for malformed in [&[0x0a, 0xff][..], &[0x0f], &[0xff; 20], &[0x0d, 1], &[0x08]] {
            assert_eq!(element_bytes(malformed, v1::SessionRequests::ELEMENTS), 0, "{malformed:?}");
        }
    }
}
