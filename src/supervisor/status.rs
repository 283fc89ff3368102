//! The one line that `systemctl status` shows.
//!
//! Owns the wording of STATUS; derived from the state alone, so it is never stale. Knows no systemd.

use super::decide::{Life, Manner, State};
use super::generation::{Generation, Role};
use super::record::counted;

impl State {
    /// What the instance is doing, for its operator.
    pub(crate) fn status(&self) -> String {
        match &self.life {
            Life::Starting => match self.incoming() {
                Some(incoming) => boots(incoming),
                None => "Starting".into(),
            },
            Life::Serving => self.status_of_service(),
            Life::Stopping { .. } | Life::Over if self.start_failure.is_some() => {
                format!("Could not start: {}", self.start_failure.as_deref().unwrap_or_default())
            }
            Life::Stopping { manner, .. } => {
                let leaving: usize = self.generations.iter().map(|generation| generation.counts().leaving).sum();
                match manner {
                    Manner::Graceful if leaving == 1 => "Stopping: 1 worker finishes what it has begun".into(),
                    Manner::Graceful => format!("Stopping: {leaving} workers finish what they have begun"),
                    Manner::Quick => "Stopping".into(),
                }
            }
            Life::Over => "Stopped".into(),
        }
    }

    fn status_of_service(&self) -> String {
        let mut parts = Vec::new();
        let failure = self.reload_failure.as_ref();
        parts.extend(failure.map(|reason| format!("Reload failed: {reason}")));
        if let Some(serving) = self.serving() {
            let own = serving.slots.iter().filter(|slot| !slot.foreign).count();
            let (have, want) = (serving.counts().serving, own);
            let workers = if have == want { counted(have, "worker") } else { format!("{have} of {want} workers") };
            let begin = if failure.is_some() { "generation" } else { "Generation" };
            let still = if failure.is_some() { "still " } else { "" };
            parts.push(format!("{begin} {} {still}serves with {workers}", serving.number));
            if have < want
                && let Some((failures, reason)) = serving.backoff.trouble()
            {
                parts.push(format!("{failures} failures in a row, tried again with growing delay: {reason}"));
            }
        }
        for receding in self.generations.iter().filter(|generation| generation.role == Role::Receding) {
            let left = receding.served().count();
            let (verb, them) = if left == 1 { ("serves", "its place is") } else { ("serve", "their places are") };
            parts.push(format!(
                "{} of generation {} {verb} until {them} taken back",
                counted(left, "worker"),
                receding.number
            ));
        }
        match self.incoming() {
            Some(incoming) if incoming.rolls() => parts.push(format!(
                "generation {} takes over, {} of {} so far",
                incoming.number,
                incoming.served().count(),
                counted(incoming.slots.len(), "worker")
            )),
            Some(incoming) => parts.push(boots(incoming)),
            None => {}
        }
        parts.join("; ")
    }
}

fn boots(generation: &Generation) -> String {
    let want = generation.slots.len();
    format!(
        "generation {} boots, {} of {} ready",
        generation.number,
        generation.counts().ready,
        counted(want, "worker")
    )
}
