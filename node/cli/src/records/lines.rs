//! Lines of a file, numbered, each of bounded length.

use std::io::{BufRead, Read};

use dynamo_core::config::VALUE_BYTES_MAX;

/// Bytes of a line: a value of JSON in which every byte is escaped, and its key.
const LINE_BYTES_MAX: usize = 8 * VALUE_BYTES_MAX;

/// Why there is no next record.
#[derive(Debug)]
pub enum Problem {
    /// The file cannot be read.
    Read(std::io::Error),
    /// It can, and is not what it should be.
    Record {
        /// Where.
        line: u64,
        /// What is wrong.
        reason: String,
    },
}

/// Reads one line after the other.
pub struct Lines<R> {
    reader: R,
    buffer: Vec<u8>,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    /// Nothing is read yet.
    pub fn new(reader: R) -> Self {
        Self { reader, buffer: Vec::new(), number: 0 }
    }

    /// The number of the line that was read last; the first is 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The next line with its end, or `None` after the last.
    pub fn next(&mut self) -> Result<Option<&[u8]>, Problem> {
        self.buffer.clear();
        let mut limited = (&mut self.reader).take(LINE_BYTES_MAX as u64 + 1);
        let read = limited.read_until(b'\n', &mut self.buffer).map_err(Problem::Read)?;
        self.number += 1;
        if read > LINE_BYTES_MAX {
            return Err(self.wrong(format!("the line is longer than {LINE_BYTES_MAX} bytes")));
        }
        Ok((read > 0).then_some(&self.buffer))
    }

    /// A problem with the line that was read last.
    pub fn wrong(&self, reason: impl Into<String>) -> Problem {
        Problem::Record { line: self.number, reason: reason.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_never_ends_is_refused_before_it_fills_the_memory() {
        let endless = std::io::BufReader::new(std::io::repeat(b'x'));
        let mut lines = Lines::new(endless);
        assert!(matches!(lines.next(), Err(Problem::Record { line: 1, .. })));
    }
}
