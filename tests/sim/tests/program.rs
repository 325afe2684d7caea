//! The program itself, as people start it.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// Reads so many lines of what the program says, as `head` does.
fn head(arguments: &[&str], lines: usize) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dynamo-sim"));
    let mut child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let read = BufReader::new(child.stdout.take().unwrap()).lines().take(lines).count();
    assert_eq!(read, lines);
    child.wait_with_output().unwrap()
}

#[test]
fn a_reader_that_has_had_enough_ends_the_program_quietly_and_that_is_no_success() {
    for (arguments, lines) in [(["--seed", "1"], 3), (["--seeds", "1"], 0)] {
        let ended = head(&arguments, lines);
        assert_eq!(String::from_utf8_lossy(&ended.stderr), "", "{arguments:?}");
        assert_eq!(ended.status.code(), Some(141), "{arguments:?}");
    }
}
