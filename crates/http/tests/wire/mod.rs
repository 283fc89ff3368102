//! Transcripts: a conversation with the engine as text, and what plays it. The format is described in
//! `tests/transcripts/README.md`.

pub(crate) mod play;
pub(crate) mod text;
