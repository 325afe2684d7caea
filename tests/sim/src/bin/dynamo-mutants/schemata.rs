//! All mutants in one source: each text becomes a choice between itself and its mutations, made by the number of the mutant that
//! runs. So everything is compiled once, and what is compiled is the product but for one `if`.

use std::collections::BTreeMap;
use std::error::Error;
use std::ops::Range;

use crate::list::{Edit, Mutant};

/// The module that the choices ask; it goes into the copy of dynamo-core.
pub const MODULE: &str = r#"//! Which mutant runs: the one whose number the environment names.

use std::sync::OnceLock;

static CHOSEN: OnceLock<u32> = OnceLock::new();

/// Whether mutant `number` is the one.
pub fn active(number: u32) -> bool {
    *CHOSEN.get_or_init(|| std::env::var("DYNAMO_MUTANT").ok().and_then(|text| text.parse().ok()).unwrap_or(0)) == number
}
"#;

/// The environment variable that chooses.
pub const VARIABLE: &str = "DYNAMO_MUTANT";

/// The sources of core by path, with the choices in them. Mutant `n` of the list has the number `n + 1`.
pub fn weave(mutants: &[Mutant], sources: &mut BTreeMap<String, String>) -> Result<(), Box<dyn Error>> {
    let mut choices: BTreeMap<&str, Vec<(Range<usize>, u32, &str)>> = BTreeMap::new();
    let mut missing = Vec::new();
    for (at, mutant) in mutants.iter().enumerate() {
        for edit in &mutant.edits {
            let mutated = edit.mutated.as_deref().unwrap_or_default();
            match sources.get(&edit.file).ok_or_else(|| "there is no such file".to_owned()).and_then(|text| find(text, edit)) {
                Ok(span) => choices.entry(&edit.file).or_default().push((span, at as u32 + 1, mutated)),
                Err(why) => missing.push(format!("{}: {}: {why}: {}", mutant.name, edit.file, edit.original)),
            }
        }
    }
    if !missing.is_empty() {
        return Err(format!("the list is not current:\n  {}", missing.join("\n  ")).into());
    }
    for (file, mut choices) in choices {
        let Some(text) = sources.get_mut(file) else { continue };
        choices.sort_by_key(|(span, number, _)| (span.start, span.end, *number));
        *text = woven(text, &choices).map_err(|what| format!("{file}: {what}"))?;
    }
    Ok(())
}

/// From the end to the start, so that places before stay where they are.
fn woven(text: &str, choices: &[(Range<usize>, u32, &str)]) -> Result<String, String> {
    let mut text = text.to_owned();
    let mut rest = choices;
    let mut end = text.len();
    while let Some((span, _, _)) = rest.last() {
        let same = rest.iter().rev().take_while(|(other, _, _)| other == span).count();
        let (before, here) = rest.split_at(rest.len() - same);
        if span.end > end {
            return Err(format!("two texts overlap without being the same: {}", &text[span.clone()]));
        }
        end = span.start;
        let original = text[span.clone()].to_owned();
        text.replace_range(span.clone(), &choice(&original, here));
        rest = before;
    }
    Ok(text)
}

/// Statements become statements, expressions an expression; on one line, so that lines keep their numbers.
fn choice(original: &str, choices: &[(Range<usize>, u32, &str)]) -> String {
    let mut text = String::new();
    for (_, number, mutated) in choices {
        text.push_str(&format!("if crate::mutants::active({number}) {{ {mutated} }} else "));
    }
    text.push_str(&format!("{{ {original} }}"));
    if original.ends_with(';') { text } else { format!("({text})") }
}

/// Where the text stands, which must be one place.
fn find(text: &str, edit: &Edit) -> Result<Range<usize>, String> {
    if edit.original.starts_with('.') {
        return Err("what is replaced is no expression: it needs what stands before the dot".into());
    }
    let code = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let place = match &edit.within {
        None => 0..code,
        Some(function) => body(&text[..code], function).ok_or_else(|| format!("there is no {function}"))?,
    };
    let wanted = format!("{}{}{}", edit.before, edit.original, edit.after);
    let mut found = text[place.clone()].match_indices(&wanted);
    match (found.next(), found.next()) {
        (Some((at, _)), None) => {
            let start = place.start + at + edit.before.len();
            Ok(start..start + edit.original.len())
        }
        (Some(_), Some(_)) => Err("the text stands there more than once".into()),
        (None, _) => Err("the text is not found".into()),
    }
}

/// From a function's head to the brace that ends it, by its indentation.
fn body(text: &str, function: &str) -> Option<Range<usize>> {
    let head = text.find(&format!("{function}(")).or_else(|| text.find(&format!("{function}<")))?;
    let line = text[..head].rfind('\n').map_or(0, |at| at + 1);
    let indentation = text[line..].len() - text[line..].trim_start_matches(' ').len();
    let end = format!("\n{}}}\n", " ".repeat(indentation));
    let length = text[head..].find(&end)?;
    Some(head..head + length + end.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list;

    const SOURCE: &str = "fn one() {\n    go();\n    if ready && done {\n    }\n}\nfn two() {\n    go();\n}\n";

    fn weave_list(text: &str) -> Result<String, String> {
        let mutants = list::parse(text).unwrap();
        let mut sources = BTreeMap::from([("a.rs".to_owned(), SOURCE.to_owned())]);
        weave(&mutants, &mut sources).map_err(|error| error.to_string())?;
        Ok(sources.remove("a.rs").unwrap())
    }

    #[test]
    fn a_text_becomes_a_choice_where_it_stands_and_nowhere_else() {
        let one = "mutant a\nbreaks x\nin a.rs fn two\n- go();\n+\n";
        let woven = weave_list(one).unwrap();
        assert!(woven.contains("fn two() {\n    if crate::mutants::active(1) {  } else { go(); }\n}"), "{woven}");
        assert!(woven.contains("fn one() {\n    go();\n"), "{woven}");
        let two = "mutant b\nbreaks x\nin a.rs\n- if ready && [[done]] {\n+ true\nmutant c\nbreaks x\nin a.rs\n- && [[done]]\n+ false\n";
        let woven = weave_list(two).unwrap();
        let both = "(if crate::mutants::active(1) { true } else if crate::mutants::active(2) { false } else { done })";
        assert!(woven.contains(both), "{woven}");
    }

    #[test]
    fn a_list_that_is_not_current_is_refused() {
        for (edit, why) in [
            ("in a.rs\n- gone();\n+", "not found"),
            ("in a.rs\n- go();\n+", "more than once"),
            ("in a.rs fn three\n- go();\n+", "no fn three"),
            ("in b.rs\n- go();\n+", "no such file"),
            ("in a.rs fn two\n- go()[[.and()]];\n+", "no expression"),
        ] {
            let error = weave_list(&format!("mutant a\nbreaks x\n{edit}\n")).unwrap_err();
            assert!(error.contains(why), "{edit}: {error}");
        }
    }
}
