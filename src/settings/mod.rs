//! The settings: one table, four layers, one resolved answer.
//!
//! Owns everything between the operator's words (command line, environment, TOML file) and [`Settings`]. Knows nothing
//! of sockets that are open or of processes that run. Invariant: a `Settings` is complete and consistent; everything
//! in it was checked, every path in it is absolute, every name in it is resolved.

pub(crate) mod bind;

pub(crate) use bind::Bind;

use rgunicorn_log::LogSettings;
use rgunicorn_protocol::{ListenerAddress, WorkerSettings};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// What the program was started with: all that a reading of the settings depends on beside files. A reload reads again
/// from the same invocation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Invocation {
    /// The command line without the program's name.
    pub(crate) arguments: Vec<OsString>,
    /// The environment.
    pub(crate) environment: BTreeMap<OsString, OsString>,
    /// The working directory.
    pub(crate) directory: PathBuf,
    /// The program itself, as the kernel names it (/proc/self/exe).
    pub(crate) program: PathBuf,
    /// Where `--instance NAME` finds NAME.toml: /etc/rgunicorn.
    pub(crate) configuration: PathBuf,
}

/// Why no [`Settings`] could be made: every fault that was found, each one a line that names setting, value, source, what
/// is allowed and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SettingsError {
    /// At least one line.
    pub(crate) faults: Vec<String>,
}

/// The kinds of worker pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum WorkerClass {
    /// One lane per worker.
    #[default]
    Sync,
    /// `threads` lanes per worker, each a Python thread.
    Gthread,
    /// A greenlet per request.
    Gevent,
    /// An asyncio task per request, ASGI applications.
    Asgi,
}

impl WorkerClass {
    /// Gunicorn's name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Gthread => "gthread",
            Self::Gevent => "gevent",
            Self::Asgi => "asgi",
        }
    }
}

/// One reading of all settings, resolved. A reload makes a new one.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Settings {
    /// `module`, `module:variable` or `module:factory(arguments)`; the worker splits it.
    pub(crate) app: String,
    /// The instance's name (`app` in rgunicorn@app), empty without one.
    pub(crate) instance: String,
    /// The TOML file that was read, if any.
    pub(crate) config: Option<PathBuf>,
    /// Import the application in its interpreter, say what is wrong, exit.
    pub(crate) check_config: bool,
    /// Print every setting with its origin.
    pub(crate) print_config: bool,

    /// The application's interpreter: its folder is resolved, its own link is not.
    pub(crate) python: PathBuf,
    /// How `python` was found, a clause for the start record: `the virtual environment in /srv/app/.venv`.
    pub(crate) python_origin: String,
    /// Working directory of mold and workers, resolved; the arbiter itself does not change its own.
    pub(crate) chdir: PathBuf,
    /// Directories put in front of `sys.path`.
    pub(crate) pythonpath: Vec<PathBuf>,
    /// What is added to the application's environment: `env_file`, then `raw_env`, later ones win.
    pub(crate) env: Vec<(String, String)>,

    /// What to listen on.
    pub(crate) bind: Vec<Bind>,
    /// Whether somebody set `bind`; the default gives way to activated sockets without a word.
    pub(crate) bind_is_set: bool,
    /// listen(2)'s backlog, for the sockets that we bind ourselves.
    pub(crate) backlog: i32,

    /// Number of workers, at least 1.
    pub(crate) workers: u32,
    /// Number and formula, a clause for the start record: `5 = 2 x 2 CPUs + 1`, or `4, command line -w`.
    pub(crate) workers_origin: String,
    /// The pool. `sync` with more than one thread has become `gthread`.
    pub(crate) worker_class: WorkerClass,
    /// Lanes per worker of `gthread`.
    pub(crate) threads: u32,
    /// Requests in the application at once, coroutine pools.
    pub(crate) worker_connections: u32,
    /// Requests after which a worker is replaced; 0: never.
    pub(crate) max_requests: u64,
    /// Upper bound of what each worker adds at random to `max_requests`.
    pub(crate) max_requests_jitter: u64,
    /// Import the application in the mold.
    pub(crate) preload_app: bool,

    /// Time that a request may be in the application without progress; zero: no limit.
    pub(crate) timeout: Duration,
    /// Time for requests in flight at retirement and at a graceful stop.
    pub(crate) graceful_timeout: Duration,
    /// Time for a mold or a worker to become ready; zero: no limit.
    pub(crate) boot_timeout: Duration,
    /// Time that an idle connection is kept; zero: no keep-alive.
    pub(crate) keepalive: Duration,
    /// Time for a request's head.
    pub(crate) header_timeout: Duration,
    /// Time without progress while a body arrives.
    pub(crate) body_timeout: Duration,
    /// Time without progress while a response is sent.
    pub(crate) send_timeout: Duration,
    /// Time that a complete request may wait for a lane; zero: no limit.
    pub(crate) queue_timeout: Duration,

    /// Buffer request bodies before the application is called.
    pub(crate) request_buffering: bool,
    /// Bytes of a body kept in memory before it goes to a file.
    pub(crate) request_buffer: u64,
    /// Bytes of all spooled bodies of the instance; 0: unlimited.
    pub(crate) spool_limit: u64,
    /// Bytes of a response kept for a slow reader before the lane waits.
    pub(crate) response_buffer: u64,
    /// Bytes of a request line.
    pub(crate) limit_request_line: u32,
    /// Number of header fields.
    pub(crate) limit_request_fields: u32,
    /// Bytes of one header field.
    pub(crate) limit_request_field_size: u32,
    /// Bytes of a request body; 0: unlimited.
    pub(crate) limit_request_body: u64,

    /// What happens to header names with an underscore: `drop`, `refuse`, `dangerous`.
    pub(crate) header_map: String,
    /// Names of underscore headers that a trusted peer may set.
    pub(crate) forwarder_headers: Vec<String>,
    /// IPs, CIDRs or `*`.
    pub(crate) forwarded_allow_ips: Vec<String>,
    /// Header name (upper case, dashes) and value that mean https.
    pub(crate) secure_scheme_headers: Vec<(String, String)>,
    /// `off`, `v1`, `v2`, `auto`.
    pub(crate) proxy_protocol: String,
    /// IPs, CIDRs or `*`.
    pub(crate) proxy_allow_ips: Vec<String>,
    /// Accept any method.
    pub(crate) permit_unconventional_http_method: bool,
    /// Accept HTTP/d.d other than 1.x.
    pub(crate) permit_unconventional_http_version: bool,
    /// Upper-case the method.
    pub(crate) casefold_http_method: bool,
    /// Accept spaces between header name and colon (unsafe).
    pub(crate) strip_header_spaces: bool,
    /// Use sendfile(2) for `wsgi.file_wrapper`.
    pub(crate) sendfile: bool,
    /// Path answered by the reactor without a lane; empty: none.
    pub(crate) health_path: String,
    /// `SCRIPT_NAME` prefix of all requests, from the environment variable of that name as in Gunicorn.
    pub(crate) script_name: String,
    /// `asgi` scope root_path.
    pub(crate) root_path: String,

    /// Numeric user that mold and workers become, if any.
    pub(crate) uid: Option<u32>,
    /// Numeric group that mold and workers become, if any.
    pub(crate) gid: Option<u32>,
    /// The user's name, for initgroups(3).
    pub(crate) user_name: Option<String>,
    /// Take the user's supplementary groups.
    pub(crate) initgroups: bool,
    /// umask while unix sockets are bound; workers get it too if `umask_is_set`.
    pub(crate) umask: u32,
    /// Whether somebody set `umask`.
    pub(crate) umask_is_set: bool,
    /// Where to write the arbiter's pid.
    pub(crate) pidfile: Option<PathBuf>,
    /// Base of the process titles.
    pub(crate) proc_name: String,
    /// Send what the application prints to the error log even if that is a file.
    pub(crate) capture_output: bool,
    /// Let the application's stdout and stderr be the arbiter's own.
    pub(crate) enable_stdio_inheritance: bool,
    /// Where records go.
    pub(crate) log: LogSettings,

    /// What the operator should know, one sentence each; the daemon logs them as warnings at the start and at reloads.
    pub(crate) warnings: Vec<String>,
}

