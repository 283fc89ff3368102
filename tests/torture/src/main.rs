//! `rgunicorn-torture ADDRESS SECONDS CLIENTS SEED [--no-pipelining]`: many clients in one thread, which count what a
//! server loses.
//!
//! ADDRESS is `127.0.0.1:PORT` or the path of a unix socket. Events are announced on stdin, a name on each line; `kill`
//! means that a worker is about to be killed, `over NAME` that an event has ended, and `stop` ends the run early. The
//! result is JSON on stdout. Ends by itself: SECONDS, and then as long as requests are unanswered, which no client waits
//! for longer than 20 s.

mod answer;
mod client;
mod random;
mod request;
mod tally;

use client::{Client, Target};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use request::Kind;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tally::Tally;

/// An answer that takes longer is late.
const LATE: Duration = Duration::from_secs(2);
/// The number of stdin among the clients'.
const STDIN: u64 = u64::MAX;

struct Arguments {
    target: Target,
    time: Duration,
    clients: usize,
    seed: u64,
    pipelining: bool,
}

fn arguments() -> Result<Arguments, String> {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let pipelining = words.pop_if(|word| word == "--no-pipelining").is_none();
    let [address, seconds, clients, seed] = &words[..] else {
        return Err("usage: rgunicorn-torture ADDRESS SECONDS CLIENTS SEED [--no-pipelining]".into());
    };
    let number = |word: &String| word.parse::<u64>().map_err(|_| format!("{word} is not a number"));
    let target = if address.starts_with('/') {
        Target::Unix(address.into())
    } else {
        let address: std::net::SocketAddrV4 = address.parse().map_err(|_| format!("{address} is not an address"))?;
        if !address.ip().is_loopback() {
            return Err(format!("{address} is not of this machine"));
        }
        Target::Tcp(address)
    };
    Ok(Arguments {
        target,
        time: Duration::from_secs(number(seconds)?),
        clients: number(clients)? as usize,
        seed: number(seed)?,
        pipelining,
    })
}

struct Torture {
    epoll: Epoll,
    target: Target,
    clients: Vec<Client>,
    /// When which client wants to be called; entries that no longer hold are harmless.
    wakes: BinaryHeap<Reverse<(Instant, usize)>>,
    tally: Tally,
    announced: Vec<u8>,
    end: Instant,
}

impl Torture {
    fn proceed(&mut self, n: usize) -> io::Result<()> {
        let now = Instant::now();
        let Some(client) = self.clients.get_mut(n) else { return Ok(()) };
        // Twice: a client that has closed its connection may open the next one at once.
        for _ in 0..2 {
            if client.proceed(&self.target, &mut self.tally, now)
                && let Some(socket) = client.socket()
            {
                let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
                self.epoll.add(socket, EpollEvent::new(flags, n as u64))?;
            }
        }
        if let Some(at) = client.wake.filter(|at| *at > now) {
            self.wakes.push(Reverse((at, n)));
        } else if client.wake.is_some() {
            self.wakes.push(Reverse((now + Duration::from_millis(1), n)));
        }
        Ok(())
    }

    /// Reads what the driver announces.
    fn listen(&mut self) -> io::Result<()> {
        let mut bytes = [0; 4096];
        let count = io::stdin().read(&mut bytes)?;
        if count == 0 {
            self.epoll.delete(io::stdin())?;
        }
        self.announced.extend_from_slice(&bytes[..count]);
        while let Some(end) = self.announced.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.announced.drain(..=end).collect();
            let name = String::from_utf8_lossy(&line);
            if name.trim() == "stop" {
                self.end = Instant::now();
            } else {
                match name.trim().strip_prefix("over ") {
                    Some(event) => self.tally.event_over(event),
                    None => self.tally.event(name.trim()),
                }
                // The driver waits for this before it acts.
                eprintln!("{}", name.trim());
            }
        }
        Ok(())
    }

    fn run(&mut self) -> io::Result<()> {
        let mut events = vec![EpollEvent::empty(); 256];
        let mut winding_up = false;
        loop {
            let now = Instant::now();
            if now >= self.end && !winding_up {
                winding_up = true;
                self.clients.iter_mut().for_each(Client::wind_up);
            }
            // Once a second everybody is looked at: patience ends without an event.
            if winding_up && !self.clients.iter().any(Client::is_waiting) {
                return Ok(());
            }
            let next = self.wakes.peek().map_or(now + Duration::from_secs(1), |Reverse((at, _))| *at);
            let timeout = next.saturating_duration_since(now).as_micros().div_ceil(1000).min(100) as u16;
            let count = match self.epoll.wait(&mut events, EpollTimeout::from(timeout)) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(error) => return Err(error.into()),
            };
            for event in &events[..count] {
                if event.data() == STDIN { self.listen()? } else { self.proceed(event.data() as usize)? }
            }
            let now = Instant::now();
            while let Some(Reverse((at, n))) = self.wakes.peek().copied()
                && at <= now
            {
                self.wakes.pop();
                self.proceed(n)?;
            }
        }
    }
}

fn run() -> Result<(), String> {
    let Arguments { target, time, clients, seed, pipelining } = arguments()?;
    let now = Instant::now();
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|error| error.to_string())?;
    // Fails for /dev/null and files, which announce nothing.
    let _ = epoll.add(io::stdin(), EpollEvent::new(EpollFlags::EPOLLIN, STDIN));
    let clients: Vec<Client> = (0..clients).map(|n| Client::new(n, Kind::of(n, pipelining), seed, now)).collect();
    // One entry for each second and client: patience is looked at then, whatever happens.
    let last = time + Duration::from_secs(30);
    let wakes = (0..clients.len())
        .flat_map(|n| (0..last.as_secs()).map(move |second| Reverse((now + Duration::from_secs(second), n))))
        .chain(clients.iter().enumerate().filter_map(|(n, client)| client.wake.map(|at| Reverse((at, n)))))
        .collect();
    let mut torture =
        Torture { epoll, target, clients, wakes, tally: Tally::new(LATE), announced: Vec::new(), end: now + time };
    torture.run().map_err(|error| error.to_string())?;
    torture.tally.finish();
    let mut text = serde_json::to_vec_pretty(&torture.tally).map_err(|error| error.to_string())?;
    text.push(b'\n');
    io::stdout().write_all(&text).map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rgunicorn-torture: {error}");
            ExitCode::FAILURE
        }
    }
}
