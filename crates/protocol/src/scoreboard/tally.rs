//! Counters and histograms: the shared ones that workers add to, and copies of them to calculate with.
//!
//! Knows no process. Invariant: adding is one atomic operation without a branch that could fail; what another process
//! wrote is only ever added and divided here, so nonsense gives nonsense and never a panic.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a worker counts. The number is the place in the shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// Final responses with status 1xx: connections that became something else (101).
    Responses1xx,
    /// Responses of the application, or made in its place, with status 2xx.
    Responses2xx,
    /// The same with 3xx.
    Responses3xx,
    /// The same with 4xx.
    Responses4xx,
    /// The same with 5xx.
    Responses5xx,
    /// Requests that were given to the application and got no response: their connection was closed.
    Unanswered,
    /// Bytes of response bodies, without framing.
    BodyBytes,
    /// Connections accepted from listeners.
    Accepted,
    /// Connections taken over from other workers.
    TakenOver,
    /// Connections given to other workers.
    HandedOver,
    /// Connections ended.
    Closed,
    /// Requests refused because they break HTTP or a limit, or came too slowly. The application never saw them.
    Rejected,
    /// Requests answered with 503 because no lane was free within `queue_timeout`.
    QueueTimeouts,
    /// Requests ended by `timeout`.
    Timeouts,
    /// Responses given up because the client read nothing for `send_timeout`.
    SendTimeouts,
    /// Request bodies refused because of `spool_limit` or the disk.
    SpoolRefusals,
}

/// Room for counters, so that a new one does not change the layout.
pub const COUNTERS: usize = 24;

impl Counter {
    /// The class of a status; 0 and other nonsense: unanswered.
    pub fn of_status(status: u16) -> Counter {
        match status / 100 {
            1 => Counter::Responses1xx,
            2 => Counter::Responses2xx,
            3 => Counter::Responses3xx,
            4 => Counter::Responses4xx,
            5 => Counter::Responses5xx,
            _ => Counter::Unanswered,
        }
    }
}

/// Buckets of a histogram: four for each power of two up to 2^36 microseconds (19 hours). Within a bucket a value is
/// known to a quarter of itself at worst.
pub const BUCKETS: usize = 140;

/// The bucket of a value.
fn bucket(value: u64) -> usize {
    if value < 4 {
        return value as usize;
    }
    let exponent = 63 - value.leading_zeros();
    let quarter = (value >> (exponent - 2)) & 3;
    ((exponent as usize - 1) * 4 + quarter as usize).min(BUCKETS - 1)
}

/// The smallest value of a bucket.
fn floor(bucket: usize) -> u64 {
    if bucket < 4 {
        return bucket as u64;
    }
    let exponent = bucket / 4 + 1;
    (4 + (bucket % 4) as u64) << (exponent - 2)
}

/// What a worker adds to, and the arbiter's sum over all workers that are gone.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct SharedTally {
    counters: [AtomicU64; COUNTERS],
    latency: [AtomicU64; BUCKETS],
    queue: [AtomicU64; BUCKETS],
}

impl SharedTally {
    pub(super) fn add(&self, counter: Counter, n: u64) {
        self.counters[counter as usize].fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn record(&self, latency: u64, queue: u64) {
        self.latency[bucket(latency)].fetch_add(1, Ordering::Relaxed);
        self.queue[bucket(queue)].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Tally {
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        Tally {
            counters: std::array::from_fn(|n| load(&self.counters[n])),
            latency: Histogram(std::array::from_fn(|n| load(&self.latency[n]))),
            queue: Histogram(std::array::from_fn(|n| load(&self.queue[n]))),
        }
    }

    /// Adds another one's figures, all of them.
    pub(super) fn carry(&self, other: &Tally) {
        let groups = [
            (&self.counters[..], &other.counters[..]),
            (&self.latency, &other.latency.0),
            (&self.queue, &other.queue.0),
        ];
        for (mine, theirs) in groups {
            for (sum, n) in mine.iter().zip(theirs) {
                // The arbiter is the only writer of what it carries to.
                sum.store(sum.load(Ordering::Relaxed).saturating_add(*n), Ordering::Relaxed);
            }
        }
    }
}

/// A copy of a worker's figures, or a sum of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    counters: [u64; COUNTERS],
    /// Microseconds from the entry into a lane to the end of the response.
    pub latency: Histogram,
    /// Microseconds from the complete request to a lane's entry.
    pub queue: Histogram,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally { counters: [0; COUNTERS], latency: Histogram::default(), queue: Histogram::default() }
    }
}

