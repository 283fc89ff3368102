//! The handoff under load and in want: many connections that move while they are used, and limits that refuse them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod world;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg, setsockopt, sockopt};
use nix::sys::time::TimeValLike;
use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};
use rgunicorn_protocol::Sheet;
use rgunicorn_protocol::scoreboard::{Counter, ServiceState};
use rgunicorn_protocol::{HANDOFF_FORM, WorkerSettings};
use rgunicorn_reactor::{Exchange, Hands};
use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use world::{Application, Client, Instance, PATIENCE, Worker, hello, settings};

const CONNECTIONS: u64 = 10_000;
const MOVES: usize = 6;
const CLIENT_THREADS: usize = 4;

/// Lets this process have `count` fds, as far as it may. How many it has.
fn raise_fd_limit(count: u64) -> u64 {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    if soft < count && setrlimit(Resource::RLIMIT_NOFILE, count, hard.max(count)).is_err() {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    }
    getrlimit(Resource::RLIMIT_NOFILE).unwrap().0
}

/// Bytes as they were counted at one end.
#[derive(Debug, Default)]
struct Bytes {
    up: AtomicU64,
    down: AtomicU64,
}

impl Bytes {
    fn get(&self) -> (u64, u64) {
        (self.up.load(Ordering::SeqCst), self.down.load(Ordering::SeqCst))
    }
}

fn echo(bytes: Arc<Bytes>) -> Application {
    Arc::new(move |exchange: &mut Exchange, hands: &mut Hands| {
        let mut body = Vec::new();
        if let Some(mut buffered) = exchange.take_body() {
            let mut part = [0; 4096];
            loop {
                let count = buffered.read(&mut part).unwrap();
                if count == 0 {
                    break;
                }
                body.extend_from_slice(&part[..count]);
            }
        }
        bytes.up.fetch_add(body.len() as u64, Ordering::SeqCst);
        exchange.respond(b"200 OK", &[], Some(body.len() as u64), hands).unwrap();
        bytes.down.fetch_add(body.len() as u64, Ordering::SeqCst);
        let _ = exchange.send(&body);
    })
}

/// Sends a body of its own length and content, and takes it back.
fn exchange_bytes(client: &mut Client, number: u64, bytes: &Bytes) {
    let length = (number.wrapping_mul(7919) % 3001) as usize;
    let body: Vec<u8> = (0..length).map(|at| b'a' + ((number as usize + at) % 26) as u8).collect();
    client.send(format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n").as_bytes());
    client.0.write_all(&body).unwrap();
    bytes.up.fetch_add(length as u64, Ordering::SeqCst);
    let response = client.response();
    let (_, came) = response.split_once("\r\n\r\n").unwrap();
    bytes.down.fetch_add(came.len() as u64, Ordering::SeqCst);
    assert_eq!(came.as_bytes(), body, "request {number}");
}

fn until(what: &str, fact: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !fact() {
        assert!(Instant::now() < end, "waited for: {what}");
        std::thread::yield_now();
    }
}

fn total(sheets: &[Arc<Sheet>], counter: Counter) -> u64 {
    sheets.iter().map(|sheet| sheet.tally().get(counter)).sum()
}

#[test]
fn ten_thousand_connections_move_from_worker_to_worker_under_load_and_no_byte_is_lost() {
    let _quiet = quiet();
    // A moving connection has a second fd for a moment.
    let count = CONNECTIONS.min(raise_fd_limit(CONNECTIONS + 2000) - 2000);
    let instance = Instance::new();
    let mut settings = settings();
    settings.workers = 2;
    let served = Arc::new(Bytes::default());
    let mut worker = instance.worker(&settings, 1, echo(Arc::clone(&served)));
    worker.promote();
    // The other ends are in a process of their own, since one may not have fds for both.
    let mut clients = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "clients_that_exchange_bytes_until_they_are_told", "--ignored", "--nocapture"])
        .envs([("ADDRESS", instance.address.to_string()), ("COUNT", count.to_string())])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(clients.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.any(|line| line == "all have been answered"));
    let mut sheets = vec![Arc::clone(&worker.reactor.sheet)];
    for _ in 0..MOVES {
        let next = instance.worker(&settings, 1, echo(Arc::clone(&served)));
        next.promote();
        worker.retire(Duration::from_secs(60), true);
        worker.join();
        sheets.push(Arc::clone(&next.reactor.sheet));
        // A worker that is still busy may take back what it has offered, so all are counted.
        until("all to be taken", || total(&sheets, Counter::TakenOver) == total(&sheets, Counter::HandedOver));
        worker = next;
    }
    drop(clients.stdin.take());
    let seen = said.find_map(|line| line.strip_prefix("bytes: ").map(str::to_owned));
    assert!(clients.wait().unwrap().success());
    let (up, down) = served.get();
    assert_eq!(seen, Some(format!("{up} {down}")), "bytes up and down, as the clients and as the workers counted them");
    let moved = total(&sheets, Counter::HandedOver);
    assert_eq!(moved, total(&sheets, Counter::TakenOver), "connections handed over and taken over");
    // Some more than once, with a request that waited behind another.
    assert!(moved >= count * MOVES as u64, "every connection moved each time: {moved}");
}

