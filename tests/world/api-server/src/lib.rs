//! An API server in memory: objects by path, versions, UIDs, generations, preconditions, server-side apply, finalizers, and the
//! past, so that a read can be old.
//!
//! Modelled after the real one as far as the operator and the controllers use it. A write that changes nothing is none: it makes
//! no version and wakes nobody. Left out: watches (a stage wakes the operator itself), fields' owners (an apply takes back what
//! the same manager applied before and leaves out now), and defaults. What is `immutable` keeps its data.
//!
//! What a write may say of the object that it expects, as in kubernetes/kubernetes 1.35 (`apiserver/pkg/endpoints/handlers/patch.go`,
//! `registry/generic/registry/store.go`):
//!
//! | write | of another version, or another object | of none |
//! |---|---|---|
//! | POST | AlreadyExists | is made |
//! | PUT, merge patch, JSON patch | Conflict, if it carries that version | NotFound |
//! | apply | Conflict, if it carries that version | is made whatever version it carries; Conflict if it carries a UID |
//! | DELETE | Conflict, under that precondition | NotFound |

#[cfg(test)]
mod tests;

pub mod http;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};

/// Versions that are remembered for old reads.
const PAST_MAX: usize = 64;

/// All objects at one moment, by path.
pub type Objects = BTreeMap<String, Arc<Value>>;

/// Why a call was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// There is no such object.
    NotFound,
    /// It is another object or another version than the call names.
    Conflict,
    /// There is one already.
    AlreadyExists,
    /// What is asked for breaks a rule of the definition, or a patch does not fit the object.
    Invalid(String),
    /// Whoever calls has no right to it.
    Forbidden(String),
}

impl Refusal {
    /// The HTTP status and Kubernetes' reason.
    pub fn code(&self) -> (u16, &'static str) {
        match self {
            Self::NotFound => (404, "NotFound"),
            Self::Conflict => (409, "Conflict"),
            Self::AlreadyExists => (409, "AlreadyExists"),
            Self::Invalid(_) => (422, "Invalid"),
            Self::Forbidden(_) => (403, "Forbidden"),
        }
    }
}

/// What webhooks and policies do to the object at a path before it is stored: change it, or refuse it with words.
pub type Admission = fn(&str, &mut Value) -> Result<(), String>;

/// The server.
#[derive(Default)]
pub struct ApiServer {
    /// Who has a say in what is written by calls; what somebody else does with [`ApiServer::edit`] is past that.
    pub admission: Option<Admission>,
    objects: Objects,
    version: u64,
    uids: u64,
    past: VecDeque<Objects>,
    /// What each manager applied last, by manager and path.
    applied: BTreeMap<(String, String), Value>,
}

/// The text at a pointer, or nothing.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The number at a pointer, or 0.
pub fn number(object: &Value, pointer: &str) -> u32 {
    object.pointer(pointer).and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok()).unwrap_or(0)
}

impl ApiServer {
    /// Everything, now.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Everything as it was some versions ago, or as early as is remembered.
    pub fn past(&self, versions: usize) -> Objects {
        let at = self.past.len().saturating_sub(versions);
        self.past.get(at).unwrap_or(&self.objects).clone()
    }

    /// Grows with every write that changes something.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The object at `path`.
    pub fn get(&self, path: &str) -> Option<&Arc<Value>> {
        self.objects.get(path)
    }

    /// The objects in `folder`, with their names.
    pub fn list<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = (&'a str, &'a Arc<Value>)> {
        self.objects.iter().filter_map(move |(path, object)| Some((path.strip_prefix(folder)?.strip_prefix('/')?, object)))
    }

    /// What `call` would answer. It has no effect.
    pub fn dry_run<T>(&mut self, call: impl FnOnce(&mut Self) -> T) -> T {
        let before = (self.objects.clone(), self.version, self.uids, self.past.clone(), self.applied.clone());
        let answer = call(self);
        (self.objects, self.version, self.uids, self.past, self.applied) = before;
        answer
    }

