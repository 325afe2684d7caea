//! The list of mutants, `tests/sim/mutants.txt`: what it may say is told at its head.

use std::collections::BTreeSet;
use std::error::Error;

/// One mistake.
#[derive(Clone, Debug, Default)]
pub struct Mutant {
    /// Its name.
    pub name: String,
    /// What it breaks.
    pub breaks: String,
    /// Why nothing that is promised changes, if so.
    pub same: Option<String>,
    /// Where, and what.
    pub edits: Vec<Edit>,
}

/// One text and what replaces it.
#[derive(Clone, Debug, Default)]
pub struct Edit {
    /// Below `node/core/src`.
    pub file: String,
    /// The function that the text stands in, as `fn name`.
    pub within: Option<String>,
    /// Before what is replaced.
    pub before: String,
    /// What is replaced.
    pub original: String,
    /// Behind it.
    pub after: String,
    /// What replaces it, perhaps nothing; `None` if the list does not say.
    pub mutated: Option<String>,
}

/// Reads the list.
pub fn parse(text: &str) -> Result<Vec<Mutant>, Box<dyn Error>> {
    let mut mutants: Vec<Mutant> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (word, rest) = line.split_once(' ').map_or((line, ""), |(word, rest)| (word, rest.trim()));
        let wrong = |what: &str| format!("line {}: {what}: {line}", number + 1);
        if word == "mutant" {
            mutants.push(Mutant { name: rest.into(), ..Mutant::default() });
            continue;
        }
        let mutant = mutants.last_mut().ok_or_else(|| wrong("no mutant yet"))?;
        if word == "in" {
            let (file, within) = rest.split_once(' ').map_or((rest, None), |(file, within)| (file, Some(within.to_owned())));
            mutant.edits.push(Edit { file: file.into(), within, ..Edit::default() });
            continue;
        }
        let edit = mutant.edits.last_mut();
        match (word, edit) {
            ("breaks", _) => mutant.breaks = rest.into(),
            ("same", _) => mutant.same = Some(rest.into()),
            ("-", Some(edit)) => (edit.before, edit.original, edit.after) = split(rest),
            ("+", Some(edit)) => edit.mutated = Some(rest.into()),
            _ => return Err(wrong("neither mutant, breaks, same, in, - nor +").into()),
        }
    }
    check(&mutants)?;
    Ok(mutants)
}

/// What stands before, between and behind the brackets; all of it without them.
fn split(text: &str) -> (String, String, String) {
    let parts = text.split_once("[[").and_then(|(before, rest)| Some((before, rest.split_once("]]")?)));
    match parts {
        Some((before, (original, after))) => (before.into(), original.into(), after.into()),
        None => (String::new(), text.into(), String::new()),
    }
}

fn check(mutants: &[Mutant]) -> Result<(), Box<dyn Error>> {
    let names: BTreeSet<&str> = mutants.iter().map(|mutant| mutant.name.as_str()).collect();
    if names.len() != mutants.len() {
        return Err("two mutants have one name".into());
    }
    let incomplete = |mutant: &&Mutant| {
        let lacks = |edit: &Edit| edit.original.is_empty() || (edit.mutated.is_none() && mutant.same.is_none());
        mutant.breaks.is_empty() || mutant.edits.is_empty() || mutant.edits.iter().any(lacks)
    };
    match mutants.iter().find(incomplete) {
        Some(mutant) => Err(format!("{} says not what it breaks, or has no text, or none that replaces it", mutant.name).into()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mutant_says_what_replaces_its_text_or_why_nothing_does() {
        let said = |last: &str| parse(&format!("mutant m\nbreaks b\nin a.rs\n- text\n{last}")).is_ok();
        assert!(said("+ true") && said("+") && said("same s"));
        assert!(!said(""));
    }
}
