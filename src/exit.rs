//! The exit codes of rgunicorn and what each of them means; the man page's EXIT STATUS is this file.
//!
//! Gunicorn's codes are kept where it has one (0, 1, 2, 3, 4), so unit files and scripts that look at them go on
//! working. `rgunicorn exec` ends as its command ends, with the shell's 126 and 127 where the command cannot be run.

use std::process::ExitCode;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Exit {
    /// The work was done: a graceful or a quick stop, `--check-config` of a sound configuration, an answered question.
    Success,
    /// A setting outside the command line is wrong, or the machine refused something: a port in use, an unreadable
    /// file, a live pidfile, a missing user. As Gunicorn's.
    Failure,
    /// The command line is wrong: an unknown option, a missing or wrong value. As Gunicorn's.
    Usage,
    /// The application could not be booted: an exception at import, a missing or unsuitable interpreter. As Gunicorn's.
    BootFault,
    /// The application's module or variable does not exist or cannot be called, or not with these arguments. As Gunicorn's.
    AppNotFound,
    /// `rgunicorn exec`: the command was found and cannot be executed. As the shell's.
    CannotExecute,
    /// `rgunicorn exec`: the command was not found. As the shell's.
    CommandNotFound,
}

impl Exit {
    /// Every way to end, in the order of the codes.
    pub(crate) const ALL: [Self; 7] = [
        Self::Success,
        Self::Failure,
        Self::Usage,
        Self::BootFault,
        Self::AppNotFound,
        Self::CannotExecute,
        Self::CommandNotFound,
    ];

    /// The number that the caller sees.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::BootFault => 3,
            Self::AppNotFound => 4,
            Self::CannotExecute => 126,
            Self::CommandNotFound => 127,
        }
    }

    /// One sentence for the man page.
    pub(crate) const fn meaning(self) -> &'static str {
        match self {
            Self::Success => "Stopped as asked, or the question was answered and the configuration is sound.",
            Self::Failure => {
                "A setting outside the command line is wrong, or the system refused something (a port in use, an \
                 unreadable file, an unknown user)."
            }
            Self::Usage => "The command line is wrong: an unknown option, or a missing or wrong value.",
            Self::BootFault => {
                "The application could not be booted: it raised at import, took longer than boot_timeout, or its \
                 interpreter is missing or unsuitable."
            }
            Self::AppNotFound => {
                "The application's module or variable does not exist or cannot be called, or not with the arguments in app."
            }
            Self::CannotExecute => "rgunicorn exec: the command was found and cannot be executed.",
            Self::CommandNotFound => "rgunicorn exec: the command was not found.",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::Exit;

    #[test]
    fn codes_are_listed_once_each_and_in_order() {
        let codes: Vec<u8> = Exit::ALL.iter().map(|exit| exit.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 126, 127]);
    }

    #[test]
    fn every_meaning_is_a_sentence() {
        for exit in Exit::ALL {
            assert!(exit.meaning().ends_with('.'), "{exit:?}");
        }
    }
}
