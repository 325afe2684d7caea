//! What `ring plan` prints: the sum of it, what it rests on, and each node's part.

use std::collections::BTreeMap;

use dynamo_core::id::NodeId;
use dynamo_core::ring::{Member, Placement};
use serde_json::{Value, json};

use super::{Fill, Outlook, Size};
use crate::output::{grouped, size, table};

/// One node's part in the plan.
#[derive(Default)]
struct Part {
    before: usize,
    after: usize,
    primaries: usize,
    replicas_in: u64,
    replicas_out: u64,
    bytes_in: u64,
    bytes_out: u64,
}

impl Outlook {
    /// For people.
    pub(super) fn text(&self) -> String {
        let mut lines = vec![self.head()];
        if self.under_way > 0 {
            let under_way = self.under_way;
            lines.push(format!(
                "{under_way} partitions are on the move; this begins where they will have arrived (moves that other members make \
                 useless are taken back instead)"
            ));
        }
        let parts = self.parts();
        match &self.verdict {
            Ok(proof) => {
                let moves = grouped(proof.moves);
                let all = self.placements.len() * self.placements.first().map_or(0, |placement| placement.replicas.len());
                let share = proof.moves as f64 * 100.0 / (all as f64).max(1.0);
                lines.push(format!(
                    "moves        {moves} of {} replicas ({share:.1} %), lower bound {}",
                    grouped(all as u64),
                    grouped(proof.lower_bound)
                ));
                lines.push("certificate  verified: balanced, and no balanced plan moves fewer".to_owned());
                lines.push(format!("primaries    {} change", grouped(proof.new_primaries)));
            }
            Err(flaw) => lines.push(format!("certificate  NOT verified: {flaw}")),
        }
        lines.push(format!("bytes        {}", self.bytes_text()));
        lines.push(format!("time         {}", self.time_text(&parts)));
        for (node, reason) in &self.sizes.unknown {
            lines.push(format!("size not known: {}: {reason}", self.name(node)));
        }
        let bytes = |bytes: u64| if self.bytes().is_some() { size(bytes) } else { "?".to_owned() };
        let row = |(node, part): (&NodeId, &Part)| {
            let member = self.member(node);
            vec![
                self.name(node),
                member.zone.clone(),
                self.after.get(node).map_or_else(|| "leaves".to_owned(), |member| member.weight.to_string()),
                part.before.to_string(),
                part.after.to_string(),
                part.primaries.to_string(),
                part.replicas_in.to_string(),
                part.replicas_out.to_string(),
                bytes(part.bytes_in),
                bytes(part.bytes_out),
            ]
        };
        let header = ["NODE", "ZONE", "#WEIGHT", "#BEFORE", "#AFTER", "#AS PRIMARY", "#IN", "#OUT", "#BYTES IN", "#BYTES OUT"];
        format!("{}\n\n{}\n\nnothing was changed", lines.join("\n"), table(&header, parts.iter().map(row).collect()))
    }

    fn head(&self) -> String {
        let (before, after) = (self.before.len(), self.after.len());
        format!("plan from ring epoch {} of cluster {}: {before} to {after} members", self.epoch, self.cluster)
    }

    fn bytes_text(&self) -> String {
        let Some(Size { objects, bytes }) = self.bytes() else { return "not known: no source says what it holds".to_owned() };
        let guessed = self.fills.iter().filter(|fill| fill.from.iter().any(|from| self.sizes.unknown.contains_key(from))).count();
        let guessed = match guessed {
            0 => String::new(),
            guessed => format!(", with the mean for {guessed} replicas whose source does not say"),
        };
        format!(
            "about {} in {} objects\n             (each source's objects of the partition, times the mean size of an object on it{guessed})",
            size(bytes),
            grouped(objects)
        )
    }

    fn time_text(&self, parts: &BTreeMap<NodeId, Part>) -> String {
        let Some((shortest, longest)) = self.seconds(parts) else { return "not known".to_owned() };
        let busiest = size(busiest(parts));
        let (least, most) = (size(self.rate.0), size(self.rate.1));
        let time = match shortest == longest {
            true => duration(longest),
            false => format!("{} to {}", duration(shortest), duration(longest)),
        };
        let rate = match self.rate.0 == self.rate.1 {
            true => format!("{most} a second"),
            false => format!(
                "{most} a second while clients see no harm, {least} while they do\n             (the default cap and floor of the \
                 background budget; --bytes-per-second for yours)"
            ),
        };
        format!("{time}, for {busiest} to or from the busiest node\n             at {rate}")
    }

