//! What the engine's own tests are made of: the targets hold the engine against the same second decoder.

#[path = "../../crates/http/tests/wire/agree.rs"]
pub(crate) mod agree;
#[path = "../../crates/http/tests/wire/drive.rs"]
pub(crate) mod drive;
#[path = "../../crates/http/tests/wire/play.rs"]
pub(crate) mod play;
#[path = "../../crates/http/tests/wire/strict.rs"]
pub(crate) mod strict;
#[path = "../../crates/http/tests/wire/text.rs"]
pub(crate) mod text;
