//! What a driver does: feed, commit, perform, report what is durable.

use std::time::Duration;

use dynamo_core::node::{Input, Output};
use dynamo_core::storage::StorageError;

use crate::schedule::{Alarm, Event, HostId};
use crate::simulation::{Happening, Simulation, State};
use crate::trace::{describe, describe_outcome, kind};

impl Simulation {
    /// One event.
    pub(super) fn perform(&mut self, event: Event) -> Option<Happening> {
        match event {
            Event::Deliver { from, to, generation, link, message } => {
                if self.is_running(to, generation) {
                    self.observe_delivery(from, to, link, &message);
                    self.trace.note(self.now, (10, to, kind(&message)), || {
                        format!("{from:?} -> host {}: {}", to.0, describe(&message))
                    });
                    let fenced = self.fenced(to, &message);
                    self.feed(to, Input::Message { from, message });
                    self.check_fenced(to, fenced);
                }
            }
            Event::Request { to, client, request } => self.feed(to, Input::Request { client, request }),
            Event::Answer { client, outcome } => {
                self.trace.note(self.now, (11, client, outcome.is_ok()), || {
                    format!("client {} hears {}", client.0, describe_outcome(&outcome))
                });
                return Some(Happening::Answer(client, outcome));
            }
            Event::Tick { host, generation } => {
                if self.is_running(host, generation) {
                    self.after(self.options.pace.tick, Event::Tick { host, generation });
                    let paused = self.hosts[host.0].running.as_ref().is_some_and(|running| running.paused);
                    if !paused {
                        self.feed(host, Input::Tick);
                    }
                }
            }
            Event::CloseBatch { host, generation } => {
                if self.is_running(host, generation) {
                    self.close_batch(host);
                }
            }
            Event::Synced { host, generation, ticket } => {
                if self.is_running(host, generation) && self.hosts[host.0].sync_fails {
                    self.totals.failed_syncs += 1;
                    self.storage_failed(host, &StorageError("fsync: input/output error".into()));
                } else if self.is_running(host, generation)
                    && let Some(running) = &mut self.hosts[host.0].running
                {
                    running.node.storage_mut().synced(ticket);
                    self.feed(host, Input::Durable { ticket });
                }
            }
            Event::Resume { host, generation } => {
                if self.is_running(host, generation) {
                    self.resume(host);
                }
            }
            Event::Dial { host, generation } => self.dial(host, generation),
            Event::LinkUp { from, to, generations } => self.link_up(from, to, generations),
            Event::LinkDown { from, to, link } => self.link_down(from, to, link),
            Event::Keepalive { from, to, link } => self.keepalive(from, to, link),
            Event::Alarm(alarm) => return Some(Happening::Alarm(alarm)),
        }
        None
    }

    pub(super) fn is_running(&self, host: HostId, generation: u64) -> bool {
        let host = &self.hosts[host.0];
        host.running.is_some() && host.generation == generation
    }

    /// Gives one input to a node; its batch is closed at once or a little later.
    pub(super) fn feed(&mut self, host: HostId, input: Input) {
        let now = self.clock(host);
        let state = &mut self.hosts[host.0];
        let generation = state.generation;
        let Some(running) = &mut state.running else { return };
        if running.paused {
            running.inbox.push_back(input);
            return;
        }
        self.totals.inputs += 1;
        if let Err(error) = running.node.handle(input, now, &mut running.out) {
            return self.storage_failed(host, &error);
        }
        if running.node.storage().errors() > 0 {
            return self.check_stopped(host);
        }
        if !running.batch_open {
            running.batch_open = true;
            let wait = self.options.pace.batch;
            if wait.is_zero() {
                self.close_batch(host);
            } else {
                let wait = self.dice.duration(Duration::ZERO, wait);
                self.after(wait, Event::CloseBatch { host, generation });
            }
        }
    }

