//! ConfigMap NAME-ring: the writer's record of the ring. A ring is written here, under optimistic concurrency, before any node
//! sees it; so two operators cannot both make one epoch.
//!
//! Beside it stand the rings before it that some member may need first, each under its epoch ([`dynamo_core::rebalance::chain`] says why).
//! One that cannot be read is as good as not there: by gossip its members may hear of the next all the same.
//!
//! Beside the rings it says which volume carries each member: a member whose claim was made again under the same name, with another
//! UID, is lost. A line that cannot be read proves nothing, and is written again.

use std::collections::BTreeMap;

use bytes::Bytes;
use dynamo_core::id::NodeId;
use dynamo_core::rebalance::chain::Chain;
use dynamo_core::ring::Ring;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;

use super::metadata;
use crate::observed::{Carrier, Record};
use crate::valid::{Place, ValidCluster};

const RING: &str = "ring";
/// Before the epoch of a ring that some member may need first.
const BEFORE: &str = "ring-";
const VOLUMES: &str = "volumes";

/// The ConfigMap's name.
pub fn name(cluster: &ValidCluster) -> String {
    format!("{}-ring", cluster.name)
}

/// The record of `rings`. `resource_version` is that of the record it replaces, `None` for the first. Epoch, hash and purpose are
/// for people.
pub fn build(
    cluster: &ValidCluster,
    rings: &Chain,
    volumes: &BTreeMap<NodeId, Carrier>,
    purpose: &str,
    resource_version: Option<&str>,
) -> ConfigMap {
    let mut metadata = metadata(cluster, name(cluster));
    metadata.resource_version = resource_version.map(str::to_owned);
    let ring = rings.newest();
    let hash = ring.hash().to_string();
    let volumes: String = volumes.iter().map(|(node, carrier)| line(*node, carrier)).collect();
    let data = [("epoch", ring.epoch.to_string()), ("hash", hash), ("plan", purpose.to_owned()), (VOLUMES, volumes)];
    let before = rings.before().iter().map(|ring| (format!("{BEFORE}{}", ring.epoch), ring));
    ConfigMap {
        metadata,
        data: Some(data.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        binary_data: Some(
            before.chain([(RING.to_owned(), ring)]).map(|(key, ring)| (key, ByteString(ring.encode().to_vec()))).collect(),
        ),
        ..ConfigMap::default()
    }
}

/// Reads a record. Only a ConfigMap that is not there is no record; one that cannot be read is not nothing.
pub fn read(cluster: &ValidCluster, record: Option<ConfigMap>) -> Record {
    let Some(mut record) = record else { return Record::Absent };
    let Some(ByteString(bytes)) = record.binary_data.as_mut().and_then(|data| data.remove(RING)) else {
        return Record::Unreadable(format!("ConfigMap {} has no binaryData.{RING}", name(cluster)));
    };
    match Ring::decode(Bytes::from(bytes)) {
        Ok(ring) if ring.cluster != cluster.id => {
            Record::Unreadable(format!("ConfigMap {} holds the ring of cluster {}", name(cluster), ring.cluster))
        }
        Ok(ring) => {
            let resource_version = record.metadata.resource_version.unwrap_or_default();
            let volumes = record.data.as_ref().and_then(|data| data.get(VOLUMES)).map(|text| carriers(text)).unwrap_or_default();
            let before = record.binary_data.unwrap_or_default().into_iter().filter(|(key, _)| key.starts_with(BEFORE));
            let before = before.filter_map(|(_, ByteString(bytes))| Ring::decode(Bytes::from(bytes)).ok()).collect();
            Record::Held { hash: ring.hash(), rings: Box::new(Chain::read(before, ring)), resource_version, volumes }
        }
        Err(error) => Record::Unreadable(format!("ConfigMap {}: binaryData.{RING}: {error}", name(cluster))),
    }
}

/// "NODE UID ZONE ORDINAL".
fn line(node: NodeId, carrier: &Carrier) -> String {
    let Carrier { place: Place { zone, ordinal }, uid } = carrier;
    format!("{node} {uid} {zone} {ordinal}\n")
}

fn carriers(text: &str) -> BTreeMap<NodeId, Carrier> {
    let carrier = |line: &str| {
        let [node, uid, zone, ordinal] = line.split(' ').collect::<Vec<_>>()[..] else { return None };
        let place = Place { zone: zone.to_owned(), ordinal: ordinal.parse().ok()? };
        Some((NodeId::parse(node)?, Carrier { place, uid: uid.to_owned() }))
    };
    text.lines().filter_map(carrier).collect()
}
