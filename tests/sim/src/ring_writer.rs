//! The writer of rings: what the operator does with [`dynamo_core::rebalance`], step by step.
//!
//! It looks at the nodes that answer, and acts a little later on what it saw then. Its record survives everything, as the
//! operator's does in the API server: a ring is recorded first and offered then. A host goes only when the recorded ring does not
//! list its node and the node gave a drain receipt under that ring.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dynamo_core::id::{Epoch, NodeId, PartitionId};
use dynamo_core::node::Node;
use dynamo_core::node::receipt::Receipt;
use dynamo_core::rebalance::chain::Chain;
use dynamo_core::rebalance::loss::{self, LossError};
use dynamo_core::rebalance::{self, Members, Next, PlanError, View};
use dynamo_core::ring::placed::Moving;
use dynamo_core::ring::{Member, Ring, Stage};

use crate::checkers::{bounds, transfer};
use crate::dice::Dice;
use crate::ring_commands::RingCommands;
use crate::schedule::{Alarm, HostId};
use crate::second_thoughts::SecondThoughts;
use crate::simulation::Simulation;
use crate::sometimes;

/// What the writer saw.
#[derive(Clone, Debug, Default)]
struct Seen {
    views: BTreeMap<NodeId, View>,
    receipts: BTreeMap<NodeId, Receipt>,
}

/// Another writer that is alive at the same time: an operator that has lost its lease, and does not know it yet.
#[derive(Clone, Debug)]
struct Rival {
    record: Ring,
    desired: Members,
    seen: Seen,
}

/// The writer.
#[derive(Debug)]
pub struct RingWriter {
    dice: Dice,
    record: Option<Chain>,
    desired: Members,
    second_thoughts: SecondThoughts,
    commands: Option<RingCommands>,
    leaving: BTreeSet<HostId>,
    /// Told to be lost, and not scrapped yet.
    lost: BTreeSet<HostId>,
    seen: Option<Seen>,
    settled: bool,
    /// A second writer, with the record and the wish that it read.
    rival: Option<Rival>,
    /// What new replicas said they received, and was looked for.
    checked: BTreeSet<(NodeId, PartitionId, Epoch)>,
    /// What came last, for people.
    last: String,
    /// Answers and offers get through, always.
    pub calm: bool,
}

impl RingWriter {
    /// A writer that wants these hosts as members.
    pub fn new(sim: &Simulation, hosts: &[HostId]) -> Self {
        let desired = hosts.iter().map(|host| (sim.node_id(*host), member(sim, *host))).collect();
        let dice = Dice::new(sim.options().seed ^ 0x7772_6974_6572);
        Self {
            dice,
            record: None,
            desired,
            second_thoughts: SecondThoughts::new(sim.options()),
            commands: RingCommands::new(sim.options()),
            leaving: BTreeSet::new(),
            lost: BTreeSet::new(),
            seen: None,
            settled: false,
            rival: None,
            checked: BTreeSet::new(),
            last: String::new(),
            calm: true,
        }
    }

    /// The recorded ring.
    pub fn record(&self) -> Option<&Ring> {
        self.record.as_ref().map(Chain::newest)
    }

    /// The recorded ring with those before it that are recorded too.
    pub fn chain(&self) -> Option<&Chain> {
        self.record.as_ref()
    }

    /// The record is lost, or is what it was. Whoever has read it before writes nothing on top of that any more.
    pub fn set_record(&mut self, record: Option<Chain>, sim: &mut Simulation) {
        sim.totals.records_lost += u64::from(record.is_none());
        sim.totals.records_set_back += u64::from(record.is_some() && record != self.record);
        (self.record, self.seen, self.rival) = (record, None, None);
        self.settled = false;
    }

    /// The members asked for.
    pub fn desired(&self) -> &Members {
        &self.desired
    }

    /// Whether the ring is what is asked for, every node holds it, and everyone who was to leave has gone.
    pub fn is_settled(&self) -> bool {
        self.settled && self.leaving.is_empty() && self.lost.is_empty()
    }

