//! One client of the benchmark: operation after operation, each with its latency.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dynamo_client::error::OBJECT_TOO_LARGE;
use dynamo_core::random::Random;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;

use super::driver::{Base, OperationError};
use super::pace::{Pace, is_late};
use super::phases::Phases;
use super::point::Running;
use super::report::Measured;
use super::shape::Action;
use super::timeline::Timeline;

/// How long a client waits after an error: a cluster that refuses at once is not asked in a tight loop.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(5);

/// What is measured: the latencies and errors of operations that were due between the two, whenever they end, so that what a cluster
/// that stands still does not answer in time is not left out; and how many ended between the two, which is what it did in that time.
pub struct Window {
    /// From here on.
    pub begin: Instant,
    /// Until here, which is not known before what happens meanwhile is over.
    pub end: watch::Receiver<Option<Instant>>,
    /// For so long after the end requests are still sent that were due before it. Those that are left then are counted.
    pub catch_up: Duration,
    /// Interval by interval, if that was asked for.
    pub timeline: Option<Arc<Timeline>>,
    /// Apart by what happened meanwhile, if that was asked for.
    pub phases: Option<Arc<Phases>>,
}

impl Window {
    fn holds(&self, at: Instant) -> bool {
        at >= self.begin && !self.is_over(at)
    }

    fn is_over(&self, at: Instant) -> bool {
        self.end.borrow().is_some_and(|end| at >= end)
    }

    fn is_too_late(&self, now: Instant) -> bool {
        self.end.borrow().is_some_and(|end| now >= end + self.catch_up)
    }

    /// Waits until `due`, and says whether that is before the end. If it is not, nobody has to wait for it.
    async fn comes_to(end: &mut watch::Receiver<Option<Instant>>, due: Instant) -> bool {
        if due > Instant::now() {
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => {}
                Ok(_) = end.wait_for(|end| end.is_some_and(|end| due >= end)) => {}
            }
        }
        end.borrow().is_none_or(|end| due < end)
    }

    /// Counts what ended now. True if it failed.
    fn note(&self, ended: Ended, measured: &mut Measured) -> bool {
        let Ended { action, due, counts, outcome } = ended;
        let now = Instant::now();
        if outcome.is_ok() && self.holds(now) {
            measured.operations += 1;
            if let Some(timeline) = &self.timeline {
                timeline.ended(now);
            }
        }
        if !counts {
            return outcome.is_err();
        }
        let latency = outcome.is_ok().then_some(now - due);
        if let Some(timeline) = &self.timeline {
            timeline.record(due, latency);
        }
        if let Some(phases) = &self.phases {
            phases.record(latency);
        }
        match &outcome {
            Ok(Done { siblings, merged, read_first }) => {
                measured.merged += u64::from(*merged);
                measured.read_first += u64::from(*read_first);
                let latencies = if action == Action::Get { &mut measured.gets } else { &mut measured.puts };
                latencies.record(now - due);
                measured.siblings_max = measured.siblings_max.max(*siblings);
            }
            Err(error) => measured.failed(error),
        }
        outcome.is_err()
    }
}

/// What came of one operation.
struct Ended {
    action: Action,
    due: Instant,
    counts: bool,
    outcome: Result<Done, OperationError>,
}

/// An operation that ended well.
#[derive(Default)]
struct Done {
    /// How many siblings a get returned.
    siblings: usize,
    /// A put was refused since its object had grown too large; the key was read and all of it replaced.
    merged: bool,
    /// The record's token was not known, and a get before the put, in its time, brought it.
    read_first: bool,
}

