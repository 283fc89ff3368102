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
const FORMAT: u32 = 3;

/// What must be understood before anything else is.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Preface {
    format: u32,
    protocol: u32,
    /// Of the program that wrote it.
    pub(super) version: String,
}

impl Preface {
    /// That of what this program writes.
    pub(super) fn ours() -> Preface {
        Preface { format: FORMAT, protocol: PROTOCOL, version: VERSION.to_owned() }
    }
}

/// See the file's header.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Snapshot {
    #[serde(flatten)]
    pub(super) preface: Preface,
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
    pub(super) in_force: Option<Rc<Settings>>,
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

impl Snapshot {
    /// Every fd that must stay open.
    pub(super) fn fds(&self) -> Vec<RawFd> {
        let listeners = self.listeners.iter().map(|listener| listener.fd);
        let channels = self.peers.iter().map(|peer| peer.channel);
        let board = self.scoreboard.iter().map(|board| board.fd);
        let handoff = [self.handoff.0, self.handoff.1];
        let output = self.output.iter().flat_map(output::Carried::fds);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::decide::Purpose;
    use serde_json::{Value, json};
    use std::time::Instant;

    fn snapshot() -> Snapshot {
        let (state, _) = State::begin(Purpose::Serve, Instant::now());
        let settings = Settings { app: "shop:app".into(), workers: 3, ..Settings::default() };
        let peer = |serial, channel, pid| Peer {
            serial: Serial(serial),
            channel,
            ended: false,
            pid,
            slot: pid.map(|_| 1),
            generation: 1,
            sheet: Some(SheetAt { offset: 8192, lanes: 4 }),
        };
        Snapshot {
            preface: Preface::ours(),
            state,
            listeners: Vec::new(),
            generations: vec![Generation {
                number: 1,
                settings: Rc::new(settings),
                module: "/x.so".into(),
                listeners: vec![0],
            }],
            peers: vec![peer(1, 10, Some(100)), peer(2, 11, None)],
            handoff: (12, 13),
            scoreboard: Some(Scoreboard { fd: 14, free: vec![SheetAt { offset: 4096, lanes: 1 }] }),
            output: None,
            control: control::Carried::default(),
            past: crate::supervisor::report::History::default().past,
            pidfile: Some("/run/x.pid".into()),
            in_force: None,
        }
    }

    fn read(value: &Value) -> Result<Snapshot, String> {
        let mut file = File::from(memfd_create(c"test", MFdFlags::MFD_CLOEXEC).unwrap());
        file.write_all(value.to_string().as_bytes()).unwrap();
        Snapshot::read(file.into())
    }

    fn value() -> Value {
        serde_json::to_value(snapshot()).unwrap()
    }

    #[test]
    fn what_is_written_is_read_as_it_was_and_names_every_fd() {
        let written = snapshot();
        let again = Snapshot::read(written.write().unwrap()).unwrap();
        assert_eq!(serde_json::to_value(&again).unwrap(), serde_json::to_value(&written).unwrap());
        assert_eq!(again.fds(), [10, 11, 14, 12, 13]);
        assert_eq!(again.generations[0].settings.app, "shop:app");
    }

    #[test]
    fn what_a_later_version_has_added_does_not_matter_and_what_an_earlier_one_lacks_is_as_by_default() {
        let mut other = value();
        other["novelty"] = json!({"a": 1});
        other["generations"][0]["settings"]["novelty"] = json!(true);
        other["generations"][0]["settings"].as_object_mut().unwrap().remove("threads");
        other.as_object_mut().unwrap().remove("output");
        let again = read(&other).unwrap();
        assert_eq!(again.generations[0].settings.threads, Settings::default().threads);
        assert_eq!(again.generations[0].settings.workers, 3);
    }

    #[test]
    fn another_format_or_protocol_is_refused_with_both_versions_and_a_way_out() {
        for (what, number) in [("format", FORMAT + 1), ("protocol", PROTOCOL + 1)] {
            let mut other = value();
            other[what] = json!(number);
            other["version"] = json!("7.8.9");
            // Nothing else needs to be understood for it.
            other["state"] = json!("entirely different");
            let refused = read(&other).unwrap_err();
            for word in ["7.8.9", VERSION, "restart the instance", what, &number.to_string()] {
                assert!(refused.contains(word), "{refused}");
            }
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(read(&json!([1, 2])).unwrap_err().contains("no state of a running rgunicorn"));
        let mut other = value();
        other["peers"] = json!(7);
        assert!(read(&other).unwrap_err().contains("cannot be understood"));
    }
}