    /// All that is sent; `None` if no source says what it holds, though something moves.
    fn bytes(&self) -> Option<Size> {
        let mut sum = Size::default();
        for fill in &self.fills {
            for from in &fill.from {
                let size = self.sizes.of(*from, fill.partition)?;
                sum = Size { objects: sum.objects + size.objects, bytes: sum.bytes + size.bytes };
            }
        }
        Some(sum)
    }

    /// At the highest and at the lowest rate.
    fn seconds(&self, parts: &BTreeMap<NodeId, Part>) -> Option<(u64, u64)> {
        self.bytes()?;
        let busiest = busiest(parts);
        Some((busiest.div_ceil(self.rate.1), busiest.div_ceil(self.rate.0)))
    }

    fn parts(&self) -> BTreeMap<NodeId, Part> {
        let members = self.before.keys().chain(self.after.keys());
        let mut parts: BTreeMap<NodeId, Part> = members.map(|node| (*node, Part::default())).collect();
        for Placement { replicas, moving } in &self.placements {
            let target = moving.as_ref().map_or(replicas, |moving| &moving.target);
            replicas.iter().for_each(|node| parts.entry(*node).or_default().before += 1);
            target.iter().for_each(|node| parts.entry(*node).or_default().after += 1);
            target.iter().take(1).for_each(|node| parts.entry(*node).or_default().primaries += 1);
        }
        for Fill { partition, to, from } in &self.fills {
            parts.entry(*to).or_default().replicas_in += 1;
            for source in from {
                let bytes = self.sizes.of(*source, *partition).unwrap_or_default().bytes;
                parts.entry(*to).or_default().bytes_in += bytes;
                let part = parts.entry(*source).or_default();
                part.replicas_out += 1;
                part.bytes_out += bytes;
            }
        }
        parts
    }

    fn member(&self, node: &NodeId) -> Member {
        let gone = Member { zone: "?".to_owned(), weight: 0 };
        self.after.get(node).or_else(|| self.before.get(node)).cloned().unwrap_or(gone)
    }

    fn name(&self, node: &NodeId) -> String {
        self.supposed.get(node).cloned().unwrap_or_else(|| node.to_string())
    }

    /// For programs.
    pub(super) fn document(&self) -> Value {
        let parts = self.parts();
        let bytes = self.bytes();
        let known = |value: u64| bytes.map(|_| value);
        let node = |(node, part): (&NodeId, &Part)| {
            json!({
                "node": self.name(node),
                "zone": self.member(node).zone,
                "weight": self.after.get(node).map(|member| member.weight),
                "exists": !self.supposed.contains_key(node),
                "leaves": !self.after.contains_key(node),
                "replicas_before": part.before,
                "replicas_after": part.after,
                "primaries_after": part.primaries,
                "replicas_in": part.replicas_in,
                "replicas_out": part.replicas_out,
                "bytes_in": known(part.bytes_in),
                "bytes_out": known(part.bytes_out),
            })
        };
        let fill = |Fill { partition, to, from }: &Fill| {
            let from: Vec<String> = from.iter().map(|from| self.name(from)).collect();
            json!({ "partition": partition.0, "to": self.name(to), "from": from })
        };
        let proof = self.verdict.as_ref().ok();
        let seconds = self.seconds(&parts);
        json!({
            "cluster": self.cluster,
            "epoch": self.epoch,
            "partitions_under_way": self.under_way,
            "moves": proof.map(|proof| proof.moves),
            "lower_bound": proof.map(|proof| proof.lower_bound),
            "primaries_changed": proof.map(|proof| proof.new_primaries),
            "certificate_verified": proof.is_some(),
            "flaw": self.verdict.as_ref().err().map(ToString::to_string),
            "bytes": bytes.map(|size| size.bytes),
            "objects": bytes.map(|size| size.objects),
            "bytes_are": "each source's objects of the partition, times the mean size of an object on that source",
            "seconds_min": seconds.map(|(shortest, _)| shortest),
            "seconds_max": seconds.map(|(_, longest)| longest),
            "seconds_are": "bytes to or from the busiest node, at the rates of bytes_per_second_max and _min",
            "bytes_per_second_min": self.rate.0,
            "bytes_per_second_max": self.rate.1,
            "size_not_known": self.sizes.unknown.iter().map(|(node, reason)| json!({ "node": self.name(node), "reason": reason }))
                .collect::<Vec<_>>(),
            "nodes": parts.iter().map(node).collect::<Vec<_>>(),
            "fills": self.fills.iter().map(fill).collect::<Vec<_>>(),
        })
    }
}

fn busiest(parts: &BTreeMap<NodeId, Part>) -> u64 {
    parts.values().map(|part| part.bytes_in.max(part.bytes_out)).max().unwrap_or(0)
}

/// Seconds in the unit that people would use.
fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{:.1} h", seconds as f64 / 3_600.0),
    }
}
