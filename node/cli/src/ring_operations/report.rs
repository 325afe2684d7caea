//! `ring status`: what is under way, what is done of it, what is left, and what it waits for; for people and for programs.

use std::collections::BTreeMap;

use dynamo_core::id::{Epoch, NodeId};
use dynamo_core::rebalance::batches::{Left, Limits, left};
use dynamo_core::rebalance::{Members, Next, operation};
use dynamo_core::ring::{Operation, Ring, Stage};
use serde_json::{Value, json};

use crate::members::{Answer, Views, heard, list};
use crate::output::{grouped, size, table};
use crate::ring_writer::decides;
use crate::stop::Stop;

/// One look at an operation.
#[derive(Debug)]
pub struct Report {
    epoch: Epoch,
    operation: Option<Operation>,
    partitions_moving: usize,
    reads_from_new: usize,
    left: Left,
    bytes_left: u64,
    waits_for: String,
    /// The ring that is recorded here, if no node holds it yet.
    recorded: Option<Epoch>,
    nodes: Vec<Row>,
}

/// One node's part.
#[derive(Debug)]
struct Row {
    node: NodeId,
    role: &'static str,
    partitions: usize,
    receives: usize,
    sends: usize,
    /// In the moves that are under way.
    objects_sent: u64,
    bytes_sent: u64,
    /// What it still sends, by the size of its partitions on average.
    bytes_left: u64,
}

impl Report {
    pub fn of(views: &Views, recorded: Option<&Ring>) -> Result<Self, Stop> {
        let missing = "the cluster has no ring yet; the operator, or `dynamoctl ring init`, makes the first one";
        let ring = views.ring.as_ref().ok_or_else(|| Stop::Failed(missing.to_owned()))?;
        let recorded = recorded.filter(|recorded| recorded.epoch > ring.epoch);
        let wanted = operation::wanted(ring);
        let left = left(ring, &wanted).map_err(|error| Stop::Failed(error.to_string()))?;
        let all = ring.members.keys().chain(wanted.keys().filter(|node| !ring.members.contains_key(node)));
        let nodes: Vec<Row> = all.map(|node| row(*node, ring, &wanted, &left, views.answered.get(node))).collect();
        Ok(Self {
            epoch: ring.epoch,
            operation: ring.operation.clone(),
            partitions_moving: ring.moving_count(),
            reads_from_new: ring.moving().filter(|(_, _, moving)| moving.stage == Stage::WriteBothReadNew).count(),
            bytes_left: nodes.iter().map(|row| row.bytes_left).sum(),
            left,
            waits_for: recorded.map_or_else(|| waits_for(ring, views), |recorded| waits_to_be_taken(recorded, views)),
            recorded: recorded.map(|recorded| recorded.epoch),
            nodes,
        })
    }

    fn copies_made(&self) -> u64 {
        self.operation.as_ref().map_or(0, |operation| operation.copies.saturating_sub(self.left.copies as u64))
    }

    fn state(&self) -> &'static str {
        match &self.operation {
            None => "none",
            Some(Operation { paused: true, .. }) => "paused",
            Some(Operation { aborted: true, .. }) => "going back",
            Some(_) => "under way",
        }
    }

    pub fn text(&self) -> String {
        let mut text = match &self.operation {
            None => format!("no operation is under way; ring epoch {}\n", self.epoch),
            Some(operation) => format!(
                "operation {} is {}; ring epoch {}\n{}copies: {} of {} made, {} left, about {} to be sent\n",
                operation.since,
                self.state(),
                self.epoch,
                changes(operation),
                grouped(self.copies_made()),
                grouped(operation.copies),
                grouped(self.left.copies as u64),
                size(self.bytes_left)
            ),
        };
        if self.partitions_moving > 0 || self.left.partitions > 0 {
            text.push_str(&format!(
                "partitions: {} left, {} of them move now, of which {} are read from the new replicas\n",
                grouped(self.left.partitions as u64),
                grouped(self.partitions_moving as u64),
                grouped(self.reads_from_new as u64)
            ));
        }
        text.push_str(&format!("{}\n\n", self.waits_for));
        let rows = self.nodes.iter().map(|row| {
            let figures = [row.partitions, row.receives, row.sends].map(|figure| grouped(figure as u64));
            let sent = [grouped(row.objects_sent), size(row.bytes_sent), size(row.bytes_left)];
            [vec![row.node.to_string(), row.role.to_owned()], figures.to_vec(), sent.to_vec()].concat()
        });
        let header = ["NODE", "ROLE", "#PARTITIONS", "#RECEIVES", "#SENDS", "#SENT NOW", "#BYTES", "#BYTES LEFT"];
        text + &table(&header, rows.collect())
    }

    pub fn document(&self) -> Value {
        let ids = |members: &Members| members.keys().map(ToString::to_string).collect::<Vec<_>>();
        let weights = |members: &Members| {
            members.iter().map(|(node, member)| (node.to_string(), member.weight)).collect::<BTreeMap<_, _>>()
        };
        let operation = self.operation.as_ref().map(|operation| {
            json!({
                "id": operation.since.0,
                "paused": operation.paused,
                "aborted": operation.aborted,
                "members_before": ids(&operation.before),
                "members_wanted": ids(&operation.wanted),
                "weights_before": weights(&operation.before),
                "weights_wanted": weights(&operation.wanted),
                "copies_planned": operation.copies,
                "copies_made": self.copies_made(),
            })
        });
        let row = |row: &Row| {
            json!({
                "node": row.node.to_string(), "role": row.role, "partitions": row.partitions, "receives": row.receives,
                "sends": row.sends, "objects_sent": row.objects_sent, "bytes_sent": row.bytes_sent, "bytes_left": row.bytes_left,
            })
        };
        json!({
            "epoch": self.epoch.0,
            "state": self.state(),
            "operation": operation,
            "partitions_moving": self.partitions_moving,
            "partitions_read_from_new": self.reads_from_new,
            "partitions_left": self.left.partitions,
            "copies_left": self.left.copies,
            "bytes_left": self.bytes_left,
            "waits_for": self.waits_for,
            "recorded_epoch": self.recorded.map(|epoch| epoch.0),
            "nodes": self.nodes.iter().map(row).collect::<Vec<_>>(),
        })
    }
}

