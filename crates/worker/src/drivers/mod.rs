//! Where application code runs: one driver per kind of lane. No HTTP rule is in here.

pub(crate) mod threads;
