//! Whether the other nodes treat buckets as this one does, told in the log: once of each node and each of its settings.
//!
//! What a bucket does depends on who is asked while they differ: nothing is lost, but siblings show where the last writer should win, and
//! fewer replicas are asked than somebody relies on. While a change of the configuration is rolled out they differ for a while, so it is told
//! and nothing is refused.

use std::collections::BTreeMap;

use dynamo_core::id::NodeId;
use tracing::{info, warn};

/// What was told.
#[derive(Debug, Default)]
pub struct Agreement {
    told: BTreeMap<NodeId, u64>,
}

impl Agreement {
    /// These differ now.
    pub fn tell(&mut self, differing: BTreeMap<NodeId, u64>) {
        for node in self.untold(differing) {
            warn!(
                %node,
                "its `quorum` or `buckets` are not this node's: what a bucket does depends on which of the two is asked; give both the same, unless a change of them is under way"
            );
        }
    }

    /// Those of which nothing was told yet, or that differ in another way now. It counts as told.
    fn untold(&mut self, differing: BTreeMap<NodeId, u64>) -> Vec<NodeId> {
        if differing.is_empty() && !self.told.is_empty() {
            info!("all nodes have the same `quorum` and `buckets` again, as far as they have said");
        }
        let before = std::mem::replace(&mut self.told, differing);
        let is_new = |(node, digest): &(&NodeId, &u64)| before.get(*node) != Some(*digest);
        self.told.iter().filter(is_new).map(|(node, _)| *node).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_with_other_settings_is_told_of_once_and_again_when_they_change() {
        let node = |id: u8| NodeId([id; 16]);
        let mut agreement = Agreement::default();
        let mut untold = |differing: &[(u8, u64)]| {
            let ids = agreement.untold(differing.iter().map(|(id, digest)| (node(*id), *digest)).collect());
            ids.into_iter().map(|id| id.0[0]).collect::<Vec<_>>()
        };
        assert_eq!(untold(&[]), [0; 0]);
        assert_eq!(untold(&[(2, 7)]), [2]);
        assert_eq!(untold(&[(2, 7), (3, 7)]), [3]);
        assert_eq!(untold(&[(2, 8), (3, 7)]), [2]);
        assert_eq!(untold(&[(3, 7)]), [0; 0]);
        assert_eq!(untold(&[(2, 8), (3, 7)]), [2], "it was right meanwhile");
    }
}
