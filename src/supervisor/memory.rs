//! Whether the kernel's out-of-memory killer was at work.
//!
//! Owns one counter: that of the arbiter's own control group (memory.events of cgroup v2, memory.oom_control of v1), or
//! where there is none, as in the root group, that of the whole machine (/proc/vmstat). A SIGKILL does not say who sent
//! it; a counter that has grown between two looks does. Invariant: a kill is told once.

use std::fs;
use std::path::{Path, PathBuf};

/// See the file's header.
#[derive(Debug)]
pub(super) struct OomCounter {
    /// The file that counts; `None` where nothing does.
    file: Option<PathBuf>,
    seen: u64,
}

impl OomCounter {
    /// Counts from now on.
    pub(super) fn new() -> OomCounter {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let file = candidates(&groups, Path::new("/sys/fs/cgroup")).into_iter().find(|file| count(file).is_some());
        OomCounter::of(file)
    }

    fn of(file: Option<PathBuf>) -> OomCounter {
        let seen = file.as_deref().and_then(count).unwrap_or(0);
        OomCounter { file, seen }
    }

    /// Whether something was killed since the last call.
    pub(super) fn has_grown(&mut self) -> bool {
        let Some(now) = self.file.as_deref().and_then(count) else { return false };
        let grown = now > self.seen;
        self.seen = now;
        grown
    }
}

/// The files that may count, the nearest first. `groups` is /proc/self/cgroup, see cgroups(7).
fn candidates(groups: &str, mount: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { continue };
        let group = group.trim_start_matches('/');
        if controllers.is_empty() {
            found.push(mount.join(group).join("memory.events"));
            found.push(mount.join("unified").join(group).join("memory.events"));
            // A container's own view: its group is the mount.
            found.push(mount.join("memory.events"));
        } else if controllers.split(',').any(|controller| controller == "memory") {
            found.push(mount.join("memory").join(group).join("memory.oom_control"));
            found.push(mount.join("memory/memory.oom_control"));
        }
    }
    found.push("/proc/vmstat".into());
    found
}

/// The number behind `oom_kill`, which all three files have.
fn count(file: &Path) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_control_groups_are_found_and_the_machine_is_the_last_resort() {
        let mount = Path::new("/sys/fs/cgroup");
        let two = candidates("0::/system.slice/rgunicorn@a.service\n", mount);
        assert_eq!(two[0], mount.join("system.slice/rgunicorn@a.service/memory.events"));
        let one = candidates("5:cpu,cpuacct:/a\n4:memory:/b\n", mount);
        assert_eq!(one[0], mount.join("memory/b/memory.oom_control"));
        assert_eq!(candidates("", mount), [Path::new("/proc/vmstat")]);
    }

    #[test]
    fn a_kill_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("memory.events");
        fs::write(&file, "low 0\noom 3\noom_kill 3\noom_group_kill 0\n").unwrap();
        let mut counter = OomCounter::of(Some(file.clone()));
        assert!(!counter.has_grown());
        fs::write(&file, "oom 4\noom_kill 4\n").unwrap();
        assert!(counter.has_grown());
        assert!(!counter.has_grown());
    }
}
