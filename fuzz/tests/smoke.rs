//! A short run of every target, and a long one by request: `RGUNICORN_FUZZ_SECONDS=600 cargo test --release -p
//! rgunicorn-fuzz`. `RGUNICORN_FUZZ_SEED` repeats a run.
#![allow(missing_docs, clippy::unwrap_used)]

use rgunicorn_fuzz::explore::explore;
use rgunicorn_fuzz::targets::TARGETS;
use std::time::Duration;

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

#[test]
fn no_target_is_broken_by_a_short_run() {
    let seconds = number("RGUNICORN_FUZZ_SECONDS", 1);
    let seed = number("RGUNICORN_FUZZ_SEED", u64::from(std::process::id()) << 20 | 1);
    println!("RGUNICORN_FUZZ_SEED={seed}");
    std::thread::scope(|scope| {
        for target in TARGETS {
            scope.spawn(move || {
                let runs = explore(target, seed, Duration::from_secs(seconds)).unwrap();
                println!("{}: {runs} inputs", target.name);
            });
        }
    });
}
