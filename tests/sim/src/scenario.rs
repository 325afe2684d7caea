//! Directed tests: a small cluster in peace, and words to break it on purpose.
//!
//! ```
//! use dynamo_sim::scenario::cluster;
//!
//! let mut cluster = cluster(5).partitions(64).start();
//! let home = cluster.homes("alice")[0];
//! cluster.kill(home);
//! let other = cluster.homes("alice")[1];
//! cluster.through(other).put("alice", "milk");
//! assert_eq!(cluster.through(other).get("alice").values, ["milk"]);
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use dynamo_core::context;
use dynamo_core::counters::Counters;
use dynamo_core::id::{NodeId, PartitionId, RequestKey};
use dynamo_core::name::Name;
use dynamo_core::node::Node;
use dynamo_core::preference_list;
use dynamo_core::request::{ClientHandle, Evidence, Failure, Operation, Outcome, QuorumWish, Request, Success};
use dynamo_core::ring::Ring;
use dynamo_core::ring::placed::Placed;
use dynamo_core::version::{CausalContext, Object};

use crate::checkers::{convergence, quiet};
use crate::disk::Disk;
use crate::options::Options;
use crate::ring_writer::RingWriter;
use crate::schedule::{Alarm, HostId};
use crate::simulation::{Crash, Happening, Simulation};

/// The bucket of all keys.
pub const BUCKET: &str = "carts";
/// Until whatever a test waits for has happened.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster to be.
#[derive(Clone, Debug)]
pub struct Builder(Options);

/// A cluster of so many nodes with (N, R, W) = (3, 2, 2).
pub fn cluster(nodes: usize) -> Builder {
    Builder(Options::calm(1, nodes))
}

impl Builder {
    /// So many partitions, a power of two.
    pub fn partitions(mut self, count: u32) -> Self {
        assert!(count.is_power_of_two(), "{count} is no power of two");
        self.0.partition_bits = count.trailing_zeros() as u8;
        self
    }

    /// Another (N, R, W).
    pub fn quorum(mut self, (n, r, w): (u8, u8, u8)) -> Self {
        self.0.replication = n;
        (self.0.quorum.r, self.0.quorum.w) = (r, w);
        self
    }

    /// Another N for a bucket, in the ring.
    pub fn bucket_n(mut self, bucket: &str, n: u8) -> Self {
        self.0.bucket_n.insert(Bytes::copy_from_slice(bucket.as_bytes()), n);
        self
    }

    /// So many zones, the nodes spread over them in turn.
    pub fn zones(mut self, count: usize) -> Self {
        self.0.zones = count;
        self
    }

    /// Anything else.
    pub fn tune(mut self, change: impl FnOnce(&mut Options)) -> Self {
        change(&mut self.0);
        self
    }

    /// Starts the nodes and waits until they have a ring and links to each other.
    pub fn start(self) -> Cluster {
        let mut sim = Simulation::new(&self.0, false);
        let hosts: Vec<HostId> = (0..self.0.nodes).map(|_| sim.add_host()).collect();
        hosts.iter().for_each(|host| sim.start(*host));
        let writer = RingWriter::new(&sim, &hosts);
        sim.alarm(Duration::ZERO, Alarm::Writer);
        let mut cluster = Cluster { sim, writer, outcomes: BTreeMap::new() };
        cluster.settle();
        cluster
    }
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    /// The world it runs in.
    pub sim: Simulation,
    writer: RingWriter,
    /// What those were told that nobody waits for.
    outcomes: BTreeMap<ClientHandle, Outcome>,
}

/// What a get returned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Got {
    /// The concurrent values, in order.
    pub values: Vec<String>,
    /// The context that covers them.
    pub context: Bytes,
    /// Who answered.
    pub evidence: Evidence,
}

/// What a put returned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// The context that covers the new version.
    pub context: Bytes,
    /// Who acknowledged.
    pub evidence: Evidence,
}

impl Cluster {
    // --- requests ---------------------------------------------------------------------------------------------------

