//! `ring`: what the ring says, whether the replicas agree, and the first ring of a cluster outside Kubernetes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use dynamo_client::admin::{AdminClient, PartitionDigest};
use dynamo_core::id::{NodeId, PartitionId};
use dynamo_core::node::receipt::HandedOver;
use dynamo_core::ring::placed::Placed;
use dynamo_core::ring::{Member, Ring};
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::arguments::{Connection, seconds};
use crate::members::{self, Endpoints, Views};
use crate::output::{Format, grouped, show, table};
use crate::ring_init::{self, Plan};
use crate::stop::Stop;
use crate::{connection, ring_loss, ring_operations, ring_plan, ring_record};

/// Partitions that differ and are named; the others are counted.
const NAMED_MAX: usize = 50;
/// Between two comparisons under `--wait`.
const COMPARE_INTERVAL: Duration = Duration::from_millis(500);

/// Arguments of `ring`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct RingCommand {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Show the ring: epoch, members, what moves.
    Show,
    /// Compare the replicas of every partition.
    Verify {
        /// Seconds to wait for replicas to become equal.
        #[arg(long, default_value_t = 0, value_name = "SECONDS", value_parser = seconds())]
        wait: u64,
    },
    /// Show what a change of the members would move, and for how long. It changes nothing.
    Plan(ring_plan::PlanCommand),
    /// Make the first ring, outside Kubernetes. Give all nodes (or enough to know the others) with --endpoint.
    Init(Init),
    /// Add, remove or weigh members, and move the data. Outside Kubernetes; there this is `spec.replicas`.
    Commit(ring_operations::Commit),
    /// Show the change of members that is under way: what moved, what is left, what it waits for.
    Status {
        /// File in which rings are recorded before they are offered: one that no node holds yet is shown too. Default: as for `commit`.
        #[arg(long, value_name = "FILE")]
        record: Option<PathBuf>,
    },
    /// Let the change of members that is under way wait: nothing more begins.
    Pause(ring_operations::Writing),
    /// Go on with the change of members that is under way, after a pause or after its command was stopped.
    Resume(ring_operations::Drive),
    /// Give up the change of members that is under way, and go back to the members before it.
    Abort(ring_operations::Drive),
    /// Show the drain receipt of the node at --endpoint: that it holds nothing, and what became of the copies that it had.
    Receipt,
    /// Put a new node in the place of a member whose disk is gone for ever. Outside Kubernetes; there the operator does this.
    Replace(ring_loss::Replace),
    /// Take a member whose disk is gone for ever out of the ring; the others take over what it held. Outside Kubernetes.
    Remove(ring_loss::Loss),
}

const EXAMPLES_OF_INIT: &str = "\
Each node comes into the ring with the zone that its --zone names, and with a weight of 1.

Examples:
  dynamoctl --endpoint 10.0.0.1:7400 ring init --expect-nodes 3
  dynamoctl --endpoint 10.0.0.1:7400 ring init --expect-nodes 6 --partitions 512 --bucket-n sessions=2";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES_OF_INIT)]
struct Init {
    /// Partitions, a power of two; fixed for the cluster's life.
    #[arg(long, default_value_t = 1024, value_parser = partitions)]
    partitions: u32,
    /// Replicas of each partition.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    n: u8,
    /// A bucket whose objects have another N than the others, 1 to --n; fixed for the cluster's life. May be given more than once.
    /// With 1 an object is lost with the one disk it is on.
    #[arg(long = "bucket-n", value_name = "BUCKET=N", value_parser = bucket_n)]
    bucket_n: Vec<(Bytes, u8)>,
    /// Nodes that the ring has; it is made when exactly so many answer.
    #[arg(long, value_name = "NUMBER")]
    expect_nodes: usize,
    /// File in which the proposal is recorded first. Default: in the state folder, by the cluster's name; for
    /// the cluster of `local up`, in its folder.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Seconds to wait for the nodes.
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = seconds())]
    wait: u64,
}

