//! The cheapest way to place replicas under given shares: an exact min-cost flow. Any balanced plan can be had, so the one
//! that moves least is looked for among all of them.
//!
//! ```text
//!            N                  per zone              1; costs 0 if kept, else 1        least, most
//!   source -----> partition -----------------> zone of it -----------------> member -----------------> sink
//! ```
//!
//! The network has an arc for each partition and member, but almost all that happens on it is an **exchange**: a partition gives up
//! its replica on one member and takes one on another, in the same zone or in one where it has room. What an exchange costs is -1, 0
//! or 1, so all exchanges between two members are summed up in three counts, and the search runs on a graph of members only. One
//! more vertex, the *spare* one, trades the remainders: members that have more than the least they must have.
//!
//! Method: begin with what is kept, which costs nothing but leaves partitions short and members over their share. Then, in rounds:
//! measure the distance of every member from the places where there is too much (Dijkstra, on costs reduced by the distances so
//! far), and move along the shortest chains that end where something is missing, until none is left at that distance. Costs and
//! chains stay the least at every step, so the end is the optimum, and the distances are its proof: the prices of the certificate.
//!
//! A chain may use a partition twice. With the fewest links among the cheapest ones it never uses the last room of a zone twice: the
//! two exchanges could then be swapped at their ends, for a chain as cheap and shorter. That is why chains are found breadth first.

use std::cmp::Reverse;

/// Who may be placed where.
pub(super) struct Problem {
    /// By partition: the members on which a replica costs nothing, in the order of preference.
    pub kept: Vec<Vec<usize>>,
    /// By partition: who may have it; everyone if this is empty.
    pub eligible: Vec<Vec<usize>>,
    /// All members.
    pub everyone: Vec<usize>,
    /// Replicas of each partition (N).
    pub places: usize,
    /// By member.
    pub zone_of: Vec<usize>,
    /// Replicas of one partition that may lie in one zone.
    pub per_zone: usize,
    /// By member: the fewest replicas.
    pub least: Vec<usize>,
    /// By member: the most.
    pub most: Vec<usize>,
}

impl Problem {
    fn eligible(&self, partition: usize) -> &[usize] {
        self.eligible.get(partition).unwrap_or(&self.everyone)
    }

    fn is_eligible(&self, partition: usize, member: usize) -> bool {
        self.eligible.get(partition).is_none_or(|eligible| eligible.contains(&member))
    }

    /// What a replica of `partition` on `member` costs.
    fn cost(&self, partition: usize, member: usize) -> i64 {
        i64::from(!self.kept[partition].contains(&member))
    }

    fn has_room(&self, placed: &[usize], zone: usize) -> bool {
        placed.iter().filter(|member| self.zone_of[**member] == zone).count() < self.per_zone
    }
}

/// The optimum.
pub(super) struct Solution {
    /// By partition, in no order that means anything.
    pub placed: Vec<Vec<usize>>,
    /// By member: the dual variables.
    pub prices: Vec<i64>,
}

/// Solves a problem that has a solution. That there is one follows from how shares are made; else this is our own mistake.
pub(super) fn solve(problem: &Problem) -> Solution {
    let mut flow = Flow::new(problem);
    flow.keep();
    if flow.has_excess() {
        flow.count_exchanges();
        while flow.has_excess() {
            flow.measure();
            flow.move_along_shortest_chains();
        }
    }
    let spare = flow.distance[flow.spare_vertex()];
    let prices = problem.everyone.iter().map(|member| spare - flow.distance[*member]).collect();
    Solution { placed: flow.placed, prices }
}

/// Where there is too much.
#[derive(Clone, Copy)]
enum Source {
    /// A partition that is short of a replica (and has it to place).
    Partition(usize),
    /// A member with more than the most.
    Member(usize),
    /// More remainders were taken than there are.
    Spare,
}

struct Flow<'a> {
    problem: &'a Problem,
    placed: Vec<Vec<usize>>,
    held_by: Vec<Vec<usize>>,
    /// Partitions that are short of replicas.
    short: Vec<usize>,
    /// By giver and taker: how many exchanges there are, by their cost plus 1.
    exchanges: Vec<[u32; 3]>,
    /// By giver and taker: where in the giver's partitions the last exchange was found.
    cursor: Vec<usize>,
    /// By member, then the spare vertex: its distance from the sources.
    distance: Vec<i64>,
}

impl<'a> Flow<'a> {
    fn new(problem: &'a Problem) -> Self {
        let members = problem.everyone.len();
        Self {
            problem,
            placed: vec![Vec::with_capacity(problem.places); problem.kept.len()],
            held_by: vec![Vec::new(); members],
            short: Vec::new(),
            exchanges: Vec::new(),
            cursor: Vec::new(),
            distance: vec![0; members + 1],
        }
    }

    fn members(&self) -> usize {
        self.problem.everyone.len()
    }

    fn spare_vertex(&self) -> usize {
        self.members()
    }

