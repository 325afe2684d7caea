//! One look: reads the live objects from the API server, not from a cache, and asks every node for its own view.
//!
//! Lists are read with the API server's strongest guarantee, since what is decided on them may remove a pod or a volume. An error
//! of the API server fails the look as a whole; a node that does not answer is a pod without a view.

mod objects;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;

use axum::http::header::DATE;
use axum::http::{Request, Uri};
use dynamo_core::id::Epoch;
use dynamo_core::ring::Ring;
use futures::future::try_join_all;
use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::fmt::rfc2822;
use kube::api::{ListParams, PartialObjectMeta};
use kube::client::Body;
use kube::{Api, Client};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::build::{
    client_service, config_map, headless_service, labels, pod, pod_disruption_budget, ring_record, service_account, stateful_set,
};
use crate::nodes::{self, Nodes, PATIENCE, Patience};
use crate::observed::{Configuration, Observed, Set};
use crate::plan;
use crate::valid::{Place, ValidCluster};

pub use objects::{is_claim_of, is_owned, set};

/// Names of pods that are looked up in one look, where sets lack pods: a quota may keep hundreds from being made.
const STRANGERS_MAX: usize = 16;

/// What is known of a node while there is no answer of it.
const UNHEARD: &str = "was not asked, or not heard, before the look ended: too many others say nothing";

/// The live objects themselves, for comparing them with what they should be.
#[derive(Default)]
pub struct Live {
    /// By zone.
    pub sets: BTreeMap<String, StatefulSet>,
    /// NAME-config-HASH, or NAME-config: the one that pods are to read.
    pub config_map: Option<ConfigMap>,
    /// NAME-peers.
    pub headless_service: Option<Service>,
    /// NAME.
    pub client_service: Option<Service>,
    /// NAME.
    pub service_account: Option<ServiceAccount>,
    /// NAME.
    pub pod_disruption_budget: Option<PodDisruptionBudget>,
}

impl Live {
    /// The size of the claims that each zone's set makes.
    pub fn claim_sizes(&self) -> BTreeMap<String, String> {
        let size = |(zone, set): (&String, &StatefulSet)| Some((zone.clone(), stateful_set::claim_size(set)?.to_owned()));
        self.sets.iter().filter_map(size).collect()
    }
}

/// Looks at `cluster`.
pub async fn observe(client: &Client, nodes: &dyn Nodes, cluster: &ValidCluster) -> Result<(Observed, Live), kube::Error> {
    let namespace = &cluster.namespace;
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(client.clone(), namespace);
    let names = [
        config_map::former_name(cluster),
        headless_service::name(cluster),
        client_service::name(cluster),
        service_account::name(cluster),
        pod_disruption_budget::name(cluster),
        ring_record::name(cluster),
        config_map::name(cluster),
    ];
    let (sets, former_config_map, headless_service, client_service, service_account, pod_disruption_budget, record, config_map) =
        tokio::try_join!(
            read_sets(client, cluster),
            config_maps.get_opt(&names[0]),
            services.get_opt(&names[1]),
            services.get_opt(&names[2]),
            accounts.get_opt(&names[3]),
            budgets.get_opt(&names[4]),
            config_maps.get_opt(&names[5]),
            config_maps.get_opt(&names[6]),
        )?;
    let keeps_former_configuration = objects::keeps_former_configuration(cluster, former_config_map.as_ref(), sets.values());
    let config_map = if keeps_former_configuration { former_config_map } else { config_map };
    let live = Live { sets, config_map, headless_service, client_service, service_account, pod_disruption_budget };
    let mut observed = Observed { keeps_former_configuration, ..Observed::default() };
    note_taken(cluster, &live, record.as_ref(), &mut observed);
    if !observed.taken.is_empty() {
        return Ok((observed, live));
    }
    observed.record = ring_record::read(cluster, record);
    observed.sets = live.sets.iter().map(|(zone, set)| (zone.clone(), objects::set(set))).collect();
    let of_cluster = ListParams::default().labels(&labels::cluster_text(cluster));
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    // A list of all that is known of ConfigMaps would bring the ring once more.
    let (of_sets, listed, configurations) =
        tokio::try_join!(pods.list(&of_cluster), claims.list(&of_cluster), config_maps.list_metadata(&of_cluster))?;
    observed.configurations = read_configurations(cluster, &live, &of_sets.items, configurations.items);
    let counts = of_sets.items.iter().any(objects::starts_or_ends) || observed.sets.values().any(Set::lacks_pods);
    observed.time = if counts { time(client).await? } else { Timestamp::now() };
    let (sets, now) = (&observed.sets, observed.time);
    observed.pods = of_sets.items.iter().filter_map(|pod| objects::pod(cluster, sets, pod, now)).collect();
    observed.strangers = read_strangers(&pods, cluster, &observed).await?;
    observed.volumes = listed.items.iter().filter_map(|claim| objects::volume(cluster, claim)).collect();
    observed.misplaced = listed.items.iter().filter_map(|claim| objects::misplaced(cluster, claim)).collect();
    let unlisted = read_unlisted(&claims, cluster, &observed).await?;
    observed.volumes.extend(unlisted.iter().filter_map(|claim| objects::volume(cluster, claim)));
    explain_unbound(cluster, &mut observed);
    ask_nodes(nodes, cluster, &mut observed, PATIENCE).await;
    Ok((observed, live))
}

