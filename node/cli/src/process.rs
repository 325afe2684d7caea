//! Processes by their pid and start time, from /proc: so that a pid that has passed to somebody else is never taken for ours.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use rustix::process::{Flock, FlockType, Pid, PidfdFlags, Signal, fcntl_getlk, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// The flag of a thread that ends, in /proc/PID/stat.
const PF_EXITING: u64 = 4;

/// One process, for ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Process {
    /// The number, which is used again after its end.
    pub pid: u32,
    /// When it started, in clock ticks since the machine did.
    pub start_ticks: u64,
}

/// What /proc/PID/stat says.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    zombie: bool,
    /// Its first thread is about to be a zombie: it was killed, or returned from `main`.
    exiting: bool,
    /// By a signal, as SIGSTOP; SIGCONT lets it go on.
    stopped: bool,
    /// How many there are, of a process that has ended too: until the last has, its files and sockets are open.
    threads: u64,
    cpu_ticks: u64,
    start_ticks: u64,
}

impl Process {
    /// The process that has `pid` now.
    pub fn with_pid(pid: u32) -> Option<Self> {
        stat(pid).filter(|stat| !stat.zombie && !stat.exiting).map(|stat| Self { pid, start_ticks: stat.start_ticks })
    }

    /// It has not ended.
    pub fn is_running(&self) -> bool {
        Self::with_pid(self.pid).as_ref() == Some(self)
    }

    /// It has not ended, or it has and some of its threads go on ending: its sockets are taken and its files locked.
    pub fn holds_on(&self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.start_ticks == self.start_ticks && stat.holds_on())
    }

    /// It stands still until it is sent SIGCONT.
    pub fn is_stopped(&self) -> bool {
        self.is_running() && stat(self.pid).is_some_and(|stat| stat.stopped)
    }

    /// A process that was started with the option `--config` and `path`, if there is one.
    pub fn with_configuration(path: &Path) -> Option<Self> {
        let names_it = |words: &[&[u8]]| words == [b"--config", path.as_os_str().as_encoded_bytes()];
        let pids = fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let mut found = pids.filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            words.windows(2).any(names_it)
        });
        found.find_map(Self::with_pid)
    }

    /// Sends `signal`; `false` if the process has ended already.
    pub fn signal(&self, signal: Signal) -> std::io::Result<bool> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(false) };
        // The descriptor holds on to the process behind the pid; only then does the comparison mean something.
        let descriptor = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(descriptor) => descriptor,
            Err(rustix::io::Errno::SRCH) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        if !self.is_running() {
            return Ok(false);
        }
        match pidfd_send_signal(&descriptor, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Stat {
    fn holds_on(&self) -> bool {
        !self.zombie || self.threads > 1
    }
}

/// The pid of a process that has a lock on `file` (by fcntl, as databases have), which is none of this process's own.
pub fn pid_with_lock_on(file: &Path) -> Option<u32> {
    let file = File::open(file).ok()?;
    let held = fcntl_getlk(&file, &Flock::from(FlockType::WriteLock)).ok()??;
    // One in another namespace has no number here.
    Some(held.pid.map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs()))
}

/// CPU time (user and system) that the process `pid` has taken since its start.
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let ticks_per_second = rustix::param::clock_ticks_per_second().max(1);
    stat(pid).map(|stat| Duration::from_micros(stat.cpu_ticks * 1_000_000 / ticks_per_second))
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The second field is the program's name in brackets and may hold anything, brackets and spaces too.
fn parse_stat(text: &str) -> Option<Stat> {
    let after_name = &text[text.rfind(')')? + 1..];
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let state = *fields.first()?;
    Some(Stat {
        zombie: matches!(state, "Z" | "X"),
        exiting: number(9)? & PF_EXITING != 0,
        stopped: state == "T",
        threads: number(20)?,
        cpu_ticks: number(14)? + number(15)?,
        start_ticks: number(22)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_a_strange_name_is_read_correctly() {
        let text = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 0 0 0 70 30 0 0 20 0 4 0 987654 1000 10";
        let stat = Stat { zombie: false, exiting: false, stopped: false, threads: 4, cpu_ticks: 100, start_ticks: 987_654 };
        assert_eq!(parse_stat(text), Some(stat));
        assert!(parse_stat(&text.replace(") S", ") T")).is_some_and(|stat| stat.stopped));
        assert!(parse_stat(&text.replace("4194560", "4194564")).is_some_and(|stat| stat.exiting));
        assert_eq!(parse_stat("nonsense"), None);
    }

    #[test]
    fn a_process_that_was_killed_holds_on_to_what_it_has_until_its_last_thread_has_ended() {
        let holds_on = |state: &str, threads: u64| {
            let text = format!("42 (a) {state} 1 42 42 0 -1 4194560 1 0 0 0 70 30 0 0 20 0 {threads} 0 987654 1000 10");
            parse_stat(&text).unwrap().holds_on()
        };
        assert_eq!([holds_on("S", 1), holds_on("Z", 3), holds_on("Z", 1)], [true, true, false]);
        let own = Process::with_pid(std::process::id()).unwrap();
        assert!(own.holds_on());
        assert!(!Process { start_ticks: own.start_ticks - 1, ..own }.holds_on(), "the pid is somebody else's");
    }

    #[test]
    fn a_pid_that_passed_to_another_process_is_not_ours() {
        let own = Process::with_pid(std::process::id()).unwrap();
        assert!(own.is_running());
        let former = Process { start_ticks: own.start_ticks - 1, ..own };
        assert!(!former.is_running());
        assert!(!former.signal(Signal::TERM).unwrap());
    }

    #[test]
    fn this_process_has_taken_some_cpu_time() {
        assert!(cpu_time(std::process::id()).is_some());
        assert_eq!(cpu_time(u32::MAX), None);
    }
}
