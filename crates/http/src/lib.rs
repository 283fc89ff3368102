//! HTTP/1.1 without I/O: bytes, orders and `now` in; events, bytes and a deadline out.
//!
//! The engine owns no socket, no buffer of received bytes, no clock and no thread. A driver gives it every byte that was
//! received and not yet consumed ([`Connection::handle_input`]), acts on the [`Step`] that comes back, gives orders for
//! the response ([`Connection::start_response`], [`Connection::frame_data`], [`Connection::end_response`]) and sends what
//! these append to its own buffer. Time is an argument; [`Connection::deadline`] says when to call
//! [`Connection::handle_timeout`].
//!
//! ```text
//! loop:  handle_input(..) -> Proxied | Skip      consume, again
//!                            Request             head is filled; when head.framing has a body, Data.. End follow
//!                            Data | End          consume
//!                            NeedMore            read more
//!                            Wait                the request is complete: the response's turn
//!                            Rejected(r)         reject(&r, date, out), send, close (lingering)
//!                            Closed              nothing more will be read
//!        start_response, frame_data.., end_response -> KeepAlive: handle_input again | Close
//! ```
//!
//! Strict where leniency lets two parties frame the same bytes differently, and every refusal is one [`Rule`] with an id
//! and the section that it comes from.
#![forbid(unsafe_code)]

mod chunked;
mod connection;
mod date;
mod head;
mod policy;
mod proxy;
mod response;
mod rules;
mod scan;
mod target;
mod trust;

pub use connection::{Connection, End, Eof, Expired, Step};
pub use date::{HttpDate, imf_fixdate};
pub use head::{Field, Framing, Head, Known, Method, Span, Version};
pub use policy::{HeaderMap, Policy, ProxyProtocol};
pub use proxy::ProxyHeader;
pub use response::{BodyFraming, Chunk, ResponseFault, Started, phrase, reason, write_error};
pub use rules::{Excerpt, Rejection, Rule};
pub use target::{percent_decode_into, valid_host};
pub use trust::{IpSet, IpSetError, Trust};
