//! `kubectl` and `helm` against one API server, as a user runs them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command::{self, Output};

/// For commands that the API server answers at once.
const ANSWER: Duration = Duration::from_secs(60);

/// How programs reach the API server, and in which namespace the scenario lives.
#[derive(Clone)]
pub struct Kubernetes {
    /// What stands before every command: nothing, or what leads into a node of the Kubernetes on this machine.
    prefix: Vec<String>,
    /// Where the scenario's objects are.
    namespace: String,
    repository: PathBuf,
}

impl Kubernetes {
    /// `prefix` stands before every command; paths are taken from `repository`.
    pub fn new(prefix: Vec<String>, namespace: &str, repository: &Path) -> Self {
        Self { prefix, namespace: namespace.to_owned(), repository: repository.to_owned() }
    }

    /// The same API server, with another namespace.
    pub fn in_namespace(&self, namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..self.clone() }
    }

    /// The whole command line of a program that reaches the API server and pods.
    pub fn argv(&self, words: &[&str]) -> Vec<String> {
        self.prefix.iter().cloned().chain(words.iter().map(|&word| word.to_owned())).collect()
    }

    /// `kubectl` in the scenario's namespace. Gives its output.
    pub fn kubectl(&self, words: &[&str]) -> Result<String> {
        command::run_ok(&self.kubectl_argv(words), "", ANSWER)
    }

    /// `kubectl` with a command that waits for something, until `limit`.
    pub fn kubectl_within(&self, limit: Duration, words: &[&str]) -> Result<String> {
        let timeout = format!("--timeout={}s", limit.as_secs());
        let argv = self.kubectl_argv(&[words, &[&timeout]].concat());
        command::run_ok(&argv, "", limit + ANSWER)
    }

    /// `kubectl` with `manifest` at its standard input, whatever its exit code.
    pub fn try_kubectl(&self, words: &[&str], manifest: &str) -> Result<Output> {
        command::run(&self.kubectl_argv(words), manifest, ANSWER)
    }

    /// `helm`, from the repository's root.
    pub fn helm(&self, words: &[&str], limit: Duration) -> Result<String> {
        let argv: Vec<String> = self.argv(&["helm"]).into_iter().chain(words.iter().map(|&word| word.to_owned())).collect();
        command::run_ok(&argv, "", limit)
    }

    /// Makes a namespace whose pods must meet the restricted Pod Security Standard.
    pub fn create_namespace(&self, name: &str) -> Result<()> {
        let manifest = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels:\n    pod-security.kubernetes.io/enforce: restricted\n"
        );
        self.apply(&manifest).map(|_| ())
    }

    /// Server-side apply of one object, as the API server then holds it.
    pub fn apply(&self, manifest: &str) -> Result<Value> {
        let output = self.try_kubectl(&["apply", "--server-side", "-o", "json", "-f", "-"], manifest)?;
        if !output.status.success() {
            bail!("kubectl apply refused:\n{}\n{manifest}", output.text());
        }
        serde_json::from_str(&output.stdout).context("kubectl apply -o json")
    }

    /// What the API server says when it refuses `manifest`; that it does not is the error.
    pub fn refusal(&self, manifest: &str) -> Result<String> {
        let output = self.try_kubectl(&["apply", "--server-side", "--dry-run=server", "-f", "-"], manifest)?;
        if output.status.success() {
            bail!("the API server accepted what it must refuse:\n{manifest}");
        }
        Ok(output.text())
    }

    /// One object.
    pub fn get(&self, kind_and_name: &str) -> Result<Value> {
        serde_json::from_str(&self.kubectl(&["get", kind_and_name, "-o", "json"])?).with_context(|| kind_and_name.to_owned())
    }

    /// The objects of a kind that have the labels.
    pub fn list(&self, kind: &str, selector: &str) -> Result<Vec<Value>> {
        let answer: Value = serde_json::from_str(&self.kubectl(&["get", kind, "-l", selector, "-o", "json"])?)?;
        match answer.get("items").and_then(Value::as_array) {
            Some(items) => Ok(items.clone()),
            None => bail!("kubectl get {kind} gave no list"),
        }
    }

    /// A file of the repository.
    pub fn read(&self, path: &str) -> Result<String> {
        std::fs::read_to_string(self.repository.join(path)).with_context(|| path.to_owned())
    }

    /// The path of a file of the repository.
    pub fn path(&self, path: &str) -> String {
        self.repository.join(path).display().to_string()
    }

    fn kubectl_argv(&self, words: &[&str]) -> Vec<String> {
        let mut argv = self.argv(&["kubectl", "--namespace", &self.namespace, "--request-timeout=30s"]);
        argv.extend(words.iter().map(|&word| word.to_owned()));
        argv
    }
}

/// A text at a path such as `/status/phase`; empty when there is none.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A number at a path; 0 when there is none, as the API leaves zeros out.
pub fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

/// The name of an object.
pub fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

/// The condition `kind` of an object, when it was made for the object's present generation.
pub fn current_condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    let condition = conditions.iter().find(|condition| text(condition, "/type") == kind)?;
    let observed = condition.get("observedGeneration").or_else(|| object.pointer("/status/observedGeneration"));
    match observed.and_then(Value::as_i64) {
        Some(observed) if observed < number(object, "/metadata/generation") => None,
        _ => Some(condition),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_condition_of_an_older_generation_is_not_current() {
        let object = |observed: i64| {
            json!({
                "metadata": {"generation": 2},
                "status": {"conditions": [{"type": "Ready", "status": "True", "observedGeneration": observed}]},
            })
        };
        assert!(current_condition(&object(1), "Ready").is_none());
        assert!(current_condition(&object(2), "Ready").is_some());
        assert!(current_condition(&object(2), "Degraded").is_none());
    }
}
