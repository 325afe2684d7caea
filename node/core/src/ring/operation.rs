//! The change of members that a ring is on its way through, written down in the ring itself.
//!
//! A writer of rings that has a resource to look at needs no such note: what is asked for stands there. One that is a command, which
//! may be killed and given again on another day, finds here what it was about: who was a member before, who is to be one, and
//! whether it is to wait. What is done already, and what is left, the ring itself says.

use std::collections::BTreeMap;

use crate::codec::{DecodeError, Reader, Writer};
use crate::id::{Epoch, NodeId};
use crate::ring::Member;

/// A change of members that somebody asked for, and that is not done yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation {
    /// The epoch that began it, which is its name too: no other has it.
    pub since: Epoch,
    /// Who was to be a member before: what an abort goes back to.
    pub before: BTreeMap<NodeId, Member>,
    /// Who is to be a member.
    pub wanted: BTreeMap<NodeId, Member>,
    /// Copies that were to be made when this was asked for.
    pub copies: u64,
    /// No batch begins and no stage is passed.
    pub paused: bool,
    /// It was given up, and `wanted` is what was before.
    pub aborted: bool,
}

const PAUSED: u8 = 1;
const ABORTED: u8 = 2;

impl Operation {
    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.varint(self.since.0);
        writer.u8(if self.paused { PAUSED } else { 0 } | if self.aborted { ABORTED } else { 0 });
        writer.varint(self.copies);
        encode_members(writer, &self.before);
        encode_members(writer, &self.wanted);
    }

    pub(super) fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let since = Epoch(reader.varint("operation since")?);
        let flags = reader.u8("operation flags")?;
        if flags & !(PAUSED | ABORTED) != 0 {
            return Err(DecodeError::OutOfRange("operation flags"));
        }
        let copies = reader.varint("operation copies")?;
        let (before, wanted) = (decode_members(reader)?, decode_members(reader)?);
        Ok(Self { since, before, wanted, copies, paused: flags & PAUSED != 0, aborted: flags & ABORTED != 0 })
    }
}

/// In the order of their ids, each once.
pub(super) fn encode_members(writer: &mut Writer, members: &BTreeMap<NodeId, Member>) {
    writer.varint(members.len() as u64);
    for (node, member) in members {
        writer.raw(&node.0);
        writer.bytes(member.zone.as_bytes());
        writer.varint(u64::from(member.weight));
    }
}

pub(super) fn decode_members(reader: &mut Reader) -> Result<BTreeMap<NodeId, Member>, DecodeError> {
    let mut members = BTreeMap::new();
    for _ in 0..reader.count("members")? {
        let node = NodeId(reader.id("member")?);
        let zone = reader.text("zone")?;
        let weight = u32::try_from(reader.varint("weight")?).map_err(|_| DecodeError::OutOfRange("weight"))?;
        if members.last_key_value().is_some_and(|(last, _)| *last >= node) {
            return Err(DecodeError::OutOfRange("order of members"));
        }
        members.insert(node, Member { zone, weight });
    }
    Ok(members)
}
