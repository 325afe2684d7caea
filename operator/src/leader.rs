//! Who acts: one operator at a time, by a Lease.
//!
//! Clocks are not compared. A candidate takes a lease over only after it has itself watched it unchanged for the whole of its
//! duration; the holder gives up earlier than that when it cannot renew. A lease is advice all the same: a paused process may come
//! back late. What keeps two operators from doing harm is the record of the ring, written under its resourceVersion.
//!
//! ```text
//! candidate --free, or unchanged for DURATION--> holder --renewal fails for RENEW_DEADLINE--> lost: the process ends
//! ```

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::http::Readiness;

/// How long a holder that says nothing is respected.
const DURATION: Duration = Duration::from_secs(15);
/// After this long without a renewal the holder ends; shorter than [`DURATION`], so it ends before another begins.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// A renewal gets at least this long, also where it comes late since this process stood still; but never longer than the lease is its own.
const RENEWAL_MIN: Duration = Duration::from_secs(2);
/// Between two renewals, or two looks of a candidate.
const PERIOD: Duration = Duration::from_secs(2);
/// After this long without an answer the lease is not given back, and the next operator waits for its end.
const RELEASE_MAX: Duration = Duration::from_secs(5);

/// A Lease, and who wants to hold it.
pub struct Election {
    leases: Api<Lease>,
    name: String,
    identity: String,
    /// After this long without an answer an attempt to get it is over: who waits for ever learns nothing, and shows nothing.
    attempt_max: Duration,
    release_max: Duration,
}

/// What a candidate has seen of a lease: its version, and since when it has been that.
struct Watched {
    version: Option<String>,
    since: Instant,
}

impl Watched {
    /// Whether `lease` may be taken by `identity`: it is free, or was its own, or its holder has said nothing for too long.
    fn may_take(&mut self, lease: &Lease, identity: &str, now: Instant) -> bool {
        if self.version != lease.metadata.resource_version {
            *self = Self { version: lease.metadata.resource_version.clone(), since: now };
        }
        match holder(lease) {
            None | Some("") => true,
            Some(holder) => holder == identity || now.duration_since(self.since) >= DURATION,
        }
    }
}

impl Election {
    /// For the lease `name` in `namespace`; `identity` is the pod's name.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        let (leases, name, identity) = (Api::namespaced(client, namespace), name.to_owned(), identity.to_owned());
        Self { leases, name, identity, attempt_max: RENEW_DEADLINE, release_max: RELEASE_MAX }
    }

    /// Ends when the lease is held, and says since when: others count from the write, and that may be answered late. Whether it could be is the
    /// readiness meanwhile.
    pub async fn acquire(&self, readiness: &Readiness) -> Instant {
        let mut watched = Watched { version: None, since: Instant::now() };
        info!(lease = self.name, identity = self.identity, "waiting for the lease");
        loop {
            if let Some(written) = self.try_to_acquire(&mut watched, readiness).await {
                info!(lease = self.name, identity = self.identity, "holding the lease");
                return written;
            }
            sleep(PERIOD).await;
        }
    }

    /// Renews the lease that is held since `renewed`; ends when it is lost.
    pub async fn hold(&self, mut renewed: Instant) {
        loop {
            sleep(PERIOD).await;
            let Some(at) = self.try_to_renew(renewed).await else { return };
            renewed = at;
        }
    }

    /// When the lease was renewed last, which was at `renewed` before; nothing once it is lost.
    async fn try_to_renew(&self, renewed: Instant) -> Option<Instant> {
        // It counts from before it is written, as for those who watch it.
        let started = Instant::now();
        match timeout(time_for_renewal(started.duration_since(renewed)), self.renew()).await {
            Ok(Ok(true)) => return Some(started),
            Ok(Ok(false)) => {
                warn!(lease = self.name, "another operator holds the lease");
                return None;
            }
            Ok(Err(error)) => warn!(lease = self.name, %error, "the lease was not renewed"),
            Err(_) => {}
        }
        if renewed.elapsed() >= RENEW_DEADLINE {
            warn!(lease = self.name, "the lease could not be renewed in time");
            return None;
        }
        Some(renewed)
    }

    /// Gives the lease back, so that the next operator need not wait.
    pub async fn release(&self) {
        let release = async {
            let Some(mut lease) = self.leases.get_opt(&self.name).await? else { return Ok(()) };
            if holder(&lease) != Some(self.identity.as_str()) {
                return Ok(());
            }
            lease.spec.get_or_insert_default().holder_identity = None;
            self.leases.replace(&self.name, &PostParams::default(), &lease).await.map(|_| ())
        };
        match timeout(self.release_max, release).await {
            Ok(released) => {
                if let Err(error) = released.or_else(expected) {
                    warn!(lease = self.name, %error, "the lease was not given back");
                }
            }
            Err(_) => warn!(lease = self.name, "the lease was not given back in time"),
        }
    }

    async fn try_to_acquire(&self, watched: &mut Watched, readiness: &Readiness) -> Option<Instant> {
        // A write that arrives late is no harm: the next look finds the lease to be this candidate's own.
        let attempt = timeout(self.attempt_max, self.attempt(watched)).await;
        readiness.set(matches!(attempt, Ok(Ok(_))));
        match attempt {
            Ok(Ok(held)) => held,
            Ok(Err(error)) => {
                warn!(lease = self.name, %error, "the lease cannot be read or written");
                None
            }
            Err(_) => {
                warn!(lease = self.name, "the lease cannot be read or written in time");
                None
            }
        }
    }

    /// When it was written to be this candidate's, if it was.
    async fn attempt(&self, watched: &mut Watched) -> Result<Option<Instant>, kube::Error> {
        let Some(mut lease) = self.leases.get_opt(&self.name).await? else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let mut lease = Lease { metadata, spec: None };
            self.take(&mut lease);
            let started = Instant::now();
            let created = written(self.leases.create(&PostParams::default(), &lease).await)?;
            return Ok(created.then_some(started));
        };
        if !watched.may_take(&lease, &self.identity, Instant::now()) {
            // Who may read it and not write it would wait for ever.
            let asked = self.leases.replace(&self.name, &PostParams { dry_run: true, ..PostParams::default() }, &lease).await;
            return written(asked).map(|_| None);
        }
        self.take(&mut lease);
        let started = Instant::now();
        let replaced = written(self.leases.replace(&self.name, &PostParams::default(), &lease).await)?;
        Ok(replaced.then_some(started))
    }

    async fn renew(&self) -> Result<bool, kube::Error> {
        let mut lease = self.leases.get(&self.name).await?;
        if holder(&lease) != Some(self.identity.as_str()) {
            return Ok(false);
        }
        lease.spec.get_or_insert_default().renew_time = Some(MicroTime(Timestamp::now()));
        // A conflict is no loss yet: the next look tells who wrote.
        self.leases.replace(&self.name, &PostParams::default(), &lease).await.map(|_| true)
    }

    fn take(&self, lease: &mut Lease) {
        let now = MicroTime(Timestamp::now());
        let before = lease.spec.take().unwrap_or_default();
        let same = before.holder_identity.as_deref() == Some(self.identity.as_str());
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: if same { before.acquire_time } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(before.lease_transitions.unwrap_or(0) + i32::from(!same)),
            ..LeaseSpec::default()
        });
    }
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref()
}

