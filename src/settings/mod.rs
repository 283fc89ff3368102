//! The settings: one table, four layers, one resolved answer.
//!
//! Owns everything between the operator's words (command line, environment, TOML file) and [`Settings`]. Knows nothing
//! of sockets that are open or of processes that run. Invariant: a `Settings` is complete and consistent; everything
//! in it was checked, every path in it is absolute, every name in it is resolved.

mod access;
pub(crate) mod bind;
pub(crate) mod command_line;
mod cpus;
pub(crate) mod explain;
mod fault;
pub(crate) mod interpreter;
mod layers;
#[cfg(test)]
mod reference;
mod reload_check;
mod resolve;
mod sandbox;
mod setting;
pub(crate) mod table;
#[cfg(test)]
mod tests;
mod text_file;
mod toml_file;
mod value;
mod words;

pub(crate) use bind::Bind;
pub(crate) use fault::{Fault, Origin, SettingsError};
pub(crate) use resolve::NO_APP;

use command_line::Line;
use layers::{Given, Layers};
use resolve::Purpose;
use rgunicorn_log::LogSettings;
use rgunicorn_protocol::{ListenerAddress, WorkerSettings};
use serde::{Deserialize, Serialize};
use setting::{OnReload, Setting};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;
use value::Raw;

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
    /// The program as it was started, links and all: what an upgrade executes.
    pub(crate) started_as: PathBuf,
    /// Where `--instance NAME` finds NAME.toml: /etc/rgunicorn.
    pub(crate) configuration: PathBuf,
}

/// The kinds of worker pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
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
    /// What the application is decides, in the worker: `asgi`, `gthread` or `sync`.
    Auto,
}

impl WorkerClass {
    /// Gunicorn's name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Gthread => "gthread",
            Self::Gevent => "gevent",
            Self::Asgi => "asgi",
            Self::Auto => "auto",
        }
    }
}

/// A setting with its value.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// Which.
    pub(crate) setting: &'static Setting,
    /// As a TOML file would have it; none if it is unset.
    pub(crate) value: Option<String>,
    /// Where it comes from: `default`, `command line -w`, `/etc/rgunicorn/app.toml:12`.
    pub(crate) origin: String,
}

impl PartialEq for Answer {
    fn eq(&self, other: &Self) -> bool {
        self.setting.name == other.setting.name && self.value == other.value && self.origin == other.origin
    }
}

/// One reading of all settings, resolved. A reload makes a new one; an upgrade takes it along, and fields that one of the
/// two versions does not know are left out.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
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
    /// Where `bind` was set, in words; none if nobody did: the default gives way to activated sockets without a word.
    pub(crate) bind_origin: Option<String>,
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
    /// Bytes at which a worker is replaced; 0: never.
    pub(crate) max_worker_memory: u64,
    /// Bytes at which a worker is killed; 0: never.
    pub(crate) max_worker_memory_hard: u64,
    /// Time after which a worker is replaced; zero: never.
    pub(crate) reload_strategy: String,
    pub(crate) max_worker_lifetime: Duration,
    /// Time without request or connection after which the instance ends; zero: never.
    pub(crate) idle_timeout: Duration,
    /// Import the application in the mold.
    pub(crate) preload_app: bool,
    /// Refuse to fork an application that a fork copies badly.
    pub(crate) preload_strict: bool,

    /// Time that a request may be in the application without progress; zero: no limit.
    pub(crate) timeout: Duration,
    /// Of a pool that only the worker can choose, where none was set: what it is if that is sync.
    pub(crate) timeout_if_sync: Option<Duration>,
    /// Time for requests in flight at retirement and at a graceful stop.
    pub(crate) graceful_timeout: Duration,
    pub(crate) reload_check: Vec<rgunicorn_protocol::ReloadCheck>,
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
    /// Give requests ids (X-Request-ID).
    pub(crate) request_id: bool,
    /// Path answered by the reactor without a lane; empty: none.
    pub(crate) health_path: String,
    /// `SCRIPT_NAME` prefix of all requests, from the environment variable of that name as in Gunicorn.
    pub(crate) script_name: String,
    /// `asgi` scope root_path.
    pub(crate) root_path: String,
    /// `auto`, `asyncio`, `uvloop`.
    pub(crate) asgi_loop: String,
    /// `auto`, `on`, `off`.
    pub(crate) asgi_lifespan: String,
    /// Seconds between an ASGI client's leaving and the cancellation of its task.
    pub(crate) asgi_disconnect_grace_period: f64,
    /// Bytes of a WebSocket message.
    pub(crate) websocket_max_message_size: u64,
    /// Seconds of silence before a WebSocket is pinged.
    pub(crate) websocket_ping_interval: f64,
    /// Seconds in which a ping must be answered.
    pub(crate) websocket_ping_timeout: f64,

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
    /// Where the control socket goes; none: the instance's runtime directory.
    pub(crate) control_socket: Option<PathBuf>,
    /// Its permission bits.
    pub(crate) control_socket_mode: u32,
    /// There shall be none.
    pub(crate) control_socket_disable: bool,
    /// Base of the process titles.
    pub(crate) proc_name: String,
    /// Send what the application prints to the error log even if that is a file.
    pub(crate) capture_output: bool,
    /// Where records go.
    pub(crate) log: LogSettings,

    /// Every setting with its value and origin, for `--print-config` and the control socket.
    #[serde(with = "answers")]
    pub(crate) answers: Vec<Answer>,
    /// What the operator should know, one sentence each; the daemon logs them as warnings at the start and at reloads.
    pub(crate) warnings: Vec<String>,
}