    /// Begins with what is kept, as far as the rules allow it.
    fn keep(&mut self) {
        for partition in 0..self.placed.len() {
            for member in &self.problem.kept[partition] {
                if self.placed[partition].len() < self.problem.places && self.may_take(partition, None, *member) {
                    self.placed[partition].push(*member);
                    self.held_by[*member].push(partition);
                }
            }
            if self.placed[partition].len() < self.problem.places {
                self.short.push(partition);
            }
        }
    }

    /// Whether `partition` may have a replica on `to`, which it has not, once it has given up the one on `from`.
    fn may_take(&self, partition: usize, from: Option<usize>, to: usize) -> bool {
        let (placed, zone) = (&self.placed[partition], self.problem.zone_of[to]);
        let same_zone = from.is_some_and(|from| self.problem.zone_of[from] == zone);
        !placed.contains(&to) && (same_zone || self.problem.has_room(placed, zone))
    }

    fn load(&self, member: usize) -> usize {
        self.held_by[member].len()
    }

    fn is_over(&self, member: usize) -> bool {
        self.load(member) > self.problem.most[member]
    }

    /// Remainders that are taken, less those that there are.
    fn spare(&self) -> i64 {
        let taken = |member: &usize| self.load(*member).clamp(self.problem.least[*member], self.problem.most[*member]);
        let taken: usize = self.problem.everyone.iter().map(taken).sum();
        taken as i64 - (self.placed.len() * self.problem.places) as i64
    }

    fn has_excess(&self) -> bool {
        !self.short.is_empty() || (0..self.members()).any(|member| self.is_over(member)) || self.spare() > 0
    }

    /// Whether something is missing here.
    fn is_missing(&self, vertex: usize) -> bool {
        match vertex == self.spare_vertex() {
            true => self.spare() < 0,
            false => self.load(vertex) < self.problem.least[vertex],
        }
    }

    fn count_exchanges(&mut self) {
        self.exchanges = vec![[0; 3]; self.members() * self.members()];
        self.cursor = vec![0; self.members() * self.members()];
        for partition in 0..self.placed.len() {
            self.count(partition, 1);
        }
    }

    /// Counts the exchanges of `partition` as it stands, or takes them out of the counts before it changes.
    fn count(&mut self, partition: usize, by: i32) {
        let (problem, placed, members) = (self.problem, &self.placed[partition], self.held_by.len());
        for to in problem.eligible(partition).iter().filter(|to| !placed.contains(to)) {
            let (zone, cost) = (problem.zone_of[*to], problem.cost(partition, *to));
            let has_room = problem.has_room(placed, zone);
            for from in placed.iter().filter(|from| has_room || problem.zone_of[**from] == zone) {
                let class = (1 + cost - problem.cost(partition, *from)) as usize;
                let count = &mut self.exchanges[from * members + to][class];
                *count = count.checked_add_signed(by).expect("what was counted is taken out once");
            }
        }
    }

    /// What the step from one vertex to another costs, if there is one.
    fn cost(&self, from: usize, to: usize) -> Option<i64> {
        let (most, least) = (&self.problem.most, &self.problem.least);
        let spare = self.spare_vertex();
        if from == spare {
            return (self.load(to).min(most[to]) > least[to]).then_some(0);
        }
        if to == spare {
            return (self.load(from) < most[from]).then_some(0);
        }
        let counts = &self.exchanges[from * self.members() + to];
        counts.iter().position(|count| *count > 0).map(|class| class as i64 - 1)
    }

    fn is_tight(&self, from: usize, to: usize) -> bool {
        self.cost(from, to).is_some_and(|cost| self.distance[from] + cost == self.distance[to])
    }

    /// Dijkstra from all sources: the distances grow by what is left to the nearest place where something is missing.
    fn measure(&mut self) {
        let vertices = self.members() + 1;
        let mut further = vec![i64::MAX; vertices];
        for member in (0..self.members()).filter(|member| self.is_over(*member)) {
            further[member] = 0;
        }
        if self.spare() > 0 {
            further[self.spare_vertex()] = 0;
        }
        for partition in &self.short {
            for to in self.problem.eligible(*partition).iter().filter(|to| self.may_take(*partition, None, **to)) {
                further[*to] = further[*to].min(self.problem.cost(*partition, *to) - self.distance[*to]);
            }
        }
        let mut done = vec![false; vertices];
        let nearest = loop {
            let open = (0..vertices).filter(|vertex| !done[*vertex] && further[*vertex] < i64::MAX);
            let from =
                open.min_by_key(|vertex| further[*vertex]).expect("shares can be dealt out, so what is too much has a place");
            if self.is_missing(from) {
                break further[from];
            }
            done[from] = true;
            for to in (0..vertices).filter(|to| *to != from && !done[*to]) {
                if let Some(cost) = self.cost(from, to) {
                    let reduced = cost + self.distance[from] - self.distance[to];
                    assert!(reduced >= 0, "no chain is cheaper than those that were used");
                    further[to] = further[to].min(further[from] + reduced);
                }
            }
        };
        for (distance, further) in self.distance.iter_mut().zip(further) {
            *distance += further.min(nearest);
        }
    }