/// Whether the write was ours; a conflict means that somebody was faster.
fn written(result: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match result {
        Ok(_) => Ok(true),
        Err(error) => expected(error).map(|()| false),
    }
}

/// How long a renewal may take, so long after the one before it.
fn time_for_renewal(since: Duration) -> Duration {
    RENEW_DEADLINE.saturating_sub(since).max(RENEWAL_MIN.min(DURATION.saturating_sub(since)))
}

fn expected(error: kube::Error) -> Result<(), kube::Error> {
    match error {
        kube::Error::Api(status) if status.is_conflict() || status.is_already_exists() => Ok(()),
        other => Err(other),
    }
}

#[cfg(test)]
mod tests {
    use dynamo_api_server::Refusal;

    use super::*;
    use crate::fake_api::FakeApi;

    fn unwatched() -> Watched {
        Watched { version: None, since: Instant::now() }
    }

    #[tokio::test]
    async fn one_of_two_gets_the_lease_and_the_other_when_it_is_given_back() {
        let api = FakeApi::default();
        let [first, second] = ["a", "b"].map(|pod| Election::new(api.client(), "shop", "operator", pod));
        assert!(first.attempt(&mut unwatched()).await.unwrap().is_some());
        assert!(second.attempt(&mut unwatched()).await.unwrap().is_none());
        assert!(first.renew().await.unwrap());
        assert!(!second.renew().await.unwrap(), "it is not the holder");
        first.release().await;
        assert!(second.attempt(&mut unwatched()).await.unwrap().is_some());
        assert!(!first.renew().await.unwrap(), "it has lost it");
        second.release().await;
        first.release().await;
    }