    /// What keeps the writer from being settled, for people.
    pub fn waits_for(&self, sim: &Simulation) -> String {
        let refusals = self.leaving.iter().filter_map(|host| {
            let refusal = sim.node(*host).map(|node| node.drain_receipt().err());
            Some(format!("host {} gives no receipt: {}", host.0, refusal??))
        });
        let epoch = self.record().map_or(0, |ring| ring.epoch.0);
        let refusals: Vec<String> = refusals.collect();
        format!("epoch {epoch}, {}, {} are to leave; {}", self.last, self.leaving.len(), refusals.join("; "))
    }

    /// Asks for other members, if there is a ring of them. False if there is none.
    pub fn ask_for(&mut self, sim: &Simulation, change: impl FnOnce(&mut Members)) -> bool {
        let mut desired = self.desired.clone();
        change(&mut desired);
        let options = sim.options();
        if rebalance::first_ring(sim.cluster(), options.partition_bits, options.replication, &desired).is_err() {
            return false;
        }
        self.settled = false;
        self.leaving = sim
            .hosts()
            .filter(|host| {
                let node = sim.node_id(*host);
                !sim.is_lost(*host)
                    && !desired.contains_key(&node)
                    && (self.desired.contains_key(&node) || self.leaving.contains(host))
            })
            .collect();
        self.desired = desired;
        true
    }

    /// Asks for one more member.
    pub fn join(&mut self, sim: &Simulation, host: HostId) -> bool {
        let member = member(sim, host);
        self.ask_for(sim, |desired| drop(desired.insert(sim.node_id(host), member)))
    }

    /// Asks for one member less.
    pub fn leave(&mut self, sim: &Simulation, host: HostId) -> bool {
        self.ask_for(sim, |desired| drop(desired.remove(&sim.node_id(host))))
    }

    /// Is told that a host's disk is gone, and which host comes in its place, with its zone and weight.
    pub fn lose(&mut self, sim: &Simulation, host: HostId, replacement: HostId) {
        let node = sim.node_id(host);
        self.lost.insert(host);
        self.leaving.remove(&host);
        self.settled = false;
        if let Some(member) = self.desired.get(&node).cloned() {
            let asked = self.ask_for(sim, |desired| {
                desired.remove(&node);
                desired.insert(sim.node_id(replacement), member);
            });
            assert!(asked, "there is a ring with one in the place of another of its zone and weight");
        }
    }

    /// Whether the record lists members that are lost, declared or not.
    pub fn is_whole(&self, sim: &Simulation) -> bool {
        let lost = |node: &NodeId| sim.host_of(*node).is_some_and(|host| sim.is_lost(host));
        self.record().is_some_and(|ring| !ring.members.keys().any(lost) && ring.moving().next().is_none())
    }

    /// Looks or acts, and asks to be called again.
    pub fn step(&mut self, sim: &mut Simulation) {
        let again = match self.seen.take() {
            None => {
                self.seen = Some(self.look(sim));
                self.dice.duration(Duration::ZERO, Duration::from_millis(100))
            }
            Some(seen) => {
                self.act(&seen, sim);
                self.dice.around(sim.options().pace.writer)
            }
        };
        sim.alarm(again, Alarm::Writer);
    }

    /// A second writer looks at everything.
    pub fn rival_looks(&mut self, sim: &mut Simulation) {
        if let Some(record) = self.record().cloned() {
            let (desired, seen) = (self.desired.clone(), self.look(sim));
            self.rival = Some(Rival { record, desired, seen });
            sim.totals.rivals += 1;
        }
    }

