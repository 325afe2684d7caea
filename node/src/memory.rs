//! How much memory this process may use: what the machine has, or what its control group may, if that is less.

use std::fs;
use std::path::Path;

/// Assumed where nothing can be read.
const UNKNOWN_BYTES: u64 = 1 << 30;

/// In bytes.
pub fn memory_bytes() -> u64 {
    bytes_below(Path::new("/"))
}

/// As the files beneath `root` tell.
fn bytes_below(root: &Path) -> u64 {
    let read = |path: &str| fs::read_to_string(root.join(path)).ok();
    let machine = read("proc/meminfo").and_then(|text| meminfo(&text));
    let groups = read("proc/self/cgroup").unwrap_or_default();
    let limit = |path: String| read(&path).and_then(|text| text.trim().parse::<u64>().ok());
    let limits = groups.lines().flat_map(limit_files).filter_map(limit);
    limits.chain(machine).min().unwrap_or(UNKNOWN_BYTES)
}

fn meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}

/// Where the limits of one group and of those around it are told. In a container they may stand at the root.
fn limit_files(group: &str) -> Vec<String> {
    let mut parts = group.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { return Vec::new() };
    let (directory, file) = match controllers {
        "" => ("sys/fs/cgroup", "memory.max"),
        _ if controllers.split(',').any(|controller| controller == "memory") => ("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        _ => return Vec::new(),
    };
    let groups = Path::new(path.trim_start_matches('/')).ancestors();
    groups.map(|group| Path::new(directory).join(group).join(file).to_string_lossy().into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files beneath a directory that stands for `/`.
    fn told(files: &[(&str, &str)]) -> u64 {
        let root = tempfile::TempDir::new().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        bytes_below(root.path())
    }

    #[test]
    fn the_smallest_limit_counts_wherever_it_stands() {
        let machine = ("proc/meminfo", "MemTotal:        8388608 kB\nMemFree: 1 kB\n");
        let (second, first) = (("proc/self/cgroup", "0::/pod/node\n"), ("proc/self/cgroup", "4:cpu,memory:/pod\n0::/\n"));
        let cases: [(&[(&str, &str)], u64); 6] = [
            (&[], UNKNOWN_BYTES),
            (&[machine], 8 << 30),
            (&[machine, second, ("sys/fs/cgroup/pod/memory.max", "1000\n")], 1_000),
            (&[machine, second, ("sys/fs/cgroup/memory.max", "2000"), ("sys/fs/cgroup/pod/node/memory.max", "max\n")], 2_000),
            (&[machine, first, ("sys/fs/cgroup/memory/pod/memory.limit_in_bytes", "3000")], 3_000),
            (&[machine, first, ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712")], 8 << 30),
        ];
        for (files, bytes) in cases {
            assert_eq!(told(files), bytes, "{files:?}");
        }
        assert!(memory_bytes() > 1 << 20);
    }
}
