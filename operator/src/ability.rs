//! Whether the replica that acts still can: it reads clusters, and tells how they are.
//!
//! Who takes its rights away leaves the process alive and the clusters' status as it was told last, which nobody can see from there. So it
//! calls itself not ready: that shows in `kubectl get pods` and in its Deployment. Nothing restarts it for that, and it is ready again as soon
//! as it can act.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use kube::api::ListParams;
use kube::{Api, Client};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::api::DynamoCluster;
use crate::controller::{Context, api};
use crate::http::Readiness;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(10);
/// What fails for less time says nothing: an API server that is replaced takes it.
const FAILING_MAX: Duration = Duration::from_secs(60);

/// What is known of it.
pub struct Ability {
    clusters: Api<DynamoCluster>,
    /// Since when no cluster could be read.
    unread: Option<Instant>,
}

impl Ability {
    /// To act on the clusters of `namespace`, or of all namespaces.
    pub fn new(client: &Client, namespace: Option<&str>) -> Self {
        Self { clusters: api(client, namespace), unread: None }
    }

    /// Keeps `readiness` true to it.
    pub async fn tell(&mut self, context: &Context, readiness: &Readiness) -> Infallible {
        loop {
            sleep(PERIOD).await;
            let is_able = self.look(context, Instant::now()).await;
            match (readiness.is_ready(), is_able) {
                (true, false) => {
                    warn!("not ready: clusters cannot be read, or their status not be written; may this operator do that?")
                }
                (false, true) => info!("ready: clusters are read and told again"),
                (true, true) | (false, false) => {}
            }
            readiness.set(is_able);
        }
    }

    /// Whether it can act, or could not long ago.
    async fn look(&mut self, context: &Context, now: Instant) -> bool {
        let read = timeout(PERIOD, self.clusters.list(&ListParams::default().limit(1))).await;
        self.unread = if matches!(read, Ok(Ok(_))) { None } else { self.unread.or(Some(now)) };
        let is_long_ago = |since: Instant| now.duration_since(since) >= FAILING_MAX;
        !self.unread.is_some_and(is_long_ago) && !context.untold_since().is_some_and(is_long_ago)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dynamo_api_server::Refusal;

    use super::*;
    use crate::controller::reconcile;
    use crate::fake_api::FakeApi;
    use crate::nodes::Network;
    use crate::valid::tests::cluster;

    const CLUSTERS: &str = "/apis/dynamokv.io/v1alpha1/namespaces/shop/dynamoclusters";

    #[tokio::test]
    async fn a_leader_that_may_not_read_clusters_or_write_their_status_is_not_ready_until_it_may() {
        let api = FakeApi::default();
        let context = Arc::new(Context::new(api.client(), Arc::new(Network), Arc::default(), None));
        let cart = Arc::new(cluster(3, &[]));
        api.put(&format!("{CLUSTERS}/cart"), serde_json::to_value(&*cart).unwrap());
        let mut ability = Ability::new(&api.client(), Some("shop"));
        let pass = async || reconcile(Arc::clone(&cart), Arc::clone(&context)).await.is_ok();
        for refused in [format!("GET {CLUSTERS}"), format!("PATCH {CLUSTERS}/cart")] {
            api.edit(&format!("{CLUSTERS}/cart"), |cluster| cluster["status"] = serde_json::json!({ "observedGeneration": -1 }));
            api.refuse(&refused, Refusal::Forbidden("dynamoclusters is forbidden".into()));
            let before = Instant::now();
            assert_eq!(pass().await, refused.starts_with("GET"), "{refused}");
            for passed in [Duration::ZERO, FAILING_MAX - Duration::from_millis(1)] {
                assert!(ability.look(&context, before + passed).await, "{refused}: it may be over soon");
            }
            let later = Instant::now() + FAILING_MAX;
            assert!(!ability.look(&context, later).await, "{refused}");
            api.refuse_nothing();
            assert!(pass().await);
            assert!(ability.look(&context, later).await, "{refused}: it may again");
        }
    }

    #[tokio::test]
    async fn a_cluster_that_is_gone_or_another_by_now_is_not_told_of_for_ever() {
        let api = FakeApi::default();
        let context = Arc::new(Context::new(api.client(), Arc::new(Network), Arc::default(), None));
        let cart = Arc::new(cluster(3, &[]));
        let mut another = cluster(3, &[]);
        another.metadata.uid = Some("1d9ce1ab-2a0e-4b0c-9f3e-5f2a7b6c8d9e".into());
        for successor in [Some(another), None] {
            api.remove(&format!("{CLUSTERS}/cart"));
            api.put(&format!("{CLUSTERS}/cart"), serde_json::to_value(&*cart).unwrap());
            api.refuse(&format!("PATCH {CLUSTERS}/cart"), Refusal::Forbidden("dynamoclusters is forbidden".into()));
            reconcile(Arc::clone(&cart), Arc::clone(&context)).await.unwrap_err();
            assert!(context.untold_since().is_some());
            api.refuse_nothing();
            api.remove(&format!("{CLUSTERS}/cart"));
            if let Some(successor) = successor {
                api.put(&format!("{CLUSTERS}/cart"), serde_json::to_value(&successor).unwrap());
            }
            reconcile(Arc::clone(&cart), Arc::clone(&context)).await.unwrap();
            assert_eq!(context.untold_since(), None);
        }
    }
}
