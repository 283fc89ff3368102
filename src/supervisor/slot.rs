//! A slot: a numbered place for a worker, which outlives the workers that hold it.
//!
//! Owns who holds the place and who is about to. Knows no process beyond its serial. Invariant: at most one incumbent
//! and one replacement; the incumbent leaves only once the replacement serves.

use super::event::Serial;
use serde::{Deserialize, Serialize};

/// A place for a worker within one generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Slot {
    /// From 1.
    pub(crate) number: u32,
    /// The worker that holds the place, booting or serving.
    pub(crate) incumbent: Option<Serial>,
    /// The worker that boots to replace an incumbent which goes on serving meanwhile.
    pub(crate) replacement: Option<Serial>,
    /// Why the incumbent wants to be replaced, if it does.
    pub(crate) recycle: Option<String>,
    /// Another generation has the place (decide/rolling.rs): nobody is started for it here.
    #[serde(default)]
    pub(crate) foreign: bool,
}

impl Slot {
    pub(crate) fn new(number: u32) -> Slot {
        Slot { number, incumbent: None, replacement: None, recycle: None, foreign: false }
    }

    /// Nobody holds it and nobody is about to.
    pub(crate) fn vacant(&self) -> bool {
        self.incumbent.is_none() && self.replacement.is_none()
    }

    /// Takes the worker off its place. A replacement whose incumbent is gone becomes the incumbent.
    pub(crate) fn vacate(&mut self, worker: Serial) {
        if self.replacement == Some(worker) {
            self.replacement = None;
        }
        if self.incumbent == Some(worker) {
            self.incumbent = self.replacement.take();
            self.recycle = None;
        }
    }

    /// Puts the replacement in place; returns the worker that must leave.
    pub(crate) fn succeed(&mut self) -> Option<Serial> {
        let replacement = self.replacement.take()?;
        self.recycle = None;
        self.incumbent.replace(replacement)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replacement_takes_the_place_when_it_is_put_there_or_when_the_incumbent_is_gone() {
        let after = Slot { incumbent: Some(Serial(2)), ..Slot::new(1) };
        let both = Slot {
            incumbent: Some(Serial(1)),
            replacement: Some(Serial(2)),
            recycle: Some("x".into()),
            ..Slot::new(1)
        };

        let mut slot = both.clone();
        assert_eq!(slot.succeed(), Some(Serial(1)));
        assert_eq!(slot, after);

        let mut slot = both.clone();
        slot.vacate(Serial(1));
        assert_eq!(slot, after);

        let mut slot = both;
        slot.vacate(Serial(2));
        assert_eq!(slot.incumbent, Some(Serial(1)));
        assert!(slot.recycle.is_some(), "the wish stays until it is fulfilled");
    }
}
