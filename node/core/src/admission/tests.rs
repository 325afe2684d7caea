//! The controller at its border: what it grants, second by second, to work that always wants more.

use super::*;

const MIB: u64 = 1 << 20;
const TICK: Duration = Duration::from_millis(50);
const TICKS_PER_SECOND: u64 = 20;

/// What clients see: a latency while nothing runs, and one while background work does.
#[derive(Clone, Copy, Debug)]
struct Clients {
    per_second: u64,
    quiet: Duration,
    busy: Duration,
}

const NOBODY: Clients = Clients { per_second: 0, quiet: Duration::ZERO, busy: Duration::ZERO };

fn clients(quiet_us: u64, busy_us: u64) -> Clients {
    Clients { per_second: 400, quiet: Duration::from_micros(quiet_us), busy: Duration::from_micros(busy_us) }
}

/// A node's ticks, without the node.
struct Bench {
    admission: Admission,
    now: Instant,
    /// Bytes moved, by kind.
    moved: [u64; Work::ALL.len()],
    /// The largest objects: a batch has at least one.
    object: usize,
}

impl Bench {
    fn new(floor: u64, cap: u64) -> Self {
        let config = Config {
            background_p99_max: Duration::from_millis(50),
            background_bytes_per_second_min: floor,
            background_bytes_per_second_max: cap,
            ..Config::default()
        };
        let now = Instant(5_000_000);
        Self { admission: Admission::new(&config, now), now, moved: [0; Work::ALL.len()], object: 1 }
    }

    fn usual() -> Self {
        Self::new(MIB, 64 * MIB)
    }

    /// A tick, with what these kinds can get and the answers that clients see.
    fn tick(&mut self, clients: Clients, wanting: &[Work]) {
        self.now = self.now + TICK;
        self.admission.tick(self.now);
        for work in wanting {
            while let Some(bytes) = self.admission.ask(*work, MIB as usize, self.now) {
                let bytes = bytes.max(self.object);
                self.admission.moved(*work, bytes, self.now);
                self.moved[*work as usize] += bytes as u64;
            }
        }
        for _ in 0..clients.per_second / TICKS_PER_SECOND {
            let busy = self.admission.moved_within(SETTLES_IN, self.now);
            self.admission.answered(if busy { clients.busy } else { clients.quiet }, self.now);
        }
    }

    /// A second in which these kinds want as much as they can get. Tells how many bytes were moved in it.
    fn second(&mut self, clients: Clients, wanting: &[Work]) -> u64 {
        let before: u64 = self.moved.iter().sum();
        (0..TICKS_PER_SECOND).for_each(|_| self.tick(clients, wanting));
        self.moved.iter().sum::<u64>() - before
    }

    fn seconds(&mut self, count: u64, clients: Clients, wanting: &[Work]) -> u64 {
        (0..count).map(|_| self.second(clients, wanting)).sum()
    }

    fn budget(&self) -> u64 {
        self.admission.report(self.now).bytes_per_second
    }

    /// Clients that see `quiet_us` for a while, with nothing else going on.
    fn after_a_quiet_minute(quiet_us: u64) -> Self {
        let mut bench = Self::usual();
        bench.seconds(60, clients(quiet_us, quiet_us), &[]);
        bench
    }
}

#[test]
fn what_is_granted_follows_what_clients_notice() {
    let (cap, floor) = (64 * MIB, MIB);
    let cases = [
        ("nothing", 5_000, 5_000, cap),
        ("a tenth more", 5_000, 5_500, cap),
        ("a fifth more", 5_000, 6_000, floor),
        ("a fifth more of very little", 300, 360, floor),
        ("twice as long", 5_000, 10_000, floor),
        ("a tenth more, and the threshold is passed", 47_000, 52_000, floor),
        ("nothing, and the threshold is passed anyway", 60_000, 60_000, floor),
        ("less", 5_000, 4_000, cap),
    ];
    for (what, quiet, busy, expected) in cases {
        let mut bench = Bench::after_a_quiet_minute(quiet);
        bench.seconds(60, clients(quiet, busy), &[Work::Hints]);
        assert_eq!(bench.budget(), expected, "clients notice {what}: {quiet} us became {busy} us");
    }
}

