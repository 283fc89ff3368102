//! Each built setting: one value that has its effect on [`Settings`], one that is wrong and is told by name.

use super::*;

type Effect = fn(&Settings) -> bool;

struct Case {
    name: &'static str,
    /// TOML.
    right: &'static str,
    effect: Effect,
    /// TOML, and what is wrong with it. None where every text is right.
    wrong: Option<(&'static str, &'static str)>,
}

const fn case(name: &'static str, right: &'static str, effect: Effect, wrong: (&'static str, &'static str)) -> Case {
    Case { name, right, effect, wrong: Some(wrong) }
}

const NOT_WHOLE: &str = "is not a whole number";
const NOT_BOOL: &str = "is neither true nor false";
const NOT_TEXT: &str = "is not a text";
const SMALL: &str = "is too small";
const NOT_SECONDS: &str = "is not a number of seconds";
const NOT_BYTES: &str = "is not a number of bytes";
const NO_WORD: &str = "is none of its words";

fn seconds(number: f64) -> Duration {
    Duration::from_secs_f64(number)
}

/// Those that are questions or say where the settings are have their tests in the parent module.
const ELSEWHERE: [&str; 4] = ["config", "instance", "check_config", "print_config"];

static CASES: &[Case] = &[
    case("app", "'shop:make(\"x\")'", |s| s.app == "shop:make(\"x\")", ("true", NOT_TEXT)),
    case(
        "python",
        "'../bin/python3'",
        |s| s.python.ends_with("bin/python3") && s.python_origin == "the setting python",
        ("1.5", NOT_TEXT),
    ),
    case("chdir", "'sub'", |s| s.chdir.ends_with("app/sub"), ("['a']", NOT_TEXT)),
    case(
        "pythonpath",
        "'lib,/opt/lib'",
        |s| s.pythonpath.len() == 2 && s.pythonpath[0] == s.chdir.join("lib"),
        ("true", "is neither a text nor a list of texts"),
    ),
    case(
        "raw_env",
        "{ A = '1', B = 2 }",
        |s| s.env == [("A".into(), "1".into()), ("B".into(), "2".into())],
        ("['A']", "is wrong at its item 1: there is no = in it"),
    ),
    case("env_file", "['-missing.env']", |s| s.env.is_empty(), ("1", "is neither a text nor a list of texts")),
    case("preload_app", "true", |s| s.preload_app, ("'maybe'", NOT_BOOL)),
    case(
        "bind",
        "['[::1]:9', 'fdname:web']",
        |s| s.bind.len() == 2 && s.bind[1] == Bind::FdName("web".into()) && s.bind_origin.is_some(),
        ("'a:b'", "is no address: \"b\" is not a port (0 to 65535)"),
    ),
    case("preload_strict", "true", |s| s.preload_strict, ("2", NOT_BOOL)),
    case("backlog", "64", |s| s.backlog == 64, ("0", SMALL)),
    case("umask", "'0027'", |s| s.umask == 0o027 && s.umask_is_set, ("0o1000", "is out of range")),
    case("workers", "7", |s| s.workers == 7, ("0", SMALL)),
    case(
        "worker_class",
        "'gunicorn.workers.sync.SyncWorker'",
        |s| s.worker_class == WorkerClass::Sync,
        ("'thread'", "is no pool"),
    ),
    case("threads", "1", |s| s.threads == 1, ("1.5", NOT_WHOLE)),
    case("worker_connections", "50", |s| s.worker_connections == 50, ("-1", SMALL)),
    case("timeout", "0", |s| s.timeout.is_zero(), ("'30s'", NOT_SECONDS)),
    case(
        "reload_check",
        "['/health', '/made=201']",
        |s| s.reload_check.len() == 2 && s.reload_check[1].status == Some(201),
        ("['health']", "a path begins with /"),
    ),
    case("graceful_timeout", "2.5", |s| s.graceful_timeout == seconds(2.5), ("-1", SMALL)),
    case("boot_timeout", "9", |s| s.boot_timeout == seconds(9.0), ("nan", NOT_SECONDS)),
    case("keepalive", "5", |s| s.keepalive == seconds(5.0), ("1e10", "is longer than a year")),
    case("header_timeout", "1", |s| s.header_timeout == seconds(1.0), ("-0.5", SMALL)),
    case("body_timeout", "2", |s| s.body_timeout == seconds(2.0), ("true", NOT_SECONDS)),
    case("send_timeout", "3", |s| s.send_timeout == seconds(3.0), ("[]", NOT_SECONDS)),
    case("queue_timeout", "4", |s| s.queue_timeout == seconds(4.0), ("'soon'", NOT_SECONDS)),
    case("max_requests", "1000", |s| s.max_requests == 1000, ("-1", SMALL)),
    case("max_requests_jitter", "50", |s| s.max_requests_jitter == 50, ("'few'", NOT_WHOLE)),
    case("max_worker_memory", "'300M'", |s| s.max_worker_memory == 300 << 20, ("'10MB'", NOT_BYTES)),
    case("max_worker_memory_hard", "'1G'", |s| s.max_worker_memory_hard == 1 << 30, ("-1", SMALL)),
    case("idle_timeout", "300", |s| s.idle_timeout == seconds(300.0), ("-1", SMALL)),
    case("reload_strategy", "'Rolling'", |s| s.reload_strategy == "rolling", ("'slow'", NO_WORD)),
    case("max_worker_lifetime", "3600", |s| s.max_worker_lifetime == seconds(3600.0), ("-1", SMALL)),
    case("limit_request_line", "0", |s| s.limit_request_line == 65_536, ("70000", "is too large")),
    case("limit_request_fields", "10", |s| s.limit_request_fields == 10, ("40000", "is too large")),
    case("limit_request_field_size", "0", |s| s.limit_request_field_size == 65_536, ("-1", SMALL)),
    case("limit_request_body", "'10M'", |s| s.limit_request_body == 10 << 20, ("'10MB'", NOT_BYTES)),
    case("request_buffering", "false", |s| !s.request_buffering, ("2", NOT_BOOL)),
    case("request_buffer", "'1 KiB'", |s| s.request_buffer == 1024, ("-1", SMALL)),
    case("spool_limit", "'2g'", |s| s.spool_limit == 2 << 30, ("'lots'", NOT_BYTES)),
    case("response_buffer", "0", |s| s.response_buffer == 0, ("'9999999999T'", "is too large")),
    case("sendfile", "false", |s| !s.sendfile, ("'often'", NOT_BOOL)),
    case("request_id", "false", |s| !s.request_id, ("'some'", NOT_BOOL)),
    case("health_path", "'/up'", |s| s.health_path == "/up", ("'/up?x'", "is not the path of a request")),
    case("permit_unconventional_http_method", "true", |s| s.permit_unconventional_http_method, ("'x'", NOT_BOOL)),
    case("permit_unconventional_http_version", "true", |s| s.permit_unconventional_http_version, ("'x'", NOT_BOOL)),
    case("casefold_http_method", "true", |s| s.casefold_http_method, ("'x'", NOT_BOOL)),
    case("strip_header_spaces", "true", |s| s.strip_header_spaces, ("'x'", NOT_BOOL)),
    case(
        "forwarded_allow_ips",
        "'10.0.0.0/8, ::1'",
        |s| s.forwarded_allow_ips == ["10.0.0.0/8", "::1"],
        ("'10.0.0.0/33'", "is wrong at \"10.0.0.0/33\": that is neither an IP address, nor a network, nor *"),
    ),
    case(
        "secure_scheme_headers",
        "{ x_forwarded_proto = 'https' }",
        |s| s.secure_scheme_headers == [("X-FORWARDED-PROTO".into(), "https".into())],
        ("{ 'a b' = 'x' }", "is wrong at \"a b\": that is not a header's name"),
    ),
    case(
        "forwarder_headers",
        "['REMOTE_USER']",
        |s| s.forwarder_headers == ["REMOTE_USER"],
        ("1", "is neither a text nor a list of texts"),
    ),
    case("header_map", "'Refuse'", |s| s.header_map == "refuse", ("'keep'", NO_WORD)),
    case("proxy_protocol", "true", |s| s.proxy_protocol == "auto", ("'v3'", NO_WORD)),
    case(
        "proxy_allow_ips",
        "'*'",
        |s| s.proxy_allow_ips == ["*"],
        ("'everybody'", "is wrong at \"everybody\": that is neither an IP address, nor a network, nor *"),
    ),
    // Only what this process is already: another user needs root.
    case("user", "'UID'", |s| s.uid.is_none(), ("true", NOT_TEXT)),
    case("group", "'GID'", |s| s.gid.is_none(), ("[]", NOT_TEXT)),
    case("initgroups", "true", |s| s.initgroups, ("'x'", NOT_BOOL)),
    case("pidfile", "'run/a.pid'", |s| s.pidfile == Some(s.chdir.join("run/a.pid")), ("true", NOT_TEXT)),
    case(
        "control_socket",
        "'run/c.sock'",
        |s| s.control_socket == Some(s.chdir.join("run/c.sock")),
        ("true", NOT_TEXT),
    ),
    case("control_socket_mode", "'0660'", |s| s.control_socket_mode == 0o660, ("0o1000", "is out of range")),
    case("control_socket_disable", "true", |s| s.control_socket_disable, ("'x'", NOT_BOOL)),
    case("proc_name", "'shop'", |s| s.proc_name == "shop", ("1.5", NOT_TEXT)),
    case("loglevel", "'WARNING'", |s| s.log.level == "warning", ("'loud'", NO_WORD)),
    case("errorlog", "'log/e.log'", |s| Path::new(&s.log.errorlog) == s.chdir.join("log/e.log"), ("true", NOT_TEXT)),
    case("accesslog", "'-'", |s| s.log.accesslog.as_deref() == Some("-"), ("true", NOT_TEXT)),
    case(
        "access_log_format",
        "'%(h)s %({x-id}i)s'",
        |s| s.log.access_log_format == "%(h)s %({x-id}i)s",
        ("'%(h'", "is no template: "),
    ),
    case("log_format", "'json'", |s| s.log.log_format == "json", ("'xml'", NO_WORD)),
    case("capture_output", "true", |s| s.capture_output, ("'x'", NOT_BOOL)),
    case("asgi_loop", "'uvloop'", |s| s.asgi_loop == "uvloop", ("'trio'", NO_WORD)),
    case("asgi_lifespan", "'on'", |s| s.asgi_lifespan == "on", ("'maybe'", NO_WORD)),
    case("asgi_disconnect_grace_period", "0.5", |s| s.asgi_disconnect_grace_period == 0.5, ("-1", SMALL)),
    case("websocket_max_message_size", "'1MiB'", |s| s.websocket_max_message_size == 1 << 20, ("'big'", NOT_BYTES)),
    case("websocket_ping_interval", "5", |s| s.websocket_ping_interval == 5.0, ("'x'", NOT_SECONDS)),
    case("websocket_ping_timeout", "0", |s| s.websocket_ping_timeout == 0.0, ("-1", SMALL)),
    case("root_path", "'/api'", |s| s.root_path == "/api", ("true", NOT_TEXT)),
];

