//! May somebody reach, read and execute a path? Says which component stands in the way, and how.
//!
//! The kernel answers only EACCES or ENOENT for a whole path; operators need the folder (/root is 0700 is the classic).
//! Follows links itself, since a virtual environment's python is a link into folders of its own. Invariant: never says
//! no where the kernel says yes to us; for another user, permission bits decide unless an access control list exists.

use super::sandbox;
use super::toml_file::reason;
use nix::unistd::{AccessFlags, Gid, Group, Uid, User};
use std::collections::VecDeque;
use std::ffi::{CString, OsString};
use std::fmt;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// As many links as the kernel follows (path_resolution(7)).
const LINKS: u32 = 40;

/// Who wants to reach a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    uid: u32,
    /// All groups, the primary one too.
    groups: Vec<u32>,
    /// Whether it is this process, which can ask the kernel itself.
    ourselves: bool,
}

impl Identity {
    /// This process.
    pub(crate) fn ourselves() -> Self {
        let mut groups: Vec<u32> = nix::unistd::getgroups().unwrap_or_default().into_iter().map(Gid::as_raw).collect();
        groups.push(Gid::effective().as_raw());
        Self { uid: Uid::effective().as_raw(), groups, ourselves: true }
    }

    /// A user that workers are to become.
    pub(crate) fn other(uid: u32, groups: Vec<u32>) -> Self {
        Self { uid, groups, ourselves: false }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match User::from_uid(Uid::from_raw(self.uid)) {
            Ok(Some(user)) => write!(out, "user {}", user.name),
            Ok(None) | Err(_) => write!(out, "uid {}", self.uid),
        }
    }
}

/// What the last component must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A folder that can be entered.
    Folder,
    /// A file that can be executed.
    Program,
}

/// Why `path`, which must be absolute, cannot be used: a clause that names the component. Nothing if it can.
pub(crate) fn obstacle(path: &Path, wanted: Wanted, identity: &Identity) -> Option<String> {
    let mut here = PathBuf::from("/");
    let mut rest: VecDeque<OsString> = components(path);
    let mut links = 0;
    let mut through: Option<PathBuf> = None;
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            here.pop();
            continue;
        }
        match std::fs::metadata(&here) {
            Ok(folder) if !folder.is_dir() => return Some(format!("{} is not a folder", here.display())),
            Ok(folder) if !identity.may(&here, &folder, 0o1) => {
                let whole = rest.iter().fold(here.join(&name), |path, more| path.join(more));
                if let Some(hidden) = sandbox::closes(&here, &whole, wanted) {
                    return Some(format!("{hidden}{}", via(through.as_deref())));
                }
                return Some(format!(
                    "{} cannot be entered by {identity} (its mode is {:04o}, its owner {}){}",
                    here.display(),
                    folder.mode() & 0o7777,
                    owner(&folder),
                    via(through.as_deref()),
                ));
            }
            Ok(_) => {}
            Err(error) => return Some(format!("{}: {}{}", here.display(), reason(&error), via(through.as_deref()))),
        }
        let next = here.join(&name);
        match std::fs::symlink_metadata(&next) {
            Ok(found) if found.is_symlink() => {
                links += 1;
                let target = match std::fs::read_link(&next) {
                    Ok(target) if links <= LINKS => target,
                    Ok(_) => return Some(format!("{}: too many links", next.display())),
                    Err(error) => return Some(format!("{}: {}", next.display(), reason(&error))),
                };
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                for component in components(&target).into_iter().rev() {
                    rest.push_front(component);
                }
                through = Some(next);
            }
            Ok(_) => here = next,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let whole = rest.iter().fold(next.clone(), |path, more| path.join(more));
                let hidden = sandbox::lacks(&next, &whole, wanted).map(|why| format!(": {why}")).unwrap_or_default();
                return Some(format!("{} does not exist{}{hidden}", next.display(), via(through.as_deref())));
            }
            Err(error) => return Some(format!("{}: {}{}", next.display(), reason(&error), via(through.as_deref()))),
        }
    }
    last(&here, wanted, identity).map(|what| format!("{what}{}", via(through.as_deref())))
}

fn last(here: &Path, wanted: Wanted, identity: &Identity) -> Option<String> {
    let found = match std::fs::metadata(here) {
        Ok(found) => found,
        Err(error) => return Some(format!("{}: {}", here.display(), reason(&error))),
    };
    match wanted {
        Wanted::Folder if !found.is_dir() => Some(format!("{} is not a folder", here.display())),
        Wanted::Folder if !identity.may(here, &found, 0o1) => sandbox::closes(here, here, wanted).or_else(|| {
            Some(format!(
                "{} cannot be entered by {identity} (its mode is {:04o}, its owner {})",
                here.display(),
                found.mode() & 0o7777,
                owner(&found)
            ))
        }),
        Wanted::Program if found.is_dir() => Some(format!("{} is a folder", here.display())),
        Wanted::Program if !found.is_file() => Some(format!("{} is not a file", here.display())),
        Wanted::Program if found.mode() & 0o111 == 0 => {
            Some(format!("{} is not executable (its mode is {:04o})", here.display(), found.mode() & 0o7777))
        }
        Wanted::Program if !identity.may(here, &found, 0o1) => Some(format!(
            "{} cannot be executed by {identity} (its mode is {:04o}, its owner {})",
            here.display(),
            found.mode() & 0o7777,
            owner(&found)
        )),
        Wanted::Folder | Wanted::Program => None,
    }
}

