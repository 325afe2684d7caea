//! What nodes tell each other of themselves (paper 4.8): addresses, ring epochs, load.
//!
//! Each node exchanges its view with a random peer every second. A node's own entry is the only one it changes; entries are
//! ordered by (generation, version), so the newest wins everywhere, in any order of arrival, and a restarted node supersedes
//! its former self. Two lives of one generation are a mistake of whoever copied a data directory; the first one that was heard of is
//! told on, so that the second hears of it. Membership is not decided here: the ring says who is a member. Gossip is how a pod that came back under
//! another address is found again.

use std::collections::BTreeMap;

use crate::id::{Epoch, NodeId};

/// What a node says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MemberState {
    /// Grows at each start of the node.
    pub generation: u64,
    /// Drawn at each start: tells two of one generation apart. 0 if it is not known.
    pub life: u64,
    /// Grows with each change within a start.
    pub version: u64,
    /// host:port for peers.
    pub peer_address: String,
    /// host:port for clients.
    pub client_address: String,
    /// Its failure domain.
    pub zone: String,
    /// The ring it holds.
    pub epoch: Epoch,
    /// Objects it holds.
    pub objects: u64,
    /// Hints it keeps for others.
    pub hints: u64,
    /// How it treats buckets ([`crate::config::Config::buckets_digest`]); 0 if it did not say.
    pub buckets_digest: u64,
}

impl MemberState {
    fn order(&self) -> (u64, u64) {
        (self.generation, self.version)
    }

    fn is_twin_of(&self, other: &MemberState) -> bool {
        self.generation == other.generation && self.life != other.life && self.life != 0 && other.life != 0
    }
}

/// One node's view of all.
#[derive(Clone, Debug)]
pub struct Gossip {
    own: NodeId,
    members: BTreeMap<NodeId, MemberState>,
    /// Nodes that are gone for good, with their last word: hearsay of it does not bring them back.
    forgotten: BTreeMap<NodeId, (u64, u64)>,
}

impl Gossip {
    /// A view that knows only its own node.
    pub fn new(own: NodeId, state: MemberState) -> Self {
        Self { own, members: [(own, state)].into(), forgotten: BTreeMap::new() }
    }

    /// Everyone that was heard of, this node included.
    pub fn members(&self) -> &BTreeMap<NodeId, MemberState> {
        &self.members
    }

    /// What `node` last said of itself.
    pub fn of(&self, node: NodeId) -> Option<&MemberState> {
        self.members.get(&node)
    }

    /// Who said that buckets are treated otherwise there than here, and how. What they are asked for may come out otherwise too.
    pub fn differing_buckets(&self) -> BTreeMap<NodeId, u64> {
        let own = self.members[&self.own].buckets_digest;
        let said = self.members.iter().map(|(node, state)| (*node, state.buckets_digest));
        said.filter(|(_, digest)| *digest != 0 && *digest != own).collect()
    }

    /// Says something new of this node.
    pub fn update_own(&mut self, epoch: Epoch, objects: u64, hints: u64) {
        let own = self.members.get_mut(&self.own).expect("a node knows itself");
        if (own.epoch, own.objects, own.hints) != (epoch, objects, hints) {
            (own.epoch, own.objects, own.hints) = (epoch, objects, hints);
            own.version += 1;
        }
    }

    /// What somebody says of this node is of a life that was not begun here: a later one, or another of the same generation.
    pub fn is_another_life(&self, state: &MemberState) -> bool {
        let own = &self.members[&self.own];
        state.life != 0 && state.life != own.life && state.generation >= own.generation
    }

    /// Of two lives that go on at the same time this one counts as the earlier.
    pub fn is_outranked_by(&self, state: &MemberState) -> bool {
        let own = &self.members[&self.own];
        (state.generation, state.life) > (own.generation, own.life)
    }

    /// This life counts as later than one of `generation`.
    pub fn outlive(&mut self, generation: u64) {
        let own = self.members.get_mut(&self.own).expect("a node knows itself");
        own.generation = own.generation.max(generation.saturating_add(1));
    }

    /// Whom `theirs` knows of a later start than was known here.
    pub fn restarted(&self, theirs: &[(NodeId, MemberState)]) -> Vec<NodeId> {
        let later = |(node, state): &&(NodeId, MemberState)| {
            self.members.get(node).is_some_and(|known| known.generation < state.generation)
        };
        theirs.iter().filter(later).map(|(node, _)| *node).collect()
    }

    /// Takes what is newer; true if an address changed or a node is new.
    pub fn merge(&mut self, theirs: Vec<(NodeId, MemberState)>) -> bool {
        let mut readdressed = false;
        for (node, state) in theirs {
            let known = self.members.get(&node);
            if self.forgotten.get(&node).is_some_and(|last| *last >= state.order()) {
                continue;
            }
            self.forgotten.remove(&node);
            if node == self.own || known.is_some_and(|known| known.order() >= state.order() || known.is_twin_of(&state)) {
                continue;
            }
            readdressed |= known.is_none_or(|known| known.peer_address != state.peer_address);
            self.members.insert(node, state);
        }
        readdressed
    }

