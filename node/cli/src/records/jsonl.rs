//! JSON lines: an object on each line, with a key that is a string. A value that is a string is stored as its text, any other as
//! its JSON.

use std::io::BufRead;

use serde_json::{Map, Value};

use super::Record;
use super::lines::{Lines, Problem};

/// The next object and the number of its line, or `None` at the end. Empty lines are skipped.
pub fn next<R: BufRead>(lines: &mut Lines<R>, key_field: &str) -> Result<Option<(u64, Record)>, Problem> {
    loop {
        let Some(line) = lines.next()? else { return Ok(None) };
        if line.trim_ascii().is_empty() {
            continue;
        }
        let parsed = serde_json::from_slice::<Map<String, Value>>(line);
        let mut object = parsed.map_err(|error| lines.wrong(format!("is not a JSON object: {error}")))?;
        let Some(Value::String(key)) = object.remove(key_field) else {
            return Err(lines.wrong(format!("has no string in the field {key_field}")));
        };
        let value = match object.remove("value") {
            Some(Value::String(text)) => text,
            Some(other) => other.to_string(),
            None => return Err(lines.wrong("has no field value")),
        };
        return Ok(Some((lines.number(), Record { key: key.into(), value: value.into() })));
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
        assert_eq!(read(), Some((3, "{\"n\":[1,2]}".into())));
        assert_eq!(read(), None);
    }

    #[test]
    fn what_is_no_record_is_named_by_its_line() {
        for text in ["[1]", "{\"key\": 1, \"value\": 2}", "{\"key\": \"a\"}", "{\"key\": \"a\", \"value\": "] {
            let problem = next(&mut Lines::new(text.as_bytes()), "key").unwrap_err();
            assert!(matches!(problem, Problem::Record { line: 1, .. }), "{text}");
        }
    }
}