    /// Makes an object under the name in its metadata.
    pub fn create(&mut self, folder: &str, object: Value) -> Result<Arc<Value>, Refusal> {
        let path = format!("{folder}/{}", text(&object, "/metadata/name"));
        if self.objects.contains_key(&path) {
            return Err(Refusal::AlreadyExists);
        }
        self.admit(&path, object)
    }

    /// Puts `object` in the place of the one that is there.
    pub fn replace(&mut self, path: &str, mut object: Value) -> Result<Arc<Value>, Refusal> {
        let held = Arc::clone(self.checked(path, &object["metadata"])?);
        object["status"] = held["status"].clone();
        self.admit(path, object)
    }

    /// A merge patch.
    pub fn merge(&mut self, path: &str, patch: Value) -> Result<Arc<Value>, Refusal> {
        let mut object = (**self.checked(path, &patch["metadata"])?).clone();
        merge(&mut object, patch);
        self.admit(path, object)
    }

    /// A server-side apply with force. `PATH/status` takes the status and nothing else, `PATH` all but the status.
    pub fn apply(&mut self, path: &str, manager: &str, mut asked: Value) -> Result<Arc<Value>, Refusal> {
        let (path, of_status) = path.strip_suffix("/status").map_or((path, false), |path| (path, true));
        let mut object = match self.checked(path, &asked["metadata"]) {
            Ok(held) => (**held).clone(),
            Err(Refusal::NotFound) if !of_status && asked["metadata"]["uid"].is_string() => return Err(Refusal::Conflict),
            Err(Refusal::NotFound) if !of_status => json!({}),
            Err(refusal) => return Err(refusal),
        };
        if of_status {
            asked = json!({ "status": asked["status"] });
        }
        let key = (manager.to_owned(), path.to_owned());
        if let Some(before) = self.applied.get(&key) {
            take_back(&mut object, before, &asked);
        }
        merge(&mut object, asked.clone());
        let stored = self.admit(path, object)?;
        self.applied.insert(key, asked);
        Ok(stored)
    }

    /// A JSON patch of tests, additions, replacements and removals. A version that it puts in is one that it expects.
    pub fn patch(&mut self, path: &str, operations: &Value) -> Result<Arc<Value>, Refusal> {
        let mut object = (**self.checked(path, &Value::Null)?).clone();
        for operation in operations.as_array().into_iter().flatten() {
            operate(&mut object, operation).ok_or_else(|| Refusal::Invalid(format!("{operation} does not fit")))?;
        }
        self.checked(path, &object["metadata"])?;
        self.admit(path, object)
    }

    /// Deletes, or with finalizers marks as deleted.
    pub fn delete(&mut self, path: &str, preconditions: &Value) -> Result<Arc<Value>, Refusal> {
        let mut object = (**self.checked(path, preconditions)?).clone();
        // No clock runs here: nothing that ends is ever late.
        object["metadata"]["deletionTimestamp"] = json!("2100-01-01T00:00:00Z");
        Ok(self.store(path, object))
    }

    /// Removes at once, whatever holds it.
    pub fn remove(&mut self, path: &str) {
        if self.objects.remove(path).is_some() {
            self.next_version();
        }
    }

    /// Changes an object as somebody else would; nothing if it is not there.
    pub fn edit(&mut self, path: &str, change: impl FnOnce(&mut Value)) {
        if let Some(held) = self.objects.get(path) {
            let mut object = (**held).clone();
            change(&mut object);
            self.store(path, object);
        }
    }

    fn checked(&self, path: &str, asked: &Value) -> Result<&Arc<Value>, Refusal> {
        let held = self.objects.get(path).ok_or(Refusal::NotFound)?;
        for field in ["uid", "resourceVersion"] {
            if asked[field].is_string() && asked[field] != held["metadata"][field] {
                return Err(Refusal::Conflict);
            }
        }
        Ok(held)
    }

    fn next_version(&mut self) {
        self.version += 1;
        self.past.push_back(self.objects.clone());
        if self.past.len() > PAST_MAX {
            self.past.pop_front();
        }
    }