fn row(node: NodeId, ring: &Ring, wanted: &Members, left: &Left, answer: Option<&Answer>) -> Row {
    let of = |loads: &BTreeMap<NodeId, usize>| loads.get(&node).copied().unwrap_or(0);
    let role = match (ring.members.contains_key(&node), wanted.contains_key(&node)) {
        _ if ring.is_lost(node) => "lost",
        // It is in the ring from the first move to it on.
        (true, true) if ring.operation.as_ref().is_some_and(|operation| !operation.before.contains_key(&node)) => "joins",
        (true, true) => "stays",
        (false, _) => "joins",
        (true, false) => "leaves",
    };
    let transfers = answer.map_or(&[][..], |answer| &answer.status.transfers[..]);
    let held = answer.map_or(0, |answer| u64::from(answer.status.partitions + answer.status.foreign_partitions));
    let bytes = answer.map_or(0, |answer| answer.status.bytes);
    let sent: u64 = transfers.iter().map(|transfer| transfer.bytes_sent).sum();
    let whole = (bytes * of(&left.sent) as u64).checked_div(held).unwrap_or(0);
    Row {
        node,
        role,
        partitions: ring.partitions_of(node),
        receives: of(&left.loads.receive),
        sends: of(&left.loads.send),
        objects_sent: transfers.iter().map(|transfer| transfer.objects_sent).sum(),
        bytes_sent: sent,
        bytes_left: whole.saturating_sub(sent),
    }
}

/// "  joins: ...", one line for each kind of change.
fn changes(operation: &Operation) -> String {
    let Operation { before, wanted, .. } = operation;
    let joins: Vec<NodeId> = wanted.keys().filter(|node| !before.contains_key(node)).copied().collect();
    let leaves: Vec<NodeId> = before.keys().filter(|node| !wanted.contains_key(node)).copied().collect();
    let weighed: Vec<NodeId> = wanted
        .iter()
        .filter(|(node, member)| before.get(node).is_some_and(|was| was != *member))
        .map(|(node, _)| *node)
        .collect();
    let lines = [("joins", joins), ("leaves", leaves), ("has another weight", weighed)];
    let named = |nodes: &[NodeId]| nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    lines.iter().filter(|(_, nodes)| !nodes.is_empty()).map(|(what, nodes)| format!("  {what}: {}\n", named(nodes))).collect()
}

fn waits_to_be_taken(recorded: &Ring, views: &Views) -> String {
    let operation = recorded.operation.as_ref().map(|operation| format!(" (operation {})", operation.since));
    let first = decides(recorded, views, &[]).map(|first| {
        let silent = if views.answered.contains_key(&first) { "" } else { " and does not answer" };
        format!(": waits for {}, which takes each ring first{silent}", list(&[first]))
    });
    format!(
        "recorded here and held by no node yet: ring epoch {}{}{}; `dynamoctl ring resume` offers it again",
        recorded.epoch,
        operation.unwrap_or_default(),
        first.unwrap_or_default()
    )
}

