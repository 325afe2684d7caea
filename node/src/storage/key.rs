//! How records are named in RocksDB.
//!
//! ```text
//! data   partition u16 ‖ position u128 ‖ name          one partition is one range, in hash order within
//! hints  target 16 bytes ‖ partition u16 ‖ name        one target is one range
//! name   bucket, each 00 as 00 ff ‖ 00 00 ‖ key        sorts as (bucket, key) does
//! ```
//!
//! Numbers are big endian, so that RocksDB's order of bytes is the order of what they mean.

use bytes::Bytes;
use dynamo_core::codec::{DecodeError, Reader};
use dynamo_core::id::{NodeId, PartitionId};
use dynamo_core::name::{Name, Position};
use dynamo_core::storage::Cursor;

/// Above every data key: the last partition's last position would need a name whose MD5 is all ones and that starts with ff.
const BEYOND_ALL_PARTITIONS: [u8; 20] = [0xff; 20];

/// The key of an object.
pub fn of_object(partition: PartitionId, position: Position, name: &Name) -> Vec<u8> {
    let mut key = Vec::with_capacity(18 + name.len() + 4);
    key.extend_from_slice(&of_partition(partition));
    key.extend_from_slice(&position.0.to_be_bytes());
    append_name(&mut key, name);
    key
}

/// The key of a copy that is kept for `target`.
pub fn of_hint(target: NodeId, partition: PartitionId, name: &Name) -> Vec<u8> {
    let mut key = Vec::with_capacity(18 + name.len() + 4);
    key.extend_from_slice(&target.0);
    key.extend_from_slice(&of_partition(partition));
    append_name(&mut key, name);
    key
}

/// What every key of the partition starts with.
pub fn of_partition(partition: PartitionId) -> [u8; 2] {
    u16::try_from(partition.0).expect("a ring has at most 65,536 partitions").to_be_bytes()
}

/// The end of the partition's range; `None` for the last.
pub fn after_partition(partition: PartitionId) -> Option<Vec<u8>> {
    u16::from_be_bytes(of_partition(partition)).checked_add(1).map(|next| next.to_be_bytes().to_vec())
}

/// From where to before where the partition's objects are.
pub fn range_of_partition(partition: PartitionId) -> (Vec<u8>, Vec<u8>) {
    let until = after_partition(partition).unwrap_or_else(|| BEYOND_ALL_PARTITIONS.to_vec());
    (of_partition(partition).to_vec(), until)
}

/// The end of the target's range; `None` for the last.
pub fn after_target(target: NodeId) -> Option<Vec<u8>> {
    u128::from_be_bytes(target.0).checked_add(1).map(|next| next.to_be_bytes().to_vec())
}

/// The least key above `key`.
pub fn just_after(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

/// The partition of a data key.
pub fn read_partition(key: &[u8]) -> Result<PartitionId, DecodeError> {
    let leading = key.first_chunk().ok_or(DecodeError::Truncated("partition"))?;
    Ok(PartitionId(u16::from_be_bytes(*leading).into()))
}

/// Position and name of a data key.
pub fn read_cursor(key: &[u8]) -> Result<Cursor, DecodeError> {
    let mut reader = Reader::new(Bytes::copy_from_slice(key));
    reader.raw(2, "partition")?;
    let position = Position(u128::from_be_bytes(reader.id("position")?));
    Ok(Cursor { position, name: read_name(&key[18..])? })
}

/// Target, partition and name of a hint's key.
pub fn read_hint(key: &[u8]) -> Result<(NodeId, PartitionId, Name), DecodeError> {
    let mut reader = Reader::new(Bytes::copy_from_slice(key));
    let target = NodeId(reader.id("target")?);
    let partition = read_partition(&reader.raw(2, "partition")?)?;
    Ok((target, partition, read_name(&key[18..])?))
}

fn append_name(key: &mut Vec<u8>, name: &Name) {
    for byte in &name.bucket {
        key.push(*byte);
        if *byte == 0 {
            key.push(0xff);
        }
    }
    key.extend_from_slice(&[0, 0]);
    key.extend_from_slice(&name.key);
}

fn read_name(bytes: &[u8]) -> Result<Name, DecodeError> {
    let mut bucket = Vec::new();
    let mut rest = bytes;
    loop {
        match rest {
            [0, 0, key @ ..] => return Ok(Name::new(bucket, Bytes::copy_from_slice(key))),
            [0, 0xff, after @ ..] => {
                bucket.push(0);
                rest = after;
            }
            [byte, after @ ..] if *byte != 0 => {
                bucket.push(*byte);
                rest = after;
            }
            _ => return Err(DecodeError::OutOfRange("bucket")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUCKETS: [&[u8]; 7] = [b"", b"\0", b"\0\0", b"\0\xff", b"a", b"a\0", b"ab"];

    #[test]
    fn a_key_reads_back() {
        for bucket in BUCKETS {
            let name = Name::new(bucket, &b"\0key\xff"[..]);
            let key = of_object(PartitionId(65_535), name.position(), &name);
            assert_eq!(read_partition(&key), Ok(PartitionId(65_535)));
            assert_eq!(read_cursor(&key), Ok(Cursor { position: name.position(), name: name.clone() }));
            let target = NodeId([0xff; 16]);
            assert_eq!(read_hint(&of_hint(target, PartitionId(3), &name)), Ok((target, PartitionId(3), name)));
        }
    }

    #[test]
    fn keys_sort_as_names_do() {
        let mut names: Vec<Name> =
            BUCKETS.iter().flat_map(|bucket| [&b""[..], b"\0", b"k"].map(|key| Name::new(*bucket, key))).collect();
        names.sort();
        let keys: Vec<_> = names.iter().map(|name| of_hint(NodeId([1; 16]), PartitionId(1), name)).collect();
        assert!(keys.is_sorted());
    }

    #[test]
    fn a_damaged_key_is_an_error() {
        let name = Name::new("bucket", "key");
        let key = of_object(PartitionId(1), name.position(), &name);
        for length in 0..key.len() - name.key.len() {
            assert!(read_cursor(&key[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_spoilt_key_is_a_key_or_refused() {
        use dynamo_fuzz::{Expect, Fuzz, unsealed};
        let names = || BUCKETS.map(|bucket| Name::new(bucket, &b"\0key\xff"[..]));
        Fuzz {
            name: "data key",
            corpus: names().iter().map(|name| of_object(PartitionId(7), name.position(), name)).collect(),
            seal: &unsealed,
            expect: Expect::Canonical,
            decode: &|bytes| {
                let Cursor { position, name } = read_cursor(bytes).ok()?;
                Some(of_object(read_partition(bytes).ok()?, position, &name))
            },
        }
        .run();
        Fuzz {
            name: "hint key",
            corpus: names().iter().map(|name| of_hint(NodeId([9; 16]), PartitionId(7), name)).collect(),
            seal: &unsealed,
            expect: Expect::Canonical,
            decode: &|bytes| {
                let (target, partition, name) = read_hint(bytes).ok()?;
                Some(of_hint(target, partition, &name))
            },
        }
        .run();
    }
}
