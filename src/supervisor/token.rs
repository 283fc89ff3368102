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
    /// Somebody has printed something: a worker, or with 0 a mold.
    Output(Serial),
}

impl Token {
    pub(super) fn to_u64(self) -> u64 {
        match self {
            Token::Signals => 0,
            Token::Output(Serial(serial)) => serial << 3 | 4,
            Token::Channel(Serial(serial)) => serial << 2 | 1,
            Token::Process(Serial(serial)) => serial << 2 | 2,
            Token::Control(client) => client << 2 | 3,
        }
    }

    pub(super) fn from_u64(data: u64) -> Option<Token> {
        match data & 3 {
            0 => match data {
                0 => Some(Token::Signals),
                _ => (data & 4 != 0).then_some(Token::Output(Serial(data >> 3))),
            },
            1 => Some(Token::Channel(Serial(data >> 2))),
            2 => Some(Token::Process(Serial(data >> 2))),
            _ => Some(Token::Control(data >> 2)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_comes_back_as_it_went_in() {
        for number in [0, 1, 2, 7, 1 << 40] {
            let serial = Serial(number);
            for token in [Token::Channel(serial), Token::Process(serial), Token::Control(number), Token::Output(serial)]
            {
                assert_eq!(Token::from_u64(token.to_u64()), Some(token));
            }
        }
        assert_eq!(Token::from_u64(Token::Signals.to_u64()), Some(Token::Signals));
    }
}