    /// The second writer acts on what it saw: it offers what it takes for the newest ring, and records its next step if the
    /// record is still the one that it read, as the API server would let it.
    pub fn rival_acts(&mut self, sim: &mut Simulation) {
        let Some(Rival { record, desired, seen }) = self.rival.take() else { return };
        let current = self.record().is_some_and(|now| *now == record);
        for host in sim.responsive() {
            let held = sim.node(host).and_then(|node| node.ring()).map_or(Epoch(0), |ring| ring.epoch);
            let accepted = sim.propose(host, &record);
            if held > record.epoch {
                sim.totals.stale_offers_refused += u64::from(!accepted);
                if accepted {
                    sim.violated("I9 an outdated ring is refused", format!("host {} took epoch {}", host.0, record.epoch));
                }
            }
        }
        let gone = |node: &NodeId| sim.host_of(*node).is_none_or(|host| sim.is_removed(host));
        if desired.keys().any(gone) {
            return;
        }
        let next = match self.next(&record, &desired, &seen, sim) {
            Ok(Some(Next::Propose(ring))) => ring,
            Ok(Some(Next::AwaitReceipts(nodes))) => {
                let drained: Vec<NodeId> = nodes.into_iter().filter(|node| has_receipt(&record, &seen, *node)).collect();
                if drained.is_empty() {
                    return;
                }
                rebalance::without(&record, &drained)
            }
            _ => return,
        };
        if current {
            sim.totals.rivals_recorded += 1;
            self.propose(next, &seen, sim);
        } else {
            sim.totals.rivals_refused += 1;
        }
    }

    fn look(&mut self, sim: &mut Simulation) -> Seen {
        let mut seen = Seen::default();
        for host in sim.responsive() {
            if !self.calm && self.dice.chance(sim.options().pace.unseen) {
                continue;
            }
            let Some(node) = sim.node(host) else { continue };
            let status = node.status(sim.clock(host));
            if status.starting {
                continue;
            }
            // An operation may want to be rid of a member that is asked for again.
            if (self.leaving.contains(&host) || self.commands.is_some())
                && let Ok(receipt) = node.drain_receipt()
            {
                seen.receipts.insert(receipt.node, receipt);
            }
            let ring = node.ring().filter(|ring| ring.epoch == status.epoch).cloned();
            sim.tells(host, status.epoch);
            if let Err((invariant, what)) = bounds::check(sim, host, &status) {
                sim.violated(invariant, what);
            }
            if let Some(ring) = ring {
                self.check_received(&ring, sim.node_id(host), &status.received, sim);
            }
            let view = View { epoch: status.epoch, ring_hash: status.ring_hash, received: status.received };
            seen.views.insert(sim.node_id(host), view);
        }
        seen
    }

    /// I10, once for each partition that a node says it received.
    fn check_received(&mut self, ring: &Ring, node: NodeId, received: &BTreeSet<PartitionId>, sim: &mut Simulation) {
        for partition in received {
            let Some(moving) = &ring.placement(*partition).moving else { continue };
            if self.checked.insert((node, *partition, moving.since))
                && let Err((invariant, what)) = transfer::check(sim, ring, *partition, node)
            {
                sim.violated(invariant, what);
            }
        }
    }

    fn act(&mut self, seen: &Seen, sim: &mut Simulation) {
        self.settled = false;
        if sim.options().past.records.is_some() && self.finds_newer(seen, sim) {
            return;
        }
        let Some(record) = self.record().cloned() else { return self.begin(seen, sim) };
        self.scrap_lost(&record, sim);
        if self.declare(&record, seen, sim) {
            return;
        }
        self.think_again(&record, sim);
        let next = self.next(&record, &self.desired.clone(), seen, sim);
        self.last = match &next {
            Ok(Some(Next::Propose(ring))) => format!("Propose(epoch {})", ring.epoch),
            other => format!("{other:?}"),
        };
        let Some(next) = next.transpose() else { return self.offer(seen, sim) };
        match next {
            Err(error) => sim.violated("there is a plan for members that a ring can have", error.to_string()),
            Ok(Next::Propose(ring)) => self.propose(ring, seen, sim),
            Ok(Next::AwaitEpoch(_)) => self.offer(seen, sim),
            Ok(Next::AwaitData { .. }) => {}
            Ok(Next::AwaitReceipts(nodes)) => {
                let drained: Vec<NodeId> = nodes.into_iter().filter(|node| has_receipt(&record, seen, *node)).collect();
                if !drained.is_empty() {
                    self.propose(rebalance::without(&record, &drained), seen, sim);
                }
            }
            Ok(Next::Settled) => {
                self.settled = true;
                for host in self.leaving.clone() {
                    let node = sim.node_id(host);
                    if !record.members.contains_key(&node) && has_receipt(&record, seen, node) {
                        self.leaving.remove(&host);
                        sim.totals.hosts_removed += 1;
                        sim.remove(host);
                    }
                }
                // A node that is to leave needs the newest ring too, to know that it holds nothing.
                self.offer(seen, sim);
            }
        }
    }