fn waits_for(ring: &Ring, views: &Views) -> String {
    match operation::next(ring, &heard(views), &Limits::default()) {
        Err(error) => format!("cannot go on: {error}"),
        Ok(None) => "waits for `dynamoctl ring resume`".to_owned(),
        Ok(Some(Next::Settled)) => "all nodes hold the ring, and nothing is left to move".to_owned(),
        Ok(Some(Next::Propose(next))) => {
            format!("ready for ring epoch {}: waits for its writer (`dynamoctl ring resume`)", next.epoch)
        }
        Ok(Some(Next::AwaitEpoch(nodes))) => format!("waits for {} to hold ring epoch {}", list(&nodes), ring.epoch),
        Ok(Some(Next::AwaitData { received, moving, waiting_for })) => {
            format!("waits for data: {received} of {moving} replicas are filled; {} still receive", list(&waiting_for))
        }
        Ok(Some(Next::AwaitReceipts(nodes))) => format!("waits for the drain receipts of {}", list(&nodes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_core::id::ClusterId;
    use dynamo_core::rebalance::first_ring;
    use dynamo_core::ring::Member;

    fn members(count: u8) -> Members {
        (1..=count).map(|id| (NodeId([id; 16]), Member { zone: "z".to_owned(), weight: 1 })).collect()
    }

    fn views(ring: Ring) -> Views {
        let (answered, silent, unclaimed) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Views { cluster: ring.cluster, ring: Some(ring), answered, silent, unclaimed }
    }

    #[test]
    fn an_operation_is_told_with_who_joins_what_is_left_and_what_it_waits_for() {
        let ring = first_ring(ClusterId([9; 16]), 4, 3, &members(3)).unwrap();
        let begun = operation::begun(&ring, &members(4)).unwrap();
        let report = Report::of(&views(begun), None).unwrap();
        insta::assert_snapshot!(report.text(), @r"
        operation 2 is under way; ring epoch 2
          joins: 04040404-0404-0404-0404-040404040404
        copies: 0 of 12 made, 12 left, about 0 B to be sent
        partitions: 12 left, 0 of them move now, of which 0 are read from the new replicas
        waits for 01010101, 02020202, 03030303 to hold ring epoch 2

        NODE                                  ROLE   PARTITIONS  RECEIVES  SENDS  SENT NOW  BYTES  BYTES LEFT
        01010101-0101-0101-0101-010101010101  stays          16         0      4         0    0 B         0 B
        02020202-0202-0202-0202-020202020202  stays          16         0      4         0    0 B         0 B
        03030303-0303-0303-0303-030303030303  stays          16         0      4         0    0 B         0 B
        04040404-0404-0404-0404-040404040404  joins           0        12      0         0    0 B         0 B
        ");
        assert_eq!(report.document()["copies_left"], json!(12));
        assert_eq!(report.document()["operation"]["id"], json!(2));
    }

    #[test]
    fn an_operation_that_changes_a_weight_alone_tells_it_to_programs_too() {
        let ring = first_ring(ClusterId([9; 16]), 4, 3, &members(4)).unwrap();
        let (node, mut wanted) = (NodeId([2; 16]), members(4));
        wanted.entry(node).and_modify(|member| member.weight = 3);
        let report = Report::of(&views(operation::begun(&ring, &wanted).unwrap()), None).unwrap();
        assert!(report.text().contains("has another weight: 02020202"), "{}", report.text());
        let (operation, node) = (report.document()["operation"].clone(), node.to_string());
        assert_eq!((&operation["weights_before"][&node], &operation["weights_wanted"][&node]), (&json!(1), &json!(3)));
    }

    #[test]
    fn a_node_that_receives_its_first_partitions_joins() {
        let ring = first_ring(ClusterId([9; 16]), 4, 3, &members(3)).unwrap();
        let begun = operation::begun(&ring, &members(4)).unwrap();
        let moves = begun.successor(|next| next.members = members(4));
        let nodes = Report::of(&views(moves), None).unwrap().document()["nodes"].clone();
        assert_eq!((&nodes[2]["role"], &nodes[3]["role"]), (&json!("stays"), &json!("joins")), "{nodes}");
    }

    #[test]
    fn without_an_operation_the_ring_is_said_to_be_at_rest_or_not() {
        let ring = first_ring(ClusterId([9; 16]), 4, 3, &members(3)).unwrap();
        let text = Report::of(&views(ring), None).unwrap().text();
        assert!(text.starts_with("no operation is under way; ring epoch 1\nwaits for "), "{text}");
    }

    #[test]
    fn a_ring_that_is_recorded_and_that_no_node_holds_is_shown_with_whom_it_waits_for() {
        let ring = first_ring(ClusterId([9; 16]), 4, 3, &members(3)).unwrap();
        let begun = operation::begun(&ring, &members(4)).unwrap();
        let report = Report::of(&views(ring), Some(&begun)).unwrap();
        let text = report.text();
        assert!(text.starts_with("no operation is under way; ring epoch 1\n"), "{text}");
        let expected = "recorded here and held by no node yet: ring epoch 2 (operation 2): waits for 01010101, which takes each ring \
                        first and does not answer; `dynamoctl ring resume` offers it again";
        assert!(text.contains(expected), "{text}");
        assert_eq!(report.document()["recorded_epoch"], json!(2));
        let held = Report::of(&views(begun.clone()), Some(&begun)).unwrap();
        assert_eq!(held.document()["recorded_epoch"], json!(null));
    }
}
