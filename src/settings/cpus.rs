//! How many processors this process may use: the affinity mask, bounded by the cgroup's quota (v2 and v1).
//!
//! Reads /proc and the cgroup file systems and nothing else. Invariant: the answer is at least 1, whatever the files
//! say; a file that cannot be read or understood bounds nothing.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// The processors that may be used, and why.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cpus {
    /// In the affinity mask.
    affinity: u32,
    /// The tightest quota of the cgroup and its ancestors, in processors.
    quota: Option<f64>,
}

impl Cpus {
    /// Of this process. `root` is `/`; tests give a tree of their own.
    pub(crate) fn of_this_process(root: &Path) -> Self {
        Self { affinity: affinity(), quota: quota(root) }
    }

    /// The number of processors, at least 1; a part of a processor counts as one.
    pub(crate) fn number(self) -> u32 {
        match self.quota {
            Some(quota) if quota < f64::from(self.affinity) => (quota.ceil() as u32).max(1),
            Some(_) | None => self.affinity.max(1),
        }
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.number();
        write!(out, "{number} CPU{}", if number == 1 { "" } else { "s" })?;
        match self.quota {
            Some(quota) if quota < f64::from(self.affinity) => {
                write!(out, " (the cgroup's quota is {quota:.2} of {})", self.affinity)
            }
            Some(_) | None => Ok(()),
        }
    }
}

fn affinity() -> u32 {
    let Ok(set) = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)) else {
        return 1;
    };
    (0..nix::sched::CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).count() as u32
}

/// The smallest quota on the way from our cgroup to the root of its hierarchy, in processors.
fn quota(root: &Path) -> Option<f64> {
    let cgroups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).ok()?;
    // cgroups(7): "hierarchy:controllers:path", v2 being hierarchy 0 without controllers.
    cgroups
        .lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (hierarchy, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let version = if hierarchy == "0" && controllers.is_empty() {
                Version::Two
            } else if controllers.split(',').any(|controller| controller == "cpu") {
                Version::One
            } else {
                return None;
            };
            let (top, folder) = locate(&mounts, version, path)?;
            tightest(root, &top, &folder, version)
        })
        .reduce(f64::min)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// The mount point of the hierarchy and our folder in it. proc_pid_mountinfo(5): id, parent, device, root, mount point,
/// options, optional fields, `-`, type, source, super options.
fn locate(mounts: &str, version: Version, path: &str) -> Option<(PathBuf, PathBuf)> {
    mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1)?);
        let ours = match version {
            Version::Two => kind == "cgroup2",
            Version::One => kind == "cgroup" && options.split(',').any(|option| option == "cpu"),
        };
        if !ours {
            return None;
        }
        let mut left = left.split(' ').skip(3);
        let (mounted, top) = (left.next()?, PathBuf::from(left.next()?));
        // A container may see its own cgroup mounted at the top while /proc/self/cgroup names the whole path.
        let inside = path.strip_prefix(mounted.trim_end_matches('/')).unwrap_or(path);
        let folder = top.join(inside.trim_start_matches('/'));
        Some((top, folder))
    })
}

fn tightest(root: &Path, top: &Path, folder: &Path, version: Version) -> Option<f64> {
    folder
        .ancestors()
        .take_while(|ancestor| ancestor.starts_with(top))
        .filter_map(|ancestor| {
            let inside = root.join(ancestor.strip_prefix("/").ok()?);
            match version {
                Version::Two => {
                    let text = fs::read_to_string(inside.join("cpu.max")).ok()?;
                    let (quota, period) = text.trim().split_once(' ')?;
                    ratio(quota, period)
                }
                Version::One => {
                    let quota = fs::read_to_string(inside.join("cpu.cfs_quota_us")).ok()?;
                    let period = fs::read_to_string(inside.join("cpu.cfs_period_us")).ok()?;
                    ratio(quota.trim(), period.trim())
                }
            }
        })
        .reduce(f64::min)
}

/// `max` and -1 mean that there is no quota; neither parses as a positive number.
fn ratio(quota: &str, period: &str) -> Option<f64> {
    let (quota, period) = (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?);
    (quota > 0 && period > 0).then(|| quota as f64 / period as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const TWO: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const ONE: &str = "33 32 0:30 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n";

    #[test]
    fn the_tightest_quota_of_all_ancestors_counts_in_version_two() {
        let root = tree(&[
            ("proc/self/cgroup", "0::/system.slice/app.service\n"),
            ("proc/self/mountinfo", TWO),
            ("sys/fs/cgroup/system.slice/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/system.slice/app.service/cpu.max", "max 100000\n"),
        ]);
        assert_eq!(quota(root.path()), Some(1.5));
    }

    #[test]
    fn the_quota_of_version_one_counts() {
        let root = tree(&[
            ("proc/self/cgroup", "4:cpu,cpuacct:/docker/abc\n0::/\n"),
            ("proc/self/mountinfo", ONE),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us", "50000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us", "100000\n"),
        ]);
        assert_eq!(quota(root.path()), Some(0.5));
    }

    #[test]
    fn a_container_that_sees_its_cgroup_as_the_top_finds_its_quota() {
        let root = tree(&[
            ("proc/self/cgroup", "0::/docker/abc\n"),
            ("proc/self/mountinfo", "30 23 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n"),
            ("sys/fs/cgroup/cpu.max", "200000 100000\n"),
        ]);
        assert_eq!(quota(root.path()), Some(2.0));
    }

    #[test]
    fn without_quota_or_without_files_nothing_is_bounded() {
        assert_eq!(quota(tree(&[]).path()), None);
        let root = tree(&[
            ("proc/self/cgroup", "0::/\n"),
            ("proc/self/mountinfo", TWO),
            ("sys/fs/cgroup/cpu.max", "nonsense"),
        ]);
        assert_eq!(quota(root.path()), None);
    }

    #[test]
    fn the_number_is_at_least_one_and_a_part_counts_as_one() {
        let number = |affinity, quota| Cpus { affinity, quota }.number();
        assert_eq!(number(8, None), 8);
        assert_eq!(number(8, Some(1.5)), 2);
        assert_eq!(number(8, Some(0.1)), 1);
        assert_eq!(number(2, Some(16.0)), 2);
        assert_eq!(number(0, None), 1);
    }

    #[test]
    fn the_reason_names_the_quota_only_where_it_binds() {
        assert_eq!(Cpus { affinity: 4, quota: None }.to_string(), "4 CPUs");
        assert_eq!(Cpus { affinity: 1, quota: Some(2.0) }.to_string(), "1 CPU");
        assert_eq!(Cpus { affinity: 8, quota: Some(1.5) }.to_string(), "2 CPUs (the cgroup's quota is 1.50 of 8)");
    }

    #[test]
    fn this_process_has_a_processor() {
        assert!(Cpus::of_this_process(Path::new("/")).number() >= 1);
    }
}
