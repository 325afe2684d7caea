//! Debian control data (deb822): stanzas of `Field: value` lines, separated by empty lines. A line that starts with a space or a
//! tab continues the field above it; one that starts with `#` is a comment. The record's value is the stanza as it is written.

use std::io::BufRead;

use dynamo_core::config::VALUE_BYTES_MAX;

use super::Record;
use super::lines::{Lines, Problem};

/// The next stanza and the number of its first line, or `None` at the end.
pub fn next<R: BufRead>(lines: &mut Lines<R>, key_field: &str) -> Result<Option<(u64, Record)>, Problem> {
    let mut stanza = Vec::new();
    let mut key = None;
    let mut first = 0;
    while let Some(line) = lines.next()? {
        let text = line.trim_ascii_end();
        if text.is_empty() {
            if stanza.is_empty() {
                continue;
            }
            break;
        }
        stanza.extend_from_slice(line);
        let size = stanza.len();
        if !matches!(text[0], b' ' | b'\t' | b'#') {
            match field(text) {
                Some((name, value)) if name.eq_ignore_ascii_case(key_field.as_bytes()) => {
                    if key.replace(value.to_vec()).is_some() {
                        return Err(lines.wrong(format!("the stanza has the field {key_field} twice")));
                    }
                }
                Some(_) => {}
                None => return Err(lines.wrong("is neither `Field: value` nor a continuation")),
            }
        }
        if first == 0 {
            first = lines.number();
        }
        if size > VALUE_BYTES_MAX {
            return Err(lines.wrong(format!("the stanza has more than {VALUE_BYTES_MAX} bytes")));
        }
    }
    if stanza.is_empty() {
        return Ok(None);
    }
    match key {
        Some(key) => Ok(Some((first, Record { key: key.into(), value: stanza.into(), read_from: None }))),
        None => {
            let reason = format!("the stanza has no field {key_field}; name the field that is the key with --key-field");
            Err(Problem::Record { line: first, reason })
        }
    }
}

/// The name and the value of a field's first line.
fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, rest) = line.split_at(colon);
    let valid = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    valid.then(|| (name, rest[1..].trim_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stanzas(text: &str, key_field: &str) -> Result<Vec<(u64, String, String)>, String> {
        let mut lines = Lines::new(text.as_bytes());
        let mut found = Vec::new();
        loop {
            match next(&mut lines, key_field) {
                Ok(None) => return Ok(found),
                Ok(Some((line, record))) => {
                    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                    found.push((line, text(&record.key), text(&record.value)));
                }
                Err(Problem::Record { line, reason }) => return Err(format!("{line}: {reason}")),
                Err(Problem::Read(error)) => return Err(error.to_string()),
            }
        }
    }

    #[test]
    fn a_stanza_is_kept_as_it_is_written() {
        let text = "\n\nPackage: 0ad\nDescription: a game\n of war\n .\n\t# not a comment\n\n \nPackage: zip\r\nSize: 1";
        let found = stanzas(text, "Package").unwrap();
        assert_eq!(
            found,
            [
                (3, "0ad".to_owned(), "Package: 0ad\nDescription: a game\n of war\n .\n\t# not a comment\n".to_owned()),
                (10, "zip".to_owned(), "Package: zip\r\nSize: 1".to_owned()),
            ]
        );
    }

    #[test]
    fn the_key_is_the_field_that_was_asked_for_whatever_its_case() {
        let found = stanzas("SHA256:  ab12 \npackage: x\n", "Sha256").unwrap();
        assert_eq!(found[0].1, "ab12");
    }

    #[test]
    fn what_is_no_control_data_is_named_by_its_line() {
        let cases = [
            ("Package: a\nno colon here\n", "2: is neither"),
            ("Version: 1\n", "1: the stanza has no field Package"),
            ("Package: a\nPackage: b\n", "2: the stanza has the field Package twice"),
            (": x\n", "1: is neither"),
        ];
        for (text, expected) in cases {
            let error = stanzas(text, "Package").unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
        assert_eq!(stanzas("", "Package"), Ok(Vec::new()));
    }

    #[test]
    fn a_stanza_that_never_ends_is_refused() {
        let text = format!("Package: a\n{}", " more\n".repeat(VALUE_BYTES_MAX / 6 + 1));
        assert!(stanzas(&text, "Package").unwrap_err().contains("more than"));
    }
}
