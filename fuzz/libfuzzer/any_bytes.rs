//! `any_bytes` for libFuzzer; see `src/targets.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rgunicorn_fuzz::targets::any_bytes(data));
