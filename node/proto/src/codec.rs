//! The codec of every service: prost's, but for messages whose elements would take far more memory than their bytes.
//!
//! An element of a repeated field may be two bytes on the wire and hundreds in memory: a frame of 16 MiB would become gigabytes. So
//! the elements are counted before the first is made, which reads the tags and lengths of those fields alone (`elements.rs`).
//!
//! A call that is not taken says in its status's details that nothing was written, as every refusal of a node does.

use std::fmt;
use std::marker::PhantomData;

use bytes::Buf as _;
use dynamo_core::request::Failure;
use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::elements::{Elements, Role, element_bytes};
use crate::kv::status;

/// Memory that the elements of one message may take, beside the bytes that they carry: some 100,000 requests or messages of peers,
/// which batch a few hundred. While a list of them grows it may take three times as much.
pub const ELEMENT_BYTES_MAX: usize = 32 << 20;
/// In a longer message nothing that is unknown is kept: the fields that are share its buffer.
const SHARED_BYTES_MAX: usize = 16 << 10;

/// Encodes `T` and decodes `U`.
pub struct BoundedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> fmt::Debug for BoundedCodec<T, U> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("BoundedCodec")
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Elements + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ExactEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ExactEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(PhantomData)
    }
}

/// Encodes `T` into as much memory as it takes: a buffer that grows doubles, and an answer may wait long for its client.
pub struct ExactEncoder<T>(PhantomData<T>);

impl<T: Message> Encoder for ExactEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.encoded_len());
        item.encode_raw(buffer);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

/// Decodes `U`, or says why not.
pub struct BoundedDecoder<U>(PhantomData<U>);

impl<U: Message + Default + Elements> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        decode(buffer.copy_to_bytes(buffer.remaining())).map(Some)
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

fn decode<U: Message + Default + Elements>(encoded: bytes::Bytes) -> Result<U, Status> {
    let elements = element_bytes(&encoded, U::ELEMENTS);
    if elements > ELEMENT_BYTES_MAX {
        let bytes = encoded.len();
        let reason = format!(
            "a message of {bytes} bytes has elements that take {elements} bytes of memory, at most {ELEMENT_BYTES_MAX}; nothing of it was \
             done; send fewer in one message"
        );
        return Err(refused::<U>(reason.clone(), Status::resource_exhausted(reason)));
    }
    let malformed = |error: prost::DecodeError| {
        let reason = format!("message: {error}; nothing of it was done; encode it as the .proto files of this version say");
        refused::<U>(reason, Status::internal(error.to_string()))
    };
    let encoded_bytes = encoded.len();
    let message = U::decode(encoded).map_err(malformed)?;
    if encoded_bytes > SHARED_BYTES_MAX && message.encoded_len() < encoded_bytes / 2 {
        // Most of it means nothing here, and one short field would keep it all in memory.
        return U::decode(bytes::Bytes::from(message.encode_to_vec())).map_err(malformed);
    }
    Ok(message)
}

/// Why a message is not taken. Nobody may conclude from an answer, or from one frame of a stream, that nothing was written: what it
/// answers, or what came before it, may have been done. So only a whole call is said to be invalid.
fn refused<U: Elements>(call: String, part: Status) -> Status {
    match U::ROLE {
        Role::Call => status(Failure::Invalid(call).into()),
        Role::Part => part,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::failure;
    use crate::v1;
    use bytes::Bytes;
    use tonic::Code;

    /// So many empty elements of the field `tag`: two bytes each.
    fn empty(tag: u8, count: usize) -> Bytes {
        [tag << 3 | 2, 0].repeat(count).into()
    }

    #[test]
    fn a_message_of_many_empty_elements_is_refused_before_it_is_decoded() {
        let refused = decode::<v1::SessionRequests>(empty(1, 1 << 20)).unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.message().starts_with("a message of 2097152 bytes has elements that take "), "{refused}");
        assert!(decode::<v1::SessionResponses>(empty(1, 1 << 20)).is_err());
        assert!(decode::<v1::PeerFrame>(empty(2, 1 << 20)).is_err());
        // What is sent in earnest is far below: a frame of 10,000 requests.
        assert_eq!(decode::<v1::SessionRequests>(empty(1, 10_000)).unwrap().requests.len(), 10_000);
    }

    /// A client that took a damaged answer to a put for a refusal would write again what was written.
    #[test]
    fn a_call_that_is_not_understood_is_refused_as_invalid_and_an_answer_says_nothing_of_what_was_written() {
        // The beginning of a field's length, and no more.
        let malformed = || Bytes::from_static(&[0x0a, 0xff]);
        let too_many = decode::<v1::PartitionDigestsRequest>(empty(1, (8 << 20) + 1)).unwrap_err();
        for refused in [decode::<v1::PutRequest>(malformed()).unwrap_err(), too_many] {
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
            assert!(refused.message().contains("nothing of it was done"), "{refused}");
            assert!(matches!(failure(&refused), Some(Failure::Invalid(_))), "{refused:?}");
        }
        let frames = [
            decode::<v1::PutResponse>(malformed()).unwrap_err(),
            decode::<v1::SessionRequests>(malformed()).unwrap_err(),
            decode::<v1::PeerFrame>(malformed()).unwrap_err(),
        ];
        for refused in frames {
            assert_eq!((refused.code(), failure(&refused)), (Code::Internal, None), "{refused:?}");
        }
    }

    #[test]
    fn of_a_long_message_that_is_mostly_unknown_only_what_is_known_stays_in_memory() {
        let known = v1::GetRequest { key: "k".into(), ..Default::default() }.encode_to_vec();
        // Field 15, which a get does not have.
        let mut junk = vec![15 << 3 | 2];
        prost::encoding::encode_varint(SHARED_BYTES_MAX as u64, &mut junk);
        junk.extend(vec![0; SHARED_BYTES_MAX]);
        let encoded = Bytes::from([known, junk].concat());
        let get = decode::<v1::GetRequest>(encoded.clone()).unwrap();
        assert_eq!(get.key, "k");
        assert!(!encoded.as_ptr_range().contains(&get.key.as_ptr()));
    }
}
