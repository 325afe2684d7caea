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

/// How long a holder that says nothing is respected.
const DURATION: Duration = Duration::from_secs(15);
/// After this long without a renewal the holder ends; shorter than [`DURATION`], so it ends before another begins.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Between two renewals, or two looks of a candidate.
const PERIOD: Duration = Duration::from_secs(2);

/// A Lease, and who wants to hold it.
pub struct Election {
    leases: Api<Lease>,
    name: String,
    identity: String,
}

/// What a candidate has seen of a lease: its version, and since when it has been that.
struct Watched {
    version: Option<String>,
    since: Instant,
}

impl Election {
    /// For the lease `name` in `namespace`; `identity` is the pod's name.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        Self { leases: Api::namespaced(client, namespace), name: name.to_owned(), identity: identity.to_owned() }
    }

    /// Ends when the lease is held.
    pub async fn acquire(&self) {
        let mut watched = Watched { version: None, since: Instant::now() };
        info!(lease = self.name, identity = self.identity, "waiting for the lease");
        loop {
            match self.attempt(&mut watched).await {
                Ok(true) => {
                    info!(lease = self.name, identity = self.identity, "holding the lease");
                    return;
                }
                Ok(false) => {}
                Err(error) => warn!(lease = self.name, %error, "the lease cannot be read or written"),
            }
            sleep(PERIOD).await;
        }
    }

    /// Renews the lease that is held; ends when it is lost.
    pub async fn hold(&self) {
        let mut renewed = Instant::now();
        loop {
            sleep(PERIOD).await;
            let left = RENEW_DEADLINE.saturating_sub(renewed.elapsed());
            match timeout(left, self.renew()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => {
                    warn!(lease = self.name, "another operator holds the lease");
                    return;
                }
                Ok(Err(error)) => warn!(lease = self.name, %error, "the lease was not renewed"),
                Err(_) => {}
            }
            if renewed.elapsed() >= RENEW_DEADLINE {
                warn!(lease = self.name, "the lease could not be renewed in time");
                return;
            }
        }
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
        if let Err(error) = release.await.or_else(expected) {
            warn!(lease = self.name, %error, "the lease was not given back");
        }
    }

    async fn attempt(&self, watched: &mut Watched) -> Result<bool, kube::Error> {
        let Some(mut lease) = self.leases.get_opt(&self.name).await? else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let mut lease = Lease { metadata, spec: None };
            self.take(&mut lease);
            return written(self.leases.create(&PostParams::default(), &lease).await);
        };
        let version = lease.metadata.resource_version.clone();
        if watched.version != version {
            *watched = Watched { version, since: Instant::now() };
        }
        let free = matches!(holder(&lease), None | Some("")) || holder(&lease) == Some(&self.identity);
        if !free && watched.since.elapsed() < DURATION {
            return Ok(false);
        }
        self.take(&mut lease);
        written(self.leases.replace(&self.name, &PostParams::default(), &lease).await)
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

fn expected(error: kube::Error) -> Result<(), kube::Error> {
    match error {
        kube::Error::Api(status) if status.is_conflict() || status.is_already_exists() => Ok(()),
        other => Err(other),
    }
}
