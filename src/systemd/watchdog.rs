//! When WATCHDOG=1 is due.
//!
//! Owns the interval that systemd set (WATCHDOG_USEC, WATCHDOG_PID), the next time, and whether it is being withheld. Knows
//! no socket, no clock and no reason. Invariant: without a watchdog there is no deadline, so nothing wakes the loop for it.

use std::time::{Duration, Instant};

/// See the file's header.
#[derive(Debug)]
pub(crate) struct Watchdog {
    interval: Option<Duration>,
    next: Option<Instant>,
    /// Since when it is withheld.
    withheld: Option<Instant>,
}

impl Watchdog {
    /// The watchdog that systemd asked for, if it did.
    pub(crate) fn from_environment(now: Instant) -> Watchdog {
        Watchdog::with_timeout(sd_notify::watchdog_enabled(), now)
    }

    /// Half the timeout, as sd_watchdog_enabled(3) recommends.
    fn with_timeout(timeout: Option<Duration>, now: Instant) -> Watchdog {
        let interval = timeout.map(|timeout| timeout / 2).filter(|interval| !interval.is_zero());
        Watchdog { interval, next: interval.map(|_| now), withheld: None }
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

    /// It was due and is not fed. It is tried again several times before systemd acts. If this is the first time: how long
    /// that is from now.
    pub(crate) fn withhold(&mut self, now: Instant) -> Option<Duration> {
        let interval = self.interval?;
        self.next = Some(now + interval / 4);
        let first = self.withheld.is_none();
        self.withheld.get_or_insert(now);
        // The latest feeding was one interval ago, and the timeout is two.
        first.then_some(interval)
    }

    /// It is fed. If it was withheld: for how long.
    pub(crate) fn feed(&mut self, now: Instant) -> Option<Duration> {
        self.withheld.take().map(|since| now.saturating_duration_since(since))
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
    fn while_it_is_withheld_it_is_tried_again_before_its_time_is_over_and_told_once() {
        let now = Instant::now();
        let mut watchdog = Watchdog::with_timeout(Some(Duration::from_secs(8)), now);
        assert!(watchdog.poll_due(now));
        let now = now + Duration::from_secs(4);
        assert!(watchdog.poll_due(now));
        assert_eq!(watchdog.withhold(now), Some(Duration::from_secs(4)));
        let now = now + Duration::from_secs(1);
        assert!(watchdog.poll_due(now));
        assert_eq!(watchdog.withhold(now), None);
        let now = now + Duration::from_secs(1);
        assert!(watchdog.poll_due(now));
        assert_eq!(watchdog.feed(now), Some(Duration::from_secs(2)));
        assert_eq!(watchdog.feed(now), None);
    }

    #[test]
    fn without_one_there_is_no_deadline() {
        assert_eq!(Watchdog::with_timeout(None, Instant::now()).deadline(), None);
    }
}
