//! What the charts render, and what they refuse. Runs the real Helm; `make lint` does.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use serde_json::Value;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// `helm`: on PATH, or the one that `tests/e2e/cluster build` made.
fn helm() -> PathBuf {
    let programs = Command::new(repository().join("tests/e2e/cluster")).arg("programs").output().unwrap();
    let built = PathBuf::from(String::from_utf8(programs.stdout).unwrap().trim()).join("helm");
    if built.exists() { built } else { PathBuf::from("helm") }
}

/// Renders a chart with values; or says why Helm does not.
fn render(chart: &str, values: &[&str]) -> Result<String, String> {
    render_as("demo", chart, values)
}

/// The same of a release of this name.
fn render_as(release: &str, chart: &str, values: &[&str]) -> Result<String, String> {
    let values: Vec<&str> = values.iter().flat_map(|value| ["--set", value]).collect();
    render_in("shop", release, chart, &values)
}

/// The same in this namespace, with these options of Helm.
fn render_in(namespace: &str, release: &str, chart: &str, options: &[&str]) -> Result<String, String> {
    let mut command = Command::new(helm());
    command.args(["template", release, &format!("charts/{chart}"), "--namespace", namespace]).current_dir(repository());
    let output = command.args(options).output().expect("helm; build it with: tests/e2e/cluster build");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// The objects in what was rendered, as Helm reads them: by YAML 1.1, in which `on` is true. They go through a chart of their own for that.
fn objects(rendered: &str) -> Vec<Value> {
    const READ: &str = "apiVersion: v1\n{{- $objects := list }}\n{{- range splitList \"\\n---\\n\" (.Files.Get \"rendered.yaml\") }}\n\
                        {{- $objects = append $objects (fromYaml .) }}\n{{- end }}\nobjects: {{ $objects | toJson }}\n";
    let chart = scratch("objects");
    fs::create_dir_all(chart.join("templates")).unwrap();
    fs::write(chart.join("Chart.yaml"), "apiVersion: v2\nname: objects\nversion: 0.0.1\n").unwrap();
    fs::write(chart.join("rendered.yaml"), rendered).unwrap();
    fs::write(chart.join("templates/objects.yaml"), READ).unwrap();
    let output = Command::new(helm()).args(["template", "objects"]).arg(&chart).output().unwrap();
    fs::remove_dir_all(&chart).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let objects = text.lines().find_map(|line| line.strip_prefix("objects: "));
    serde_json::from_str(objects.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))).unwrap()
}

/// A folder of this very test.
fn scratch(name: &str) -> PathBuf {
    env::temp_dir().join(format!("dynamokv-charts-{name}-{}-{:?}", std::process::id(), std::thread::current().id()))
}

/// What `helm install` says at its end. It asks a Kubernetes first, even for a dry run, and `helm template` leaves the notes out: so they are
/// rendered in a copy of the chart that has an object with them.
fn notes(chart: &str, values: &[&str]) -> String {
    let shown = "apiVersion: v1\nnotes: {{ include (print $.Template.BasePath \"/NOTES.txt\") . | toJson }}\n";
    let copy = scratch("notes");
    let copied = Command::new("cp").arg("-r").arg(repository().join("charts").join(chart)).arg(&copy).status().unwrap();
    assert!(copied.success());
    fs::write(copy.join("templates/shown.yaml"), shown).unwrap();
    let mut command = Command::new(helm());
    command.args(["template", "demo", "--namespace", "shop", "--show-only", "templates/shown.yaml"]).arg(&copy);
    for value in values {
        command.args(["--set", value]);
    }
    let output = command.output().expect("helm; build it with: tests/e2e/cluster build");
    fs::remove_dir_all(&copy).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let notes = text.lines().find_map(|line| line.strip_prefix("notes: ")).expect("the object with the notes");
    serde_json::from_str(notes).unwrap()
}

