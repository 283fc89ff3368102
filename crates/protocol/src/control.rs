//! What `rgunicornctl` and the arbiter say to each other over the control socket.
//!
//! A stream of lines; each is one JSON object. The client sends an [`Order`]; the arbiter sends any number of
//! [`Answer::Progress`] and then exactly one other answer, and is ready for the next order. Fields are only ever added:
//! unknown ones are ignored, missing ones are zero, so client and arbiter of neighbouring versions understand each other.
//! Times of day are seconds since 1970, durations seconds, all as `f64`.

use serde::{Deserialize, Serialize};

/// The socket's name in an instance's runtime directory.
pub const SOCKET: &str = "control.sock";

/// Longest line of a client, in bytes.
pub const MAX_ORDER: usize = 4096;

/// The folder of an instance below `/run` or `$XDG_RUNTIME_DIR`; an instance without a name is called by its pid.
pub fn folder(instance: &str, pid: u32) -> String {
    if instance.is_empty() { format!("rgunicorn-{pid}") } else { format!("rgunicorn-{instance}") }
}

/// What stands in the way of a user whom systemd makes for an instance by the shipped unit (DynamicUser=, called as the
/// [`folder`]); `None` if nothing does. It says no more than "invalid argument", and starts the unit again every second.
pub fn userless(instance: &str) -> Option<String> {
    let user = folder(instance, 0);
    let fine = user.len() <= 31 && user.bytes().all(|letter| letter.is_ascii_alphanumeric() || b"-_".contains(&letter));
    (!fine).then(|| {
        format!(
            "systemd makes no user {user} (31 letters, digits, - and _ at most): write User= with another name into a drop-in \
             of rgunicorn@{instance}.service, or shorten the instance's name"
        )
    })
}

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// [`Answer::Status`].
    Status,
    /// [`Answer::Workers`].
    Workers,
    /// [`Answer::Requests`]: those that run now.
    Requests,
    /// [`Answer::Settings`]: every setting with its value and origin.
    Settings,
    /// From now on so many workers.
    Scale {
        /// At least 1.
        workers: u32,
    },
    /// So many workers more, or fewer.
    ScaleBy {
        /// The difference.
        difference: i32,
    },
    /// Replace the worker of a slot; the new one is ready before the old one leaves.
    Retire {
        /// From 1.
        slot: u32,
    },
    /// A new generation; answered when it serves or has failed.
    Reload {
        /// If systemd has just ordered one by a signal, wait for that one and begin none.
        #[serde(default)]
        join: bool,
    },
    /// The installed version takes the arbiter's place; answered when the reload that follows it has ended, or when it
    /// is refused.
    Upgrade,
    /// Open the log files anew.
    Reopen,
    /// Stop the instance. The connection ends with it.
    Stop {
        /// Without letting requests finish.
        quick: bool,
    },
}

/// What the arbiter says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// The order is being carried out; this happened.
    Progress {
        /// `debug`, `info`, `warning`, `error` or `critical`, as in the log.
        level: String,
        /// The log record, with its traceback if it has one.
        text: String,
    },
    /// The order was carried out, or will be without fail.
    Done {
        /// What was done, a sentence.
        text: String,
    },
    /// It was not.
    Failed {
        /// Why, a sentence.
        text: String,
    },
    /// To [`Order::Status`].
    Status(Box<Status>),
    /// To [`Order::Workers`].
    Workers {
        /// By slot, then generation.
        workers: Vec<Worker>,
    },
    /// To [`Order::Requests`].
    Requests {
        /// The longest first.
        requests: Vec<Request>,
    },
    /// To [`Order::Settings`].
    Settings {
        /// As `rgunicorn --print-config` prints them.
        text: String,
    },
}

/// The instance at a glance.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Version of the arbiter.
    pub version: String,
    /// The instance's name, empty without one.
    pub instance: String,
    /// What is served: `module:variable`.
    pub app: String,
    /// The arbiter's pid.
    pub pid: i32,
    /// When the arbiter started.
    pub started: f64,
    /// `starting`, `serving` or `stopping`.
    pub life: String,
    /// What systemctl status shows.
    pub summary: String,
    /// The generation that serves; 0: none yet.
    pub generation: u32,
    /// Since when it serves.
    pub generation_since: f64,
    /// Its interpreter.
    pub interpreter: String,
    /// Its pool: `sync`, `gthread`, ...
    pub worker_class: String,
    /// Addresses.
    pub listeners: Vec<String>,
    /// Workers wanted.
    pub workers_wanted: u32,
    /// Workers that serve.
    pub workers_serving: u32,
    /// Workers that boot, or are ready and wait for their promotion.
    pub workers_booting: u32,
    /// Workers that finish what they have begun.
    pub workers_leaving: u32,
    /// Workers that serve and have a request in a lane.
    pub workers_busy: u32,
    /// Lanes of the workers that serve.
    pub lanes: u32,
    /// Those with a request.
    pub lanes_busy: u32,
    /// What was counted since the arbiter started, or an arbiter before it whose figures it took over.
    pub totals: Totals,
    /// Connections open now.
    pub connections: u64,
    /// Bytes of request bodies on disk now.
    pub spooled: u64,
    /// How fast it is at present.
    pub recent: Speed,
    /// How fast it was since `totals` are counted.
    pub overall: Speed,
    /// Workers that died without being asked to.
    pub deaths: u64,
    /// Workers that were replaced in the course of things: max_requests, retire, ...
    pub recycled: u64,
    /// The latest death.
    pub latest_death: Option<Happening>,
    /// A reload is running.
    pub reloading: bool,
    /// The latest reload that ended.
    pub latest_reload: Option<Reload>,
    /// Processes that hold memory for nobody in particular: molds, by pid.
    pub molds: Vec<i32>,
    /// Workers, by pid.
    pub workers: Vec<i32>,
}

