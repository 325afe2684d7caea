//! What processes take: CPU time, switches of context, bytes written. From /proc, for any program, ours and peers alike.
//!
//! The servers of an address on this machine are found by who listens there, so that nobody has to look up process ids.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use crate::process::{Process, cpu_time};

/// The state of a socket that listens, in /proc/net/tcp.
const LISTENS: &str = "0A";

/// What one process, or several, have taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// User and system.
    pub cpu: Duration,
    /// How often a thread waited for something: on a hot path, how often it found nothing to do. Threads that ended are forgotten.
    pub waits: u64,
    /// Bytes given to a disk.
    pub disk_bytes: u64,
}

impl Usage {
    /// Of the process now; `None` if it is not there, or has ended and nobody has asked how.
    pub fn of(pid: u32) -> Option<Self> {
        Process::with_pid(pid)?;
        let cpu = cpu_time(pid)?;
        let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        let disk_bytes = field(&io, "write_bytes:");
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        let statuses = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
        let waits = statuses.map(|status| field(&status, "voluntary_ctxt_switches:")).sum();
        Some(Self { cpu, waits, disk_bytes })
    }

    /// What came since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            waits: self.waits.saturating_sub(earlier.waits),
            disk_bytes: self.disk_bytes.saturating_sub(earlier.disk_bytes),
        }
    }
}

impl std::iter::Sum for Usage {
    fn sum<I: Iterator<Item = Self>>(usages: I) -> Self {
        usages.fold(Self::default(), |sum, usage| Self {
            cpu: sum.cpu + usage.cpu,
            waits: sum.waits + usage.waits,
            disk_bytes: sum.disk_bytes + usage.disk_bytes,
        })
    }
}

fn field(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

/// What each of the processes has taken so far; those that are not there are left out.
pub fn snapshot(pids: &[u32]) -> BTreeMap<u32, Usage> {
    pids.iter().filter_map(|pid| Some((*pid, Usage::of(*pid)?))).collect()
}

/// What all of `servers` have taken, from a snapshot of them; nothing if one is not there. What it took has gone with it, and who came in
/// its place is not among them: a sum of the others would pass for that of all.
pub fn sum(servers: &[u32], snapshot: &BTreeMap<u32, Usage>) -> Option<Usage> {
    servers.iter().map(|pid| snapshot.get(pid).copied()).sum()
}

/// What each of `servers` took from one snapshot to another; nothing of any if one is missing in either.
pub fn taken(servers: &[u32], before: &BTreeMap<u32, Usage>, after: &BTreeMap<u32, Usage>) -> BTreeMap<u32, Usage> {
    let of = |pid: &u32| Some((*pid, after.get(pid)?.since(*before.get(pid)?)));
    servers.iter().map(of).collect::<Option<_>>().unwrap_or_default()
}

/// The processes that listen at these addresses, host:port. None if one of them is on another machine, or is not ours to look into: what
/// the others take is not what an operation takes. Where nobody listens nobody takes anything.
pub fn listening_at<'a>(addresses: impl IntoIterator<Item = &'a String>) -> Vec<u32> {
    let ports: Option<BTreeSet<u16>> = addresses.into_iter().map(|address| local_port(address)).collect();
    let Some(ports) = ports.filter(|ports| !ports.is_empty()) else { return Vec::new() };
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let sockets: BTreeSet<String> =
        tables.iter().flat_map(|table| sockets_on(table, &ports)).map(|inode| format!("socket:[{inode}]")).collect();
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let held: BTreeMap<u32, BTreeSet<String>> =
        pids.map(|pid| (pid, held_by(pid, &sockets))).filter(|(_, held)| !held.is_empty()).collect();
    let all: BTreeSet<&String> = held.values().flatten().collect();
    if all.len() == sockets.len() { held.into_keys().collect() } else { Vec::new() }
}

/// The port of an address on this machine.
fn local_port(address: &str) -> Option<u16> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_matches(['[', ']']);
    let is_local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    is_local.then(|| port.parse().ok()).flatten()
}

/// The inodes of sockets that listen on one of the ports, from a table as of /proc/net/tcp.
fn sockets_on<'a>(table: &'a str, ports: &BTreeSet<u16>) -> impl Iterator<Item = &'a str> {
    table.lines().skip(1).filter_map(move |line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
        (*state == LISTENS && ports.contains(&port)).then_some(*inode)
    })
}

/// Those of the sockets that the process has open.
fn held_by(pid: u32, sockets: &BTreeSet<String>) -> BTreeSet<String> {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return BTreeSet::new() };
    let targets = descriptors.filter_map(|descriptor| fs::read_link(descriptor.ok()?.path()).ok());
    targets.filter_map(|target| sockets.get(target.to_str()?).cloned()).collect()
}

/// The words that the process was started with.
pub fn command_line(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_at_an_address_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert_eq!(listening_at([&address]), [std::process::id()]);
        let elsewhere = "db.example.com:80".to_owned();
        assert_eq!(listening_at([&address, &elsewhere]), Vec::<u32>::new(), "the figure would be that of a part");
        drop(listener);
        assert_eq!(listening_at([&address]), Vec::<u32>::new());
        assert_eq!(listening_at([&elsewhere]), Vec::<u32>::new());
    }

    #[test]
    fn only_sockets_that_listen_on_the_port_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:1CE8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n   \
            1: 0100007F:1CE8 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0\n   \
            2: 0100007F:1CE9 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0\n";
        let found: Vec<_> = sockets_on(table, &BTreeSet::from([0x1CE8])).collect();
        assert_eq!(found, ["4711"]);
    }

    #[test]
    fn nobody_is_accounted_for_where_a_server_ended_meanwhile() {
        let usage = |cpu_us| Usage { cpu: Duration::from_micros(cpu_us), ..Usage::default() };
        let before = BTreeMap::from([(1, usage(100)), (2, usage(200)), (3, usage(300))]);
        let all = BTreeMap::from([(1, usage(110)), (2, usage(220)), (3, usage(330))]);
        let without = BTreeMap::from([(1, usage(110)), (2, usage(220)), (4, usage(7))]);
        let servers = [1, 2, 3];
        assert_eq!(taken(&servers, &before, &all), BTreeMap::from([(1, usage(10)), (2, usage(20)), (3, usage(30))]));
        assert_eq!(taken(&servers, &before, &without), BTreeMap::new());
        assert_eq!(taken(&servers, &without, &all), BTreeMap::new());
        assert_eq!((sum(&servers, &all), sum(&servers, &without)), (Some(usage(660)), None));
    }

    #[test]
    fn a_process_that_ended_and_was_not_asked_for_takes_nothing_more() {
        let mut ended = std::process::Command::new("/bin/cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = ended.id();
        assert!(Usage::of(pid).is_some());
        drop(ended.stdin.take());
        // Until it has ended, and not until somebody has asked how: it stays in /proc.
        let id = rustix::process::Pid::from_raw(pid as i32).map(rustix::process::WaitId::Pid).unwrap();
        let options = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(id, options).unwrap();
        assert_eq!(Usage::of(pid), None);
        ended.wait().unwrap();
    }

    #[test]
    fn this_process_has_taken_something_and_an_absent_one_nothing() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.since(usage) == Usage::default());
        assert_eq!(Usage::of(u32::MAX), None);
        assert!(!command_line(std::process::id())[0].is_empty());
    }
}
