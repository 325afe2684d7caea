//! Latencies by what happens meanwhile: the phases of a run, one after the other, each beside the first, which is quiet.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::machine::CoreTime;
use super::report::Latencies;
use crate::output::{grouped, table};

/// One run's.
pub struct Phases(Mutex<State>);

struct State {
    names: &'static [&'static str],
    /// The phase that runs; as many as there are names when the last has ended.
    now: usize,
    since: Instant,
    took: Vec<Duration>,
    /// When the phase that runs began, once something ended in it.
    cores: Option<CoreTime>,
    busy_percent: Vec<Option<f64>>,
    latencies: Vec<Latencies>,
    errors: Vec<u64>,
    notes: Vec<String>,
}

impl Phases {
    /// The first begins at `begin`.
    pub fn new(names: &'static [&'static str], begin: Instant) -> Self {
        let latencies = names.iter().map(|_| Latencies::new()).collect();
        let errors = vec![0; names.len()];
        let (took, busy_percent, notes) = (Vec::new(), Vec::new(), Vec::new());
        Self(Mutex::new(State { names, now: 0, since: begin, took, cores: None, busy_percent, latencies, errors, notes }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An operation ended now, after `latency`, or failed. What was due before the last phase ended, and is answered after that, is of it.
    pub fn record(&self, latency: Option<Duration>) {
        let mut state = self.lock();
        let phase = state.now.min(state.names.len() - 1);
        if state.cores.is_none() {
            state.cores = CoreTime::now();
        }
        match latency {
            Some(latency) => state.latencies[phase].record(latency),
            None => state.errors[phase] += 1,
        }
    }

    /// The phase ends; the next one begins, if there is one.
    pub fn next(&self) {
        let mut state = self.lock();
        let took = state.since.elapsed();
        state.took.push(took);
        let cores = CoreTime::now();
        let busy_percent = cores.zip(state.cores).map(|(now, began)| now.busy_percent_since(began));
        state.busy_percent.push(busy_percent);
        state.cores = cores;
        state.now += 1;
        state.since = Instant::now();
    }

    /// The name of the phase that runs.
    pub fn name(&self) -> &'static str {
        let state = self.lock();
        state.names.get(state.now).copied().unwrap_or("over")
    }

    /// Something that was seen on the way.
    pub fn note(&self, note: String) {
        self.lock().notes.push(note);
    }

    /// For programs.
    pub fn document(&self) -> Value {
        let state = self.lock();
        let phase = |(index, name): (usize, &&str)| {
            let mut phase = state.latencies[index].document();
            phase["phase"] = json!(name);
            phase["seconds"] = json!(state.took.get(index).map(Duration::as_secs_f64));
            phase["machine_busy_percent"] = json!(state.busy_percent.get(index).copied().flatten());
            phase["errors"] = json!(state.errors[index]);
            phase["p99_over_first"] = json!(state.ratio(index));
            phase
        };
        let phases: Value = state.names.iter().enumerate().map(phase).collect();
        json!({ "phases": phases, "notes": state.notes })
    }

    /// For people.
    pub fn text(&self) -> String {
        let state = self.lock();
        let row = |(index, name): (usize, &&str)| {
            let mut row = state.latencies[index].row(name);
            row.push(state.ratio(index).map_or(String::new(), |ratio| format!("{ratio:.2}")));
            row.push(state.took.get(index).map_or(String::new(), |took| format!("{:.1}", took.as_secs_f64())));
            row.push(state.busy_percent.get(index).copied().flatten().map_or(String::new(), |busy| format!("{busy:.0} %")));
            row.push(grouped(state.errors[index]));
            row
        };
        let first = format!("#P99/{}", state.names[0].to_uppercase());
        let header =
            ["PHASE", "#COUNT", "#P50 MS", "#P99 MS", "#P99.9 MS", "#MAX MS", &first, "#SECONDS", "#CORES BUSY", "#ERRORS"];
        let rows = table(&header, state.names.iter().enumerate().map(row).collect());
        state.notes.iter().fold(rows, |text, note| format!("{text}\n{note}"))
    }
}

impl State {
    /// The 99th percentile of a phase over that of the first.
    fn ratio(&self, phase: usize) -> Option<f64> {
        let p99 = |phase: usize| (self.latencies[phase].count() > 0).then(|| self.latencies[phase].quantile_ms(0.99));
        Some(p99(phase)? / p99(0)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_count_in_the_phase_in_which_they_ended() {
        let phases = Phases::new(&["quiet", "away", "after"], Instant::now());
        let ms = Duration::from_millis;
        phases.record(Some(ms(10)));
        phases.next();
        phases.record(None);
        phases.next();
        phases.record(Some(ms(12)));
        phases.note("a node came back".to_owned());
        phases.next();
        phases.record(Some(ms(12)));
        let document = phases.document();
        let of = |phase: usize, field: &str| document["phases"][phase][field].clone();
        assert_eq!((of(0, "count"), of(1, "count"), of(1, "errors")), (json!(1), json!(0), json!(1)));
        let busy = of(1, "machine_busy_percent").as_f64().unwrap();
        assert!((0.0..=100.0).contains(&busy), "{busy}");
        assert_eq!(
            (of(2, "count"), of(1, "p99_over_first")),
            (json!(2), Value::Null),
            "what ended after the last one was due in it"
        );
        let ratio = of(2, "p99_over_first").as_f64().unwrap();
        assert!((ratio - 1.2).abs() < 0.01, "{ratio}");
        assert!(phases.text().ends_with("a node came back") && phases.text().contains("1.20"), "{}", phases.text());
    }
}
