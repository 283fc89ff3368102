//! `max_worker_memory`: how much memory the worker has, looked at while requests run and after the last one.
//!
//! Owns two limits and what is told to the arbiter when one is passed; the arbiter acts. Looked at by the standby, which
//! is awake when requests run, and for one look after the last one, so an idle worker costs nothing; what only grows
//! while nothing runs is found with the next request. The figure is the resident set (proc_pid_statm(5)): one line to
//! read, where the proportional set would walk all page tables.

use crate::reactor::Reactor;
use rgunicorn_protocol::FromWorker;
use std::time::{Duration, Instant};

/// How often the figure is read at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the standby knows of the worker's memory.
#[derive(Debug)]
pub(crate) struct Growth {
    look_at: Instant,
    soft_told: bool,
    hard_told: bool,
}

impl Growth {
    pub(crate) fn new() -> Growth {
        Growth { look_at: Instant::now(), soft_told: false, hard_told: false }
    }
}

impl Reactor {
    /// Looks at the memory if it is time to; gives the instant of the next look if a request is in a lane, or has ended
    /// since the latest look.
    pub(crate) fn watch_memory(&self, growth: &mut Growth) -> Option<Instant> {
        let (soft, hard) = (self.settings.max_memory, self.settings.max_memory_hard);
        if soft == 0 && hard == 0 {
            return None;
        }
        let now = Instant::now();
        if now >= growth.look_at {
            self.lanes.forget_use();
            growth.look_at = now + LOOK_EVERY;
            let bytes = resident().unwrap_or(0);
            if hard > 0 && bytes >= hard && !growth.hard_told {
                growth.hard_told = true;
                self.tell(&FromWorker::Overgrown { bytes });
            } else if soft > 0 && bytes >= soft && !growth.soft_told {
                growth.soft_told = true;
                let reason = format!("it has {} MiB of memory, of {} MiB (max_worker_memory)", bytes >> 20, soft >> 20);
                self.tell(&FromWorker::Recycle { reason });
            }
        }
        (self.lanes.inside() > 0 || self.lanes.were_used()).then_some(growth.look_at)
    }
}

/// Resident bytes of this process.
fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * crate::sys::page_size())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_to_is_resident() {
        let before = resident().unwrap();
        assert!(before > 100_000);
        let block = vec![1_u8; 64 << 20];
        assert!(resident().unwrap() >= before + (60 << 20));
        assert_eq!(block[block.len() / 2], 1);
    }
}
