//! The time of day as logs print it, formatted once per second and thread.

use nix::time::{ClockId, clock_gettime};
use std::cell::Cell;

/// The current second in the shapes that logs want.
#[derive(Debug, Clone)]
pub(crate) struct Stamp {
    second: i64,
    /// `2026-11-22 20:33:01 +0000`, local time.
    pub(crate) human: String,
    /// `22/Nov/2026:20:33:01 +0000`, local time: the Common Log Format.
    pub(crate) common: String,
    /// `2026-11-22T20:33:01`, UTC, to be followed by the fraction and `Z`.
    pub(crate) utc: String,
    /// Milliseconds within the second.
    pub(crate) millisecond: u16,
}

thread_local! {
    static STAMP: Cell<Option<Stamp>> = const { Cell::new(None) };
}

/// Calls `use_it` with the present time. Its resolution is that of the kernel's coarse clock, some milliseconds.
pub(crate) fn with_stamp<R>(use_it: impl FnOnce(&Stamp) -> R) -> R {
    let (second, millisecond) = now();
    // A thread that ends may log after its thread-locals are gone: it formats the time for that one record.
    let stamp = match STAMP.try_with(Cell::take) {
        Ok(Some(stamp)) if stamp.second == second => Stamp { millisecond, ..stamp },
        Ok(_) | Err(_) => Stamp { millisecond, ..Stamp::at(second) },
    };
    let result = use_it(&stamp);
    // As above: nothing is kept by a thread that ends.
    let _ = STAMP.try_with(|cell| cell.set(Some(stamp)));
    result
}

/// Seconds since the epoch, now.
pub(crate) fn second() -> i64 {
    now().0
}

fn now() -> (i64, u16) {
    match clock_gettime(ClockId::CLOCK_REALTIME_COARSE) {
        // Nanoseconds within a second are below 10^9.
        Ok(time) => (time.tv_sec(), (time.tv_nsec() / 1_000_000) as u16),
        Err(_) => (0, 0),
    }
}

impl Stamp {
    fn at(second: i64) -> Self {
        const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let local = broken_down(second, Zone::Local);
        let utc = broken_down(second, Zone::Utc);
        let offset = local.tm_gmtoff / 60;
        let sign = if offset < 0 { '-' } else { '+' };
        let zone = format!("{sign}{:02}{:02}", offset.abs() / 60, offset.abs() % 60);
        let month = usize::try_from(local.tm_mon).ok().and_then(|at| MONTHS.get(at)).unwrap_or(&"---");
        let (hour, minute, sec) = (local.tm_hour, local.tm_min, local.tm_sec);
        Self {
            second,
            human: format!(
                "{:04}-{:02}-{:02} {hour:02}:{minute:02}:{sec:02} {zone}",
                local.tm_year + 1900,
                local.tm_mon + 1,
                local.tm_mday,
            ),
            common: format!(
                "{:02}/{month}/{:04}:{hour:02}:{minute:02}:{sec:02} {zone}",
                local.tm_mday,
                local.tm_year + 1900,
            ),
            utc: format!(
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
                utc.tm_year + 1900,
                utc.tm_mon + 1,
                utc.tm_mday,
                utc.tm_hour,
                utc.tm_min,
                utc.tm_sec,
            ),
            millisecond: 0,
        }
    }
}

enum Zone {
    Local,
    Utc,
}

fn broken_down(second: i64, zone: Zone) -> libc::tm {
    // SAFETY: `tm` is a plain C struct for which all zeroes is a valid value (its pointer may be null).
    let mut broken = unsafe { std::mem::zeroed::<libc::tm>() };
    let time = second as libc::time_t;
    // SAFETY: both pointers are to live values of the right types; the functions write `broken` and keep neither.
    unsafe {
        match zone {
            Zone::Local => libc::localtime_r(&time, &mut broken),
            Zone::Utc => libc::gmtime_r(&time, &mut broken),
        }
    };
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_second_is_printed_as_the_formats_say() {
        let stamp = Stamp::at(1_795_379_581);
        assert_eq!(stamp.utc, "2026-11-22T20:33:01");
        assert_eq!(stamp.human.len(), "2026-11-22 20:33:01 +0000".len());
        assert_eq!(stamp.common.len(), "22/Nov/2026:20:33:01 +0000".len());
    }

    #[test]
    fn the_present_second_is_formatted_once() {
        let first = with_stamp(|stamp| (stamp.second, stamp.human.as_ptr()));
        let again = with_stamp(|stamp| (stamp.second, stamp.human.as_ptr()));
        assert!(first.0 != again.0 || first.1 == again.1);
    }
}
