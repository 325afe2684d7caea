//! What a run prints: one line a step as it happens, what was left behind by a failure, a table, and the closing line of a
//! Rust test program, which scripts count.

use std::time::{Duration, Instant};

use anyhow::Error;

enum Outcome {
    Ok,
    Failed,
    NotRun,
}

struct Row {
    name: String,
    outcome: Outcome,
    took: Duration,
    told: String,
}

/// The run so far.
pub struct Report {
    started: Instant,
    rows: Vec<Row>,
}

impl Default for Report {
    fn default() -> Self {
        Self { started: Instant::now(), rows: Vec::new() }
    }
}

impl Report {
    /// Says which step begins.
    pub fn begin(&self, name: &str) {
        println!("[{:>4} s] {name}", self.started.elapsed().as_secs());
    }

    /// Says how a step ended, and keeps it.
    pub fn end(&mut self, name: &str, took: Duration, outcome: Result<String, Error>) {
        let (outcome, told) = match outcome {
            Ok(told) => (Outcome::Ok, told),
            Err(error) => (Outcome::Failed, format!("{error:#}")),
        };
        let verdict = if matches!(outcome, Outcome::Ok) { "ok" } else { "FAILED" };
        println!("test {name} ... {verdict} ({:.1} s)", took.as_secs_f64());
        for line in told.lines() {
            println!("         {line}");
        }
        self.rows.push(Row { name: name.to_owned(), outcome, took, told });
    }

    /// A step that was left out.
    pub fn not_run(&mut self, name: &str, why: &str) {
        self.rows.push(Row { name: name.to_owned(), outcome: Outcome::NotRun, took: Duration::ZERO, told: why.to_owned() });
    }

    /// Whether a step has failed so far.
    pub fn has_failed(&self) -> bool {
        self.failures() > 0
    }

    /// How many steps have failed so far.
    pub fn failures(&self) -> usize {
        self.rows.iter().filter(|row| matches!(row.outcome, Outcome::Failed)).count()
    }

    /// The table and the closing line.
    pub fn summary(&self) -> String {
        let width = self.rows.iter().map(|row| row.name.len()).max().unwrap_or_default();
        let mut text = format!("\n{:width$}  {:>8}  outcome\n", "step", "seconds");
        for row in &self.rows {
            let (outcome, seconds) = match row.outcome {
                Outcome::Ok => ("ok", format!("{:.1}", row.took.as_secs_f64())),
                Outcome::Failed => ("FAILED", format!("{:.1}", row.took.as_secs_f64())),
                Outcome::NotRun => ("not run", String::new()),
            };
            let told = row.told.lines().next().unwrap_or_default();
            text += format!("{:width$}  {seconds:>8}  {outcome:8} {told}", row.name).trim_end();
            text.push('\n');
        }
        let count = |wanted: fn(&Outcome) -> bool| self.rows.iter().filter(|row| wanted(&row.outcome)).count();
        let passed = count(|outcome| matches!(outcome, Outcome::Ok));
        let failed = count(|outcome| matches!(outcome, Outcome::Failed));
        let ignored = count(|outcome| matches!(outcome, Outcome::NotRun));
        let verdict = if failed == 0 { "ok" } else { "FAILED" };
        let seconds = self.started.elapsed().as_secs_f64();
        text += &format!(
            "\ntest result: {verdict}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; 0 filtered out; finished in {seconds:.2}s\n"
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_that_were_left_out_are_counted_as_ignored() {
        let mut report = Report::default();
        report.end("it_starts", Duration::from_millis(1500), Ok("three nodes\nand more".to_owned()));
        report.end("it_stays", Duration::from_secs(2), Err(anyhow::anyhow!("it did not")));
        report.not_run("it_ends", "a step before it failed");
        let summary = report.summary();
        assert!(report.has_failed());
        assert!(summary.contains("it_starts       1.5  ok       three nodes\n"), "{summary}");
        assert!(summary.contains("it_stays        2.0  FAILED   it did not\n"), "{summary}");
        assert!(summary.contains("it_ends              not run  a step before it failed\n"), "{summary}");
        assert!(summary.contains("test result: FAILED. 1 passed; 1 failed; 1 ignored;"), "{summary}");
    }
}
