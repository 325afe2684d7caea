//! A process that goes on although its node runs elsewhere by now: the machine was cut off, its disk was attached to another one, and a
//! successor was started there.
//!
//! The process of before goes on from memory, on a host of its own with the same node id, cut off from everybody at first. Whatever it
//! acknowledges from then on lies on no disk that anybody will read again: its disk counts as lost. Once the cuts are mended both are
//! there under one id, until they hear of each other and the one that counts as earlier stops, or somebody ends the one of before.
//! Of a peer's links to the two, the one that was made last is there, as drivers have it.

use std::time::Duration;

use dynamo_core::id::NodeId;
use dynamo_core::node::Input;

use crate::disk::Disk;
use crate::schedule::{Alarm, Event, HostId};
use crate::simulation::{FIRST_SET_BACK, Running, Simulation, State};

/// Until a process that stopped because another one runs under its id is started again.
const STARTED_AGAIN_AFTER: Duration = Duration::from_millis(500);

impl Simulation {
    /// The process of `host`, which runs, goes on at the host that is returned, cut off; its disk is as a loss of power leaves it, for a
    /// successor to be started on. The names of seeds may lead to it still.
    pub fn part(&mut self, host: HostId, is_named: bool) -> Option<HostId> {
        let kept = self.past.below(4);
        let paused = self.hosts[host.0].running.as_ref().is_none_or(|running| running.paused);
        if paused || self.disk(host).is_open() {
            return None;
        }
        let before = self.add_host_in(self.hosts[host.0].zone.clone());
        let running = self.hosts[host.0].running.take()?;
        let mut image = running.node.storage().clone();
        self.totals.revenants += 1;
        let lost = image.power_lost(kept);
        self.count_lost(lost);
        let mut linked = Vec::new();
        for other in self.hosts().filter(|other| *other != host && *other != before).collect::<Vec<_>>() {
            if self.network.state(host, other) == State::Up {
                linked.push(self.node_id(other));
            }
        }
        self.cut_off(before);
        self.take_over(before, host, &image);
        self.hosts[before.0].is_named = is_named;
        self.hosts[host.0].disk = Some(image);
        self.hosts[host.0].address.clear();
        self.rings.ended(host);
        self.lose_links(host);
        self.go_on(before, running);
        self.trace.note(self.now, (34, host, before), || format!("the process of host {} goes on as host {}", host.0, before.0));
        for peer in linked {
            self.feed(before, Input::LinkDown { peer });
        }
        Some(before)
    }

    /// `before` is now what `host` was.
    fn take_over(&mut self, before: HostId, host: HostId, image: &Disk) {
        let wave = FIRST_SET_BACK - self.set_back;
        self.set_back += 1;
        let former = &self.hosts[host.0];
        let (node_id, generation, restored_by) = (former.node_id, former.generation, former.restored_by);
        let (address, skew_ms, origin) = (former.address.clone(), former.skew_ms, former.origin);
        let own = self.node_id(before);
        self.by_node.remove(&own);
        self.by_address.insert(format!("{address}:7401"), before);
        let state = &mut self.hosts[before.0];
        (state.node_id, state.generation, state.restored_by) = (node_id, generation, restored_by);
        (state.address, state.skew_ms, state.origin) = (address, skew_ms, origin);
        (state.disk, state.lost, state.succeeded) = (None, Some(wave), Some(Box::new(image.snapshot())));
        self.hosts[host.0].has_revenant = true;
    }

    fn go_on(&mut self, before: HostId, running: Running) {
        let generation = self.hosts[before.0].generation;
        let (disk, synced_at) = (running.node.storage(), running.synced_at);
        if disk.unsynced() > 0 {
            let ticket = disk.last_ticket();
            self.schedule.at(synced_at.max(self.now), Event::Synced { host: before, generation, ticket });
        }
        self.hosts[before.0].running = Some(running);
        self.after(self.options.pace.tick, Event::Tick { host: before, generation });
        self.after(self.options.pace.dial, Event::Dial { host: before, generation });
        self.close_batch(before);
    }

    /// Processes of before that still run.
    pub fn revenants(&self) -> impl Iterator<Item = HostId> {
        self.hosts().filter(|host| self.hosts[host.0].succeeded.is_some() && self.hosts[host.0].running.is_some())
    }

    /// Processes of before under the id of `node`, ended or not.
    pub(super) fn of_before(&self, node: NodeId) -> impl Iterator<Item = HostId> {
        self.hosts().filter(move |host| self.hosts[host.0].succeeded.is_some() && self.node_id(*host) == node)
    }

    /// Whether two processes run, or ran, under the id of a host's node.
    pub fn has_revenant(&self, host: HostId) -> bool {
        self.hosts[host.0].has_revenant
    }

    /// Processes of before to which the names of seeds still lead, and their successors, to which these lead as well.
    pub(super) fn named_twice(&self) -> impl Iterator<Item = HostId> {
        let named = self.revenants().filter(|host| self.hosts[host.0].is_named);
        named.flat_map(|before| self.host_of(self.node_id(before)).into_iter().chain([before]))
    }

    /// Hears of others, and is heard of, from now on.
    pub fn rejoin(&mut self, before: HostId) {
        for other in self.hosts().filter(|other| *other != before).collect::<Vec<_>>() {
            self.mend(before, other);
            self.mend(other, before);
        }
    }

    /// Nobody hears a host, and it hears nobody.
    pub fn cut_off(&mut self, host: HostId) {
        for other in self.hosts().filter(|other| *other != host).collect::<Vec<_>>() {
            self.cut(host, other);
            self.cut(other, host);
        }
    }

    /// A process of before is ended, if it runs still, and its disk is gone for good.
    pub fn lay_to_rest(&mut self, before: HostId) {
        self.end(before, Disk::killed);
        self.hosts[before.0].removed = true;
        self.trace.note(self.now, (35, before), || format!("host {} is no more", before.0));
    }

    /// The node of `host` stopped since another process runs under its id. True if there is one, as far as anybody may know.
    pub(super) fn yielded(&mut self, host: HostId) -> bool {
        if self.hosts[host.0].succeeded.is_some() {
            self.totals.revenants_yielded += 1;
            self.lay_to_rest(host);
            return true;
        }
        if self.has_revenant(host) {
            self.totals.successors_yielded += 1;
            self.end(host, Disk::killed);
            self.alarm(STARTED_AGAIN_AFTER, Alarm::Returns(host));
            return true;
        }
        false
    }

    /// Which host a message of `from` to `node` goes to: of two processes under one id the one that it is linked to.
    pub(super) fn reached(&self, from: HostId, node: NodeId) -> Option<HostId> {
        let usual = self.host_of(node)?;
        if !self.has_revenant(usual) || self.network.state(from, usual) == State::Up {
            return Some(usual);
        }
        let mut alike = self.of_before(node);
        Some(alike.find(|before| self.network.state(from, *before) == State::Up).unwrap_or(usual))
    }

    /// A link of `from` to `to` takes the place of the one that it had to another process under the same id.
    pub(super) fn replace_link(&mut self, from: HostId, to: HostId) {
        let node = self.node_id(to);
        let Some(usual) = self.host_of(node).filter(|usual| self.has_revenant(*usual)) else { return };
        // One that has ended too: that is not to be noticed any more.
        let alike: Vec<HostId> = self.of_before(node).chain([usual]).collect();
        for other in alike.into_iter().filter(|other| *other != to) {
            self.network.set(from, other, State::Down);
        }
    }
}
