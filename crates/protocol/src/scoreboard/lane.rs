//! A lane's record: which request it works on, since when.
//!
//! Owns the layout of 384 bytes. One writer, the lane's own thread (and for `progress` whoever makes progress for it);
//! readers are the worker's standby and the arbiter. Invariant: a reader gets one request's figures whole or nothing.
//!
//! **The protocol** is a sequence lock: `version` is odd while a request's text is written, and grows by two from request
//! to request; so half of it is the request's number in this lane. A reader that finds it odd, or changed when it has
//! read, looks again, and after some tries gives up. A worker that dies in the middle leaves it odd: nothing is shown.

use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering, fence};

/// Words of 8 bytes for the method.
const METHOD: usize = 2;
/// Words of 8 bytes for the path.
const PATH: usize = 25;
/// Words of 8 bytes for the id; the longest that is taken over from a proxy fits.
const ID: usize = 16;
/// How often a reader looks again at a record that changes under its eyes.
const TRIES: usize = 32;

const IDLE: u32 = 0;
const APPLICATION: u32 = 1;
const CLIENT: u32 = 2;

/// See the module. In shared memory; made by [`super::Scoreboard`], reached by [`super::Sheet::lane`].
#[derive(Debug)]
#[repr(C, align(64))]
pub struct LaneRecord {
    version: AtomicU64,
    since: AtomicU64,
    progress: AtomicU64,
    state: AtomicU32,
    thread: AtomicI32,
    /// Lengths of what follows, after truncation: the method's in the low half, the path's in the high one.
    lengths: AtomicU32,
    /// That of the id, after truncation; 0: it has none.
    id_length: AtomicU32,
    method: [AtomicU64; METHOD],
    path: [AtomicU64; PATH],
    id: [AtomicU64; ID],
}

/// Where a lane that has a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneState {
    /// In the application.
    Application,
    /// In the application, which waits for its client: to send more of the body, or to read the response.
    Client,
}

/// What of a request changes from look to look; cheap to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glance {
    /// The request's number in this lane, from 1. Two looks with the same number are about the same request.
    pub request: u64,
    /// Where the lane is.
    pub state: LaneState,
    /// When the lane took the request: microseconds of CLOCK_MONOTONIC ([`super::monotonic_us`]).
    pub since: u64,
    /// When it last made progress, at least `since`; same clock.
    pub progress: u64,
    /// The thread that the lane is (gettid(2)); 0 if it is none.
    pub thread: i32,
}

/// A request that a lane works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// The figures.
    pub glance: Glance,
    /// The method, escaped to ASCII, truncated to 16 bytes.
    pub method: String,
    /// The request target, escaped to ASCII, truncated to 200 bytes.
    pub path: String,
    /// Whether `path` is only a beginning.
    pub truncated: bool,
    /// The id by which its records are found, escaped to ASCII, truncated to 128 bytes; empty if it has none.
    pub id: String,
}

impl LaneRecord {
    /// Says which thread the lane is. To be called once by that thread.
    pub fn join(&self) {
        self.thread.store(nix::unistd::gettid().as_raw(), Ordering::Relaxed);
    }

    /// A request begins at `now` (microseconds of CLOCK_MONOTONIC); `id` is empty if it has none. Only by the lane's own
    /// thread.
    pub fn begin(&self, now: u64, method: &[u8], path: &[u8], id: &[u8]) {
        // The lane is the only writer.
        let version = self.version.load(Ordering::Relaxed) | 1;
        self.version.store(version, Ordering::Relaxed);
        fence(Ordering::Release);
        let method = &method[..method.len().min(METHOD * 8)];
        let truncated = path.len() > PATH * 8;
        let path = &path[..path.len().min(PATH * 8)];
        write(&self.method, method);
        write(&self.path, path);
        let id = &id[..id.len().min(ID * 8)];
        write(&self.id, id);
        self.id_length.store(id.len() as u32, Ordering::Relaxed);
        let lengths = method.len() as u32 | (path.len() as u32) << 16 | u32::from(truncated) << 31;
        self.lengths.store(lengths, Ordering::Relaxed);
        self.since.store(now, Ordering::Relaxed);
        self.progress.store(now, Ordering::Relaxed);
        self.state.store(APPLICATION, Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Release);
    }

    /// The request is over. Only by the lane's own thread.
    pub fn end(&self) {
        self.state.store(IDLE, Ordering::Release);
    }

    /// The request made progress at `now`: bytes were sent, or came. By any thread.
    pub fn progress(&self, now: u64) {
        self.progress.store(now, Ordering::Relaxed);
    }

    /// The lane is somewhere else with its request. Only by the lane's own thread, between `begin` and `end`.
    pub fn enter(&self, state: LaneState) {
        let state = match state {
            LaneState::Application => APPLICATION,
            LaneState::Client => CLIENT,
        };
        self.state.store(state, Ordering::Relaxed);
    }

    /// Whether a request is in the lane now.
    pub fn is_busy(&self) -> bool {
        self.state.load(Ordering::Relaxed) != IDLE
    }

    /// The figures of the request in the lane. `None`: there is none, or it is just changing.
    pub fn glance(&self) -> Option<Glance> {
        self.consistent(|glance| glance)
    }

    /// The request in the lane. `None`: as for [`LaneRecord::glance`].
    pub fn look(&self) -> Option<Running> {
        self.consistent(|glance| {
            let lengths = self.lengths.load(Ordering::Relaxed);
            Running {
                glance,
                method: read(&self.method, (lengths & 0xffff) as usize),
                path: read(&self.path, (lengths >> 16 & 0x7fff) as usize),
                truncated: lengths >> 31 != 0,
                id: read(&self.id, self.id_length.load(Ordering::Relaxed) as usize),
            }
        })
    }