/// The scheduler says of a pod that its claim has no volume, and not which claim, nor of which class.
fn explain_unbound(cluster: &ValidCluster, observed: &mut Observed) {
    for (place, pod) in &mut observed.pods {
        let Some(volume) = observed.volumes.get(place).filter(|volume| !volume.bound) else { continue };
        let Some(trouble) = pod.trouble.as_mut().filter(|trouble| trouble.contains("unbound immediate")) else { continue };
        let claim = cluster.claim_name(place);
        *trouble += &match volume.class.as_str() {
            "" if cluster.storage.storage_class_name.is_some() => format!(
                "; claim {claim} is of no storage class, since spec.storage.storageClassName is \"\", and waits for a volume that somebody makes by \
                 hand; to have one made, delete this cluster and its claims, and create it again without that field or with a class"
            ),
            "" => format!(
                "; claim {claim} has no storage class: make one the default class, or delete this cluster and its claims, and create it again with \
                 spec.storage.storageClassName"
            ),
            class => format!("; claim {claim} waits for a volume of storage class {class:?}, and its Events say why"),
        };
    }
}

/// The time by the clock of the API server, which says it with every answer. Those in objects are by that clock, or near it; that of this
/// machine may be minutes off.
async fn time(client: &Client) -> Result<Timestamp, kube::Error> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = Uri::from_static("/version");
    let answer = client.send(request).await?;
    let date = answer.headers().get(DATE).and_then(|date| rfc2822::parse(date.to_str().ok()?).ok());
    Ok(date.map_or_else(Timestamp::now, |date| date.timestamp()))
}

/// The ConfigMaps with configurations, and whether somebody names them: also a pod that no set of the cluster owns any more. The one that
/// pods are to read counts whatever labels it has.
fn read_configurations(
    cluster: &ValidCluster,
    live: &Live,
    pods: &[Pod],
    listed: Vec<PartialObjectMeta<ConfigMap>>,
) -> BTreeMap<String, Configuration> {
    let templates = live.sets.values().filter_map(|set| set.spec.as_ref()?.template.spec.as_ref());
    let specs = templates.chain(pods.iter().filter_map(|pod| pod.spec.as_ref()));
    let used: BTreeSet<&str> = specs.flat_map(|spec| pod::config_maps(Some(spec))).collect();
    let current = live.config_map.as_ref().map(|config_map| config_map.metadata.clone());
    let all = listed.into_iter().map(|listed| listed.metadata).chain(current);
    let configuration = |metadata: ObjectMeta| {
        let used = metadata.name.as_deref().is_some_and(|name| used.contains(name));
        objects::configuration(cluster, &metadata, used)
    };
    all.filter_map(configuration).collect()
}

/// The pods that have the names of others that a set cannot make: it has let go of them, since somebody changed their labels, or they are
/// left by another one.
async fn read_strangers(
    pods: &Api<Pod>,
    cluster: &ValidCluster,
    observed: &Observed,
) -> Result<BTreeMap<Place, String>, kube::Error> {
    let lacking = cluster.places().filter(|place| observed.lacks_pod(place)).take(STRANGERS_MAX);
    let reads = lacking.map(|place| {
        let name = cluster.pod_name(&place);
        async move { Ok::<_, kube::Error>((place, pods.get_opt(&name).await?)) }
    });
    let read = try_join_all(reads).await?;
    let told = |(place, pod): (Place, Option<Pod>)| {
        let told = objects::stranger(cluster, &place, &observed.sets.get(&place.zone)?.uid, &pod?)?;
        Some((place, told))
    };
    Ok(read.into_iter().filter_map(told).collect())
}