#[test]
fn it_gives_way_within_seconds_and_recovers_within_a_minute() {
    let mut bench = Bench::after_a_quiet_minute(5_000);
    bench.seconds(60, clients(5_000, 5_000), &[Work::Transfers]);
    assert_eq!(bench.budget(), 64 * MIB);
    bench.seconds(2, clients(5_000, 7_000), &[Work::Transfers]);
    assert!(bench.budget() <= 32 * MIB, "{} after two seconds", bench.budget());
    bench.seconds(8, clients(5_000, 7_000), &[Work::Transfers]);
    assert_eq!(bench.budget(), MIB);
    bench.seconds(60, clients(5_000, 5_000), &[Work::Transfers]);
    assert_eq!(bench.budget(), 64 * MIB);
}

/// The first answers come before what the work does is felt.
#[test]
fn work_is_judged_by_a_whole_second_of_it() {
    for ticks_before in 0..TICKS_PER_SECOND {
        let many = Clients { per_second: 20_000, ..clients(5_000, 5_000) };
        let mut bench = Bench::after_a_quiet_minute(5_000);
        (0..ticks_before).for_each(|_| bench.tick(many, &[]));
        for tick in 0..TICKS_PER_SECOND {
            bench.tick(many, &[Work::Hints]);
            assert_eq!(bench.budget(), MIB, "begun {ticks_before} ticks after a judgement, {tick} ticks ago");
        }
        (0..2 * TICKS_PER_SECOND).for_each(|_| bench.tick(many, &[Work::Hints]));
        assert!(bench.budget() > MIB);
    }
}

/// Where clients are near the threshold anyway, an eighth more would be above it.
#[test]
fn the_threshold_is_not_passed_by_less_than_an_eighth() {
    let mut bench = Bench::after_a_quiet_minute(47_000);
    bench.seconds(60, clients(47_000, 47_000), &[Work::Hints]);
    assert_eq!(bench.budget(), 64 * MIB);
    bench.seconds(15, clients(47_000, 52_000), &[Work::Hints]);
    assert_eq!(bench.budget(), MIB);
}

/// The paper's rule: the minute counts, even where the last seconds are better.
#[test]
fn nothing_is_raised_until_the_minute_is_below_the_threshold() {
    let mut bench = Bench::after_a_quiet_minute(5_000);
    bench.seconds(15, clients(5_000, 5_000), &[Work::Hints]);
    let before = bench.budget();
    bench.seconds(3, clients(90_000, 90_000), &[Work::Hints]);
    bench.second(clients(5_000, 5_000), &[Work::Hints]);
    let lowered = bench.budget();
    assert!(lowered <= before / 4, "{before} became {lowered}");
    bench.seconds(40, clients(5_000, 5_000), &[Work::Hints]);
    assert_eq!(bench.budget(), lowered);
    bench.seconds(60, clients(5_000, 5_000), &[Work::Hints]);
    assert!(bench.budget() > lowered);
}

#[test]
fn few_requests_are_judged_by_the_minute() {
    for (latency, expected) in [(5_000, 64 * MIB), (90_000, MIB)] {
        let few = Clients { per_second: 0, ..clients(latency, latency) };
        let mut bench = Bench::usual();
        for _ in 0..400 {
            bench.second(few, &[Work::Hints]);
            (0..4).for_each(|_| bench.admission.answered(few.busy, bench.now));
        }
        assert_eq!(bench.budget(), expected, "{latency} us, four times a second");
    }
}

#[test]
fn one_slow_request_changes_nothing() {
    let mut bench = Bench::after_a_quiet_minute(5_000);
    for second in 0..60 {
        bench.second(clients(5_000, 5_000), &[Work::Hints]);
        if second % 5 == 0 {
            bench.admission.answered(Duration::from_secs(3), bench.now);
        }
    }
    assert_eq!(bench.budget(), 64 * MIB);
}

#[test]
fn the_floor_is_granted_whatever_clients_see() {
    for work in [Work::Hints, Work::Transfers, Work::Handbacks, Work::AntiEntropy] {
        let mut bench = Bench::after_a_quiet_minute(5_000);
        bench.seconds(20, clients(200_000, 400_000), &[work]);
        let moved = bench.seconds(60, clients(200_000, 400_000), &[work]);
        // One second in ten is quiet.
        assert!((50 * MIB..62 * MIB).contains(&moved), "{work:?}: {moved} in a minute");
    }
}

