//! Everything that the next program of this process must know to go on (SIGUSR2): a JSON object in a memfd.
//!
//! Owns the form. `format` is raised when the next program would misunderstand it, `protocol` with
//! [`rgunicorn_protocol::PROTOCOL`], since the workers that go on serving speak that of the program before; both are
//! looked at before anything else is read. Fields are otherwise only added, with a default. Fds are named by their
//! numbers, which execve(2) keeps. Reading a snapshot opens nothing and closes nothing.

use super::decide::State;
use super::event::Serial;
use super::output;
use super::report::Past;
use crate::control;
use crate::listeners;
use crate::settings::Settings;
use nix::sys::memfd::{MFdFlags, memfd_create};
use rgunicorn_protocol::{PROTOCOL, SheetAt, VERSION};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;
use std::rc::Rc;

/// The form of this file.
const FORMAT: u32 = 1;

/// What must be understood before anything else is.
#[derive(Debug, Serialize, Deserialize)]
struct Preface {
    format: u32,
    protocol: u32,
    version: String,
}

/// See the file's header.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Snapshot {
    format: u32,
    protocol: u32,
    /// Of the program that wrote it.
    pub(super) version: String,
    pub(super) state: State,
    /// All listeners; generations name them by their place in this list.
    pub(super) listeners: Vec<listeners::Carried>,
    pub(super) generations: Vec<Generation>,
    pub(super) peers: Vec<Peer>,
    /// To receive from, to send to.
    pub(super) handoff: (RawFd, RawFd),
    pub(super) scoreboard: Option<Scoreboard>,
    pub(super) output: Option<output::Carried>,
    pub(super) control: control::Carried,
    pub(super) past: Past,
    pub(super) pidfile: Option<PathBuf>,
}

/// What a generation was prepared with.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Generation {
    pub(super) number: u32,
    pub(super) settings: Rc<Settings>,
    pub(super) module: PathBuf,
    pub(super) listeners: Vec<usize>,
}

/// A mold or a worker. Its pidfd is opened anew: nobody else reaps it, so its pid stays its own.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Peer {
    pub(super) serial: Serial,
    pub(super) channel: RawFd,
    pub(super) ended: bool,
    pub(super) pid: Option<i32>,
    /// A worker's place.
    pub(super) slot: Option<u32>,
    pub(super) generation: u32,
    pub(super) sheet: Option<SheetAt>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Scoreboard {
    pub(super) fd: RawFd,
    pub(super) free: Vec<SheetAt>,
}

/// What goes on in the new program, put together by the one who has it.
pub(super) struct Contents {
    pub(super) state: State,
    pub(super) listeners: Vec<listeners::Carried>,
    pub(super) generations: Vec<Generation>,
    pub(super) peers: Vec<Peer>,
    pub(super) handoff: (RawFd, RawFd),
    pub(super) scoreboard: Option<Scoreboard>,
    pub(super) output: Option<output::Carried>,
    pub(super) control: control::Carried,
    pub(super) past: Past,
    pub(super) pidfile: Option<PathBuf>,
}

impl Snapshot {
    pub(super) fn new(contents: Contents) -> Snapshot {
        let Contents { state, listeners, generations, peers, handoff, scoreboard, output, control, past, pidfile } =
            contents;
        let (format, protocol, version) = (FORMAT, PROTOCOL, VERSION.to_owned());
        Snapshot {
            format,
            protocol,
            version,
            state,
            listeners,
            generations,
            peers,
            handoff,
            scoreboard,
            output,
            control,
            past,
            pidfile,
        }
    }

    /// Every fd that must stay open.
    pub(super) fn fds(&self) -> Vec<RawFd> {
        let listeners = self.listeners.iter().map(|listener| listener.fd);
        let channels = self.peers.iter().map(|peer| peer.channel);
        let board = self.scoreboard.iter().map(|board| board.fd);
        let handoff = [self.handoff.0, self.handoff.1];
        let output = self.output.iter().flat_map(|output| [output.reader, output.writer]);
        listeners.chain(channels).chain(board).chain(handoff).chain(output).chain(self.control.fds()).collect()
    }

    /// Writes it into a memfd, CLOEXEC.
    ///
    /// # Errors
    /// A sentence: no memory, no fd.
    pub(super) fn write(&self) -> Result<OwnedFd, String> {
        let failed = |error: &dyn std::fmt::Display| format!("the state cannot be written down: {error}");
        let bytes = serde_json::to_vec(self).map_err(|error| failed(&error))?;
        let memory = memfd_create(c"rgunicorn-state", MFdFlags::MFD_CLOEXEC).map_err(|error| failed(&error))?;
        let mut file = File::from(memory);
        file.write_all(&bytes).map_err(|error| failed(&error))?;
        Ok(file.into())
    }

    /// Reads one.
    ///
    /// # Errors
    /// A sentence that says whose and what cannot be understood.
    pub(super) fn read(file: OwnedFd) -> Result<Snapshot, String> {
        let mut file = File::from(file);
        let mut bytes = Vec::new();
        file.rewind()
            .and_then(|()| file.read_to_end(&mut bytes))
            .map_err(|error| format!("the state of the running rgunicorn cannot be read: {error}"))?;
        let preface: Preface = serde_json::from_slice(&bytes)
            .map_err(|error| format!("this is no state of a running rgunicorn: {error}"))?;
        let Preface { format, protocol, version } = preface;
        if format != FORMAT || protocol != PROTOCOL {
            return Err(format!(
                "rgunicorn {VERSION} cannot take over from rgunicorn {version} (its state has format {format}, its workers \
                 speak protocol {protocol}; understood are {FORMAT} and {PROTOCOL}): restart the instance instead"
            ));
        }
        serde_json::from_slice(&bytes)
            .map_err(|error| format!("the state of rgunicorn {version} cannot be understood by {VERSION}: {error}"))
    }
}
