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
        OomCounter::of(&groups, Path::new("/sys/fs/cgroup"))
    }

    /// `groups` is /proc/self/cgroup, `mount` where the control groups are.
    fn of(groups: &str, mount: &Path) -> OomCounter {
        let file = candidates(groups, mount).into_iter().find(|file| count(file).is_some());
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

    /// The files of a machine: their paths below the mount, and what they say.
    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let mount = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = mount.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        mount
    }

    #[test]
    fn a_kill_in_the_own_group_of_version_two_is_told_once_and_one_elsewhere_never() {
        let own = "system.slice/rgunicorn@a.service/memory.events";
        let events = |kills: u32| format!("low 0\nhigh 0\nmax 7\noom {kills}\noom_kill {kills}\noom_group_kill 0\n");
        let mount =
            machine(&[(own, &events(3)), ("memory.events", &events(9)), ("user.slice/memory.events", &events(0))]);
        let mut counter = OomCounter::of("0::/system.slice/rgunicorn@a.service\n", mount.path());
        assert!(!counter.has_grown(), "what was before is not ours");
        fs::write(mount.path().join("memory.events"), events(10)).unwrap();
        assert!(!counter.has_grown());
        fs::write(mount.path().join(own), events(4)).unwrap();
        assert!(counter.has_grown());
        assert!(!counter.has_grown());
    }

    #[test]
    fn a_container_that_does_not_see_the_path_of_its_group_counts_at_the_mount() {
        let mount = machine(&[("memory.events", "oom 0\noom_kill 0\n")]);
        let mut counter = OomCounter::of("0::/../../kubepods/pod1/x\n", mount.path());
        fs::write(mount.path().join("memory.events"), "oom 1\noom_kill 1\n").unwrap();
        assert!(counter.has_grown());
    }

    #[test]
    fn where_both_versions_are_mounted_the_one_with_the_memory_controller_counts() {
        // As systemd mounts them in its hybrid mode: the unified hierarchy is there, and has no controllers.
        let own = "memory/system.slice/a.service/memory.oom_control";
        let control = |kills: u32| format!("oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n");
        let mount = machine(&[(own, &control(0)), ("unified/system.slice/a.service/cgroup.procs", "1\n")]);
        let groups =
            "4:memory:/system.slice/a.service\n1:name=systemd:/system.slice/a.service\n0::/system.slice/a.service\n";
        let mut counter = OomCounter::of(groups, mount.path());
        fs::write(mount.path().join(own), control(1)).unwrap();
        assert!(counter.has_grown());
    }
}
