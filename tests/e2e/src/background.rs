//! What is done again and again beside the steps: a look that must hold at every moment, or a blow.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, anyhow};

/// An action in a thread of its own, until it is stopped or fails.
pub struct Repeated {
    /// Dropped to stop it.
    running: Option<Sender<()>>,
    thread: Option<JoinHandle<Result<u32>>>,
}

impl Repeated {
    /// Does `action` now, and again each `interval` after it was done.
    pub fn start(interval: Duration, mut action: impl FnMut() -> Result<()> + Send + 'static) -> Self {
        let (running, stopped) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut done = 0;
            loop {
                action()?;
                done += 1;
                if stopped.recv_timeout(interval) != Err(RecvTimeoutError::Timeout) {
                    return Ok(done);
                }
            }
        });
        Self { running: Some(running), thread: Some(thread) }
    }

    /// Whether it has failed and ended.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Stops it. Gives how often the action was done, or its error.
    pub fn stop(mut self) -> Result<u32> {
        self.end().unwrap_or(Ok(0))
    }

    fn end(&mut self) -> Option<Result<u32>> {
        self.running = None;
        let thread = self.thread.take()?;
        Some(thread.join().unwrap_or_else(|_| Err(anyhow!("a thread beside the steps panicked"))))
    }
}

impl Drop for Repeated {
    fn drop(&mut self) {
        // After a failed step nobody asks how it went; it must not go on.
        let _ = self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_done_at_least_once_and_its_error_ends_it_and_is_told() {
        assert_eq!(Repeated::start(Duration::from_secs(3600), || Ok(())).stop().unwrap(), 1);
        let failing = Repeated::start(Duration::from_secs(3600), || Err(anyhow!("a member without a pod")));
        assert_eq!(failing.stop().unwrap_err().to_string(), "a member without a pod");
    }
}