/// A number of partitions: a power of two up to 65,536.
pub fn partitions(text: &str) -> Result<u32, String> {
    let number = text.parse::<u32>().map_err(|error| error.to_string())?;
    match number.is_power_of_two() && number <= 1 << dynamo_core::ring::PARTITION_BITS_MAX {
        true => Ok(number),
        false => Err("partitions are a power of two from 1 to 65536".to_owned()),
    }
}

/// A bucket and its N; the name may have an equals sign.
fn bucket_n(text: &str) -> Result<(Bytes, u8), String> {
    let n = |number: &str| number.parse().ok().filter(|n| *n > 0);
    match text.rsplit_once('=').map(|(bucket, number)| (bucket, n(number))) {
        Some((bucket, Some(n))) if !bucket.is_empty() => Ok((Bytes::copy_from_slice(bucket.as_bytes()), n)),
        _ => Err("give the bucket and its N, as in cart=2".to_owned()),
    }
}

/// Shows, verifies or makes the ring.
pub async fn run(connection: &Connection, format: Format, command: RingCommand) -> Result<(), Stop> {
    let endpoints = connection::asked(connection)?;
    match command.action.unwrap_or(Action::Show) {
        Action::Show => show_ring(format, &ring_of(members::ask(&endpoints).await?.ring)?),
        Action::Verify { wait } => verify(&endpoints, format, Duration::from_secs(wait)).await,
        Action::Plan(command) => ring_plan::run(&endpoints, format, &command).await,
        Action::Status { record } => {
            // Without a state folder nothing is recorded here.
            let record = ring_record::record_or_default(record.as_deref()).ok();
            ring_operations::status(&endpoints, format, record.as_deref()).await
        }
        Action::Commit(commit) => ring_operations::commit(&endpoints, format, &commit).await,
        Action::Receipt => receipt(&endpoints, format).await,
        Action::Pause(writing) => ring_operations::pause(&endpoints, format, &writing).await,
        Action::Resume(drive) => ring_operations::resume(&endpoints, format, &drive).await,
        Action::Abort(drive) => ring_operations::abort(&endpoints, format, &drive).await,
        Action::Replace(replace) => show_if_any(format, ring_loss::replace(&endpoints, format, &replace).await?),
        Action::Remove(loss) => show_if_any(format, ring_loss::remove(&endpoints, format, &loss).await?),
        Action::Init(init) => {
            let plan = Plan {
                partition_bits: init.partitions.ilog2() as u8,
                replication: init.n,
                bucket_n: init.bucket_n,
                expect_nodes: init.expect_nodes,
                patience: Duration::from_secs(init.wait),
                record: ring_record::record_or_default(init.record.as_deref())?,
            };
            show_ring(format, &ring_init::make_first_ring(&endpoints, &plan).await?)
        }
    }
}

fn ring_of(ring: Option<Ring>) -> Result<Ring, Stop> {
    let missing = "the cluster has no ring yet; the operator, or `dynamoctl ring init`, makes the first one";
    ring.ok_or_else(|| Stop::Failed(missing.to_owned()))
}

async fn receipt(endpoints: &Endpoints, format: Format) -> Result<(), Stop> {
    let [address] = endpoints.addresses.as_slice() else {
        return Err(Stop::Usage(format!(
            "a receipt is one node's: give its address with --endpoint, and not {} of them",
            endpoints.addresses.len()
        )));
    };
    let receipt = AdminClient::connect(address, endpoints.call_timeout).await?.drain_receipt().await?;
    let copies = |copy: &HandedOver| json!({ "partition": copy.partition.0, "epoch": copy.epoch.0, "objects": copy.objects, "root": copy.root.to_string() });
    let document = json!({
        "node": receipt.node.to_string(),
        "epoch": receipt.epoch.0,
        "ring_hash": receipt.ring_hash.to_string(),
        "handed_over": receipt.handed_over.iter().map(copies).collect::<Vec<_>>(),
    });
    let text = || {
        let (partitions, objects) = receipt.handed_over_in_all();
        let rows: Vec<Vec<String>> = receipt
            .handed_over
            .iter()
            .map(|copy| vec![copy.partition.to_string(), copy.epoch.to_string(), grouped(copy.objects), copy.root.to_string()])
            .collect();
        let held = format!(
            "{} holds nothing by ring epoch {}; {} objects of {partitions} partitions were handed over",
            receipt.node,
            receipt.epoch,
            grouped(objects)
        );
        if rows.is_empty() {
            return held;
        }
        let copies = table(&["#partition", "#to replicas of epoch", "#objects", "root of the hash tree"], rows);
        format!("{held}\n\n{copies}")
    };
    show(format, text, &document)
}