#[test]
#[ignore = "the other end of ten_thousand_connections_move_from_worker_to_worker_under_load_and_no_byte_is_lost"]
fn clients_that_exchange_bytes_until_they_are_told() {
    let address = std::env::var("ADDRESS").unwrap().parse().unwrap();
    let count: u64 = std::env::var("COUNT").unwrap().parse().unwrap();
    raise_fd_limit(count + 100);
    let (over, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Bytes::default()));
    let threads: Vec<_> = (0..CLIENT_THREADS as u64)
        .map(|thread| {
            let mut clients: Vec<Client> = (0..count / CLIENT_THREADS as u64).map(|_| Client::to(address)).collect();
            let (over, seen) = (Arc::clone(&over), Arc::clone(&seen));
            let mut number = thread << 32;
            // Once before the first move, so that none of them waits unaccepted at the listener.
            for client in &mut clients {
                number += 1;
                exchange_bytes(client, number, &seen);
            }
            std::thread::spawn(move || {
                // A last round after the last move: every connection still answers.
                for last in [false, true] {
                    while last || !over.load(Ordering::SeqCst) {
                        for client in &mut clients {
                            number += 1;
                            exchange_bytes(client, number, &seen);
                            if !last && over.load(Ordering::SeqCst) {
                                break;
                            }
                        }
                        if last {
                            break;
                        }
                    }
                }
            })
        })
        .collect();
    // After what the harness writes in front of a test's output.
    println!("\nall have been answered");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    over.store(true, Ordering::SeqCst);
    for thread in threads {
        thread.join().unwrap();
    }
    let (up, down) = seen.get();
    println!("bytes: {up} {down}");
}

/// For tests that want the processors for themselves.
fn quiet() -> MutexGuard<'static, ()> {
    static QUIET: Mutex<()> = Mutex::new(());
    QUIET.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the test `name` of this file in a process of its own, which it may spoil.
fn alone(name: &str) {
    let _quiet = quiet();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture"])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

fn give_up_privileges() {
    if geteuid().is_root() {
        setgroups(&[]).unwrap();
        setresgid(Gid::from_raw(65534), Gid::from_raw(65534), Gid::from_raw(65534)).unwrap();
        setresuid(Uid::from_raw(65534), Uid::from_raw(65534), Uid::from_raw(65534)).unwrap();
    }
}

fn limit_fds(soft: u64) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
}

fn serve_all(clients: &mut [Client]) {
    for client in clients {
        assert!(client.get("/").ends_with("hello"));
    }
}

/// None of the clients has seen an end.
fn all_are_open(clients: &mut [Client]) {
    for client in clients {
        client.0.set_nonblocking(true).unwrap();
        let error = client.0.read(&mut [0]).expect_err("the connection has ended");
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        client.0.set_nonblocking(false).unwrap();
    }
}

fn hears_nothing_for_a_second(client: &mut Client) {
    client.0.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let error = client.0.read(&mut [0]).expect_err("the connection has ended");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    client.0.set_read_timeout(None).unwrap();
}

fn processor_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let time = usage.user_time() + usage.system_time();
    Duration::from_micros(time.num_microseconds() as u64)
}

fn handed_over(worker: &Worker) -> u64 {
    worker.reactor.sheet.tally().get(Counter::HandedOver)
}

fn serving(worker: &Worker) {
    worker.promote();
    until("the worker to serve", || worker.reactor.sheet.service() == ServiceState::Serving);
    until("all threads to sleep", others_sleep);
}

/// Whether all threads of this process sleep but the calling one.
fn others_sleep() -> bool {
    let me = nix::unistd::gettid().to_string();
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks.filter(|task| task.file_name() != *me).all(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('S'))
    })
}

// The kernel wakes one worker for what comes (EPOLLEXCLUSIVE). One that is told to leave in that very moment must not take
// the news with it: nobody else would look before something else comes. To have both in one look of the worker, it shares
// a processor with the test and runs only when that sleeps.

/// Starts a worker whose threads have the lowest priority.
fn slow_worker(instance: &Instance, settings: &WorkerSettings) -> Worker {
    let schedule = |policy| {
        // SAFETY: the structure lives over the call, which changes the calling thread alone.
        let done = unsafe { libc::sched_setscheduler(0, policy, &libc::sched_param { sched_priority: 0 }) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    };
    schedule(libc::SCHED_IDLE);
    let worker = instance.worker(settings, 1, hello());
    schedule(libc::SCHED_OTHER);
    serving(&worker);
    worker
}

/// A client comes who wakes the worker that is told to leave in that moment: is it answered? The kernel asks the two
/// workers in the order in which they came, so each is the first in half of the rounds.
fn one_who_leaves_and_one_who_stays(comes: impl Fn(&Instance) -> Client) {
    on_one_processor();
    let settings = WorkerSettings { workers: 2, ..settings() };
    for leaver_is_first in [true, false].repeat(10) {
        let instance = Instance::new();
        let stays = || {
            let stays = instance.worker(&settings, 1, hello());
            serving(&stays);
            stays
        };
        let mut staying = (!leaver_is_first).then(stays);
        let leaves = slow_worker(&instance, &settings);
        staying.get_or_insert_with(stays);
        let mut client = comes(&instance);
        leaves.retire(Duration::from_secs(60), true);
        assert!(client.get("/").ends_with("hello"));
    }
}

fn on_one_processor() {
    let mut set = nix::sched::CpuSet::new();
    let allowed = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).unwrap();
    let first = (0..nix::sched::CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap()).unwrap();
    set.set(first).unwrap();
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set).unwrap();
}