#[test]
fn the_notes_name_the_nodes_image_where_the_operators_comes_from() {
    let cases: [(&[&str], &str); 4] = [
        (&[], "localhost/dynamo-node:dev"),
        (&["image.repository=registry.shop/kv/dynamo-operator", "image.tag=v2"], "registry.shop/kv/dynamo-node:v2"),
        (&["image.digest=sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"], "localhost/dynamo-node:TAG"),
        (&["image.repository=registry.shop/operator-of-kv"], "REGISTRY/dynamo-node:TAG"),
    ];
    for (values, image) in cases {
        let notes = notes("dynamo-operator", values);
        assert!(notes.starts_with("dynamo-operator ") && notes.contains(&format!("image: \"{image}\",")), "{values:?}: {notes}");
    }
}

#[test]
fn the_notes_of_a_cluster_name_its_service_for_those_outside() {
    let notes = notes("dynamo-cluster", &["name=cart"]);
    let forward = "kubectl -n shop port-forward service/cart 7400 &\n   dynamoctl --endpoint 127.0.0.1:7400 --through-endpoint get greeting";
    assert!(notes.contains(forward), "{notes}");
}

/// kubectl watches one kind at a time.
#[test]
fn the_notes_of_an_autoscaled_cluster_watch_one_kind_in_each_command() {
    let notes = notes("dynamo-cluster", &["name=cart", "autoscaling.enabled=true", "resources.requests.cpu=1"]);
    let watches: Vec<&str> = notes.lines().filter(|line| line.contains(" get ") && line.contains("--watch")).collect();
    assert!(watches.len() == 2 && watches.iter().all(|line| !line.contains(',')), "{notes}");
    assert!(watches[0].contains("get hpa cart --watch") && watches[1].contains("get dkv cart --watch"), "{notes}");
}

/// Its rights go with the namespace, so what helps an operator of all namespaces helps none of one.
#[test]
fn the_notes_of_an_operator_of_one_namespace_say_what_goes_before_that_namespace_and_what_helps_afterwards() {
    let patch = "patch dkv NAME --type=merge --patch '{\"metadata\":{\"finalizers\":null}}'";
    let of_one = notes("dynamo-operator", &["watchNamespace=orders"]);
    let told = [
        "before namespace orders is deleted, delete the clusters",
        &format!("kubectl --namespace orders {patch}"),
        "Only that command helps then, or an operator of all namespaces",
    ];
    assert!(told.iter().all(|told| of_one.contains(told)), "{of_one}");
    let of_all = notes("dynamo-operator", &[]);
    assert!(of_all.contains(&format!("kubectl {patch}")) && !of_all.contains("before namespace"), "{of_all}");
}

/// The first object of a kind in what was rendered.
fn object<'a>(rendered: &'a str, kind: &str) -> Option<&'a str> {
    rendered.split("\n---\n").find(|object| object.lines().any(|line| line == format!("kind: {kind}")))
}

#[test]
fn the_operators_objects_are_as_reviewed() {
    insta::assert_snapshot!(render("dynamo-operator", &["crds.install=false"]).unwrap());
}

#[test]
fn every_value_of_the_operators_chart_finds_its_place() {
    let values = [
        "crds.install=false",
        "replicas=2",
        "podDisruptionBudget.enabled=true",
        "metrics.service.enabled=true",
        "metrics.podMonitors.enabled=true",
        "metrics.podMonitors.interval=15s",
        "metrics.podMonitors.labels.release=prometheus",
        "metrics.rules.enabled=true",
        "metrics.rules.labels.release=prometheus",
        "image.digest=sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "imagePullSecrets[0].name=registry",
        "priorityClassName=system-cluster-critical",
        "nodeSelector.disk=ssd",
        "tolerations[0].operator=Exists",
        "podLabels.team=storage",
        "podAnnotations.note=yes-please",
        "extraArgs[0]=--verbose",
        "extraEnv[0].name=LANG",
        "extraEnv[0].value=C",
        "watchNamespace=orders",
        "serviceAccount.name=somebody",
        "rbac.aggregate=false",
    ];
    insta::assert_snapshot!(render("dynamo-operator", &values).unwrap());
}

