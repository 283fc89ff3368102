//! The daemon's front door: an exit-code adapter around `run`.
fn main() {}
