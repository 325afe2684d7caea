//! What this machine wrote of a cluster's rings, before any node saw it: a file with the newest of them, and the lock of whoever writes.
//! Beside it lie the rings before it that some member may need first, each in a file by its epoch ([`dynamo_core::rebalance::chain`]).
//!
//! A ring is recorded before it is offered, and one that was recorded is offered again, and never another one of the same epoch: so a
//! command can be killed between any two calls. Commands on one machine take turns ([`locked`]).

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use dynamo_core::id::{ClusterId, Epoch};
use dynamo_core::rebalance::chain::Chain;
use dynamo_core::ring::Ring;
use tokio::time::{Instant, sleep};

use crate::local;
use crate::members::Views;
use crate::output::tell;
use crate::stop::Stop;

/// Between two looks at a lock that another command has.
const LOCK_INTERVAL: Duration = Duration::from_millis(50);

/// Where rings are recorded: what was given, or a folder of this user's.
pub fn record_or_default(given: Option<&Path>) -> Result<PathBuf, Stop> {
    if let Some(given) = given {
        return Ok(given.to_owned());
    }
    let folder = local::state_folder()?.join("rings");
    fs::create_dir_all(&folder).map_err(|error| Stop::Failed(format!("{}: {error}", folder.display())))?;
    Ok(folder)
}

/// Commands on one machine take turns, and wait for theirs until the deadline. The system lets go of the lock of one that is
/// killed.
pub async fn locked(record: &Path, deadline: Instant) -> Result<File, Stop> {
    let path = beside(record, "lock");
    let failed = |error: std::io::Error| Stop::Failed(format!("{}: {error}", path.display()));
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    // What somebody else may keep under this name stays as it is.
    let file = File::options().create(true).write(true).truncate(false).open(&path).map_err(failed)?;
    let mut is_told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                return Err(Stop::Failed(format!(
                    "{}: another command has this lock and did not let go of it in time; give the command again",
                    path.display()
                )));
            }
            Err(TryLockError::WouldBlock) => {}
        }
        if !is_told {
            tell(format_args!("waiting for another command, which has the lock {}", path.display()));
            is_told = true;
        }
        sleep(LOCK_INTERVAL).await;
    }
}

/// The record of a cluster's rings: the given file; in a folder one by the cluster's name, unless it is the cluster of `local up`,
/// which has its record with its data.
pub fn record_of(given: &Path, cluster: ClusterId) -> PathBuf {
    let in_folder = || local::record_of(cluster).unwrap_or_else(|| given.join(format!("{cluster}.ring")));
    if given.is_dir() { in_folder() } else { given.to_owned() }
}

/// A file that belongs to the one at `path`: its whole name and an ending, so that prod.eu and prod.us in one folder share none, and none
/// is that of `path` itself, whatever its name ends with.
fn beside(path: &Path, ending: &str) -> PathBuf {
    path.with_added_extension(ending)
}

/// The file of a ring before the newest.
fn before(path: &Path, epoch: Epoch) -> PathBuf {
    beside(path, &format!("ring-{epoch}"))
}

/// Where an earlier version recorded it: records whose names differ in their extensions shared these.
fn before_by_stem(path: &Path, epoch: Epoch) -> PathBuf {
    path.with_extension(format!("ring-{epoch}"))
}

/// Whether `file` is that of a ring before the newest in `path`, under the name of this version or of an earlier one.
pub fn is_before(path: &Path, file: &Path) -> bool {
    let epoch = file.extension().and_then(|extension| extension.to_str()?.strip_prefix("ring-")?.parse().map(Epoch).ok());
    epoch.is_some_and(|epoch| before(path, epoch) == file || before_by_stem(path, epoch) == file)
}

/// The ring of `file`, if it is one of `cluster`.
fn ring_in(file: &Path, cluster: ClusterId) -> Option<Ring> {
    let ring = Ring::decode(Bytes::from(fs::read(file).ok()?)).ok()?;
    (ring.cluster == cluster).then_some(ring)
}

