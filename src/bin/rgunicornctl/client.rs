//! One connection to an instance's control socket: finding it, asking, hearing.
//!
//! Owns the socket. Knows no command. Invariant: whatever is wrong ends as one sentence that says what to do.

use crate::words::Words;
use nix::unistd::geteuid;
use rgunicorn_protocol::control::{Answer, Order, SOCKET, folder, userless};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// There is no instance, or it cannot be reached.
pub(crate) const NO_INSTANCE: u8 = 3;

/// How long an arbiter, which answers at once, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where instances have their settings.
const CONFIGURATION: &str = "/etc/rgunicorn";

/// What ends the program before its time.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: u8,
    pub(crate) message: String,
}

fn unreachable(message: String) -> Failure {
    Failure { exit: NO_INSTANCE, message }
}

/// See the file's header.
#[derive(Debug)]
pub(crate) struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
}

impl Client {
    /// Finds the instance and connects.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) fn connect(words: &Words) -> Result<Client, Failure> {
        let (path, name) = match (&words.socket, &words.instance) {
            (Some(path), _) => (path.clone(), None),
            (None, Some(name)) => (socket_of(name)?, Some(name.as_str())),
            (None, None) => (the_only_socket()?, None),
        };
        match UnixStream::connect(&path) {
            Ok(stream) => Ok(Client { stream: BufReader::new(stream), path }),
            Err(error) => Err(unreachable(explain(&path, name, &error))),
        }
    }

    /// Sends an order. `patient`: the answer may take any time.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) fn send(&mut self, order: &Order, patient: bool) -> Result<(), Failure> {
        let mut line = serde_json::to_vec(order).map_err(|error| unreachable(error.to_string()))?;
        line.push(b'\n');
        let stream = self.stream.get_ref();
        let timeout = (!patient).then_some(PATIENCE);
        stream.set_read_timeout(timeout).and_then(|()| self.stream.get_mut().write_all(&line)).or_else(|error| {
            // A refusal may have been sent already; it says more than the broken pipe.
            if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(self.lost(&error)) }
        })
    }

    /// The next answer.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) fn receive(&mut self) -> Result<Answer, Failure> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => Err(unreachable("the instance has ended".into())),
            Ok(_) => serde_json::from_str(&line).map_err(|error| {
                unreachable(format!("the instance's answer is not understood ({error}); are both of one version?"))
            }),
            Err(error) => Err(self.lost(&error)),
        }
    }

    /// Waits until the instance has closed the connection, as it does when it ends.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) fn wait_for_end(&mut self) -> Result<(), Failure> {
        let mut line = String::new();
        loop {
            match self.stream.read_line(&mut line) {
                Ok(0) => return Ok(()),
                Ok(_) => line.clear(),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(self.lost(&error)),
            }
        }
    }

    fn lost(&self, error: &io::Error) -> Failure {
        let path = self.path.display();
        unreachable(match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("the instance at {path} does not answer; is it stopped (SIGSTOP), or the machine overloaded?")
            }
            _ => format!("the connection to {path} was lost: {error}"),
        })
    }
}

/// Why a socket cannot be reached, and what to do.
fn explain(path: &Path, name: Option<&str>, error: &io::Error) -> String {
    let shown = path.display();
    let start = name.map(|name| format!("; systemctl start rgunicorn@{name}")).unwrap_or_default();
    let start = match name.and_then(userless) {
        Some(why) => format!("{start} (if it fails: {why})"),
        None => start,
    };
    match error.kind() {
        // connect(2) says the same of a dead socket and of what never was one.
        io::ErrorKind::ConnectionRefused if !is_socket(path) => format!("{shown} is no socket"),
        io::ErrorKind::NotFound => match name {
            Some(name) => format!("no instance {name:?} runs: {shown} does not exist{start}"),
            None => format!("no instance runs there: {shown} does not exist"),
        },
        io::ErrorKind::ConnectionRefused => format!("the instance of {shown} is no longer running{start}"),
        io::ErrorKind::PermissionDenied => {
            format!("user {} may not use {shown}: try as root (sudo) or as the instance's user", geteuid())
        }
        _ => format!("{shown}: {error}"),
    }
}

fn is_socket(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.file_type().is_socket())
}

/// Folders below which instances have theirs.
fn bases() -> Vec<PathBuf> {
    let session = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    [PathBuf::from("/run")].into_iter().chain(session).collect()
}

/// The socket of a named instance: where its settings say, else the first place that exists.
fn socket_of(name: &str) -> Result<PathBuf, Failure> {
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err(unreachable(format!("{name:?} is not the name of an instance")));
    }
    if let Some(path) = configured(&Path::new(CONFIGURATION).join(format!("{name}.toml"))) {
        return Ok(path);
    }
    let places: Vec<PathBuf> = bases().iter().map(|base| base.join(folder(name, 0)).join(SOCKET)).collect();
    // A folder that may not be entered exists, too.
    let there =
        |path: &&PathBuf| !matches!(path.symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound);
    let found = places.iter().find(there).or(places.first());
    found.cloned().ok_or_else(|| unreachable("there is no place where an instance could be".into()))
}

/// `control_socket` in an instance's settings, if it is there and absolute.
fn configured(file: &Path) -> Option<PathBuf> {
    let table: toml::Table = std::fs::read_to_string(file).ok()?.parse().ok()?;
    let path = PathBuf::from(table.get("control_socket")?.as_str()?);
    path.is_absolute().then_some(path)
}

/// Without a name: the instance that runs, if it is one.
fn the_only_socket() -> Result<PathBuf, Failure> {
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    for base in bases() {
        let Ok(entries) = std::fs::read_dir(&base) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(name) = name.strip_prefix("rgunicorn-") else { continue };
            let path = entry.path().join(SOCKET);
            let dead = match UnixStream::connect(&path) {
                Ok(_) => false,
                Err(error) => {
                    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
                }
            };
            if !dead && !found.iter().any(|(other, _)| other == name) {
                found.push((name.to_owned(), path));
            }
        }
    }
    found.sort();
    match found.as_slice() {
        [(_, path)] => Ok(path.clone()),
        [] => Err(unreachable("no instance runs here; -i NAME or -s SOCKET names one that does".into())),
        several => {
            let names: Vec<&str> = several.iter().map(|(name, _)| name.as_str()).collect();
            Err(unreachable(format!("several instances run: say -i and one of {}", names.join(", "))))
        }
    }
}
