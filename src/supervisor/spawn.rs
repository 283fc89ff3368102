//! Executing the application's interpreter, which becomes a mold.
//!
//! Owns fork, exec and what the child inherits: fd [`CHANNEL_FD`] and standard input, output and error, default signal
//! dispositions, the signals blocked that it is told by channel, the environment without what systemd meant for the
//! arbiter. Knows nothing of what the mold does then. Invariant: the arbiter waits for nothing; an exec that fails (or hangs on a dead network file system)
//! is the child's affair, which says so on the channel like any other boot fault.

use crate::settings::Settings;
use crate::systemd::PRIVATE_VARIABLES;
use nix::errno::Errno;
use nix::sys::signal::{self, SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal};
use nix::unistd::{AccessFlags, ForkResult, Pid, access, fork};
use rgunicorn_log::JournalStreams;
use rgunicorn_protocol::{BootFault, BootFaultKind, CHANNEL_FD, Channel, FromWorker, TOLD_BY_CHANNEL};
use std::ffi::{CString, OsStr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What the interpreter runs: it checks itself, loads the worker module and becomes the mold.
const BOOTSTRAP: &str = include_str!("../../crates/worker/python/bootstrap.py");

/// Finds the worker module that belongs to this program: in the library folder of an installation, or beside the
/// program in a build tree.
///
/// # Errors
/// A sentence that names the places.
pub(super) fn worker_module(program: &Path) -> Result<PathBuf, String> {
    // After an upgrade of the package the kernel names the old program so.
    let program = program.to_str().and_then(|path| path.strip_suffix(" (deleted)")).map_or(program, Path::new);
    let folder = program.parent().unwrap_or(Path::new("/"));
    let places = [
        folder.join("rgunicorn_worker.abi3.so"),
        folder.join("librgunicorn_worker.so"),
        folder.join("../lib/rgunicorn/rgunicorn_worker.abi3.so"),
    ];
    places.iter().find(|place| place.is_file()).and_then(|place| place.canonicalize().ok()).ok_or_else(|| {
        let places: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        format!("rgunicorn's worker module is missing; it was looked for at {} (make build)", places.join(", "))
    })
}

/// Starts the interpreter of a generation with its end of the channel. `output`: what becomes its standard output and
/// error, where they are the journal's.
///
/// # Errors
/// fork(2) failed, or a path contains a NUL: a sentence.
pub(super) fn spawn_mold(
    settings: &Settings,
    module: &Path,
    channel: Channel,
    output: Option<(BorrowedFd<'_>, JournalStreams)>,
) -> Result<Pid, String> {
    let python = c_string(settings.python.as_os_str().as_bytes())?;
    let arguments =
        [python.clone(), c_string(b"-c")?, c_string(BOOTSTRAP.as_bytes())?, c_string(module.as_os_str().as_bytes())?];
    let environment = environment(settings)?;
    let channel = channel.into_fd();
    // SAFETY: the arbiter has one thread, so the child may do all that the parent may, until it executes or leaves.
    match unsafe { fork() } {
        Ok(ForkResult::Parent { child }) => Ok(child),
        Ok(ForkResult::Child) => {
            let errno = execute(&python, &arguments, &environment, channel, output);
            let message = explain(&settings.python, errno);
            let fault = BootFault { kind: BootFaultKind::Interpreter, message, traceback: None };
            // SAFETY: `execute` has put the channel there, and this process is about to end.
            let channel = Channel::adopt(unsafe { OwnedFd::from_raw_fd(CHANNEL_FD) });
            let _ = channel.send(&FromWorker::BootFault(fault), &[]);
            // SAFETY: _exit(2) runs nothing of what the parent has registered for its own end.
            unsafe { libc::_exit(127) }
        }
        Err(errno) => Err(format!("the mold's process could not be made: {errno}")),
    }
}

/// In the child: makes it what a mold expects and executes. Returns only if that fails.
fn execute(
    python: &CString,
    arguments: &[CString],
    environment: &[CString],
    channel: OwnedFd,
    output: Option<(BorrowedFd<'_>, JournalStreams)>,
) -> Errno {
    forget_handlers();
    // Before the channel: where it goes `printed` may be.
    if let Some((printed, streams)) = output {
        for (number, replaced) in [(1, streams.stdout), (2, streams.stderr)] {
            // SAFETY: dup2(2) onto standard output or error, which this process is about to hand on.
            if replaced && unsafe { libc::dup2(printed.as_raw_fd(), number) } < 0 {
                return Errno::last();
            }
        }
    }
    // SAFETY: dup2(2) on a number that this process, which is about to execute, owns alone.
    let placed = unsafe { libc::dup2(channel.as_raw_fd(), CHANNEL_FD) };
    if placed < 0 {
        return Errno::last();
    }
    if channel.as_raw_fd() == CHANNEL_FD {
        // dup2(2) onto itself leaves CLOEXEC set.
        // SAFETY: F_SETFD on an open fd.
        unsafe { libc::fcntl(CHANNEL_FD, libc::F_SETFD, 0) };
        std::mem::forget(channel);
    }
    // Whatever we were started with beside standard input, output and error is not the application's.
    for (first, last) in [(3, CHANNEL_FD as u32 - 1), (CHANNEL_FD as u32 + 1, u32::MAX)] {
        // SAFETY: close_range(2) only sets flags here; on a kernel without it (before 5.11) our own fds are CLOEXEC anyway.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) };
    }
    // `systemctl kill -s HUP` reaches the interpreter before the worker module can install its handlers. Blocked until
    // then, which the mask keeps over exec, nothing of that kind kills it; the module takes the mask away.
    if let Err(errno) = signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&TOLD_BY_CHANNEL.into_iter().collect()), None)
    {
        return errno;
    }
    match nix::unistd::execve(python, arguments, environment) {
        Ok(never) => match never {},
        Err(errno) => errno,
    }
}

/// Gives every signal its default disposition.
fn forget_handlers() {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator() {
        // SAFETY: SIG_DFL is no code of ours. KILL and STOP answer EINVAL, which is fine.
        let _ = unsafe { signal::sigaction(signal, &default) };
    }
}

/// Starts `program --upgrade-check`: the fd of `state` goes to it as 3, which the variable says, its words go to `said`.
///
/// # Errors
/// fork(2) failed, or the path contains a NUL: a sentence.
pub(super) fn spawn_check(program: &Path, variable: &str, state: &OwnedFd, said: &OwnedFd) -> Result<Pid, String> {
    let path = c_string(program.as_os_str().as_bytes())?;
    let arguments = [path.clone(), c_string(b"--upgrade-check")?];
    let environment = own_environment(variable, 3)?;
    // SAFETY: the arbiter has one thread, so the child may do all that the parent may, until it executes or leaves.
    match unsafe { fork() } {
        Ok(ForkResult::Parent { child }) => Ok(child),
        Ok(ForkResult::Child) => {
            forget_handlers();
            // SAFETY: dup2(2), write(2) and _exit(2) in a process of one thread that is about to execute or to end; the
            // numbers are those of open fds, and `said` is placed before 3 is overwritten.
            unsafe {
                libc::dup2(said.as_raw_fd(), 1);
                libc::dup2(said.as_raw_fd(), 2);
                if state.as_raw_fd() == 3 {
                    libc::fcntl(3, libc::F_SETFD, 0);
                } else {
                    libc::dup2(state.as_raw_fd(), 3);
                }
                libc::syscall(libc::SYS_close_range, 4, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
            }
            let _ = signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
            let Err(errno) = nix::unistd::execve(&path, &arguments, &environment);
            let words = format!("{} cannot be executed: {}", program.display(), errno.desc());
            // SAFETY: see above.
            unsafe {
                libc::write(2, words.as_ptr().cast(), words.len());
                libc::_exit(127)
            }
        }
        Err(errno) => Err(format!("no process can be made to ask it: {errno}")),
    }
}

/// Executes the next program of this process, with the arguments and the environment of this one, and the variable that
/// names the fd of its state. Returns only if that fails.
pub(super) fn execute_successor(program: &Path, variable: &str, state: i32) -> String {
    let arguments: Result<Vec<CString>, String> =
        std::env::args_os().map(|argument| c_string(argument.as_bytes())).collect();
    let execute = || {
        let (path, arguments) = (c_string(program.as_os_str().as_bytes())?, arguments?);
        let environment = own_environment(variable, state)?;
        let Err(errno) = nix::unistd::execve(&path, &arguments, &environment);
        Err::<std::convert::Infallible, String>(errno.desc().to_owned())
    };
    let Err(reason) = execute();
    reason
}

/// This process's environment and the variable.
fn own_environment(variable: &str, value: i32) -> Result<Vec<CString>, String> {
    std::env::vars_os()
        .filter(|(name, _)| name != variable)
        .map(|(name, value)| c_string(&[name.as_bytes(), b"=", value.as_bytes()].concat()))
        .chain([c_string(format!("{variable}={value}").as_bytes())])
        .collect()
}

/// The arbiter's environment without what is the arbiter's alone, then `env_file` and `raw_env`: variables such as
/// PYTHONHASHSEED must be there before the interpreter starts.
fn environment(settings: &Settings) -> Result<Vec<CString>, String> {
    let added = |name: &OsStr| settings.env.iter().any(|(other, _)| OsStr::new(other) == name);
    let private = |name: &OsStr| PRIVATE_VARIABLES.iter().any(|other| OsStr::new(other) == name);
    let inherited = std::env::vars_os().filter(|(name, _)| !private(name) && !added(name));
    let settings = settings.env.iter().enumerate().filter(|(at, (name, _))| {
        // The later of two entries wins.
        !settings.env.iter().skip(at + 1).any(|(other, _)| other == name)
    });
    inherited
        .map(|(name, value)| c_string(&[name.as_bytes(), b"=", value.as_bytes()].concat()))
        .chain(settings.map(|(_, (name, value))| c_string(format!("{name}={value}").as_bytes())))
        .collect()
}

fn c_string(bytes: &[u8]) -> Result<CString, String> {
    CString::new(bytes)
        .map_err(|_| format!("a NUL is in what the interpreter is started with: {}", String::from_utf8_lossy(bytes)))
}

/// Why an interpreter cannot be executed, and what to do.
fn explain(python: &Path, errno: Errno) -> String {
    let name = python.display();
    if let Some(wall) = unreachable(python, 8) {
        return format!("the interpreter {name} cannot be reached by this user: {wall}");
    }
    match errno {
        Errno::ENOENT => match python.symlink_metadata() {
            Err(_) => format!("the interpreter {name} does not exist: set `python`, or make the virtual environment"),
            Ok(_) => match python.canonicalize() {
                Err(_) => format!(
                    "the interpreter {name} is a link to {}, which does not exist: make the virtual environment anew",
                    python.read_link().unwrap_or_default().display()
                ),
                Ok(real) => format!(
                    "the interpreter {} exists, but what it needs to be executed (its `#!` line or its loader) does not",
                    real.display()
                ),
            },
        },
        Errno::EACCES => format!("the interpreter {name} is not executable for this user"),
        Errno::ENOEXEC => format!("the interpreter {name} is not a program for this machine"),
        other => format!("the interpreter {name} cannot be executed: {other}"),
    }
}

/// The first folder on the way to `path`, through links, that this user may not enter.
fn unreachable(path: &Path, links: usize) -> Option<String> {
    let folder = path.parent()?;
    let mut ways: Vec<&Path> = folder.ancestors().collect();
    ways.reverse();
    for way in ways {
        if access(way, AccessFlags::X_OK) == Err(Errno::EACCES) {
            let found = way.metadata().ok()?;
            let owner = nix::unistd::User::from_uid(found.uid().into()).ok().flatten();
            let owner = owner.map_or_else(|| format!("user {}", found.uid()), |user| user.name);
            let mode = found.permissions().mode() & 0o7777;
            return Some(format!("{} is {mode:04o} and belongs to {owner}", way.display()));
        }
    }
    let target = path.read_link().ok().filter(|_| links > 0)?;
    unreachable(&folder.join(target), links - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rgunicorn_protocol::Received;
    use std::time::{Duration, Instant};

    fn wait_for<T>(mut poll: impl FnMut() -> Option<T>) -> T {
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(found) = poll() {
                return found;
            }
            assert!(Instant::now() < limit, "waited too long");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_missing_interpreter_is_a_boot_fault_on_the_channel() {
        let (ours, theirs) = Channel::pair().unwrap();
        let settings = Settings { python: "/nonexistent/bin/python".into(), ..Settings::default() };
        let child = spawn_mold(&settings, Path::new("/x"), theirs, None).unwrap();
        let message = wait_for(|| match ours.receive::<FromWorker>().unwrap() {
            Received::Message(message, _) => Some(message),
            Received::Empty => None,
            other => panic!("{other:?}"),
        });
        let FromWorker::BootFault(fault) = message else { panic!("{message:?}") };
        assert!(fault.message.contains("/nonexistent/bin/python does not exist"), "{}", fault.message);
        nix::sys::wait::waitpid(child, None).unwrap();
    }

    #[test]
    fn the_child_gets_the_settings_environment_and_nothing_that_is_private() {
        let env = [("A", "1"), ("A", "2"), ("PATH", "/x")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        let settings = Settings { env: env.to_vec(), ..Settings::default() };
        let got = environment(&settings).unwrap();
        let got: Vec<_> = got.iter().map(|entry| entry.to_str().unwrap()).collect();
        assert!(got.contains(&"A=2") && !got.contains(&"A=1"));
        assert_eq!(got.iter().filter(|entry| entry.starts_with("PATH=")).collect::<Vec<_>>(), [&"PATH=/x"]);
    }

    #[test]
    fn a_module_that_is_missing_is_looked_for_in_named_places() {
        let wrong = worker_module(Path::new("/usr/bin/rgunicorn (deleted)")).unwrap_err();
        assert!(wrong.contains("/usr/bin/../lib/rgunicorn/rgunicorn_worker.abi3.so"), "{wrong}");
    }
}
