//! Names for connections: a place in the table and the generation of that place.
//!
//! A token outlives its connection: an event that was fetched before the connection closed must not reach the one that
//! took its place. So the generation changes whenever a place is emptied.

/// Names one connection for as long as it lives, and nothing after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Token {
    /// Place in the table.
    pub(crate) index: u32,
    /// Generation of the place.
    pub(crate) generation: u32,
}

/// What an epoll event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Connection(Token),
    Listener(u32),
    Handoff,
    Channel,
    Kick,
}

/// The generation under which the sources that are no connection are encoded; a place never has it.
pub(crate) const RESERVED: u32 = u32::MAX;

impl Source {
    /// As `epoll_event.u64`.
    pub(crate) fn encode(self) -> u64 {
        let (generation, index) = match self {
            Source::Connection(token) => (token.generation, token.index),
            Source::Listener(n) => (RESERVED, n),
            Source::Handoff => (RESERVED, u32::MAX),
            Source::Channel => (RESERVED, u32::MAX - 1),
            Source::Kick => (RESERVED, u32::MAX - 2),
        };
        u64::from(generation) << 32 | u64::from(index)
    }

    /// The reverse of [`Source::encode`].
    pub(crate) fn decode(data: u64) -> Source {
        let index = (data & u64::from(u32::MAX)) as u32;
        let generation = (data >> 32) as u32;
        if generation != RESERVED {
            return Source::Connection(Token { index, generation });
        }
        match index {
            u32::MAX => Source::Handoff,
            n if n == u32::MAX - 1 => Source::Channel,
            n if n == u32::MAX - 2 => Source::Kick,
            n => Source::Listener(n),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_survives_the_kernel() {
        for source in [
            Source::Connection(Token { index: 0, generation: 0 }),
            Source::Connection(Token { index: u32::MAX, generation: 7 }),
            Source::Listener(3),
            Source::Handoff,
            Source::Channel,
            Source::Kick,
        ] {
            assert_eq!(Source::decode(source.encode()), source);
        }
    }
}
