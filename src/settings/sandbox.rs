//! What the sandbox of a systemd unit hides, told apart from what is simply closed or missing.
//!
//! The kernel says only "permission denied" or "no such file" for what ProtectHome=, InaccessiblePaths= and PrivateTmp=
//! hide; the operator sees the path with his own eyes and despairs. Owns the signs by which the directives are known and
//! the words that name them and the way out. Invariant: outside of a unit it says nothing.
//!
//! The signs: an inaccessible folder is a mount of systemd's own empty one, whose mode is 0; ProtectHome=tmpfs is a tmpfs
//! where homes are; PrivateTmp= leaves no sign, so it is named only where a unit's process misses something below /tmp.

use super::access::Wanted;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The folders of ProtectHome=.
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];
/// The folders of PrivateTmp=.
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];

/// Why `folder` cannot be entered, if it is the sandbox: a clause. `wanted` is what was to be reached in it.
pub(crate) fn closes(folder: &Path, wanted: &Path, kind: Wanted) -> Option<String> {
    let parent = std::fs::metadata(folder.parent()?).ok()?;
    let found = std::fs::metadata(folder).ok()?;
    (found.mode() & 0o777 == 0 && found.dev() != parent.dev()).then(|| hidden(folder, wanted, kind))
}

/// Why `missing` does not exist, if it is the sandbox: a clause. `wanted` is what was to be reached in it.
pub(crate) fn lacks(missing: &Path, wanted: &Path, kind: Wanted) -> Option<String> {
    if let Some(home) = HOMES.iter().find(|home| missing.starts_with(home)) {
        let empty = statfs(Path::new(home)).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC);
        return (empty && crate::systemd::is_our_parent()).then(|| hidden(Path::new(home), wanted, kind));
    }
    let temporary = TEMPORARY.iter().find(|folder| missing.starts_with(folder))?;
    crate::systemd::is_our_parent().then(|| {
        format!(
            "with PrivateTmp= of the unit it has a {temporary} of its own. Move it to /srv or /opt, or let the unit see it \
             with BindReadOnlyPaths={} in a drop-in",
            needed(wanted, kind).display()
        )
    })
}

fn hidden(folder: &Path, wanted: &Path, kind: Wanted) -> String {
    let needed = needed(wanted, kind);
    let (needed, folder) = (needed.display(), folder.display());
    if HOMES.iter().any(|home| folder.to_string() == *home) {
        format!(
            "ProtectHome= of the unit hides {folder}. Move it to /srv or /opt, or let the unit see it with ProtectHome=tmpfs \
             and BindReadOnlyPaths={needed} in a drop-in (systemctl edit)"
        )
    } else {
        format!(
            "InaccessiblePaths= of the unit hides {folder}. Move it, or let the unit see it with \
             BindReadOnlyPaths={needed} in a drop-in (systemctl edit)"
        )
    }
}

/// What the unit must see: of an interpreter its whole environment.
fn needed(wanted: &Path, kind: Wanted) -> PathBuf {
    let top = match kind {
        Wanted::Program => wanted.parent().filter(|bin| bin.ends_with("bin")).and_then(Path::parent),
        Wanted::Folder => None,
    };
    top.unwrap_or(wanted).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_closed_or_missing_without_a_sandbox_is_not_blamed_on_one() {
        let folder = tempfile::tempdir().unwrap();
        let closed = folder.path().join("closed");
        std::fs::create_dir(&closed).unwrap();
        std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
        assert_eq!(closes(&closed, &closed.join("app"), Wanted::Folder), None);
        for missing in ["/tmp/is/not/there", "/home/nobody/app", "/srv/gone"] {
            assert_eq!(lacks(Path::new(missing), Path::new(missing), Wanted::Folder), None);
        }
    }

    #[test]
    fn an_interpreter_needs_its_environment_and_a_folder_itself() {
        for (path, kind, needs) in [
            ("/home/me/venv/bin/python", Wanted::Program, "/home/me/venv"),
            ("/home/me/python3", Wanted::Program, "/home/me/python3"),
            ("/home/me/app", Wanted::Folder, "/home/me/app"),
        ] {
            assert_eq!(needed(Path::new(path), kind), Path::new(needs));
            let said = hidden(Path::new("/home"), Path::new(path), kind);
            assert!(said.contains(&format!("BindReadOnlyPaths={needs} ")), "{said}");
        }
        assert!(hidden(Path::new("/data"), Path::new("/data/x"), Wanted::Folder).starts_with("InaccessiblePaths="));
    }
}