/// Runs until all that is due in the window is answered, or it is too late to send it.
///
/// In a closed loop one operation is under way; in an open one as many as have come due, up to a bound that keeps the client alive.
pub async fn run(running: &Running, mut source: Random, mut window: Window) -> Measured {
    let mut measured = Measured::new();
    let is_open = running.point.rate.is_some();
    let mut pace = Pace::new(running.point.rate, running.session.data.loaded.clients, &mut source);
    let mut under_way = FuturesUnordered::new();
    loop {
        while under_way.len() >= running.in_flight_max
            && let Some(ended) = under_way.next().await
        {
            let failed = window.note(ended, &mut measured);
            if failed && !is_open {
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
        let due = pace.next(&mut source);
        let comes = loop {
            tokio::select! {
                biased;
                Some(ended) = under_way.next() => {
                    window.note(ended, &mut measured);
                }
                comes = Window::comes_to(&mut window.end, due) => break comes,
            }
        };
        if !comes {
            break;
        }
        let counts = due >= window.begin;
        if window.is_too_late(Instant::now()) {
            measured.unsent += u64::from(counts);
            continue;
        }
        measured.late += u64::from(counts && is_late(due));
        let (action, mut source) = (running.point.shape.action(source.next_u64()), Random::new(source.next_u64()));
        under_way.push(async move {
            let outcome = perform(running, action, &mut source).await;
            Ended { action, due, counts, outcome }
        });
    }
    while let Some(ended) = under_way.next().await {
        window.note(ended, &mut measured);
    }
    measured
}

/// One operation.
async fn perform(running: &Running, action: Action, source: &mut Random) -> Result<Done, OperationError> {
    let session = &running.session;
    let put = async |record, base, source: &mut Random| {
        let token = session.target.driver.put(&session.key(record), session.value(source), base).await?;
        session.replaced(record, token);
        Ok::<(), OperationError>(())
    };
    // As an application must: what many clients replaced at the same time is read, and put as one value.
    let update = async |record, base, source: &mut Random| match put(record, base, source).await {
        Err(refused) if refused.kind == OBJECT_TOO_LARGE => {
            let found = session.target.driver.get(&session.key(record)).await?;
            put(record, Base::Token(found.token), source).await.map(|()| true)
        }
        made => made.map(|()| false),
    };
    if action == Action::Insert {
        let record = session.inserts().begin();
        let added = put(record, Base::Nothing, source).await;
        session.inserts().end(record, added.is_ok());
        return added.map(|()| Done::default());
    }
    let there = session.inserts().there();
    let record = running.chooser.next(source, there);
    if action == Action::Update {
        let base = session.base(record);
        let read_first = base == Base::ReadFirst;
        let merged = update(record, base, source).await?;
        return Ok(Done { siblings: 0, merged, read_first });
    }
    let key = session.key(record);
    let found = session.target.driver.get(&key).await?;
    if found.values == 0 {
        // Every record that is asked for was put before: this is a wrong answer, and a cheap one.
        return Err(OperationError::new("absent", format!("{key}: it was put, and the get found nothing")));
    }
    session.seen(record, found.token.clone());
    let mut merged = false;
    if action == Action::ReadModifyWrite {
        // What another client has put since is known here too, where puts tell; else it is what this get saw.
        let base = match session.base(record) {
            Base::ReadFirst if !found.token.is_empty() => Base::Token(found.token),
            Base::ReadFirst => Base::Nothing,
            base => base,
        };
        merged = update(record, base, source).await?;
    }
    Ok(Done { siblings: found.values, merged, read_first: false })
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use bytes::Bytes;
    use futures::FutureExt;
    use futures::future::BoxFuture;
    use serde_json::{Value, json};

    use super::super::driver::{Base, Causality, Driver, Durability, Found, OperationError};
    use super::super::point::Point;
    use super::super::session::{Data, Records, Session, Updates};
    use super::super::shape::Shape;
    use super::super::system::{System, Target};
    use super::super::zipfian::Chooser;
    use super::*;

    /// A store that answers what it is told to, and ends the window: no clock decides how much comes before.
    #[derive(Default)]
    struct Store {
        /// Gets are not answered before this.
        answers_from: OnceLock<Instant>,
        /// None is answered before there are so many.
        answers_together: u64,
        arrived: watch::Sender<u64>,
        /// No get finds anything.
        is_empty: bool,
        /// Every put fails.
        refuses: bool,
        /// So does one without a token, until what is there is merged.
        is_too_large: bool,
        /// Puts could have a token, and are given none.
        gives_no_token: bool,
        asked: AtomicU64,
        /// The window ends before so many operations are answered, if it is not told otherwise.
        ends_with: u64,
        ends: watch::Sender<Option<Instant>>,
    }

    impl Store {
        fn asked(&self) {
            if self.asked.fetch_add(1, Ordering::Relaxed) + 1 == self.ends_with {
                self.ends.send_replace(Some(Instant::now()));
            }
        }
    }

    impl Driver for Store {
        fn get<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Found, OperationError>> {
            async move {
                if let Some(from) = self.answers_from.get() {
                    tokio::time::sleep_until((*from).into()).await;
                }
                self.arrived.send_modify(|arrived| *arrived += 1);
                let together = self.arrived.subscribe().wait_for(|arrived| *arrived >= self.answers_together).await.map(drop);
                together.expect("the store is there");
                self.asked();
                Ok(Found { values: usize::from(!self.is_empty), token: Bytes::new() })
            }
            .boxed()
        }

        fn put<'a>(&'a self, _: &'a str, _: Bytes, base: Base) -> BoxFuture<'a, Result<Bytes, OperationError>> {
            self.asked();
            let refused = match base {
                _ if self.refuses => Some(OperationError::new("unavailable", "nobody is there")),
                Base::Nothing if self.is_too_large => Some(OperationError::new(OBJECT_TOO_LARGE, "100 siblings")),
                _ => None,
            };
            async move { refused.map_or(Ok(Bytes::new()), Err) }.boxed()
        }

        fn causality(&self) -> Causality {
            if self.gives_no_token { Causality::FromPuts } else { Causality::None }
        }

        fn durability(&self) -> Durability {
            Durability::None
        }

        fn configuration(&self) -> Value {
            Value::Null
        }
    }

    struct Case {
        shape: Shape,
        rate: Option<f64>,
        catch_up: Duration,
        store: Store,
        /// For so long the store answers no get.
        stands_still: Duration,
        /// Of a window whose end is known from the beginning.
        length: Option<Duration>,
        in_flight_max: usize,
    }

    impl Case {
        /// Until the store has been asked so often.
        fn of(shape: Shape, rate: Option<f64>, ends_with: u64) -> Self {
            let store = Store { ends_with, ..Store::default() };
            Self { shape, rate, catch_up: Duration::ZERO, store, stands_still: Duration::ZERO, length: None, in_flight_max: 1 }
        }

        /// What one client measures.
        async fn run(self) -> (Measured, Arc<Session>, Arc<Timeline>) {
            let loaded = Records { records: 10, value_bytes: 1, clients: 1 };
            let (store, mut source) = (Arc::new(self.store), Random::new(1));
            let target = Target { system: System::Redis, driver: store.clone(), servers: Vec::new(), cluster: None };
            let data = Data { loaded, updates: Updates::Context };
            let session = Arc::new(Session::new(target, data, "keys".to_owned(), &mut source));
            let (shape, rate) = (self.shape, self.rate);
            let point = Point { shape, distribution: None, seconds: 1, warm_up: 0, rate, timeline: None, meanwhile: None };
            let (session_of_it, chooser, in_flight_max) =
                (Arc::clone(&session), Chooser::Uniform { records: 10 }, self.in_flight_max);
            let running = Running { session: session_of_it, point, chooser, in_flight_max };
            let begin = Instant::now();
            store.answers_from.set(begin + self.stands_still).unwrap();
            if let Some(length) = self.length {
                store.ends.send_replace(Some(begin + length));
            }
            let timeline = Arc::new(Timeline::new(begin, 3600));
            let (end, catch_up) = (store.ends.subscribe(), self.catch_up);
            let window = Window { begin, end, catch_up, timeline: Some(Arc::clone(&timeline)), phases: None };
            (run(&running, source, window).await, session, timeline)
        }
    }

    const STILL: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn what_was_due_while_a_store_stood_still_until_the_end_counts_with_all_that_it_waited() {
        let case = Case::of(Shape::C, Some(1000.0), 1);
        let (measured, _, timeline) = Case { stands_still: STILL, catch_up: Duration::from_secs(60), ..case }.run().await;
        assert!(measured.gets.count() > 20, "one a millisecond was due, {} counted", measured.gets.count());
        assert!(measured.gets.max_ms() > 35.0 && measured.late > 20, "{} ms, {} late", measured.gets.max_ms(), measured.late);
        assert_eq!((measured.operations, measured.unsent), (0, 0), "none ended in the window");
        let document = timeline.document();
        assert_eq!((&document[0]["count"], &document[0]["operations"]), (&json!(measured.gets.count()), &json!(0)));
    }

    /// Users do not wait for each other: with one request in flight this would not end.
    #[tokio::test]
    async fn an_open_loop_sends_what_is_due_whatever_is_not_answered_yet() {
        let mut case = Case { in_flight_max: 100, catch_up: Duration::from_secs(60), ..Case::of(Shape::C, Some(1000.0), 30) };
        case.store.answers_together = 30;
        let (measured, ..) = case.run().await;
        assert!(measured.gets.count() >= 30 && measured.unsent == 0, "{}, {}", measured.gets.count(), measured.unsent);
    }

    #[tokio::test]
    async fn what_was_due_and_could_not_be_sent_in_time_is_counted() {
        let case = Case::of(Shape::C, Some(1000.0), 1);
        let (measured, ..) = Case { stands_still: STILL, ..case }.run().await;
        assert!(measured.unsent > 20 && measured.gets.count() == 1, "{}, {}", measured.unsent, measured.gets.count());
    }

    #[tokio::test]
    async fn what_ended_in_the_window_is_what_was_done_and_what_began_in_it_is_what_was_waited_for() {
        let (measured, ..) = Case::of(Shape::C, None, 3).run().await;
        assert_eq!((measured.operations, measured.gets.count(), measured.unsent), (2, 3, 0));
    }

    #[tokio::test]
    async fn a_request_that_is_due_behind_the_end_is_not_waited_for() {
        // One in a quarter of an hour.
        let case = || Case::of(Shape::C, Some(0.001), 0);
        let (measured, ..) = Case { length: Some(STILL), ..case() }.run().await;
        assert_eq!((measured.operations, measured.unsent), (0, 0));
        // Nor if nobody knew the end when the wait began.
        let case = case();
        let ends = case.store.ends.clone();
        let ending = async { ends.send_replace(Some(Instant::now())) };
        let ((measured, ..), _) = tokio::join!(case.run(), ending);
        assert_eq!((measured.operations, measured.unsent), (0, 0));
    }

    #[tokio::test]
    async fn a_get_that_finds_nothing_is_an_error() {
        let mut case = Case::of(Shape::C, None, 3);
        case.store.is_empty = true;
        let (measured, ..) = case.run().await;
        let (count, text) = &measured.errors["absent"];
        assert!(*count == 3 && text.starts_with("keys/user000000000"), "{count}: {text}");
        assert_eq!((measured.gets.count(), measured.operations), (0, 0));
    }

    #[tokio::test]
    async fn a_put_that_is_refused_for_siblings_is_made_once_they_are_read_and_counted() {
        for shape in [Shape::A, Shape::F] {
            let mut case = Case::of(shape, None, 200);
            case.store.is_too_large = true;
            let (measured, ..) = case.run().await;
            assert!(measured.merged > 20 && measured.errors.is_empty(), "{} merged, {:?}", measured.merged, measured.errors);
        }
    }

    #[tokio::test]
    async fn a_put_that_has_a_get_in_its_time_is_counted() {
        for (shape, gives_no_token, reads_first) in
            [(Shape::Update, true, true), (Shape::Update, false, false), (Shape::F, true, false)]
        {
            let mut case = Case::of(shape, None, 50);
            case.store.gives_no_token = gives_no_token;
            let (measured, ..) = case.run().await;
            let expected = if reads_first { measured.puts.count() } else { 0 };
            assert!(measured.puts.count() > 5 && measured.read_first == expected, "{shape:?}: {}", measured.read_first);
        }
    }

    #[tokio::test]
    async fn a_record_whose_insert_failed_is_not_asked_for() {
        let mut case = Case::of(Shape::D, None, 200);
        case.store.refuses = true;
        let (measured, session, _) = case.run().await;
        assert!(measured.operations > 0 && measured.errors["unavailable"].0 > 0);
        assert_eq!(session.inserts().there(), 10);
        let (_, session, _) = Case::of(Shape::D, None, 200).run().await;
        assert!(session.inserts().there() > 10);
    }

    #[tokio::test]
    async fn runs_with_the_same_keys_share_what_was_loaded_and_not_what_they_add() {
        let (_, one, _) = Case::of(Shape::C, None, 1).run().await;
        let other = Session::new(one.target.clone(), one.data.clone(), one.keys.clone(), &mut Random::new(2));
        assert_eq!((one.key(9).as_str(), other.key(9).as_str()), ("keys/user0000000009", "keys/user0000000009"));
        assert_ne!(one.key(10), other.key(10));
    }
}
