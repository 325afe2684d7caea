//! Reading and writing the canonical encodings: objects, contexts, rings, storage records.
//!
//! They are the same bytes on the wire and on disk, so that one checksum, made where the bytes were made, is verified at every
//! hop. A reader never panics and never allocates more than its input: lengths are checked before they are believed.

use bytes::Bytes;
use thiserror::Error;

/// Why bytes are not what they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum DecodeError {
    /// The bytes end in the middle of a field.
    #[error("ends within {0}")]
    Truncated(&'static str),
    /// A field holds what it never holds.
    #[error("{0} is out of range")]
    OutOfRange(&'static str),
    /// The first byte names a format that this version does not know.
    #[error("format {found} is unknown, this version reads {known}")]
    UnknownFormat {
        /// The format byte found.
        found: u8,
        /// The format byte known.
        known: u8,
    },
    /// The checksum over the bytes does not match.
    #[error("checksum does not match")]
    Checksum,
    /// Bytes are left over.
    #[error("{0} bytes after the end")]
    Trailing(usize),
}

/// How many bytes a varint of `value` takes.
pub fn varint_len(value: u64) -> usize {
    ((u64::BITS - (value | 1).leading_zeros()).div_ceil(7)) as usize
}

/// Appends fields to a buffer.
#[derive(Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// A writer with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    /// Eight bytes, big endian.
    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// Seven bits a byte, least significant first.
    pub fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.u8((value as u8) | 0x80);
            value >>= 7;
        }
        self.u8(value as u8);
    }

    /// Bytes whose length the reader knows.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// A length and that many bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.raw(bytes);
    }

    /// Forgets what has been written and keeps the room.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// What has been written so far.
    pub fn written(&self) -> &[u8] {
        &self.0
    }

    /// What has been written.
    pub fn finish(self) -> Bytes {
        self.0.into()
    }

    /// What has been written, and an 8-byte checksum over it.
    pub fn finish_with_checksum(mut self, seed: u64) -> Bytes {
        let checksum = xxhash_rust::xxh3::xxh3_64_with_seed(&self.0, seed);
        self.u64(checksum);
        self.finish()
    }
}

/// Takes fields from the front of bytes. Only what is handed out as [`Bytes`] is counted as a reference to the input.
pub struct Reader {
    bytes: Bytes,
    at: usize,
    /// Where the fields end. The bytes are not cut off there: that would count a reference.
    end: usize,
}

impl Reader {
    /// A reader over bytes without a checksum.
    pub fn new(bytes: Bytes) -> Self {
        Self { at: 0, end: bytes.len(), bytes }
    }

    /// A reader over what [`Writer::finish_with_checksum`] made, with the checksum verified and removed.
    pub fn verified(bytes: Bytes, seed: u64) -> Result<Self, DecodeError> {
        let (body, checksum) = bytes.split_last_chunk::<8>().ok_or(DecodeError::Truncated("checksum"))?;
        if xxhash_rust::xxh3::xxh3_64_with_seed(body, seed).to_be_bytes() != *checksum {
            return Err(DecodeError::Checksum);
        }
        let end = bytes.len() - checksum.len();
        Ok(Self { at: 0, end, bytes })
    }

    /// What is left.
    fn rest(&self) -> &[u8] {
        &self.bytes[self.at..self.end]
    }

    fn array<const LENGTH: usize>(&mut self, field: &'static str) -> Result<[u8; LENGTH], DecodeError> {
        let array = *self.rest().first_chunk().ok_or(DecodeError::Truncated(field))?;
        self.at += LENGTH;
        Ok(array)
    }

    /// One byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array(field).map(|[byte]| byte)
    }

    /// Eight bytes, big endian.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        self.array(field).map(u64::from_be_bytes)
    }

    /// A varint of at most 64 bits, in its shortest form.
    pub fn varint(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8(field)?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(DecodeError::OutOfRange(field));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                let overlong = shift > 0 && byte == 0;
                return if overlong { Err(DecodeError::OutOfRange(field)) } else { Ok(value) };
            }
        }
        Err(DecodeError::OutOfRange(field))
    }

    /// A count of things of which each takes at least one byte.
    pub fn count(&mut self, field: &'static str) -> Result<usize, DecodeError> {
        let count = self.varint(field)?;
        if count > self.rest().len() as u64 { Err(DecodeError::Truncated(field)) } else { Ok(count as usize) }
    }

    /// Exactly `length` bytes, shared with the input.
    pub fn raw(&mut self, length: usize, field: &'static str) -> Result<Bytes, DecodeError> {
        if self.rest().len() < length {
            return Err(DecodeError::Truncated(field));
        }
        let taken = self.bytes.slice(self.at..self.at + length);
        self.at += length;
        Ok(taken)
    }

    /// Sixteen bytes.
    pub fn id(&mut self, field: &'static str) -> Result<[u8; 16], DecodeError> {
        self.array(field)
    }

    /// A length and that many bytes.
    pub fn bytes(&mut self, field: &'static str) -> Result<Bytes, DecodeError> {
        let length = self.count(field)?;
        self.raw(length, field)
    }

    /// A length and that many bytes of UTF-8.
    pub fn text(&mut self, field: &'static str) -> Result<String, DecodeError> {
        let bytes = self.bytes(field)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::OutOfRange(field))
    }

    /// A format byte that has to be `known`.
    pub fn format(&mut self, known: u8) -> Result<(), DecodeError> {
        let found = self.u8("format")?;
        if found == known { Ok(()) } else { Err(DecodeError::UnknownFormat { found, known }) }
    }

    /// A format byte that has to be one of `known`, which ends with the newest.
    pub fn format_of(&mut self, known: &[u8]) -> Result<u8, DecodeError> {
        let found = self.u8("format")?;
        let newest = known.last().copied().unwrap_or_default();
        if known.contains(&found) { Ok(found) } else { Err(DecodeError::UnknownFormat { found, known: newest }) }
    }

    /// Nothing may be left.
    pub fn end(self) -> Result<(), DecodeError> {
        if self.rest().is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.rest().len())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_varint_reads_back_and_only_in_its_shortest_form() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut writer = Writer::default();
            writer.varint(value);
            let bytes = writer.finish();
            assert_eq!(varint_len(value), bytes.len(), "{value}");
            let mut reader = Reader::new(bytes);
            assert_eq!(reader.varint("value"), Ok(value));
            assert_eq!(reader.end(), Ok(()));
        }
        let overlong = Reader::new(Bytes::from_static(&[0x80, 0x00])).varint("value");
        assert_eq!(overlong, Err(DecodeError::OutOfRange("value")));
    }

    #[test]
    fn one_flipped_bit_anywhere_is_noticed() {
        let mut writer = Writer::default();
        writer.bytes(b"an object's bytes");
        let good = writer.finish_with_checksum(7);
        assert!(Reader::verified(good.clone(), 7).is_ok());
        for bit in 0..good.len() * 8 {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Reader::verified(bad.into(), 7).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_length_beyond_the_input_is_refused_before_anything_is_allocated() {
        let mut writer = Writer::default();
        writer.varint(u64::MAX);
        assert_eq!(Reader::new(writer.finish()).bytes("value"), Err(DecodeError::Truncated("value")));
    }
}