#[test]
fn what_wakes_a_worker_that_is_told_to_leave_is_served_by_another() {
    alone("a_connection_that_wakes_a_worker_which_is_told_to_leave");
    alone("a_handed_over_connection_that_wakes_a_worker_which_is_told_to_leave");
}

#[test]
#[ignore = "binds its process to a processor: what_wakes_a_worker_that_is_told_to_leave_is_served_by_another runs it"]
fn a_connection_that_wakes_a_worker_which_is_told_to_leave() {
    one_who_leaves_and_one_who_stays(Client::connect);
}

#[test]
#[ignore = "binds its process to a processor: what_wakes_a_worker_that_is_told_to_leave_is_served_by_another runs it"]
fn a_handed_over_connection_that_wakes_a_worker_which_is_told_to_leave() {
    one_who_leaves_and_one_who_stays(|instance| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = Client::to(listener.local_addr().unwrap());
        let (connection, _) = listener.accept().unwrap();
        connection.set_nonblocking(true).unwrap();
        // An idle connection with nothing to be said about it, as another worker would have sent it.
        let datagram = [&[HANDOFF_FORM, 1, 2, 0], &b"{}"[..]].concat();
        let fds = [connection.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&fds)];
        let send = instance.handoff.1.as_raw_fd();
        sendmsg::<UnixAddr>(send, &[IoSlice::new(&datagram)], &rights, MsgFlags::empty(), None).unwrap();
        client
    });
}

#[test]
fn what_the_kernel_does_not_take_stays_with_the_sender() {
    alone("an_unprivileged_sender_at_its_limits");
}

#[test]
#[ignore = "changes user and limits of its process: what_the_kernel_does_not_take_stays_with_the_sender runs it"]
fn an_unprivileged_sender_at_its_limits() {
    const COUNT: usize = 1500;
    raise_fd_limit(2 * COUNT as u64 + 500);
    give_up_privileges();
    let instance = Instance::new();
    // Room for a few datagrams only, whatever the machine's default is.
    setsockopt(&instance.handoff.1, sockopt::SndBuf, &(32 << 10)).unwrap();
    let mut settings = settings();
    settings.workers = 2;
    let first = instance.worker(&settings, 1, hello());
    first.promote();
    let mut clients: Vec<Client> = (0..COUNT).map(|_| Client::connect(&instance)).collect();
    serve_all(&mut clients);

    // With NOFILE at 200 a datagram carries 25 connections, and the kernel takes one more than 200 fds in flight allow
    // (ETOOMANYREFS); the narrow buffer then takes a few larger datagrams (EAGAIN). Nobody receives yet: the second worker
    // is not promoted.
    let second = instance.worker(&settings, 1, hello());
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    limit_fds(200);
    // On a slow machine its lane was busy now and then, and it has offered some requests, which came back to it.
    let offered = handed_over(&first);
    first.retire(Duration::from_secs(60), true);
    until("the first 225 in the queue", || handed_over(&first) >= offered + 225);
    all_are_open(&mut clients);
    assert_eq!(handed_over(&first), offered + 225, "ETOOMANYREFS keeps the rest");
    limit_fds(soft);
    until("the queue to be full", || handed_over(&first) > offered + 225);
    all_are_open(&mut clients);
    assert!(((handed_over(&first) - offered) as usize) < COUNT, "EAGAIN keeps the rest");
    assert!(!first.reactor.is_finished(), "it leaves only with its last connection");

    // A receiver without free fds takes nothing, waits without spinning, and takes all when it has some.
    limit_fds(10);
    second.promote();
    all_are_open(&mut clients);
    let before = processor_time();
    hears_nothing_for_a_second(&mut clients[0]);
    assert!(processor_time() - before < Duration::from_millis(700), "it spins");
    limit_fds(soft);
    let sheets = [Arc::clone(&first.reactor.sheet), Arc::clone(&second.reactor.sheet)];
    first.join();
    serve_all(&mut clients);
    // The second may take back what it has offered while its lane was busy, so all are counted.
    assert_eq!(total(&sheets, Counter::TakenOver), total(&sheets, Counter::HandedOver));
    assert!(total(&sheets, Counter::TakenOver) >= COUNT as u64);
}