#[test]
fn every_built_setting_has_its_case() {
    for setting in table::SETTINGS.iter().filter(|setting| setting.status == setting::Status::Built) {
        let cases = CASES.iter().filter(|case| case.name == setting.name).count();
        assert_eq!(cases, usize::from(!ELSEWHERE.contains(&setting.name)), "{}", setting.name);
    }
}

#[test]
fn every_built_setting_has_its_effect() {
    for case in CASES {
        let world = World::new();
        fs::create_dir_all(world.path("app/sub")).unwrap();
        let right = case
            .right
            .replace("UID", &nix::unistd::Uid::effective().to_string())
            .replace("GID", &nix::unistd::Gid::effective().to_string());
        let app = if case.name == "app" { "" } else { "app = 'a:b'\n" };
        world.file("app/a.toml", &format!("{app}{} = {right}\n", case.name));
        let settings = world.settings(&["-c", "a.toml"]);
        assert!((case.effect)(&settings), "{} = {right}", case.name);
        let plain = World::new();
        plain.file("app/a.toml", "app = 'x:y'\n");
        let unset = plain.settings(&["-c", "a.toml"]);
        // What a process is already, and what is one already, cannot be told from the default by its effect.
        if !["user", "group", "env_file", "worker_class", "threads"].contains(&case.name) {
            assert!(!(case.effect)(&unset), "{} has its effect without being set", case.name);
        }
    }
}

