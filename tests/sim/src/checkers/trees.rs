//! I7: a node's trees say what its disk holds, after every start and at the end.
//!
//! A node keeps its trees by additions and subtractions, and takes them from checkpoints when it starts; here they are made anew
//! from all objects. Numbers of objects are compared leaf by leaf: the next start may compute one leaf and trust the others.

use dynamo_core::hash_tree::HashTrees;

use crate::ledger::Verdict;
use crate::schedule::HostId;
use crate::simulation::Simulation;

/// Whether a host's node has the right trees. A node without a ring has none.
pub fn check(sim: &Simulation, host: HostId) -> Verdict {
    let Some(node) = sim.node(host) else { return Ok(()) };
    let Some(ring) = node.ring() else { return Ok(()) };
    let mut anew = HashTrees::new(sim.cluster(), ring.partition_bits);
    for (partition, name, object) in sim.disk(host).objects() {
        anew.update(partition, name, Default::default(), object.digest());
    }
    let kept = node.trees();
    for (partition, _) in ring.partitions() {
        let equal = kept.root(partition) == anew.root(partition)
            && kept.leaves(partition) == anew.leaves(partition)
            && kept.leaf_counts(partition) == anew.leaf_counts(partition)
            && kept.objects(partition) == anew.objects(partition);
        if !equal {
            let differing = kept.differing(partition, &anew.leaves(partition));
            let what = format!("host {}, partition {partition}, leaves {differing:?}", host.0);
            return Err(("I7 trees are what the disk holds", what));
        }
    }
    Ok(())
}
