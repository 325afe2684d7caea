//! Faults that only the C library can make: it is loaded into a node by LD_PRELOAD, before the real one.
//!
//! A file that the test and the node both map says what to do, so that a fault begins and ends at once and costs the node no
//! system call. `DYNAMO_FAULTS_FILE` names it; without it every call goes straight through. In the file, as native `u64`:
//!
//! | word | written by | what it says |
//! |---|---|---|
//! | 0 | both | so many of the next fsyncs fail with EIO, without being done; each takes one off |
//! | 1 | the node | fsyncs that failed so |
//! | 2 | the test | milliseconds that each fsync takes longer |
//! | 3 | the test | nanoseconds that the wall clock is off by, signed; no other clock is touched |
//! | 4 | the test | not 0: fsyncs of logs, which are the files called `*.log`, wait until it is |
//! | 5 | the node | fsyncs of logs that wait |
//! | 6 | the node | fsyncs of logs that were done |
//!
//! A file that cannot be mapped ends the process: a test that makes no faults would prove nothing.

#![allow(
    unsafe_code,
    reason = "functions of the C library are replaced, and the real ones are called by the addresses that dlsym gives"
)]

use std::ffi::{c_char, c_int, c_long, c_void};
use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

const VARIABLE: &str = "DYNAMO_FAULTS_FILE";
const EIO: c_int = 5;
const PROT_READ_WRITE: c_int = 3;
const MAP_SHARED: c_int = 1;
const NANOS: i64 = 1_000_000_000;
/// Between two looks at whether fsyncs are held.
const LOOK: Duration = Duration::from_millis(1);
/// CLOCK_REALTIME, its coarse and alarm forms, and TAI, which is a fixed distance from it.
const WALL_CLOCKS: [c_int; 4] = [0, 5, 8, 11];

/// The file, in memory.
#[repr(C)]
struct Faults {
    fsyncs_to_fail: AtomicU64,
    fsyncs_failed: AtomicU64,
    fsync_delay_ms: AtomicU64,
    wall_clock_offset_ns: AtomicI64,
    log_fsyncs_held: AtomicU64,
    log_fsyncs_waiting: AtomicU64,
    log_fsyncs_done: AtomicU64,
}

/// A `struct timespec`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Timespec {
    seconds: i64,
    nanoseconds: c_long,
}

/// A `struct timeval`.
#[repr(C)]
pub struct Timeval {
    seconds: i64,
    microseconds: i64,
}

impl Timespec {
    fn plus(self, nanoseconds: i64) -> Self {
        let sum = i128::from(self.seconds) * i128::from(NANOS) + i128::from(self.nanoseconds) + i128::from(nanoseconds);
        // A wall clock before 1970 is none: the offset ends there.
        let sum = sum.max(0);
        Self { seconds: (sum / i128::from(NANOS)) as i64, nanoseconds: (sum % i128::from(NANOS)) as c_long }
    }
}

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn mmap(address: *mut c_void, length: usize, protection: c_int, flags: c_int, file: c_int, offset: i64) -> *mut c_void;
    fn __errno_location() -> *mut c_int;
}

fn faults() -> Option<&'static Faults> {
    static MAPPED: OnceLock<Option<&'static Faults>> = OnceLock::new();
    *MAPPED.get_or_init(|| {
        let path = std::env::var_os(VARIABLE)?;
        let Ok(file) = OpenOptions::new().read(true).write(true).open(&path) else {
            eprintln!("{VARIABLE}: {} cannot be opened", path.display());
            std::process::abort();
        };
        let length = size_of::<Faults>();
        // SAFETY: a new mapping of an open file, at an address of the kernel's choice; it is never unmapped.
        let address = unsafe { mmap(std::ptr::null_mut(), length, PROT_READ_WRITE, MAP_SHARED, file.as_raw_fd(), 0) };
        if address as isize == -1 {
            eprintln!("{VARIABLE}: {} cannot be mapped", path.display());
            std::process::abort();
        }
        // SAFETY: the mapping is page aligned, lives for ever, and is only read and written as atomics; any bits are a value.
        Some(unsafe { &*address.cast::<Faults>() })
    })
}

/// The address of the function that would have been called without this library, looked up once.
fn real(cache: &AtomicUsize, name: &std::ffi::CStr) -> usize {
    let known = cache.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    /// "Behind this library".
    const RTLD_NEXT: *mut c_void = usize::MAX as *mut c_void;
    // SAFETY: the name is a C string, and the handle one that dlsym knows.
    let found = unsafe { dlsym(RTLD_NEXT, name.as_ptr()) } as usize;
    if found == 0 {
        std::process::abort();
    }
    cache.store(found, Ordering::Relaxed);
    found
}

/// Delays, and fails if it is told to: then the real call must not be made.
fn fsync_fails() -> bool {
    let Some(faults) = faults() else { return false };
    let delay = faults.fsync_delay_ms.load(Ordering::Relaxed);
    if delay > 0 {
        std::thread::sleep(Duration::from_millis(delay));
    }
    let one_less = |left: u64| left.checked_sub(1);
    if faults.fsyncs_to_fail.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_err() {
        return false;
    }
    faults.fsyncs_failed.fetch_add(1, Ordering::Relaxed);
    // SAFETY: errno is this thread's own.
    unsafe { *__errno_location() = EIO };
    true
}