impl Settings {
    /// Reads all layers anew: at the start, and at each reload. On an error nothing has changed.
    pub(crate) fn read(invocation: &Invocation) -> Result<Self, SettingsError> {
        Err(SettingsError { faults: vec![format!("cannot read {:?} yet", invocation.arguments)] })
    }

    /// What leaves the arbiter: the settings of a generation's mold and workers. `handoff` and `scoreboard` are false;
    /// the caller sets them when it sends their fds.
    pub(crate) fn worker_settings(&self, generation: u32, listeners: Vec<ListenerAddress>) -> WorkerSettings {
        WorkerSettings {
            version: rgunicorn_protocol::VERSION.to_owned(),
            app: self.app.clone(),
            instance: self.instance.clone(),
            generation,
            worker_class: self.worker_class.name().to_owned(),
            threads: self.threads,
            workers: self.workers,
            preload_app: self.preload_app,
            chdir: self.chdir.clone(),
            pythonpath: self.pythonpath.clone(),
            env: self.env.clone(),
            uid: self.uid,
            gid: self.gid,
            user_name: self.user_name.clone(),
            initgroups: self.initgroups,
            umask: self.umask_is_set.then_some(self.umask),
            proc_name: self.proc_name.clone(),
            timeout: self.timeout.as_secs_f64(),
            graceful_timeout: self.graceful_timeout.as_secs_f64(),
            keepalive: self.keepalive.as_secs_f64(),
            max_requests: self.max_requests,
            max_requests_jitter: self.max_requests_jitter,
            worker_connections: self.worker_connections,
            limit_request_line: self.limit_request_line,
            limit_request_fields: self.limit_request_fields,
            limit_request_field_size: self.limit_request_field_size,
            limit_request_body: self.limit_request_body,
            header_map: self.header_map.clone(),
            forwarder_headers: self.forwarder_headers.clone(),
            forwarded_allow_ips: self.forwarded_allow_ips.clone(),
            secure_scheme_headers: self.secure_scheme_headers.clone(),
            permit_unconventional_http_method: self.permit_unconventional_http_method,
            permit_unconventional_http_version: self.permit_unconventional_http_version,
            casefold_http_method: self.casefold_http_method,
            strip_header_spaces: self.strip_header_spaces,
            proxy_protocol: self.proxy_protocol.clone(),
            proxy_allow_ips: self.proxy_allow_ips.clone(),
            header_timeout: self.header_timeout.as_secs_f64(),
            body_timeout: self.body_timeout.as_secs_f64(),
            send_timeout: self.send_timeout.as_secs_f64(),
            queue_timeout: self.queue_timeout.as_secs_f64(),
            request_buffering: self.request_buffering,
            request_buffer: self.request_buffer,
            spool_limit: self.spool_limit,
            response_buffer: self.response_buffer,
            health_path: self.health_path.clone(),
            sendfile: self.sendfile,
            script_name: self.script_name.clone(),
            root_path: self.root_path.clone(),
            log: self.log.clone(),
            listeners,
            handoff: false,
            scoreboard: false,
        }
    }
}
