//! JSON lines: an object on each line, with a key that is a string. A value that is a string is stored as its text, any other as
//! its JSON, byte for byte: what a parser would make of its numbers and its members is not what was written.

use std::collections::BTreeMap;
use std::io::BufRead;

use serde::de::IgnoredAny;

use super::Record;
use super::lines::{Lines, Problem};

/// The next object and the number of its line, or `None` at the end. Empty lines are skipped.
pub fn next<R: BufRead>(lines: &mut Lines<R>, key_field: &str) -> Result<Option<(u64, Record)>, Problem> {
    loop {
        let Some(line) = lines.next()? else { return Ok(None) };
        if line.trim_ascii().is_empty() {
            continue;
        }
        let read = record(line, key_field);
        return read.map(|record| Some((lines.number(), record))).map_err(|reason| lines.wrong(reason));
    }
}

fn record(line: &[u8], key_field: &str) -> Result<Record, String> {
    let (mut key, mut value) = (None, None);
    for (name, written) in fields(line)? {
        let field = match name.as_str() {
            name if name == key_field => &mut key,
            "value" => &mut value,
            _ => continue,
        };
        if field.replace(written).is_some() {
            return Err(format!("has the field {name} twice"));
        }
    }
    let text = |written: &[u8]| serde_json::from_slice::<String>(written);
    let key = key.and_then(|written| text(written).ok()).ok_or_else(|| format!("has no string in the field {key_field}"))?;
    let value = match value {
        None => return Err("has no field value".to_owned()),
        Some(written) if written.starts_with(b"\"") => {
            text(written).map_err(|error| format!("the field value: {error}"))?.into_bytes()
        }
        Some(written) => written.to_vec(),
    };
    Ok(Record { key: key.into(), value: value.into() })
}

/// The fields of the object that `line` is, each with its value as it is written.
fn fields(line: &[u8]) -> Result<Vec<(String, &[u8])>, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("is not a JSON object: {error}");
    let line = std::str::from_utf8(line).map_err(|error| wrong(&error))?;
    serde_json::from_str::<BTreeMap<String, IgnoredAny>>(line).map_err(|error| wrong(&error))?;
    // It is an object, so what follows finds its parts where the grammar has them.
    let mut rest = line.trim_ascii_start().strip_prefix('{').unwrap_or_default();
    let mut fields = Vec::new();
    loop {
        rest = rest.trim_ascii_start().trim_start_matches(',').trim_ascii_start();
        if !rest.starts_with('"') {
            return Ok(fields);
        }
        let (name, after) = first_value(rest);
        let after = after.trim_ascii_start().trim_start_matches(':').trim_ascii_start();
        let (value, after) = first_value(after);
        fields.push((serde_json::from_str(name).map_err(|error| wrong(&error))?, value.as_bytes()));
        rest = after;
    }
}

/// The JSON value that `text` begins with, and what comes after it.
fn first_value(text: &str) -> (&str, &str) {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    match values.next() {
        Some(Ok(IgnoredAny)) => text.split_at(values.byte_offset()),
        Some(Err(_)) | None => (text, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_stored_as_its_text_and_anything_else_as_json() {
        let text = "{\"key\": \"a\", \"value\": \"x\\ny\"}\n\n{\"key\": \"b\", \"value\": {\"n\": [1, 2]}, \"more\": 1}\n";
        let mut lines = Lines::new(text.as_bytes());
        let mut read = || next(&mut lines, "key").unwrap().map(|(line, record)| (line, record.value));
        assert_eq!(read(), Some((1, "x\ny".into())));
        assert_eq!(read(), Some((3, "{\"n\": [1, 2]}".into())));
        assert_eq!(read(), None);
    }

    #[test]
    fn what_is_no_record_is_named_by_its_line() {
        for text in [
            "[1]",
            "{\"key\": 1, \"value\": 2}",
            "{\"key\": \"a\"}",
            "{\"key\": \"a\", \"value\": ",
            "{\"key\": \"a\", \"value\": 1} 2",
            "{\"key\": \"a\", \"value\": \"\\ud800\"}",
        ] {
            let problem = next(&mut Lines::new(text.as_bytes()), "key").unwrap_err();
            assert!(matches!(problem, Problem::Record { line: 1, .. }), "{text}");
        }
    }

    #[test]
    fn a_value_of_json_is_stored_as_it_is_written() {
        let values = [
            "12345678901234567890123",
            r#"{"b":1,"a":[1.10,1e2,0.1234567890123456789],"b":2}"#,
            r#"{ "deep" : [ [ "]}," , "\u00e9\"" ] , null ] }"#,
            "-0.0",
            "true",
        ];
        for value in values {
            for line in [
                format!("{{\"key\":\"k\",\"value\":{value}}}\n"),
                format!(" {{ \"value\" : {value} , \"more\" : [{value}] , \"key\" : \"k\" }} \r\n"),
            ] {
                let (_, record) = next(&mut Lines::new(line.as_bytes()), "key").unwrap().unwrap();
                assert_eq!((&record.key[..], &record.value[..]), (&b"k"[..], value.as_bytes()), "{line}");
            }
        }
    }

    #[test]
    fn a_field_that_comes_twice_and_is_used_is_refused() {
        let refused = |line: &str| match next(&mut Lines::new(line.as_bytes()), "key") {
            Err(Problem::Record { reason, .. }) => Some(reason),
            _ => None,
        };
        let twice = |field: &str| Some(format!("has the field {field} twice"));
        assert_eq!(refused(r#"{"key": "a", "key": "b", "value": 1}"#), twice("key"));
        assert_eq!(refused(r#"{"key": "a", "value": 1, "val\u0075e": 1}"#), twice("value"));
        assert_eq!(refused(r#"{"key": "a", "value": 1, "more": 1, "more": 2}"#), None);
    }
}
