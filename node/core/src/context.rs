//! The context that a get returns and a put hands back: opaque, versioned, checksummed, bound to its key (paper 4.1, 4.4).
//!
//! The checksum is keyed with the cluster's identity and the object's name, so a context that is damaged, made up, of another
//! key or of another cluster is refused before it can supersede what its holder never saw.
//!
//! It carries what is remembered of the request ids of the dots that it covers, so that a coordinator that has not seen a dot
//! learns, with the write that supersedes it, whose it was.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::codec::{DecodeError, Reader, Writer};
use crate::id::{ClusterId, Incarnation, NodeId};
use crate::name::Name;
use crate::recent_writes::RecentWrites;
use crate::version::{Actor, CausalContext};

/// Format 1 carries no request ids; clients may still hold tokens of it.
const FORMAT_WITHOUT_RECENT: u8 = 1;
const FORMAT: u8 = 2;

fn seed(cluster: ClusterId, name: &Name) -> u64 {
    let mut input = Vec::with_capacity(24 + name.len());
    input.extend_from_slice(&cluster.0);
    input.extend_from_slice(&name.position().0.to_be_bytes());
    xxhash_rust::xxh3::xxh3_64(&input)
}

/// The token for `context` of the object `name`.
pub fn encode(context: &CausalContext, cluster: ClusterId, name: &Name) -> Bytes {
    let mut writer = Writer::with_capacity(16 + context.0.len() * 34);
    writer.u8(FORMAT);
    writer.varint(context.0.len() as u64);
    for (actor, counter) in &context.0 {
        writer.raw(&actor.node.0);
        writer.u64(actor.incarnation.0);
        writer.varint(*counter);
    }
    context.1.encode(context.0.keys(), &mut writer);
    writer.finish_with_checksum(seed(cluster, name))
}

/// The context in `token`; an empty token is the empty context.
pub fn decode(token: Bytes, cluster: ClusterId, name: &Name) -> Result<CausalContext, DecodeError> {
    if token.is_empty() {
        return Ok(CausalContext::default());
    }
    let mut reader = Reader::verified(token, seed(cluster, name))?;
    let format = reader.u8("format")?;
    if !matches!(format, FORMAT_WITHOUT_RECENT | FORMAT) {
        return Err(DecodeError::UnknownFormat { found: format, known: FORMAT });
    }
    let mut context = BTreeMap::new();
    for _ in 0..reader.count("actors")? {
        let node = NodeId(reader.id("actor node")?);
        let incarnation = Incarnation(reader.u64("actor incarnation")?);
        context.insert(Actor { node, incarnation }, reader.varint("counter")?);
    }
    let actors: Vec<(Actor, u64)> = context.iter().map(|(actor, counter)| (*actor, *counter)).collect();
    let recent = match format {
        FORMAT_WITHOUT_RECENT => RecentWrites::default(),
        _ => RecentWrites::decode(&mut reader, &actors)?,
    };
    reader.end()?;
    Ok(CausalContext(context, recent))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::RequestKey;
    use crate::recent_writes::RecentWrite;
    use crate::version::Dot;

    #[test]
    fn a_context_is_accepted_for_its_own_key_and_cluster_only() {
        let cluster = ClusterId([1; 16]);
        let name = Name::new("carts", "alice");
        let actor = Actor { node: NodeId([2; 16]), incarnation: Incarnation(3) };
        let mut recent = RecentWrites::default();
        let dot = Dot { actor, counter: 8 };
        recent.insert(RecentWrite { stamp: 3, key: RequestKey([4; 16]), dot });
        let context = CausalContext([(actor, 9)].into(), recent);
        let token = encode(&context, cluster, &name);
        assert_eq!(decode(token.clone(), cluster, &name), Ok(context));
        assert_eq!(decode(token.clone(), cluster, &Name::new("carts", "bob")), Err(DecodeError::Checksum));
        assert_eq!(decode(token.clone(), ClusterId([9; 16]), &name), Err(DecodeError::Checksum));
        let mut forged = token.to_vec();
        forged[3] ^= 1;
        assert_eq!(decode(forged.into(), cluster, &name), Err(DecodeError::Checksum));
        assert_eq!(decode(Bytes::new(), cluster, &name), Ok(CausalContext::default()));
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
        assert_eq!(decode(of_format(1), cluster, &name), Ok(seen));
        assert_eq!(decode(of_format(3), cluster, &name), Err(DecodeError::UnknownFormat { found: 3, known: 2 }));
    }
}
