//! A worker without Python: a reactor whose lanes run Rust closures, and clients on real sockets.

use rgunicorn_protocol::{Channel, ListenerAddress, Sheet, ToWorker, WorkerSettings};
use rgunicorn_reactor::{Exchange, Hands, Hooks, Inheritance, Next, Reactor, ReactorSettings, Role};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// The longest that anything here is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) type Application = Arc<dyn Fn(&mut Exchange, &mut Hands) + Send + Sync>;

/// Defaults of the settings table, as far as the reactor cares.
pub(crate) fn settings() -> WorkerSettings {
    WorkerSettings {
        workers: 1,
        keepalive: 75.0,
        header_timeout: 30.0,
        body_timeout: 30.0,
        send_timeout: 60.0,
        request_buffering: true,
        request_buffer: 64 * 1024,
        response_buffer: 1 << 20,
        limit_request_line: 4094,
        limit_request_fields: 100,
        limit_request_field_size: 8190,
        forwarded_allow_ips: vec!["127.0.0.1".into()],
        sendfile: true,
        ..WorkerSettings::default()
    }
}

/// The sockets that the workers of an instance share.
pub(crate) struct Instance {
    listener: OwnedFd,
    pub(crate) address: SocketAddr,
    pub(crate) handoff: (OwnedFd, OwnedFd),
}

impl Instance {
    pub(crate) fn new() -> Instance {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        // Room for all that a test sends, before anybody reads.
        nix::sys::socket::setsockopt(&listener, nix::sys::socket::sockopt::RcvBuf, &(4 << 20)).unwrap();
        let address = listener.local_addr().unwrap();
        let (a, b) = Channel::pair().unwrap();
        Instance { listener: listener.into(), address, handoff: (a.into_fd(), b.into_fd()) }
    }

    /// A reactor and the arbiter's end of its channel.
    pub(crate) fn reactor(&self, settings: &WorkerSettings, lanes: usize) -> (Arc<Reactor>, Channel) {
        let (ours, theirs) = Channel::pair().unwrap();
        let clone = |fd: &OwnedFd| fd.as_fd().try_clone_to_owned().unwrap();
        let sheet = Arc::new(Sheet::private(lanes as u32).unwrap());
        let inheritance = Inheritance {
            listeners: vec![(clone(&self.listener), ListenerAddress::Tcp { address: self.address })],
            handoff: Some((clone(&self.handoff.0), clone(&self.handoff.1))),
            channel: theirs,
            sheet: Arc::clone(&sheet),
        };
        let reactor = Reactor::new(
            ReactorSettings::new(settings, &sheet).unwrap(),
            inheritance,
            lanes,
            Duration::from_secs(30),
            Hooks { reopen: Box::new(|| {}), stack: Box::new(|_| None), flush_log: Box::new(|| false) },
            slog::Logger::root(slog::Discard, slog::o!()),
        )
        .map_err(|(_, error)| error)
        .unwrap();
        reactor.start_standby().unwrap();
        (reactor, ours)
    }

    pub(crate) fn worker(&self, settings: &WorkerSettings, lanes: usize, application: Application) -> Worker {
        let (reactor, ours) = self.reactor(settings, lanes);
        let threads = (0..lanes)
            .map(|lane| {
                let (reactor, application) = (Arc::clone(&reactor), Arc::clone(&application));
                std::thread::spawn(move || run_lane(&reactor, lane, &application))
            })
            .collect();
        Worker { reactor, channel: ours, threads }
    }
}

/// What the threads driver does, without an interpreter lock.
fn run_lane(reactor: &Arc<Reactor>, lane: usize, application: &Application) {
    let mut hands = Hands::default();
    let idle = |reactor: &Reactor| loop {
        if !reactor.lanes.park(lane) {
            return false;
        }
        let before = reactor.lanes.before_lock();
        if reactor.try_lead(lane, before) {
            return true;
        }
    };
    reactor.join(lane);
    if lane != 0 && !idle(reactor) {
        return;
    }
    loop {
        match reactor.next(&mut hands) {
            Next::Exchange(mut exchange) => {
                let since = reactor.enter_application(lane, &mut exchange);
                application(&mut exchange, &mut hands);
                exchange.finish(&mut hands);
                if reactor.leave_application(lane, since) == Role::Idle && !idle(reactor) {
                    return;
                }
            }
            Next::Nothing => reactor.wait(&mut hands),
            Next::Finished => return,
        }
    }
}

pub(crate) struct Worker {
    pub(crate) reactor: Arc<Reactor>,
    channel: Channel,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Worker {
    pub(crate) fn promote(&self) {
        self.channel.send(&ToWorker::Promote, &[]).unwrap();
    }

    pub(crate) fn retire(&self, within: Duration, successors: bool) {
        let deadline_ms = within.as_millis() as u64;
        self.channel.send(&ToWorker::Retire { deadline_ms, successors, drain_listeners: false }, &[]).unwrap();
    }

    /// Waits until every lane has left.
    pub(crate) fn join(mut self) {
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.reactor.finish();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

pub(crate) fn hello() -> Application {
    Arc::new(|exchange, hands| answer(exchange, hands, b"hello"))
}

pub(crate) fn answer(exchange: &mut Exchange, hands: &mut Hands, body: &[u8]) {
    exchange.respond(b"200 OK", &[], Some(body.len() as u64), hands).unwrap();
    let _ = exchange.send(body);
}

#[allow(dead_code, reason = "not every file of tests asks")]
pub(crate) fn path(exchange: &Exchange) -> String {
    String::from_utf8(exchange.head().path(exchange.bytes()).to_vec()).unwrap()
}

pub(crate) struct Client(pub(crate) TcpStream);

impl Client {
    pub(crate) fn connect(instance: &Instance) -> Client {
        Client::to(instance.address)
    }

    pub(crate) fn to(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client(stream)
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    pub(crate) fn get(&mut self, path: &str) -> String {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
        self.response()
    }

    /// One response with a Content-Length, whole.
    pub(crate) fn response(&mut self) -> String {
        let mut text = Vec::new();
        let mut byte = [0];
        while !text.ends_with(b"\r\n\r\n") {
            assert_eq!(
                self.0.read(&mut byte).unwrap(),
                1,
                "the connection ended after {:?}",
                String::from_utf8_lossy(&text)
            );
            text.push(byte[0]);
        }
        let head = String::from_utf8(text).unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap().parse().unwrap();
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        head + &String::from_utf8_lossy(&body)
    }
}
