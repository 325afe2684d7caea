//! Spoilt files and arguments.

use dynamo_fuzz::{Expect, Fuzz, unsealed};

use crate::output::{decode_context, encode_context};
use crate::records::lines::{Lines, Problem};
use crate::records::{Record, deb822, jsonl};

/// All records of a file, or nothing if one is wrong.
fn all(next: impl FnMut() -> Result<Option<(u64, Record)>, Problem>) -> Option<Vec<Record>> {
    let records: Result<Vec<(u64, Record)>, Problem> = std::iter::from_fn({
        let mut next = next;
        move || next().transpose()
    })
    .collect();
    records.ok().map(|records| records.into_iter().map(|(_, record)| record).collect())
}

#[test]
fn spoilt_json_lines_are_records_or_refused() {
    let line = |key: &str, value: &str| format!("{{\"key\": {key}, \"value\": {value}, \"more\": null}}\n");
    let corpus = [line("\"a\"", "\"milk\\n\""), line("\"b\"", "{\"n\": [1, 2.5, true]}"), line("\"\\u00e4\"", "-1e300")].concat();
    Fuzz {
        name: "JSON lines",
        corpus: vec![corpus.into_bytes()],
        seal: &unsealed,
        expect: Expect::Stable,
        decode: &|bytes| {
            let mut lines = Lines::new(bytes);
            let records = all(|| jsonl::next(&mut lines, "key"))?;
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let line = |Record { key, value, .. }: &Record| {
                serde_json::json!({ "key": text(key), "value": text(value) }).to_string() + "\n"
            };
            Some(records.iter().map(line).collect::<String>().into_bytes())
        },
    }
    .run();
}

#[test]
fn spoilt_control_data_are_records_or_refused() {
    let text = b"Package: 0ad\nDescription: a game\n of war\n .\n# a comment\n\nPackage: zip\r\nSize: 1";
    Fuzz {
        name: "control data",
        corpus: vec![text.to_vec()],
        seal: &unsealed,
        expect: Expect::Stable,
        decode: &|bytes| {
            let mut lines = Lines::new(bytes);
            let records = all(|| deb822::next(&mut lines, "Package"))?;
            let stanza = |record: &Record| {
                let end: &[u8] = if record.value.ends_with(b"\n") { b"\n" } else { b"\n\n" };
                [&record.value[..], end].concat()
            };
            Some(records.iter().flat_map(stanza).collect())
        },
    }
    .run();
}

#[test]
fn spoilt_contexts_on_the_command_line_are_contexts_or_refused() {
    Fuzz {
        name: "context as text",
        corpus: vec![b"AQIDBAUGBwgJCgs".to_vec(), b"AA".to_vec()],
        seal: &unsealed,
        expect: Expect::Stable,
        decode: &|bytes| {
            let context = decode_context(std::str::from_utf8(bytes).ok()?).ok()?;
            Some(encode_context(&context).into_bytes())
        },
    }
    .run();
}
