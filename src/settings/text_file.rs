//! Reading the files that settings come from, of which a reload must not have to wait for one.
//!
//! Whoever reads a pipe waits for its writer, and a device may have no end, while the arbiter has orders to obey. Invariant:
//! a reading ends, whatever stands at the path. (A pipe that the shell made, `-c <(...)`, is read: its writer is there.)

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Bytes of the largest file that is believed to be one of settings.
const MOST: u64 = 16 << 20;

/// # Errors
/// As those of `std::fs::read_to_string`; for what cannot be a file of settings a clause.
pub(super) fn read(path: &Path) -> io::Result<String> {
    let inherited = path.starts_with("/dev/fd") || path.starts_with("/proc/self/fd") || path == "/dev/stdin";
    let file = if inherited {
        File::open(path)?
    } else {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        if file.metadata()?.file_type().is_fifo() {
            return Err(io::Error::other("it is a named pipe, whose writer might be waited for for ever; use a file"));
        }
        file
    };
    let mut text = String::new();
    if file.take(MOST + 1).read_to_string(&mut text)? as u64 > MOST {
        return Err(io::Error::other(format!("it is larger than {} MiB", MOST >> 20)));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_ends_whatever_stands_at_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(read(&pipe).unwrap_err().to_string().contains("named pipe"));
        assert!(read(Path::new("/dev/zero")).unwrap_err().to_string().contains("larger than 16 MiB"));
        assert_eq!(read(Path::new("/dev/null")).unwrap(), "");
        read(folder.path()).unwrap_err();
        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert_eq!(read(&file).unwrap(), "x");
    }
}
