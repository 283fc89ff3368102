//! Fuzz targets and two ways to run them: a loop that needs nothing (`explore`, used by `cargo test`), and libFuzzer,
//! which watches the coverage (`fuzz/run`). Both are at home on the stable toolchain.
//!
//! A target takes bytes and panics when its invariant does not hold.

pub mod corpus;
pub mod explore;
pub mod targets;

#[allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]
mod wire;
