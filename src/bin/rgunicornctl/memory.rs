//! Memory of processes, as proc(5) tells it: what is shared is divided by those who share it.
//!
//! Reads /proc/PID/smaps_rollup, so that the arbiter need not. Invariant: a process that is gone or may not be looked at
//! is missing, and nothing else.

use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Bytes of one process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Its own and its share of what it shares (PSS). All processes' sum is what they really take.
    pub(crate) proportional: u64,
    /// What only it has; comes back when it ends (USS).
    pub(crate) unique: u64,
    /// What it can see (RSS).
    pub(crate) resident: u64,
}

/// By pid.
#[derive(Debug, Default)]
pub(crate) struct Memory(BTreeMap<i32, Usage>);

/// Looks at these processes.
pub(crate) fn of<'a>(pids: impl Iterator<Item = &'a i32>) -> Memory {
    let read = |pid: &i32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        Some((*pid, parse(&text)))
    };
    Memory(pids.filter(|pid| **pid > 0).filter_map(read).collect())
}

fn parse(rollup: &str) -> Usage {
    let mut usage = Usage::default();
    for line in rollup.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(kibibytes)) = (words.next(), words.next()) else { continue };
        let bytes = kibibytes.parse::<u64>().unwrap_or(0) * 1024;
        match name {
            "Pss:" => usage.proportional = bytes,
            "Rss:" => usage.resident = bytes,
            "Private_Clean:" | "Private_Dirty:" | "Private_Hugetlb:" => usage.unique += bytes,
            _ => {}
        }
    }
    usage
}

impl Memory {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn get(&self, pid: i32) -> Option<Usage> {
        self.0.get(&pid).copied()
    }

    /// The sum of these processes' shares.
    pub(crate) fn sum<'a>(&self, pids: impl Iterator<Item = &'a i32>) -> u64 {
        pids.filter_map(|pid| self.get(*pid)).map(|usage| usage.proportional).sum()
    }

    /// What several of them share, counted once.
    pub(crate) fn shared(&self) -> u64 {
        self.0.values().map(|usage| usage.proportional.saturating_sub(usage.unique)).sum()
    }

    pub(crate) fn to_json(&self) -> Value {
        let each = self.0.iter().map(|(pid, usage)| {
            (pid.to_string(), json!({"pss": usage.proportional, "uss": usage.unique, "rss": usage.resident}))
        });
        Value::Object(each.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollup_is_understood() {
        let text = "55-7f ---p 00000000 00:00 0 [rollup]\nRss:   100 kB\nPss:   60 kB\nPss_Anon:  1 kB\n\
                    Private_Clean:  8 kB\nPrivate_Dirty:  32 kB\nSwap:  0 kB\n";
        let usage = Usage { proportional: 60 * 1024, unique: 40 * 1024, resident: 100 * 1024 };
        assert_eq!(parse(text), usage);
    }

    #[test]
    fn this_process_has_memory_and_one_that_is_gone_has_none() {
        let me = std::process::id().cast_signed();
        let memory = of([me, 999_999_999, 0].iter());
        assert!(memory.get(me).is_some_and(|usage| usage.proportional > 0));
        assert_eq!(memory.get(999_999_999), None);
    }
}
