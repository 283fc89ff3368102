//! Instants that travel to another program in the same process: microseconds of CLOCK_MONOTONIC, which goes on.
//!
//! For `#[serde(with = "moment")]`. Invariant: what was written once and read is written the same again, for one pair of
//! readings of both clocks serves for all of them.

use rgunicorn_protocol::scoreboard::monotonic_us;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Both clocks at one time.
fn reference() -> (Instant, i64) {
    static REFERENCE: OnceLock<(Instant, i64)> = OnceLock::new();
    *REFERENCE.get_or_init(|| (Instant::now(), i64::try_from(monotonic_us()).unwrap_or(i64::MAX)))
}

fn to_us(instant: Instant) -> i64 {
    let (then, us) = reference();
    let whole = |nanoseconds: u128| i64::try_from(nanoseconds).unwrap_or(i64::MAX);
    let ahead = whole(instant.saturating_duration_since(then).as_micros());
    let behind = whole(then.saturating_duration_since(instant).as_nanos().div_ceil(1000));
    us.saturating_add(ahead).saturating_sub(behind)
}

fn from_us(at: i64) -> Instant {
    let (then, us) = reference();
    let distance = Duration::from_micros(at.abs_diff(us));
    // This clock shows no instant so far away; whoever waits for one in the past waits no longer.
    if at < us { then.checked_sub(distance).unwrap_or(then) } else { then.checked_add(distance).unwrap_or(then) }
}

pub(super) fn serialize<S: Serializer>(instant: &Instant, serializer: S) -> Result<S::Ok, S::Error> {
    to_us(*instant).serialize(serializer)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Instant, D::Error> {
    i64::deserialize(deserializer).map(from_us)
}

/// The same for instants that may be missing.
pub(super) mod option {
    use super::{Deserialize, Deserializer, Instant, Serialize, Serializer, from_us, to_us};

    pub(in super::super) fn serialize<S: Serializer>(at: &Option<Instant>, serializer: S) -> Result<S::Ok, S::Error> {
        at.map(to_us).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Instant>, D::Error> {
        Ok(Option::<i64>::deserialize(from)?.map(from_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_before_and_after_are_the_same_again_to_the_microsecond() {
        let now = Instant::now();
        for at in [now, now + Duration::from_secs(90), now - Duration::from_millis(3)] {
            let again = from_us(to_us(at));
            assert!(at.max(again) - at.min(again) < Duration::from_micros(1));
            assert_eq!(to_us(again), to_us(at));
        }
    }
}
