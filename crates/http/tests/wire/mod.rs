//! What the engine's tests share: transcripts (`text`, `play`; the format is described in `tests/transcripts/README.md`),
//! a driver that answers everything (`drive`), a second decoder (`strict`) and a generator of streams (`streams`), and the
//! invariants themselves (`agree`).

pub(crate) mod agree;
pub(crate) mod drive;
pub(crate) mod play;
pub(crate) mod streams;
pub(crate) mod strict;
pub(crate) mod text;
