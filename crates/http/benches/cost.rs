//! What the engine itself costs per request, in nanoseconds of one thread: `cargo bench -p rgunicorn-http`.
//!
//! Takes the best of many short rounds, which is what the code costs when the machine leaves it alone.
#![allow(missing_docs, clippy::unwrap_used)]

use rgunicorn_http::{Connection, End, Head, Policy, Step, Trust, imf_fixdate};
use std::hint::black_box;
use std::time::Instant;

const HELLO: &[u8] =
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nUser-Agent: wrk/4.2\r\nAccept: */*\r\nConnection: keep-alive\r\n\r\n";

fn browser() -> Vec<u8> {
    let mut head =
        b"GET /articles/2024/11/some-title?utm_source=feed&page=2 HTTP/1.1\r\nHost: www.example.com\r\n".to_vec();
    for number in 0..22 {
        head.extend_from_slice(
            format!("X-Forwarded-Thing-{number}: a value of a usual length, {number}\r\n").as_bytes(),
        );
    }
    head.extend_from_slice(
        b"Cookie: session=0123456789abcdef0123456789abcdef; csrftoken=fedcba\r\nAccept-Encoding: gzip, br\r\n\r\n",
    );
    head
}

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
    println!("{name:<44} {best:>8.0} ns");
}

fn main() {
    println!("Connection {} bytes, Head {} bytes", size_of::<Connection>(), size_of::<Head>());
    let policy = Policy::default();
    let now = Instant::now();
    let date = imf_fixdate(784_111_777);
    let (mut head, mut out) = (Head::default(), Vec::with_capacity(4096));
    let browser = browser();
    for (name, input, trust) in [
        ("4 fields: head alone", HELLO, Trust::default()),
        ("4 fields: head alone, trusted peer", HELLO, Trust { forwarded: true, proxy: false }),
        ("25 fields: head alone", &browser[..], Trust::default()),
    ] {
        measure(name, || {
            let mut connection = Connection::adopt(&policy, false, now);
            let step = connection.handle_input(&policy, trust, black_box(input), &mut head, now);
            assert!(matches!(step, Step::Request { consumed } if consumed == input.len()));
            black_box(&head);
        });
    }
    let mut connection = Connection::new(&policy, now);
    measure("4 fields: head, response of 3 fields, end", || {
        let step = connection.handle_input(&policy, Trust::default(), black_box(HELLO), &mut head, now);
        assert!(matches!(step, Step::Request { .. }));
        out.clear();
        let fields: [(&[u8], &[u8]); 2] = [(b"Content-Type", b"text/html; charset=utf-8"), (b"Content-Length", b"13")];
        connection.start_response(&policy, b"200 OK", fields, None, &date, &mut out).unwrap();
        connection.append_data(b"Hello, world!", &mut out);
        assert_eq!(connection.end_response(&policy, now, &mut out), End::KeepAlive);
        black_box(&out);
    });
    let chunked = {
        let mut body = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for _ in 0..100 {
            body.extend_from_slice(b"400\r\n");
            body.extend_from_slice(&[b'x'; 1024]);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"0\r\n\r\n");
        body
    };
    measure("100 chunks of 1 KiB, decoded", || {
        let mut connection = Connection::adopt(&policy, false, now);
        let mut at = 0;
        loop {
            match connection.handle_input(&policy, Trust::default(), &chunked[at..], &mut head, now) {
                Step::Request { consumed } | Step::Data { consumed, .. } | Step::Skip { consumed } => at += consumed,
                Step::End { .. } => break,
                other => unreachable!("{other:?}"),
            }
        }
    });
}