/// [`Answer`]s as they travel: a setting is known by its name, and one that is no setting any more is left out.
mod answers {
    use super::{Answer, table};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Named(String, Option<String>, String);

    pub(super) fn serialize<S: Serializer>(answers: &[Answer], serializer: S) -> Result<S::Ok, S::Error> {
        let named = |answer: &Answer| Named(answer.setting.name.into(), answer.value.clone(), answer.origin.clone());
        answers.iter().map(named).collect::<Vec<_>>().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Answer>, D::Error> {
        let known = |Named(name, value, origin)| Some(Answer { setting: table::find(&name)?, value, origin });
        Ok(Vec::<Named>::deserialize(deserializer)?.into_iter().filter_map(known).collect())
    }
}

impl Settings {
    /// Reads all layers anew: at the start, and at each reload.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub(crate) fn read(invocation: &Invocation) -> Result<Self, SettingsError> {
        read(invocation, Purpose::Serve)
    }

    /// As [`Settings::read`], for a command that runs beside the instance: no application is needed.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub(crate) fn read_for_exec(invocation: &Invocation) -> Result<Self, SettingsError> {
        read(invocation, Purpose::Exec)
    }

    /// The settings whose new value waits for a restart, with the reason: `pidfile (the file is written when ...)`.
    pub(crate) fn waiting_for_restart(&self, previous: &Self) -> Vec<String> {
        let changed = |answer: &&Answer| {
            previous.answers.iter().any(|old| old.setting.name == answer.setting.name && old.value != answer.value)
        };
        self.answers
            .iter()
            .filter(changed)
            .filter_map(|answer| match answer.setting.on_reload {
                OnReload::Restart(reason) => Some(format!("{} ({reason})", answer.setting.name)),
                OnReload::Applies | OnReload::Start => None,
            })
            .collect()
    }

    /// Requests that a worker may have in the application at once.
    pub(crate) fn lanes(&self) -> u32 {
        match self.worker_class {
            WorkerClass::Sync | WorkerClass::Gthread => self.threads.max(1),
            WorkerClass::Gevent | WorkerClass::Asgi => self.worker_connections.max(1),
            // Room for either; which it is shows once the application is imported.
            WorkerClass::Auto => self.worker_connections.max(self.threads).max(1),
        }
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
            boot_timeout: self.boot_timeout.as_secs_f64(),
            preload_app: self.preload_app,
            preload_strict: self.preload_strict,
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
            timeout_if_sync: self.timeout_if_sync.map(|timeout| timeout.as_secs_f64()),
            graceful_timeout: self.graceful_timeout.as_secs_f64(),
            reload_check: self.reload_check.clone(),
            keepalive: self.keepalive.as_secs_f64(),
            max_requests: self.max_requests,
            max_requests_jitter: self.max_requests_jitter,
            max_worker_memory: self.max_worker_memory,
            max_worker_memory_hard: self.max_worker_memory_hard,
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
            request_id: self.request_id,
            script_name: self.script_name.clone(),
            root_path: self.root_path.clone(),
            asgi_loop: self.asgi_loop.clone(),
            asgi_lifespan: self.asgi_lifespan.clone(),
            asgi_disconnect_grace_period: self.asgi_disconnect_grace_period,
            websocket_max_message_size: self.websocket_max_message_size,
            websocket_ping_interval: self.websocket_ping_interval,
            websocket_ping_timeout: self.websocket_ping_timeout,
            capture_output: self.capture_output,
            log: self.log.clone(),
            listeners,
            handoff: false,
            parks: false,
            scoreboard: false,
        }
    }
}

/// Why this process cannot execute the program at an absolute path: a clause that names the component. None if it can.
pub(crate) fn obstacle_to_execute(program: &Path) -> Option<String> {
    access::obstacle(program, access::Wanted::Program, &access::Identity::ourselves())
}

