//! What people and programs read: tables without frames, figures with separators, values that may be any bytes.

use std::io::{ErrorKind, Write};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use crate::stop::Stop;

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs: one JSON document; of `bench compare` JSON lines.
    Json,
}

/// Writes to the standard output. A reader that has gone away (`| head`) misses it without a word: what the command came to is said by its exit
/// code still.
pub fn print(text: &[u8]) -> Result<(), Stop> {
    told(write(text).or_else(|error| if error.kind() == ErrorKind::BrokenPipe { Ok(()) } else { Err(error) }))
}

/// The same in the midst of a command that goes on for long: without a reader it ends.
pub fn print_on(text: &[u8]) -> Result<(), Stop> {
    told(write(text))
}

fn write(text: &[u8]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text).and_then(|()| out.flush())
}

fn told(written: std::io::Result<()>) -> Result<(), Stop> {
    written.map_err(|error| Stop::Failed(format!("standard output: {error}")))
}

/// A line on the standard error. Where that cannot be written nobody reads it, and the work goes on.
pub fn tell(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Prints text with a line end, or the JSON.
pub fn show(format: Format, text: impl FnOnce() -> String, document: &Value) -> Result<(), Stop> {
    match format {
        Format::Table => print(format!("{}\n", text().trim_end()).as_bytes()),
        Format::Json => print(format!("{document}\n").as_bytes()),
    }
}

/// Rows below a header. A column whose name starts with `#` holds figures and is aligned to the right; the mark is not shown.
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().map(|name| name.trim_start_matches('#')));
    table.add_rows(rows);
    for (index, name) in header.iter().enumerate() {
        let Some(column) = table.column_mut(index) else { continue };
        column.set_padding((0, 2));
        if name.starts_with('#') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines = table.lines().map(|line| line.trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

/// A text of so many characters at most, with an ellipsis for what was cut off.
pub fn cut(text: &str, characters_max: usize) -> String {
    if text.chars().count() <= characters_max {
        return text.to_owned();
    }
    let kept: String = text.chars().take(characters_max.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// 1234567 as 1,234,567.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size in the largest binary unit that keeps it above one.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = (bytes.max(1).ilog2() / 10).min(4) as usize;
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{:.1} {}", bytes as f64 / (1_u64 << (10 * unit)) as f64, UNITS[unit]),
    }
}

/// Milliseconds since 1970 as a date and time in UTC.
pub fn date(written_ms: u64) -> String {
    let seconds = written_ms / 1000;
    let (hours, minutes) = (seconds % 86_400 / 3600, seconds % 3600 / 60);
    // Days to a civil date, in years that begin in March so that the leap day comes last.
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{:02}.{:03}Z", seconds % 60, written_ms % 1000)
}

/// A context as it is shown and given back: base64 that needs no quotes in a shell.
pub fn encode_context(context: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(context)
}

/// What [`encode_context`] showed.
pub fn decode_context(text: &str) -> Result<Vec<u8>, Stop> {
    if text.trim().is_empty() {
        return Err(Stop::Usage("--context: is empty; get the key first, or leave --context out: then a put is blind, and makes a sibling of what is there".to_owned()));
    }
    let wrong = |error| Stop::Usage(format!("--context: {error}; give the context exactly as `get` shows it"));
    URL_SAFE_NO_PAD.decode(text.trim()).map_err(wrong)
}

/// Bytes for a JSON document: as text if they are, else in base64 under another name.
pub fn value_fields(value: &[u8]) -> Value {
    match std::str::from_utf8(value) {
        Ok(text) => json!({ "value": text }),
        Err(_) => json!({ "value_base64": base64::engine::general_purpose::STANDARD.encode(value) }),
    }
}

/// Bytes for people: text as it is, anything else escaped.
pub fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t' | '\r')) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_no_frame_and_its_figures_stand_on_the_right() {
        let rows = vec![
            vec!["node-0".to_owned(), "12".to_owned(), "up".to_owned()],
            vec!["node-1".to_owned(), "1,234".to_owned(), String::new()],
        ];
        insta::assert_snapshot!(table(&["NODE", "#OBJECTS", "STATE"], rows), @r"
        NODE    OBJECTS  STATE
        node-0       12  up
        node-1    1,234
        ");
    }

    #[test]
    fn a_text_that_is_too_long_is_cut_and_says_so() {
        for (text, shown) in [("", ""), ("0123", "0123"), ("01234", "012…"), ("äöüßä", "äöü…")] {
            assert_eq!(cut(text, 4), shown);
        }
    }

    #[test]
    fn figures_are_readable() {
        let numbers = [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")];
        for (number, text) in numbers {
            assert_eq!(grouped(number), text);
        }
        let sizes = [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (52_428_800, "50.0 MiB"), (u64::MAX, "16777216.0 TiB")];
        for (bytes, text) in sizes {
            assert_eq!(size(bytes), text);
        }
        let dates = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_524_299_042, "2026-11-24T12:44:59.042Z"),
        ];
        for (ms, text) in dates {
            assert_eq!(date(ms), text);
        }
    }

    #[test]
    fn a_context_reads_back_from_what_is_shown() {
        let context = [0, 255, 62, 63, 1];
        let shown = encode_context(&context);
        assert!(shown.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_".contains(&c)), "{shown}");
        assert_eq!(decode_context(&shown).unwrap(), context);
        let error = decode_context("not base64!").unwrap_err().to_string();
        assert!(error.starts_with("--context"), "{error}");
        for empty in ["", " "] {
            assert!(decode_context(empty).unwrap_err().to_string().contains("get the key first"));
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_escaped() {
        assert_eq!(readable("naïve\ttext\n".as_bytes()), "naïve\ttext\n");
        assert_eq!(readable(b"\x1b[31m\xff"), "\\x1b[31m\\xff");
    }
}
