//! When the next request is sent: as soon as the last is answered, or when a schedule says so.
//!
//! A closed loop asks a slow cluster less, so it says what an operation costs and how much fits, and nothing about what a user
//! would have waited. An open loop sends on a schedule of its own (Poisson: users do not wait for each other), and a request
//! that could not be sent in time counts its latency from the time at which it was due. What is still due at the end is sent then, or told.

use std::time::{Duration, Instant};

use dynamo_core::random::Random;

use crate::random;

/// A request that is sent this much after its time counts as late: more than the timer's own coarseness.
const LATE_AFTER: Duration = Duration::from_millis(2);

/// One client's schedule.
#[derive(Debug)]
pub enum Pace {
    /// The next one when the last one is answered.
    Closed,
    /// At random times, independent of the answers.
    Open {
        /// The mean time between two of this client's requests.
        interval: Duration,
        /// When the next one is due.
        due: Instant,
    },
}

impl Pace {
    /// One of `clients` that together send `rate` requests a second; without a rate, a closed loop.
    pub fn new(rate: Option<f64>, clients: u16, source: &mut Random) -> Self {
        match rate {
            None => Pace::Closed,
            Some(rate) => {
                let interval = Duration::from_secs_f64(f64::from(clients) / rate);
                // Clients do not begin together.
                Pace::Open { interval, due: Instant::now() + interval.mul_f64(random::unit(source)) }
            }
        }
    }

    /// When the next request is due, which is what its latency counts from.
    pub fn next(&mut self, source: &mut Random) -> Instant {
        match self {
            Pace::Closed => Instant::now(),
            Pace::Open { interval, due } => {
                let next = *due + exponential(*interval, source);
                std::mem::replace(due, next)
            }
        }
    }
}

/// A request that was due then, and is sent now, is late.
pub fn is_late(due: Instant) -> bool {
    due.elapsed() > LATE_AFTER
}

/// Times between the events of a Poisson process are exponentially distributed.
fn exponential(mean: Duration, source: &mut Random) -> Duration {
    mean.mul_f64(-(1.0 - random::unit(source)).ln())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_between_requests_have_the_mean_and_spread_of_a_poisson_process() {
        let mut source = Random::new(1);
        let draws = 100_000;
        let seconds: Vec<f64> = (0..draws).map(|_| exponential(Duration::from_millis(10), &mut source).as_secs_f64()).collect();
        let mean = seconds.iter().sum::<f64>() / draws as f64;
        let variance = seconds.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / draws as f64;
        assert!((mean - 0.01).abs() < 0.0002, "{mean}");
        assert!((variance.sqrt() - 0.01).abs() < 0.0004, "{variance}");
    }

    #[test]
    fn a_request_that_could_not_go_in_time_counts_from_its_time() {
        let mut source = Random::new(2);
        let began = Instant::now();
        let interval = Duration::from_nanos(1);
        let mut pace = Pace::Open { interval, due: began.checked_sub(Duration::from_secs(3)).unwrap() };
        let due = pace.next(&mut source);
        assert!(is_late(due));
        assert!(began - due >= Duration::from_secs(3), "it is not forgotten that it waited");
        assert!(Pace::Closed.next(&mut source) >= began);
    }
}
