//! The Python extension that the application's own interpreter loads: mold, workers, bridges, drivers.
//!
//! Built against the stable ABI of CPython 3.10 and without libpython, so that one file serves every interpreter.

mod application;
mod bridge;
mod drivers;
mod fork;
mod identity;
mod mold;
mod offspring;
mod output;
mod reload_check;
mod signals;
mod stacks;
mod worker;

/// Loaded by `python/bootstrap.py` only.
#[pyo3::pymodule]
mod rgunicorn_worker {
    #[pymodule_export]
    use crate::mold::run;
}