    /// `node` itself says where it is, and cannot be reached where it is known to be. That counts, be it of an earlier start than is known
    /// already: another process may have used its id, or its directory was restored. Unless it is dialled it never hears of that, and
    /// nobody ever of it. True if it is somewhere else.
    pub fn found(&mut self, node: NodeId, told: &[(NodeId, MemberState)]) -> bool {
        let Some((_, told)) = told.iter().find(|(of, _)| *of == node) else { return false };
        let elsewhere = |known: &&mut MemberState| !told.peer_address.is_empty() && known.peer_address != told.peer_address;
        let Some(known) = self.members.get_mut(&node).filter(elsewhere) else { return false };
        known.peer_address.clone_from(&told.peer_address);
        known.client_address.clone_from(&told.client_address);
        true
    }

    /// `node` left the cluster and does not answer: nobody dials it any more.
    pub fn forget(&mut self, node: NodeId) {
        if let Some(state) = self.members.remove(&node) {
            self.forgotten.insert(node, state.order());
        }
    }

    /// `node` spoke itself: what is said of it counts again.
    pub fn remember(&mut self, node: NodeId) {
        self.forgotten.remove(&node);
    }

    /// Notes the addresses that a peer told in its handshake, before any gossip of it arrived.
    pub fn greet(&mut self, node: NodeId, peer_address: &str, client_address: &str) {
        self.members.entry(node).or_insert_with(|| MemberState {
            peer_address: peer_address.into(),
            client_address: client_address.into(),
            ..MemberState::default()
        });
    }

    /// The view, to be sent.
    pub fn snapshot(&self) -> Vec<(NodeId, MemberState)> {
        self.members.iter().map(|(node, state)| (*node, state.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(generation: u64, version: u64, address: &str) -> MemberState {
        MemberState { generation, version, peer_address: address.into(), ..MemberState::default() }
    }

    #[test]
    fn the_newest_word_of_a_node_wins_in_any_order() {
        let (own, other) = (NodeId([1; 16]), NodeId([2; 16]));
        let words = [state(1, 9, "old:1"), state(2, 1, "new:1"), state(2, 3, "new:1")];
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let mut gossip = Gossip::new(own, state(1, 1, "me:1"));
            for word in order {
                gossip.merge(vec![(other, words[word].clone())]);
            }
            assert_eq!(gossip.of(other), Some(&words[2]));
        }
    }

    #[test]
    fn a_node_that_left_is_not_brought_back_by_hearsay_but_by_its_own_word() {
        let (own, other) = (NodeId([1; 16]), NodeId([2; 16]));
        let mut gossip = Gossip::new(own, state(1, 1, "me:1"));
        gossip.merge(vec![(other, state(3, 7, "old:1"))]);
        gossip.forget(other);
        assert!(!gossip.merge(vec![(other, state(3, 7, "old:1"))]));
        assert_eq!(gossip.of(other), None);
        assert!(gossip.merge(vec![(other, state(4, 1, "new:1"))]), "it started again");
        gossip.forget(other);
        gossip.remember(other);
        assert!(gossip.merge(vec![(other, state(4, 1, "new:1"))]), "it spoke itself");
    }

    #[test]
    fn who_says_that_it_treats_buckets_otherwise_is_known_and_who_says_nothing_is_not_compared() {
        let treating = |digest| MemberState { buckets_digest: digest, ..state(1, 1, "x:1") };
        let mut gossip = Gossip::new(NodeId([1; 16]), treating(7));
        gossip.merge(vec![(NodeId([2; 16]), treating(7)), (NodeId([3; 16]), treating(8)), (NodeId([4; 16]), treating(0))]);
        gossip.greet(NodeId([5; 16]), "x:2", "x:3");
        assert_eq!(gossip.differing_buckets(), [(NodeId([3; 16]), 8)].into());
        gossip.merge(vec![(NodeId([3; 16]), MemberState { version: 2, ..treating(7) })]);
        assert!(gossip.differing_buckets().is_empty());
    }

    #[test]
    fn a_node_that_is_not_where_it_is_known_to_be_is_found_by_its_own_word_whatever_start_it_is_in() {
        let (own, node) = (NodeId([1; 16]), NodeId([2; 16]));
        let told = |generation, address| vec![(node, state(generation, 1, address)), (own, state(9, 9, "impostor:1"))];
        for generation in [1, 3, 5] {
            let mut gossip = Gossip::new(own, state(1, 1, "me:1"));
            assert!(!gossip.found(node, &told(generation, "here:1")), "nothing is known of it yet");
            gossip.merge(told(3, "there:1"));
            assert!(gossip.found(node, &told(generation, "here:1")));
            assert!(!gossip.found(node, &told(generation, "here:1")), "that is known by now");
            assert!(!gossip.found(node, &told(generation, "")));
            let known = gossip.of(node).unwrap();
            assert_eq!((known.peer_address.as_str(), known.order()), ("here:1", (3, 1)), "what it is known to have said stands");
            assert_eq!(gossip.of(own).unwrap().peer_address, "me:1");
        }
    }

    #[test]
    fn nobody_else_speaks_for_a_node() {
        let own = NodeId([1; 16]);
        let mut gossip = Gossip::new(own, state(1, 1, "me:1"));
        assert!(!gossip.merge(vec![(own, state(9, 9, "impostor:1"))]));
        assert_eq!(gossip.of(own).unwrap().peer_address, "me:1");
    }
}