    /// Moves along tight chains until none is found. What is not found now has its distance measured again.
    fn move_along_shortest_chains(&mut self) {
        let mut dead = vec![false; self.members() + 1];
        for partition in std::mem::take(&mut self.short) {
            while self.placed[partition].len() < self.problem.places && self.move_from(Source::Partition(partition), &mut dead) {}
            if self.placed[partition].len() < self.problem.places {
                self.short.push(partition);
            }
        }
        for member in 0..self.members() {
            while self.is_over(member) && self.move_from(Source::Member(member), &mut dead) {}
        }
        while self.spare() > 0 && self.move_from(Source::Spare, &mut dead) {}
    }

    fn move_from(&mut self, source: Source, dead: &mut [bool]) -> bool {
        let Some(chain) = self.chain(source, dead) else { return false };
        if let Source::Partition(partition) = source {
            self.change(partition, |placed| placed.push(chain[0]));
            self.held_by[chain[0]].push(partition);
        }
        let spare = self.spare_vertex();
        for link in chain.windows(2).filter(|link| !link.contains(&spare)) {
            self.exchange(link[0], link[1]);
        }
        true
    }

    /// The vertices of a chain with the fewest links, from `source` to where something is missing. Dead vertices are those from
    /// which there was none in this round.
    fn chain(&self, source: Source, dead: &mut [bool]) -> Option<Vec<usize>> {
        let mut begins: Vec<usize> = match source {
            Source::Member(member) => vec![member],
            Source::Spare => vec![self.spare_vertex()],
            Source::Partition(partition) => {
                let tight =
                    |to: &usize| self.problem.cost(partition, *to) == self.distance[*to] && self.may_take(partition, None, *to);
                self.problem.eligible(partition).iter().copied().filter(tight).collect()
            }
        };
        begins.retain(|begin| !dead[*begin]);
        if let Source::Partition(partition) = source {
            // The emptiest first; those that are equally empty in an order of each partition's own, so that not always the same
            // members share partitions.
            let key = |member: &usize| (Reverse(self.emptiness(*member)), mixed(partition, *member));
            let missing = begins.iter().copied().filter(|begin| self.is_missing(*begin)).min_by_key(key);
            if let Some(direct) = missing {
                return Some(vec![direct]);
            }
            begins.sort_by_cached_key(key);
        }
        let mut reached: Vec<Option<usize>> = vec![None; self.members() + 1];
        begins.iter().for_each(|begin| reached[*begin] = Some(*begin));
        let mut queue = begins;
        let mut end = queue.iter().copied().find(|begin| self.is_missing(*begin));
        let mut next = 0;
        while end.is_none() && next < queue.len() {
            let from = queue[next];
            let found = queue.len();
            let tight = |to: &usize| reached[*to].is_none() && !dead[*to] && self.is_tight(from, *to);
            queue.extend((0..=self.members()).filter(tight).collect::<Vec<_>>());
            queue[found..].iter().for_each(|to| reached[*to] = Some(from));
            let missing = queue[found..].iter().copied().filter(|to| self.is_missing(*to));
            end = missing.max_by_key(|to| (self.emptiness(*to), mixed(from, *to)));
            next += 1;
        }
        let Some(end) = end else {
            queue.iter().for_each(|vertex| dead[*vertex] = true);
            return None;
        };
        let mut chain = vec![end];
        while let Some(from) = reached[chain[chain.len() - 1]].filter(|from| *from != chain[chain.len() - 1]) {
            chain.push(from);
        }
        chain.reverse();
        Some(chain)
    }

    /// How much of a member's share is free, in millionths; the spare vertex has no share.
    fn emptiness(&self, vertex: usize) -> usize {
        if vertex == self.spare_vertex() {
            return 0;
        }
        let most = self.problem.most[vertex];
        most.saturating_sub(self.load(vertex)) * 1_000_000 / most.max(1)
    }

    /// Some partition gives up its replica on `from` and takes one on `to`.
    fn exchange(&mut self, from: usize, to: usize) {
        let cost = self.distance[to] - self.distance[from];
        let (pair, held) = (from * self.members() + to, self.held_by[from].len());
        let fits = |partition: usize| {
            self.problem.cost(partition, to) - self.problem.cost(partition, from) == cost
                && self.problem.is_eligible(partition, to)
                && self.may_take(partition, Some(from), to)
        };
        let mut places = (0..held).map(|step| (self.cursor[pair] + step) % held);
        let place = places.find(|place| fits(self.held_by[from][*place])).expect("exchanges are counted");
        self.cursor[pair] = place;
        let partition = self.held_by[from].swap_remove(place);
        self.held_by[to].push(partition);
        self.change(partition, |placed| {
            placed.retain(|member| *member != from);
            placed.push(to);
        });
    }

    fn change(&mut self, partition: usize, change: impl FnOnce(&mut Vec<usize>)) {
        self.count(partition, -1);
        change(&mut self.placed[partition]);
        self.count(partition, 1);
    }
}

/// An order of the members that is another one for each partition.
fn mixed(partition: usize, member: usize) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(&(member as u64).to_le_bytes(), partition as u64)
}
