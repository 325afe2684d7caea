//! Standard output, whose reader may go before everything is said: `dynamo-sim --seed 42 | head`.

use std::fmt::Display;
use std::io::{ErrorKind, Write};

/// What a shell sees of a process that a broken pipe ended. It is no success: what was not said may have been a violation.
const BROKEN_PIPE: i32 = 128 + 13;

/// Prints a line. Without a reader the process ends, quietly.
pub fn say(line: impl Display) {
    match writeln!(std::io::stdout().lock(), "{line}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(BROKEN_PIPE),
        Err(error) => panic!("standard output: {error}"),
        Ok(()) => {}
    }
}
