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
/// How long after an event latencies count as being during it, if nobody says that it is over; and how long after that.
const EVENT_WINDOW: Duration = Duration::from_secs(1);
const AFTERMATH: Duration = Duration::from_millis(250);
/// Steps of a histogram for each power of two: a percentile is at most a sixteenth too high.
const STEPS: u32 = 16;
/// Losses that are described one by one.
const DESCRIBED: usize = 40;
/// Answers that are described as the slowest.
const SLOWEST: usize = 8;

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

/// How often which latency was: millions of them in a few kB.
#[derive(Debug, Default)]
struct Histogram {
    counts: BTreeMap<u32, u64>,
    worst: Duration,
}

impl Histogram {
    fn add(&mut self, took: Duration) {
        let micros = (took.as_micros() as u64).max(1);
        let power = micros.ilog2();
        let step = if power < 4 { 0 } else { ((micros >> (power - 4)) - 16) as u32 };
        *self.counts.entry(power * STEPS + step).or_default() += 1;
        self.worst = self.worst.max(took);
    }

    fn quantile(&self, share: f64) -> f64 {
        let wanted = (self.counts.values().sum::<u64>() as f64 * share) as u64;
        let mut seen = 0;
        let bucket = self.counts.iter().find(|(_, count)| {
            seen += **count;
            seen > wanted
        });
        let end = |bucket: u32| 2_f64.powi((bucket / STEPS) as i32) * (1.0 + f64::from(bucket % STEPS + 1) / 16.0);
        bucket.map_or(0.0, |(bucket, _)| end(*bucket) / 1000.0).min(self.worst.as_secs_f64() * 1000.0)
    }

    fn latency(&self) -> Latency {
        Latency { p50: self.quantile(0.5), p99: self.quantile(0.99), worst: self.worst.as_secs_f64() * 1000.0 }
    }
}

/// What the driver has announced.
#[derive(Debug)]
struct Event {
    name: String,
    begun: Instant,
    /// Until when latencies are put down to it.
    until: Instant,
}

/// See the module. Serializes as the result.
#[derive(Debug, Serialize)]
pub(crate) struct Tally {
    #[serde(skip)]
    begun: Instant,
    #[serde(skip)]
    late_after: Duration,
    #[serde(skip)]
    events: Vec<Event>,
    #[serde(skip)]
    all: Histogram,
    /// By the names of events; `quiet`: no event was near.
    #[serde(skip)]
    during: BTreeMap<String, Histogram>,
    seconds: f64,
    answered_per_second: f64,
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
    latency_ms_during: BTreeMap<String, Latency>,
    losses: Vec<String>,
    /// The slowest answers in ms, and what they were.
    slowest: Vec<(f64, String)>,
}

impl Tally {
    pub(crate) fn new(late_after: Duration) -> Tally {
        Tally {
            begun: Instant::now(),
            late_after,
            events: Vec::new(),
            all: Histogram::default(),
            during: BTreeMap::new(),
            seconds: 0.0,
            answered_per_second: 0.0,
            answered: 0,
            connections: 0,
            closed_idle: 0,
            sent_again: 0,
            late: 0,
            lost: BTreeMap::new(),
            lost_in_all: 0,
            killed: BTreeMap::new(),
            latency_ms: Latency::default(),
            latency_ms_during: BTreeMap::new(),
            losses: Vec::new(),
            slowest: Vec::new(),
        }
    }

    /// The driver has announced an event.
    pub(crate) fn event(&mut self, name: &str) {
        let begun = Instant::now();
        self.events.push(Event { name: name.to_owned(), begun, until: begun + EVENT_WINDOW });
    }

    /// The latest event of this name has ended.
    pub(crate) fn event_over(&mut self, name: &str) {
        if let Some(event) = self.events.iter_mut().rev().find(|event| event.name == name) {
            event.until = Instant::now() + AFTERMATH;
        }
    }

    /// A right answer to a request that was complete at `sent`. `what` describes it, should it be among the slowest.
    pub(crate) fn answer(&mut self, sent: Instant, now: Instant, what: impl FnOnce() -> String) {
        let took = now.saturating_duration_since(sent);
        self.answered += 1;
        self.late += u64::from(took > self.late_after);
        self.all.add(took);
        let milliseconds = took.as_secs_f64() * 1000.0;
        if self.slowest.len() < SLOWEST || self.slowest.last().is_some_and(|(least, _)| *least < milliseconds) {
            let at = sent.saturating_duration_since(self.begun).as_secs_f64();
            let place = self.slowest.partition_point(|(other, _)| *other >= milliseconds);
            self.slowest.insert(place, (milliseconds, format!("{at:.3} s: {}", what())));
            self.slowest.truncate(SLOWEST);
        }
        // An event lasts at most a minute, so older ones need not be looked at.
        let recent = self.events.iter().rev().take_while(|event| event.begun + Duration::from_secs(60) > sent);
        let mut names: Vec<&str> =
            recent.filter(|event| event.begun < now && event.until > sent).map(|event| event.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() {
            names.push("quiet");
        }
        for name in names {
            match self.during.get_mut(name) {
                Some(histogram) => histogram.add(took),
                None => self.during.entry(name.to_owned()).or_default().add(took),
            }
        }
    }

    pub(crate) fn loss(&mut self, loss: Loss, what: &str) {
        let killed = self.events.iter().rev().find(|event| event.name == "kill").map(|event| event.begun.elapsed());
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
            let after =
                last.map(|event| format!(", {:.3} s after {}", event.begun.elapsed().as_secs_f64(), event.name));
            let at = self.begun.elapsed().as_secs_f64();
            self.losses.push(format!("{at:.3} s{}: {loss:?}: {what}", after.unwrap_or_default()));
        }
    }

    /// Computes what is only known at the end.
    pub(crate) fn finish(&mut self) {
        self.seconds = self.begun.elapsed().as_secs_f64();
        self.answered_per_second = self.answered as f64 / self.seconds;
        self.latency_ms = self.all.latency();
        self.latency_ms_during = self.during.iter().map(|(name, times)| (name.clone(), times.latency())).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_at_most_a_sixteenth_too_high() {
        let mut histogram = Histogram::default();
        for micros in 1..=100_000 {
            histogram.add(Duration::from_micros(micros));
        }
        let Latency { p50, p99, worst } = histogram.latency();
        assert!((50.0..50.0 * 17.0 / 16.0).contains(&p50), "{p50}");
        assert!((99.0..=100.0).contains(&p99), "{p99}");
        assert!((worst - 100.0).abs() < 1e-9, "{worst}");
    }
}
