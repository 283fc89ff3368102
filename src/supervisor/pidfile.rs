//! The pidfile.
//!
//! Owns one file with the arbiter's pid in it. Invariant: one that names a living process is not overwritten, and only a
//! file that names this process is removed at the end.

use crate::trouble::Trouble;
use std::path::{Path, PathBuf};

/// Removed when dropped.
#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
}

impl PidFile {
    /// The one that this process wrote when it was another program.
    pub(super) fn adopt(path: PathBuf) -> PidFile {
        PidFile { path }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes it.
    ///
    /// # Errors
    /// A sentence: the file names a living process, or cannot be written.
    pub(super) fn write(path: &Path) -> Result<PidFile, Trouble> {
        if let Some(pid) = read(path)
            && pid.cast_unsigned() != std::process::id()
            && super::is_alive(pid)
        {
            return Err(format!(
                "pidfile {}: pid {pid} that it names is alive; is it this instance already?",
                path.display()
            )
            .into());
        }
        // Written beside and renamed: a reader finds a whole pid or none.
        let beside = path.with_extension(format!("new.{}", std::process::id()));
        std::fs::write(&beside, format!("{}\n", std::process::id()))
            .and_then(|()| std::fs::rename(&beside, path))
            .map_err(|error| {
                let why = match error.raw_os_error() {
                    Some(number) => nix::errno::Errno::from_raw(number).desc().to_lowercase(),
                    None => error.to_string(),
                };
                Trouble::by_io(&error, format!("pidfile {} cannot be written: {why}{}", path.display(), hint(&error)))
            })?;
        Ok(PidFile { path: path.to_owned() })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if read(&self.path).is_some_and(|pid| pid.cast_unsigned() == std::process::id()) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Gunicorn's is often in /run, where an instance of a unit may not write.
fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::PermissionDenied
            if crate::systemd::is_our_parent() =>
        {
            " (ProtectSystem= of the unit, or a folder of another user). Under systemd no pidfile is needed: take the setting \
             away, and ask systemctl show -P MainPID; or have it in the unit's RuntimeDirectory="
        }
        _ => "",
    }
}

fn read(path: &Path) -> Option<i32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_this_process_and_goes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pid");
        std::fs::write(&path, "999999999\n").unwrap();
        let file = PidFile::write(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn one_that_names_a_living_process_is_not_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pid");
        std::fs::write(&path, "1\n").unwrap();
        assert!(PidFile::write(&path).unwrap_err().to_string().contains("pid 1"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n");
    }
}