impl Identity {
    /// Whether the bit (1: execute or search) is there for us.
    fn may(&self, path: &Path, found: &Metadata, bit: u32) -> bool {
        if self.ourselves {
            return nix::unistd::eaccess(path, AccessFlags::X_OK).is_ok();
        }
        if self.uid == 0 {
            return true;
        }
        let shift = if found.uid() == self.uid {
            6
        } else if self.groups.contains(&found.gid()) {
            3
        } else {
            0
        };
        found.mode() >> shift & bit != 0 || has_access_list(path)
    }
}

/// Whether the path has a POSIX access control list (acl(5)), which may grant more than the permission bits show.
fn has_access_list(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    // SAFETY: both strings end with a NUL and outlive the call; a size of 0 means that nothing is written (getxattr(2)).
    let size = unsafe { libc::getxattr(path.as_ptr(), c"system.posix_acl_access".as_ptr(), std::ptr::null_mut(), 0) };
    size > 0
}

/// Why this process may not read a file, if it is its mode: a clause.
pub(crate) fn unreadable(file: &Path) -> Option<String> {
    let found = std::fs::metadata(file).ok()?;
    Some(format!(
        "by {} (its mode is {:04o}, its owner {}). It is no place for secrets: let everybody read it (chmod 0644), and pass \
         those by LoadCredential= of the unit",
        Identity::ourselves(),
        found.mode() & 0o7777,
        owner(&found)
    ))
}

fn owner(found: &Metadata) -> String {
    let user = match User::from_uid(Uid::from_raw(found.uid())) {
        Ok(Some(user)) => user.name,
        Ok(None) | Err(_) => found.uid().to_string(),
    };
    let group = match Group::from_gid(Gid::from_raw(found.gid())) {
        Ok(Some(group)) => group.name,
        Ok(None) | Err(_) => found.gid().to_string(),
    };
    format!("{user}:{group}")
}

fn via(link: Option<&Path>) -> String {
    link.map(|link| format!(", where the link {} leads", link.display())).unwrap_or_default()
}

fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
            Self(root)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().canonicalize().unwrap().join(name)
        }

        fn folder(&self, name: &str, mode: u32) -> PathBuf {
            let path = self.path(name);
            fs::create_dir_all(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        }

        fn file(&self, name: &str, mode: u32) -> PathBuf {
            let path = self.path(name);
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        }
    }

    fn nobody() -> Identity {
        Identity::other(4_000_000_001, vec![4_000_000_001])
    }

    #[test]
    fn a_folder_that_another_user_cannot_enter_is_named_with_its_mode() {
        let tree = Tree::new();
        let closed = tree.folder("closed", 0o700);
        tree.folder("closed/bin", 0o755);
        let python = tree.file("closed/bin/python", 0o755);
        let what = obstacle(&python, Wanted::Program, &nobody()).unwrap();
        let start = format!("{} cannot be entered by uid 4000000001 (its mode is 0700, its owner ", closed.display());
        assert!(what.starts_with(&start), "{what}");
        assert_eq!(obstacle(&python, Wanted::Program, &Identity::other(0, vec![])), None);
        assert_eq!(obstacle(&python, Wanted::Program, &Identity::ourselves()), None);
    }

    #[test]
    fn a_link_into_a_closed_folder_is_named_too() {
        let tree = Tree::new();
        tree.folder("venv", 0o755);
        tree.folder("root", 0o700);
        tree.file("root/python3", 0o755);
        let link = tree.path("venv/python");
        symlink(tree.path("root/python3"), &link).unwrap();
        let what = obstacle(&link, Wanted::Program, &nobody()).unwrap();
        assert!(what.contains(&format!("{} cannot be entered", tree.path("root").display())), "{what}");
        assert!(what.ends_with(&format!(", where the link {} leads", link.display())), "{what}");
    }

    #[test]
    fn what_is_missing_or_of_the_wrong_kind_is_named() {
        let tree = Tree::new();
        let us = Identity::ourselves();
        let path = |name: &str| tree.path(name);
        tree.folder("folder", 0o755);
        let file = tree.file("file", 0o644);
        symlink("gone", path("dangling")).unwrap();
        symlink("circle", path("circle")).unwrap();
        for (wanted, name, what) in [
            (Wanted::Program, "a/b/python", format!("{} does not exist", path("a").display())),
            (Wanted::Program, "folder", format!("{} is a folder", path("folder").display())),
            (Wanted::Program, "file", format!("{} is not executable (its mode is 0644)", file.display())),
            (Wanted::Program, "file/python", format!("{} is not a folder", file.display())),
            (
                Wanted::Program,
                "dangling",
                format!(
                    "{} does not exist, where the link {} leads",
                    path("gone").display(),
                    path("dangling").display()
                ),
            ),
            (Wanted::Program, "circle", format!("{}: too many links", path("circle").display())),
            (Wanted::Folder, "file", format!("{} is not a folder", file.display())),
            (Wanted::Folder, "gone", format!("{} does not exist", path("gone").display())),
        ] {
            assert_eq!(obstacle(&path(name), wanted, &us), Some(what));
        }
        assert_eq!(obstacle(&path("folder"), Wanted::Folder, &us), None);
        assert_eq!(obstacle(&path("folder/../folder"), Wanted::Folder, &us), None);
    }

    #[test]
    fn group_and_owner_bits_count_for_group_and_owner() {
        let tree = Tree::new();
        let folder = tree.folder("folder", 0o710);
        let found = fs::metadata(&folder).unwrap();
        let member = Identity::other(4_000_000_001, vec![found.gid()]);
        assert_eq!(obstacle(&folder, Wanted::Folder, &member), None);
        assert!(obstacle(&folder, Wanted::Folder, &nobody()).is_some());
    }
}
