//! `status`: a verdict, then each node as it sees itself and as the others see it.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use dynamo_core::id::NodeId;
use dynamo_core::ring::Ring;
use serde_json::{Value, json};

use crate::arguments::Connection;
use crate::connection;
use crate::members::{self, Views};
use crate::output::{Format, cut, grouped, show, size, table};
use crate::stop::Stop;

/// An address in the table has so many characters at most: a pod's name and port, as a rule.
const ADDRESS_CHARACTERS_MAX: usize = 64;

/// Asks every node and shows what they say.
pub async fn run(connection: &Connection, format: Format) -> Result<(), Stop> {
    let views = members::ask(&connection::asked(connection)?).await?;
    let report = Report::of(&views);
    show(format, || report.text(), &report.document())
}

/// The state of a cluster, from its nodes' answers.
pub struct Report {
    healthy: bool,
    verdict: String,
    rows: Vec<Row>,
    epoch: u64,
    moving: usize,
    buckets: Vec<Vec<NodeId>>,
    /// Addresses that were named, at which nobody answers and which no node gives, and why.
    unclaimed: BTreeMap<String, String>,
}

struct Row {
    node: NodeId,
    address: String,
    zone: String,
    state: &'static str,
    reason: Option<String>,
    partitions: usize,
    /// Share of the ring's replicas, per cent.
    share: f64,
    objects: Option<u64>,
    bytes: Option<u64>,
    hints_kept: Option<u64>,
    hints_waiting: u64,
    epoch: Option<u64>,
    suspected_by: usize,
    writable: Option<bool>,
}

impl Report {
    /// What the answers amount to.
    pub fn of(views: &Views) -> Self {
        let mut waiting = BTreeMap::<NodeId, u64>::new();
        let mut suspected = BTreeMap::<NodeId, usize>::new();
        for answer in views.answered.values() {
            for (target, backlog) in &answer.status.hints {
                *waiting.entry(*target).or_default() += backlog.hints;
            }
            for (peer, _) in answer.status.peers.iter().filter(|(_, peer)| peer.suspected) {
                *suspected.entry(*peer).or_default() += 1;
            }
        }
        let nodes = views.answered.keys().chain(views.silent.keys());
        let mut rows: Vec<Row> = nodes.map(|node| row(*node, views, &waiting, &suspected)).collect();
        rows.sort_by(|a, b| (&a.zone, &a.address, a.node).cmp(&(&b.zone, &b.address, b.node)));
        let epoch = views.ring.as_ref().map_or(0, |ring| ring.epoch.0);
        let moving = views.ring.as_ref().map_or(0, |ring| ring.moving_count());
        let (healthy, verdict) = verdict(&rows, views.ring.as_ref(), moving);
        Self { healthy, verdict, rows, epoch, moving, buckets: by_buckets(views), unclaimed: views.unclaimed.clone() }
    }

    /// Where nobody answers, and why.
    pub fn of_nobody(why: String) -> Self {
        let (rows, buckets, unclaimed) = (Vec::new(), Vec::new(), BTreeMap::new());
        Self { healthy: false, verdict: why, rows, epoch: 0, moving: 0, buckets, unclaimed }
    }

    /// The nodes that treat buckets otherwise than most do.
    fn differing(&self) -> &[Vec<NodeId>] {
        self.buckets.get(1..).unwrap_or_default()
    }

    /// The verdict and a table.
    pub fn text(&self) -> String {
        let optional = |value: Option<u64>| value.map_or_else(|| "?".to_owned(), grouped);
        let cells = |row: &Row| {
            vec![
                row.node.to_string()[..8].to_owned(),
                cut(&row.address, ADDRESS_CHARACTERS_MAX),
                row.zone.clone(),
                row.state.to_owned(),
                row.partitions.to_string(),
                format!("{:.1} %", row.share),
                optional(row.objects),
                row.bytes.map_or_else(|| "?".to_owned(), size),
                grouped(row.hints_waiting),
                optional(row.epoch),
                row.suspected_by.to_string(),
            ]
        };
        let header = [
            "NODE",
            "ADDRESS",
            "ZONE",
            "STATE",
            "#PARTITIONS",
            "#SHARE",
            "#OBJECTS",
            "#SIZE",
            "#HINTS FOR IT",
            "#EPOCH",
            "#SUSPECTED BY",
        ];
        let mut text = format!("{}\n\n{}\n", self.verdict, table(&header, self.rows.iter().map(cells).collect()));
        for (row, reason) in self.rows.iter().filter_map(|row| row.reason.as_ref().map(|reason| (row, reason))) {
            text.push_str(&format!("\n{}: {reason}", &row.node.to_string()[..8]));
        }
        for reason in self.unclaimed.values() {
            text.push_str(&format!("\n{reason}; no node knows of one there"));
        }
        if let [most, others @ ..] = &self.buckets[..]
            && !others.is_empty()
        {
            let others: Vec<String> = others.iter().map(|nodes| members::list(nodes)).collect();
            text.push_str(&format!(
                "\n{}: not the `quorum` and `buckets` settings of {}; what a bucket does depends on which of them is asked: give all nodes the \
                 same, unless a change is being rolled out",
                others.join("; "),
                members::list(most)
            ));
        }
        text
    }

