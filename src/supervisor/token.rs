//! What a ready fd means: the epoll data of the arbiter's only loop.
//!
//! Owns the encoding into the 64 bits that epoll(7) carries. Knows no fd. Invariant: every token comes back as it went in.

use super::event::Serial;
use crate::control::ClientId;

/// What a ready fd means; the epoll data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Signals,
    Channel(Serial),
    Process(Serial),
    /// A client of the control socket, or with 0 the socket.
    Control(ClientId),
    /// Somebody has printed something.
    Output,
}

impl Token {
    pub(super) fn to_u64(self) -> u64 {
        match self {
            Token::Signals => 0,
            Token::Output => 4,
            Token::Channel(Serial(serial)) => serial << 2 | 1,
            Token::Process(Serial(serial)) => serial << 2 | 2,
            Token::Control(client) => client << 2 | 3,
        }
    }

    pub(super) fn from_u64(data: u64) -> Option<Token> {
        match data & 3 {
            0 => match data {
                0 => Some(Token::Signals),
                4 => Some(Token::Output),
                _ => None,
            },
            1 => Some(Token::Channel(Serial(data >> 2))),
            2 => Some(Token::Process(Serial(data >> 2))),
            _ => Some(Token::Control(data >> 2)),
        }
    }
}
