//! A ring's canonical bytes: there is one encoding of each ring, and its hash is that of these bytes.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::bucket_replication::BucketReplication;
use super::operation::{decode_members, encode_members};
use super::{Lost, Move, Operation, PARTITION_BITS_MAX, Placement, Ring, RingError, RingHash, Stage};
use crate::codec::{DecodeError, Reader, Writer};
use crate::id::{ClusterId, Epoch, NodeId};

/// A ring without lost nodes; what every version of this program reads, and what it hashes to stays what it was.
const FORMAT: u8 = 1;
/// A ring with lost nodes, which follow its members.
const FORMAT_LOST: u8 = 2;
/// A ring with sections that most rings do not have: a byte after this one says which, and they follow the members in the order of
/// the bits. A ring that an older format can write has that format, so its hash stays what it was.
const FORMAT_SECTIONS: u8 = 3;
const SECTION_LOST: u8 = 1;
const SECTION_BUCKETS: u8 = 2;
const SECTION_OPERATION: u8 = 4;
pub(crate) const CHECKSUM_SEED: u64 = 0x6479_6e61_6d6f_0002;

impl Ring {
    /// The sections that this ring has.
    fn sections(&self) -> u8 {
        let section = |there: bool, section: u8| if there { section } else { 0 };
        section(!self.lost.is_empty(), SECTION_LOST)
            | section(!self.buckets.is_empty(), SECTION_BUCKETS)
            | section(self.operation.is_some(), SECTION_OPERATION)
    }

    /// The canonical bytes, with a checksum.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::with_capacity(64 + self.members.len() * 40 + self.placements.len() * 8);
        let sections = self.sections();
        writer.u8(format_of(sections));
        if format_of(sections) == FORMAT_SECTIONS {
            writer.u8(sections);
        }
        writer.raw(&self.cluster.0);
        writer.u64(self.epoch.0);
        writer.raw(&self.parent.0);
        writer.u8(self.partition_bits);
        writer.u8(self.replication);
        encode_members(&mut writer, &self.members);
        if sections & SECTION_LOST != 0 {
            writer.varint(self.lost.len() as u64);
            for (node, epoch) in &self.lost {
                writer.raw(&node.0);
                writer.varint(epoch.0);
            }
        }
        if sections & SECTION_BUCKETS != 0 {
            self.buckets.encode(&mut writer);
        }
        if let Some(operation) = &self.operation {
            operation.encode(&mut writer);
        }
        let index: BTreeMap<NodeId, u64> = self.members.keys().enumerate().map(|(at, node)| (*node, at as u64)).collect();
        let set = |writer: &mut Writer, nodes: &[NodeId]| {
            writer.varint(nodes.len() as u64);
            for node in nodes {
                // A replica that is no member cannot be written; validate() refuses such a ring before it is used.
                writer.varint(index.get(node).copied().unwrap_or(u64::MAX));
            }
        };
        for placement in &self.placements {
            set(&mut writer, &placement.replicas);
            match &placement.moving {
                None => writer.u8(0),
                Some(Move { stage, target, since }) => {
                    writer.u8(match stage {
                        Stage::WriteBothReadOld => 1,
                        Stage::WriteBothReadNew => 2,
                    });
                    set(&mut writer, target);
                    writer.varint(since.0);
                }
            }
        }
        writer.finish_with_checksum(CHECKSUM_SEED)
    }

    /// Reads what [`Ring::encode`] wrote, and validates it.
    pub fn decode(bytes: Bytes) -> Result<Self, RingError> {
        let mut reader = Reader::verified(bytes, CHECKSUM_SEED)?;
        let format = reader.format_of(&[FORMAT, FORMAT_LOST, FORMAT_SECTIONS])?;
        let sections = match format {
            FORMAT => 0,
            FORMAT_LOST => SECTION_LOST,
            _ => reader.u8("sections")?,
        };
        if format_of(sections) != format || sections & !(SECTION_LOST | SECTION_BUCKETS | SECTION_OPERATION) != 0 {
            return Err(DecodeError::OutOfRange("sections").into());
        }
        let cluster = ClusterId(reader.id("cluster")?);
        let epoch = Epoch(reader.u64("epoch")?);
        let parent = RingHash(reader.raw(32, "parent")?[..].try_into().expect("32 bytes were taken"));
        let partition_bits = reader.u8("partition_bits")?;
        if partition_bits > PARTITION_BITS_MAX {
            return Err(RingError::Invalid("a ring has at most 65,536 partitions"));
        }
        let replication = reader.u8("replication")?;
        let members = decode_members(&mut reader)?;
        let order: Vec<NodeId> = members.keys().copied().collect();
        let lost = if sections & SECTION_LOST != 0 { decode_lost(&mut reader)? } else { Lost::new() };
        let buckets = match sections & SECTION_BUCKETS {
            0 => BucketReplication::default(),
            _ => BucketReplication::decode(&mut reader, replication)?,
        };
        let operation = if sections & SECTION_OPERATION == 0 { None } else { Some(Operation::decode(&mut reader)?) };
        let set = |reader: &mut Reader| -> Result<Vec<NodeId>, DecodeError> {
            let count = reader.count("replicas")?;
            (0..count)
                .map(|_| {
                    let at = usize::try_from(reader.varint("replica")?).unwrap_or(usize::MAX);
                    order.get(at).copied().ok_or(DecodeError::OutOfRange("replica"))
                })
                .collect()
        };
        let mut placements = Vec::new();
        for _ in 0..1_usize << partition_bits {
            let replicas = set(&mut reader)?;
            let stage = match reader.u8("stage")? {
                0 => None,
                1 => Some(Stage::WriteBothReadOld),
                2 => Some(Stage::WriteBothReadNew),
                _ => return Err(DecodeError::OutOfRange("stage").into()),
            };
            let moving = match stage {
                None => None,
                Some(stage) => Some(Move { stage, target: set(&mut reader)?, since: Epoch(reader.varint("since")?) }),
            };
            placements.push(Placement { replicas, moving });
        }
        reader.end()?;
        let ring = Self { cluster, epoch, parent, partition_bits, replication, buckets, members, lost, operation, placements };
        ring.validate()?;
        Ok(ring)
    }
}

/// The oldest format that has these sections.
fn format_of(sections: u8) -> u8 {
    match sections {
        0 => FORMAT,
        SECTION_LOST => FORMAT_LOST,
        _ => FORMAT_SECTIONS,
    }
}

/// In order, each once, at least one: there is one encoding of a ring.
fn decode_lost(reader: &mut Reader) -> Result<Lost, DecodeError> {
    let mut lost = Lost::new();
    for _ in 0..reader.count("lost")? {
        let node = NodeId(reader.id("lost")?);
        if lost.last_key_value().is_some_and(|(last, _)| *last >= node) {
            return Err(DecodeError::OutOfRange("order of lost nodes"));
        }
        lost.insert(node, Epoch(reader.varint("lost since")?));
    }
    if lost.is_empty() { Err(DecodeError::OutOfRange("lost")) } else { Ok(lost) }
}
