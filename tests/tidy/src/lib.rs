//! Reading the workspace's own sources, for the tests that hold its structure (`tests/tidy.rs`).
//!
//! Everything is read as text from the checkout that the crate lies in; nothing is built or run.

use std::fs;
use std::path::{Path, PathBuf};

/// A file of the checkout.
pub struct Source {
    /// Its path from the checkout's root.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// The checkout's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the crate lies two folders below the root")
}

/// Every file below `folder` whose name ends in `ending`, in order; build output and hidden folders are passed over.
pub fn files(folder: &str, ending: &str) -> Vec<Source> {
    let root = root();
    let mut found = Vec::new();
    walk(&root.join(folder), &mut |path| {
        if path.to_string_lossy().ends_with(ending)
            && let Ok(text) = fs::read_to_string(path)
        {
            let path = path.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned();
            found.push(Source { path, text });
        }
    });
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

fn walk(folder: &Path, visit: &mut impl FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            walk(&path, visit);
        } else if path.is_file() {
            visit(&path);
        }
    }
}

/// The functions of a Rust source with the number of lines of each, from the signature to the closing brace. Relies on rustfmt:
/// the closing brace stands at the signature's indentation.
pub fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let body = line.trim_start();
        let is_function =
            ["fn ", "pub fn ", "pub(crate) fn ", "pub(super) fn ", "async fn ", "pub async fn ", "pub(super) async fn "]
                .iter()
                .any(|opening| body.starts_with(opening));
        if is_function && !line.trim_end().ends_with('}') {
            let indentation = line.len() - body.len();
            let closing = format!("{}}}", " ".repeat(indentation));
            let length = lines[start..].iter().position(|line| *line == closing).map_or(0, |at| at + 1);
            let name = body.split("fn ").nth(1).unwrap_or_default().split(['(', '<']).next().unwrap_or_default();
            found.push((name.to_owned(), length));
        }
    }
    found
}
