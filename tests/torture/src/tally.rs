//! What a run has counted, and its latencies.
//!
//! **What a loss is.** A connect that failed, or a request that was sent whole on an open connection, without a complete
//! and right answer. A connection that the server closes while no byte of a next request has been sent is no loss
//! (RFC 9112 section 9.3). One that ends after the request was sent, without a byte of an answer, on a connection that
//! was used before, is a loss that a careful client may repair (section 9.3.1): `raced`, counted apart. Both are to be 0.
//! Losses shortly after the driver has announced that it kills a worker are that worker's: `killed`.

use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long after a kill losses are the killed worker's: what it takes the kernel to end the process, and this client to
/// find out, on a machine that is busy.
const KILL_WINDOW: Duration = Duration::from_millis(1000);
/// How long after an event latencies count as being during it.
const EVENT_WINDOW: Duration = Duration::from_secs(1);
/// Losses that are described one by one.
const DESCRIBED: usize = 40;

/// How a request or a connect was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Loss {
    /// connect(2) failed.
    Connect,
    /// The connection ended by FIN before the whole answer.
    Ended,
    /// The connection was reset before the whole answer.
    Reset,
    /// As these two, on a connection that was used before, without a byte of the answer.
    Raced,
    /// The connection ended while the request was being sent.
    CutOff,
    /// No answer within the patience.
    Unanswered,
    /// An answer to another request.
    MixedUp,
    /// An answer where none was asked for, or a second one.
    Duplicated,
    /// An answer with another status than 200, or that is not as expected.
    Wrong,
}

/// Latencies in milliseconds.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Latency {
    p50: f64,
    p99: f64,
    worst: f64,
}

/// See the module. Serializes as the result.
#[derive(Debug, Serialize)]
pub(crate) struct Tally {
    #[serde(skip)]
    begun: Instant,
    #[serde(skip)]
    late_after: Duration,
    #[serde(skip)]
    events: Vec<(String, Instant)>,
    #[serde(skip)]
    latencies: Vec<(Instant, Duration)>,
    seconds: f64,
    /// Right answers.
    pub(crate) answered: u64,
    pub(crate) connections: u64,
    /// Connections that the server closed while they were idle.
    pub(crate) closed_idle: u64,
    /// Pipelined requests behind an answer that announced the end of the connection; sent again.
    pub(crate) sent_again: u64,
    /// Right answers that took longer than they may.
    late: u64,
    lost: BTreeMap<Loss, u64>,
    lost_in_all: u64,
    /// Losses in workers that were killed on purpose.
    killed: BTreeMap<Loss, u64>,
    latency_ms: Latency,
    worst_ms_during: BTreeMap<String, f64>,
    losses: Vec<String>,
}

impl Tally {
    pub(crate) fn new(late_after: Duration) -> Tally {
        Tally {
            begun: Instant::now(),
            late_after,
            events: Vec::new(),
            latencies: Vec::new(),
            seconds: 0.0,
            answered: 0,
            connections: 0,
            closed_idle: 0,
            sent_again: 0,
            late: 0,
            lost: BTreeMap::new(),
            lost_in_all: 0,
            killed: BTreeMap::new(),
            latency_ms: Latency::default(),
            worst_ms_during: BTreeMap::new(),
            losses: Vec::new(),
        }
    }

    /// The driver has announced an event.
    pub(crate) fn event(&mut self, name: &str) {
        self.events.push((name.to_owned(), Instant::now()));
    }

    /// A right answer to a request that was complete at `sent`.
    pub(crate) fn answer(&mut self, sent: Instant, now: Instant) {
        let took = now.saturating_duration_since(sent);
        self.answered += 1;
        self.late += u64::from(took > self.late_after);
        self.latencies.push((sent, took));
    }

    pub(crate) fn loss(&mut self, loss: Loss, what: &str) {
        let killed = self.events.iter().rev().find(|(name, _)| name == "kill").map(|(_, at)| at.elapsed());
        let excused = matches!(loss, Loss::Ended | Loss::Reset | Loss::Raced | Loss::CutOff)
            && killed.is_some_and(|age| age < KILL_WINDOW);
        if excused {
            *self.killed.entry(loss).or_default() += 1;
            return;
        }
        *self.lost.entry(loss).or_default() += 1;
        self.lost_in_all += 1;
        if self.losses.len() < DESCRIBED {
            let last = self.events.last();
            let after = last.map(|(name, at)| format!(", {:.3} s after {name}", at.elapsed().as_secs_f64()));
            let at = self.begun.elapsed().as_secs_f64();
            self.losses.push(format!("{at:.3} s{}: {loss:?}: {what}", after.unwrap_or_default()));
        }
    }

    /// Computes what is only known at the end.
    pub(crate) fn finish(&mut self) {
        let milliseconds = |took: Duration| took.as_secs_f64() * 1000.0;
        self.seconds = self.begun.elapsed().as_secs_f64();
        for (name, at) in &self.events {
            let during = self.latencies.iter().filter(|(sent, took)| *sent < *at + EVENT_WINDOW && *sent + *took > *at);
            let worst = milliseconds(during.map(|(_, took)| *took).max().unwrap_or_default());
            let entry = self.worst_ms_during.entry(name.clone()).or_default();
            *entry = entry.max(worst);
        }
        let mut all: Vec<Duration> = self.latencies.iter().map(|(_, took)| *took).collect();
        all.sort_unstable();
        let at =
            |share: f64| all.get((all.len() as f64 * share) as usize).copied().map(milliseconds).unwrap_or_default();
        self.latency_ms =
            Latency { p50: at(0.5), p99: at(0.99), worst: all.last().copied().map(milliseconds).unwrap_or_default() };
    }
}