    fn admit(&mut self, path: &str, mut object: Value) -> Result<Arc<Value>, Refusal> {
        if let Some(admission) = self.admission {
            admission(path, &mut object).map_err(Refusal::Invalid)?;
        }
        let kept = ["immutable", "data", "binaryData"];
        let fixed = self.objects.get(path).filter(|held| held["immutable"] == true);
        if fixed.is_some_and(|held| kept.iter().any(|field| held[field] != object[field])) {
            return Err(Refusal::Invalid("data: Forbidden: field is immutable when `immutable` is set".to_owned()));
        }
        Ok(self.store(path, object))
    }

    fn store(&mut self, path: &str, mut object: Value) -> Arc<Value> {
        let held = self.objects.get(path).cloned();
        let metadata = |field: &str| held.as_ref().map(|held| held["metadata"][field].clone());
        let given = object["metadata"]["uid"].clone();
        object["metadata"]["uid"] = match metadata("uid") {
            Some(uid) => uid,
            None if given.is_string() => given,
            None => {
                self.uids += 1;
                json!(format!("uid-{}", self.uids))
            }
        };
        // An empty list is none.
        if object["metadata"]["finalizers"] == json!([]) {
            object["metadata"].as_object_mut().expect("it has a UID").remove("finalizers");
        }
        object["metadata"]["resourceVersion"] = metadata("resourceVersion").unwrap_or_default();
        object["metadata"]["generation"] = metadata("generation").unwrap_or_else(|| json!(1));
        if let Some(held) = &held {
            if **held == object {
                return Arc::clone(held);
            }
            if held["spec"] != object["spec"] {
                object["metadata"]["generation"] = json!(number(held, "/metadata/generation") + 1);
            }
        }
        object["metadata"]["resourceVersion"] = json!((self.version + 1).to_string());
        let object = Arc::new(object);
        let finalizers = object.pointer("/metadata/finalizers").and_then(Value::as_array).map_or(0, Vec::len);
        if finalizers == 0 && object["metadata"]["deletionTimestamp"].is_string() {
            self.objects.remove(path);
        } else {
            self.objects.insert(path.to_owned(), Arc::clone(&object));
        }
        self.next_version();
        object
    }
}

/// One operation of a JSON patch, or nothing if it does not fit.
fn operate(object: &mut Value, operation: &Value) -> Option<()> {
    let (kind, at, value) = (text(operation, "/op"), text(operation, "/path"), &operation["value"]);
    if kind == "test" {
        return (object.pointer(at).unwrap_or(&Value::Null) == value).then_some(());
    }
    let (parent, key) = at.rsplit_once('/')?;
    match object.pointer_mut(parent)? {
        Value::Array(list) => {
            let index = if key == "-" { list.len() } else { key.parse().ok()? };
            match kind {
                "add" if index <= list.len() => list.insert(index, value.clone()),
                "replace" => *list.get_mut(index)? = value.clone(),
                "remove" if index < list.len() => drop(list.remove(index)),
                _ => return None,
            }
        }
        Value::Object(fields) => {
            let key = key.replace("~1", "/").replace("~0", "~");
            match kind {
                "add" => drop(fields.insert(key, value.clone())),
                "replace" => *fields.get_mut(&key)? = value.clone(),
                "remove" => drop(fields.remove(&key)?),
                _ => return None,
            }
        }
        _ => return None,
    }
    Some(())
}

fn merge(held: &mut Value, change: Value) {
    match (held, change) {
        (Value::Object(held), Value::Object(change)) => {
            for (key, value) in change {
                if value.is_null() {
                    held.remove(&key);
                } else {
                    merge(held.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (held, change @ Value::Object(_)) if !held.is_object() => {
            *held = json!({});
            merge(held, change);
        }
        (held, change) => *held = change,
    }
}

/// Removes from `object` what `before` had and `now` leaves out.
fn take_back(object: &mut Value, before: &Value, now: &Value) {
    let (Value::Object(object), Value::Object(before)) = (object, before) else { return };
    for (key, value) in before {
        match now.get(key) {
            None | Some(Value::Null) => drop(object.remove(key)),
            Some(now) => {
                if let Some(object) = object.get_mut(key) {
                    take_back(object, value, now);
                }
            }
        }
    }
}
