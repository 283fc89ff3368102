//! How long to wait before a process that failed is started again.
//!
//! Owns the count of failures in a row. Knows no process. Invariant: the first failure costs no delay, since a single
//! death (an operator's kill, the OOM killer) must be repaired at once; a loop of failures slows down to [`LONGEST`].

use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Delay after the second failure in a row; doubles from there.
const FIRST: Duration = Duration::from_millis(200);

/// No delay is longer.
pub(crate) const LONGEST: Duration = Duration::from_secs(30);

/// Failures in a row from which on only one process at a time is tried.
const CAUTIOUS: u32 = 3;

/// Failures in a row, and when the next try may be made.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Backoff {
    failures: u32,
    latest: Option<Failure>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Failure {
    #[serde(with = "super::moment")]
    at: Instant,
    reason: String,
}

impl Backoff {
    /// A process failed. Failures that lie further apart than twice their delay (at least ten seconds) are not "in a
    /// row": they are forgotten here, so that no timer is needed to forget them.
    pub(crate) fn fail(&mut self, reason: String, now: Instant) {
        if let Some(latest) = &self.latest {
            let quiet = (self.delay() * 2).max(Duration::from_secs(10));
            if now.saturating_duration_since(latest.at) > quiet {
                self.failures = 0;
            }
        }
        self.failures = self.failures.saturating_add(1);
        self.latest = Some(Failure { at: now, reason });
    }

    /// A process has proved that processes can live. That one became ready is no proof: a worker that boots and dies at
    /// once is ready each time.
    pub(crate) fn forget(&mut self) {
        *self = Backoff::default();
    }

    /// When the latest failure happened.
    pub(crate) fn latest(&self) -> Option<Instant> {
        self.latest.as_ref().map(|latest| latest.at)
    }

    /// From when on the next process may be started; `None`: now.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.latest.as_ref().map(|latest| latest.at + self.delay())
    }

    /// Whether processes may be started now.
    pub(crate) fn permits(&self, now: Instant) -> bool {
        self.retry_at().is_none_or(|at| at <= now)
    }

    /// Whether processes are to be tried one at a time.
    pub(crate) fn cautious(&self) -> bool {
        self.failures >= CAUTIOUS
    }

    /// Failures in a row and the reason of the latest, for STATUS; `None` below two.
    pub(crate) fn trouble(&self) -> Option<(u32, &str)> {
        let latest = self.latest.as_ref()?;
        (self.failures > 1).then_some((self.failures, latest.reason.as_str()))
    }

    /// The delay that is in force.
    pub(crate) fn delay(&self) -> Duration {
        match self.failures {
            0 | 1 => Duration::ZERO,
            n => FIRST.saturating_mul(1 << (n - 2).min(16)).min(LONGEST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_costs_nothing_and_a_loop_slows_down_to_the_longest_delay() {
        let mut now = Instant::now();
        let mut backoff = Backoff::default();
        let mut delays = Vec::new();
        for _ in 0..12 {
            backoff.fail("it broke".into(), now);
            delays.push(backoff.delay().as_millis());
            now += backoff.delay();
            assert!(backoff.permits(now));
        }
        assert_eq!(delays, [0, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000, 30000]);
    }

    #[test]
    fn failures_far_apart_are_not_in_a_row() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        backoff.fail("a".into(), now);
        backoff.fail("b".into(), now + Duration::from_secs(11));
        assert_eq!(backoff.delay(), Duration::ZERO);
    }
}