    /// A client of this node.
    pub fn through(&mut self, host: HostId) -> Client<'_> {
        Client { cluster: self, host, wish: QuorumWish::default(), request_key: None }
    }

    /// What is still under way, if anything.
    pub fn unfinished(&self) -> Option<String> {
        quiet::unfinished(&self.sim, &self.writer)
    }

    // --- who is where -----------------------------------------------------------------------------------------------

    /// The hosts of the cluster that are not removed.
    pub fn hosts(&self) -> Vec<HostId> {
        let mut hosts = self.sim.running();
        hosts.extend(self.sim.stopped());
        hosts.sort_unstable();
        hosts
    }

    /// The recorded ring.
    pub fn ring(&self) -> &Ring {
        self.writer.record().expect("a started cluster has a ring")
    }

    /// The partition of a key.
    pub fn partition(&self, key: &str) -> PartitionId {
        self.ring().partition_of(&name(key))
    }

    /// Who holds a key.
    pub fn placement(&self, key: &str) -> Placed<'_> {
        self.ring().placement(self.partition(key))
    }

    /// The home replicas of a key, the primary first.
    pub fn homes(&self, key: &str) -> Vec<HostId> {
        self.placement(key).replicas.iter().map(|node| self.host(*node)).collect()
    }

    /// Who stands in for the home replicas of a key, best first.
    pub fn fallbacks(&self, key: &str) -> Vec<HostId> {
        preference_list::fallbacks(self.ring(), self.partition(key)).into_iter().map(|node| self.host(node)).collect()
    }

    /// The identity of a host's node.
    pub fn id(&self, host: HostId) -> NodeId {
        self.sim.node_id(host)
    }

    fn host(&self, node: NodeId) -> HostId {
        self.sim.host_of(node).expect("the ring lists nodes of hosts")
    }

    /// A host's node, which runs.
    pub fn node(&self, host: HostId) -> &Node<Disk> {
        self.sim.node(host).expect("the node runs")
    }

    /// What lies on a host's disk as its own copy of a key.
    pub fn copy(&self, host: HostId, key: &str) -> Option<Object> {
        let name = name(key);
        self.sim.disk(host).objects().find(|(_, at, _)| **at == name).map(|(_, _, object)| object.clone())
    }

    /// The values of that copy, in order.
    pub fn copied(&self, host: HostId, key: &str) -> Vec<String> {
        self.copy(host, key).map(|object| texts(&object)).unwrap_or_default()
    }

    /// The values that a host keeps of a key for another host, in order.
    pub fn hinted(&self, keeper: HostId, key: &str, target: HostId) -> Vec<String> {
        let (name, target) = (name(key), self.id(target));
        let mut hints = self.sim.disk(keeper).hints();
        hints.find(|(node, at, _)| *node == target && **at == name).map(|(_, _, object)| texts(object)).unwrap_or_default()
    }

    /// What a context of a key covers.
    pub fn seen(&self, key: &str, context: &Bytes) -> CausalContext {
        context::decode(context.clone(), self.sim.cluster(), &name(key)).expect("a node made it").seen
    }

    /// A counter, summed over all nodes that run.
    pub fn count(&self, counter: impl Fn(&Counters) -> u64) -> u64 {
        self.sim.running().into_iter().map(|host| counter(self.node(host).counters())).sum()
    }

    // --- what goes wrong --------------------------------------------------------------------------------------------

    /// Kills a host's process, and waits until the others have noticed.
    pub fn kill(&mut self, host: HostId) {
        self.sim.crash(host, Crash::Kill);
        self.until("the others notice", |cluster| {
            cluster.sim.running().into_iter().all(|other| cluster.sim.knows_unlinked(other, host))
        });
    }

    /// Starts a host's node again, and waits until the others are linked to it.
    pub fn start(&mut self, host: HostId) {
        self.sim.start(host);
        self.until("the others are linked", |cluster| {
            cluster
                .sim
                .running()
                .into_iter()
                .all(|other| other == host || (cluster.sim.is_linked(other, host) && cluster.sim.is_linked(host, other)))
        });
    }

    /// Stops a host's node, cleanly or not, and waits until the others have noticed.
    pub fn stop(&mut self, host: HostId, clean: bool) {
        if clean {
            self.sim.stop(host);
        } else {
            self.sim.crash(host, Crash::Kill);
        }
        self.until("the others notice", |cluster| {
            cluster.sim.running().into_iter().all(|other| cluster.sim.knows_unlinked(other, host))
        });
    }

    /// A host's disk is nearly full.
    pub fn fill(&mut self, host: HostId) {
        self.sim.space(host, false);
    }

    /// A host's disk has room again.
    pub fn free(&mut self, host: HostId) {
        self.sim.space(host, true);
    }

    /// Cuts the network between two groups of hosts, and waits until both have noticed.
    pub fn split(&mut self, one: &[HostId], other: &[HostId]) {
        let pairs: Vec<_> = one.iter().flat_map(|from| other.iter().flat_map(|to| [(*from, *to), (*to, *from)])).collect();
        pairs.iter().for_each(|(from, to)| self.sim.cut(*from, *to));
        self.until("both sides notice", |cluster| pairs.iter().all(|(from, to)| cluster.sim.knows_unlinked(*from, *to)));
    }

    /// Two halves that do not hear each other each put `key`, the second a while after the first; then they hear each other again,
    /// and all settles. Returns the halves.
    pub fn put_apart(&mut self, key: &str, (one, other): (&str, &str), between: Duration) -> (Vec<HostId>, Vec<HostId>) {
        let mut left = self.hosts();
        let right = left.split_off(left.len() / 2);
        self.split(&left, &right);
        self.through(left[0]).put(key, one);
        self.run(between);
        self.through(right[0]).put(key, other);
        self.heal();
        self.settle();
        (left, right)
    }

    /// Mends every cut.
    pub fn heal(&mut self) {
        let hosts = self.hosts();
        for from in &hosts {
            hosts.iter().for_each(|to| self.sim.mend(*from, *to));
        }
    }

    // --- members ----------------------------------------------------------------------------------------------------

    /// A new host, which is asked to be a member. [`Cluster::settle`] waits until it is.
    pub fn join(&mut self) -> HostId {
        let host = self.sim.add_host();
        self.sim.start(host);
        assert!(self.writer.join(&self.sim, host), "there is a ring with one more");
        host
    }

    /// A member is asked to leave. [`Cluster::settle`] waits until it has gone.
    pub fn leave(&mut self, host: HostId) {
        assert!(self.writer.leave(&self.sim, host), "there is a ring with one less");
    }

    /// A host's disk is destroyed, and the writer of rings is told. Returns the host that comes in its place.
    pub fn wipe(&mut self, host: HostId) -> HostId {
        let replacement = self.destroy(host);
        self.sim.start(replacement);
        replacement
    }

    /// A host's disk is destroyed, and the writer of rings is told. Returns the host that is to come in its place, and is not started.
    pub fn destroy(&mut self, host: HostId) -> HostId {
        let replacement = self.sim.write_off(host, 0);
        self.sim.scrap(host);
        self.writer.lose(&self.sim, host, replacement);
        replacement
    }

    /// A host is declared lost that is not. Returns the host that comes in its place.
    pub fn misjudge(&mut self, host: HostId) -> HostId {
        let replacement = self.sim.write_off(host, 0);
        self.sim.start(replacement);
        self.writer.lose(&self.sim, host, replacement);
        replacement
    }

    /// What a client was told that began and did not wait.
    pub fn outcome(&self, client: ClientHandle) -> Option<&Outcome> {
        self.outcomes.get(&client)
    }

    // --- time -------------------------------------------------------------------------------------------------------

    /// Lets time pass.
    pub fn run(&mut self, duration: Duration) {
        let until = self.sim.now() + duration;
        self.advance(until, None);
    }

    /// Lets time pass until something holds.
    pub fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let bound = self.sim.now() + PATIENCE;
        while !holds(self) {
            assert!(self.sim.now() < bound, "{what}: not within {PATIENCE:?}");
            self.run(Duration::from_millis(50));
        }
    }

    /// Lets time pass until nothing is under way any more; then all replicas are equal.
    pub fn settle(&mut self) {
        let bound = self.sim.now() + PATIENCE;
        while let Some(unfinished) = self.unfinished() {
            assert!(self.sim.now() < bound, "not settled within {PATIENCE:?}: {unfinished}");
            self.run(Duration::from_millis(100));
        }
        if self.sim.stopped().is_empty() {
            assert_eq!(convergence::check(&self.sim, self.ring()), Ok(()));
        }
    }

    fn advance(&mut self, until: dynamo_core::time::Instant, awaited: Option<ClientHandle>) -> Option<Outcome> {
        while let Some(happening) = self.sim.next(until) {
            match happening {
                Happening::Answer(client, outcome) if Some(client) == awaited => return Some(outcome),
                Happening::Answer(client, outcome) => {
                    self.outcomes.insert(client, outcome);
                }
                Happening::Alarm(Alarm::Writer) => self.writer.step(&mut self.sim),
                Happening::Alarm(_) => {}
            }
        }
        assert_eq!(self.sim.violations(), [], "an invariant is violated");
        None
    }
}

