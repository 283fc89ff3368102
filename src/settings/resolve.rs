//! From layered values to [`Settings`]: names become numbers, paths absolute, defaults that depend on the machine get
//! their values, and what contradicts the machine is a fault.
//!
//! Reads files and the user database, changes nothing. Invariant: either everything is resolved, or every fault that
//! was found is returned.

use super::access::{Identity, Wanted, obstacle};
use super::bind::Bind;
use super::cpus::Cpus;
use super::fault::{Fault, Origin, SettingsError};
use super::interpreter::{self, Search};
use super::layers::Layers;
use super::toml_file::reason;
use super::value::quoted;
use super::words::environment_file;
use super::{Answer, Invocation, Settings, WorkerClass, table, value};
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use rgunicorn_log::LogSettings;
use rgunicorn_protocol::ReloadCheck;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is said when nobody named an application.
pub(crate) const NO_APP: &str = "no application is named. Write rgunicorn MODULE:VARIABLE, or app = \"MODULE:VARIABLE\" \
                                 in the settings file";

/// The built settings in the types of their kinds. Those that are not built have only their defaults.
#[derive(Debug, Deserialize)]
struct Values {
    app: Option<String>,
    instance: Option<String>,
    python: Option<String>,
    chdir: Option<String>,
    pythonpath: Option<Vec<String>>,
    raw_env: Vec<String>,
    env_file: Vec<String>,
    preload_app: bool,
    preload_strict: bool,
    bind: Vec<String>,
    backlog: i32,
    umask: u32,
    workers: Option<u32>,
    worker_class: String,
    threads: u32,
    worker_connections: u32,
    timeout: Option<f64>,
    graceful_timeout: f64,
    reload_check: Vec<String>,
    boot_timeout: f64,
    keepalive: f64,
    header_timeout: f64,
    body_timeout: f64,
    send_timeout: f64,
    queue_timeout: f64,
    max_requests: u64,
    max_requests_jitter: u64,
    max_worker_memory: u64,
    max_worker_memory_hard: u64,
    reload_strategy: String,
    max_worker_lifetime: f64,
    idle_timeout: f64,
    limit_request_line: u32,
    limit_request_fields: u32,
    limit_request_field_size: u32,
    limit_request_body: u64,
    request_buffering: bool,
    request_buffer: u64,
    spool_limit: u64,
    response_buffer: u64,
    sendfile: bool,
    request_id: bool,
    health_path: String,
    permit_unconventional_http_method: bool,
    permit_unconventional_http_version: bool,
    casefold_http_method: bool,
    strip_header_spaces: bool,
    forwarded_allow_ips: Vec<String>,
    secure_scheme_headers: Vec<String>,
    forwarder_headers: Vec<String>,
    header_map: String,
    proxy_protocol: String,
    proxy_allow_ips: Vec<String>,
    user: Option<String>,
    group: Option<String>,
    initgroups: bool,
    pidfile: Option<String>,
    control_socket: Option<String>,
    control_socket_mode: u32,
    control_socket_disable: bool,
    proc_name: Option<String>,
    loglevel: String,
    errorlog: Option<String>,
    accesslog: Option<String>,
    access_log_format: String,
    log_format: String,
    capture_output: bool,
    check_config: bool,
    print_config: bool,
    root_path: Option<String>,
    asgi_loop: String,
    asgi_lifespan: String,
    asgi_disconnect_grace_period: f64,
    websocket_max_message_size: u64,
    websocket_ping_interval: f64,
    websocket_ping_timeout: f64,
}

/// What the settings are wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To serve or to check: an application is needed.
    Serve,
    /// To run a command beside the instance: none is needed.
    Exec,
}

/// The user and group of the workers.
#[derive(Debug, Default, PartialEq, Eq)]
struct Owner {
    uid: Option<u32>,
    gid: Option<u32>,
    name: Option<String>,
}

struct Resolver<'r> {
    layers: &'r Layers,
    invocation: &'r Invocation,
    faults: Vec<Fault>,
    warnings: Vec<String>,
    /// What is listed in place of the layered value, since it is computed.
    computed: BTreeMap<&'static str, String>,
}

