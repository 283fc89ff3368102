//! Lost wake-ups: each test stops a lane in the one moment in which the kick counts.

use super::*;
use crate::connection::Phase;
use crate::timeouts::Watch;
use crate::world::{Instance, PATIENCE, settings};
use rgunicorn_protocol::WorkerSettings;
use std::sync::mpsc;

/// A worker of several with one lane, which sleeps in [`Reactor::wait`]; and who says that it has woken up.
fn asleep(instance: &Instance) -> (Arc<Reactor>, Channel, mpsc::Receiver<()>) {
    let (reactor, channel) = instance.reactor(&WorkerSettings { workers: 2, ..settings() }, 1);
    *lock(&reactor.service) = Service::Serving;
    let (tell, told) = mpsc::channel();
    let (woken, waking) = mpsc::channel();
    let lane = Arc::clone(&reactor);
    std::thread::spawn(move || {
        let _ = tell.send(nix::unistd::gettid());
        lane.wait(&mut Hands::default());
        let _ = woken.send(());
    });
    let thread = told.recv_timeout(PATIENCE).unwrap();
    let state = || {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.as_bytes()[0]
    };
    let begun = Instant::now();
    while reactor.polling.load(Ordering::SeqCst) == 0 || state() != b'S' {
        assert!(begun.elapsed() < PATIENCE, "the lane does not sleep");
        std::thread::yield_now();
    }
    (reactor, channel, waking)
}

/// A connection with a complete request that cannot travel.
fn waiting(reactor: &Reactor) -> Box<Connection> {
    let (_client, server) = UnixStream::pair().unwrap();
    let mut connection =
        Connection::new(reactor.new_token(), server.into(), None, 0, &reactor.settings, Instant::now());
    (connection.phase, connection.continued) = (Phase::Answering, true);
    Box::new(connection)
}

#[test]
fn a_request_that_comes_back_from_a_failed_offer_wakes_the_lane_that_went_to_sleep_meanwhile() {
    let instance = Instance::new();
    let (reactor, _channel, woken) = asleep(&instance);
    let request = waiting(&reactor);
    reactor.lanes.enter();
    lock(&reactor.table).push_request(request);
    reactor.offer_requests(false);
    assert_eq!(woken.recv_timeout(PATIENCE), Ok(()));
}

#[test]
fn a_standby_that_has_taken_the_kick_of_the_lane_passes_it_on_when_it_leaves() {
    let instance = Instance::new();
    let (reactor, _channel, woken) = asleep(&instance);
    let request = waiting(&reactor);
    lock(&reactor.table).push_request(request);
    // The call for which it took charge is over.
    let call = reactor.lanes.watch() + 1;
    reactor.take_charge(call, &mut Hands::default(), &mut Watch::new(1));
    assert_eq!(woken.recv_timeout(PATIENCE), Ok(()));
}

#[test]
fn a_connection_that_cannot_be_watched_is_closed_before_another_thread_can_have_it() {
    let instance = Instance::new();
    let (reactor, _channel) = instance.reactor(&settings(), 1);
    let over = Arc::new(AtomicBool::new(false));
    let other = {
        let (reactor, over) = (Arc::clone(&reactor), Arc::clone(&over));
        std::thread::spawn(move || {
            let mut had = 0;
            while !over.load(Ordering::SeqCst) {
                let ready = lock(&reactor.table).take_ready();
                if let Some((connection, _)) = ready {
                    had += 1;
                    reactor.put_back(connection);
                }
            }
            had
        })
    };
    for _ in 0..10_000 {
        // No regular file can be in the set (epoll_ctl(2): EPERM).
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let connection = Connection::new(reactor.new_token(), file.into(), None, 0, &reactor.settings, Instant::now());
        reactor.admit(Box::new(connection), Happened { readable: true, ..Happened::default() });
    }
    over.store(true, Ordering::SeqCst);
    assert_eq!((other.join().unwrap(), reactor.connections()), (0, 0));
}