/// Helm takes dots in the name of a release, and Kubernetes none in that of a Service.
#[test]
fn a_release_with_dots_in_its_name_has_services_and_a_cluster_without() {
    let operator = render_as("my.rel", "dynamo-operator", &["crds.install=false", "metrics.service.enabled=true"]).unwrap();
    let name = |object: &str| object.lines().find_map(|line| line.strip_prefix("  name: ")).unwrap().trim_matches('"').to_owned();
    assert_eq!(name(object(&operator, "Service").unwrap()), "my-rel-dynamo-operator-metrics");
    assert_eq!(name(object(&operator, "Deployment").unwrap()), "my.rel-dynamo-operator", "as a release of before has it");
    let autoscaled = ["autoscaling.enabled=true", "resources.requests.cpu=1"];
    let cluster = render_as("my.rel", "dynamo-cluster", &autoscaled).unwrap();
    for kind in ["DynamoCluster", "HorizontalPodAutoscaler"] {
        assert_eq!(name(object(&cluster, kind).unwrap()), "my-rel");
    }
}

/// Namespaces and releases may be named by digits, or by what YAML 1.1 takes for a boolean; Kubernetes takes texts only.
#[test]
fn a_name_that_yaml_could_read_as_a_number_or_a_boolean_stays_a_text() {
    let watching = [
        "--set-string=watchNamespace=12345,serviceAccount.name=on,priorityClassName=12345",
        "--set=metrics.service.enabled=true,metrics.podMonitors.enabled=true,metrics.rules.enabled=true",
        "--set=replicas=2,podDisruptionBudget.enabled=true",
    ];
    let autoscaled = ["--set=autoscaling.enabled=true,resources.requests.cpu=1"];
    let mut seen = 0;
    for (chart, options) in [("dynamo-operator", &watching[..]), ("dynamo-operator", &[]), ("dynamo-cluster", &autoscaled)] {
        for release in ["on", "12345678901234567890123456789012345678901234567890"] {
            // A DynamoCluster's name begins with a letter.
            if chart == "dynamo-cluster" && release != "on" {
                continue;
            }
            for object in objects(&render_in("12345", release, chart, options).unwrap()) {
                expect_texts(&object, false);
                seen += 1;
            }
        }
    }
    assert!(seen > 50, "{seen} objects");
}

/// What names something in `value`, at any depth, is a text.
fn expect_texts(value: &Value, names: bool) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let of_names = ["metadata", "labels", "matchLabels", "subjects", "roleRef", "matchNames", "scaleTargetRef"];
                let is_name =
                    ["name", "namespace", "serviceAccountName", "priorityClassName", "policyName"].contains(&key.as_str());
                // The schemas of the definition describe fields of such names.
                if key != "openAPIV3Schema" {
                    expect_texts(value, names || is_name || of_names.contains(&key.as_str()));
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| expect_texts(item, names)),
        value => assert!(!names || value.is_string(), "{value}"),
    }
}

#[test]
fn the_definition_is_kept_unless_the_values_say_otherwise() {
    let kept = render("dynamo-operator", &[]).unwrap();
    let definition = object(&kept, "CustomResourceDefinition").unwrap();
    assert!(definition.contains("helm.sh/resource-policy: keep"), "{definition}");
    let let_go = render("dynamo-operator", &["crds.keep=false"]).unwrap();
    assert!(!let_go.contains("helm.sh/resource-policy"));
    assert!(object(&render("dynamo-operator", &["crds.install=false"]).unwrap(), "CustomResourceDefinition").is_none());
}

#[test]
fn the_policy_for_replicas_knows_every_operator_and_its_own_namespace_and_can_be_left_out() {
    let rendered = render("dynamo-operator", &["crds.install=false", "watchNamespace=orders"]).unwrap();
    let policy = object(&rendered, "ValidatingAdmissionPolicy").unwrap();
    assert!(policy.contains("subresource('status').namespace(request.namespace)"), "{policy}");
    assert!(!policy.contains("dynamo-operator:"), "another release's operator is none of somebody else: {policy}");
    assert!(policy.contains("matchLabels: {kubernetes.io/metadata.name: \"orders\"}"), "{policy}");
    let without = render("dynamo-operator", &["crds.install=false", "admissionPolicies.enabled=false"]).unwrap();
    assert!(!without.contains("ValidatingAdmissionPolicy"), "{without}");
}

