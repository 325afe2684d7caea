//! The context that a get returns and a put hands back: opaque, versioned, checksummed, bound to its key (paper 4.1, 4.4).
//!
//! The checksum is keyed with the cluster's identity and the object's name, so a context that is damaged, made up, of another
//! key or of another cluster is refused before it can supersede what its holder never saw.
//!
//! It also names the node that should coordinate the next write (paper 5): the home replica that answered the get fastest, or
//! the coordinator of the put. Whoever forwards the write sends it there: the node that served a client's read has what that
//! client saw, and is the one that is quick at the moment. Deviation from the paper: a home replica that is asked coordinates
//! itself, whatever the token names. There, its own copy is at hand, and a hop to another node would cost more than the
//! difference between two replicas; since it coordinated the get as well, its own copy answered that get fastest anyway.
//! It carries what is remembered of the request ids of the dots that it covers, so that a coordinator that has not seen a dot
//! learns, with the write that supersedes it, whose it was.

use bytes::Bytes;

use crate::codec::{DecodeError, Reader, Writer, varint_len};
use crate::id::{ClusterId, Incarnation, NodeId};
use crate::name::Name;
use crate::recent_writes::RecentWrites;
use crate::small_map::SmallMap;
use crate::version::{Actor, CausalContext};

/// Format 1 names no coordinator and carries no request ids; clients may still hold tokens of it.
const FORMAT_FORMER: u8 = 1;
const FORMAT: u8 = 2;

/// What a token says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Token {
    /// What its holder has seen.
    pub seen: CausalContext,
    /// Who should coordinate a write with it.
    pub coordinator: Option<NodeId>,
}

pub(crate) fn seed(cluster: ClusterId, name: &Name) -> u64 {
    let mut input = [0; 32];
    input[..16].copy_from_slice(&cluster.0);
    input[16..].copy_from_slice(&name.position().0.to_be_bytes());
    xxhash_rust::xxh3::xxh3_64(&input)
}

/// The token of a holder who has seen `seen` of the object `name`, and whose next write `coordinator` should coordinate.
pub fn encode(seen: &CausalContext, coordinator: Option<NodeId>, cluster: ClusterId, name: &Name) -> Bytes {
    let counters: usize = seen.0.values().map(|counter| 24 + varint_len(*counter)).sum();
    let exact_without_recent = 2 + coordinator.map_or(0, |_| 16) + varint_len(seen.0.len() as u64) + counters + 1 + 8;
    let mut writer = Writer::with_capacity(exact_without_recent + seen.1.iter().len() * 32);
    writer.u8(FORMAT);
    match coordinator {
        Some(node) => {
            writer.u8(1);
            writer.raw(&node.0);
        }
        None => writer.u8(0),
    }
    writer.varint(seen.0.len() as u64);
    for (actor, counter) in seen.0.iter() {
        writer.raw(&actor.node.0);
        writer.u64(actor.incarnation.0);
        writer.varint(*counter);
    }
    seen.1.encode(seen.0.keys(), &mut writer);
    writer.finish_with_checksum(seed(cluster, name))
}

