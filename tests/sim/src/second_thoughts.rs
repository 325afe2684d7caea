//! Members that are asked for in the middle of a move: a shrink that is taken back, an autoscaler that cannot make up its mind.
//!
//! Where the desired members change on their own now and then, here they change because partitions move: at every look of the writer
//! of rings, from a stream of its own.

use dynamo_core::id::NodeId;
use dynamo_core::rebalance::Members;

use crate::dice::Dice;
use crate::options::Options;
use crate::ring_writer::member;
use crate::simulation::Simulation;

/// Who wanted other members a moment ago.
#[derive(Debug)]
pub struct SecondThoughts {
    dice: Dice,
    chance: f64,
    /// What was asked for before the last change of mind.
    before: Option<Members>,
}

impl SecondThoughts {
    /// Those of a run.
    pub fn new(options: &Options) -> Self {
        let dice = Dice::new(options.seed ^ 0x7468_6f75_6768_7473);
        Self { dice, chance: options.faults.second_thoughts, before: None }
    }

    /// What is asked for now in place of `desired`, if anything.
    pub fn about(&mut self, desired: &Members, sim: &mut Simulation) -> Option<Members> {
        if self.chance == 0.0 || !self.dice.chance(self.chance) {
            return None;
        }
        let is_there = |node: &NodeId| sim.host_of(*node).is_some_and(|host| !sim.is_removed(host) && !sim.is_lost(host));
        let mut other = desired.clone();
        match self.dice.weighted(&[(4, 0), (2, 1), (2, 2), (1, 3)]) {
            // Back to what was asked for before.
            0 => other = self.before.take()?.into_iter().filter(|(node, _)| is_there(node)).collect(),
            // Whoever stands by, or was to leave, is a member again.
            1 => {
                let hosts = sim.running().into_iter().filter(|host| !sim.is_lost(*host));
                let back: Vec<_> = hosts.filter(|host| !desired.contains_key(&sim.node_id(*host))).collect();
                let host = (!back.is_empty()).then(|| self.dice.pick(&back))?;
                other.insert(sim.node_id(host), member(sim, host));
            }
            2 => {
                let nodes: Vec<NodeId> = desired.keys().copied().collect();
                other.remove(&self.dice.pick(&nodes));
            }
            _ if sim.running().len() + sim.stopped().len() < sim.options().hosts_max => {
                let host = sim.add_host();
                sim.start(host);
                other.insert(sim.node_id(host), member(sim, host));
            }
            _ => return None,
        }
        (other != *desired).then_some(other)
    }

    /// The change was made.
    pub fn changed_from(&mut self, before: Members) {
        self.before = Some(before);
    }
}