#[test]
fn a_floor_of_a_few_bytes_still_moves_whole_objects() {
    let mut bench = Bench::new(10, 10);
    bench.object = 1_000;
    let moved = bench.seconds(1_000, clients(200_000, 400_000), &[Work::Hints]);
    assert!(moved >= 8_000, "{moved}");
}

#[test]
fn without_clients_the_cap_applies_and_with_the_first_request_it_does_not() {
    let mut bench = Bench::usual();
    let moved = bench.seconds(10, NOBODY, &[Work::Transfers]);
    assert!((600 * MIB..=660 * MIB).contains(&moved), "{moved} in ten seconds");
    bench.admission.answered(Duration::from_millis(5), bench.now);
    assert_eq!(bench.budget(), MIB);
    assert!(bench.second(clients(5_000, 5_000), &[Work::Transfers]) <= 3 * MIB);
    bench.seconds(2, NOBODY, &[]);
    assert_eq!(bench.budget(), 64 * MIB);
}

#[test]
fn kinds_that_ask_share_by_weight_and_what_one_leaves_goes_to_the_others() {
    use Work::{AntiEntropy, Handbacks, Hints, Transfers};
    let slow = clients(90_000, 90_000);
    for wanting in [&[Hints][..], &[AntiEntropy], &[Hints, Transfers], &[Hints, Transfers, Handbacks, AntiEntropy]] {
        // Anti-entropy gets an eighth of what each of the others gets.
        let weight = |work: Work| if work == AntiEntropy { 1 } else { 8 };
        let weights: u64 = wanting.iter().map(|work| weight(*work)).sum();
        let mut bench = Bench::after_a_quiet_minute(5_000);
        bench.seconds(20, slow, wanting);
        bench.moved = Default::default();
        bench.seconds(100, slow, wanting);
        for work in wanting {
            let share = bench.moved[*work as usize] * weights / (weight(*work) * 90 * MIB / 100);
            assert!((85..=115).contains(&share), "{work:?} of {wanting:?} got {share} % of its share");
        }
    }
}

#[test]
fn large_objects_of_one_kind_are_its_own_debt() {
    let mut bench = Bench::after_a_quiet_minute(5_000);
    let slow = clients(90_000, 90_000);
    bench.seconds(20, slow, &[]);
    for _ in 0..100 {
        // Hints of 4 MiB each, whatever was granted.
        if bench.admission.ask(Work::Hints, 1, bench.now).is_some() {
            bench.admission.moved(Work::Hints, 4 << 20, bench.now);
            bench.moved[Work::Hints as usize] += 4 << 20;
        }
        bench.second(slow, &[Work::Transfers]);
    }
    let [hints, transfers, ..] = bench.moved;
    assert!(transfers >= 40 * MIB && hints <= 55 * MIB, "{transfers} for transfers, {hints} for hints");
}

#[test]
fn while_clients_ask_one_second_in_ten_is_left_quiet() {
    let mut bench = Bench::after_a_quiet_minute(5_000);
    let moved: Vec<u64> = (0..60).map(|_| bench.second(clients(5_000, 5_000), &Work::ALL[..4])).collect();
    let quiet = moved.windows(2).filter(|pair| pair[1] < pair[0] / 4).count();
    assert!(quiet >= 5, "{moved:?}");
    // So the figure is fresh after an hour of work: when clients alone become slower, that is seen as what it is.
    bench.seconds(120, clients(20_000, 20_000), &[Work::Hints]);
    let report = bench.admission.report(bench.now);
    assert!(report.p99_quiet > Some(Duration::from_millis(19)), "{report:?}");
    assert_eq!(report.bytes_per_second, 64 * MIB);
}

#[test]
fn after_ten_seconds_without_work_it_begins_at_the_floor() {
    for (pause, expected) in [(5, 64 * MIB), (12, MIB)] {
        let mut bench = Bench::after_a_quiet_minute(5_000);
        bench.seconds(60, clients(5_000, 5_000), &[Work::Hints]);
        bench.seconds(pause, clients(5_000, 5_000), &[]);
        assert_eq!(bench.budget(), expected, "after {pause} s");
    }
}