impl Tally {
    /// The value of one counter.
    pub fn get(&self, counter: Counter) -> u64 {
        self.counters[counter as usize]
    }

    /// Requests that the application was called for and that are over.
    pub fn requests(&self) -> u64 {
        self.latency.count()
    }

    /// Connections that are open now. Counted at different moments, so it may be off by one or two under load.
    pub fn connections(&self) -> u64 {
        let came = self.get(Counter::Accepted).saturating_add(self.get(Counter::TakenOver));
        came.saturating_sub(self.get(Counter::HandedOver)).saturating_sub(self.get(Counter::Closed))
    }

    /// Adds another one's figures.
    pub fn add(&mut self, other: &Tally) {
        for (sum, n) in self.counters.iter_mut().zip(&other.counters) {
            *sum = sum.saturating_add(*n);
        }
        self.latency.add(&other.latency);
        self.queue.add(&other.queue);
    }
}

/// How many values fell into each bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram([u64; BUCKETS]);

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram([0; BUCKETS])
    }
}

impl Histogram {
    /// Values in all.
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// Adds one value.
    pub fn record(&mut self, value: u64) {
        let place = &mut self.0[bucket(value)];
        *place = place.saturating_add(1);
    }

    /// The value below which a share of all values lies, `share` from 0 to 1; interpolated within its bucket. `None`:
    /// there are none.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let mut wanted = share.clamp(0.0, 1.0) * count as f64;
        for (at, n) in self.0.iter().enumerate().filter(|(_, n)| **n > 0) {
            if wanted <= *n as f64 {
                let (low, high) = (floor(at), floor(at + 1));
                return Some(low + ((high - low) as f64 * wanted / *n as f64) as u64);
            }
            wanted -= *n as f64;
        }
        // Only rounding leads here.
        self.0.iter().rposition(|n| *n > 0).map(|at| floor(at + 1))
    }

    /// The values that came after `earlier`, a copy of the same histogram.
    #[must_use]
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        Histogram(std::array::from_fn(|n| self.0[n].saturating_sub(earlier.0[n])))
    }

    /// Adds another one's values.
    pub fn add(&mut self, other: &Histogram) {
        for (sum, n) in self.0.iter_mut().zip(&other.0) {
            *sum = sum.saturating_add(*n);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_follow_one_another_without_gap_or_overlap() {
        for at in 0..BUCKETS - 1 {
            assert_eq!(bucket(floor(at)), at);
            assert_eq!(bucket(floor(at + 1) - 1), at);
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_histogram_without_values_has_no_quantile() {
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    proptest! {
        #[test]
        fn a_quantile_is_within_a_quarter_of_the_true_one(
            mut values in proptest::collection::vec(0_u64..1 << 35, 1..200), share in 0.0..=1.0_f64
        ) {
            let mut histogram = Histogram::default();
            values.iter().for_each(|value| histogram.record(*value));
            values.sort_unstable();
            let rank = ((share * values.len() as f64).ceil() as usize).clamp(1, values.len());
            let truth = values[rank - 1] as f64;
            let told = histogram.quantile(share).unwrap() as f64;
            prop_assert!(told >= truth * 0.8 - 1.0 && told <= truth * 1.25 + 1.0, "{told} for {truth}");
        }

        #[test]
        fn nonsense_in_a_histogram_is_no_panic(
            values in proptest::collection::vec(any::<u64>(), BUCKETS), share in any::<f64>()
        ) {
            let histogram = Histogram(values.try_into().unwrap());
            let _ = histogram.quantile(share);
            let mut sum = histogram.clone();
            sum.add(&histogram);
            let _ = sum.quantile(share);
        }
    }
}