#[test]
fn a_wrong_value_of_every_built_setting_is_told_by_name_value_and_line() {
    let world = World::new();
    for case in CASES {
        let Some((wrong, what)) = case.wrong else { continue };
        world.file("app/a.toml", &format!("\n{} = {wrong}\n", case.name));
        let arguments: &[&str] = if case.name == "app" { &["-c", "a.toml"] } else { &["-c", "a.toml", "a:b"] };
        let error = world.error(arguments);
        let start = format!("~/app/a.toml:2: {} = ", case.name);
        let end = format!(". More: rgunicorn explain {}", case.name);
        assert!(error.starts_with(&start) && error.contains(what) && error.ends_with(&end), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn every_flag_of_a_built_setting_reaches_the_settings() {
    let world = World::new();
    let defaults = world.settings(&["a:b"]);
    for (arguments, effect) in [
        (&["--no-sendfile"][..], (|s: &Settings| !s.sendfile) as Effect),
        (&["--no-request-id"], |s| !s.request_id),
        (&["--no-request-buffering"], |s| !s.request_buffering),
        (&["-t", "1"], |s| s.timeout == seconds(1.0)),
        (&["--keep-alive", "1"], |s| s.keepalive == seconds(1.0)),
        (&["--limit-request-field_size", "1"], |s| s.limit_request_field_size == 1),
        (&["--limit-request-field-size", "1"], |s| s.limit_request_field_size == 1),
        (&["--log-file", "/x.log"], |s| s.log.errorlog == "/x.log"),
        (&["--error-logfile", "/x.log"], |s| s.log.errorlog == "/x.log"),
        (&["--access-logformat", "%(h)s"], |s| s.log.access_log_format == "%(h)s"),
        (&["-n", "x"], |s| s.proc_name == "x"),
        (&["-m", "027"], |s| s.umask == 0o27),
        (&["--preload"], |s| s.preload_app),
        (&["--forwarded-allow-ips=*"], |s| s.forwarded_allow_ips == ["*"]),
        (&["--proxy-allow-from", "10.0.0.1"], |s| s.proxy_allow_ips == ["10.0.0.1"]),
        (&["--check-config"], |s| s.check_config),
        (&["--print-config"], |s| s.print_config),
    ] {
        let all: Vec<&str> = arguments.iter().copied().chain(["a:b"]).collect();
        assert!(effect(&world.settings(&all)), "{arguments:?}");
        assert!(!effect(&defaults), "{arguments:?} has its effect without being given");
    }
}

#[test]
fn gunicorns_variables_replace_defaults() {
    let mut world = World::new();
    world.set("FORWARDED_ALLOW_IPS", "*").set("SENDFILE", "no").set("WEB_CONCURRENCY", "2");
    let settings = world.settings(&["a:b"]);
    assert_eq!((settings.forwarded_allow_ips, settings.sendfile, settings.workers), (vec!["*".to_owned()], false, 2));
}

#[test]
fn every_setting_has_a_variable() {
    let mut world = World::new();
    world.set("RGUNICORN_APP", "shop:app").set("RGUNICORN_BIND", ":1,:2").set("RGUNICORN_PRELOAD_APP", "yes");
    world.set("RGUNICORN_MAX_REQUESTS", "10").set("RGUNICORN_SECURE_SCHEME_HEADERS", "x-proto=tls");
    let settings = world.settings(&[]);
    assert_eq!((settings.app.as_str(), settings.bind.len(), settings.max_requests), ("shop:app", 2, 10));
    assert!(settings.preload_app);
    assert_eq!(settings.secure_scheme_headers, [("X-PROTO".to_owned(), "tls".to_owned())]);
}

#[test]
fn what_leaves_the_arbiter_is_what_was_set() {
    let world = World::new();
    let settings =
        world.settings(&["a:b", "-t", "7", "--umask", "022", "-e", "A=1", "--instance", "x", "-c", "/dev/null"]);
    let worker = settings.worker_settings(3, Vec::new());
    assert_eq!((worker.generation, worker.timeout, worker.umask), (3, 7.0, Some(0o22)));
    assert_eq!((worker.instance.as_str(), worker.worker_class.as_str()), ("x", "sync"));
    assert_eq!(worker.env, [("A".to_owned(), "1".to_owned())]);
    assert_eq!(world.settings(&["a:b"]).worker_settings(1, Vec::new()).umask, None);
}

#[test]
fn a_user_or_group_that_does_not_exist_is_named() {
    let world = World::new();
    assert_eq!(
        world.error(&["a:b", "-u", "nobody-here", "-g", "none-here"]).replace("\n", " | "),
        "command line -u: user = \"nobody-here\": there is no such user | command line -g: group = \"none-here\": there is \
         no such group"
    );
}