    /// Commits what was written and performs what was put out.
    pub(super) fn close_batch(&mut self, host: HostId) {
        let state = &mut self.hosts[host.0];
        let generation = state.generation;
        let Some(running) = &mut state.running else { return };
        if running.paused {
            return;
        }
        running.batch_open = false;
        let outputs = std::mem::take(&mut running.out);
        match running.node.commit() {
            Ok(None) => {}
            Ok(Some(ticket)) => {
                let stalls = state.sync.is_none() && !self.disks_calm && self.dice.chance(self.options.disk.stalls);
                let usual = state.sync.unwrap_or(self.options.disk.sync);
                let sync = self.dice.around(usual) * if stalls { 100 } else { 1 };
                // One fsync runs at a time: none returns before the one ahead of it.
                running.synced_at = running.synced_at.max(self.now + sync);
                self.schedule.at(running.synced_at, Event::Synced { host, generation, ticket });
            }
            Err(error) => return self.storage_failed(host, &error),
        }
        self.check_stopped(host);
        let dropped = self.hosts[host.0].running.as_mut().map(|running| running.node.storage_mut().take_dropped());
        dropped.into_iter().filter(|dropped| !dropped.is_empty()).for_each(|dropped| self.check_dropped(host, &dropped));
        let removed = self.hosts[host.0].running.as_mut().map(|running| running.node.storage_mut().take_removed());
        removed.into_iter().filter(|removed| !removed.is_empty()).for_each(|removed| self.check_removed(host, &removed));
        let made = self.witness.borrow_mut().take_made();
        self.check_made(host, &made);
        let complaints = self.witness.borrow_mut().take_complaints();
        for (invariant, what) in complaints {
            self.violated(invariant, what);
        }
        for output in outputs {
            self.perform_output(host, output);
        }
    }

    fn perform_output(&mut self, host: HostId, output: Output) {
        match output {
            Output::Send { to, message } => self.send(host, to, message),
            Output::Respond { client, outcome } => {
                let delay = self.network.delay();
                self.after(delay, Event::Answer { client, outcome });
            }
            Output::RingChanged => {
                self.totals.rings_adopted += 1;
                self.check_ring(host);
                let unlucky = self.options.faults.adoption;
                if !self.disks_calm && unlucky > 0.0 && self.more.chance(unlucky) {
                    let soon = self.more.duration(Duration::ZERO, Duration::from_millis(700));
                    self.after(soon, Event::Alarm(Alarm::Adopted(host)));
                }
            }
            Output::AddressesChanged => {}
        }
    }

    fn send(&mut self, from: HostId, to: dynamo_core::id::NodeId, message: dynamo_core::message::Message) {
        let Some(to) = self.reached(from, to) else { return };
        self.observe_sending(from, &message);
        if self.network.state(from, to) != State::Up || self.network.is_cut(from, to) {
            self.totals.messages_dropped += 1;
            self.trace.note(self.now, (13, from, to, kind(&message)), || {
                let state = self.network.state(from, to);
                format!("host {} -> host {} is {state:?}, dropped: {}", from.0, to.0, describe(&message))
            });
            return;
        }
        let sender = self.node_id(from);
        let generation = self.hosts[to.0].generation;
        let link = self.network.number(from, to);
        let deliveries = self.network.deliveries(from, to, &message);
        match deliveries[..] {
            [] => self.totals.messages_dropped += 1,
            [_] => self.totals.messages += 1,
            _ => self.totals.messages_doubled += 1,
        }
        for delay in deliveries {
            self.totals.messages_late += u64::from(delay >= crate::network::LATE);
            self.in_flight_until = self.in_flight_until.max(self.now + delay);
            self.after(delay, Event::Deliver { from: sender, to, generation, link, message: message.clone() });
        }
    }

    fn resume(&mut self, host: HostId) {
        self.trace.note(self.now, (12, host), || format!("host {} goes on", host.0));
        let Some(running) = &mut self.hosts[host.0].running else { return };
        running.paused = false;
        if let Some(since) = running.suspended.take() {
            let stood_still = self.now.since(since).as_micros() as u64;
            self.hosts[host.0].origin = self.hosts[host.0].origin.wrapping_sub(stood_still);
        }
        let Some(running) = &mut self.hosts[host.0].running else { return };
        let inbox = std::mem::take(&mut running.inbox);
        let batch_was_open = running.batch_open;
        for input in inbox {
            self.feed(host, input);
        }
        if batch_was_open {
            self.close_batch(host);
        }
    }
}
