//! Lanes, the standby and the handoff, with real sockets and threads and no Python.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod world;

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use world::{Application, Client, Instance, Worker, answer, hello, path, settings};

/// An application in which `/block` stays until the gate opens.
#[derive(Default)]
struct Gate {
    state: Mutex<(u32, bool)>,
    changed: Condvar,
}

impl Gate {
    fn application(self: &Arc<Self>) -> Application {
        let gate = Arc::clone(self);
        Arc::new(move |exchange, hands| {
            if path(exchange) == "/block" {
                let mut state = gate.state.lock().unwrap();
                state.0 += 1;
                gate.changed.notify_all();
                while !state.1 {
                    state = gate.changed.wait(state).unwrap();
                }
                state.0 -= 1;
            }
            answer(exchange, hands, b"hello");
        })
    }

    fn wait_inside(&self, count: u32) {
        let state = self.state.lock().unwrap();
        let (_state, timeout) =
            self.changed.wait_timeout_while(state, world::PATIENCE, |state| state.0 < count).unwrap();
        assert!(!timeout.timed_out(), "the application was not entered {count} times at once");
    }

    fn open(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

struct Opened<'a>(&'a Gate);

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        self.0.open();
    }
}

fn block(instance: &Instance) -> Client {
    let mut client = Client::connect(instance);
    client.send(b"GET /block HTTP/1.1\r\nHost: x\r\n\r\n");
    client
}

#[test]
fn requests_are_answered_in_order_on_one_connection() {
    let instance = Instance::new();
    let worker = instance.worker(&settings(), 1, hello());
    worker.promote();
    let mut client = Client::connect(&instance);
    for _ in 0..100 {
        assert!(client.get("/").ends_with("hello"));
    }
}

#[test]
fn pipelined_requests_are_all_answered() {
    let instance = Instance::new();
    let worker = instance.worker(&settings(), 1, hello());
    worker.promote();
    let mut client = Client::connect(&instance);
    client.send(&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(200));
    for _ in 0..200 {
        assert!(client.response().ends_with("hello"));
    }
}

#[test]
fn a_body_that_ends_with_the_last_read_of_a_turn_is_complete() {
    let instance = Instance::new();
    let worker = instance.worker(&settings(), 1, hello());
    // Everything has arrived when the worker begins to read, so that it reads as much as a turn allows.
    let mut clients = Vec::new();
    for length in (1..=20).map(|reads| reads * 16 * 1024 - 8000) {
        let mut client = Client::connect(&instance);
        client.send(format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n").as_bytes());
        client.send(&vec![b'x'; length]);
        clients.push(client);
    }
    worker.promote();
    for client in &mut clients {
        assert!(client.response().ends_with("hello"));
    }
}

#[test]
fn while_the_only_lane_is_inside_the_standby_answers_for_health_and_reads_what_comes() {
    let gate = Arc::new(Gate::default());
    let _opened = Opened(&gate);
    let instance = Instance::new();
    let mut settings = settings();
    settings.health_path = "/health".into();
    let worker = instance.worker(&settings, 1, gate.application());
    worker.promote();
    let mut waiting = Client::connect(&instance);
    assert!(waiting.get("/").ends_with("hello"));
    let mut blocked = block(&instance);
    gate.wait_inside(1);
    assert!(Client::connect(&instance).get("/health").ends_with("ok\n"), "accepted and answered without the lane");
    waiting.send(b"GET / HTTP/1.1\r\nHost: x\r\n");
    assert!(Client::connect(&instance).get("/health").ends_with("ok\n"));
    gate.open();
    assert!(blocked.response().ends_with("hello"));
    waiting.send(b"\r\n");
    assert!(waiting.response().ends_with("hello"));
}

#[test]
fn four_lanes_are_inside_at_once_and_a_fifth_request_waits() {
    let gate = Arc::new(Gate::default());
    let _opened = Opened(&gate);
    let instance = Instance::new();
    let worker = instance.worker(&settings(), 4, gate.application());
    worker.promote();
    let mut clients: Vec<Client> = (0..5).map(|_| block(&instance)).collect();
    gate.wait_inside(4);
    assert_eq!(worker.reactor.lanes.inside(), 4);
    gate.open();
    for client in &mut clients {
        assert!(client.response().ends_with("hello"));
    }
}

#[test]
fn a_complete_request_behind_a_busy_lane_is_served_by_another_worker() {
    let gate = Arc::new(Gate::default());
    let _opened = Opened(&gate);
    let instance = Instance::new();
    let mut settings = settings();
    settings.workers = 2;
    let first = instance.worker(&settings, 1, gate.application());
    first.promote();
    // All connections belong to the first worker before there is a second.
    let mut clients: Vec<Client> = (0..20).map(|_| Client::connect(&instance)).collect();
    for client in &mut clients {
        assert!(client.get("/").ends_with("hello"));
    }
    let second = instance.worker(&settings, 1, hello());
    second.promote();
    let mut blocked = clients.pop().unwrap();
    blocked.send(b"GET /block HTTP/1.1\r\nHost: x\r\n\r\n");
    gate.wait_inside(1);
    for client in &mut clients {
        assert!(client.get("/").ends_with("hello"), "while the first worker's lane is inside");
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabcde");
        assert!(client.response().ends_with("hello"));
    }
    gate.open();
    assert!(blocked.response().ends_with("hello"));
    assert!(blocked.get("/").ends_with("hello"));
}

fn serves_all(clients: &mut [Client]) {
    for client in clients {
        assert!(client.get("/").ends_with("hello"));
    }
}

#[test]
fn a_worker_that_retires_hands_its_idle_connections_over_and_leaves() {
    let instance = Instance::new();
    let mut settings = settings();
    settings.workers = 2;
    let first = instance.worker(&settings, 1, hello());
    first.promote();
    let mut clients: Vec<Client> = (0..300).map(|_| Client::connect(&instance)).collect();
    serves_all(&mut clients);
    let mut worker = first;
    for _ in 0..5 {
        let next = instance.worker(&settings, 1, hello());
        next.promote();
        worker.retire(Duration::from_secs(20), true);
        worker.join();
        serves_all(&mut clients);
        worker = next;
    }
}

#[test]
fn a_worker_that_retires_alone_finishes_what_was_begun_and_closes_the_rest() {
    let gate = Arc::new(Gate::default());
    let _opened = Opened(&gate);
    let instance = Instance::new();
    let worker: Worker = instance.worker(&settings(), 1, gate.application());
    worker.promote();
    let mut idle = Client::connect(&instance);
    assert!(idle.get("/").ends_with("hello"));
    let mut blocked = block(&instance);
    gate.wait_inside(1);
    worker.retire(Duration::from_secs(20), false);
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut idle.0, &mut rest).unwrap();
    assert!(rest.is_empty(), "an idle connection is closed without a word");
    gate.open();
    let response = blocked.response();
    assert!(response.contains("Connection: close"), "{response}");
    worker.join();
}
