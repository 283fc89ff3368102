//! WebSocket (RFC 6455) without I/O: the handshake's rules, frames and closing.
//!
//! [`Offer::of`] judges a request that asks for a WebSocket; [`Session`] is the protocol behind the handshake: bytes in,
//! messages out, and the other way round. Frames, masks and UTF-8 are tungstenite's; owned here are the rules of a frame's
//! header, which close code answers which fault, what limits apply, and that bytes come and go without a socket. No
//! socket, no clock, no Python. No extension is spoken: tungstenite has no permessage-deflate (RFC 7692).
#![forbid(unsafe_code)]

mod handshake;
mod headers;
mod session;

pub use handshake::{Offer, Refusal, is_offered};
pub use session::{Closed, Event, Limits, SendFault, Session};

/// Close codes that the server gives by itself (RFC 6455 section 7.4.1 and the IANA registry).
pub mod code {
    /// The purpose is fulfilled.
    pub const NORMAL: u16 = 1000;
    /// The client broke the protocol.
    pub const PROTOCOL: u16 = 1002;
    /// For the application only: the client gave no code.
    pub const NONE: u16 = 1005;
    /// For the application only: the connection ended without a close frame.
    pub const ABNORMAL: u16 = 1006;
    /// A text that is not UTF-8.
    pub const INVALID: u16 = 1007;
    /// A message above the limit.
    pub const TOO_BIG: u16 = 1009;
    /// The application failed.
    pub const FAULT: u16 = 1011;
    /// The server restarts: come again.
    pub const RESTART: u16 = 1012;
}
