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
    /// Responses of the application, or made in its place, with status 2xx. Never added to: what remains of all requests,
    /// which are counted anyway.
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

/// Microseconds of a minute, the width of a bank.
const MINUTE: u64 = 60_000_000;

/// Histograms of times, shared.
#[derive(Debug)]
#[repr(C)]
struct SharedTimes {
    latency: [AtomicU64; BUCKETS],
    queue: [AtomicU64; BUCKETS],
}

/// The times of one minute.
#[derive(Debug)]
#[repr(C)]
struct Bank {
    minute: AtomicU64,
    times: SharedTimes,
}

/// What a worker adds to, and the arbiter's sum over all workers that are gone.
///
/// Times go to the bank of the current minute. Whoever is first in a new minute moves what the bank held two minutes ago
/// to `older`. So the latest one to two minutes can be told from all that was before, at no cost per request.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct SharedTally {
    counters: [AtomicU64; COUNTERS],
    older: SharedTimes,
    banks: [Bank; 2],
}

impl SharedTimes {
    fn read(&self) -> Times {
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        Times {
            latency: Histogram(std::array::from_fn(|n| load(&self.latency[n]))),
            queue: Histogram(std::array::from_fn(|n| load(&self.queue[n]))),
        }
    }

    fn add(&self, times: &Times) {
        for (mine, theirs) in [(&self.latency, &times.latency), (&self.queue, &times.queue)] {
            for (sum, n) in mine.iter().zip(&theirs.0).filter(|(_, n)| **n > 0) {
                sum.fetch_add(*n, Ordering::Relaxed);
            }
        }
    }

    /// Moves everything to `other`. What is added meanwhile is moved or stays; nothing is lost.
    fn move_to(&self, other: &SharedTimes) {
        for (mine, theirs) in [(&self.latency, &other.latency), (&self.queue, &other.queue)] {
            for (from, to) in mine.iter().zip(theirs) {
                if from.load(Ordering::Relaxed) > 0 {
                    to.fetch_add(from.swap(0, Ordering::Relaxed), Ordering::Relaxed);
                }
            }
        }
    }
}

impl SharedTally {
    pub(super) fn add(&self, counter: Counter, n: u64) {
        self.counters[counter as usize].fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn record(&self, now: u64, latency: u64, queue: u64) {
        let times = &self.bank(now / MINUTE).times;
        times.latency[bucket(latency)].fetch_add(1, Ordering::Relaxed);
        times.queue[bucket(queue)].fetch_add(1, Ordering::Relaxed);
    }

    /// The bank of a minute, cleared if it is a new one.
    fn bank(&self, minute: u64) -> &Bank {
        let bank = &self.banks[minute as usize % 2];
        let held = bank.minute.load(Ordering::Relaxed);
        if held < minute && bank.minute.compare_exchange(held, minute, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            bank.times.move_to(&self.older);
        }
        bank
    }

    pub(super) fn read(&self) -> Tally {
        Tally {
            counters: std::array::from_fn(|n| self.counters[n].load(Ordering::Relaxed)),
            older: self.older.read(),
            banks: std::array::from_fn(|n| (self.banks[n].minute.load(Ordering::Relaxed), self.banks[n].times.read())),
        }
    }

    /// Adds another one's figures, all of them.
    pub(super) fn carry(&self, other: &Tally, now: u64) {
        for (sum, n) in self.counters.iter().zip(other.counters) {
            // The arbiter is the only writer of what it carries to.
            sum.store(sum.load(Ordering::Relaxed).saturating_add(n), Ordering::Relaxed);
        }
        self.older.add(&other.older);
        for (minute, times) in &other.banks {
            if is_recent(*minute, now) { self.bank(*minute).times.add(times) } else { self.older.add(times) }
        }
    }
}

/// Whether a bank's minute is the current one or the one before, whatever a worker has written there.
fn is_recent(minute: u64, now: u64) -> bool {
    let current = now / MINUTE;
    minute == current || minute.checked_add(1) == Some(current)
}

/// Latency and queue time of requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Times {
    /// Microseconds from the entry into a lane to the end of the response.
    pub latency: Histogram,
    /// Microseconds from the complete request to a lane's entry.
    pub queue: Histogram,
}

impl Times {
    /// Adds another one's values.
    pub fn add(&mut self, other: &Times) {
        self.latency.add(&other.latency);
        self.queue.add(&other.queue);
    }
}

/// A copy of a worker's figures, or a sum of several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    counters: [u64; COUNTERS],
    older: Times,
    banks: [(u64, Times); 2],
}

impl Tally {
    /// The value of one counter.
    pub fn get(&self, counter: Counter) -> u64 {
        if counter != Counter::Responses2xx {
            return self.counters[counter as usize];
        }
        let others = [
            Counter::Responses1xx,
            Counter::Responses3xx,
            Counter::Responses4xx,
            Counter::Responses5xx,
            Counter::Unanswered,
        ];
        others.iter().fold(self.requests(), |left, other| left.saturating_sub(self.counters[*other as usize]))
    }

    /// The times of all requests.
    pub fn times(&self) -> Times {
        let mut all = self.older.clone();
        self.banks.iter().for_each(|(_, times)| all.add(times));
        all
    }

    /// The times of the requests that ended in this minute of the clock or the one before ([`Tally::window`]). `now`:
    /// microseconds of CLOCK_MONOTONIC.
    pub fn recent(&self, now: u64) -> Times {
        let mut recent = Times::default();
        self.banks.iter().filter(|(minute, _)| is_recent(*minute, now)).for_each(|(_, times)| recent.add(times));
        recent
    }

