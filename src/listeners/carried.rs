//! Listeners on their way into the next program of the same process (SIGUSR2).
//!
//! Owns the plain form in which they travel; reading one opens and removes nothing. [`Listener::unpack`] makes a
//! listener of it again, under the same fd.

use super::{Listener, Listeners, MadeBy, Origin, SocketFile};
use crate::fds;
use crate::settings::Bind;
use rgunicorn_protocol::ListenerAddress;
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::rc::{Rc, Weak};

/// A listener without its fd.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Carried {
    pub(crate) fd: RawFd,
    address: ListenerAddress,
    origin: From,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum From {
    Activated { number: i32, name: String },
    Inherited { number: i32 },
    Bound { wanted: Bind, file: Option<CarriedFile> },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct CarriedFile {
    path: PathBuf,
    device: u64,
    inode: u64,
    made_by: Option<MadeBy>,
}

impl Listener {
    pub(crate) fn pack(&self) -> Carried {
        let origin = match &self.origin {
            Origin::Activated { number, name } => From::Activated { number: *number, name: name.clone() },
            Origin::Inherited { number } => From::Inherited { number: *number },
            Origin::Bound { wanted, file } => From::Bound {
                wanted: wanted.clone(),
                file: file.as_ref().map(|file| CarriedFile {
                    path: file.path.clone(),
                    device: file.device,
                    inode: file.inode,
                    made_by: file.made_by.get(),
                }),
            },
        };
        Carried { fd: self.fd.as_raw_fd(), address: self.address.clone(), origin }
    }

    /// # Errors
    /// The fd is not open.
    pub(crate) fn unpack(carried: Carried) -> std::io::Result<Listener> {
        let origin = match carried.origin {
            From::Activated { number, name } => Origin::Activated { number, name },
            From::Inherited { number } => Origin::Inherited { number },
            From::Bound { wanted, file } => Origin::Bound { wanted, file: file.map(file_of) },
        };
        Ok(Listener { fd: fds::adopt(carried.fd)?, address: carried.address, origin })
    }
}

fn file_of(CarriedFile { path, device, inode, made_by }: CarriedFile) -> SocketFile {
    SocketFile { path, device, inode, stays: Cell::new(false), made_by: Cell::new(made_by) }
}

impl Listeners {
    /// Every open listener once, those of systemd first.
    pub(crate) fn all(&self) -> Vec<Rc<Listener>> {
        let passed = self.activated.iter().chain(&self.inherited);
        let open: Vec<_> = self.open.iter().filter_map(Weak::upgrade).collect();
        let bound = open.iter().filter(|listener| listener.is_bound());
        passed.chain(bound).cloned().collect()
    }

    /// As if they had been adopted and opened here. The caller keeps those alive that were bound.
    pub(crate) fn of(all: &[Rc<Listener>]) -> Listeners {
        let mut listeners = Listeners::default();
        for listener in all {
            match listener.origin {
                Origin::Activated { .. } => listeners.activated.push(Rc::clone(listener)),
                Origin::Inherited { .. } => listeners.inherited.push(Rc::clone(listener)),
                Origin::Bound { .. } => listeners.open.push(Rc::downgrade(listener)),
            }
        }
        listeners
    }
}
