//! Storage that fails: the node is told, and must stop at once (I14). What was acknowledged before is kept elsewhere.

use dynamo_core::name::Name;
use dynamo_core::storage::StorageError;

use crate::disk::{Disk, Lost};
use crate::schedule::HostId;
use crate::simulation::{FIRST_SET_BACK, SetBack, Simulation};
use crate::witness::WriteId;

impl Simulation {
    /// The node gave up over an error of its storage, as its driver does then: nothing that it put out is performed. What was not
    /// on stable storage may be gone.
    pub(super) fn storage_failed(&mut self, host: HostId, error: &StorageError) {
        let sound = self.disk(host).errors() == 0 && !self.hosts[host.0].sync_fails;
        if sound && self.yielded(host) {
            return;
        }
        if sound {
            return self.violated("I14 a disk that was only crashed works", format!("host {}: {error}", host.0));
        }
        self.trace.note(self.now, (40, host), || format!("host {} stops: {error}", host.0));
        let kept = self.more.below(4);
        let mut lost = Lost::default();
        self.end(host, |disk| lost = disk.power_lost(kept));
        self.count_lost(lost);
        self.totals.storage_stops += 1;
        self.hosts[host.0].rotted |= self.disk(host).is_rotten();
        self.totals.disks_lost += u64::from(self.hosts[host.0].rotted);
    }

    /// I14: a node whose storage has failed goes on with nothing.
    pub(super) fn check_stopped(&mut self, host: HostId) {
        let errors = self.node(host).map_or(0, |node| node.storage().errors());
        if errors > 0 {
            self.violated("I14 fail-stop", format!("host {} was told of {errors} errors of its storage, and goes on", host.0));
        }
    }

    pub(super) fn count_lost(&mut self, lost: Lost) {
        self.totals.groups_lost += lost.lost as u64;
        self.totals.tails_torn += u64::from(lost.kept > 0 && lost.lost > 0);
    }

    /// A disk that is full or lost has to be looked after first.
    pub(super) fn can_start(&mut self, host: HostId) -> bool {
        let state = &mut self.hosts[host.0];
        let Some(disk) = &mut state.disk else { return true };
        if disk.is_rotten() && !state.rotted {
            state.rotted = true;
            self.totals.disks_lost += 1;
        }
        disk.forget_errors();
        !state.rotted && !disk.is_full() && !state.sync_fails
    }

    fn disk_mut(&mut self, host: HostId) -> Option<&mut Disk> {
        let state = &mut self.hosts[host.0];
        match &mut state.running {
            Some(running) => Some(running.node.storage_mut()),
            None => state.disk.as_mut(),
        }
    }

    /// A host's disk is full from now on, or has room again.
    pub fn fill_disk(&mut self, host: HostId, full: bool) {
        if let Some(disk) = self.disk_mut(host) {
            disk.set_full(full);
        }
    }

    /// A host's fsyncs fail from now on, or work again.
    pub fn break_sync(&mut self, host: HostId, fails: bool) {
        self.hosts[host.0].sync_fails = fails;
    }

    /// The disk of a host that does not run loses an object without a trace.
    pub fn forget(&mut self, host: HostId, name: &Name) {
        assert!(self.node(host).is_none(), "host {} runs", host.0);
        if let Some(disk) = self.disk_mut(host) {
            disk.forget(name);
        }
    }

    /// The disk of a host that does not run becomes what it was at the time of a snapshot.
    pub fn roll_back(&mut self, host: HostId, snapshot: Disk) {
        assert!(self.node(host).is_none(), "host {} runs", host.0);
        self.hosts[host.0].disk = Some(snapshot);
    }

    /// The whole data directory of a host that does not run becomes what it was: the count of its starts too.
    pub fn restore(&mut self, host: HostId, (snapshot, generation): (Disk, u64)) {
        self.go_back(host, snapshot);
        self.trace.note(self.now, (32, host, generation), || format!("host {} is as it was in its start {generation}", host.0));
        self.hosts[host.0].restored_by += self.hosts[host.0].generation - self.hosts[host.0].restored_by - generation;
    }

    /// The disk of a host that does not run turns out to lack what it said was synced since a snapshot. The starts are counted elsewhere.
    pub fn forget_since(&mut self, host: HostId, snapshot: Disk) {
        self.go_back(host, snapshot);
        self.trace.note(self.now, (33, host), || format!("host {} has forgotten what it had synced", host.0));
    }

    fn go_back(&mut self, host: HostId, snapshot: Disk) {
        let before = self.disk_mut(host).map(std::mem::take).unwrap_or_default();
        let wave = FIRST_SET_BACK - self.set_back;
        self.set_back += 1;
        self.hosts[host.0].set_back.push(SetBack { before, after: snapshot.snapshot(), wave });
        self.roll_back(host, snapshot);
        // Its next start learns of rings, and if its starts are forgotten counts requests, as one did that is forgotten.
        self.replicated.retain(|(coordinator, _), _| *coordinator != host);
        self.rings.restored(host);
    }

    /// The data directory of a host that does not run, for [`Simulation::restore`].
    pub fn copy_of(&self, host: HostId) -> (Disk, u64) {
        (self.disk(host).snapshot(), self.hosts[host.0].generation - self.hosts[host.0].restored_by)
    }

