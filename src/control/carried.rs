//! The control socket on its way into the next program of the same process (SIGUSR2), with the clients that wait.

use super::place::Place;
use super::{Client, ClientId, Control};
use crate::fds;
use nix::sys::epoll::{Epoll, EpollFlags};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Instant;

/// See the file's header.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Carried {
    place: Option<CarriedPlace>,
    shared: bool,
    clients: Vec<CarriedClient>,
    latest: ClientId,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct CarriedPlace {
    fd: RawFd,
    path: PathBuf,
    identity: (u64, u64),
    makes_folder: bool,
    folder: Option<PathBuf>,
    mode: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct CarriedClient {
    id: ClientId,
    fd: RawFd,
    input: Vec<u8>,
    output: Vec<u8>,
    waits: bool,
    ended: bool,
    leaves: bool,
}

impl Carried {
    /// All fds in it.
    pub(crate) fn fds(&self) -> impl Iterator<Item = RawFd> {
        self.place.iter().map(|place| place.fd).chain(self.clients.iter().map(|client| client.fd))
    }
}

impl Control {
    pub(crate) fn pack(&self) -> Carried {
        let place = self.place.as_ref().map(|place| CarriedPlace {
            fd: place.listener.as_raw_fd(),
            path: place.path.clone(),
            identity: place.identity,
            makes_folder: place.makes_folder,
            folder: place.folder.clone(),
            mode: place.mode,
        });
        let clients = self.clients.iter().map(|(id, client)| CarriedClient {
            id: *id,
            fd: client.stream.as_raw_fd(),
            input: client.input.clone(),
            output: client.output.clone(),
            waits: client.waits,
            ended: client.ended,
            leaves: client.leaves,
        });
        Carried { place, shared: self.shared, clients: clients.collect(), latest: self.latest }
    }

    /// # Errors
    /// An fd is not open.
    pub(crate) fn unpack(carried: Carried) -> std::io::Result<Control> {
        let place = carried.place.map(|place| {
            let listener = UnixListener::from(fds::adopt(place.fd)?);
            Ok::<_, std::io::Error>(Place {
                listener,
                path: place.path,
                identity: place.identity,
                makes_folder: place.makes_folder,
                folder: place.folder,
                mode: place.mode,
            })
        });
        let client = |carried: CarriedClient| {
            let stream = UnixStream::from(fds::adopt(carried.fd)?);
            let CarriedClient { id, input, output, waits, ended, leaves, .. } = carried;
            let (interest, heard) = (EpollFlags::empty(), Instant::now());
            Ok((id, Client { stream, input, output, waits, ended, leaves, interest, heard }))
        };
        let clients = carried.clients.into_iter().map(client).collect::<std::io::Result<BTreeMap<_, _>>>()?;
        let (place, shared, latest) = (place.transpose()?, carried.shared, carried.latest);
        Ok(Control { place, shared, clients, latest, paused: None })
    }

    /// Has the clients watched that came along.
    pub(crate) fn watch_clients(&mut self, epoll: &Epoll, data: impl Fn(ClientId) -> u64) {
        for (id, client) in &mut self.clients {
            // It fails only where the kernel has no memory left; the client then hears nothing any more.
            let _ = client.watch(epoll, data(*id));
        }
    }
}