fn show_if_any(format: Format, ring: Option<Ring>) -> Result<(), Stop> {
    ring.map_or(Ok(()), |ring| show_ring(format, &ring))
}

fn show_ring(format: Format, ring: &Ring) -> Result<(), Stop> {
    let hash = ring.hash().to_string();
    show(format, || ring_text(ring, &hash), &ring_document(ring, &hash))
}

fn ring_text(ring: &Ring, hash: &str) -> String {
    let moving = ring.moving_count();
    let (count, n) = (ring.partition_count(), ring.replication);
    let state = if moving == 0 { "nothing moves".to_owned() } else { format!("{moving} partitions move") };
    let head =
        format!("ring epoch {} of cluster {}: {count} partitions, N = {n}, {state}\nhash {hash}", ring.epoch, ring.cluster);
    let own = ring.buckets.entries().map(|(bucket, n)| format!("\nbucket {}: N = {n}", bucket.escape_ascii()));
    let head = head + &own.collect::<String>();
    let replicas = count * usize::from(n);
    let rows = ring.members.iter().map(|(node, member)| {
        let held = ring.partitions_of(*node);
        let primary = ring.partitions().filter(|(_, placement)| placement.read_set().first() == Some(node)).count();
        let share = format!("{:.1} %", held as f64 * 100.0 / replicas as f64);
        vec![node.to_string(), member.zone.clone(), member.weight.to_string(), held.to_string(), primary.to_string(), share]
    });
    let lost: String = ring.lost.iter().map(|(node, since)| format!("\ndeclared lost in epoch {since}: {node}")).collect();
    format!("{head}{lost}\n\n{}", table(&["NODE", "ZONE", "#WEIGHT", "#PARTITIONS", "#AS PRIMARY", "#SHARE"], rows.collect()))
}

fn ring_document(ring: &Ring, hash: &str) -> Value {
    let names = |nodes: &[NodeId]| nodes.iter().map(ToString::to_string).collect::<Vec<_>>();
    let partition = |(id, placement): (PartitionId, Placed<'_>)| {
        let moving = placement.moving;
        json!({
            "partition": id.0,
            "n": ring.replication_of(id),
            "replicas": names(placement.replicas),
            "moving_to": moving.map(|moving| names(moving.target)),
            "stage": moving.map(|moving| format!("{:?}", moving.stage)),
        })
    };
    let member = |(node, member): (&NodeId, &Member)| {
        let partitions = ring.partitions_of(*node);
        json!({ "node": node.to_string(), "zone": member.zone, "weight": member.weight, "partitions": partitions })
    };
    json!({
        "cluster": ring.cluster.to_string(),
        "epoch": ring.epoch.0,
        "hash": hash,
        "n": ring.replication,
        "bucket_n": ring.buckets.entries().map(|(bucket, n)| (bucket.escape_ascii().to_string(), n)).collect::<BTreeMap<_, _>>(),
        "partition_count": ring.partition_count(),
        "partitions_moving": ring.moving_count(),
        "lost": names(&ring.lost.keys().copied().collect::<Vec<_>>()),
        "lost_since": ring.lost.iter().map(|(node, since)| (node.to_string(), since.0)).collect::<BTreeMap<_, _>>(),
        "members": ring.members.iter().map(member).collect::<Vec<_>>(),
        "partitions": ring.partitions().map(partition).collect::<Vec<_>>(),
    })
}