/// What `token` says; an empty one says nothing.
pub fn decode(token: Bytes, cluster: ClusterId, name: &Name) -> Result<Token, DecodeError> {
    if token.is_empty() {
        return Ok(Token::default());
    }
    let mut reader = Reader::verified(token, seed(cluster, name))?;
    let format = reader.u8("format")?;
    let coordinator = match format {
        FORMAT_FORMER => None,
        FORMAT => match reader.u8("coordinator")? {
            0 => None,
            1 => Some(NodeId(reader.id("coordinator")?)),
            _ => return Err(DecodeError::OutOfRange("coordinator")),
        },
        found => return Err(DecodeError::UnknownFormat { found, known: FORMAT }),
    };
    let mut seen = SmallMap::default();
    let mut last = None;
    for _ in 0..reader.count("actors")? {
        let node = NodeId(reader.id("actor node")?);
        let actor = Actor { node, incarnation: Incarnation(reader.u64("actor incarnation")?) };
        // Each is put behind the others: in any other order a long token would take the square of its length.
        if last.is_some_and(|last| last >= actor) {
            return Err(DecodeError::OutOfRange("order of actors"));
        }
        last = Some(actor);
        seen.insert(actor, reader.varint("counter")?);
    }
    let recent = match format {
        FORMAT_FORMER => RecentWrites::default(),
        _ => RecentWrites::decode(&mut reader, seen.iter().map(|(actor, counter)| (*actor, *counter)))?,
    };
    reader.end()?;
    Ok(Token { seen: CausalContext(seen, recent), coordinator })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{CONTEXT_BYTES_MAX, OBJECT_ACTORS_MAX};
    use crate::id::RequestKey;
    use crate::recent_writes::{REMEMBERED_MAX, RecentWrite};
    use crate::version::Dot;

    #[test]
    fn a_context_is_accepted_for_its_own_key_and_cluster_only() {
        let cluster = ClusterId([1; 16]);
        let name = Name::new("carts", "alice");
        let actor = Actor { node: NodeId([2; 16]), incarnation: Incarnation(3) };
        let mut recent = RecentWrites::default();
        let dot = Dot { actor, counter: 8 };
        recent.insert(RecentWrite { stamp: 3, key: RequestKey([4; 16]), dot });
        let seen = CausalContext([(actor, 9)].into(), recent);
        for coordinator in [None, Some(NodeId([4; 16]))] {
            let token = encode(&seen, coordinator, cluster, &name);
            assert_eq!(decode(token, cluster, &name), Ok(Token { seen: seen.clone(), coordinator }));
        }
        let token = encode(&seen, None, cluster, &name);
        assert_eq!(decode(token.clone(), cluster, &Name::new("carts", "bob")), Err(DecodeError::Checksum));
        assert_eq!(decode(token.clone(), ClusterId([9; 16]), &name), Err(DecodeError::Checksum));
        let mut forged = token.to_vec();
        forged[3] ^= 1;
        assert_eq!(decode(forged.into(), cluster, &name), Err(DecodeError::Checksum));
        assert_eq!(decode(Bytes::new(), cluster, &name), Ok(Token::default()));
    }

    /// In another order each would be put before those that came, which takes the square of what a request may be long.
    #[test]
    fn a_context_lists_each_actor_once_and_in_order() {
        let (cluster, name) = (ClusterId([1; 16]), Name::new("carts", "alice"));
        let listing = |nodes: [u8; 2]| {
            let mut writer = Writer::with_capacity(64);
            writer.u8(FORMAT);
            writer.u8(0);
            writer.varint(2);
            for node in nodes {
                writer.raw(&[node; 16]);
                writer.u64(1);
                writer.varint(9);
            }
            RecentWrites::default().encode([].iter(), &mut writer);
            decode(writer.finish_with_checksum(seed(cluster, &name)), cluster, &name)
        };
        assert!(listing([2, 3]).is_ok());
        for nodes in [[3, 2], [2, 2]] {
            assert_eq!(listing(nodes), Err(DecodeError::OutOfRange("order of actors")), "{nodes:?}");
        }
    }

    #[test]
    fn the_context_of_what_several_filled_to_the_bound_and_joined_is_no_longer_than_what_is_accepted() {
        let actor = |at: usize| Actor { node: NodeId([2; 16]), incarnation: Incarnation(at as u64) };
        let counters: SmallMap<Actor, u64, 3> = (0..3 * OBJECT_ACTORS_MAX).map(|at| (actor(at), u64::MAX)).collect();
        let mut recent = RecentWrites::default();
        for at in 0..REMEMBERED_MAX {
            let dot = Dot { actor: actor(at), counter: u64::MAX };
            recent.insert(RecentWrite { stamp: u64::MAX, key: RequestKey([at as u8; 16]), dot });
        }
        let token = encode(&CausalContext(counters, recent), Some(NodeId([4; 16])), ClusterId([1; 16]), &Name::new("b", "k"));
        assert!(token.len() <= CONTEXT_BYTES_MAX, "{} bytes", token.len());
    }

    #[test]
    fn a_token_of_the_former_format_is_accepted_and_one_of_a_later_is_not() {
        let (cluster, name) = (ClusterId([1; 16]), Name::new("carts", "alice"));
        let of_format = |format| {
            let mut writer = Writer::default();
            writer.u8(format);
            writer.varint(1);
            writer.raw(&[2; 16]);
            writer.u64(3);
            writer.varint(9);
            writer.finish_with_checksum(seed(cluster, &name))
        };
        let actor = Actor { node: NodeId([2; 16]), incarnation: Incarnation(3) };
        let seen = CausalContext([(actor, 9)].into(), RecentWrites::default());
        assert_eq!(decode(of_format(1), cluster, &name), Ok(Token { seen, coordinator: None }));
        assert_eq!(decode(of_format(3), cluster, &name), Err(DecodeError::UnknownFormat { found: 3, known: 2 }));
    }
}