    /// The same for programs.
    pub fn document(&self) -> Value {
        let row = |row: &Row| {
            json!({
                "node": row.node.to_string(),
                "address": row.address,
                "zone": row.zone,
                "state": row.state,
                "reason": row.reason,
                "partitions": row.partitions,
                "share_percent": row.share,
                "objects": row.objects,
                "bytes": row.bytes,
                "hints_kept": row.hints_kept,
                "hints_waiting": row.hints_waiting,
                "epoch": row.epoch,
                "suspected_by": row.suspected_by,
                "writable": row.writable,
                "buckets_differ": self.differing().iter().any(|nodes| nodes.contains(&row.node)),
            })
        };
        let unclaimed = |(address, reason): (&String, &String)| json!({ "address": address, "reason": reason });
        json!({
            "healthy": self.healthy,
            "verdict": self.verdict,
            "epoch": self.epoch,
            "partitions_moving": self.moving,
            "nodes": self.rows.iter().map(row).collect::<Vec<_>>(),
            "unknown_endpoints": self.unclaimed.iter().map(unclaimed).collect::<Vec<_>>(),
        })
    }
}

fn row(node: NodeId, views: &Views, waiting: &BTreeMap<NodeId, u64>, suspected: &BTreeMap<NodeId, usize>) -> Row {
    let ring = views.ring.as_ref();
    let member = ring.and_then(|ring| ring.members.get(&node));
    let partitions = ring.map_or(0, |ring| ring.partitions_of(node));
    let replicas: usize = ring.map_or(0, |ring| ring.partition_count() * usize::from(ring.replication));
    let mut row = Row {
        node,
        address: "?".to_owned(),
        zone: member.map_or_else(|| "?".to_owned(), |member| member.zone.clone()),
        state: "silent",
        reason: None,
        partitions,
        share: if replicas == 0 { 0.0 } else { partitions as f64 * 100.0 / replicas as f64 },
        objects: None,
        bytes: None,
        hints_kept: None,
        hints_waiting: waiting.get(&node).copied().unwrap_or_default(),
        epoch: None,
        suspected_by: suspected.get(&node).copied().unwrap_or_default(),
        writable: None,
    };
    if let Some(answer) = views.answered.get(&node) {
        let status = &answer.status;
        row.address = status.client_address.clone();
        row.zone = status.zone.clone();
        row.writable = Some(status.writable);
        if !status.writable {
            row.reason =
                Some("its disk is nearly full and it refuses writes; free space there, or give it a larger disk".to_owned());
        }
        row.state = match (status.ready, member.map(|member| member.weight)) {
            (false, _) => "not ready",
            (true, _) if !status.writable => "full",
            (true, None) => "standby",
            (true, Some(0)) => "leaving",
            (true, Some(_)) => "active",
        };
        row.objects = Some(status.objects);
        row.bytes = Some(status.bytes);
        row.hints_kept = Some(status.hints.values().map(|backlog| backlog.hints).sum());
        row.epoch = Some(status.epoch.0);
    } else if let Some(silence) = views.silent.get(&node) {
        row.address = silence.address.clone().unwrap_or_else(|| "?".to_owned());
        row.reason = Some(silence.reason.clone());
        if ring.is_some() && member.is_none() {
            row.state = "gone";
            row.reason = Some("does not answer and is no member; the others forget it after a minute".to_owned());
        }
    }
    if let Some(since) = ring.and_then(|ring| ring.lost.get(&node)) {
        row.state = "lost";
        row.reason =
            Some(format!("declared lost in epoch {since} and fenced; to use its machine again, wipe the data directory"));
    }
    row
}

/// The nodes that answered, by how they treat buckets; those that do as most do come first. Who does not say is left out.
fn by_buckets(views: &Views) -> Vec<Vec<NodeId>> {
    let mut groups = BTreeMap::<u64, Vec<NodeId>>::new();
    for (node, answer) in &views.answered {
        if let Some(digest) = answer.status.buckets_digest {
            groups.entry(digest).or_default().push(*node);
        }
    }
    let mut groups: Vec<Vec<NodeId>> = groups.into_values().collect();
    groups.sort_by_key(|nodes| (Reverse(nodes.len()), nodes.clone()));
    groups
}

