//! When WATCHDOG=1 is due.
//!
//! Owns the interval that systemd set (WATCHDOG_USEC, WATCHDOG_PID) and the next time. Knows no socket and no clock.
//! Invariant: without a watchdog there is no deadline, so nothing wakes the loop for it.

use std::time::{Duration, Instant};

/// See the file's header.
#[derive(Debug)]
pub(crate) struct Watchdog {
    interval: Option<Duration>,
    next: Option<Instant>,
}

impl Watchdog {
    /// The watchdog that systemd asked for, if it did.
    pub(crate) fn from_environment(now: Instant) -> Watchdog {
        Watchdog::with_timeout(sd_notify::watchdog_enabled(), now)
    }

    /// Half the timeout, as sd_watchdog_enabled(3) recommends.
    fn with_timeout(timeout: Option<Duration>, now: Instant) -> Watchdog {
        let interval = timeout.map(|timeout| timeout / 2).filter(|interval| !interval.is_zero());
        Watchdog { interval, next: interval.map(|_| now) }
    }

    /// When the next WATCHDOG=1 is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Whether it is due now; if so, the next time is set.
    pub(crate) fn poll_due(&mut self, now: Instant) -> bool {
        let (Some(next), Some(interval)) = (self.next, self.interval) else { return false };
        if next > now {
            return false;
        }
        self.next = Some(now + interval);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_at_once_and_then_twice_per_timeout() {
        let now = Instant::now();
        let mut watchdog = Watchdog::with_timeout(Some(Duration::from_secs(10)), now);
        assert!(watchdog.poll_due(now));
        assert!(!watchdog.poll_due(now + Duration::from_secs(4)));
        assert!(watchdog.poll_due(now + Duration::from_secs(5)));
        assert_eq!(watchdog.deadline(), Some(now + Duration::from_secs(10)));
    }

    #[test]
    fn without_one_there_is_no_deadline() {
        assert_eq!(Watchdog::with_timeout(None, Instant::now()).deadline(), None);
    }
}
