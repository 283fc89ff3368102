//! THE table: every setting, once. Command line, environment, TOML, help, `rgunicorn explain`, man page and reference
//! derive from it.
//!
//! All settings of Gunicorn 27 are here under Gunicorn's names and flags, and ours beside them. A setting that does
//! nothing says so by its status; none is taken silently. Invariant: names, aliases, flags and variables are unique, and
//! every default is a value of its kind (tests below).

use super::WorkerClass;
use super::setting::Default::{Computed, Is, Unset};
use super::setting::{FlagForm, Kind, OnReload, Section, Setting};

/// Counts of things: enough for any machine, small enough to catch a slipped finger.
const COUNT: i64 = 1_000_000;

const TLS: &str = "TLS is terminated in front of rgunicorn: let nginx, HAProxy or the load balancer hold the certificate \
                   and pass requests on (docs/nginx.md)";

const HOOK: &str = "hooks are Python functions of Gunicorn's configuration file, and rgunicorn's arbiter runs no Python: \
                    move what it does into the application, or into the unit (ExecStartPre=, ExecStopPost=)";

const PASTE: &str = "PasteDeploy files are not read: name a module that calls paste.deploy.loadapp, and serve that";

const DIRTY: &str = "rgunicorn has no dirty arbiters: give long tasks to a task queue (Celery, Dramatiq, RQ)";

const UWSGI: &str = "rgunicorn speaks HTTP: in nginx write proxy_pass instead of uwsgi_pass";

const PYTHON_LOGGING: &str = "rgunicorn's own records are not made by Python: use loglevel, errorlog, accesslog and \
                              log_format, and configure the application's loggers in the application";

const CONTROL: &str = "the socket is made when the program starts";

const UNMADE: &str = "nothing reads it, in Gunicorn neither";

/// The pools that are built.
pub(crate) const POOLS: &[WorkerClass] =
    &[WorkerClass::Sync, WorkerClass::Gthread, WorkerClass::Gevent, WorkerClass::Asgi, WorkerClass::Auto];

/// The entry of a name or an alias.
pub(crate) fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name || setting.aliases.contains(&name))
}

const fn hook(name: &'static str, help: &'static str) -> Setting {
    Setting::new(name, Section::Hooks, Kind::Hook, Unset, help).refused(HOOK)
}

const fn tls(name: &'static str, kind: Kind, default: super::setting::Default, help: &'static str) -> Setting {
    Setting::new(name, Section::Tls, kind, default, help).refused(TLS)
}

