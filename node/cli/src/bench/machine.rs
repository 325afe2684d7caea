//! The machine that a figure was measured on, and how quiet it was: load, and time that the hypervisor gave to others.

use std::fs;

use serde_json::{Value, json};

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// What does not change while it is measured.
pub fn document() -> Value {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let information = read("/proc/cpuinfo");
    let processor = information.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    json!({
        "kernel": read("/proc/sys/kernel/osrelease"),
        "cores": cores,
        "processor": processor.map(|(_, name)| name.trim()),
    })
}

/// Processes that ran or waited to, over the last minute.
pub fn load_average() -> Option<f64> {
    read("/proc/loadavg").split(' ').next()?.parse().ok()
}

/// Time of all cores, in clock ticks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CoreTime {
    total: u64,
    idle: u64,
    stolen: u64,
}

impl CoreTime {
    /// Until now.
    pub fn now() -> Option<Self> {
        Self::parse(&read("/proc/stat"))
    }

    /// The first line has: user, nice, system, idle, iowait, irq, softirq, steal; guests are counted as users already.
    fn parse(stat: &str) -> Option<Self> {
        let times: Vec<u64> =
            stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map_while(|time| time.parse().ok()).take(8).collect();
        Some(Self { total: times.iter().sum(), idle: times.get(3)? + times.get(4)?, stolen: *times.get(7)? })
    }

    /// Of the time since `earlier`, the share in percent that the hypervisor gave to others.
    pub fn stolen_percent_since(self, earlier: Self) -> f64 {
        let total = self.total.saturating_sub(earlier.total);
        100.0 * self.stolen.saturating_sub(earlier.stolen) as f64 / total.max(1) as f64
    }

    /// Of the time since `earlier`, the share in percent in which the cores had something to do, or were not there to do it.
    pub fn busy_percent_since(self, earlier: Self) -> f64 {
        let total = self.total.saturating_sub(earlier.total);
        100.0 * (1.0 - self.idle.saturating_sub(earlier.idle) as f64 / total.max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_time_is_a_share_of_all_time() {
        let earlier = CoreTime::parse("cpu  100 0 50 800 0 0 0 10 7 0\ncpu0 1 2 3\n").unwrap();
        let later = CoreTime::parse("cpu  150 0 70 820 0 0 0 20 7 0\n").unwrap();
        assert!((later.stolen_percent_since(earlier) - 10.0).abs() < 1e-9);
        assert!((later.busy_percent_since(earlier) - 80.0).abs() < 1e-9, "20 of 100 were idle");
        assert_eq!(CoreTime::parse("cpu  1 2 3"), None);
    }

    #[test]
    fn this_machine_has_cores_a_kernel_and_a_load() {
        let machine = document();
        assert!(machine["cores"].as_u64().unwrap() > 0 && !machine["kernel"].as_str().unwrap().is_empty(), "{machine}");
        assert!(load_average().is_some() && CoreTime::now().is_some());
    }
}