    /// Whether a host's disk went back in time.
    pub fn is_set_back(&self, host: HostId) -> bool {
        !self.hosts[host.0].set_back.is_empty() || self.has_revenant(host)
    }

    /// Whether any disk did.
    pub fn has_set_back(&self) -> bool {
        self.set_back > 0
    }

    /// A host's disk as it was before, each time that it went back, and those of processes of before under its node's id.
    pub fn before_set_back(&self, host: HostId) -> impl Iterator<Item = &Disk> {
        let of_before = self.of_before(self.node_id(host)).map(|before| self.disk(before));
        self.hosts[host.0].set_back.iter().map(|disk| &disk.before).chain(of_before)
    }

    /// Whether every other node that answers has heard of the start that the node of a host is in.
    pub fn is_heard_of(&self, host: HostId) -> bool {
        let generation = self.hosts[host.0].generation - self.hosts[host.0].restored_by;
        let others = self.responsive().into_iter().filter(|other| *other != host).filter_map(|other| self.node(other));
        others.map(|node| node.generation_of(self.node_id(host))).all(|heard| heard.is_some_and(|heard| heard >= generation))
    }

    /// The start that a host is in, or was in last.
    pub fn generation(&self, host: HostId) -> u64 {
        self.hosts[host.0].generation
    }

    /// Bits of some object on a host's disk flip. The node stops when it reads it, and the disk is lost.
    pub fn rot(&mut self, host: HostId) -> bool {
        let mut dice = self.more.fork();
        self.disk_mut(host).is_some_and(|disk| disk.rot(|objects| dice.below(objects)))
    }

    /// Whether a host's disk is lost.
    pub fn is_rotted(&self, host: HostId) -> bool {
        self.hosts[host.0].rotted
    }

    /// Disks that are lost: so many copies of anything may be gone.
    pub fn rotted(&self) -> usize {
        self.hosts.iter().filter(|host| host.rotted).count()
    }

    /// Disks that are lost and had `write` on stable storage.
    pub fn copies_rotted(&self, write: WriteId) -> usize {
        let witness = self.witness();
        let dots: Vec<_> = witness.dots_of(write).iter().filter_map(|dot| Some((witness.name_of(*dot)?, *dot))).collect();
        // A replica acknowledges as well what its copy has seen already.
        let held = |disk: &Disk| disk.has_held(write) == Some(true) || dots.iter().any(|(name, dot)| disk.has_seen(name, *dot));
        self.hosts().filter(|host| self.is_rotted(*host) && held(self.disk(*host))).count()
    }

    /// Disks with flipped bits that nobody has read yet are lost all the same.
    pub fn lose_rotten(&mut self) {
        for host in self.hosts().filter(|host| self.disk(*host).is_rotten()).collect::<Vec<_>>() {
            if !self.hosts[host.0].rotted {
                self.end(host, Disk::killed);
                self.hosts[host.0].rotted = true;
                self.totals.disks_lost += 1;
            }
        }
    }

    /// One direction between two hosts becomes bad, or good again.
    pub fn worsen(&mut self, from: HostId, to: HostId, bad: bool) {
        self.network.set_bad(from, to, bad);
        self.trace.note(self.now, (41, from, to, bad), || format!("the way from host {} to host {}: bad {bad}", from.0, to.0));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dynamo_core::storage::Storage;

    use super::*;
    use crate::checkers::trees;
    use crate::options::Options;
    use crate::scenario::{cluster, name};

    fn violated(sim: &Simulation) -> Vec<&'static str> {
        sim.violations().iter().map(|violation| violation.invariant).collect()
    }

    #[test]
    fn a_node_that_goes_on_after_an_error_of_its_storage_is_found() {
        let mut sim = Simulation::new(&Options::calm(1, 1), false);
        let host = sim.add_host();
        sim.start(host);
        sim.fill_disk(host, true);
        let written = sim.disk_mut(host).map(|disk| disk.write_meta(b"key", Some(b"value")));
        assert!(matches!(written, Some(Err(_))), "the disk is full, and nobody hears of it");
        sim.fill_disk(host, false);
        sim.next(sim.now() + Duration::from_secs(1));
        assert_eq!(violated(&sim), ["I14 fail-stop"]);
    }

    #[test]
    fn a_tree_that_says_what_the_disk_does_not_is_found() {
        let mut cluster = cluster(3).start();
        let home = cluster.homes("alice")[0];
        cluster.through(home).put("alice", "milk and bread");
        cluster.settle();
        assert_eq!(trees::check(&cluster.sim, home), Ok(()));
        if let Some(disk) = cluster.sim.disk_mut(home) {
            disk.forget(&name("alice"));
        }
        assert_eq!(
            trees::check(&cluster.sim, home).err().map(|(invariant, _)| invariant),
            Some("I7 trees are what the disk holds")
        );
    }

    #[test]
    fn a_node_that_gives_up_over_a_sound_disk_is_found() {
        for (sound, found) in [(true, vec!["I14 a disk that was only crashed works"]), (false, vec![])] {
            let mut sim = Simulation::new(&Options::calm(1, 1), false);
            let host = sim.add_host();
            sim.start(host);
            sim.break_sync(host, !sound);
            sim.storage_failed(host, &StorageError("it says".into()));
            assert_eq!(violated(&sim), found);
        }
    }
}
