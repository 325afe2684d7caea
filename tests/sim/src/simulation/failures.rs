//! Storage that fails: the node is told, and must stop at once (I14). What was acknowledged before is kept elsewhere.

use dynamo_core::name::Name;
use dynamo_core::storage::StorageError;

use crate::disk::{Disk, Lost};
use crate::schedule::HostId;
use crate::simulation::Simulation;

impl Simulation {
    /// The node gave up over an error of its storage, as its driver does then: nothing that it put out is performed. What was not
    /// on stable storage may be gone.
    pub(super) fn storage_failed(&mut self, host: HostId, error: &StorageError) {
        if self.disk(host).errors() == 0 && !self.hosts[host.0].sync_fails {
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
        let before = self.disk_mut(host).map(std::mem::take).unwrap_or_default();
        self.hosts[host.0].restored = Some(Box::new((before, snapshot.snapshot())));
        self.roll_back(host, snapshot);
        // Its next start counts requests, and learns of rings, as one did that is forgotten.
        self.replicated.retain(|(coordinator, _), _| *coordinator != host);
        self.rings.restored(host);
        self.trace.note(self.now, (32, host, generation), || format!("host {} is as it was in its start {generation}", host.0));
        self.hosts[host.0].restored_by += self.hosts[host.0].generation - self.hosts[host.0].restored_by - generation;
    }

    /// The data directory of a host that does not run, for [`Simulation::restore`].
    pub fn copy_of(&self, host: HostId) -> (Disk, u64) {
        (self.disk(host).snapshot(), self.hosts[host.0].generation - self.hosts[host.0].restored_by)
    }

    /// Whether a host's disk is a copy of what it was.
    pub fn is_restored(&self, host: HostId) -> bool {
        self.hosts[host.0].restored.is_some()
    }

    /// A host's disk as it was before it was restored.
    pub fn before_restored(&self, host: HostId) -> Option<&Disk> {
        self.hosts[host.0].restored.as_ref().map(|restored| &restored.0)
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