    /// Microseconds that [`Tally::recent`] looks back: one to two minutes.
    pub fn window(now: u64) -> u64 {
        now - (now / MINUTE).saturating_sub(1) * MINUTE
    }

    /// The figures as numbers, for a program that keeps them otherwise; without the minutes. See [`Tally::import`].
    pub fn export(&self) -> Vec<u64> {
        let times = self.times();
        let shape = [COUNTERS as u64, BUCKETS as u64];
        [&shape[..], &self.counters, &times.latency.0, &times.queue.0].concat()
    }

    /// What [`Tally::export`] gave, maybe that of another version: counters as far as both know them, times only if they
    /// are counted in the same buckets. Nonsense is nothing.
    pub fn import(numbers: &[u64]) -> Tally {
        let mut tally = Tally::default();
        let (Some([counters, buckets]), numbers) = (numbers.get(..2), numbers.get(2..).unwrap_or_default()) else {
            return tally;
        };
        let Some((theirs, times)) = usize::try_from(*counters).ok().and_then(|at| numbers.split_at_checked(at)) else {
            return tally;
        };
        tally.counters.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine = *theirs);
        if *buckets == BUCKETS as u64 && times.len() == 2 * BUCKETS {
            let (latency, queue) = times.split_at(BUCKETS);
            tally.older.latency.0.copy_from_slice(latency);
            tally.older.queue.0.copy_from_slice(queue);
        }
        tally
    }

    /// Requests that the application was called for and that are over.
    pub fn requests(&self) -> u64 {
        let banks = self.banks.iter().map(|(_, times)| times.latency.count());
        banks.fold(self.older.latency.count(), u64::saturating_add)
    }

    /// Connections that are open now. Counted at different moments, so it may be off by one or two under load.
    pub fn connections(&self) -> u64 {
        let came = self.get(Counter::Accepted).saturating_add(self.get(Counter::TakenOver));
        came.saturating_sub(self.get(Counter::HandedOver)).saturating_sub(self.get(Counter::Closed))
    }

    /// Adds another one's figures at `now`, microseconds of CLOCK_MONOTONIC.
    pub fn add(&mut self, other: &Tally, now: u64) {
        for (sum, n) in self.counters.iter_mut().zip(&other.counters) {
            *sum = sum.saturating_add(*n);
        }
        self.older.add(&other.older);
        for (minute, times) in &other.banks {
            let (held, bank) = &mut self.banks[*minute as usize % 2];
            if !is_recent(*minute, now) {
                self.older.add(times);
            } else if held == minute {
                bank.add(times);
            } else {
                let old = std::mem::replace(bank, times.clone());
                *held = *minute;
                self.older.add(&old);
            }
        }
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

    fn shared() -> SharedTally {
        let zero = || AtomicU64::new(0);
        let times = || SharedTimes { latency: std::array::from_fn(|_| zero()), queue: std::array::from_fn(|_| zero()) };
        let bank = || Bank { minute: zero(), times: times() };
        SharedTally { counters: std::array::from_fn(|_| zero()), older: times(), banks: [bank(), bank()] }
    }

    #[test]
    fn the_latest_minutes_are_told_apart_and_nothing_is_lost() {
        let tally = shared();
        for minute in 10..15 {
            for _ in 0..minute {
                tally.record(minute * MINUTE + 5, 7, 0);
            }
        }
        let now = 14 * MINUTE + 30_000_000;
        assert_eq!(tally.read().recent(now).latency.count(), 13 + 14);
        assert_eq!(tally.read().recent(now + MINUTE).latency.count(), 14);
        assert_eq!(tally.read().recent(now + 2 * MINUTE).latency.count(), 0);
        assert_eq!(tally.read().requests(), 10 + 11 + 12 + 13 + 14);
        assert_eq!(Tally::window(now), 90_000_000);
    }

    #[test]
    fn sums_keep_the_latest_minutes_apart_too() {
        let (a, b) = (shared(), shared());
        a.record(20 * MINUTE, 1, 0);
        a.record(21 * MINUTE, 1, 0);
        b.record(21 * MINUTE, 1, 0);
        b.record(22 * MINUTE, 1, 0);
        let now = 22 * MINUTE + 1;
        let mut sum = a.read();
        sum.add(&b.read(), now);
        assert_eq!((sum.requests(), sum.recent(now).latency.count()), (4, 3));
        a.carry(&b.read(), now);
        assert_eq!((a.read().requests(), a.read().recent(now).latency.count()), (4, 3));
    }

    #[test]
    fn lanes_that_turn_the_minute_together_lose_nothing() {
        let tally = std::sync::Arc::new(shared());
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let tally = std::sync::Arc::clone(&tally);
                std::thread::spawn(move || (0..20_000).for_each(|n| tally.record(n / 10 * MINUTE, n % 50, 0)))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(tally.read().requests(), 80_000);
    }

    #[test]
    fn figures_survive_as_numbers_also_those_of_a_version_that_counts_less() {
        let tally = shared();
        tally.add(Counter::Closed, 7);
        tally.record(5 * MINUTE, 9, 1);
        let numbers = tally.read().export();
        let same = Tally::import(&numbers);
        assert_eq!((same.get(Counter::Closed), same.times()), (7, tally.read().times()));
        let older = [&[11, 3][..], &numbers[2..13], &[1, 2, 3, 1, 2, 3]].concat();
        let understood = Tally::import(&older);
        assert_eq!((understood.get(Counter::Closed), understood.requests()), (7, 0));
        for end in 0..numbers.len() {
            let _ = Tally::import(&numbers[..end]);
        }
        assert_eq!(Tally::import(&[u64::MAX, u64::MAX]), Tally::default());
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