/// A client of one node.
#[derive(Debug)]
pub struct Client<'a> {
    cluster: &'a mut Cluster,
    host: HostId,
    wish: QuorumWish,
    request_key: Option<RequestKey>,
}

impl Client<'_> {
    /// Asks for another quorum than the cluster's.
    pub fn with(mut self, wish: QuorumWish) -> Self {
        self.wish = wish;
        self
    }

    /// Writes under this request id.
    pub fn with_id(mut self, id: u8) -> Self {
        self.request_key = Some(RequestKey([id; 16]));
        self
    }

    /// All concurrent values of a key.
    pub fn get(self, key: &str) -> Got {
        match self.ask(key, Operation::Get) {
            Ok(Success::Got { object, context, evidence }) => Got { values: texts(&object), context, evidence },
            other => panic!("get {key}: {other:?}"),
        }
    }

    /// A write that knows of no other.
    pub fn put(self, key: &str, value: &str) -> Written {
        self.put_after(&Bytes::new(), key, value)
    }

    /// A write in place of what a context covers.
    pub fn put_after(self, context: &Bytes, key: &str, value: &str) -> Written {
        match self.try_put(context, key, value) {
            Ok(written) => written,
            Err(failure) => panic!("put {key}: {failure:?}"),
        }
    }

    /// The same, where it may fail.
    pub fn try_put(self, context: &Bytes, key: &str, value: &str) -> Result<Written, Failure> {
        let operation =
            Operation::Put { data: Bytes::copy_from_slice(value.as_bytes()), context: context.clone(), create_only: false };
        written(self.ask(key, operation))
    }

    /// A tombstone in place of what a context covers.
    pub fn delete(self, context: &Bytes, key: &str) -> Written {
        match written(self.ask(key, Operation::Delete { context: context.clone() })) {
            Ok(written) => written,
            Err(failure) => panic!("delete {key}: {failure:?}"),
        }
    }

    /// Anything, with its outcome.
    pub fn ask(self, key: &str, operation: Operation) -> Outcome {
        let host = self.host;
        let (cluster, client) = self.send(key, operation);
        let until = cluster.sim.now() + PATIENCE;
        cluster.advance(until, Some(client)).unwrap_or_else(|| panic!("{key}: host {} does not answer", host.0))
    }

    /// Anything, without waiting: [`Cluster::outcome`] has its outcome when it is there.
    pub fn begin(self, key: &str, operation: Operation) -> ClientHandle {
        self.send(key, operation).1
    }
}

impl<'a> Client<'a> {
    fn send(self, key: &str, operation: Operation) -> (&'a mut Cluster, ClientHandle) {
        let Self { cluster, host, wish: quorum, request_key } = self;
        let request = Request { name: name(key), operation, request_key, quorum, timeout_ms: 0 };
        let client = cluster.sim.request(host, request);
        (cluster, client)
    }
}

/// The name of a key.
pub fn name(key: &str) -> Name {
    Name::new(BUCKET, key.to_owned())
}

fn written(outcome: Outcome) -> Result<Written, Failure> {
    match outcome? {
        Success::Written { context, evidence } => Ok(Written { context, evidence }),
        Success::Got { .. } => panic!("a put was answered as a get"),
    }
}

fn texts(object: &Object) -> Vec<String> {
    let mut values: Vec<String> = object.siblings().map(|(data, _)| String::from_utf8_lossy(data).into_owned()).collect();
    values.sort_unstable();
    values
}