    /// The record may be older than what nodes hold: then the newest ring of theirs is recorded first. Without a record, a node that does
    /// not answer may hold a ring that is newer still. True if nothing else is to be done now.
    fn finds_newer(&mut self, seen: &Seen, sim: &mut Simulation) -> bool {
        let present = sim.running().into_iter().chain(sim.stopped());
        let mut unknown = present.filter(|host| !seen.views.contains_key(&sim.node_id(*host)));
        if self.record.is_none() && unknown.next().is_some() {
            return true;
        }
        let recorded = self.record().map_or(Epoch(0), |ring| ring.epoch);
        let newest = seen.views.values().map(|view| view.epoch).max().filter(|newest| *newest > recorded);
        let Some(newest) = newest else { return false };
        let held = |host: HostId| sim.node(host).and_then(Node::ring).filter(|ring| ring.epoch == newest).cloned();
        let Some(ring) = sim.responsive().into_iter().find_map(held) else { return true };
        if let Err(error) = ring.check_follows(self.record(), sim.cluster()) {
            sim.violated("I9 what nodes hold follows what was recorded", error.to_string());
        }
        self.record = Some((*ring).clone().into());
        sim.totals.rings_found += 1;
        true
    }

    /// What comes next on the way to the `desired` members; `None` where that waits for a command.
    fn next(&mut self, record: &Ring, desired: &Members, seen: &Seen, sim: &mut Simulation) -> Result<Option<Next>, PlanError> {
        match &mut self.commands {
            Some(commands) => commands.next(record, desired, &seen.views, self.calm, sim),
            None => rebalance::next_within(record, desired, &seen.views, &sim.options().limits).map(Some),
        }
    }

    /// Other members are asked for in the middle of a move.
    fn think_again(&mut self, record: &Ring, sim: &mut Simulation) {
        if self.calm || record.moving().next().is_none() {
            return;
        }
        if let Some(desired) = self.second_thoughts.about(&self.desired, sim) {
            let before = self.desired.clone();
            if self.ask_for(sim, |members| *members = desired) {
                self.second_thoughts.changed_from(before);
                sim.totals.second_thoughts += 1;
            }
        }
    }

    /// The word that a member is lost, on which nobody asks it; it may even be wrong.
    fn declare(&mut self, record: &Ring, seen: &Seen, sim: &mut Simulation) -> bool {
        let lost: Vec<NodeId> = self.lost.iter().map(|host| sim.node_id(*host)).collect();
        let new = |node: &&NodeId| record.members.contains_key(node) && !record.is_lost(**node);
        let new: Vec<NodeId> = lost.iter().filter(new).copied().collect();
        if new.is_empty() {
            return false;
        }
        let mut views = seen.views.clone();
        views.retain(|node, _| !lost.contains(node));
        match loss::declare(record, &new, &views) {
            Ok(ring) => self.propose(ring, seen, sim),
            Err(LossError::NobodyHolds(_)) => self.offer(seen, sim),
            Err(error) => sim.violated("a lost member can be declared lost", error.to_string()),
        }
        true
    }

