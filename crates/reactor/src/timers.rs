//! When each connection's deadline passes, cheaply: a keep-alive connection moves its deadline with every request.
//!
//! Owns a heap of (instant, token). A deadline that moves later costs nothing: the entry stays, and when it comes up the
//! table says what the deadline is by now. Knows no connection. Invariant: for every armed token there is an entry at or
//! before its deadline; entries that the table no longer recognises are dropped when they come up.

use crate::token::Token;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// The table's side of a timer: one per place.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Armed {
    deadline: Option<Instant>,
    scheduled: Option<Instant>,
}

impl Armed {
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Token)>>,
}

impl Timers {
    /// Sets or clears the deadline of `token`.
    pub(crate) fn arm(&mut self, armed: &mut Armed, token: Token, deadline: Option<Instant>) {
        armed.deadline = deadline;
        if let Some(at) = deadline
            && armed.scheduled.is_none_or(|scheduled| at < scheduled)
        {
            armed.scheduled = Some(at);
            self.heap.push(Reverse((at, token)));
        }
    }

    /// The instant at which [`Timers::pop_due`] has work. May be earlier than the earliest deadline, never later.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes one token whose deadline has passed. `armed_of` gives the table's side, or none if the token is dead.
    pub(crate) fn pop_due<T: ?Sized>(
        &mut self,
        now: Instant,
        table: &mut T,
        armed_of: impl for<'t> Fn(&'t mut T, Token) -> Option<&'t mut Armed>,
    ) -> Option<Token> {
        while let Some(Reverse((at, token))) = self.heap.peek().copied() {
            if at > now {
                return None;
            }
            self.heap.pop();
            let Some(armed) = armed_of(table, token) else { continue };
            if armed.scheduled != Some(at) {
                continue;
            }
            armed.scheduled = None;
            match armed.deadline {
                Some(deadline) if deadline <= now => {
                    armed.deadline = None;
                    return Some(token);
                }
                Some(deadline) => {
                    armed.scheduled = Some(deadline);
                    self.heap.push(Reverse((deadline, token)));
                }
                None => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const TOKEN: Token = Token { index: 0, generation: 0 };

    #[test]
    fn a_deadline_that_moved_later_fires_once_at_its_new_time() {
        let (start, mut timers, mut armed) = (Instant::now(), Timers::default(), Armed::default());
        for n in 1..=100 {
            timers.arm(&mut armed, TOKEN, Some(start + Duration::from_secs(n)));
        }
        assert_eq!(timers.heap.len(), 1);
        assert_eq!(timers.pop_due(start + Duration::from_secs(99), &mut armed, |armed, _| Some(armed)), None);
        assert_eq!(timers.pop_due(start + Duration::from_secs(100), &mut armed, |armed, _| Some(armed)), Some(TOKEN));
        assert_eq!(timers.pop_due(start + Duration::from_secs(200), &mut armed, |armed, _| Some(armed)), None);
    }

    #[test]
    fn a_deadline_that_moved_earlier_fires_in_time_and_not_again() {
        let (start, mut timers, mut armed) = (Instant::now(), Timers::default(), Armed::default());
        timers.arm(&mut armed, TOKEN, Some(start + Duration::from_secs(75)));
        timers.arm(&mut armed, TOKEN, Some(start + Duration::from_secs(5)));
        assert_eq!(timers.pop_due(start + Duration::from_secs(5), &mut armed, |armed, _| Some(armed)), Some(TOKEN));
        assert_eq!(timers.pop_due(start + Duration::from_secs(80), &mut armed, |armed, _| Some(armed)), None);
    }

    #[test]
    fn dead_tokens_and_cleared_deadlines_never_fire() {
        let (start, mut timers, mut armed) = (Instant::now(), Timers::default(), Armed::default());
        timers.arm(&mut armed, TOKEN, Some(start));
        timers.arm(&mut armed, TOKEN, None);
        assert_eq!(timers.pop_due(start + Duration::from_secs(1), &mut armed, |armed, _| Some(armed)), None);
        timers.arm(&mut armed, TOKEN, Some(start));
        assert_eq!(timers.pop_due(start + Duration::from_secs(1), &mut armed, |_, _| None), None);
    }
}