/// What the replicas' digests say.
#[derive(Debug)]
struct Comparison {
    epoch: u64,
    partitions: usize,
    copies: usize,
    objects: u64,
    different: Vec<Difference>,
    /// Replicas whose digests are not known, and why.
    silent: BTreeMap<NodeId, String>,
}

#[derive(Debug)]
struct Difference {
    partition: PartitionId,
    copies: Vec<(NodeId, PartitionDigest)>,
}

async fn verify(endpoints: &Endpoints, format: Format, wait: Duration) -> Result<(), Stop> {
    let deadline = Instant::now() + wait;
    loop {
        let compared = compare(endpoints).await;
        let equal = compared.as_ref().is_ok_and(Comparison::is_equal);
        // What makes no sense makes none later either.
        let is_over = equal || matches!(compared, Err(Stop::Usage(_))) || Instant::now() >= deadline;
        if !is_over {
            sleep(COMPARE_INTERVAL).await;
            continue;
        }
        let comparison = compared?;
        show(format, || comparison.text(), &comparison.document())?;
        return match equal {
            true => Ok(()),
            false => Err(Stop::Failed(comparison.flaw().to_owned())),
        };
    }
}

async fn compare(endpoints: &Endpoints) -> Result<Comparison, Stop> {
    let views = members::ask(endpoints).await?;
    let Views { answered, silent, ring, .. } = views;
    let ring = ring_of(ring)?;
    let asked = join_all(answered.into_iter().map(|(node, answer)| {
        let held: Vec<PartitionId> =
            ring.partitions().filter(|(_, placement)| placement.read_set().contains(&node)).map(|(id, _)| id).collect();
        async move { (node, answer.client.partition_digests(&held).await) }
    }))
    .await;
    let mut digests = BTreeMap::new();
    let replica = |node: &NodeId| ring.partitions().any(|(_, placement)| placement.read_set().contains(node));
    let mut unknown: BTreeMap<NodeId, String> =
        silent.into_iter().filter(|(node, _)| replica(node)).map(|(node, silence)| (node, silence.reason)).collect();
    for (node, answer) in asked {
        match answer {
            Ok(of_node) => {
                digests.insert(node, of_node);
            }
            Err(error) => {
                unknown.insert(node, error.to_string());
            }
        }
    }
    Ok(Comparison::of(&ring, &digests, unknown))
}

impl Comparison {
    fn of(
        ring: &Ring,
        digests: &BTreeMap<NodeId, BTreeMap<PartitionId, PartitionDigest>>,
        silent: BTreeMap<NodeId, String>,
    ) -> Self {
        let (partitions, epoch) = (ring.partition_count_of_layers(), ring.epoch.0);
        let mut comparison = Self { epoch, partitions, copies: 0, objects: 0, different: Vec::new(), silent };
        for (partition, placement) in ring.partitions() {
            let of_node = |node: &NodeId| digests.get(node)?.get(&partition).map(|digest| (*node, *digest));
            let copies: Vec<(NodeId, PartitionDigest)> = placement.read_set().iter().filter_map(of_node).collect();
            comparison.copies += copies.len();
            comparison.objects += copies.iter().map(|(_, digest)| digest.objects).max().unwrap_or(0);
            if copies.iter().map(|(_, digest)| digest.root).collect::<BTreeSet<_>>().len() > 1 {
                comparison.different.push(Difference { partition, copies });
            }
        }
        comparison
    }

    fn is_equal(&self) -> bool {
        self.different.is_empty() && self.silent.is_empty()
    }