    /// Lost hosts that do not run, or know by now that they are lost, are of no interest any more.
    fn scrap_lost(&mut self, record: &Ring, sim: &mut Simulation) {
        for host in self.lost.clone() {
            let node = sim.node_id(host);
            let knows = sim.node(host).is_some_and(|running| running.declared_lost().is_some());
            let never_listed = !record.members.contains_key(&node) && !record.is_lost(node);
            let gone = sim.is_removed(host) && !record.members.contains_key(&node);
            if knows && !record.members.contains_key(&node) {
                sim.totals.members_fenced += 1;
            }
            if gone || (knows && !record.members.contains_key(&node)) || never_listed {
                self.lost.remove(&host);
                if !sim.is_removed(host) {
                    sim.scrap(host);
                }
            }
        }
    }

    fn begin(&mut self, seen: &Seen, sim: &mut Simulation) {
        if !self.desired.keys().all(|node| seen.views.contains_key(node)) {
            return;
        }
        let options = sim.options();
        let (bits, n, buckets) = (options.partition_bits, options.replication, options.bucket_replication());
        match rebalance::first_ring_with(sim.cluster(), bits, n, buckets, &self.desired) {
            Ok(ring) => self.propose(ring, seen, sim),
            Err(error) => sim.violated("there is a first ring", error.to_string()),
        }
    }

    fn propose(&mut self, ring: Ring, seen: &Seen, sim: &mut Simulation) {
        sim.totals.rings_proposed += 1;
        let stage = |ring: &Ring, at: usize| ring.placements[at].moving.as_ref().map(|moving| moving.stage);
        if let Some(before) = self.record().cloned() {
            sometimes::proposed(sim, &before, &ring);
            if let Err((invariant, what)) = transfer::check_stage(sim, &before, &ring) {
                sim.violated(invariant, what);
            }
            let back = |at: &usize| {
                let (before, after) = (stage(&before, *at), stage(&ring, *at));
                matches!(
                    (before, after),
                    (Some(Stage::WriteBothReadNew), Some(Stage::WriteBothReadOld)) | (Some(Stage::WriteBothReadOld), None)
                )
            };
            sim.totals.moves_taken_back += (0..ring.partition_count()).filter(back).count() as u64;
            let begins = |(_, _, moving): &(_, _, Moving<'_>)| moving.since == ring.epoch;
            let moved_before = |(partition, _, _): &(PartitionId, _, _)| before.placement(*partition).moving.is_some();
            sim.totals.moves_retargeted += ring.moving().filter(begins).filter(moved_before).count() as u64;
            let goes_on = ring.moving().any(|moving| !begins(&moving));
            sim.totals.batches += u64::from(goes_on && ring.moving().any(|moving| begins(&moving)));
        }
        let recorded = match &self.record {
            Some(record) => record.then(ring, &seen.views),
            None => Ok(ring.into()),
        };
        // A record that is full waits until members have taken what is in it.
        if let Ok(recorded) = recorded {
            self.record = Some(recorded);
        }
        self.offer(seen, sim);
    }

    /// Each that answers is offered the ring that follows its own, if that is recorded; else, or where it did not answer, the newest.
    fn offer(&mut self, seen: &Seen, sim: &mut Simulation) {
        let Some(record) = self.record.clone() else { return };
        for host in sim.responsive().into_iter().filter(|host| !sim.is_lost(*host)).collect::<Vec<_>>() {
            let held = seen.views.get(&sim.node_id(host)).map_or(Epoch(0), |view| view.epoch);
            let behind = held < record.newest().epoch;
            if behind && (self.calm || self.dice.chance(sim.options().pace.offered)) {
                let ring = record.after(held).unwrap_or(record.newest());
                let taken = sim.propose(host, ring);
                sim.totals.earlier_rings_taken += u64::from(taken && ring.epoch < record.newest().epoch);
            }
        }
    }
}

pub(crate) fn member(sim: &Simulation, host: HostId) -> Member {
    let weights = &sim.options().weights;
    Member { zone: sim.zone(host).into(), weight: weights[host.0 % weights.len()] }
}

fn has_receipt(ring: &Ring, seen: &Seen, node: NodeId) -> bool {
    seen.receipts.get(&node).is_some_and(|receipt| receipt.epoch == ring.epoch && receipt.ring_hash == ring.hash())
}
