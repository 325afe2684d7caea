//! How far it is: a bar on a terminal, a plain line every two seconds elsewhere. Always on the standard error.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::{grouped, tell};

/// Between two plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(2);
/// Between two notes beside a bar.
const NOTE_INTERVAL: Duration = Duration::from_millis(200);

/// Progress towards a number of things, or through time.
pub struct Progress {
    what: &'static str,
    total: Option<u64>,
    done: u64,
    note: String,
    started: Instant,
    shown: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Nothing of `total` is done. Without a total: only the time and the note are shown.
    pub fn new(what: &'static str, total: Option<u64>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| bar(what, total));
        let now = Instant::now();
        Self { what, total, done: 0, note: String::new(), started: now, shown: now, bar }
    }

    /// `done` of the total are done; `note` says more, and is made only when it is shown.
    pub fn at(&mut self, done: u64, note: impl FnOnce() -> String) {
        self.done = done;
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            if self.shown.elapsed() >= NOTE_INTERVAL {
                self.shown = Instant::now();
                bar.set_message(note());
            }
        } else if self.shown.elapsed() >= LINE_INTERVAL {
            self.shown = Instant::now();
            self.note = note();
            tell(self.line());
        }
    }

    /// There is no more to show.
    pub fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self) -> String {
        let seconds = self.started.elapsed().as_secs();
        let counts = self.total.map_or_else(String::new, |total| {
            let percent = (self.done * 100).checked_div(total).unwrap_or(100);
            format!(" {}/{} ({percent} %)", grouped(self.done), grouped(total))
        });
        format!("{}:{counts} after {seconds} s{}{}", self.what, if self.note.is_empty() { "" } else { ", " }, self.note)
    }
}

fn bar(what: &'static str, total: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(10));
    let template = match total {
        Some(_) => "{prefix} [{wide_bar}] {human_pos}/{human_len} {msg} eta {eta}",
        None => "{prefix} {spinner} {elapsed} {msg}",
    };
    // The templates are constants; should one ever be wrong, the default style does.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(what);
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_line_says_what_how_far_and_how_it_goes() {
        let mut progress = Progress::new("import", Some(4000));
        progress.done = 1000;
        progress.note = "500/s".to_owned();
        assert_eq!(progress.line(), "import: 1,000/4,000 (25 %) after 0 s, 500/s");
        assert_eq!(Progress::new("import", Some(0)).line(), "import: 0/0 (100 %) after 0 s");
        assert_eq!(Progress::new("workload", None).line(), "workload: after 0 s");
    }
}