    fn consistent<T>(&self, mut rest: impl FnMut(Glance) -> T) -> Option<T> {
        for _ in 0..TRIES {
            let version = self.version.load(Ordering::Acquire);
            let state = match self.state.load(Ordering::Relaxed) {
                IDLE => return None,
                CLIENT => LaneState::Client,
                _ => LaneState::Application,
            };
            let since = self.since.load(Ordering::Relaxed);
            let progress = self.progress.load(Ordering::Relaxed).max(since);
            let thread = self.thread.load(Ordering::Relaxed);
            let found = rest(Glance { request: version / 2, state, since, progress, thread });
            fence(Ordering::Acquire);
            if version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version {
                return Some(found);
            }
            std::hint::spin_loop();
        }
        None
    }
}

fn write(words: &[AtomicU64], bytes: &[u8]) {
    let (whole, rest) = bytes.as_chunks::<8>();
    for (word, bytes) in words.iter().zip(whole) {
        word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
    }
    if let (false, Some(word)) = (rest.is_empty(), words.get(whole.len())) {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        word.store(u64::from_ne_bytes(last), Ordering::Relaxed);
    }
}

/// The first `length` bytes, whatever the worker claims, as ASCII that is safe to show.
fn read(words: &[AtomicU64], length: usize) -> String {
    let length = length.min(words.len() * 8);
    let bytes = words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes());
    bytes.take(length).flat_map(std::ascii::escape_default).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Sheet;
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn a_lane_shows_its_request_from_begin_to_end() {
        let sheet = Sheet::private(1).unwrap();
        let lane = sheet.lane(0).unwrap();
        assert_eq!(lane.look(), None);
        lane.begin(7, b"GET", b"/a?b=\xff", b"4bf9");
        lane.progress(9);
        lane.enter(LaneState::Client);
        let glance = Glance { request: 1, state: LaneState::Client, since: 7, progress: 9, thread: 0 };
        let (method, path, id) = ("GET".into(), "/a?b=\\xff".into(), "4bf9".into());
        let running = Running { glance, method, path, truncated: false, id };
        assert_eq!(lane.look(), Some(running));
        lane.end();
        assert_eq!(lane.look(), None);
        lane.begin(10, b"POST", b"/", b"");
        assert_eq!(lane.glance().unwrap().request, 2);
        assert_eq!(lane.look().unwrap().id, "");
    }

    #[test]
    fn a_long_path_is_cut_and_says_so() {
        let sheet = Sheet::private(1).unwrap();
        let lane = sheet.lane(0).unwrap();
        lane.begin(0, &[b'M'; 100], &[b'p'; 1000], &[b'i'; 1000]);
        let running = lane.look().unwrap();
        let lengths = (running.method.len(), running.path.len(), running.id.len());
        assert_eq!((lengths, running.truncated), ((16, 200, 128), true));
    }

    #[test]
    fn a_worker_that_died_while_it_wrote_shows_nothing_and_holds_nobody_up() {
        let sheet = Sheet::private(1).unwrap();
        let lane = sheet.lane(0).unwrap();
        lane.begin(1, b"GET", b"/", b"");
        lane.version.fetch_add(1, Ordering::Relaxed);
        assert_eq!(lane.look(), None);
    }

    #[test]
    fn a_reader_never_sees_a_mix_of_two_requests() {
        let sheet = Arc::new(Sheet::private(1).unwrap());
        let over = Arc::new(AtomicBool::new(false));
        let writer = {
            let (sheet, over) = (Arc::clone(&sheet), Arc::clone(&over));
            std::thread::spawn(move || {
                let lane = sheet.lane(0).unwrap();
                let mut n = 0_u64;
                while !over.load(Ordering::Relaxed) {
                    let letter = b'a' + (n % 26) as u8;
                    lane.begin(n, &[letter; 5], &[letter; 150], &[letter; 32]);
                    n += 1;
                    // Requests of all lengths: some end while they are read, and some are long enough to be read.
                    (0..n % 2048).for_each(|_| std::hint::spin_loop());
                }
            })
        };
        let lane = sheet.lane(0).unwrap();
        let mut seen = 0;
        while seen < 2_000 {
            let Some(running) = lane.look() else { continue };
            seen += 1;
            let letter = char::from(b'a' + (running.glance.since % 26) as u8);
            assert!(running.path.len() == 150 && running.path.chars().all(|c| c == letter), "{running:?}");
            assert!(running.method.len() == 5 && running.method.chars().all(|c| c == letter), "{running:?}");
            assert!(running.id.len() == 32 && running.id.chars().all(|c| c == letter), "{running:?}");
        }
        over.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    }

    proptest! {
        #[test]
        fn garbage_in_a_record_is_no_panic(words in proptest::collection::vec(any::<u64>(), 50)) {
            let sheet = Sheet::private(1).unwrap();
            let lane = sheet.lane(0).unwrap();
            lane.version.store(words[0], Ordering::Relaxed);
            lane.since.store(words[1], Ordering::Relaxed);
            lane.progress.store(words[2], Ordering::Relaxed);
            lane.state.store(words[3] as u32, Ordering::Relaxed);
            lane.lengths.store(words[4] as u32, Ordering::Relaxed);
            lane.id_length.store((words[4] >> 32) as u32, Ordering::Relaxed);
            for (word, value) in lane.method.iter().chain(&lane.path).chain(&lane.id).zip(&words[5..]) {
                word.store(*value, Ordering::Relaxed);
            }
            if let Some(running) = lane.look() {
                prop_assert!(running.path.is_ascii() && running.id.is_ascii());
            }
        }
    }
}
