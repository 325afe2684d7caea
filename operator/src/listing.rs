//! Names and reasons, as people read them: the first few and how many more, and what is so of several only once.

use std::collections::BTreeMap;

/// Items that are named.
const NAMED_MAX: usize = 5;
/// Stands in a reason that several pods share for the name of each.
const POD: &str = "POD";
/// The same in one that several objects share.
const NAME: &str = "NAME";

/// The first few, and how many more.
pub fn list(items: impl IntoIterator<Item = String>) -> String {
    few(items, ", ")
}

/// The same of what has commas of its own.
pub fn clauses(items: impl IntoIterator<Item = String>) -> String {
    few(items, "; ")
}

fn few(items: impl IntoIterator<Item = String>, separator: &str) -> String {
    let items: Vec<String> = items.into_iter().collect();
    let named = items.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(separator);
    match items.len().saturating_sub(NAMED_MAX) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// Pods of which one thing is so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    names: Vec<String>,
    /// Of several it has "POD" for the name of each.
    reason: String,
}

impl Group {
    /// "cart-0 is not ready", "cart-0, cart-1: are not ready".
    pub fn sentence(&self) -> String {
        match &self.names[..] {
            [name] => format!("{name} {}", self.reason),
            names => format!("{}: {}", list(names.iter().cloned()), of_several(&self.reason)),
        }
    }

    /// "cart-0: connection refused", "cart-0, cart-1: connection refused".
    pub fn note(&self) -> String {
        match &self.names[..] {
            [name] if name.is_empty() => self.reason.clone(),
            names => format!("{}: {}", list(names.iter().cloned()), self.reason),
        }
    }

    /// "cart-0 [is not ready]", "cart-0 and cart-1 [are not ready]", "cart-0".
    pub fn aside(&self) -> String {
        match (&self.names[..], self.reason.as_str()) {
            (names, "") => list(names.iter().cloned()),
            ([name], reason) => format!("{name} [{reason}]"),
            (names, reason) => {
                let named = list(names.iter().cloned());
                let named = match named.rsplit_once(", ") {
                    Some((before, last)) if names.len() <= NAMED_MAX => format!("{before} and {last}"),
                    _ => named,
                };
                format!("{named} [{}]", of_several(reason))
            }
        }
    }
}

/// What is so of an object.
pub struct Named {
    /// How it is listed; nothing if the reason says it all.
    pub what: String,
    /// Its name, which the reason may have.
    pub name: String,
    /// What is so.
    pub reason: String,
}

/// Names with their reasons: those with the same one together, where the first of them was. A reason may name its own pod.
pub fn grouped(items: impl IntoIterator<Item = (String, String)>) -> Vec<Group> {
    grouped_with(items.into_iter().map(|(name, reason)| Named { what: name.clone(), name, reason }), POD)
}

/// The same of objects whose names are not all that is listed of them.
pub fn grouped_by_name(items: impl IntoIterator<Item = Named>) -> Vec<Group> {
    grouped_with(items, NAME)
}

fn grouped_with(items: impl IntoIterator<Item = Named>, placeholder: &str) -> Vec<Group> {
    let (mut groups, mut of_reason) = (Vec::<Group>::new(), BTreeMap::<String, usize>::new());
    for Named { what, name, reason } in items {
        let shared = with_placeholder(&reason, &name, placeholder);
        match of_reason.get(&shared) {
            Some(at) => {
                let group = &mut groups[*at];
                group.names.push(what);
                group.reason = shared;
            }
            None => {
                of_reason.insert(shared, groups.len());
                groups.push(Group { names: vec![what], reason });
            }
        }
    }
    groups
}

