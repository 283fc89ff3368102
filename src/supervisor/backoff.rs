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

/// No delay is longer after the death of a worker that had requests: it could boot and serve, and one address that kills
/// workers must not take the others away.
const LONGEST_IN_REQUEST: Duration = Duration::from_secs(1);

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
    #[serde(default)]
    in_request: bool,
}

impl Backoff {
    /// A process failed. Failures that lie further apart than twice their delay (at least ten seconds) are not "in a
    /// row": they are forgotten here, so that no timer is needed to forget them.
    pub(crate) fn fail(&mut self, reason: String, now: Instant) {
        self.note(Failure { at: now, reason, in_request: false });
    }

    /// The same for a process that had requests.
    pub(crate) fn fail_in_request(&mut self, reason: String, now: Instant) {
        self.note(Failure { at: now, reason, in_request: true });
    }

    fn note(&mut self, failure: Failure) {
        if let Some(latest) = &self.latest {
            let quiet = (self.delay() * 2).max(Duration::from_secs(10));
            if failure.at.saturating_duration_since(latest.at) > quiet {
                self.failures = 0;
            }
        }
        self.failures = self.failures.saturating_add(1);
        self.latest = Some(failure);
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
        let in_request = self.latest.as_ref().is_some_and(|latest| latest.in_request);
        let longest = if in_request { LONGEST_IN_REQUEST } else { LONGEST };
        match self.failures {
            0 | 1 => Duration::ZERO,
            n => FIRST.saturating_mul(1 << (n - 2).min(16)).min(longest),
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
    fn deaths_in_requests_never_cost_more_than_a_second() {
        let mut now = Instant::now();
        let mut backoff = Backoff::default();
        for _ in 0..12 {
            backoff.fail_in_request("SIGSEGV".into(), now);
            assert!(backoff.delay() <= LONGEST_IN_REQUEST);
            now += backoff.delay();
        }
        assert!(backoff.trouble().is_some_and(|(failures, _)| failures == 12));
        backoff.fail("it does not boot".into(), now);
        assert_eq!(backoff.delay(), LONGEST);
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