/// All settings, by section.
pub(crate) static SETTINGS: &[Setting] = &[
    // Application
    Setting::new("app", Section::Application, Kind::Text, Unset, "The application: MODULE, MODULE:VARIABLE or MODULE:FACTORY(ARGUMENTS)")
        .aliases(&["wsgi_app"])
        .doc("What to serve. MODULE is imported with chdir first on sys.path; VARIABLE, by default \"application\", is the \
              callable in it, dots allowed. With parentheses it is a function that returns the application: \
              app = 'shop:make(\"production\")'. On the command line it is the one argument without a dash. Gunicorn's \
              name wsgi_app means the same."),
    Setting::new("config", Section::Application, Kind::Path { dash: false }, Computed("/etc/rgunicorn/INSTANCE.toml with --instance"), "Read settings from this TOML file")
        .flags(&["-c", "--config"])
        .on_reload(OnReload::Start)
        .doc("A TOML file whose keys are the names of the settings:\n\n  app = \"shop.wsgi:application\"\n  chdir = \"/srv/shop\"\n  \
              workers = 4\n  bind = [\"127.0.0.1:8000\", \"unix:/run/shop.sock\"]\n  raw_env = { DJANGO_SETTINGS_MODULE = \"shop.settings\" }\n\n\
              It ranks above the defaults and below RGUNICORN_ variables, GUNICORN_CMD_ARGS and the command line. A reload \
              reads it anew. Gunicorn's gunicorn.conf.py is Python and is refused: the same names with TOML's values say \
              the same, hooks apart. A gunicorn.conf.py in the working directory, which Gunicorn would load, is refused \
              too unless a TOML file is named."),
    Setting::new("instance", Section::Application, Kind::Text, Unset, "Name of this instance; reads /etc/rgunicorn/NAME.toml")
        .flags(&["--instance"])
        .on_reload(OnReload::Start)
        .doc("The name in rgunicorn@NAME.service. Without --config, settings come from /etc/rgunicorn/NAME.toml, which must \
              exist. The name is in records, in process titles and in the user's name (rgunicorn-NAME)."),
    Setting::new("python", Section::Application, Kind::Path { dash: false }, Computed("the virtual environment, else python3 on PATH"), "The application's interpreter")
        .flags(&["--python"])
        .doc("The python of the application's virtual environment: /srv/shop/venv/bin/python. Unset, it is the first of: the \
              python beside rgunicorn if that is a virtual environment, $VIRTUAL_ENV/bin/python, CHDIR/.venv/bin/python, \
              CHDIR/venv/bin/python, python3 on PATH. CPython 3.10 or newer. Links in the folder's path are resolved at \
              each reload; the interpreter's own link is not, since that makes it a virtual environment."),
    Setting::new("chdir", Section::Application, Kind::Path { dash: false }, Computed("the working directory"), "Working directory of the application, and first on sys.path")
        .flags(&["--chdir"])
        .doc("Mold and workers run there, and relative paths in other settings begin there. Links in it are resolved once \
              per generation, so a \"current\" link may be moved before a reload."),
    Setting::new("pythonpath", Section::Application, Kind::List, Unset, "Folders put in front of sys.path, separated by commas")
        .flags(&["--pythonpath"])
        .doc("Relative ones begin at chdir."),
    Setting::new("raw_env", Section::Application, Kind::Pairs, Is(""), "Set NAME=VALUE in the application's environment")
        .flags(&["-e", "--env"])
        .doc("In TOML a list of \"NAME=VALUE\" or a table. It wins over env_file. Values are not shown by --print-config."),
    Setting::new("env_file", Section::Application, Kind::List, Is(""), "Read the application's environment from these files")
        .flags(&["--env-file"])
        .form(FlagForm::Repeated)
        .doc("Lines NAME=VALUE in the syntax of systemd's EnvironmentFile=: # and ; begin comments, quotes and backslashes \
              work as there, later lines win. A - before the path allows the file to be missing. Unlike EnvironmentFile=, \
              the files are read anew by each reload."),
    Setting::new("preload_app", Section::Application, Kind::Switch, Is("false"), "Import the application once, before workers are forked")
        .flags(&["--preload"])
        .doc("The mold imports the application and workers are forked from it: they share its memory and start at once. \
              Threads, connections and open files that the import leaves behind do not survive a fork; they are warned \
              about by name. Unlike Gunicorn, a reload starts a fresh mold, so preloaded code is reloaded too."),
    Setting::new("preload_strict", Section::Application, Kind::Switch, Is("false"), "Refuse to fork an application that left threads or sockets behind")
        .flags(&["--preload-strict"])
        .doc("With preload_app: what is otherwise a warning ends the boot."),
    Setting::new("paste", Section::Application, Kind::Path { dash: false }, Unset, "PasteDeploy file")
        .flags(&["--paste", "--paster"])
        .refused(PASTE),
    Setting::new("raw_paste_global_conf", Section::Application, Kind::Pairs, Is(""), "PasteDeploy globals")
        .flags(&["--paste-global"])
        .refused(PASTE),

    // Sockets
    Setting::new("bind", Section::Sockets, Kind::Addresses, Is("127.0.0.1:8000"), "Listen on HOST:PORT, [IPV6]:PORT, unix:PATH, fd://N; may repeat")
        .flags(&["-b", "--bind"])
        .env(&["PORT"])
        .doc("HOST, HOST:PORT, :PORT, [IPV6]:PORT, unix:PATH, unix:@NAME (abstract), fd://N (inherited), fdname:NAME (a \
              socket that systemd passes under that FileDescriptorName=). The environment variable PORT means \
              0.0.0.0:$PORT. Sockets that systemd passes are always served; the default gives way to them. A reload keeps \
              the listeners that stay, opens new ones and closes those that are gone."),
    Setting::new("backlog", Section::Sockets, Kind::Integer { min: 1, max: 1 << 24 }, Is("2048"), "Connections that may wait to be accepted")
        .flags(&["--backlog"])
        .doc("listen(2)'s backlog, for sockets that rgunicorn binds; the kernel caps it at net.core.somaxconn. systemd's \
              sockets have Backlog=."),
    Setting::new("reuse_port", Section::Sockets, Kind::Switch, Is("false"), "SO_REUSEPORT")
        .flags(&["--reuse-port"])
        .refused("with SO_REUSEPORT each worker has a queue of its own, which is lost when the worker ends; rgunicorn's workers \
                  share one listener and balance by themselves: leave it out"),
    Setting::new("umask", Section::Sockets, Kind::Mode, Is("0"), "umask of unix sockets, and of workers if it is set")
        .flags(&["-m", "--umask"])
        .doc("Text with a leading 0 is octal, as in TOML 0o027. Unset, a unix socket that rgunicorn binds can be used by \
              everybody, as with Gunicorn, and workers keep the inherited umask. Set, it also is the workers' umask. \
              systemd's sockets have SocketMode=."),

    // Workers
    Setting::new("workers", Section::Workers, Kind::Integer { min: 1, max: 4096 }, Computed("2 x CPUs + 1"), "Number of worker processes")
        .flags(&["-w", "--workers"])
        .env(&["WEB_CONCURRENCY"])
        .doc("Unset, it is 2 x CPUs + 1; CPUs are those of the affinity mask, bounded by the cgroup's quota. (Gunicorn's \
              default is 1.) Whether a slow application needs more, and a small machine fewer: docs/sizing.md."),
    Setting::new("worker_class", Section::Workers, Kind::Pool, Is("sync"), "The pool: sync, gthread, gevent, asgi or auto")
        .flags(&["-k", "--worker-class"])
        .doc("sync: one request at a time per worker. gthread: threads requests at a time. gevent: a greenlet per request. \
              asgi: a task per request, for ASGI applications; uvicorn's worker classes mean this one. auto: asgi for an ASGI application, else \
              sync, or gthread with more than one thread. sync with more than \
              one thread is gthread, as in Gunicorn. Slow clients occupy no worker in any pool."),
    Setting::new("threads", Section::Workers, Kind::Integer { min: 1, max: 4096 }, Is("1"), "Threads per worker (gthread)")
        .flags(&["--threads"])
        .doc("Requests that one gthread worker runs at once."),
    Setting::new("worker_connections", Section::Workers, Kind::Integer { min: 1, max: COUNT }, Is("1000"), "Requests at once per worker (gevent, asgi)")
        .flags(&["--worker-connections"])
        .doc("Coroutine pools only. Connections that wait are bounded by file descriptors alone."),
    Setting::new("worker_tmp_dir", Section::Workers, Kind::Path { dash: false }, Unset, "Folder of Gunicorn's heartbeat files")
        .flags(&["--worker-tmp-dir"])
        .no_effect("workers report to the arbiter without files"),

    // Timeouts and recycling
    Setting::new("timeout", Section::Timeouts, Kind::Seconds { min: 0.0 }, Computed("30 on sync, 300 on other pools; auto: as the pool that it chooses"), "Seconds that a request may be in the application without progress")
        .flags(&["-t", "--timeout"])
        .doc("Progress is a part of the body read or of the response sent. When it passes, the client gets a 504 if nothing \
              was sent, the stack goes to the log, and the worker is replaced after its other requests. 0 turns it off."),
    Setting::new("graceful_timeout", Section::Timeouts, Kind::Seconds { min: 0.0 }, Is("30"), "Seconds that running requests get at a stop or a reload")
        .flags(&["--graceful-timeout"])
        .doc("After it, what still runs is cut with a record that names it. Under systemd, TimeoutStopSec= may be shorter: while requests finish the instance \
              asks for the time that it needs."),
    Setting::new("boot_timeout", Section::Timeouts, Kind::Seconds { min: 0.0 }, Is("120"), "Seconds that the application may take to be imported")
        .flags(&["--boot-timeout"])
        .doc("For the mold with preload_app, and for each worker. What takes longer is given up, and the record shows where \
              the import was. 0 turns it off."),
    Setting::new("keepalive", Section::Timeouts, Kind::Seconds { min: 0.0 }, Is("75"), "Seconds that an idle connection is kept open")
        .flags(&["--keep-alive"])
        .doc("Longer than the 60 s after which load balancers and nginx close theirs, so that they never send a request on a \
              connection that is being closed: Gunicorn's 2 s is a cause of 502 answers. 0 closes after each response. \
              Idle connections occupy no worker."),
    Setting::new("header_timeout", Section::Timeouts, Kind::Seconds { min: 0.0 }, Is("30"), "Seconds for the head of a request")
        .flags(&["--header-timeout"])
        .doc("From its first byte; then 408. 0: no limit."),
    Setting::new("body_timeout", Section::Timeouts, Kind::Seconds { min: 0.0 }, Is("30"), "Seconds without progress while a body arrives")
        .flags(&["--body-timeout"])
        .doc("Then 408; the application is not called. 0: no limit."),
    Setting::new("send_timeout", Section::Timeouts, Kind::Seconds { min: 0.0 }, Is("60"), "Seconds without progress while a response is sent")
        .flags(&["--send-timeout"])
        .doc("Then the connection is closed. 0: no limit."),
    Setting::new("queue_timeout", Section::Timeouts, Kind::Seconds { min: 0.0 }, Is("0"), "Seconds that a complete request may wait for a worker")
        .flags(&["--queue-timeout"])
        .doc("Then 503 with Retry-After. 0 turns it off."),
    Setting::new("max_requests", Section::Timeouts, Kind::Integer { min: 0, max: i64::MAX }, Is("0"), "Requests after which a worker is replaced")
        .flags(&["--max-requests"])
        .doc("Against memory that applications leak. 0: never. The replacement is started by the arbiter."),
    Setting::new("max_requests_jitter", Section::Timeouts, Kind::Integer { min: 0, max: i64::MAX }, Is("0"), "Random requests added to max_requests per worker")
        .flags(&["--max-requests-jitter"])
        .doc("Each worker adds a number from 0 to this, so that workers are not replaced at the same time."),
    Setting::new("max_worker_memory", Section::Timeouts, Kind::Size, Is("0"), "Memory at which a worker is replaced")
        .flags(&["--max-worker-memory"])
        .doc("Resident memory (RSS, what a preloaded application shares with it included), looked at once a second while \
              requests run. Another worker is ready before this one leaves, and it finishes what it has begun. 0: never."),
    Setting::new("max_worker_memory_hard", Section::Timeouts, Kind::Size, Is("0"), "Memory at which a worker is killed")
        .flags(&["--max-worker-memory-hard"])
        .doc("Against a single request that takes all memory: the worker is killed at once and replaced, and its requests \
              are lost; the record names them. Measured as max_worker_memory. 0: never."),
    Setting::new("max_worker_lifetime", Section::Timeouts, Kind::Seconds { min: 0.0 }, Is("0"), "Seconds after which a worker is replaced")
        .flags(&["--max-worker-lifetime"])
        .doc("Another worker is ready before the old one leaves, and only one is replaced at a time. Up to a tenth of it is \
              added per worker, so that workers that were born together are not replaced together. 0: never."),
    Setting::new("idle_timeout", Section::Timeouts, Kind::Seconds { min: 0.0 }, Is("0"), "Seconds without request or connection after which the instance ends")
        .flags(&["--idle-timeout"])
        .doc("Its sockets stay with systemd, and the next connection starts it again, so an instance that is rarely used costs \
              nothing meanwhile. It ends between one and nine eighths of this time after the last connection was closed. Only \
              where all its listeners are systemd's; elsewhere it has no effect, and a warning says so. 0: never."),
    Setting::new("reload_strategy", Section::Timeouts, Kind::Choice(&["overlap", "rolling"]), Is("overlap"), "How a reload replaces workers: overlap or rolling")
        .flags(&["--reload-strategy"])
        .doc("overlap: the new generation is complete before the old one retires. rolling: worker by worker, where memory is \
              too small for two generations. There is at most one worker more than usual, and a second mold; until the end old \
              and new code answer at once, and a failure has the old generation take its places back. See docs/reload.md."),
    Setting::new("reload_check", Section::Timeouts, Kind::List, Is(""), "Requests that each new worker of a reload must answer before it serves")
        .flags(&["--reload-check"])
        .form(FlagForm::Repeated)
        .doc("PATH or PATH=STATUS, as \"/health\" or \"/login=200\"; without a status any from 200 to 399 is right. \
              http://HOST/PATH and https://HOST/PATH name the host that the request is for, which Django's ALLOWED_HOSTS \
              looks at; otherwise it is localhost. Each new worker of a reload sends them to its application, with the \
              User-Agent rgunicorn-reload-check, before any of them serves. One that is answered otherwise, or not within \
              boot_timeout, ends the reload with its reason, and the old generation goes on. A start is not checked, nor is \
              a worker that replaces another of its generation: without it there would only be less."),

    // Requests and responses
    Setting::new("limit_request_line", Section::Requests, Kind::Integer { min: 0, max: 65_536 }, Is("4094"), "Bytes of a request line")
        .flags(&["--limit-request-line"])
        .doc("Then 414. 0 means the greatest value, 65536: nothing that a client sends is unlimited."),
    Setting::new("limit_request_fields", Section::Requests, Kind::Integer { min: 0, max: 32_768 }, Is("100"), "Number of header fields")
        .flags(&["--limit-request-fields"])
        .doc("Then 431. 0 means the greatest value, 32768."),
    Setting::new("limit_request_field_size", Section::Requests, Kind::Integer { min: 0, max: 65_536 }, Is("8190"), "Bytes of one header field")
        .flags(&["--limit-request-field_size", "--limit-request-field-size"])
        .doc("Then 431. 0 means the greatest value, 65536. The flag's underscore is Gunicorn's; a dash works too."),
    Setting::new("limit_request_body", Section::Requests, Kind::Size, Is("0"), "Bytes of a request body")
        .flags(&["--limit-request-body"])
        .doc("Then 413. 0: unlimited, as in Gunicorn; nginx' client_max_body_size is 1M by default."),
    Setting::new("request_buffering", Section::Requests, Kind::Switch, Is("true"), "Receive a body completely before the application is called")
        .flags(&["--no-request-buffering"])
        .form(FlagForm::Switch(false))
        .doc("Slow uploads then occupy no worker. false hands the body to the application while it arrives."),
    Setting::new("request_buffer", Section::Requests, Kind::Size, Is("64KiB"), "Bytes of a body kept in memory before it goes to a file")
        .flags(&["--request-buffer"])
        .doc("Beyond it the body is written to an unnamed file in /var/tmp."),
    Setting::new("spool_limit", Section::Requests, Kind::Size, Is("1GiB"), "Bytes of all bodies in files")
        .flags(&["--spool-limit"])
        .doc("Per instance; then 503. 0: unlimited."),
    Setting::new("response_buffer", Section::Requests, Kind::Size, Is("1MiB"), "Bytes of a response kept for a slow reader")
        .flags(&["--response-buffer"])
        .doc("A response that fits frees its worker at once; a longer one makes it wait for the reader."),
    Setting::new("sendfile", Section::Requests, Kind::Switch, Is("true"), "Use sendfile(2) for wsgi.file_wrapper")
        .flags(&["--no-sendfile"])
        .form(FlagForm::Switch(false))
        .env(&["SENDFILE"])
        .doc("Turn it off for file systems on which sendfile(2) fails."),
    Setting::new("request_id", Section::Requests, Kind::Switch, Is("true"), "Give every request an id: X-Request-ID")
        .flags(&["--no-request-id"])
        .form(FlagForm::Switch(false))
        .doc("From a peer in forwarded_allow_ips, or on a unix socket, X-Request-ID is taken over if it has 1 to 128 letters, \
              digits and -_.:=+/@~; otherwise 32 hexadecimal digits are made. The application finds it in \
              HTTP_X_REQUEST_ID, the client in the response unless the application has set the header itself, the operator \
              in the journal's field RGUNICORN_REQUEST_ID, in records of errors and in the access log as %(id)s. false \
              leaves the header as it comes."),
    Setting::new("health_path", Section::Requests, Kind::UrlPath, Is(""), "Path answered without the application, for probes")
        .flags(&["--health-path"])
        .doc("200 while serving, 503 while draining. Empty: none."),
    Setting::new("permit_unconventional_http_method", Section::Requests, Kind::Switch, Is("false"), "Accept methods in lower case, with #, or of odd lengths")
        .flags(&["--permit-unconventional-http-method"])
        .doc("Else 400."),
    Setting::new("permit_unconventional_http_version", Section::Requests, Kind::Switch, Is("false"), "Accept HTTP versions other than 1.x")
        .flags(&["--permit-unconventional-http-version"])
        .doc("Else they are refused."),
    Setting::new("casefold_http_method", Section::Requests, Kind::Switch, Is("false"), "Turn methods into upper case")
        .flags(&["--casefold-http-method"])
        .doc("Methods are case-sensitive (RFC 9110, 9.1); this is for old clients."),
    Setting::new("strip_header_spaces", Section::Requests, Kind::Switch, Is("false"), "Accept spaces between a header's name and its colon (unsafe)")
        .flags(&["--strip-header-spaces"])
        .doc("Behind a proxy that reads such a field differently, this allows request smuggling (RFC 9112, 5.1)."),
    Setting::new("permit_obsolete_folding", Section::Requests, Kind::Switch, Is("false"), "Accept folded header lines")
        .flags(&["--permit-obsolete-folding"])
        .refused("folded header lines are obsolete and a means of request smuggling (RFC 9112, 5.2): mend the client"),
    Setting::new("http_parser", Section::Requests, Kind::Choice(&["auto", "fast", "python"]), Is("auto"), "Gunicorn's choice of parsers")
        .flags(&["--http-parser"])
        .no_effect("rgunicorn has one parser, which is fast and strict"),
    Setting::new("tmp_upload_dir", Section::Requests, Kind::Path { dash: false }, Unset, "Folder for uploads").no_effect(UNMADE),

    // Proxies in front
    Setting::new("forwarded_allow_ips", Section::Proxies, Kind::Networks, Is("127.0.0.1,::1"), "Peers whose forwarding headers are believed")
        .flags(&["--forwarded-allow-ips"])
        .env(&["FORWARDED_ALLOW_IPS"])
        .doc("IP addresses, networks such as 10.0.0.0/8, or * for everybody, separated by commas. Peers on unix sockets are \
              always believed. Use * only where nobody but the proxy can connect. ASGI: client of the scope is the last \
              address in their X-Forwarded-For that is none of these."),
    Setting::new("secure_scheme_headers", Section::Proxies, Kind::Headers, Is("X-FORWARDED-PROTOCOL=ssl,X-FORWARDED-PROTO=https,X-FORWARDED-SSL=on"), "Headers that say that the client used https")
        .doc("A table of names and values; from a believed peer such a header makes wsgi.url_scheme https. Headers that \
              contradict each other are answered with 400. A table that is given replaces the default."),
    Setting::new("forwarder_headers", Section::Proxies, Kind::List, Is("SCRIPT_NAME,PATH_INFO"), "Headers with an underscore that a believed peer may set")
        .flags(&["--forwarder-headers"])
        .doc("REMOTE_USER for instance, if the proxy authenticates. * means all."),
    Setting::new("header_map", Section::Proxies, Kind::Choice(&["drop", "refuse", "dangerous"]), Is("drop"), "What happens to header names with an underscore")
        .flags(&["--header-map"])
        .doc("In the environ X_REMOTE and X-REMOTE are the same name, so one can pose as the other. drop: left out. refuse: \
              400. dangerous: taken."),
    Setting::new("proxy_protocol", Section::Proxies, Kind::ChoiceOrSwitch { choices: &["off", "v1", "v2", "auto"], on: "auto", off: "off" }, Is("off"), "Expect the PROXY protocol: off, v1, v2, auto")
        .flags(&["--proxy-protocol"])
        .form(FlagForm::Optional("auto"))
        .doc("For connections that a TCP load balancer passes on: the address of the client then comes from its first bytes. The flag without a value means auto."),
    Setting::new("proxy_allow_ips", Section::Proxies, Kind::Networks, Is("127.0.0.1,::1"), "Peers that may speak the PROXY protocol")
        .flags(&["--proxy-allow-from"])
        .doc("As forwarded_allow_ips. Where it is not allowed, such a connection is refused."),
    Setting::new("protocol", Section::Proxies, Kind::Choice(&["http", "uwsgi"]), Is("http"), "Wire protocol of all listeners")
        .flags(&["--protocol"])
        .refused(UWSGI),
    Setting::new("uwsgi_allow_ips", Section::Proxies, Kind::Networks, Is("127.0.0.1,::1"), "Peers that may speak uwsgi")
        .flags(&["--uwsgi-allow-from"])
        .refused(UWSGI),

    // Process
    Setting::new("user", Section::Process, Kind::Text, Computed("the user that starts rgunicorn"), "User of the workers, name or number")
        .flags(&["-u", "--user"])
        .doc("Needs root. Under systemd use the unit's User= instead. HOME and USER stay those of the arbiter, as with \
              Gunicorn: set them with raw_env if the application looks there."),
    Setting::new("group", Section::Process, Kind::Text, Computed("the user's own group, else that of whoever starts rgunicorn"), "Group of the workers, name or number")
        .flags(&["-g", "--group"])
        .doc("Needs root. With Gunicorn, user alone leaves the workers in root's group."),
    Setting::new("initgroups", Section::Process, Kind::Switch, Is("false"), "Give the workers the supplementary groups of user")
        .flags(&["--initgroups"])
        .doc("Without it they have none but group."),
    Setting::new("pidfile", Section::Process, Kind::Path { dash: false }, Unset, "Write the arbiter's process id to this file")
        .flags(&["-p", "--pid"])
        .on_reload(OnReload::Restart("the file is written when the program starts"))
        .doc("Not needed under systemd."),
    Setting::new("proc_name", Section::Process, Kind::Text, Computed("app"), "Name in the process titles")
        .flags(&["-n", "--name"])
        .doc("ps shows \"rgunicorn: worker [NAME]\", and mold for the process that forks the workers."),
    Setting::new("default_proc_name", Section::Process, Kind::Text, Is("gunicorn"), "Gunicorn's own use").no_effect("proc_name is the one to set"),
    Setting::new("daemon", Section::Process, Kind::Switch, Is("false"), "Go to the background")
        .flags(&["-D", "--daemon"])
        .refused("putting a service into the background is systemd's work: systemctl start rgunicorn@NAME.socket, or \
                  systemd-run rgunicorn ... without a unit"),

    // Logging
    Setting::new("loglevel", Section::Logging, Kind::Choice(&["debug", "info", "warning", "error", "critical"]), Is("info"), "debug, info, warning, error or critical")
        .flags(&["--log-level"])
        .doc("Records below it are not made. The access log has no level."),
    Setting::new("errorlog", Section::Logging, Kind::Path { dash: true }, Is("-"), "File for records, - for stderr or the journal")
        .flags(&["--error-logfile", "--log-file"])
        .doc("With - and stderr connected to the journal, records are native journal entries, one per traceback, and what \
              the application prints is one per line with the fields of its worker. Files are reopened on SIGUSR1."),
    Setting::new("accesslog", Section::Logging, Kind::Path { dash: true }, Unset, "File for the access log, - for stdout or the journal")
        .flags(&["--access-logfile"])
        .doc("Unset, there is none. Files are reopened on SIGUSR1."),
    Setting::new("access_log_format", Section::Logging, Kind::LogTemplate, Is(r#"%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s""#), "Template of an access log line")
        .flags(&["--access-logformat"])
        .doc("Gunicorn's atoms: h remote address, l -, u user, t time, r request line, m method, U path, q query, H protocol, \
              s status, B and b bytes, f referer, a user agent, T seconds, M milliseconds, D microseconds, L decimal \
              seconds, p pid, id request id, {name}i request header, {name}o response header, {name}e environ. Not used with \
              log_format = \"json\"."),
    Setting::new("log_format", Section::Logging, Kind::Choice(&["text", "json"]), Is("text"), "Form of records outside the journal: text or json")
        .flags(&["--log-format"])
        .doc("json: one object per line, in the access log too."),
    Setting::new("capture_output", Section::Logging, Kind::Switch, Is("false"), "Send what the application prints to errorlog")
        .flags(&["--capture-output"])
        .doc("stdout and stderr of mold and workers become the file that errorlog names, and follow it when it is reopened; \
              what is printed does not become records. With errorlog - it goes there in any case."),
    Setting::new("enable_stdio_inheritance", Section::Logging, Kind::Switch, Is("false"), "Leave stdout and stderr to the application")
        .flags(&["-R", "--enable-stdio-inheritance"])
        .no_effect("the application always has rgunicorn's own stdout and stderr, unless capture_output is on"),
    Setting::new("disable_redirect_access_to_syslog", Section::Logging, Kind::Switch, Is("false"), "Keep the access log out of syslog")
        .flags(&["--disable-redirect-access-to-syslog"])
        .no_effect("the access log never goes to syslog; it goes where accesslog says"),
    Setting::new("logger_class", Section::Logging, Kind::Text, Is("gunicorn.glogging.Logger"), "Python class that logs")
        .flags(&["--logger-class"])
        .refused(PYTHON_LOGGING),
    Setting::new("logconfig", Section::Logging, Kind::Path { dash: false }, Unset, "Python logging configuration")
        .flags(&["--log-config"])
        .refused(PYTHON_LOGGING),
    Setting::new("logconfig_dict", Section::Logging, Kind::Table, Is(""), "Python logging configuration").refused(PYTHON_LOGGING),
    Setting::new("logconfig_json", Section::Logging, Kind::Path { dash: false }, Unset, "Python logging configuration")
        .flags(&["--log-config-json"])
        .refused(PYTHON_LOGGING),
    Setting::new("syslog", Section::Logging, Kind::Switch, Is("false"), "Send records to syslog").flags(&["--log-syslog"]).not_yet(),
    Setting::new("syslog_addr", Section::Logging, Kind::Text, Is("udp://localhost:514"), "Where syslog is").flags(&["--log-syslog-to"]).not_yet(),
    Setting::new("syslog_prefix", Section::Logging, Kind::Text, Unset, "Program name in syslog").flags(&["--log-syslog-prefix"]).not_yet(),
    Setting::new("syslog_facility", Section::Logging, Kind::Text, Is("user"), "Facility in syslog").flags(&["--log-syslog-facility"]).not_yet(),
    Setting::new("statsd_host", Section::Logging, Kind::Text, Unset, "StatsD server").flags(&["--statsd-host"]).not_yet(),
    Setting::new("statsd_prefix", Section::Logging, Kind::Text, Is(""), "Prefix of StatsD metrics").flags(&["--statsd-prefix"]).not_yet(),
    Setting::new("dogstatsd_tags", Section::Logging, Kind::Text, Is(""), "Datadog tags of StatsD metrics").flags(&["--dogstatsd-tags"]).not_yet(),
    Setting::new("enable_backlog_metric", Section::Logging, Kind::Switch, Is("false"), "StatsD metric of the backlog").flags(&["--enable-backlog-metric"]).not_yet(),

    // Checking and debugging
    Setting::new("check_config", Section::Debugging, Kind::Switch, Is("false"), "Check settings and application, and exit")
        .flags(&["--check-config"])
        .on_reload(OnReload::Start)
        .doc("Reads all settings and imports the application in its own interpreter. The exit status says how it went."),
    Setting::new("print_config", Section::Debugging, Kind::Switch, Is("false"), "Print every setting with its origin, and check as --check-config")
        .flags(&["--print-config"])
        .on_reload(OnReload::Start)
        .doc("The output is a TOML file. Values of raw_env are left out."),
    Setting::new("reload", Section::Debugging, Kind::Switch, Is("false"), "Reload when the code changes, for development").flags(&["--reload"]).not_yet(),
    Setting::new("reload_engine", Section::Debugging, Kind::Choice(&["auto", "poll", "inotify"]), Is("auto"), "How changes are noticed").flags(&["--reload-engine"]).not_yet(),
    Setting::new("reload_extra_files", Section::Debugging, Kind::List, Is(""), "More files to watch")
        .flags(&["--reload-extra-file"])
        .form(FlagForm::Repeated)
        .not_yet(),
    Setting::new("spew", Section::Debugging, Kind::Switch, Is("false"), "Trace every line of Python")
        .flags(&["--spew"])
        .refused("use python -X importtime, a debugger or py-spy on a worker"),

    // ASGI
    Setting::new("asgi_loop", Section::Asgi, Kind::Choice(&["auto", "asyncio", "uvloop"]), Is("auto"), "Event loop")
        .flags(&["--asgi-loop"])
        .doc("auto: uvloop if the application's virtual environment has it, else asyncio. uvloop: without it the worker does not boot."),
    Setting::new("asgi_lifespan", Section::Asgi, Kind::Choice(&["auto", "on", "off"]), Is("auto"), "Lifespan protocol")
        .flags(&["--asgi-lifespan"])
        .doc("auto: an application that does not know it is served without; one whose startup fails does not boot. on: the \
              application must know it. off: it is not told. The startup has boot_timeout, the shutdown what is left of \
              graceful_timeout."),
    Setting::new("asgi_disconnect_grace_period", Section::Asgi, Kind::Seconds { min: 0.0 }, Is("3"), "Seconds for the application after a disconnect")
        .flags(&["--asgi-disconnect-grace-period"])
        .doc("After it, the task of a request whose client has left is cancelled. 0: at once. The task of a WebSocket is \
              cancelled only if it has not learned of it by receive or send."),
    Setting::new("websocket_max_message_size", Section::Asgi, Kind::Size, Is("16777216"), "Bytes of a WebSocket message")
        .flags(&["--websocket-max-message-size"])
        .doc("A client that sends a longer one is disconnected with close code 1009. 0 means 1 GiB."),
    Setting::new("websocket_ping_interval", Section::Asgi, Kind::Seconds { min: 0.0 }, Is("20"), "Seconds of silence after which a WebSocket's client is pinged")
        .flags(&["--websocket-ping-interval"])
        .doc("uvicorn's --ws-ping-interval. 0: never."),
    Setting::new("websocket_ping_timeout", Section::Asgi, Kind::Seconds { min: 0.0 }, Is("20"), "Seconds in which a WebSocket's client must answer a ping")
        .flags(&["--websocket-ping-timeout"])
        .doc("uvicorn's --ws-ping-timeout. A client that does not is disconnected. 0: no limit."),
    Setting::new("root_path", Section::Asgi, Kind::Text, Is(""), "root_path of the ASGI scope")
        .flags(&["--root-path"])
        .doc("Where the application is mounted. A request whose path is not below it comes from a proxy that has taken the \
              prefix away; it is put in front of the scope's path again. A trusted SCRIPT_NAME header takes its place."),

    // Control
    Setting::new("control_socket", Section::Control, Kind::Path { dash: false }, Computed("the instance's runtime directory"), "Path of the control socket")
        .flags(&["--control-socket"])
        .on_reload(OnReload::Restart(CONTROL))
        .doc("Where rgunicornctl reaches the instance. Unset, it is control.sock in the unit's RuntimeDirectory=; without \
              systemd in /run/rgunicorn-INSTANCE (root) or $XDG_RUNTIME_DIR/rgunicorn-INSTANCE, where an instance without \
              a name is called by its process id. Root and the arbiter's user may connect."),
    Setting::new("control_socket_mode", Section::Control, Kind::Mode, Is("0o600"), "Permission bits of the control socket")
        .flags(&["--control-socket-mode"])
        .on_reload(OnReload::Restart(CONTROL))
        .doc("With 0o660 the group, with 0o666 everybody may scale, reload and stop the instance."),
    Setting::new("control_socket_disable", Section::Control, Kind::Switch, Is("false"), "No control socket")
        .flags(&["--no-control-socket"])
        .on_reload(OnReload::Restart(CONTROL))
        .doc("rgunicornctl cannot reach such an instance; signals can."),

    // HTTP/2
    Setting::new("http_protocols", Section::Http2, Kind::List, Is("h1"), "Protocols: h1, h2").flags(&["--http-protocols"]).not_yet(),
    Setting::new("http2_cleartext", Section::Http2, Kind::ChoiceOrSwitch { choices: &["off", "prior-knowledge", "upgrade", "both"], on: "both", off: "off" }, Is("off"), "HTTP/2 without TLS")
        .flags(&["--http2-cleartext"])
        .not_yet(),
    Setting::new("http2_max_concurrent_streams", Section::Http2, Kind::Integer { min: 1, max: i64::MAX }, Is("100"), "HTTP/2 streams per connection")
        .flags(&["--http2-max-concurrent-streams"])
        .not_yet(),
    Setting::new("http2_initial_window_size", Section::Http2, Kind::Integer { min: 1, max: 2_147_483_647 }, Is("65535"), "HTTP/2 flow control window")
        .flags(&["--http2-initial-window-size"])
        .not_yet(),
    Setting::new("http2_max_frame_size", Section::Http2, Kind::Integer { min: 16_384, max: 16_777_215 }, Is("16384"), "HTTP/2 frame size")
        .flags(&["--http2-max-frame-size"])
        .not_yet(),
    Setting::new("http2_max_header_list_size", Section::Http2, Kind::Integer { min: 0, max: i64::MAX }, Is("65536"), "HTTP/2 header list size")
        .flags(&["--http2-max-header-list-size"])
        .not_yet(),

    // TLS
    tls("keyfile", Kind::Path { dash: false }, Unset, "TLS key").flags(&["--keyfile"]),
    tls("certfile", Kind::Path { dash: false }, Unset, "TLS certificate").flags(&["--certfile"]),
    tls("ssl_version", Kind::Text, Unset, "TLS version").flags(&["--ssl-version"]),
    tls("cert_reqs", Kind::Integer { min: 0, max: 2 }, Is("0"), "Client certificates").flags(&["--cert-reqs"]),
    tls("ca_certs", Kind::Path { dash: false }, Unset, "Authorities of client certificates").flags(&["--ca-certs"]),
    tls("suppress_ragged_eofs", Kind::Switch, Is("true"), "TLS connections that end without close_notify").flags(&["--suppress-ragged-eofs"]),
    tls("do_handshake_on_connect", Kind::Switch, Is("false"), "TLS handshake at accept").flags(&["--do-handshake-on-connect"]),
    tls("ciphers", Kind::Text, Unset, "TLS ciphers").flags(&["--ciphers"]),

    // Dirty arbiters
    Setting::new("dirty_apps", Section::Dirty, Kind::List, Is(""), "Applications of the dirty pool")
        .flags(&["--dirty-app"])
        .form(FlagForm::Repeated)
        .refused(DIRTY),
    Setting::new("dirty_workers", Section::Dirty, Kind::Integer { min: 0, max: COUNT }, Is("0"), "Dirty workers").flags(&["--dirty-workers"]).refused(DIRTY),
    Setting::new("dirty_timeout", Section::Dirty, Kind::Seconds { min: 0.0 }, Is("300"), "Time of a dirty task").flags(&["--dirty-timeout"]).refused(DIRTY),
    Setting::new("dirty_threads", Section::Dirty, Kind::Integer { min: 1, max: COUNT }, Is("1"), "Threads per dirty worker").flags(&["--dirty-threads"]).refused(DIRTY),
    Setting::new("dirty_graceful_timeout", Section::Dirty, Kind::Seconds { min: 0.0 }, Is("30"), "Time of dirty workers to stop")
        .flags(&["--dirty-graceful-timeout"])
        .refused(DIRTY),

    // Hooks
    hook("on_starting", "Before the arbiter starts"),
    hook("on_reload", "At a reload"),
    hook("when_ready", "When the listeners are open"),
    hook("pre_fork", "Before a worker is forked"),
    hook("post_fork", "After a worker was forked"),
    hook("post_worker_init", "After a worker has loaded the application"),
    hook("worker_int", "When a worker gets INT or QUIT"),
    hook("worker_abort", "When a worker gets ABRT"),
    hook("pre_exec", "Before a new arbiter is executed"),
    hook("pre_request", "Before each request"),
    hook("post_request", "After each request"),
    hook("child_exit", "After a worker has ended, in the arbiter"),
    hook("worker_exit", "When a worker ends, in the worker"),
    hook("nworkers_changed", "When the number of workers changes"),
    hook("on_exit", "Before the arbiter ends"),
    Setting::new("ssl_context", Section::Hooks, Kind::Hook, Unset, "Makes the TLS context").refused(TLS),
    hook("on_dirty_starting", "Before the dirty arbiter starts"),
    hook("dirty_post_fork", "After a dirty worker was forked"),
    hook("dirty_worker_init", "After a dirty worker has loaded its applications"),
    hook("dirty_worker_exit", "When a dirty worker ends"),
];

#[cfg(test)]
mod tests {
    use super::super::setting::{Default, Status};
    use super::super::value::{Raw, read};
    use super::*;
    use std::collections::BTreeSet;

    /// Name and flags of Gunicorn 27.0.1's 120 settings, a line each.
    const GUNICORN: &str = include_str!("gunicorn_27.txt");

    #[test]
    fn every_setting_of_gunicorn_is_here_with_gunicorns_flags() {
        assert_eq!(GUNICORN.lines().count(), 120);
        for line in GUNICORN.lines() {
            let mut words = line.split(' ');
            let name = words.next().unwrap();
            let setting = find(name).unwrap_or_else(|| panic!("{name} is not in the table"));
            for flag in words {
                assert!(setting.flags.contains(&flag), "{name} lacks {flag}");
            }
        }
    }

    #[test]
    fn names_aliases_flags_and_variables_are_unique() {
        let mut seen = BTreeSet::new();
        for setting in SETTINGS {
            let names = [setting.name].into_iter().chain(setting.aliases.iter().copied());
            for word in names.chain(setting.flags.iter().copied()).chain(setting.env.iter().copied()) {
                assert!(seen.insert(word), "{word} twice");
            }
        }
    }

    #[test]
    fn every_default_is_a_value_of_its_kind() {
        for setting in SETTINGS {
            if let Default::Is(text) = setting.default {
                let read = read(setting.kind, &Raw::Text(text.to_owned()));
                assert!(read.is_ok(), "{}: {read:?}", setting.name);
            }
        }
    }

    #[test]
    fn every_built_setting_is_explained() {
        for setting in SETTINGS {
            assert!(
                !setting.help.is_empty() && !setting.help.ends_with('.') && setting.help.len() <= 80,
                "{}",
                setting.name
            );
            if setting.status == Status::Built {
                assert!(setting.doc.ends_with('.'), "{}", setting.name);
            }
        }
    }

    #[test]
    fn settings_are_listed_by_section() {
        assert!(SETTINGS.is_sorted_by_key(|setting| setting.section));
    }
}
