//! Links as drivers keep them: dialled from addresses that gossip and seeds give, lost with a crash or a cut, noticed late.

use std::time::Duration;

use dynamo_core::node::Input;

use crate::schedule::{Event, HostId};
use crate::simulation::{Simulation, State};

/// Until the end of a process is noticed at the other end of its connections.
const RESET: Duration = Duration::from_millis(20);

/// Hosts that everyone knows from its configuration.
const SEEDS: usize = 2;

impl Simulation {
    /// Cuts one direction. Messages on it are lost; its link ends when nothing came through for long enough.
    pub fn cut(&mut self, from: HostId, to: HostId) {
        self.network.cut(from, to);
        self.trace.note(self.now, (20, from, to), || format!("cut: host {} -> host {}", from.0, to.0));
        if self.network.state(from, to) == State::Up {
            let link = self.network.number(from, to);
            let keepalive = self.dice.around(self.options.pace.keepalive);
            self.after(keepalive, Event::Keepalive { from, to, link });
        }
    }

    /// Mends one direction.
    pub fn mend(&mut self, from: HostId, to: HostId) {
        self.network.mend(from, to);
        self.trace.note(self.now, (21, from, to), || format!("mended: host {} -> host {}", from.0, to.0));
    }

    /// Breaks one link, which is then dialled again.
    pub fn flap(&mut self, from: HostId, to: HostId) {
        if self.network.state(from, to) == State::Up {
            self.trace.note(self.now, (22, from, to), || format!("link host {} -> host {} breaks", from.0, to.0));
            self.break_link(from, to, RESET);
        }
    }

    /// Whether the outgoing link of `from` to `to` works.
    pub fn is_linked(&self, from: HostId, to: HostId) -> bool {
        self.network.state(from, to) == State::Up
    }

    /// Whether the driver of `from` knows that it has no link to `to`.
    pub fn knows_unlinked(&self, from: HostId, to: HostId) -> bool {
        self.network.state(from, to) == State::Down
    }

    pub(super) fn keepalive(&mut self, from: HostId, to: HostId, link: u64) {
        if self.network.is_current(from, to, link) && self.network.state(from, to) == State::Up && self.network.is_cut(from, to) {
            self.break_link(from, to, Duration::ZERO);
        }
    }

    fn break_link(&mut self, from: HostId, to: HostId, noticed_after: Duration) {
        self.network.set(from, to, State::Broken);
        let link = self.network.number(from, to);
        self.after(noticed_after, Event::LinkDown { from, to, link });
    }

    pub(super) fn link_down(&mut self, from: HostId, to: HostId, link: u64) {
        if self.network.is_current(from, to, link) && self.network.state(from, to) == State::Broken {
            self.network.set(from, to, State::Down);
            let peer = self.node_id(to);
            self.feed(from, Input::LinkDown { peer });
        }
    }

    /// A node has ended: its own links are gone, those to it are broken and noticed soon (a reset) or late (silence).
    pub(super) fn lose_links(&mut self, host: HostId) {
        for other in self.hosts().filter(|other| *other != host) {
            self.network.set(host, other, State::Down);
            if self.network.state(other, host) == State::Up {
                let silent = self.dice.chance(0.3);
                let noticed = if silent { self.options.pace.keepalive } else { RESET };
                let noticed = self.dice.around(noticed);
                self.break_link(other, host, noticed);
            }
        }
    }

    /// The driver's rounds: every known address and every seed that it has no link to is dialled.
    pub(super) fn dial(&mut self, host: HostId, generation: u64) {
        if !self.is_running(host, generation) {
            return;
        }
        let interval = self.dice.around(self.options.pace.dial);
        self.after(interval, Event::Dial { host, generation });
        let own = self.node_id(host);
        let unlinked = |to: &HostId| self.node_id(*to) != own && self.network.state(host, *to) == State::Down;
        let Some(running) = self.hosts[host.0].running.as_ref().filter(|running| !running.paused) else { return };
        if !self.hosts().any(|to| unlinked(&to) && self.hosts[to.0].running.is_some()) {
            return;
        }
        let known = running.node.addresses().into_values();
        let mut targets: Vec<HostId> = known.filter_map(|address| self.by_address.get(&address.peer).copied()).collect();
        // Seeds are names that lead to wherever the first hosts of the cluster are now.
        targets.extend(self.hosts().filter(|seed| !self.hosts[seed.0].removed).take(SEEDS));
        targets.extend(self.named_twice());
        targets.retain(unlinked);
        targets.sort_unstable();
        targets.dedup();
        for to in targets {
            let reachable = !self.network.is_cut(host, to) && !self.network.is_cut(to, host);
            let answers = self.hosts[to.0].running.as_ref().is_some_and(|running| !running.paused);
            if reachable && answers {
                self.network.set(host, to, State::Dialling);
                let round_trip = self.network.delay() * 2;
                let generations = (generation, self.hosts[to.0].generation);
                self.after(round_trip, Event::LinkUp { from: host, to, generations });
            }
        }
    }

    pub(super) fn link_up(&mut self, from: HostId, to: HostId, generations: (u64, u64)) {
        if !self.is_running(from, generations.0) || self.network.state(from, to) != State::Dialling {
            return;
        }
        if !self.is_running(to, generations.1) || self.network.is_cut(from, to) || self.network.is_cut(to, from) {
            return self.network.set(from, to, State::Down);
        }
        self.replace_link(from, to);
        self.network.set(from, to, State::Up);
        self.trace.note(self.now, (23, from, to), || format!("link host {} -> host {} is up", from.0, to.0));
        let (peer, address) = (self.node_id(to), &self.hosts[to.0].address);
        let (peer_address, client_address) = (format!("{address}:7401"), format!("{address}:7400"));
        self.feed(from, Input::LinkUp { peer, peer_address, client_address });
    }
}
