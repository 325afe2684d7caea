//! The writer of rings as `dynamoctl` is one: each change of members is an operation that stands in the ring, and commands begin it,
//! pause it, go on with it and give it up.
//!
//! Where the operator asks for other members in the middle of a move, a command is refused until the operation under way has ended.
//! Only a loss changes what an operation wants.

use std::collections::BTreeMap;

use dynamo_core::id::NodeId;
use dynamo_core::rebalance::operation::{self, OperationError};
use dynamo_core::rebalance::{Members, Next, PlanError, View};
use dynamo_core::ring::{Operation, Ring};

use crate::dice::Dice;
use crate::options::Options;
use crate::simulation::Simulation;

/// At each look of the writer: that an operation is paused, goes on, is given up.
const PAUSED: f64 = 0.1;
const RESUMED: f64 = 0.3;
const ABORTED: f64 = 0.05;

/// Those who give commands.
#[derive(Debug)]
pub(crate) struct RingCommands {
    dice: Dice,
}

impl RingCommands {
    /// Those of a run in which rings are written so.
    pub(crate) fn new(options: &Options) -> Option<Self> {
        let dice = Dice::new(options.seed ^ 0x636f_6d6d_616e_6473);
        options.faults.commands.then_some(Self { dice })
    }

    /// What comes next on the way from `record` to the `desired` members; `None` while the operation is paused.
    pub(crate) fn next(
        &mut self,
        record: &Ring,
        desired: &Members,
        views: &BTreeMap<NodeId, View>,
        calm: bool,
        sim: &mut Simulation,
    ) -> Result<Option<Next>, PlanError> {
        // Nothing is built on a ring that no node holds, as `dynamoctl` has it.
        let hash = record.hash();
        let is_held = views.values().any(|view| view.epoch == record.epoch && view.ring_hash == hash);
        if is_held && let Some(ring) = self.command(record, desired, calm, sim)? {
            return Ok(Some(Next::Propose(ring)));
        }
        operation::next(record, views, &sim.options().limits)
    }

    /// The ring of a command that is given now, if any.
    fn command(&mut self, record: &Ring, desired: &Members, calm: bool, sim: &mut Simulation) -> Result<Option<Ring>, PlanError> {
        let Some(Operation { wanted, paused, aborted, .. }) = &record.operation else {
            return match operation::begun(record, desired) {
                Ok(ring) => {
                    sim.totals.operations_begun += 1;
                    Ok(Some(ring))
                }
                Err(OperationError::NoPlan(error)) => Err(error),
                Err(_) => Ok(None),
            };
        };
        let is_gone = |node: &NodeId| sim.host_of(*node).is_none_or(|host| sim.is_lost(host) || sim.is_removed(host));
        if wanted.keys().any(is_gone) {
            return Ok(Some(operation::amended(record, desired)).filter(|amended| amended != record));
        }
        if calm {
            return Ok(paused.then(|| operation::paused(record, false)).and_then(Result::ok));
        }
        let (roll, gives_up) = (self.dice.chance(if *paused { RESUMED } else { PAUSED }), self.dice.chance(ABORTED));
        if gives_up && !aborted {
            // Refused where those who were members before include lost ones, and the others are too few.
            let ring = operation::aborted(record).ok();
            sim.totals.operations_aborted += u64::from(ring.is_some());
            return Ok(ring);
        }
        sim.totals.operations_paused += u64::from(roll && !paused);
        Ok(roll.then(|| operation::paused(record, !paused)).and_then(Result::ok))
    }
}