#[test]
fn what_nobody_notices_is_doubled_until_somebody_does_and_then_raised_step_by_step() {
    let mut bench = Bench::after_a_quiet_minute(5_000);
    bench.seconds(8, clients(5_000, 5_000), &[Work::Transfers]);
    assert_eq!(bench.budget(), 64 * MIB, "seven doublings");
    bench.seconds(3, clients(5_000, 10_000), &[Work::Transfers]);
    let lowered = bench.budget();
    bench.seconds(4, clients(5_000, 5_000), &[Work::Transfers]);
    assert!((lowered / 2..lowered + 9 * MIB).contains(&bench.budget()), "{lowered} became {}", bench.budget());
    let mut noticed = Bench::after_a_quiet_minute(5_000);
    noticed.seconds(8, clients(5_000, 5_450), &[Work::Transfers]);
    assert!(noticed.budget() <= 17 * MIB, "{}: it was noticed from the beginning", noticed.budget());
}

/// A node that is slower the more background work it does: the bar of a quarter holds for minutes of work.
#[test]
fn clients_notice_at_most_a_quarter_of_a_load_that_would_double_their_wait() {
    let mut bench = Bench::after_a_quiet_minute(5_000);
    let mut answers = Histogram::default();
    let mut moved = 0;
    for _ in 0..300 {
        let of_cap = bench.budget() * 1_000 / (64 * MIB);
        let busy = 5_000 + 5 * of_cap;
        moved += bench.second(clients(5_000, busy), &[Work::Hints, Work::Transfers]);
        (0..400).for_each(|_| answers.record(Duration::from_micros(busy)));
    }
    assert!(answers.percentile_99() <= Some(Duration::from_micros(6_250)), "{:?}", answers.percentile_99());
    assert!(moved / 300 >= 4 * MIB, "{} a second: it found what there was", moved / 300);
}

#[test]
fn a_receiver_acknowledges_when_it_can_take_more_and_within_two_seconds() {
    let cases = [
        ("nobody asks", NOBODY, 256 << 10, Duration::ZERO..=Duration::ZERO),
        ("clients ask, a small batch", clients(90_000, 90_000), 4 << 10, Duration::ZERO..=Duration::ZERO),
        ("clients ask, a large batch", clients(90_000, 90_000), MIB as usize, Duration::from_millis(500)..=ACKNOWLEDGED_WITHIN),
        ("clients ask, a huge batch", clients(90_000, 90_000), 64 << 20, ACKNOWLEDGED_WITHIN..=ACKNOWLEDGED_WITHIN),
    ];
    for (what, clients, bytes, expected) in cases {
        let mut bench = Bench::usual();
        bench.seconds(3, clients, &[]);
        let due = bench.admission.received(bytes, bench.now);
        assert!(expected.contains(&due.since(bench.now)), "{what}: after {:?}", due.since(bench.now));
    }
}

#[test]
fn a_receiver_whose_clients_notice_nothing_takes_more_and_more() {
    let mut bench = Bench::after_a_quiet_minute(5_000);
    let mut due = bench.now;
    for _ in 0..60 * TICKS_PER_SECOND {
        if due <= bench.now {
            due = bench.admission.received(MIB as usize, bench.now);
        }
        bench.now = bench.now + TICK;
        bench.admission.tick(bench.now);
        (0..20).for_each(|_| bench.admission.answered(Duration::from_millis(5), bench.now));
    }
    assert!(bench.budget() >= 20 * MIB, "{}", bench.budget());
}

#[test]
fn who_was_refused_is_told_to_ask_again() {
    let mut bench = Bench::after_a_quiet_minute(5_000);
    bench.second(clients(90_000, 90_000), &[Work::Hints]);
    assert!(bench.admission.waits(Work::Hints) && !bench.admission.waits(Work::Transfers));
    assert!(bench.admission.tick(bench.now));
    assert!(!bench.admission.waits(Work::Hints) && !bench.admission.tick(bench.now));
}
