//! JSON lines: an object on each line, with a key that is a string. A value that is a string is stored as its text, any other as
//! its JSON, byte for byte: what a parser would make of its numbers and its members is not what was written. `value_base64` has the
//! bytes of one that is no text, and the one entry of `siblings` either: so `dynamoctl get -o json` writes them.

use std::collections::BTreeMap;
use std::io::BufRead;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
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
    let fields = fields(line)?;
    let key = field(&fields, key_field)?.and_then(|written| serde_json::from_slice::<String>(written).ok());
    let key = key.ok_or_else(|| format!("has no string in the field {key_field}"))?;
    let (value, read_from) = match value(&fields)? {
        Some(value) => (value, None),
        None => {
            let value = only_sibling(&fields)?.ok_or("has no field value or value_base64")?;
            (value, field(&fields, "bucket")?.and_then(|written| serde_json::from_slice(written).ok()))
        }
    };
    Ok(Record { key: key.into(), value: value.into(), read_from })
}

/// The field of this name as it is written.
fn field<'a>(fields: &[(String, &'a [u8])], name: &str) -> Result<Option<&'a [u8]>, String> {
    let mut named = fields.iter().filter(|(field, _)| field == name).map(|(_, written)| *written);
    let first = named.next();
    if named.next().is_some() { Err(format!("has the field {name} twice")) } else { Ok(first) }
}

/// The value, as it is or in base64.
fn value(fields: &[(String, &[u8])]) -> Result<Option<Vec<u8>>, String> {
    let text = |name: &str, written: &[u8]| {
        serde_json::from_slice::<String>(written).map_err(|error| format!("the field {name}: {error}"))
    };
    Ok(match (field(fields, "value")?, field(fields, "value_base64")?) {
        (None, None) => None,
        (Some(_), Some(_)) => return Err("has a field value and a field value_base64; leave one out".to_owned()),
        (Some(written), None) if written.starts_with(b"\"") => Some(text("value", written)?.into_bytes()),
        (Some(written), None) => Some(written.to_vec()),
        (None, Some(written)) => Some(decoded(&text("value_base64", written)?)?),
    })
}

/// One of the values that `get` printed.
#[derive(Deserialize)]
struct Sibling {
    value: Option<String>,
    value_base64: Option<String>,
}

/// What `get` printed of an object that has one value.
fn only_sibling(record: &[(String, &[u8])]) -> Result<Option<Vec<u8>>, String> {
    let Some(written) = field(record, "siblings")? else { return Ok(None) };
    let siblings: Vec<Sibling> = serde_json::from_slice(written).map_err(|error| format!("the field siblings: {error}"))?;
    match siblings.as_slice() {
        [Sibling { value: Some(text), value_base64: None }] => Ok(Some(text.clone().into_bytes())),
        [Sibling { value: None, value_base64: Some(text) }] => decoded(text).map(Some),
        [_] => Err("the field siblings: its entry has to have either value or value_base64".to_owned()),
        [] => Err("the field siblings has 0 values: the key did not exist; leave this line out".to_owned()),
        more => Err(format!("the field siblings has {} values, and one is stored: merge them into one", more.len())),
    }
}

fn decoded(text: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(text).map_err(|error| format!("the field value_base64: {error}"))
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
    fn what_get_prints_for_programs_is_taken() {
        for (fields, expected) in [
            (r#""value_base64": "/wAB""#, &b"\xff\x00\x01"[..]),
            (r#""siblings": [{"value": "x\ny", "written_ms": 1}], "context": "AQID""#, b"x\ny"),
            (r#""siblings": [{"value_base64": "/w==", "written_ms": 1}], "evidence": {"epoch": 1}"#, b"\xff"),
            (r#""value": 1, "siblings": []"#, b"1"),
        ] {
            let line = format!("{{\"key\": \"k\", {fields}}}");
            assert_eq!(record(line.as_bytes(), "key").unwrap().value, expected, "{line}");
        }
        for (fields, expected) in [
            (r#""value_base64": "/w=""#, "the field value_base64: "),
            (r#""value_base64": 1"#, "the field value_base64: "),
            (r#""value": "a", "value_base64": "YQ==""#, "leave one out"),
            (r#""siblings": []"#, "has 0 values: the key did not exist; leave this line out"),
            (r#""siblings": [{"value": "a"}, {"value": "b"}]"#, "has 2 values, and one is stored: merge them"),
            (r#""siblings": [{"written_ms": 1}]"#, "either value or value_base64"),
            (r#""more": 1"#, "has no field value or value_base64"),
            (r#""siblings": 1"#, "the field siblings: "),
        ] {
            let line = format!("{{\"key\": \"k\", {fields}}}");
            let refused = record(line.as_bytes(), "key").unwrap_err();
            assert!(refused.contains(expected), "{line}: {refused}");
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
