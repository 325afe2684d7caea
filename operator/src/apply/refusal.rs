//! What the API server says of an object that it refuses, for people: with the names that fields of a StatefulSet have in the DynamoCluster.

/// Fields of a set, as the API server calls them, and what they are made from. The longer of two that begin alike comes first.
const FIELDS: [(&str, &str); 12] = [
    ("spec.template.spec.tolerations", "spec.pod.tolerations"),
    ("spec.template.spec.affinity", "spec.pod.affinity"),
    ("spec.template.spec.nodeSelector", "spec.pod.nodeSelector"),
    ("spec.template.spec.priorityClassName", "spec.pod.priorityClassName"),
    ("spec.template.spec.imagePullSecrets", "spec.imagePullSecrets"),
    ("spec.template.spec.containers[0].imagePullPolicy", "spec.imagePullPolicy"),
    ("spec.template.spec.containers[0].image", "spec.image"),
    ("spec.template.spec.containers[0].resources", "spec.resources"),
    ("spec.template.labels", "spec.pod.labels"),
    ("spec.template.annotations", "spec.pod.annotations"),
    ("spec.volumeClaimTemplates[0].spec.storageClassName", "spec.storage.storageClassName"),
    ("spec.volumeClaimTemplates[0].spec.resources", "spec.storage.size"),
];

/// What the API server says of an object that somebody has set `immutable`.
const IMMUTABLE: &str = "field is immutable when `immutable` is set";

/// `message` with the fields of the DynamoCluster for those of the set, or with the way on; as it is, if it needs neither.
pub(super) fn translated(message: &str) -> String {
    if message.contains(IMMUTABLE) {
        return format!("{message}; somebody has set it: once all pods answer, delete that object, and it is made again");
    }
    let told = FIELDS.iter().fold(message.to_owned(), |told, (of_set, of_cluster)| told.replace(of_set, of_cluster));
    if told == message { told } else { format!("{told}; these are fields of the DynamoCluster: correct them there") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_fields_of_the_cluster_and_where_they_are_corrected() {
        let said = "StatefulSet.apps \"cart\" is invalid: [spec.template.spec.tolerations[0].key: Invalid value: \"a b\", \
                    spec.template.spec.containers[0].resources.limits[cpus]: Invalid value: \"cpus\", \
                    spec.template.spec.containers[0].imagePullPolicy: Unsupported value]";
        let told = "StatefulSet.apps \"cart\" is invalid: [spec.pod.tolerations[0].key: Invalid value: \"a b\", \
                    spec.resources.limits[cpus]: Invalid value: \"cpus\", spec.imagePullPolicy: Unsupported value]; these are fields of the \
                    DynamoCluster: correct them there";
        assert_eq!(translated(said), told);
        let fixed = "ConfigMap \"cart-ring\" is invalid: data: Forbidden: field is immutable when `immutable` is set";
        assert_eq!(
            translated(fixed),
            format!("{fixed}; somebody has set it: once all pods answer, delete that object, and it is made again")
        );
        for plain in ["exceeded quota", "spec.template.spec.containers[1].image: Required value", "spec.ports[0]: Invalid"] {
            assert_eq!(translated(plain), plain);
        }
    }
}