/// Something that happened.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Happening {
    /// When.
    pub at: f64,
    /// The log record.
    pub text: String,
}

/// How a reload ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reload {
    /// When.
    pub at: f64,
    /// The generation that it made, or tried to.
    pub generation: u32,
    /// Why it failed, the log record; none: it did not.
    pub failure: Option<String>,
}

/// Counters; see `scoreboard::Counter`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Requests that the application was called for and that are over.
    pub requests: u64,
    /// Responses by class, and requests whose connection was closed instead.
    pub responses_1xx: u64,
    /// As above.
    pub responses_2xx: u64,
    /// As above.
    pub responses_3xx: u64,
    /// As above.
    pub responses_4xx: u64,
    /// As above.
    pub responses_5xx: u64,
    /// As above.
    pub unanswered: u64,
    /// Bytes of response bodies.
    pub body_bytes: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that one worker gave to another.
    pub handed_over: u64,
    /// Requests refused because they break HTTP or a limit.
    pub rejected: u64,
    /// Requests that waited longer than `queue_timeout`.
    pub queue_timeouts: u64,
    /// Requests ended by `timeout`.
    pub timeouts: u64,
    /// Clients that stopped reading.
    pub send_timeouts: u64,
    /// Request bodies refused because of `spool_limit` or the disk.
    pub spool_refusals: u64,
}

/// Rate and times of requests over a span of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Speed {
    /// Length of the span.
    pub seconds: f64,
    /// Requests that ended in it.
    pub requests: u64,
    /// Requests per second.
    pub rate: f64,
    /// From the entry into a lane to the end of the response; none without requests.
    pub latency: Option<Quantiles>,
    /// From the complete request to the lane's entry.
    pub queue: Option<Quantiles>,
}

/// What so many of a hundred requests stay below, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quantiles {
    /// Half of them.
    pub p50: f64,
    /// 90 of 100.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1000.
    pub p999: f64,
}

/// One worker.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Worker {
    /// Its place.
    pub slot: u32,
    /// Its generation.
    pub generation: u32,
    /// Its process; 0: not known yet.
    pub pid: i32,
    /// `booting`, `ready`, `serving`, `leaving` or `killed`.
    pub state: String,
    /// For how long it has been in that state, where that is known.
    pub seconds: Option<f64>,
    /// Why it will be replaced, if it will.
    pub recycle: Option<String>,
    /// Lanes, and those with a request.
    pub lanes: u32,
    /// As above.
    pub busy: u32,
    /// Connections open now.
    pub connections: u64,
    /// Bytes of request bodies on disk now.
    pub spooled: u64,
    /// What it counted.
    pub totals: Totals,
    /// How fast it is at present.
    pub recent: Speed,
}

/// One request that runs now.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    /// Slot of its worker.
    pub slot: u32,
    /// Generation of its worker.
    pub generation: u32,
    /// Process of its worker.
    pub pid: i32,
    /// Its lane, from 1.
    pub lane: u32,
    /// The lane's thread, 0 if it is none.
    pub thread: i32,
    /// `application`, or `client`: it waits for its client to send or to read.
    pub state: String,
    /// For how long it has been in the lane.
    pub seconds: f64,
    /// For how long nothing came and nothing was sent.
    pub quiet: f64,
    /// ASCII, the beginning.
    pub method: String,
    /// The request target, ASCII, the beginning.
    pub path: String,
    /// Whether `path` is cut.
    pub truncated: bool,
    /// The id by which its records are found, empty if it has none.
    pub id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_has_a_user_of_its_own_if_systemd_can_make_one_of_its_name() {
        for name in ["shop", "my_shop-2", "x23456789012345678901"] {
            assert_eq!(userless(name), None);
        }
        for name in ["shop.example.com", "x234567890123456789012", "a@b", "a:b"] {
            assert!(userless(name).is_some_and(|why| why.contains(&format!("rgunicorn-{name} "))), "{name}");
        }
    }

    #[test]
    fn orders_and_answers_are_one_line_of_json_each() {
        let order = Order::Scale { workers: 4 };
        assert_eq!(serde_json::to_string(&order).unwrap(), r#"{"order":"scale","workers":4}"#);
        let failed = Answer::Failed { text: "a\nb".into() };
        let line = serde_json::to_string(&failed).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Answer>(&line).unwrap(), failed);
    }

    #[test]
    fn a_status_of_another_version_is_understood_as_far_as_it_goes() {
        let line = r#"{"answer":"status","pid":7,"something":"new"}"#;
        let Answer::Status(status) = serde_json::from_str(line).unwrap() else { panic!("{line}") };
        assert_eq!((status.pid, status.generation), (7, 0));
    }
}
