//! What the scoreboard costs a request, in nanoseconds of one thread: `cargo bench -p rgunicorn-protocol`.
//!
//! Takes the best of many short rounds, which is what the code costs when the machine leaves it alone. The clock is not
//! in it: the reactor reads it for its own ends.
#![allow(missing_docs, clippy::unwrap_used)]

use rgunicorn_protocol::scoreboard::{Counter, Owner, Scoreboard, Sheet, monotonic_coarse_us, monotonic_us};
use std::hint::black_box;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

fn measure(name: &str, mut once: impl FnMut()) {
    const PER_ROUND: u32 = 1000;
    let mut best = f64::INFINITY;
    for _ in 0..400 {
        let start = Instant::now();
        for _ in 0..PER_ROUND {
            once();
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(PER_ROUND));
    }
    println!("{name:<60} {best:>8.1} ns");
}

fn main() {
    let mut board = Scoreboard::create().unwrap();
    let issued = board.issue(4, Owner { worker: 1, generation: 1, slot: 1 }).unwrap();
    let sheet = Sheet::open(board.as_fd(), issued.at()).unwrap();
    let lane = sheet.lane(0).unwrap();
    let now = Instant::now();
    let path = b"/articles/2024/11/some-title?utm_source=feed&page=2";
    let id = b"4bf92f3577b34da6a3ce929d0e0e4736";
    measure("a request: begin, progress, record, end", || {
        lane.begin(sheet.microseconds(black_box(now)), black_box(b"GET"), black_box(path), black_box(id));
        lane.progress(black_box(7));
        sheet.record(black_box(now), black_box(200), black_box(11), Duration::from_micros(100), Duration::ZERO);
        lane.end();
    });
    measure("the same of a request without an id", || {
        lane.begin(sheet.microseconds(black_box(now)), black_box(b"GET"), black_box(path), black_box(b""));
        lane.progress(black_box(7));
        sheet.record(black_box(now), black_box(200), black_box(11), Duration::from_micros(100), Duration::ZERO);
        lane.end();
    });
    measure("a connection: accepted, closed", || {
        sheet.count(black_box(Counter::Accepted));
        sheet.count(black_box(Counter::Closed));
    });
    measure("the coarse clock, once a write", || {
        black_box(monotonic_coarse_us());
    });
    measure("the clock, for comparison", || {
        black_box(monotonic_us());
    });
    lane.begin(1, b"GET", path, id);
    measure("a glance of the standby", || {
        black_box(lane.glance());
    });
}