/// fsync or fdatasync of a file, of which `call` is the real one.
fn sync(file: c_int, call: impl FnOnce() -> c_int) -> c_int {
    let log = faults().filter(|_| is_log(file));
    if let Some(faults) = log {
        faults.log_fsyncs_waiting.fetch_add(1, Ordering::SeqCst);
        while faults.log_fsyncs_held.load(Ordering::SeqCst) != 0 {
            std::thread::sleep(LOOK);
        }
        faults.log_fsyncs_waiting.fetch_sub(1, Ordering::SeqCst);
    }
    if fsync_fails() {
        return -1;
    }
    let result = call();
    if let Some(faults) = log.filter(|_| result == 0) {
        // Before the caller hears of it, and so before anybody is told that something is durable.
        faults.log_fsyncs_done.fetch_add(1, Ordering::SeqCst);
    }
    result
}

/// RocksDB's log of writes, whose number changes.
fn is_log(file: c_int) -> bool {
    std::fs::read_link(format!("/proc/self/fd/{file}")).is_ok_and(|path| path.extension().is_some_and(|ending| ending == "log"))
}

fn wall_clock_offset() -> i64 {
    faults().map_or(0, |faults| faults.wall_clock_offset_ns.load(Ordering::Relaxed))
}

/// fsync(2).
#[unsafe(no_mangle)]
pub extern "C" fn fsync(file: c_int) -> c_int {
    static REAL: AtomicUsize = AtomicUsize::new(0);
    // SAFETY: the address is that of the C library's fsync, which has this type.
    let call: extern "C" fn(c_int) -> c_int = unsafe { std::mem::transmute(real(&REAL, c"fsync")) };
    sync(file, || call(file))
}

/// fdatasync(2).
#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(file: c_int) -> c_int {
    static REAL: AtomicUsize = AtomicUsize::new(0);
    // SAFETY: the address is that of the C library's fdatasync, which has this type.
    let call: extern "C" fn(c_int) -> c_int = unsafe { std::mem::transmute(real(&REAL, c"fdatasync")) };
    sync(file, || call(file))
}

/// sync_file_range(2).
#[unsafe(no_mangle)]
pub extern "C" fn sync_file_range(file: c_int, offset: i64, bytes: i64, flags: u32) -> c_int {
    static REAL: AtomicUsize = AtomicUsize::new(0);
    // Without flags it writes nothing: RocksDB asks so, for each file that it makes, whether there is such a call, and takes any
    // error but one for a yes.
    if flags != 0 && fsync_fails() {
        return -1;
    }
    // SAFETY: the address is that of the C library's sync_file_range, which has this type.
    let call: extern "C" fn(c_int, i64, i64, u32) -> c_int = unsafe { std::mem::transmute(real(&REAL, c"sync_file_range")) };
    call(file, offset, bytes, flags)
}

/// clock_gettime(2).
///
/// # Safety
/// As the C library's: `time` is a place for the result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: c_int, time: *mut Timespec) -> c_int {
    static REAL: AtomicUsize = AtomicUsize::new(0);
    // SAFETY: the address is that of the C library's clock_gettime, which has this type.
    let call: extern "C" fn(c_int, *mut Timespec) -> c_int = unsafe { std::mem::transmute(real(&REAL, c"clock_gettime")) };
    let result = call(clock, time);
    let offset = wall_clock_offset();
    if result == 0 && offset != 0 && WALL_CLOCKS.contains(&clock) {
        // SAFETY: the caller gave a place for the result, and the call has filled it.
        unsafe { *time = (*time).plus(offset) };
    }
    result
}

/// gettimeofday(2).
///
/// # Safety
/// As the C library's: `time` is a place for the result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gettimeofday(time: *mut Timeval, _zone: *mut c_void) -> c_int {
    let mut now = Timespec { seconds: 0, nanoseconds: 0 };
    // SAFETY: the place is ours.
    let result = unsafe { clock_gettime(WALL_CLOCKS[0], &raw mut now) };
    if result == 0 && !time.is_null() {
        // SAFETY: the caller gave a place for the result.
        unsafe { *time = Timeval { seconds: now.seconds, microseconds: now.nanoseconds / 1000 } };
    }
    result
}

/// time(2).
///
/// # Safety
/// As the C library's: `time` is null or a place for the result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn time(time: *mut i64) -> i64 {
    let mut now = Timespec { seconds: 0, nanoseconds: 0 };
    // SAFETY: the place is ours.
    unsafe { clock_gettime(WALL_CLOCKS[0], &raw mut now) };
    if !time.is_null() {
        // SAFETY: the caller gave a place for the result.
        unsafe { *time = now.seconds };
    }
    now.seconds
}

/// pthread_cond_timedwait(3): its deadline is by the wall clock as the caller sees it, and the kernel's is not shifted. (A
/// condition variable on another clock would be served wrongly; RocksDB has none, and Rust waits in another way.)
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_cond_timedwait(condition: *mut c_void, mutex: *mut c_void, until: *const Timespec) -> c_int {
    static REAL: AtomicUsize = AtomicUsize::new(0);
    // SAFETY: the address is that of the C library's pthread_cond_timedwait, which has this type.
    let call: extern "C" fn(*mut c_void, *mut c_void, *const Timespec) -> c_int =
        unsafe { std::mem::transmute(real(&REAL, c"pthread_cond_timedwait")) };
    // SAFETY: the caller gave a time.
    let shifted = unsafe { *until }.plus(-wall_clock_offset());
    call(condition, mutex, &raw const shifted)
}