    /// What is wrong where they are not equal.
    fn flaw(&self) -> &'static str {
        if self.different.is_empty() { "not all replicas could be compared" } else { "the replicas are not equal" }
    }

    fn text(&self) -> String {
        let counts = format!("{} copies of {} partitions", grouped(self.copies as u64), grouped(self.partitions as u64));
        if self.is_equal() {
            return format!("replicas equal: {counts} with {} objects at epoch {}", grouped(self.objects), self.epoch);
        }
        let (flaw, different) = (self.flaw(), self.different.len());
        let mut text = format!("{flaw}: {different} partitions differ ({counts} compared, epoch {})\n", self.epoch);
        for (node, reason) in &self.silent {
            text.push_str(&format!("not compared: node {node}: {reason}\n"));
        }
        let rows = self.different.iter().take(NAMED_MAX).flat_map(|difference| {
            difference.copies.iter().map(|(node, digest)| {
                let root = &digest.root.to_string()[..16];
                vec![difference.partition.to_string(), node.to_string(), grouped(digest.objects), root.to_owned()]
            })
        });
        if !self.different.is_empty() {
            text.push_str(&format!("\n{}", table(&["#PARTITION", "NODE", "#OBJECTS", "DIGEST"], rows.collect())));
        }
        if self.different.len() > NAMED_MAX {
            text.push_str(&format!("\n... and {} more partitions", self.different.len() - NAMED_MAX));
        }
        text
    }

    fn document(&self) -> Value {
        let silent = |(node, reason): (&NodeId, &String)| json!({ "node": node.to_string(), "reason": reason });
        let copy = |(node, digest): &(NodeId, PartitionDigest)| {
            let (node, digest, objects) = (node.to_string(), digest.root.to_string(), digest.objects);
            json!({ "node": node, "objects": objects, "digest": digest })
        };
        let difference = |Difference { partition, copies }: &Difference| {
            let copies: Vec<Value> = copies.iter().map(copy).collect();
            json!({ "partition": partition.0, "copies": copies })
        };
        json!({
            "equal": self.is_equal(),
            "epoch": self.epoch,
            "partitions": self.partitions,
            "copies": self.copies,
            "objects": self.objects,
            "different": self.different.iter().map(|difference| difference.partition.0).collect::<Vec<_>>(),
            "differences": self.different.iter().map(difference).collect::<Vec<_>>(),
            "not_compared": self.silent.iter().map(silent).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::double::Double;
    use dynamo_core::id::{ClusterId, Epoch};
    use dynamo_core::rebalance::{Members, first_ring, first_ring_with};
    use dynamo_core::ring::bucket_replication::BucketReplication;
    use dynamo_core::version::Digest;

    fn ring() -> Ring {
        let members: Members = (1..=3).map(|id| (NodeId([id; 16]), Member { zone: "z".to_owned(), weight: 1 })).collect();
        first_ring(ClusterId([9; 16]), 1, 3, &members).unwrap()
    }

    fn digests(root_of_the_last: u8) -> BTreeMap<NodeId, BTreeMap<PartitionId, PartitionDigest>> {
        let digest = |root| PartitionDigest { root: Digest([root; 16]), objects: 5 };
        let node = |id: u8| {
            let second = if id == 3 { root_of_the_last } else { 2 };
            (NodeId([id; 16]), BTreeMap::from([(PartitionId(0), digest(1)), (PartitionId(1), digest(second))]))
        };
        (1..=3).map(node).collect()
    }

    #[test]
    fn equal_replicas_are_one_line_and_a_difference_names_partition_and_nodes() {
        let equal = Comparison::of(&ring(), &digests(2), BTreeMap::new());
        assert_eq!(equal.text(), "replicas equal: 6 copies of 2 partitions with 10 objects at epoch 1");
        let different = Comparison::of(&ring(), &digests(3), BTreeMap::new());
        assert!(!different.is_equal() && different.text().starts_with("the replicas are not equal: 1 partitions differ"));
        assert!(different.text().contains("03030303-0303-0303-0303-030303030303"), "{}", different.text());
        let document = different.document();
        assert_eq!(document["different"], json!([1]));
        let copy = |id: u8, root: u8| {
            let (node, digest) = (NodeId([id; 16]).to_string(), Digest([root; 16]).to_string());
            json!({ "node": node, "objects": 5, "digest": digest })
        };
        let mut copies = document["differences"][0]["copies"].as_array().unwrap().clone();
        copies.sort_by_key(Value::to_string);
        let mut expected = [copy(1, 2), copy(2, 2), copy(3, 3)];
        expected.sort_by_key(Value::to_string);
        assert_eq!((&document["differences"][0]["partition"], &copies[..]), (&json!(1), &expected[..]));
    }

    #[tokio::test]
    async fn what_makes_no_sense_is_not_waited_for() {
        let other = Ring { cluster: ClusterId([8; 16]), ..ring() };
        let doubles = [Double::start(NodeId([1; 16]), ring(), 0).await, Double::start(NodeId([2; 16]), other, 0).await];
        let endpoints = Endpoints::from(doubles.map(|double| double.address.clone()).to_vec());
        let verified = verify(&endpoints, Format::Json, Duration::from_secs(3600));
        let verified = tokio::time::timeout(Duration::from_secs(60), verified).await.expect("it waits");
        assert!(matches!(verified, Err(Stop::Usage(_))), "{verified:?}");
    }

    #[test]
    fn a_document_tells_since_when_a_node_is_lost() {
        let lossy = ring().successor(|next| next.lost.extend([(NodeId([7; 16]), Epoch(2))]));
        let (document, lost) = (ring_document(&lossy, ""), NodeId([7; 16]).to_string());
        assert_eq!((&document["lost"], &document["lost_since"]), (&json!([lost]), &json!({ lost.as_str(): 2 })));
    }

    #[test]
    fn replicas_that_were_not_asked_are_not_equal() {
        let mut known = digests(2);
        known.remove(&NodeId([3; 16]));
        let silent = BTreeMap::from([(NodeId([3; 16]), "cannot connect".to_owned())]);
        let comparison = Comparison::of(&ring(), &known, silent);
        assert!(!comparison.is_equal());
        let text = comparison.text();
        assert!(text.starts_with("not all replicas could be compared: 0 ") && text.contains("not compared: node"), "{text}");
    }

    #[test]
    fn the_n_of_a_bucket_is_read_shown_and_compared_in_a_layer_of_its_own() {
        assert_eq!(bucket_n("a=b=2"), Ok((Bytes::from_static(b"a=b"), 2)));
        for wrong in ["cart", "cart=", "cart=0", "=2", "cart=two"] {
            assert!(bucket_n(wrong).is_err(), "{wrong}");
        }
        let plain = ring();
        let buckets = BucketReplication::new([bucket_n("cart=2").unwrap()], 3).unwrap();
        let ring = first_ring_with(plain.cluster, 1, 3, buckets, &plain.members).unwrap();
        assert!(ring_text(&ring, "").contains("\nbucket cart: N = 2\n"), "{}", ring_text(&ring, ""));
        let document = ring_document(&ring, "");
        assert_eq!((&document["bucket_n"], &document["partitions"][2]["n"]), (&json!({ "cart": 2 }), &json!(2)));
        let mut digests = digests(2);
        let (first, second) = (ring.placement(PartitionId(2)).replicas[0], ring.placement(PartitionId(2)).replicas[1]);
        let one = PartitionDigest { root: Digest([7; 16]), objects: 1 };
        digests.get_mut(&first).unwrap().insert(PartitionId(2), one);
        digests.get_mut(&second).unwrap().insert(PartitionId(2), one);
        assert!(Comparison::of(&ring, &digests, BTreeMap::new()).is_equal(), "the third node has none, and need not");
        digests.get_mut(&second).unwrap().insert(PartitionId(2), PartitionDigest { root: Digest([8; 16]), objects: 1 });
        assert_eq!(Comparison::of(&ring, &digests, BTreeMap::new()).document()["different"], json!([2]));
    }

    #[test]
    fn partitions_are_a_power_of_two() {
        assert_eq!(partitions("1024"), Ok(1024));
        for wrong in ["0", "3", "131072", "many"] {
            assert!(partitions(wrong).is_err(), "{wrong}");
        }
    }
}
