//! What befalls pods, volumes and specs while the operator works: chosen by the seed, taken back after a while where it can be.

use dynamo_core::id::Epoch;
use serde_json::json;

use crate::faults::Fault;
use crate::kubernetes::SETS;
use crate::stage::{CLUSTERS, NAME, Stage};
use crate::{World, image};
use dynamo_api_server::number;

/// What is taken back later.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Undo {
    /// A pod runs again.
    Release(String),
    /// The spec holds together again.
    Repair,
}

impl World {
    /// `fault` happens, if there is something that it can happen to.
    pub(crate) fn befall(&mut self, fault: Fault) {
        let (pod, size, rounds) = {
            let mut stage = self.stage();
            let pods: Vec<String> = stage.nodes.running().keys().cloned().collect();
            let pod = (!pods.is_empty()).then(|| pods[stage.faults.below(pods.len())].clone());
            (pod, 3 + stage.faults.below(4) as u32, 20 + stage.faults.below(400) as u64)
        };
        let now = self.stage().kubernetes.now();
        match (fault, pod) {
            (Fault::PodKilled, Some(pod)) => self.kill(&pod),
            (Fault::PodHeld, Some(pod)) => {
                self.hold(&pod);
                self.undo.entry(now + rounds).or_default().push(Undo::Release(pod));
            }
            (Fault::NodeSlow, Some(pod)) => self.stage().nodes.slow_down(&pod, rounds),
            (Fault::VolumeLost, Some(pod)) if self.stage().may_lose_a_volume() => self.lose_volume(&pod),
            (Fault::ControllerPaused, _) => self.stage().kubernetes.controller_pauses_until = now + rounds / 2,
            (Fault::ReplicasChanged, _) if self.ask("replicas", json!(size)).is_ok() => {}
            (Fault::ImageChanged, _) if self.ask("image", json!(image(&format!("round-{now}")))).is_ok() => {}
            (Fault::InvalidSpec, _) if self.stage().valid().is_some() => {
                self.stage().store_invalid_spec();
                self.acts();
                self.undo.entry(now + rounds).or_default().push(Undo::Repair);
            }
            (Fault::SetLowered, _) => {
                self.stage().lower_a_set();
                self.acts();
            }
            _ => return,
        }
        let mut stage = self.stage();
        stage.faults.count(fault);
        stage.tell(|| format!("{fault:?}"));
    }

    /// A volume is lost, if the promise covers it now or it is none of ours.
    pub(crate) fn befall_volume(&mut self, pod: &str) {
        let harmless = self.stage().has_a_strangers_volume(pod);
        if harmless || self.stage().may_lose_a_volume() {
            self.lose_volume(pod);
        }
    }

    pub(crate) fn undo_what_is_due(&mut self, now: u64) {
        let later = self.undo.split_off(&(now + 1));
        for undo in std::mem::replace(&mut self.undo, later).into_values().flatten() {
            match undo {
                Undo::Release(pod) => self.release(&pod),
                Undo::Repair => self.repair_spec(),
            }
        }
    }

    /// The spec is again what it was before it no longer held together; nothing if it does.
    pub(crate) fn repair_spec(&mut self) {
        if self.stage().valid().is_none() {
            let replicas = self.stage().checks.last_valid.as_ref().map_or(3, dynamo_operator::valid::ValidCluster::replicas);
            self.ask("replicas", json!(replicas)).expect("it held together before");
        }
    }

    /// Nothing goes wrong any more, and what was taken back later is taken back now.
    pub(crate) fn heal(&mut self) {
        {
            let mut stage = self.stage();
            stage.faults.stop();
            stage.kubernetes.release_all();
            stage.nodes.speed_up();
        }
        self.undo.clear();
        self.repair_spec();
        if self.operators[0].is_suspended() {
            self.restart_operator();
        }
        self.operators.truncate(1);
        self.acts();
    }
}

impl Stage {
    /// Fewer than W disks are destroyed at once: the last one's node is out of the ring, the ring rests, and every replica has what
    /// was acknowledged.
    fn may_lose_a_volume(&self) -> bool {
        let Some(ring) = self.ring() else { return false };
        let rests = ring.moving().next().is_none() && ring.members.keys().all(|node| !ring.is_lost(*node));
        let holds = |node| {
            let running = self.nodes.running().values().find(|running| running.node.identity().node == node);
            running.and_then(|running| running.node.ring()).map_or(Epoch(0), |held| held.epoch) == ring.epoch
        };
        rests && ring.members.keys().copied().all(holds) && self.nodes.all_replicas_have(&self.acknowledged)
    }

    /// As under an older definition, which had no such rule.
    fn store_invalid_spec(&mut self) {
        self.kubernetes.api.edit(&format!("{CLUSTERS}/{NAME}"), |cluster| cluster["spec"]["replicas"] = json!(2));
    }

    fn lower_a_set(&mut self) {
        let sets: Vec<String> = self.kubernetes.api.list(SETS).map(|(name, _)| format!("{SETS}/{name}")).collect();
        if sets.is_empty() {
            return;
        }
        let set = &sets[self.faults.below(sets.len())];
        self.kubernetes.api.edit(set, |set| set["spec"]["replicas"] = json!(number(set, "/spec/replicas").saturating_sub(1)));
    }
}