/// The claims of pods that no list shows: Kubernetes gives a pod the claim of its name, whatever labels that has.
async fn read_unlisted(
    claims: &Api<PersistentVolumeClaim>,
    cluster: &ValidCluster,
    observed: &Observed,
) -> Result<Vec<PersistentVolumeClaim>, kube::Error> {
    let unlisted = observed.pods.keys().filter(|place| !observed.volumes.contains_key(place));
    let reads = unlisted.map(|place| {
        let name = cluster.claim_name(place);
        async move { claims.get_opt(&name).await }
    });
    Ok(try_join_all(reads).await?.into_iter().flatten().collect())
}

async fn read_sets(client: &Client, cluster: &ValidCluster) -> Result<BTreeMap<String, StatefulSet>, kube::Error> {
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), &cluster.namespace);
    let reads = cluster.zones().iter().map(|zone| {
        let (sets, name) = (sets.clone(), cluster.set_name(&zone.name));
        async move { Ok::<_, kube::Error>((zone.name.clone(), sets.get_opt(&name).await?)) }
    });
    let read = try_join_all(reads).await?;
    Ok(read.into_iter().filter_map(|(zone, set)| set.map(|set| (zone, set))).collect())
}

/// Notes the objects under the cluster's names that this very cluster does not own: of another application, or left by a cluster of the same
/// name that is still being cleaned up. And those of them that have lost their owner, as by `kubectl replace` or a restore; and the names of
/// other clusters that own some.
///
/// Where the record says that the cluster is there already, it goes on beside what is not its pods and not its data: whoever replaced its
/// Service keeps no lost member from its replacement.
fn note_taken(cluster: &ValidCluster, live: &Live, record: Option<&ConfigMap>, observed: &mut Observed) {
    let is_there = record.is_some_and(|record| objects::is_owned(&record.metadata, &cluster.uid));
    let mut check = |kind: &str, metadata: Option<&ObjectMeta>| {
        let Some(metadata) = metadata.filter(|metadata| !objects::is_owned(metadata, &cluster.uid)) else { return };
        let object = format!("{kind} {}", metadata.name.as_deref().unwrap_or_default());
        if objects::is_ownerless(cluster, metadata) {
            observed.ownerless.push(object.clone());
        }
        observed.neighbours.extend(objects::neighbour(metadata));
        let holds_up = !is_there || ["ConfigMap", "StatefulSet"].contains(&kind);
        let noted = if holds_up { &mut observed.taken } else { &mut observed.passed_by };
        noted.push(object);
    };
    check("ServiceAccount", live.service_account.as_ref().map(|object| &object.metadata));
    check("ConfigMap", live.config_map.as_ref().map(|object| &object.metadata));
    check("ConfigMap", record.map(|object| &object.metadata));
    check("Service", live.headless_service.as_ref().map(|object| &object.metadata));
    check("Service", live.client_service.as_ref().map(|object| &object.metadata));
    check("PodDisruptionBudget", live.pod_disruption_budget.as_ref().map(|object| &object.metadata));
    for set in live.sets.values() {
        check("StatefulSet", Some(&set.metadata));
    }
}