fn verdict(rows: &[Row], ring: Option<&Ring>, moving: usize) -> (bool, String) {
    let answering = rows.iter().filter(|row| row.epoch.is_some()).count();
    let Some(ring) = ring else {
        let all = format!("{answering} of {} nodes answer", rows.len());
        return (false, format!("no ring: {all}; the operator, or `dynamoctl ring init`, makes the first one"));
    };
    let hints: u64 = rows.iter().map(|row| row.hints_waiting).sum();
    let behind = rows.iter().filter(|row| row.epoch.is_some_and(|epoch| epoch != ring.epoch.0)).count();
    let mut problems = Vec::new();
    let count = |state| rows.iter().filter(|row| row.state == state).count();
    for (number, what) in [
        (count("silent"), "do not answer"),
        (count("not ready"), "are not ready"),
        (
            rows.iter().filter(|row| !matches!(row.state, "silent" | "gone") && row.suspected_by > 0).count(),
            "are suspected by others",
        ),
        (behind, "have another epoch"),
        (
            rows.iter().filter(|row| row.state != "lost" && row.writable == Some(false)).count(),
            "refuse writes (disk nearly full)",
        ),
    ] {
        if number > 0 {
            problems.push(format!("{number} {what}"));
        }
    }
    let expected = rows.len() - count("gone");
    let mut parts = vec![format!("{answering} of {expected} nodes answer"), format!("epoch {}", ring.epoch)];
    parts.extend(problems.iter().cloned());
    parts.push(if moving == 0 {
        "nothing moves".to_owned()
    } else {
        format!("{moving} of {} partitions move", ring.partition_count())
    });
    parts.push(if hints == 0 { "no hints wait".to_owned() } else { format!("{} hints wait", grouped(hints)) });
    let healthy = problems.is_empty();
    (healthy, format!("{}: {}", if healthy { "healthy" } else { "degraded" }, parts.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::double::Double;
    use crate::members::{Endpoints, Silence};
    use dynamo_core::id::ClusterId;
    use dynamo_core::rebalance::{Members, first_ring};
    use dynamo_core::ring::Member;

    fn views() -> Views {
        let members: Members = (1..=3).map(|id| (NodeId([id; 16]), Member { zone: "zone-a".to_owned(), weight: 1 })).collect();
        let ring = first_ring(ClusterId([9; 16]), 6, 3, &members).unwrap();
        let silence = |id: u8| {
            let address = Some(format!("127.0.0.1:74{id}0"));
            (NodeId([id; 16]), Silence { address, reason: "cannot connect: connection refused".to_owned() })
        };
        let silent = (1..=3).map(silence).collect();
        Views { cluster: ring.cluster, ring: Some(ring), answered: BTreeMap::new(), silent, unclaimed: BTreeMap::new() }
    }

    #[test]
    fn a_node_that_does_not_answer_is_silent_and_not_gone() {
        insta::assert_snapshot!(Report::of(&views()).text(), @r"
        degraded: 0 of 3 nodes answer, epoch 1, 3 do not answer, nothing moves, no hints wait

        NODE      ADDRESS         ZONE    STATE   PARTITIONS   SHARE  OBJECTS  SIZE  HINTS FOR IT  EPOCH  SUSPECTED BY
        01010101  127.0.0.1:7410  zone-a  silent          64  33.3 %        ?     ?             0      ?             0
        02020202  127.0.0.1:7420  zone-a  silent          64  33.3 %        ?     ?             0      ?             0
        03030303  127.0.0.1:7430  zone-a  silent          64  33.3 %        ?     ?             0      ?             0

        01010101: cannot connect: connection refused
        02020202: cannot connect: connection refused
        03030303: cannot connect: connection refused
        ");
    }

    #[test]
    fn a_document_has_the_same_fields_though_nobody_answers() {
        let fields = |report: Report| report.document().as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let nobody = Report::of_nobody("no node answers".to_owned());
        assert_eq!(
            (nobody.document()["healthy"].as_bool(), nobody.document()["verdict"].as_str()),
            (Some(false), Some("no node answers"))
        );
        assert_eq!(fields(nobody), fields(Report::of(&views())));
    }

    #[test]
    fn a_long_address_is_cut_in_the_table_and_whole_for_programs() {
        let mut views = views();
        let long = format!("{}:7400", "a".repeat(500));
        views.silent.values_mut().next().unwrap().address = Some(long.clone());
        let report = Report::of(&views);
        let widest =
            report.text().lines().skip_while(|line| !line.starts_with("NODE")).take(4).map(|line| line.chars().count()).max();
        assert!(widest < Some(180), "{}", report.text());
        assert!(report.text().contains("aaa…"));
        assert!(report.document()["nodes"].as_array().unwrap().iter().any(|node| node["address"] == json!(long)));
    }

    #[tokio::test]
    async fn a_cluster_whose_nodes_refuse_writes_is_not_healthy() {
        let mut doubles = Vec::new();
        for id in 1..=3 {
            doubles.push(Double::start(NodeId([id; 16]), views().ring.unwrap(), 0).await);
        }
        let endpoints = Endpoints::from(doubles.iter().map(|double| double.address.clone()).collect::<Vec<_>>());
        let report = async || Report::of(&members::ask(&endpoints).await.unwrap());
        assert_eq!(report().await.document()["healthy"], json!(true));
        doubles[1..].iter().for_each(|double| double.state().is_full = true);
        let report = report().await;
        let (text, document) = (report.text(), report.document());
        assert!(text.starts_with("degraded: ") && text.contains(", 2 refuse writes (disk nearly full), "), "{text}");
        assert!(text.contains("\n02020202: its disk is nearly full"), "{text}");
        assert_eq!(document["healthy"], json!(false));
        let state = |row: &Value| (row["node"].to_string(), (row["state"].to_string(), row["writable"].as_bool()));
        let states: BTreeMap<_, _> = document["nodes"].as_array().unwrap().iter().map(state).collect();
        let states: Vec<_> = states.values().map(|(state, writable)| (state.trim_matches('"'), *writable)).collect();
        assert_eq!(states, [("active", Some(true)), ("full", Some(false)), ("full", Some(false))]);
    }

    #[tokio::test]
    async fn an_address_that_was_named_and_that_nobody_knows_of_is_told_though_others_answer() {
        let double = Double::start(NodeId([1; 16]), views().ring.unwrap(), 0).await;
        let unknown = "127.0.0.1:1".to_owned();
        let report = Report::of(&members::ask(&Endpoints::from(vec![double.address.clone(), unknown.clone()])).await.unwrap());
        assert!(report.text().contains(&format!("\n{unknown}: cannot connect")), "{}", report.text());
        let told = &report.document()["unknown_endpoints"];
        assert_eq!((told.as_array().map(Vec::len), &told[0]["address"]), (Some(1), &json!(unknown)), "{told}");
        assert!(told[0]["reason"].as_str().unwrap().contains("cannot connect"), "{told}");
    }

    #[tokio::test]
    async fn nodes_that_treat_buckets_otherwise_than_most_are_named() {
        let mut doubles = Vec::new();
        for id in 1..=4 {
            doubles.push(Double::start(NodeId([id; 16]), views().ring.unwrap(), 0).await);
        }
        let endpoints = Endpoints::from(doubles.iter().map(|double| double.address.clone()).collect::<Vec<_>>());
        let report = async |digests: [u64; 4]| {
            doubles.iter().zip(digests).for_each(|(double, digest)| double.state().buckets_digest = digest);
            Report::of(&members::ask(&endpoints).await.unwrap())
        };
        for same in [[7, 7, 7, 7], [0, 7, 7, 0], [0; 4]] {
            let report = report(same).await;
            assert!(!report.text().contains("`buckets`"), "{}", report.text());
            assert!(report.document()["nodes"].as_array().unwrap().iter().all(|node| node["buckets_differ"] == json!(false)));
        }
        let report = report([9, 7, 7, 0]).await;
        let told = "01010101: not the `quorum` and `buckets` settings of 02020202, 03030303; ";
        assert!(report.text().contains(told), "{}", report.text());
        let differ: Vec<Value> = report.document()["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|node| node["buckets_differ"] == json!(true))
            .cloned()
            .collect();
        assert_eq!((differ.len(), &differ[0]["node"]), (1, &json!(NodeId([1; 16]).to_string())));
    }

    #[test]
    fn a_silent_node_that_is_no_member_is_gone_and_no_problem() {
        let mut views = views();
        let others = views.silent.clone();
        views.ring.as_mut().unwrap().members.clear();
        let document = Report::of(&views).document();
        assert_eq!((&document["healthy"], &document["nodes"][0]["state"]), (&json!(true), &json!("gone")), "{document}");
        views = Views { ring: None, silent: others, ..views };
        assert_eq!(Report::of(&views).document()["nodes"][0]["state"], json!("silent"), "without a ring nobody knows");
    }

    #[test]
    fn without_a_ring_the_verdict_says_who_makes_it() {
        let views = Views { ring: None, ..views() };
        let document = Report::of(&views).document();
        assert_eq!(document["healthy"], json!(false));
        assert!(document["verdict"].as_str().unwrap().contains("dynamoctl ring init"), "{document}");
    }
}