/// The first few groups, each as `told` has it, and how many more pods there are.
pub fn joined(groups: &[Group], separator: &str, told: impl Fn(&Group) -> String) -> String {
    let named = groups.iter().take(NAMED_MAX).map(told).collect::<Vec<_>>().join(separator);
    match groups.iter().skip(NAMED_MAX).map(|group| group.names.len()).sum::<usize>() {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// Pods with what is so of each: "cart-0 is not ready; cart-1, cart-2: are not scheduled".
pub fn sentences(items: impl IntoIterator<Item = (String, String)>) -> String {
    joined(&grouped(items), "; ", Group::sentence)
}

/// The same with what they say: "cart-0: connection refused; cart-1, cart-2: no drain receipt yet".
pub fn notes(items: impl IntoIterator<Item = (String, String)>) -> String {
    joined(&grouped(items), "; ", Group::note)
}

/// `reason` with the placeholder for `name`, where it is no part of another name.
fn with_placeholder(reason: &str, name: &str, placeholder: &str) -> String {
    if name.is_empty() {
        return reason.to_owned();
    }
    let goes_on = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let (mut told, mut rest) = (String::new(), reason);
    while let Some((before, after)) = rest.split_once(name) {
        told += before;
        let is_part = goes_on(told.bytes().last()) || goes_on(after.bytes().next());
        told += if is_part { name } else { placeholder };
        rest = after;
    }
    told + rest
}

/// A reason that begins with a verb, as it is said of several.
fn of_several(reason: &str) -> String {
    const VERBS: [(&str, &str); 6] =
        [("is", "are"), ("has", "have"), ("does", "do"), ("waits", "wait"), ("holds", "hold"), ("carries", "carry")];
    let (first, rest) = reason.split_once(' ').unwrap_or((reason, ""));
    match VERBS.iter().find(|(of_one, _)| *of_one == first) {
        Some((_, of_several)) => format!("{of_several} {rest}"),
        None => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(items: &[(&str, &str)]) -> Vec<(String, String)> {
        items.iter().map(|(name, reason)| ((*name).to_owned(), (*reason).to_owned())).collect()
    }

    #[test]
    fn what_is_so_of_several_pods_is_told_once() {
        let cases: [(&[(&str, &str)], &str); 6] = [
            (&[], ""),
            (&[("a-0", "is not ready")], "a-0 is not ready"),
            (&[("a-0", "has no pod yet"), ("a-1", "has no pod yet")], "a-0, a-1: have no pod yet"),
            (
                &[("a-0", "does not start"), ("a-1", "is not ready"), ("a-2", "does not start")],
                "a-0, a-2: do not start; a-1 is not ready",
            ),
            (&[("a-0", "connection refused"), ("a-1", "connection refused")], "a-0, a-1: connection refused"),
            (
                &[("a-1", "waits for claim data-a-1, not a-10"), ("a-2", "waits for claim data-a-2, not a-10")],
                "a-1, a-2: wait for claim data-POD, not a-10",
            ),
        ];
        for (pods, told) in cases {
            assert_eq!(sentences(items(pods)), told);
        }
        assert_eq!(sentences(items(&[("a-1", "waits for data-a-1")])), "a-1 waits for data-a-1", "one is named");
    }

    #[test]
    fn objects_that_fail_alike_are_listed_together_and_what_has_no_name_stands_alone() {
        let named = |what: &str, name: &str, reason: &str| Named { what: what.into(), name: name.into(), reason: reason.into() };
        let items = [
            named("StatefulSet a: replicas 3", "a", "statefulsets \"a\" is forbidden"),
            named("", "", "it took too long"),
            named("StatefulSet b: replicas 2", "b", "statefulsets \"b\" is forbidden"),
        ];
        let told: Vec<String> = grouped_by_name(items).iter().map(Group::note).collect();
        let alike = "StatefulSet a: replicas 3, StatefulSet b: replicas 2: statefulsets \"NAME\" is forbidden";
        assert_eq!(told, [alike, "it took too long"]);
        assert_eq!(clauses(told), format!("{alike}; it took too long"));
    }

    #[test]
    fn only_a_few_are_named_and_all_are_counted() {
        let pods: Vec<(String, String)> = (0..7).map(|at| (format!("a-{at}"), "is not ready".to_owned())).collect();
        assert_eq!(sentences(pods), "a-0, a-1, a-2, a-3, a-4 and 2 more: are not ready");
        let pods: Vec<(String, String)> = (0..9).map(|at| (format!("a-{at}"), format!("lacks {}", at.min(7)))).collect();
        assert_eq!(sentences(pods), "a-0 lacks 0; a-1 lacks 1; a-2 lacks 2; a-3 lacks 3; a-4 lacks 4 and 4 more");
    }

    #[test]
    fn reasons_stand_beside_the_names_that_they_are_of() {
        let asides = |pods: &[(&str, &str)]| joined(&grouped(items(pods)), ", ", Group::aside);
        assert_eq!(asides(&[("a-0", ""), ("a-1", "is not ready"), ("a-2", "")]), "a-0, a-2, a-1 [is not ready]");
        assert_eq!(asides(&[("a-0", "is ill"), ("a-1", "is ill"), ("a-2", "is ill")]), "a-0, a-1 and a-2 [are ill]");
        let pods: Vec<(String, String)> = (0..7).map(|at| (format!("a-{at}"), "is ill".to_owned())).collect();
        let told = joined(&grouped(pods), ", ", Group::aside);
        assert_eq!(told, "a-0, a-1, a-2, a-3, a-4 and 2 more [are ill]");
        assert_eq!(notes(items(&[("a-0", "no receipt"), ("a-1", "no receipt")])), "a-0, a-1: no receipt");
    }
}