    #[tokio::test]
    async fn a_holder_that_says_nothing_is_respected_for_its_duration_and_not_longer() {
        let api = FakeApi::default();
        let [first, second] = ["a", "b"].map(|pod| Election::new(api.client(), "shop", "operator", pod));
        first.attempt(&mut unwatched()).await.unwrap();
        let (mut watched, start) = (unwatched(), Instant::now());
        let lease = first.leases.get("operator").await.unwrap();
        assert!(!watched.may_take(&lease, "b", start));
        assert!(!watched.may_take(&lease, "b", start + DURATION - Duration::from_millis(1)));
        assert!(watched.may_take(&lease, "b", start + DURATION));
        first.renew().await.unwrap();
        let renewed = first.leases.get("operator").await.unwrap();
        assert!(!watched.may_take(&renewed, "b", start + DURATION), "a renewal starts it anew");
        let mut patient = Watched { version: renewed.metadata.resource_version, since: start - DURATION };
        assert!(second.attempt(&mut patient).await.unwrap().is_some());
        let lease = second.leases.get("operator").await.unwrap();
        assert_eq!(holder(&lease), Some("b"));
        assert_eq!(lease.spec.unwrap().lease_transitions, Some(2));
    }

    /// Else it would take the place of the replica that works.
    #[tokio::test]
    async fn a_candidate_that_could_not_take_the_lease_is_not_ready_and_one_that_waits_for_it_is() {
        let path = "/apis/coordination.k8s.io/v1/namespaces/shop/leases/operator";
        let api = FakeApi::default();
        let [first, second] = ["a", "b"].map(|pod| Election::new(api.client(), "shop", "operator", pod));
        let readiness = Readiness::default();
        assert!(first.try_to_acquire(&mut unwatched(), &readiness).await.is_some() && readiness.is_ready());
        let held = api.object(path);
        for (refused, ready) in [("GET", false), ("", true), ("PUT", false), ("", true)] {
            api.refuse(&format!("{refused} {path}"), Refusal::Invalid("leases is forbidden".into()));
            assert!(second.try_to_acquire(&mut unwatched(), &readiness).await.is_none());
            assert_eq!(readiness.is_ready(), ready, "{refused} is refused");
            api.refuse_nothing();
        }
        assert_eq!(api.object(path), held, "asking writes nothing");
    }

    /// As where packets to the API server are lost: no error comes either.
    #[tokio::test]
    async fn a_candidate_that_is_not_answered_is_not_ready_and_tries_again() {
        let readiness = Readiness::default();
        readiness.set(true);
        let mut election = Election::new(FakeApi::client_that_is_not_answered(), "shop", "operator", "a");
        election.attempt_max = Duration::ZERO;
        assert!(election.try_to_acquire(&mut unwatched(), &readiness).await.is_none());
        assert!(!readiness.is_ready());
    }

    /// Who waits for it counts from the write; one that were counted from its answer could be held by two.
    #[tokio::test]
    async fn a_lease_is_held_from_its_write_on_however_late_the_answer_comes() {
        let api = FakeApi::default();
        let election = Election::new(api.client(), "shop", "operator", "a");
        let taken = election.acquire(&Readiness::default()).await;
        assert!(taken <= api.written_at().unwrap(), "it is made");
        let renewed = election.try_to_renew(taken).await.unwrap();
        assert!(taken < renewed && renewed <= api.written_at().unwrap(), "it is renewed");
        let again = election.acquire(&Readiness::default()).await;
        assert!(renewed < again && again <= api.written_at().unwrap(), "it is taken once more");
    }

    /// As where a large cluster is planned for, or the machine does something else.
    #[tokio::test]
    async fn a_renewal_that_is_late_since_the_process_stood_still_gets_a_fair_try_while_the_lease_is_its_own() {
        for (since, time) in [(0, 10), (3, 7), (9, 2), (10, 2), (13, 2), (14, 1), (15, 0), (60, 0)] {
            assert_eq!(time_for_renewal(Duration::from_secs(since)), Duration::from_secs(time), "after {since} s");
        }
        let election = Election::new(FakeApi::default().client(), "shop", "operator", "a");
        let taken = election.acquire(&Readiness::default()).await;
        let renewed = election.try_to_renew(taken - RENEW_DEADLINE).await;
        assert!(renewed.is_some_and(|renewed| renewed >= taken), "{renewed:?}");
    }

    #[tokio::test]
    async fn a_lease_that_cannot_be_renewed_in_time_is_lost() {
        let path = "/apis/coordination.k8s.io/v1/namespaces/shop/leases/operator";
        let api = FakeApi::default();
        let election = Election::new(api.client(), "shop", "operator", "a");
        let taken = election.acquire(&Readiness::default()).await;
        api.refuse(&format!("PUT {path}"), Refusal::Invalid("leases is forbidden".into()));
        assert_eq!(election.try_to_renew(taken).await, Some(taken));
        assert_eq!(election.try_to_renew(taken - RENEW_DEADLINE).await, None);
    }

    /// Else Kubernetes kills it when the pod's time to end is over.
    #[tokio::test]
    async fn a_process_that_ends_does_not_wait_for_ever_to_give_the_lease_back() {
        let mut election = Election::new(FakeApi::client_that_is_not_answered(), "shop", "operator", "a");
        election.release_max = Duration::ZERO;
        assert!(timeout(DURATION, election.release()).await.is_ok());
    }
}
