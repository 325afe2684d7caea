//! How fast this machine is just now: a fixed piece of work, before and after each figure.
//!
//! Virtual machines share caches, memory and cores with others who come and go. If the same work took another time before a figure
//! than after it, the figure says more about the neighbours than about what was measured, and is marked.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::stop::Stop;

/// A change above this share marks a figure.
pub const MOVED_MAX: f64 = 0.10;
/// For each kind of work...
const TIME: Duration = Duration::from_millis(300);
/// ... in slices, of which the median counts: a short disturbance is no change.
const SLICE: Duration = Duration::from_millis(10);
/// Larger than the caches of a core, so that memory is what is measured.
const COPY_BYTES: usize = 16 << 20;

/// Work done in a second, of each kind.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Calibration {
    /// Kibibytes hashed with SHA-256: the core alone.
    pub hashed: f64,
    /// Copies of 16 MiB: memory.
    pub copied: f64,
    /// Round trips of a byte over loopback: kernel, scheduler and wake-ups.
    pub pinged: f64,
}

impl Calibration {
    /// Takes a second, and a thread of its own.
    pub async fn measure() -> Result<Self, Stop> {
        let failed = |error: &dyn std::fmt::Display| Stop::Failed(format!("calibration: {error}"));
        let measured = tokio::task::spawn_blocking(Self::measure_here).await.map_err(|error| failed(&error))?;
        measured.map_err(|error| failed(&error))
    }

    fn measure_here() -> std::io::Result<Self> {
        let block = vec![7_u8; 1024];
        let hashed = per_second(|| {
            std::hint::black_box(Sha256::digest(std::hint::black_box(&block)));
            Ok(())
        })?;
        let (source, mut target) = (vec![7_u8; COPY_BYTES], vec![0_u8; COPY_BYTES]);
        let copied = per_second(|| {
            target.copy_from_slice(std::hint::black_box(&source));
            std::hint::black_box(&target);
            Ok(())
        })?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut asks = TcpStream::connect(listener.local_addr()?)?;
        let (mut answers, _) = listener.accept()?;
        asks.set_nodelay(true)?;
        answers.set_nodelay(true)?;
        let answering = std::thread::spawn(move || {
            let mut byte = [0];
            while answers.read_exact(&mut byte).is_ok() && answers.write_all(&byte).is_ok() {}
        });
        let mut byte = [0];
        let pinged = per_second(|| asks.write_all(&[1]).and_then(|()| asks.read_exact(&mut byte)))?;
        drop(asks);
        // It ends with the connection, and has nothing to say.
        let _ = answering.join();
        Ok(Self { hashed, copied, pinged })
    }

    fn kinds(self) -> [f64; 3] {
        [self.hashed, self.copied, self.pinged]
    }

    /// The greatest change of any kind from `before` to this, as a share.
    pub fn moved_since(self, before: Self) -> f64 {
        let change = |(now, then): (f64, f64)| (now / then.max(f64::EPSILON) - 1.0).abs();
        self.kinds().into_iter().zip(before.kinds()).map(change).fold(0.0, f64::max)
    }

    /// Bytes a second that one core copies in memory.
    pub fn copied_bytes_per_second(self) -> f64 {
        self.copied * COPY_BYTES as f64
    }

    /// For programs.
    pub fn document(self) -> Value {
        json!({
            "sha256_kib_per_second": self.hashed.round(),
            "copies_16_mib_per_second": self.copied.round(),
            "loopback_round_trips_per_second": self.pinged.round(),
        })
    }
}

/// How often a second it can be done: the median of slices.
fn per_second(mut work: impl FnMut() -> std::io::Result<()>) -> std::io::Result<f64> {
    let mut slices = Vec::new();
    let until = Instant::now() + TIME;
    while Instant::now() < until || slices.is_empty() {
        let (begun, mut count) = (Instant::now(), 0_u32);
        while begun.elapsed() < SLICE {
            work()?;
            count += 1;
        }
        slices.push(f64::from(count) / begun.elapsed().as_secs_f64());
    }
    slices.sort_by(f64::total_cmp);
    Ok(slices[slices.len() / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_work_that_changed_most_counts() {
        let before = Calibration { hashed: 100.0, copied: 100.0, pinged: 100.0 };
        let after = Calibration { hashed: 105.0, copied: 88.0, pinged: 100.0 };
        assert!((after.moved_since(before) - 0.12).abs() < 1e-9);
        assert!(after.moved_since(after) < MOVED_MAX);
    }

    #[tokio::test]
    async fn all_kinds_of_work_are_done() {
        let calibration = Calibration::measure().await.unwrap();
        assert!(calibration.kinds().iter().all(|rate| *rate > 0.0), "{calibration:?}");
    }
}