/// Collects the layers in the order of their ranks, finds the file, resolves.
fn read(invocation: &Invocation, purpose: Purpose) -> Result<Settings, SettingsError> {
    let mut faults = Vec::new();
    let mut collect = |read: Result<Vec<Given>, Vec<Fault>>| {
        read.unwrap_or_else(|wrong| {
            faults.extend(wrong);
            Vec::new()
        })
    };
    let mut givens = collect(command_line::read(&invocation.arguments, Line::Command));
    let mut warnings = Vec::new();
    givens.extend(collect(cmd_args(invocation, &mut warnings)));
    let (from_environment, wrong, unknown) = layers::environment(&invocation.environment);
    givens.extend(from_environment);
    warnings.extend(unknown);
    let config = match settings_file(&givens, invocation) {
        Ok(config) => config,
        Err(fault) => {
            givens.extend(collect(Err(vec![fault])));
            None
        }
    };
    if let Some(path) = &config {
        givens.extend(collect(toml_file::read(path)));
    }
    faults.extend(wrong);
    let (mut layers, wrong) = Layers::new(givens);
    faults.extend(wrong);
    if !faults.is_empty() {
        return Err(SettingsError { faults });
    }
    layers.warnings.splice(0..0, warnings);
    resolve::resolve(&layers, invocation, config, purpose)
}

/// GUNICORN_CMD_ARGS: split as a shell would, read as a command line.
fn cmd_args(invocation: &Invocation, warnings: &mut Vec<String>) -> Result<Vec<Given>, Vec<Fault>> {
    let Some(text) = invocation.environment.get(&OsString::from("GUNICORN_CMD_ARGS")) else {
        return Ok(Vec::new());
    };
    let fault = |what: &str| vec![Fault::new(Origin::CmdArgs(String::new()), what)];
    let text = text.to_str().ok_or_else(|| fault("it is not UTF-8"))?;
    let words: Vec<OsString> = words::split(text).map_err(fault)?.into_iter().map(OsString::from).collect();
    let mut givens = command_line::read(&words, Line::CmdArgs)?;
    // As in Gunicorn the application is not taken from there; unlike there, that is said.
    if let Some(at) = givens.iter().position(|given| given.setting.name == "app") {
        let app = givens.remove(at);
        warnings.push(format!("GUNICORN_CMD_ARGS: the application {} is not taken from there", app.raw));
    }
    Ok(givens)
}

/// The TOML file to read, if any: `config`, else the instance's. Refuses Python.
fn settings_file(givens: &[Given], invocation: &Invocation) -> Result<Option<PathBuf>, Fault> {
    let highest = |name: &str| {
        let of_name = givens.iter().filter(|given| given.setting.name == name);
        of_name.max_by(|left, right| left.origin.cmp(&right.origin)).and_then(|given| match &given.raw {
            Raw::Text(text) if !text.is_empty() => Some((given.origin.clone(), text.clone())),
            Raw::Text(_)
            | Raw::Integer(_)
            | Raw::Float(_)
            | Raw::Bool(_)
            | Raw::List(_)
            | Raw::Table(_)
            | Raw::Date(_) => None,
        })
    };
    let instance = highest("instance");
    if let Some((origin, name)) = &instance {
        let fine = |letter: char| letter.is_ascii_alphanumeric() || "-_.:@".contains(letter);
        if !name.chars().all(fine) || name.starts_with(['.', '-']) || name.len() > 64 {
            let message = format!("instance = {name:?} is not a name. Allowed: letters, digits and -_.:@ (at most 64)");
            return Err(Fault::new(origin.clone(), message));
        }
    }
    if let Some((origin, config)) = highest("config") {
        let path = config.strip_prefix("file:").unwrap_or(&config);
        if path.starts_with("python:") || path.ends_with(".py") {
            return Err(Fault::new(origin, format!("config = {config:?} {PYTHON}")));
        }
        return Ok(Some(invocation.directory.join(path)));
    }
    if let Some((origin, name)) = instance {
        let path = invocation.configuration.join(format!("{name}.toml"));
        if !path.exists() {
            let message = format!("instance = {name:?}: {} does not exist. {}", path.display(), instances(invocation));
            return Err(Fault::of_machine(origin, message));
        }
        return Ok(Some(path));
    }
    let gunicorns = invocation.directory.join("gunicorn.conf.py");
    if gunicorns.exists() {
        let message = format!("this file, which Gunicorn would load from the working directory, {PYTHON}");
        return Err(Fault::new(Origin::File { path: gunicorns, line: None }, message));
    }
    Ok(None)
}

const PYTHON: &str = "is Python, and rgunicorn reads TOML: write the same settings as NAME = VALUE lines (workers = 4, \
                      bind = \"127.0.0.1:8000\") into a .toml file and name that with -c. More: rgunicorn explain config";

/// Which instances there are, a sentence.
fn instances(invocation: &Invocation) -> String {
    let entries = std::fs::read_dir(&invocation.configuration).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".toml")?.to_owned())).collect();
    names.sort();
    match names.as_slice() {
        [] => format!("There is no settings file in {}", invocation.configuration.display()),
        names => format!("There are: {}", names.join(", ")),
    }
}
