//! A loop of one thread with many requests in the application, the standby, and clients on real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code, reason = "lanes that are threads")]
mod world;

use rgunicorn_protocol::WorkerSettings;
use rgunicorn_protocol::scoreboard::Counter;
use rgunicorn_reactor::{Exchange, Hands, Next, Reactor, Read};
use std::collections::HashMap;
use std::io::{Read as _, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use world::{Instance, PATIENCE};

fn settings() -> WorkerSettings {
    WorkerSettings { worker_class: "asgi".into(), ..world::settings() }
}

fn wait_for_two(first: BorrowedFd<'_>, second: BorrowedFd<'_>) {
    let mut polls = [first, second].map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    // SAFETY: the array lives over the call.
    unsafe { libc::poll(polls.as_mut_ptr(), 2, 1000) };
}

/// Serves: `/block` blocks the loop until `go`, `/wait` is answered when the body has come, everything else at once.
fn run(reactor: &Arc<Reactor>, go: &AtomicBool) {
    let (mut hands, mut waiting) = (Hands::default(), HashMap::new());
    let answer = |mut exchange: Box<Exchange>, hands: &mut Hands, text: &[u8]| {
        exchange.respond(b"200 OK", &[], Some(text.len() as u64), hands).unwrap();
        let _ = exchange.add(text).unwrap();
        exchange.finish(hands);
    };
    while !reactor.is_finished() {
        wait_for_two(reactor.epoll_fd(), reactor.bell_fd().unwrap());
        reactor.begin_turn(&mut hands);
        let mut look = reactor.take_woken();
        while let Next::Exchange(mut exchange) = reactor.next(&mut hands) {
            let lane = reactor.enter_coroutine(&mut exchange).unwrap();
            let path = exchange.head().path(exchange.bytes()).to_vec();
            match &path[..] {
                b"/wait" => {
                    waiting.insert(lane, exchange);
                    look.push(lane);
                }
                b"/block" => {
                    while !go.load(Ordering::SeqCst) {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    answer(exchange, &mut hands, b"blocked");
                    reactor.leave_coroutine(lane);
                }
                _ => {
                    answer(exchange, &mut hands, b"at once");
                    reactor.leave_coroutine(lane);
                }
            }
        }
        for lane in look {
            let Some(exchange): Option<&mut Box<Exchange>> = waiting.get_mut(&lane) else { continue };
            exchange.look();
            let mut part = [0; 1024];
            loop {
                match exchange.poll_body(&mut part, &mut hands).unwrap() {
                    Read::Data(_) => {}
                    Read::Pending => break,
                    Read::End => {
                        answer(waiting.remove(&lane).unwrap(), &mut hands, b"read");
                        reactor.leave_coroutine(lane);
                        break;
                    }
                }
            }
        }
    }
}

fn serve(lanes: usize, act: impl FnOnce(&Instance, &Arc<Reactor>, &AtomicBool)) {
    let (instance, go) = (Instance::new(), Arc::new(AtomicBool::new(false)));
    let (reactor, channel) = instance.reactor(&settings(), lanes);
    channel.send(&rgunicorn_protocol::ToWorker::Promote, &[]).unwrap();
    let thread = {
        let (reactor, go) = (Arc::clone(&reactor), Arc::clone(&go));
        std::thread::spawn(move || run(&reactor, &go))
    };
    act(&instance, &reactor, &go);
    reactor.finish();
    thread.join().unwrap();
}

fn client(instance: &Instance, bytes: &[u8]) -> std::net::TcpStream {
    let mut client = std::net::TcpStream::connect(instance.address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(bytes).unwrap();
    client
}

fn answer(client: &mut std::net::TcpStream) -> String {
    let mut text = Vec::new();
    let mut part = [0; 4096];
    while !text.ends_with(b"at once") && !text.ends_with(b"blocked") && !text.ends_with(b"read") {
        match client.read(&mut part).unwrap() {
            0 => break,
            n => text.extend_from_slice(&part[..n]),
        }
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn a_request_that_waits_for_its_body_is_woken_and_holds_nobody_up() {
    serve(10, |instance, _, _| {
        let mut slow = client(instance, b"POST /wait HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab");
        for _ in 0..100 {
            assert!(answer(&mut client(instance, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")).ends_with("at once"));
        }
        slow.write_all(b"cd").unwrap();
        assert!(answer(&mut slow).ends_with("read"));
    });
}

#[test]
fn requests_beyond_the_lanes_wait_until_one_is_free() {
    serve(2, |instance, _, _| {
        let begun = b"POST /wait HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n";
        let mut slow = [client(instance, begun), client(instance, begun)];
        let mut third = client(instance, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        for slow in &mut slow {
            slow.write_all(b"x").unwrap();
            assert!(answer(slow).ends_with("read"));
        }
        assert!(answer(&mut third).ends_with("at once"));
    });
}

#[test]
fn while_the_loop_is_blocked_the_standby_reads_what_comes_and_the_loop_finds_it() {
    serve(10, |instance, reactor, go| {
        let mut blocked = client(instance, b"GET /block HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut others: Vec<_> = (0..20).map(|_| client(instance, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
        let until = std::time::Instant::now() + PATIENCE;
        // Without the standby nobody would accept them.
        while reactor.sheet.tally().get(Counter::Accepted) < 21 && std::time::Instant::now() < until {
            std::thread::yield_now();
        }
        go.store(true, Ordering::SeqCst);
        assert!(answer(&mut blocked).ends_with("blocked"));
        for other in &mut others {
            assert!(answer(other).ends_with("at once"));
        }
    });
}
