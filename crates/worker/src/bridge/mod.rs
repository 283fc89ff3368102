//! The bridges: where Python is let in. What is behind them (reactor, engine) are Rust types.
//!
//! A bridge turns an [`rgunicorn_reactor::Exchange`] into calls of the application and the application's answers into
//! orders to the exchange. It contains no HTTP rule and waits for nothing itself: a driver gives it requests.

pub(crate) mod asgi;
mod direct;
pub(crate) mod wsgi;

pub(crate) use direct::references;
pub(crate) use wsgi::lane::Lane;