/// Removes the ring of `epoch` before the newest, under both names. Tells whether it was there.
fn remove_before(path: &Path, epoch: Epoch, cluster: ClusterId) -> bool {
    let by_stem = before_by_stem(path, epoch);
    let removed_by_stem = ring_in(&by_stem, cluster).is_some() && fs::remove_file(by_stem).is_ok();
    fs::remove_file(before(path, epoch)).is_ok() || removed_by_stem
}

/// The rings that an earlier run recorded for this cluster. One before the newest that cannot be read is as good as not there.
pub fn recorded(path: &Path, cluster: ClusterId) -> Result<Option<Chain>, Stop> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Stop::Failed(format!("{}: {error}", path.display()))),
    };
    let ring = Ring::decode(Bytes::from(bytes)).map_err(|error| {
        Stop::Failed(format!(
            "{}: is damaged ({error}); put a copy of it back, or, if nobody else writes this cluster's rings, remove it and say \
             --take-over with the next `ring commit`",
            path.display()
        ))
    })?;
    if ring.cluster != cluster {
        let (path, theirs) = (path.display(), ring.cluster);
        return Err(Stop::Usage(format!(
            "{path}: is the record of cluster {theirs}, the nodes are of {cluster}; give another --record"
        )));
    }
    let earlier = (1..ring.epoch.0)
        .rev()
        .map(Epoch)
        .map_while(|epoch| ring_in(&before(path, epoch), cluster).or_else(|| ring_in(&before_by_stem(path, epoch), cluster)));
    Ok(Some(Chain::read(earlier.collect(), ring)))
}

/// Records `rings`, so that a crash leaves the old record or the new one.
pub fn record(path: &Path, rings: &Chain) -> Result<(), Stop> {
    let write = |path: &Path, ring: &Ring| {
        replace_file(path, &ring.encode()).map_err(|error| Stop::Failed(format!("{}: {error}", path.display())))
    };
    for ring in rings.before() {
        write(&before(path, ring.epoch), ring)?;
    }
    write(path, rings.newest())?;
    // What every member holds. Should one stay, it is of a ring that leads to no other, and is not read.
    let (oldest, cluster) = (rings.oldest().epoch.0, rings.newest().cluster);
    (1..oldest).rev().take_while(|epoch| remove_before(path, Epoch(*epoch), cluster)).for_each(drop);
    Ok(())
}

/// A ring is recorded only if it is one that nodes hold, or follows on it: a node takes no other, and what was recorded before is gone.
pub fn assert_follows(ring: &Ring, views: &Views) {
    let held = views.ring.as_ref().map_or(Epoch(0), |held| held.epoch);
    assert!(ring.epoch <= held.next(), "ring epoch {} would be recorded and the nodes hold {held}", ring.epoch);
}

/// What to do about recorded rings that are further on than the successor of what the nodes hold.
pub fn missing_between(path: &Path, recorded: &Chain, held: Epoch) -> String {
    format!(
        "{} records ring epoch {}, and the nodes that answer hold epoch {held}: none takes it without the rings between them. Start the \
         nodes that do not answer; if all answer, remove that file, and say --take-over with the next `ring commit`",
        path.display(),
        recorded.oldest().epoch
    )
}

