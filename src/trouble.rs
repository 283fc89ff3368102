//! A sentence for the operator and, where a system call is behind it, its errno, which systemd is told (ERRNO=).
//!
//! Owns the pair on its way up to whoever ends the process. Knows not what it is about. Invariant: the sentence alone is
//! enough for a person; the number is for `systemctl status` and for programs.

use nix::errno::Errno;
use std::fmt;
use std::io;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    text: String,
    errno: Option<i32>,
}

impl Trouble {
    /// What a system call refused, said by `text`.
    pub(crate) fn by(errno: Errno, text: impl Into<String>) -> Trouble {
        Trouble { text: text.into(), errno: Some(errno as i32).filter(|number| *number > 0) }
    }

    /// The same for an error of the standard library, which may have no number.
    pub(crate) fn by_io(error: &io::Error, text: impl Into<String>) -> Trouble {
        Trouble { text: text.into(), errno: error.raw_os_error() }
    }

    /// With more words around it.
    pub(crate) fn said(self, say: impl FnOnce(&str) -> String) -> Trouble {
        Trouble { text: say(&self.text), errno: self.errno }
    }

    /// errno(3) of the system call that failed; none if none did.
    pub(crate) fn errno(&self) -> Option<i32> {
        self.errno
    }
}

impl From<String> for Trouble {
    fn from(text: String) -> Trouble {
        Trouble { text, errno: None }
    }
}

impl From<&str> for Trouble {
    fn from(text: &str) -> Trouble {
        Trouble::from(text.to_owned())
    }
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Trouble {
        Trouble::by(errno, errno.to_string())
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::by_io(&error, error.to_string())
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
