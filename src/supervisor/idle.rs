//! `idle_timeout`: finding out that nobody uses the instance.
//!
//! Owns how long nothing has happened, as far as looks at the scoreboard can tell; touches no fd and no clock. Workers say
//! nothing for it: the arbiter looks at their counters eight times per idle_timeout, so it ends between one and nine eighths
//! of it after the last connection was closed. Without idle_timeout there is no deadline.
//!
//! **The race.** A connection that comes while the instance ends: if a worker has accepted it, it is served, since a worker
//! that retires finishes what it has accepted; if none has, it stays in the backlog, which systemd keeps, and starts the
//! next instance as soon as this one is gone. Nothing is accepted once a worker retires. Invariant: an instance whose
//! listeners are not all systemd's never ends for want of use, since nobody would start it again.

use std::time::{Duration, Instant};

/// Looks per idle_timeout.
const LOOKS: u32 = 8;
/// The least time between two looks.
const SHORTEST: Duration = Duration::from_millis(100);

/// What a look has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Activity {
    /// Connections that are open or wait in the handoff, and requests that run.
    pub(super) open: u64,
    /// A number that changes whenever a connection or a request comes.
    pub(super) marks: u64,
}

/// See the file's header.
#[derive(Debug, Default)]
pub(super) struct Idleness {
    watched: Option<Watched>,
}

#[derive(Debug)]
struct Watched {
    timeout: Duration,
    look_at: Instant,
    quiet_since: Instant,
    marks: u64,
}

impl Idleness {
    /// From now on the instance ends after so long without use; `None`: never.
    pub(super) fn set(&mut self, timeout: Option<Duration>, now: Instant) {
        self.watched = timeout.map(|timeout| match self.watched.take() {
            Some(before) if before.timeout == timeout => before,
            before => Watched {
                timeout,
                look_at: now + step(timeout),
                quiet_since: now,
                marks: before.map_or(0, |before| before.marks),
            },
        });
    }

    /// When to look.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.watched.as_ref().map(|watched| watched.look_at)
    }

    /// Whether it is time to look.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|at| at <= now)
    }

    /// Somebody looked: for how long nobody has used the instance, if that is long enough to end it.
    pub(super) fn handle_look(&mut self, seen: Activity, now: Instant) -> Option<Duration> {
        let watched = self.watched.as_mut()?;
        if seen.open > 0 || seen.marks != watched.marks {
            watched.quiet_since = now;
        }
        watched.marks = seen.marks;
        let quiet = now.saturating_duration_since(watched.quiet_since);
        watched.look_at = (now + step(watched.timeout)).min(watched.quiet_since + watched.timeout).max(now + SHORTEST);
        (quiet >= watched.timeout).then_some(watched.timeout)
    }
}

fn step(timeout: Duration) -> Duration {
    (timeout / LOOKS).max(SHORTEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(80);

    /// Looks whenever it is time, until it is idle: after how long.
    fn wait(idle: &mut Idleness, from: Instant, seen: impl Fn(Duration) -> Activity) -> Duration {
        loop {
            let now = idle.deadline().unwrap();
            let after = now - from;
            assert!(after < 100 * TIMEOUT);
            if idle.handle_look(seen(after), now).is_some() {
                return after;
            }
        }
    }

    #[test]
    fn an_instance_that_nobody_uses_ends_after_the_timeout() {
        let now = Instant::now();
        let mut idle = Idleness::default();
        idle.set(Some(TIMEOUT), now);
        assert_eq!(wait(&mut idle, now, |_| Activity { open: 0, marks: 0 }), TIMEOUT);
    }

    #[test]
    fn open_connections_and_short_ones_between_two_looks_count_as_use() {
        let now = Instant::now();
        let (closed, last) = (Duration::from_secs(300), Duration::from_secs(605));
        let seen =
            |after: Duration| Activity { open: u64::from(after < closed), marks: if after < last { 1 } else { 2 } };
        let mut idle = Idleness::default();
        idle.set(Some(TIMEOUT), now);
        let first = wait(&mut idle, now, seen);
        assert!(first >= closed + TIMEOUT - TIMEOUT / LOOKS && first <= closed + TIMEOUT, "{first:?}");
        let mut idle = Idleness::default();
        idle.set(Some(TIMEOUT), now);
        let second = wait(&mut idle, now, |after| Activity { open: u64::from(after < last), ..seen(after) });
        assert!(second >= last + TIMEOUT && second <= last + TIMEOUT + TIMEOUT / LOOKS, "{second:?}");
    }

    #[test]
    fn without_the_setting_nothing_wakes_the_arbiter() {
        let mut idle = Idleness::default();
        idle.set(None, Instant::now());
        assert_eq!(idle.deadline(), None);
    }

    #[test]
    fn a_reload_does_not_begin_to_wait_anew_unless_the_time_is_another() {
        let now = Instant::now();
        let mut idle = Idleness::default();
        idle.set(Some(TIMEOUT), now);
        let first = idle.deadline();
        idle.set(Some(TIMEOUT), now + Duration::from_secs(5));
        assert_eq!(idle.deadline(), first);
        idle.set(Some(TIMEOUT * 2), now + Duration::from_secs(5));
        assert!(idle.deadline() > first);
    }
}