/// Writes a file so that a crash leaves the old one or the new one.
pub fn replace_file(path: &Path, contents: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let temporary = beside(path, "new");
    let mut file = File::create(&temporary)?;
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_core::id::NodeId;
    use dynamo_core::rebalance::Members;
    use dynamo_core::ring::Member;

    #[test]
    fn a_recorded_ring_is_offered_again_and_only_to_its_cluster() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rings").join("first.ring");
        let members: Members = (1..=3).map(|id| (NodeId([id; 16]), Member { zone: "z".to_owned(), weight: 1 })).collect();
        let ring = dynamo_core::rebalance::first_ring(ClusterId([1; 16]), 4, 3, &members).unwrap();
        assert_eq!(recorded(&path, ring.cluster).unwrap(), None);
        record(&path, &ring.clone().into()).unwrap();
        assert_eq!(recorded(&path, ring.cluster).unwrap(), Some(ring.into()));
        assert!(matches!(recorded(&path, ClusterId([2; 16])), Err(Stop::Usage(_))));
    }

    #[test]
    fn rings_that_a_member_may_need_first_lie_beside_the_newest_until_all_hold_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("first.ring");
        let members: Members = (1..=3).map(|id| (NodeId([id; 16]), Member { zone: "z".to_owned(), weight: 1 })).collect();
        let first = dynamo_core::rebalance::first_ring(ClusterId([1; 16]), 4, 3, &members).unwrap();
        let (second, third) = (first.successor(|_| ()), first.successor(|_| ()).successor(|_| ()));
        let files = || {
            let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
        };
        let all = Chain::read(vec![first.clone(), second.clone()], third.clone());
        record(&path, &all).unwrap();
        assert_eq!(files(), ["first.ring", "first.ring.ring-1", "first.ring.ring-2"]);
        assert_eq!(recorded(&path, first.cluster).unwrap(), Some(all));

        fs::write(folder.path().join("first.ring.ring-1"), "what once was a ring").unwrap();
        let readable = Chain::read(vec![second.clone()], third.clone());
        assert_eq!(recorded(&path, first.cluster).unwrap(), Some(readable), "as good as not there");
        record(&path, &Chain::read(vec![third.clone()], third.successor(|_| ()))).unwrap();
        assert_eq!(files(), ["first.ring", "first.ring.ring-3"]);
    }

    #[test]
    fn rings_that_an_earlier_version_recorded_are_read_and_removed_by_the_cluster_that_they_are_of() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prod.eu");
        let members: Members = (1..=3).map(|id| (NodeId([id; 16]), Member { zone: "z".to_owned(), weight: 1 })).collect();
        let of = |cluster| dynamo_core::rebalance::first_ring(ClusterId([cluster; 16]), 4, 3, &members).unwrap();
        let first = of(1);
        let (second, third) = (first.successor(|_| ()), first.successor(|_| ()).successor(|_| ()));
        let by_stem = |epoch: u64| folder.path().join(format!("prod.ring-{epoch}"));
        fs::write(by_stem(1), of(2).encode()).unwrap();
        fs::write(by_stem(2), second.encode()).unwrap();
        fs::write(&path, third.encode()).unwrap();
        let all = Chain::read(vec![second], third.clone());
        assert_eq!(recorded(&path, first.cluster).unwrap(), Some(all.clone()));
        record(&path, &Chain::read(vec![third.clone()], third.successor(|_| ()))).unwrap();
        assert_eq!((by_stem(1).exists(), by_stem(2).exists()), (true, false), "the first is of prod.us");
    }

    #[tokio::test]
    async fn a_command_waits_for_its_turn_until_its_deadline() {
        let folder = tempfile::tempdir().unwrap();
        let record = folder.path().join("first.ring");
        let at_work = locked(&record, Instant::now()).await.unwrap();
        let refused = locked(&record, Instant::now()).await.map(drop).unwrap_err().to_string();
        assert!(refused.starts_with(&folder.path().join("first.ring.lock").display().to_string()), "{refused}");
        // The second goes on when the first has looked once, and waits.
        let later = Instant::now() + Duration::from_secs(3600);
        let (turn, ()) = tokio::join!(biased; locked(&record, later), async { drop(at_work) });
        turn.unwrap();
    }

    #[test]
    fn a_damaged_record_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("first.ring");
        for damage in ["", "what once was a ring, or was none"] {
            fs::write(&path, damage).unwrap();
            let refused = recorded(&path, ClusterId([1; 16])).unwrap_err().to_string();
            assert!(refused.contains("is damaged") && refused.contains("say --take-over"), "{refused}");
        }
    }
}
