//! Clients: they replace what they read, remember what was acknowledged, and want it back.

use std::collections::BTreeMap;

use bytes::Bytes;
use dynamo_core::request::{ClientHandle, Operation, Outcome, Success};
use dynamo_core::storage::Storage;

use crate::World;
use crate::nodes::Nodes;

/// Rounds until an answer is given up.
const ANSWER_MAX: u64 = 100;
/// How often a write is tried.
const TRIES_MAX: usize = 5;

fn value_of(data: &[u8]) -> u32 {
    data.try_into().map_or(0, u32::from_be_bytes)
}

impl World {
    /// Writes keys 0 to `keys` - 1, each over what it reads; says how many were acknowledged.
    pub fn write(&mut self, keys: u32) -> u32 {
        let mut left: Vec<u32> = (0..keys).collect();
        for _ in 0..TRIES_MAX {
            left = self.write_once(&left);
            if left.is_empty() {
                break;
            }
        }
        keys - left.len() as u32
    }

    /// Writes one key, once.
    pub fn write_key(&mut self, key: u32) -> bool {
        self.write_once(&[key]).is_empty()
    }

    /// The keys that were not acknowledged.
    fn write_once(&mut self, keys: &[u32]) -> Vec<u32> {
        let gets = keys.iter().map(|key| (*key, Operation::Get)).collect();
        let mut puts = Vec::new();
        let mut values = BTreeMap::new();
        for (key, outcome) in self.request(gets) {
            if let Some(Ok(Success::Got { object, context, .. })) = outcome {
                self.value += 1;
                values.insert(key, self.value);
                let covers = object.siblings().map(|(data, _)| value_of(data)).collect();
                self.stage().history.begin(self.value, key, covers);
                puts.push((key, put(self.value, context)));
            }
        }
        let outcomes = self.request(puts);
        let mut stage = self.stage();
        for (key, outcome) in outcomes {
            if matches!(outcome, Some(Ok(Success::Written { .. }))) {
                stage.acknowledged.insert(key, values[&key]);
                stage.history.acknowledge(values[&key]);
            } else {
                values.remove(&key);
            }
        }
        keys.iter().filter(|key| !values.contains_key(key)).copied().collect()
    }

    /// Every acknowledged write is read, or what was written over it, whichever node is asked, and nothing else; says what is not so.
    pub fn unread(&mut self) -> Vec<String> {
        let acknowledged = self.stage().acknowledged.clone();
        let gets = acknowledged.keys().map(|key| (*key, Operation::Get)).collect();
        let mut unread = Vec::new();
        for (key, outcome) in self.request(gets) {
            let Some(Ok(Success::Got { object, .. })) = outcome else {
                unread.push(format!("key {key}: {outcome:?}"));
                continue;
            };
            let read = object.siblings().map(|(data, _)| value_of(data)).collect();
            unread.extend(self.stage().history.judge(key, &read));
        }
        unread
    }

    /// I1: every acknowledged write is on some disk.
    pub(crate) fn check_copies(&mut self) {
        let mut stage = self.stage();
        let newest = stage.nodes.newest();
        let lost = stage.acknowledged.iter().find(|(key, value)| newest.get(key) < Some(value));
        if let Some((key, value)) = lost.map(|(key, value)| (*key, *value)) {
            stage.violated("I1", format!("key {key}: {value} was acknowledged and no disk has it"));
            // Said once is enough.
            stage.acknowledged.remove(&key);
        }
    }

    /// Asks all, each key at a node of its own, and waits for the answers.
    fn request(&mut self, asked: Vec<(u32, Operation)>) -> Vec<(u32, Option<Outcome>)> {
        let mut waiting: Vec<(u32, Option<ClientHandle>, Option<Outcome>)> = {
            let mut stage = self.stage();
            let live = stage.live();
            let nodes = &mut stage.nodes;
            let serving = nodes.running().iter().filter(|(_, running)| live.contains(&running.node.identity().node));
            let pods: Vec<String> = serving.map(|(pod, _)| pod.clone()).collect();
            let ask = |(key, operation): (u32, Operation)| {
                let pod = pods.get(key as usize % pods.len().max(1));
                (key, pod.map(|pod| nodes.ask(pod, key, operation)), None)
            };
            asked.into_iter().map(ask).collect()
        };
        for _ in 0..ANSWER_MAX {
            let mut open = false;
            {
                let mut stage = self.stage();
                for (_, client, outcome) in &mut waiting {
                    if let (Some(handle), None) = (*client, &outcome) {
                        *outcome = stage.nodes.answer(handle);
                        open |= outcome.is_none();
                    }
                }
            }
            if !open {
                break;
            }
            self.round();
        }
        waiting.into_iter().map(|(key, _, outcome)| (key, outcome)).collect()
    }
}

fn put(value: u32, context: Bytes) -> Operation {
    Operation::Put { data: Bytes::copy_from_slice(&value.to_be_bytes()), context, create_only: false }
}

impl Nodes {
    /// The newest value of each key on any disk, mounted or not, hints included.
    pub fn newest(&self) -> BTreeMap<u32, u32> {
        let mut newest = BTreeMap::new();
        for storage in self.storages() {
            let hints = storage.hints().map(|(_, name, object)| (name, object));
            for (name, object) in storage.objects().map(|(_, name, object)| (name, object)).chain(hints) {
                let (key, value) = (value_of(&name.key), object.siblings().map(|(data, _)| value_of(data)).max());
                let known = newest.entry(key).or_insert(0);
                *known = value.unwrap_or(0).max(*known);
            }
        }
        newest
    }

    /// Whether every replica of the newest ring runs and has what was acknowledged.
    pub fn all_replicas_have(&self, acknowledged: &BTreeMap<u32, u32>) -> bool {
        let rings = self.running().values().filter_map(|running| running.node.ring());
        let Some(ring) = rings.max_by_key(|ring| ring.epoch) else { return false };
        acknowledged.iter().all(|(key, value)| {
            let name = crate::nodes::name(*key);
            let partition = ring.partition_of(&name);
            let has = |node| {
                let running = self.running().values().find(|running| running.node.identity().node == node);
                let object = running.and_then(|running| running.node.storage().read(partition, &name).ok().flatten());
                object.is_some_and(|object| object.siblings().any(|(data, _)| value_of(data) >= *value))
            };
            ring.placement(partition).writers().into_iter().all(has)
        })
    }
}
