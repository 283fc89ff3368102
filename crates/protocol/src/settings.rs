//! What a mold and its workers must know: the part of the settings that leaves the arbiter.
//!
//! Durations are seconds as `f64`, `0` meaning "off" where the setting's documentation says so. Everything is resolved:
//! paths absolute, user and group numeric, lists parsed.

use rgunicorn_log::LogSettings;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Everything that a generation's mold and workers need.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct WorkerSettings {
    /// The arbiter's [`crate::VERSION`]; the mold compares it with its own.
    pub version: String,
    /// `app:app`, `module:variable`, `module:factory("x")`.
    pub app: String,
    /// The instance's name (`app` in rgunicorn@app), empty without one.
    pub instance: String,
    /// Number of this generation, from 1.
    pub generation: u32,
    /// `sync`, `gthread`, `gevent`, `asgi`, or `auto`: what the application is decides.
    pub worker_class: String,
    /// Lanes per worker.
    pub threads: u32,
    /// Number of workers, for `wsgi.multiprocess`.
    pub workers: u32,
    /// Import the application in the mold.
    pub preload_app: bool,
    /// Refuse to fork what a fork copies badly.
    pub preload_strict: bool,
    /// Working directory, resolved; also first on sys.path.
    pub chdir: PathBuf,
    /// Directories put in front of sys.path.
    pub pythonpath: Vec<PathBuf>,
    /// NAME, VALUE pairs set before the application is imported (`env_file`, then `raw_env`).
    pub env: Vec<(String, String)>,
    /// Numeric user to become, if any.
    pub uid: Option<u32>,
    /// Numeric group to become, if any.
    pub gid: Option<u32>,
    /// The user's name, for initgroups.
    pub user_name: Option<String>,
    /// Take the user's supplementary groups.
    pub initgroups: bool,
    /// umask of the workers; none: the one that was inherited.
    pub umask: Option<u32>,
    /// Base of the process title.
    pub proc_name: String,
    /// Seconds that a request may be in the application without progress; 0: no limit.
    pub timeout: f64,
    /// What `timeout` becomes if `auto` turns out to mean sync: the default is another one there. None: it was set, or
    /// the pool is known.
    pub timeout_if_sync: Option<f64>,
    /// Seconds that the import may take; 0: as long as it likes.
    #[serde(default)]
    pub boot_timeout: f64,
    /// Seconds for requests in flight at retirement.
    pub graceful_timeout: f64,
    /// What a worker of a reload must answer before it is ready.
    pub reload_check: Vec<ReloadCheck>,
    /// Seconds an idle keep-alive connection is kept; 0: no keep-alive.
    pub keepalive: f64,
    /// Requests after which a worker asks for its replacement; 0: never. The jitter is already in it per worker.
    pub max_requests: u64,
    /// Upper bound of what a worker adds at random to `max_requests`.
    pub max_requests_jitter: u64,
    /// Bytes of resident memory at which a worker asks for its replacement; 0: never.
    pub max_worker_memory: u64,
    /// Bytes of resident memory at which a worker asks to be killed; 0: never.
    pub max_worker_memory_hard: u64,
    /// Requests in the application at once, coroutine pools.
    pub worker_connections: u32,
    /// See `http::Policy`.
    pub limit_request_line: u32,
    /// See `http::Policy`.
    pub limit_request_fields: u32,
    /// See `http::Policy`.
    pub limit_request_field_size: u32,
    /// Bytes; 0: unlimited.
    pub limit_request_body: u64,
    /// `drop`, `refuse`, `dangerous`.
    pub header_map: String,
    /// Names of underscore headers that a trusted peer may set.
    pub forwarder_headers: Vec<String>,
    /// IPs, CIDRs or `*`.
    pub forwarded_allow_ips: Vec<String>,
    /// Header name (upper case, dashes) and value that mean https.
    pub secure_scheme_headers: Vec<(String, String)>,
    /// Accept any method.
    pub permit_unconventional_http_method: bool,
    /// Accept HTTP/d.d other than 1.x.
    pub permit_unconventional_http_version: bool,
    /// Upper-case the method.
    pub casefold_http_method: bool,
    /// Accept spaces between header name and colon (unsafe).
    pub strip_header_spaces: bool,
    /// `off`, `v1`, `v2`, `auto`.
    pub proxy_protocol: String,
    /// IPs, CIDRs or `*`.
    pub proxy_allow_ips: Vec<String>,
    /// Seconds for a request head.
    pub header_timeout: f64,
    /// Seconds without progress while a body arrives.
    pub body_timeout: f64,
    /// Seconds without progress while a response is sent.
    pub send_timeout: f64,
    /// Seconds that a complete request may wait for a lane; 0: no limit.
    pub queue_timeout: f64,
    /// Buffer request bodies before the application is called.
    pub request_buffering: bool,
    /// Bytes of a body kept in memory before it goes to a file.
    pub request_buffer: u64,
    /// Bytes of all spooled bodies of the instance; 0: unlimited.
    pub spool_limit: u64,
    /// Bytes of a response kept for a slow reader before the lane waits.
    pub response_buffer: u64,
    /// Path answered by the reactor without a lane; empty: none.
    pub health_path: String,
    /// Use sendfile(2) for `wsgi.file_wrapper`.
    pub sendfile: bool,
    /// Give requests ids (X-Request-ID).
    pub request_id: bool,
    /// `SCRIPT_NAME` prefix of all requests.
    pub script_name: String,
    /// `asgi` scope root_path.
    pub root_path: String,
    /// `auto`, `asyncio`, `uvloop`.
    pub asgi_loop: String,
    /// `auto`, `on`, `off`.
    pub asgi_lifespan: String,
    /// Seconds that an ASGI application has after its client has left, before its task is cancelled.
    pub asgi_disconnect_grace_period: f64,
    /// Bytes of a WebSocket message; 0: 1 GiB.
    pub websocket_max_message_size: u64,
    /// Seconds of silence after which a WebSocket's client is pinged; 0: never.
    pub websocket_ping_interval: f64,
    /// Seconds in which it must answer; 0: no limit.
    pub websocket_ping_timeout: f64,
    /// The application's stdout and stderr are the file of `log.errorlog`, if that is one.
    pub capture_output: bool,
    /// Where records go.
    pub log: LogSettings,
    /// What listens, in the order of the fds.
    pub listeners: Vec<ListenerAddress>,
    /// Whether the handoff's two fds follow the listeners.
    pub handoff: bool,
    /// Whether the handoff outlives the instance's processes (the fd store), so that idle connections can wait in it for the
    /// workers of the next arbiter.
    pub parks: bool,
    /// Whether the scoreboard's fd follows.
    pub scoreboard: bool,
}

/// A request of `reload_check`, and what its answer must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadCheck {
    /// The Host that the request names; none: `localhost`.
    pub host: Option<String>,
    /// The request says that its client used https.
    pub https: bool,
    /// Path and query.
    pub target: String,
    /// The status that is expected; none: any from 200 to 399.
    pub status: Option<u16>,
}

/// A listener's address, for `SERVER_NAME`, records and trust.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "family", rename_all = "snake_case")]
pub enum ListenerAddress {
    /// TCP over IPv4 or IPv6.
    Tcp {
        /// As bound; the port is the real one.
        address: std::net::SocketAddr,
    },
    /// A unix socket.
    Unix {
        /// Its path; an abstract name begins with `@`.
        path: String,
    },
}