/// Resolves. `config` is the file that was read.
pub(crate) fn resolve(
    layers: &Layers,
    invocation: &Invocation,
    config: Option<PathBuf>,
    purpose: Purpose,
) -> Result<Settings, SettingsError> {
    let values: Values = layers.extract()?;
    let mut resolver = Resolver {
        layers,
        invocation,
        faults: Vec::new(),
        warnings: layers.warnings.clone(),
        computed: BTreeMap::new(),
    };
    let settings = resolver.settings(values, config, purpose);
    if resolver.faults.is_empty() { Ok(settings) } else { Err(SettingsError { faults: resolver.faults }) }
}

/// Defaults of `timeout`, in seconds: where a request has a worker for itself, and elsewhere.
const SYNC_TIMEOUT: f64 = 30.0;
const TIMEOUT: f64 = 300.0;

impl Resolver<'_> {
    fn settings(&mut self, values: Values, config: Option<PathBuf>, purpose: Purpose) -> Settings {
        let app = self.app(values.app, purpose, values.print_config, config.as_deref());
        let owner = self.owner(values.user.as_deref(), values.group.as_deref());
        let identity = identity(&owner, values.initgroups);
        let chdir = self.chdir(values.chdir.as_deref(), &identity);
        let (python, python_origin) = self.python(values.python.as_deref(), &chdir, &identity);
        let worker_class = self.worker_class(&values.worker_class, values.threads);
        let (workers, workers_origin) = self.workers(values.workers);
        let timeout = values.timeout.unwrap_or(if worker_class == WorkerClass::Sync { SYNC_TIMEOUT } else { TIMEOUT });
        let undecided = worker_class == WorkerClass::Auto && values.threads == 1 && values.timeout.is_none();
        let env = self.env(&values.env_file, &values.raw_env, &chdir);
        let script_name = env.iter().rev().find(|(name, _)| name == "SCRIPT_NAME").map(|(_, value)| value.clone());
        let inherited = self.invocation.environment.get(&OsString::from("SCRIPT_NAME")).and_then(|text| text.to_str());
        let bind = self.bind(&values.bind, &chdir);
        let instance = values.instance.unwrap_or_default();
        let absolute = |path: Option<String>| path.map(|path| chdir.join(path));
        let log_file = |path: String| if path == "-" { path } else { chdir.join(path).to_string_lossy().into_owned() };
        let proc_name = values.proc_name.unwrap_or_else(|| app.clone());
        if !undecided {
            self.computed.insert("timeout", format!("{timeout}"));
        }
        self.computed.insert("proc_name", quoted(&proc_name));
        if let Some(config) = &config {
            self.computed.insert("config", quoted(&config.to_string_lossy()));
        }
        Settings {
            check_config: values.check_config,
            print_config: values.print_config,
            python,
            python_origin,
            pythonpath: values.pythonpath.unwrap_or_default().into_iter().map(|path| chdir.join(path)).collect(),
            env,
            bind,
            bind_origin: self.layers.is_set("bind").then(|| self.layers.origin("bind").to_string()),
            backlog: values.backlog,
            workers,
            workers_origin,
            worker_class,
            threads: values.threads,
            worker_connections: values.worker_connections,
            max_requests: values.max_requests,
            max_requests_jitter: values.max_requests_jitter,
            max_worker_memory: values.max_worker_memory,
            max_worker_memory_hard: values.max_worker_memory_hard,
            reload_strategy: values.reload_strategy,
            max_worker_lifetime: duration(values.max_worker_lifetime),
            idle_timeout: duration(values.idle_timeout),
            preload_app: values.preload_app,
            preload_strict: values.preload_strict,
            timeout: duration(timeout),
            timeout_if_sync: undecided.then(|| duration(SYNC_TIMEOUT)),
            graceful_timeout: duration(values.graceful_timeout),
            reload_check: self.reload_checks(&values.reload_check),
            boot_timeout: duration(values.boot_timeout),
            keepalive: duration(values.keepalive),
            header_timeout: duration(values.header_timeout),
            body_timeout: duration(values.body_timeout),
            send_timeout: duration(values.send_timeout),
            queue_timeout: duration(values.queue_timeout),
            request_buffering: values.request_buffering,
            request_buffer: values.request_buffer,
            spool_limit: values.spool_limit,
            response_buffer: values.response_buffer,
            limit_request_line: or_greatest(values.limit_request_line, 65_536),
            limit_request_fields: or_greatest(values.limit_request_fields, 32_768),
            limit_request_field_size: or_greatest(values.limit_request_field_size, 65_536),
            limit_request_body: values.limit_request_body,
            header_map: values.header_map,
            forwarder_headers: values.forwarder_headers,
            forwarded_allow_ips: values.forwarded_allow_ips,
            secure_scheme_headers: values
                .secure_scheme_headers
                .iter()
                .filter_map(|pair| pair.split_once('='))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            proxy_protocol: values.proxy_protocol,
            proxy_allow_ips: values.proxy_allow_ips,
            permit_unconventional_http_method: values.permit_unconventional_http_method,
            permit_unconventional_http_version: values.permit_unconventional_http_version,
            casefold_http_method: values.casefold_http_method,
            strip_header_spaces: values.strip_header_spaces,
            sendfile: values.sendfile,
            request_id: values.request_id,
            health_path: values.health_path,
            script_name: script_name.or_else(|| inherited.map(str::to_owned)).unwrap_or_default(),
            root_path: values.root_path.unwrap_or_default(),
            asgi_loop: values.asgi_loop,
            asgi_lifespan: values.asgi_lifespan,
            asgi_disconnect_grace_period: values.asgi_disconnect_grace_period,
            websocket_max_message_size: values.websocket_max_message_size,
            websocket_ping_interval: values.websocket_ping_interval,
            websocket_ping_timeout: values.websocket_ping_timeout,
            uid: owner.uid,
            gid: owner.gid,
            user_name: owner.name,
            initgroups: values.initgroups,
            umask: values.umask,
            umask_is_set: self.layers.is_set("umask"),
            pidfile: absolute(values.pidfile),
            control_socket: absolute(values.control_socket),
            control_socket_mode: values.control_socket_mode,
            control_socket_disable: values.control_socket_disable,
            proc_name,
            capture_output: values.capture_output,
            log: LogSettings {
                level: values.loglevel,
                errorlog: log_file(values.errorlog.unwrap_or_else(|| "-".to_owned())),
                accesslog: values.accesslog.map(log_file),
                access_log_format: values.access_log_format,
                log_format: values.log_format,
                instance: instance.clone(),
                ..LogSettings::default()
            },
            warnings: std::mem::take(&mut self.warnings),
            answers: self.answers(),
            app,
            instance,
            config,
            chdir,
        }
    }

    fn reload_checks(&mut self, entries: &[String]) -> Vec<ReloadCheck> {
        let mut checks = Vec::new();
        for entry in entries {
            match super::reload_check::parse(entry) {
                Ok(check) => checks.push(check),
                Err(wrong) => self.faults.push(Fault::new(
                    self.layers.origin("reload_check"),
                    format!("{wrong}. More: rgunicorn explain reload_check"),
                )),
            }
        }
        checks
    }

    fn fault(&mut self, name: &str, message: impl Into<String>) {
        self.faults.push(Fault::of_machine(self.layers.origin(name), message));
    }

    fn app(&mut self, app: Option<String>, purpose: Purpose, print_config: bool, config: Option<&Path>) -> String {
        let Some(app) = app else {
            if purpose == Purpose::Serve && !print_config {
                let fault = match config {
                    Some(path) => Fault::of_machine(Origin::File { path: path.to_owned(), line: None }, NO_APP),
                    None => Fault::new(Origin::CommandLine(String::new()), NO_APP),
                };
                self.faults.push(fault);
            }
            return String::new();
        };
        let module = app.split(':').next().unwrap_or_default();
        if module.is_empty() {
            self.fault("app", format!("app = {app:?}: the module before the : is missing"));
        } else if module.contains('/') || module.ends_with(".py") {
            let dotted = module.trim_end_matches(".py").trim_start_matches("./").replace('/', ".");
            self.fault(
                "app",
                format!("app = {app:?} is a path. Write the module's name, {dotted}, and chdir if it is elsewhere"),
            );
        }
        app
    }

    fn owner(&mut self, user: Option<&str>, group: Option<&str>) -> Owner {
        let mut owner = Owner::default();
        if let Some(user) = user {
            let entry = match user.parse::<u32>() {
                Ok(uid) => {
                    owner.uid = Some(uid);
                    User::from_uid(Uid::from_raw(uid)).ok().flatten()
                }
                Err(_) => {
                    let entry = User::from_name(user).ok().flatten();
                    if entry.is_none() {
                        self.fault("user", format!("user = {user:?}: there is no such user"));
                    }
                    entry
                }
            };
            if let Some(entry) = entry {
                owner = Owner { uid: Some(entry.uid.as_raw()), gid: Some(entry.gid.as_raw()), name: Some(entry.name) };
            }
        }
        if let Some(group) = group {
            let gid = group
                .parse::<u32>()
                .ok()
                .or_else(|| Group::from_name(group).ok().flatten().map(|entry| entry.gid.as_raw()));
            match gid {
                Some(gid) => owner.gid = Some(gid),
                None => self.fault("group", format!("group = {group:?}: there is no such group")),
            }
        }
        let (euid, egid) = (Uid::effective(), Gid::effective());
        if owner.uid.is_none_or(|uid| uid == euid.as_raw()) && owner.gid.is_none_or(|gid| gid == egid.as_raw()) {
            return Owner::default();
        }
        if !euid.is_root() {
            let name = if user.is_some() { "user" } else { "group" };
            let wanted = user.or(group).unwrap_or_default().to_owned();
            let me = Identity::ourselves();
            self.fault(
                name,
                format!(
                    "{name} = {wanted:?}: only root can change it, and this is {me}; under systemd set {} in the unit",
                    if name == "user" { "User=" } else { "Group=" }
                ),
            );
        }
        owner
    }

    fn chdir(&mut self, chdir: Option<&str>, identity: &Identity) -> PathBuf {
        let folder = match chdir {
            Some(chdir) => self.invocation.directory.join(chdir),
            None => self.invocation.directory.clone(),
        };
        if let Some(what) = obstacle(&folder, Wanted::Folder, identity) {
            self.fault("chdir", format!("chdir = {folder:?} cannot be used: {what}"));
        }
        let resolved = folder.canonicalize().unwrap_or(folder);
        self.computed.insert("chdir", quoted(&resolved.to_string_lossy()));
        resolved
    }

    fn python(&mut self, setting: Option<&str>, chdir: &Path, identity: &Identity) -> (PathBuf, String) {
        let search = Search {
            setting,
            chdir,
            program: &self.invocation.program,
            environment: &self.invocation.environment,
            identity,
        };
        match interpreter::find(&search, &mut self.warnings) {
            Ok(found) => {
                self.computed.insert("python", quoted(&found.path.to_string_lossy()));
                (found.path, found.origin)
            }
            Err(what) => {
                let value = setting.map_or_else(String::new, |setting| format!(" = {setting:?}"));
                self.fault("python", format!("python{value} cannot be used: {what}"));
                (PathBuf::new(), String::new())
            }
        }
    }

    fn worker_class(&mut self, name: &str, threads: u32) -> WorkerClass {
        let class = match name {
            "gthread" => WorkerClass::Gthread,
            "gevent" => WorkerClass::Gevent,
            "asgi" => WorkerClass::Asgi,
            "auto" => WorkerClass::Auto,
            // The kind lets nothing else through.
            _ if threads > 1 => WorkerClass::Gthread,
            _ => WorkerClass::Sync,
        };
        if !table::POOLS.contains(&class) {
            let built = table::POOLS.iter().map(|class| class.name()).collect::<Vec<_>>().join(", ");
            if name == "sync" {
                self.fault(
                    "threads",
                    format!("threads = {threads} makes the pool gthread, which is not supported yet. Built: {built}; raise workers instead"),
                );
            } else {
                self.fault(
                    "worker_class",
                    format!("worker_class = {name:?}: this pool is not supported yet. Built: {built}"),
                );
            }
        }
        self.computed.insert("worker_class", quoted(class.name()));
        class
    }

    fn workers(&mut self, workers: Option<u32>) -> (u32, String) {
        match workers {
            Some(workers) => (workers, format!("{workers}, {}", self.layers.origin("workers"))),
            None => {
                let cpus = Cpus::of_this_process(Path::new("/"));
                let workers = cpus.number().saturating_mul(2).saturating_add(1);
                self.computed.insert("workers", workers.to_string());
                (workers, format!("{workers} = 2 x {cpus} + 1"))
            }
        }
    }

    fn bind(&mut self, addresses: &[String], chdir: &Path) -> Vec<Bind> {
        let mut binds = Vec::new();
        for address in addresses {
            match Bind::parse(address, chdir) {
                // Port 0 is another port each time.
                Ok(bind) if binds.contains(&bind) && !matches!(bind, Bind::Tcp { port: 0, .. }) => {
                    self.fault("bind", format!("bind names {bind} twice"))
                }
                Ok(bind) => binds.push(bind),
                Err(what) => self.fault("bind", format!("bind = {address:?} is no address: {what}")),
            }
        }
        binds
    }

    /// The files in their order, then raw_env; of a repeated name the last value stays.
    fn env(&mut self, files: &[String], raw: &[String], chdir: &Path) -> Vec<(String, String)> {
        let mut env: BTreeMap<String, String> = BTreeMap::new();
        for file in files {
            let (path, optional) = match file.strip_prefix('-') {
                Some(path) => (chdir.join(path), true),
                None => (chdir.join(file), false),
            };
            let text = match super::text_file::read(&path) {
                Ok(text) => text,
                Err(error) if optional && error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => {
                    self.fault("env_file", format!("env_file = {file:?} cannot be read: {}", reason(&error)));
                    continue;
                }
            };
            match environment_file(&text) {
                Ok(pairs) => {
                    for (name, value) in pairs {
                        if value.contains('\0') {
                            self.fault("env_file", format!("{}: the value of {name} contains a NUL", path.display()));
                        } else {
                            env.insert(name, value);
                        }
                    }
                }
                Err((line, what)) => self.faults.push(Fault::new(
                    Origin::File { path: path.clone(), line: Some(line) },
                    format!("{what}. This is an env_file: a line is NAME=VALUE"),
                )),
            }
        }
        env.extend(
            raw.iter().filter_map(|pair| pair.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        env.into_iter().collect()
    }

    /// Every setting with its value and origin.
    fn answers(&self) -> Vec<Answer> {
        table::SETTINGS
            .iter()
            .map(|setting| {
                let layered = value::displayed(setting, &self.layers.value(setting.name));
                let value = self.computed.get(setting.name).cloned().or(layered);
                Answer { setting, value, origin: self.layers.origin(setting.name).to_string() }
            })
            .collect()
    }
}

fn identity(owner: &Owner, initgroups: bool) -> Identity {
    let Some(uid) = owner.uid else {
        return Identity::ourselves();
    };
    let mut groups: Vec<u32> = owner.gid.into_iter().collect();
    if initgroups
        && let (Some(name), Some(gid)) = (&owner.name, owner.gid)
        && let Ok(name) = CString::new(name.as_str())
        && let Ok(all) = getgrouplist(&name, Gid::from_raw(gid))
    {
        groups = all.into_iter().map(Gid::as_raw).collect();
    }
    Identity::other(uid, groups)
}

/// The kind has checked that it is neither negative nor endless.
fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

fn or_greatest(limit: u32, greatest: u32) -> u32 {
    if limit == 0 { greatest } else { limit }
}