/// First every node's view; then the newest ring, if it is newer than the record; then the receipts.
async fn ask_nodes(nodes: &dyn Nodes, cluster: &ValidCluster, observed: &mut Observed, patience: Patience) {
    let began = Instant::now();
    let with_address = observed.pods.iter_mut().filter_map(|(place, pod)| {
        let address = pod.address.clone()?;
        pod.silence = Some(UNHEARD.to_owned());
        Some((place.clone(), address, pod.ready))
    });
    let mut asked: Vec<(Place, String, bool)> = with_address.collect();
    // What answers is not to wait for what does not.
    asked.sort_by_key(|(_, _, ready)| !ready);
    let answers = stream::iter(asked)
        .map(|(place, address, _)| async move {
            let answer = nodes.status(cluster, &address).await;
            (place, answer)
        })
        .buffer_unordered(nodes::ASKED_MAX);
    let answers = heard_until(began + patience.views, answers).await;
    for (place, answer) in answers {
        let Some(pod) = observed.pods.get_mut(&place) else { continue };
        (pod.node, pod.silence) = match answer {
            Ok(node) => (Some(node), None),
            Err(reason) => (None, Some(reason)),
        };
    }
    let end = began + patience.all;
    observed.newer = timeout_at(end, newer_ring(nodes, observed)).await.unwrap_or_default();
    let wanted = plan::receipts_wanted(cluster, observed);
    let receipts = wanted.iter().filter_map(|place| {
        let pod = observed.pods.get(place)?;
        Some((pod.node.as_ref()?.id, pod.address.clone()?))
    });
    let answers = stream::iter(receipts.collect::<Vec<_>>())
        .map(|(node, address)| async move { (node, nodes.receipt(&address).await) })
        .buffer_unordered(nodes::ASKED_MAX);
    observed.receipts = heard_until(end, answers).await.into_iter().collect();
}

/// What `answers` brings until `end`.
async fn heard_until<T>(end: Instant, answers: impl Stream<Item = T>) -> Vec<T> {
    let mut answers = pin!(answers);
    let mut end = pin!(sleep_until(end));
    let mut heard = Vec::new();
    loop {
        tokio::select! {
            // What has come counts, also where the time is over.
            biased;
            answer = answers.next() => match answer {
                Some(answer) => heard.push(answer),
                None => return heard,
            },
            () = &mut end => return heard,
        }
    }
}

