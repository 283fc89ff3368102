//! The one line that `systemctl status` shows.
//!
//! Owns the wording of STATUS; derived from the state alone, so it is never stale. Knows no systemd.

use super::decide::{Life, Manner, State};
use super::generation::Generation;
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
                    Manner::Graceful => format!("Stopping: {} finish what they have begun", counted(leaving, "worker")),
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
            let (have, want) = (serving.counts().serving, serving.slots.len());
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
        if let Some(incoming) = self.incoming() {
            parts.push(boots(incoming));
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