#[test]
fn the_policy_leaves_templates_to_the_operator_and_says_how_pods_are_restarted() {
    let rendered = render("dynamo-operator", &["crds.install=false"]).unwrap();
    let policy = object(&rendered, "ValidatingAdmissionPolicy").unwrap();
    for part in ["template", "updateStrategy"] {
        assert!(policy.contains(&format!("dyn(object).spec.{part} == dyn(oldObject).spec.{part}")), "{policy}");
    }
    assert!(
        policy.contains("spec.pod.annotations of the DynamoCluster"),
        "kubectl rollout restart is refused with a way: {policy}"
    );
}

#[test]
fn an_operator_of_one_namespace_has_no_rights_elsewhere() {
    let rendered = render("dynamo-operator", &["crds.install=false", "watchNamespace=orders", "rbac.aggregate=false"]).unwrap();
    assert!(!rendered.contains("kind: ClusterRole"), "{rendered}");
}

#[test]
fn alerts_ask_for_conditions_that_there_are_and_monitors_for_all_namespaces() {
    let plain = render("dynamo-operator", &["crds.install=false"]).unwrap();
    assert!(!plain.contains("monitoring.coreos.com"), "not every Kubernetes has these kinds: {plain}");
    let watched =
        render("dynamo-operator", &["crds.install=false", "metrics.podMonitors.enabled=true", "metrics.rules.enabled=true"]);
    let watched = watched.unwrap();
    assert!(watched.contains("    any: true"), "{watched}");
    let rules = object(&watched, "PrometheusRule").unwrap();
    let types: Vec<&str> = rules.split("type=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(types, ["Available", "Degraded", "Ready", "Progressing"]);
}

/// Several may be installed, one for each namespace, and one that works hides none that does not.
#[test]
fn alerts_on_the_operator_ask_for_the_pods_of_their_own_release() {
    let options = ["--set=crds.install=false,metrics.rules.enabled=true,watchNamespace=orders"];
    for (release, pods) in [("my.rel", "my[.]rel-dynamo-operator"), ("dynamo-operator", "dynamo-operator")] {
        let rendered = render_in("shop", release, "dynamo-operator", &options).unwrap();
        let rules = object(&rendered, "PrometheusRule").unwrap();
        let own = format!("{{namespace=\"shop\",pod=~\"{pods}-[a-z0-9]+(-[a-z0-9]+)?\"");
        for (metric, count) in [("dynamo_operator_leader", 1), ("dynamo_operator_reconciles_total", 2)] {
            let selectors: Vec<&str> = rules.split(metric).skip(1).collect();
            assert_eq!(selectors.len(), count, "{rules}");
            assert!(selectors.iter().all(|selector| selector.starts_with(&own)), "{own}: {selectors:?}");
        }
        let read = objects(rules);
        let alerts = read[0].pointer("/spec/groups/0/rules").unwrap().as_array().unwrap();
        for name in ["DynamoOperatorAbsent", "DynamoOperatorFails"] {
            let alert = alerts.iter().find(|alert| alert["alert"] == name).unwrap();
            assert_eq!(alert["labels"]["namespace"], "shop", "two releases have two alerts: {alert}");
        }
    }
}

/// The API server takes texts and whole numbers for amounts, and nothing else.
#[test]
fn an_amount_that_a_values_file_gives_as_a_number_is_written_as_a_text() {
    let values = scratch("amounts");
    let amounts = "resources:\n  requests: {cpu: 0.5, memory: 2147483648}\n  limits: {cpu: 2, memory: 2Gi}\n";
    fs::write(&values, amounts).unwrap();
    let rendered = render_in("shop", "demo", "dynamo-cluster", &["--values", values.to_str().unwrap()]);
    fs::remove_file(&values).unwrap();
    let rendered = rendered.unwrap();
    for line in ["cpu: \"0.5\"", "memory: \"2147483648\"", "cpu: \"2\"", "memory: 2Gi"] {
        assert!(rendered.contains(&format!("\n      {line}\n")), "{line}: {rendered}");
    }
}

#[test]
fn a_cluster_is_as_reviewed() {
    insta::assert_snapshot!(render("dynamo-cluster", &[]).unwrap());
}

#[test]
fn every_value_of_a_cluster_finds_its_place() {
    let values = [
        "replicas=6",
        "replication.r=1",
        "partitions=4096",
        "zones[0].name=zone0",
        "zones[0].nodeSelector.topology\\.kubernetes\\.io/zone=zone0",
        "zones[1].name=zone1",
        "imagePullSecrets[0].name=registry",
        "pod.labels.team=shop",
        "pod.annotations.note=blue",
        "pod.nodeSelector.disk=ssd",
        "pod.tolerations[0].operator=Exists",
        "pod.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey=kubernetes.io/hostname",
        "pod.priorityClassName=high",
        "storage.storageClassName=fast",
        "storage.retention.whenDeleted=Delete",
        "resources.limits.memory=2Gi",
        "buckets[0].name=carts",
        "buckets[0].r=1",
        "buckets[0].w=3",
        "buckets[0].reconciliation=last-writer-wins",
        "settings.logLevel=debug",
        "settings.clockSkewMsMax=250",
        "settings.reapIntervalMs=5000",
        "settings.diskReserveBytes=1073741824",
        "podDisruptionBudget.maxUnavailable=2",
        "rebalancing.paused=true",
        "adoptCluster=6f9619ff-8b86-d011-b42d-00c04fc964ff",
        "reconciliation=Paused",
        "labels.team=shop",
        "annotations.note=blue",
    ];
    insta::assert_snapshot!(render("dynamo-cluster", &values).unwrap());
}

#[test]
fn an_autoscaled_cluster_leaves_its_size_to_the_autoscaler() {
    let rendered = render("dynamo-cluster", &["autoscaling.enabled=true", "resources.requests.cpu=1"]).unwrap();
    let cluster = object(&rendered, "DynamoCluster").unwrap();
    assert!(!cluster.contains("  replicas:"), "{cluster}");
    assert!(cluster.contains("\n    dynamokv.io/replicas: autoscaled\n"), "the next revision is to know: {cluster}");
    insta::assert_snapshot!(object(&rendered, "HorizontalPodAutoscaler").unwrap());
}

/// Where the API server's default would be refused, one of the sizes that the autoscaler may choose is asked for at first.
#[test]
fn an_autoscaled_cluster_of_more_copies_than_the_default_size_begins_with_the_least() {
    let autoscaled = ["autoscaling.enabled=true", "resources.requests.cpu=1", "autoscaling.minReplicas=5"];
    let rendered = render("dynamo-cluster", &[&autoscaled[..], &["replication.factor=4"]].concat()).unwrap();
    let cluster = object(&rendered, "DynamoCluster").unwrap();
    assert!(cluster.contains("\n  replicas: 5\n"), "{cluster}");
    assert!(!cluster.contains("dynamokv.io/replicas"), "{cluster}");
}

#[test]
fn the_readme_of_the_cluster_says_what_becomes_of_replicas_under_the_autoscaler() {
    let readme = fs::read_to_string(repository().join("charts/dynamo-cluster/README.md")).unwrap();
    for named in ["no `replicas` in any revision", "`helm rollback`", "RespectIgnoreDifferences=true", "[/spec/replicas]"] {
        assert!(readme.contains(named), "{named}");
    }
    let row = readme.lines().find(|line| line.starts_with("| `replicas` |")).unwrap();
    assert!(row.contains("the autoscaler's when `autoscaling.enabled`"), "{row}");
}

/// As where all lines below a key of a values file are comments.
#[test]
fn a_value_of_which_nothing_is_said_is_as_good_as_none() {
    let empty = ["zones", "imagePullSecrets", "pod", "resources", "buckets", "settings", "podDisruptionBudget", "rebalancing"];
    for value in empty.iter().chain(&["name", "adoptCluster", "labels", "annotations"]) {
        render("dynamo-cluster", &[&format!("{value}=null")]).unwrap();
    }
    let refusal = render("dynamo-cluster", &["autoscaling.enabled=true", "resources=null"]).unwrap_err();
    assert!(refusal.contains("resources.requests.cpu: the autoscaler measures use against it"), "{refusal}");
    for value in
        ["imagePullSecrets", "nodeSelector", "tolerations", "affinity", "podAnnotations", "podLabels", "extraArgs", "extraEnv"]
    {
        render("dynamo-operator", &[&format!("{value}=null")]).unwrap();
    }
}

#[test]
fn a_wrong_value_is_refused_by_its_name() {
    let longer = format!("pod.annotations.{}/n=a", "d".repeat(254));
    let cases: [(&str, &[&str], &str); 27] = [
        ("dynamo-operator", &["replica=1"], "replica"),
        ("dynamo-operator", &["image.pullPolicy=Sometimes"], "/image/pullPolicy"),
        ("dynamo-operator", &["image.digest=latest"], "/image/digest"),
        ("dynamo-operator", &["image.tag="], "/image"),
        ("dynamo-operator", &["log.format=xml"], "/log/format"),
        ("dynamo-operator", &["serviceAccount.create=false"], "serviceAccount.name"),
        ("dynamo-cluster", &["partition=64"], "partition"),
        ("dynamo-cluster", &["partitions=1000"], "/partitions"),
        ("dynamo-cluster", &["replicas=2"], "replicas: 2 nodes cannot hold 3 copies"),
        ("dynamo-cluster", &["replication.w=4"], "replication.w: 4 answers of 3 copies"),
        ("dynamo-cluster", &["settings.requestTimeoutMs=500"], "settings.hintAfterMs: 500 is not below"),
        ("dynamo-cluster", &["storage.size=lots"], "/storage/size"),
        ("dynamo-cluster", &["resources.claims[0].name=gpu"], "claims"),
        ("dynamo-cluster", &["resources.requests.cpus=1"], "cpus"),
        ("dynamo-cluster", &["pod.labels.dynamokv\\.io/zone=a"], "/pod/labels"),
        ("dynamo-cluster", &["pod.labels.two words=a"], "two words"),
        ("dynamo-cluster", &["pod.annotations.a/b/c=a"], "a/b/c"),
        ("dynamo-cluster", &["pod.nodeSelector.Domain/name=a"], "Domain/name"),
        ("dynamo-cluster", &["zones[0].name=a", "zones[0].nodeSelector.two words=a"], "two words"),
        ("dynamo-cluster", &["pod.tolerations[0].key=two words"], "/pod/tolerations/0/key"),
        ("dynamo-cluster", &[&longer], "dddd/n"),
        ("dynamo-cluster", &["pod.annotations.dynamokv\\.io/node=a"], "dynamokv.io/node"),
        ("dynamo-cluster", &["pod.tolerations[0].effect=Never"], "/pod/tolerations/0/effect"),
        ("dynamo-cluster", &["pod.affinity.nodeAntiAffinity.a=b"], "nodeAntiAffinity"),
        ("dynamo-cluster", &["autoscaling.enabled=true"], "resources.requests.cpu"),
        (
            "dynamo-cluster",
            &["autoscaling.enabled=true", "resources.requests.cpu=1", "autoscaling.minReplicas=2"],
            "autoscaling.minReplicas",
        ),
        ("dynamo-cluster", &["name=a2345678901234567890123456789012345678901"], "/name"),
    ];
    for (chart, values, named) in cases {
        let refusal = render(chart, values).map(|_| "it was accepted".to_owned()).unwrap_or_else(|refusal| refusal);
        assert!(refusal.contains(named), "{chart} with {values:?} must name {named}: {refusal}");
    }
}
