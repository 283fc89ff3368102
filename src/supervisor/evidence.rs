//! What can be seen of a mold or a worker from outside: the requests in its lanes, what the kernel says of its threads.
//!
//! Owns reading the scoreboard and /proc for records. Decides nothing. A Python stack cannot be had of a process that
//! does not react; where its threads wait in the kernel often tells as much. Invariant: nothing here waits or fails; what
//! cannot be read is left out.

use super::event::InFlight;
use rgunicorn_protocol::Sheet;
use rgunicorn_protocol::scoreboard::{LaneState, monotonic_us};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

/// Threads that are named.
const MOST_THREADS: usize = 8;
/// Bytes of a stack that are told.
const MOST_STACK: usize = 16 * 1024;

/// The requests in the lanes of a worker, the oldest first.
pub(super) fn requests(sheet: &Sheet) -> Vec<InFlight> {
    let now = monotonic_us();
    let mut running: Vec<_> = sheet.lanes().iter().filter_map(|lane| lane.look()).collect();
    running.sort_by_key(|running| running.glance.since);
    let name = |running: rgunicorn_protocol::scoreboard::Running| {
        let age = now.saturating_sub(running.glance.since) as f64 / 1e6;
        let cut = if running.truncated { "..." } else { "" };
        let client = match running.glance.state {
            LaneState::Application => "",
            LaneState::Client => " (waiting for its client)",
        };
        let text = format!("{} {}{cut} for {age:.1} s{client}", running.method, running.path);
        InFlight { text, id: running.id }
    };
    running.into_iter().map(name).collect()
}

/// What the kernel says of a process's threads: `python sleeps in futex_wait_queue`.
pub(super) fn threads(pid: i32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let mut ids: Vec<i32> = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    ids.sort_unstable();
    let more = ids.len().saturating_sub(MOST_THREADS);
    let mut threads: Vec<String> = ids.iter().take(MOST_THREADS).filter_map(|id| thread(pid, *id)).collect();
    if more > 0 {
        threads.push(format!("{more} more"));
    }
    threads
}

/// The Python stack that a process has written for us; none if it has not.
pub(super) fn stack(file: &File) -> Option<String> {
    let mut text = vec![0; MOST_STACK];
    // At its own place: the offset is shared with the writer.
    let length = file.read_at(&mut text, 0).ok()?;
    text.truncate(length);
    let text = String::from_utf8_lossy(&text).trim_end().to_owned();
    (!text.is_empty()).then_some(text)
}

fn thread(pid: i32, id: i32) -> Option<String> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/task/{id}/{name}"));
    let stat = read("stat").ok()?;
    let (name, state) = name_and_state(&stat)?;
    // 0 where the thread runs, or where this user may not see it (proc_pid_wchan(5)).
    let place = read("wchan").ok().filter(|place| !place.is_empty() && place != "0");
    let place = place.map_or_else(String::new, |place| format!(" in {place}"));
    Some(format!("{name} {}{place}", state_in_words(state)))
}

/// Fields 2 and 3 of proc_pid_stat(5). The name is in parentheses and may contain some.
fn name_and_state(stat: &str) -> Option<(&str, char)> {
    let (before, after) = stat.rsplit_once(") ")?;
    let name = before.split_once('(')?.1;
    Some((name, after.chars().next()?))
}

fn state_in_words(state: char) -> String {
    match state {
        'R' => "runs".into(),
        'S' => "sleeps".into(),
        'D' => "waits without interruption".into(),
        'T' => "is stopped".into(),
        't' => "is stopped by a debugger".into(),
        'Z' | 'X' => "is dead".into(),
        other => format!("is in state {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_named_with_their_age_oldest_first() {
        let sheet = Sheet::private(3).unwrap();
        let now = monotonic_us();
        sheet.lane(0).unwrap().begin(now - 10_000_000, b"GET", b"/young", b"4bf9");
        sheet.lane(2).unwrap().begin(now - 30_000_000, b"POST", &[b'o'; 300], b"");
        let found: Vec<String> = requests(&sheet).iter().map(InFlight::to_string).collect();
        assert_eq!(found.len(), 2);
        assert!(
            found[0].starts_with("POST ooo") && found[0].contains("... for 3") && found[0].ends_with(" s"),
            "{found:?}"
        );
        assert!(found[1].starts_with("GET /young for 1") && found[1].ends_with(" s (id 4bf9)"), "{found:?}");
    }

    #[test]
    fn a_living_process_has_threads_and_one_that_is_gone_has_none() {
        assert!(!threads(std::process::id() as i32).is_empty());
        assert!(threads(i32::MAX).is_empty());
        assert_eq!(name_and_state("7 (a (b) c) T 1 2"), Some(("a (b) c", 'T')));
    }
}