async fn newer_ring(nodes: &dyn Nodes, observed: &Observed) -> Option<Ring> {
    let recorded = observed.record.ring().map_or(Epoch(0), |ring| ring.epoch);
    let newest = observed.nodes().map(|(_, node)| node.epoch).max().filter(|epoch| *epoch > recorded)?;
    for (place, node) in observed.nodes() {
        let address = observed.pods.get(place).and_then(|pod| pod.address.as_deref());
        if node.epoch == newest
            && let Some(address) = address
            && let Ok(Some(ring)) = nodes.ring(address).await
        {
            return Some(ring);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use dynamo_core::id::NodeId;
    use dynamo_core::node::receipt::Receipt;
    use serde_json::{Value, json};

    use super::*;
    use crate::fake_api::FakeApi;
    use crate::nodes::{Answer, Network};
    use crate::observed::{self, Node};
    use crate::valid::tests::valid;

    #[tokio::test]
    async fn a_pod_whose_claim_has_no_volume_names_the_claim_and_its_class() {
        const SET: &str = "/apis/apps/v1/namespaces/shop/statefulsets/cart";
        let (api, cluster) = (FakeApi::default(), valid(3, &[]));
        api.put(SET, serde_json::to_value(stateful_set::build(&cluster, &cluster.zones()[0], 3)).unwrap());
        let uid = api.object(SET).unwrap()["metadata"]["uid"].clone();
        let owner = json!([{ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "cart", "uid": uid, "controller": true }]);
        let words = ["pod has unbound immediate PersistentVolumeClaims. not found", "Insufficient memory"];
        let cases = [(0, words[0], json!("fastt")), (1, words[0], Value::Null), (2, words[1], json!("fastt"))];
        for (ordinal, message, class) in cases {
            let (name, claim) = (format!("cart-{ordinal}"), format!("data-cart-{ordinal}"));
            let unscheduled = json!({ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message });
            let metadata = json!({ "name": name, "labels": labels::all(&cluster), "ownerReferences": owner });
            let status = json!({ "phase": "Pending", "conditions": [unscheduled] });
            api.put(&format!("/api/v1/namespaces/shop/pods/{name}"), json!({ "metadata": metadata, "status": status }));
            let claim_path = format!("/api/v1/namespaces/shop/persistentvolumeclaims/{claim}");
            let metadata = json!({ "name": claim, "labels": labels::all(&cluster) });
            api.put(
                &claim_path,
                json!({ "metadata": metadata, "spec": { "storageClassName": class }, "status": { "phase": "Pending" } }),
            );
        }
        let (observed, _) = observe(&api.client(), &Network, &cluster).await.unwrap();
        let told: Vec<String> = observed.pods.values().filter_map(|pod| pod.trouble.clone()).collect();
        let mut classless = cluster.clone();
        classless.storage.storage_class_name = Some(String::new());
        let (by_hand, _) = observe(&api.client(), &Network, &classless).await.unwrap();
        let of_none = by_hand.pods.values().nth(1).unwrap().trouble.clone().unwrap();
        assert!(
            of_none.contains("; claim data-cart-1 is of no storage class, since spec.storage.storageClassName is \"\""),
            "{of_none}"
        );
        assert!(
            told[0].ends_with("; claim data-cart-0 waits for a volume of storage class \"fastt\", and its Events say why"),
            "{told:?}"
        );
        assert!(told[1].contains("; claim data-cart-1 has no storage class: make one the default class"), "{told:?}");
        assert!(told[2].ends_with("Insufficient memory"), "{told:?}");
    }

    /// Each pod that starts would be left out of a growth else, or one that hangs be waited for.
    #[tokio::test]
    async fn a_pod_is_late_by_the_clock_of_the_api_server_and_not_by_that_of_this_machine() {
        const SET: &str = "/apis/apps/v1/namespaces/shop/statefulsets/cart";
        let (api, cluster) = (FakeApi::default(), valid(3, &[]));
        api.put(SET, serde_json::to_value(stateful_set::build(&cluster, &cluster.zones()[0], 3)).unwrap());
        let uid = api.object(SET).unwrap()["metadata"]["uid"].clone();
        let owner = json!([{ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "cart", "uid": uid, "controller": true }]);
        let scheduled = json!({ "type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" });
        api.put(
            "/api/v1/namespaces/shop/pods/cart-0",
            json!({
                "metadata": { "name": "cart-0", "labels": labels::all(&cluster), "ownerReferences": owner },
                "status": { "phase": "Pending", "conditions": [scheduled] },
            }),
        );
        for (date, late) in [("Thu, 01 Jan 2026 00:04:59 GMT", false), ("Thu, 01 Jan 2026 00:05:01 GMT", true)] {
            api.tell_the_time(date);
            let (observed, _) = observe(&api.client(), &Network, &cluster).await.unwrap();
            let pods: Vec<bool> = observed.pods.values().map(|pod| pod.trouble.is_some()).collect();
            assert_eq!(pods, [late], "{date}");
        }
    }

    /// Nodes of which only the one at "here" says anything, and how many were asked.
    #[derive(Default)]
    struct Mute(AtomicUsize);

    impl Nodes for Mute {
        fn status<'a>(&'a self, _: &'a ValidCluster, address: &'a str) -> Answer<'a, Node> {
            self.0.fetch_add(1, Ordering::Relaxed);
            match address {
                "here" => Box::pin(async { Ok(Node::holding(NodeId([7; 16]), None)) }),
                _ => Box::pin(std::future::pending()),
            }
        }

        fn ring<'a>(&'a self, _: &'a str) -> Answer<'a, Option<Ring>> {
            Box::pin(std::future::pending())
        }

        fn offer<'a>(&'a self, _: &'a str, _: &'a Ring) -> Answer<'a, ()> {
            Box::pin(std::future::pending())
        }

        fn receipt<'a>(&'a self, _: &'a str) -> Answer<'a, Receipt> {
            Box::pin(std::future::pending())
        }
    }

    /// Else no pass would ever end, and not even an image that cures them be rolled out.
    #[tokio::test]
    async fn a_look_ends_however_many_nodes_say_nothing_and_hears_those_that_are_ready() {
        let (mute, cluster) = (Mute::default(), valid(3, &[]));
        let pod = |ordinal: u32| {
            let address = if ordinal == 999 { "here" } else { "away" };
            let pod = observed::Pod { address: Some(address.to_owned()), ready: ordinal == 999, ..observed::Pod::default() };
            (Place { zone: "default".into(), ordinal }, pod)
        };
        let mut observed = Observed { pods: (0..1000).map(pod).collect(), ..Observed::default() };
        let patience = Patience { views: Duration::ZERO, all: Duration::ZERO };
        ask_nodes(&mute, &cluster, &mut observed, patience).await;
        assert_eq!(mute.0.load(Ordering::Relaxed), nodes::ASKED_MAX + 1, "and one in the place of the one that answered");
        let heard: Vec<u32> = observed.nodes().map(|(place, _)| place.ordinal).collect();
        let silent = observed.pods.values().filter(|pod| pod.silence.as_deref() == Some(UNHEARD)).count();
        assert_eq!((heard, silent), (vec![999], 999));
    }
}
