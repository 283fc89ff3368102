//! The settings as a whole: layers, ranks, errors as the operator reads them, and a world of its own to read in.

mod any_file;
mod effects;
mod guides;
mod refusals;

use super::explain::listing;
use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// A working directory, a PATH with a python3, a folder of settings files.
pub(super) struct World {
    root: tempfile::TempDir,
    environment: BTreeMap<OsString, OsString>,
}

impl World {
    pub(super) fn new() -> Self {
        let mut world = Self { root: tempfile::tempdir().unwrap(), environment: BTreeMap::new() };
        fs::create_dir_all(world.path("app")).unwrap();
        fs::create_dir_all(world.path("etc")).unwrap();
        world.file("bin/python3", "");
        fs::set_permissions(world.path("bin/python3"), fs::Permissions::from_mode(0o755)).unwrap();
        let path = world.path("bin");
        world.set("PATH", path.to_str().unwrap());
        world
    }

    /// Below the world's root; the working directory is `app`.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.path().canonicalize().unwrap().join(name)
    }

    pub(super) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    pub(super) fn set(&mut self, name: &str, value: &str) -> &mut Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    pub(super) fn invocation(&self, arguments: &[&str]) -> Invocation {
        Invocation {
            arguments: arguments.iter().map(OsString::from).collect(),
            environment: self.environment.clone(),
            directory: self.path("app"),
            program: self.path("usr/bin/rgunicorn"),
            started_as: PathBuf::new(),
            configuration: self.path("etc"),
        }
    }

    pub(super) fn read(&self, arguments: &[&str]) -> Result<Settings, SettingsError> {
        Settings::read(&self.invocation(arguments))
    }

    /// The settings of a command line that must be right.
    pub(super) fn settings(&self, arguments: &[&str]) -> Settings {
        self.read(arguments).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    }

    /// The whole text of what is wrong, the world's root written as `~`.
    pub(super) fn error(&self, arguments: &[&str]) -> String {
        let error = self.read(arguments).err().unwrap_or_else(|| panic!("{arguments:?} is accepted"));
        self.tidy(&error.to_string())
    }

    pub(super) fn tidy(&self, text: &str) -> String {
        text.replace(self.path("").to_str().unwrap(), "~/")
    }
}

fn origin(settings: &Settings, name: &str) -> String {
    settings.answers.iter().find(|answer| answer.setting.name == name).unwrap().origin.clone()
}

#[test]
fn each_layer_outranks_the_ones_below() {
    let mut world = World::new();
    let file = world.file("app/a.toml", "app = 'a:b'\nworkers = 2\n");
    let file = file.to_str().unwrap();
    assert_eq!(origin(&world.settings(&["a:b"]), "workers"), "default");
    world.set("WEB_CONCURRENCY", "9");
    let settings = world.settings(&["a:b"]);
    assert_eq!((settings.workers, origin(&settings, "workers").as_str()), (9, "environment WEB_CONCURRENCY"));
    let settings = world.settings(&["-c", file]);
    assert_eq!((settings.workers, origin(&settings, "workers")), (2, format!("{file}:2")));
    world.set("RGUNICORN_WORKERS", "3");
    let settings = world.settings(&["-c", file]);
    assert_eq!((settings.workers, origin(&settings, "workers").as_str()), (3, "environment RGUNICORN_WORKERS"));
    world.set("GUNICORN_CMD_ARGS", "--workers=4");
    let settings = world.settings(&["-c", file]);
    assert_eq!((settings.workers, origin(&settings, "workers").as_str()), (4, "GUNICORN_CMD_ARGS --workers"));
    let settings = world.settings(&["-c", file, "-w", "5"]);
    assert_eq!((settings.workers, origin(&settings, "workers").as_str()), (5, "command line -w"));
    assert_eq!(settings.workers_origin, "5, command line -w");
}

#[test]
fn a_list_of_a_higher_layer_replaces_the_one_below_and_repeated_flags_add_up() {
    let world = World::new();
    world.file("app/a.toml", "app = 'a:b'\nbind = ['127.0.0.1:1', '127.0.0.1:2']\n");
    let binds = |arguments: &[&str]| world.settings(arguments).bind.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(binds(&["-c", "a.toml"]), ["127.0.0.1:1", "127.0.0.1:2"]);
    assert_eq!(binds(&["-c", "a.toml", "-b", ":3", "--bind", ":4"]), [":3", ":4"]);
}

#[test]
fn the_instance_reads_its_own_file_unless_another_is_named() {
    let world = World::new();
    world.file("etc/shop.toml", "app = 'shop:app'\n");
    let other = world.file("app/other.toml", "app = 'other:app'\n");
    let settings = world.settings(&["--instance", "shop"]);
    assert_eq!((settings.app.as_str(), settings.instance.as_str()), ("shop:app", "shop"));
    assert_eq!(settings.config, Some(world.path("etc/shop.toml")));
    let settings = world.settings(&["--instance", "shop", "-c", other.to_str().unwrap()]);
    assert_eq!((settings.app.as_str(), settings.instance.as_str()), ("other:app", "shop"));
    assert_eq!(
        world.error(&["--instance", "shpo"]),
        "command line --instance: instance = \"shpo\": ~/etc/shpo.toml does not exist. There are: shop"
    );
    assert_eq!(
        world.error(&["--instance", "../shop"]),
        "command line --instance: instance = \"../shop\" is not a name. Allowed: letters, digits and -_.:@ (at most 64)"
    );
}

#[test]
fn the_variable_port_binds_all_addresses_as_in_gunicorn() {
    let mut world = World::new();
    world.set("PORT", "5000");
    let settings = world.settings(&["a:b"]);
    assert_eq!(settings.bind, [Bind::Tcp { host: "0.0.0.0".to_owned(), port: 5000 }]);
    assert_eq!(settings.bind_origin.as_deref(), Some("environment PORT"));
    world.set("PORT", "");
    assert_eq!(world.settings(&["a:b"]).bind_origin, None);
}

#[test]
fn gunicorn_cmd_args_is_split_as_a_shell_would_and_its_application_is_not_taken() {
    let mut world = World::new();
    world.set("GUNICORN_CMD_ARGS", "--bind=127.0.0.1:9000 -e 'GREETING=hello world' --preload other:app -c a.toml");
    world.file("app/a.toml", "timeout = 12\n");
    let settings = world.settings(&["a:b"]);
    assert_eq!(settings.app, "a:b");
    assert_eq!(settings.bind, [Bind::Tcp { host: "127.0.0.1".to_owned(), port: 9000 }]);
    assert_eq!(settings.env, [("GREETING".to_owned(), "hello world".to_owned())]);
    assert!(settings.preload_app);
    assert_eq!(settings.timeout, Duration::from_secs(12));
    assert_eq!(settings.warnings, ["GUNICORN_CMD_ARGS: the application \"other:app\" is not taken from there"]);
    world.set("GUNICORN_CMD_ARGS", "--bind '127.0.0.1");
    assert_eq!(world.error(&["a:b"]), "GUNICORN_CMD_ARGS: a quotation is not closed");
    world.set("GUNICORN_CMD_ARGS", "--bnid x");
    assert_eq!(world.error(&["a:b"]), "GUNICORN_CMD_ARGS: --bnid is not an option. Did you mean --bind?");
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let mut world = World::new();
    world.set("RGUNICORN_KEEPALIVE", "long").set("GUNICORN_CMD_ARGS", "--threads none");
    let file = world.file("app/a.toml", "workers = 'many'\n\ntimeout = -4\n");
    let file = file.to_str().unwrap();
    let error = world.read(&["-c", file, "a:b", "--backlog", "0"]).unwrap_err();
    assert_eq!(
        world.tidy(&error.to_string()),
        "~/app/a.toml:3: timeout = -4 is too small. Allowed: a number of seconds from 0, fractions too, without a unit. \
         More: rgunicorn explain timeout\n\
         ~/app/a.toml:1: workers = \"many\" is not a whole number. Allowed: a whole number from 1 to 4096. More: \
         rgunicorn explain workers\n\
         environment RGUNICORN_KEEPALIVE: keepalive = \"long\" is not a number of seconds. Allowed: a number of seconds \
         from 0, fractions too, without a unit. More: rgunicorn explain keepalive\n\
         GUNICORN_CMD_ARGS --threads: threads = \"none\" is not a whole number. Allowed: a whole number from 1 to 4096. \
         More: rgunicorn explain threads\n\
         command line --backlog: backlog = \"0\" is too small. Allowed: a whole number from 1 to 16777216. More: \
         rgunicorn explain backlog"
    );
    assert_eq!(error.exit(), crate::exit::Exit::Failure);
    let machine = World::new().read(&["a:b", "--chdir", "/does/not/exist"]).unwrap_err();
    assert_eq!(machine.exit(), crate::exit::Exit::Failure);
    let usage = World::new().read(&["a:b", "--backlog", "0"]).unwrap_err();
    assert_eq!(usage.exit(), crate::exit::Exit::Usage);
}

#[test]
fn the_command_line_is_told_what_is_wrong_with_it() {
    let world = World::new();
    for (arguments, text) in [
        (&["a:b", "--wrokers", "3"][..], "command line: --wrokers is not an option. Did you mean --workers?"),
        (&["a:b", "-x"], "command line: -x is not an option. All are listed by --help"),
        (&["a:b", "--bind"], "command line: --bind needs a value"),
        (&["a:b", "c:d"], "command line: \"c:d\" is one argument too many: there is one application, MODULE:VARIABLE"),
        (
            &["shop/wsgi.py"],
            "command line: app = \"shop/wsgi.py\" is a path. Write the module's name, shop.wsgi, and \
                             chdir if it is elsewhere",
        ),
        (&[":app"], "command line: app = \":app\": the module before the : is missing"),
        (
            &[],
            "command line: no application is named. Write rgunicorn MODULE:VARIABLE, or app = \"MODULE:VARIABLE\" in the settings file",
        ),
        (
            &["a:b", "--chdir", "/does/not/exist"],
            "command line --chdir: chdir = \"/does/not/exist\" cannot be used: /does \
                                                 does not exist",
        ),
        (
            &["a:b", "--upgrade-check"],
            "command line --upgrade-check: it stands alone: a running rgunicorn asks a new one so before it is replaced",
        ),
    ] {
        assert_eq!(world.error(arguments), text);
    }
}

#[test]
fn flags_are_read_as_argparse_reads_them() {
    let world = World::new();
    for arguments in [
        &["-w", "4", "a:b"][..],
        &["-w4", "a:b"],
        &["a:b", "-w=4"],
        &["--workers=4", "a:b"],
        &["-w", "9", "--workers", "4", "a:b"],
    ] {
        assert_eq!(world.settings(arguments).workers, 4, "{arguments:?}");
    }
    assert_eq!(world.settings(&["a:b", "--max-requests-j", "4"]).max_requests_jitter, 4);
    assert_eq!(world.settings(&["a:b", "--proxy-protocol"]).proxy_protocol, "auto");
    assert_eq!(world.settings(&["a:b", "--proxy-protocol", "v2"]).proxy_protocol, "v2");
}

#[test]
fn gunicorns_configuration_file_is_refused_and_the_toml_is_pointed_at() {
    const PYTHON: &str = "is Python, and rgunicorn reads TOML: write the same settings as NAME = VALUE lines (workers = 4, \
                          bind = \"127.0.0.1:8000\") into a .toml file and name that with -c. More: rgunicorn explain \
                          config";
    let world = World::new();
    for config in ["gunicorn.conf.py", "python:shop.gunicorn", "file:/etc/gunicorn.py"] {
        assert_eq!(world.error(&["a:b", "-c", config]), format!("command line -c: config = {config:?} {PYTHON}"));
    }
    world.file("app/gunicorn.conf.py", "raise SystemExit\n");
    assert_eq!(
        world.error(&["a:b"]),
        format!("~/app/gunicorn.conf.py: this file, which Gunicorn would load from the working directory, {PYTHON}")
    );
    world.file("app/a.toml", "");
    assert_eq!(world.settings(&["a:b", "-c", "a.toml"]).app, "a:b");
    assert_eq!(world.settings(&["a:b", "-c", "file:a.toml"]).app, "a:b");
}

#[test]
fn an_unknown_variable_is_warned_about_and_no_more() {
    let mut world = World::new();
    world.set("RGUNICORN_WORKRES", "4").set("RGUNICORN_SERVICE_HOST", "10.0.0.1");
    assert_eq!(
        world.settings(&["a:b"]).warnings,
        [
            "environment RGUNICORN_SERVICE_HOST: there is no such setting",
            "environment RGUNICORN_WORKRES: there is no such setting. Did you mean workers?",
        ]
    );
}

#[test]
fn env_files_are_read_in_their_order_and_raw_env_wins() {
    let world = World::new();
    world.file("app/one.env", "A=1\nB=1\nC=1\n");
    world.file("app/two.env", "B=2\nC=2\n");
    let pairs = |list: &[(&str, &str)]| {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
    };
    let arguments = ["a:b", "--env-file", "one.env", "--env-file", "two.env", "--env-file=-none.env", "-e", "C=3"];
    assert_eq!(world.settings(&arguments).env, pairs(&[("A", "1"), ("B", "2"), ("C", "3")]));
    assert_eq!(
        world.error(&["a:b", "--env-file", "none.env"]),
        "command line --env-file: env_file = \"none.env\" cannot be read: No such file or directory"
    );
    world.file("app/bad.env", "A=1\nexport SECRET=tiger\n");
    let error = world.error(&["a:b", "--env-file", "bad.env"]);
    assert_eq!(
        error,
        "~/app/bad.env:2: write SECRET without export: this is no shell script. This is an env_file: a line is NAME=VALUE"
    );
}

#[test]
fn secrets_are_neither_listed_nor_told() {
    let world = World::new();
    let settings = world.settings(&["a:b", "-e", "SECRET=tiger"]);
    let listing = listing(&settings);
    assert!(listing.contains("raw_env = [\"SECRET=...\"]") && !listing.contains("tiger"), "{listing}");
    let error = world.error(&["a:b", "-e", "tiger"]);
    assert_eq!(
        error,
        "command line -e: raw_env = (hidden) is wrong at its item 1: there is no = in it. Allowed: NAME=VALUE. More: \
         rgunicorn explain raw_env"
    );
}

#[test]
fn what_is_listed_reads_back_as_the_same_settings() {
    let world = World::new();
    let arguments =
        ["shop.wsgi", "-w", "3", "-b", "unix:shop.sock", "--umask", "027", "--access-logfile", "-", "-t", "2.5"];
    let first = world.settings(&arguments);
    let text = listing(&first);
    assert!(text.contains("workers = 3                              # command line -w\n"), "{text}");
    assert!(text.contains("umask = 0o027                            # command line --umask\n"), "{text}");
    let file = world.file("app/listed.toml", &text);
    let second = world.settings(&["-c", file.to_str().unwrap()]);
    assert_eq!(second.worker_settings(1, Vec::new()), first.worker_settings(1, Vec::new()));
    assert_eq!((second.bind, second.workers, second.timeout), (first.bind, first.workers, first.timeout));
}

#[test]
fn the_default_of_timeout_follows_the_pool() {
    let world = World::new();
    let of = |arguments: &[&str]| {
        let settings = world.settings(&[&["a:b"], arguments].concat());
        let worker = settings.worker_settings(1, Vec::new());
        (worker.timeout, worker.timeout_if_sync, listing(&settings).contains("\ntimeout ="))
    };
    assert_eq!(of(&[]), (30.0, None, true));
    assert_eq!(of(&["--threads", "2"]), (300.0, None, true));
    assert_eq!(of(&["-k", "asgi"]), (300.0, None, true));
    assert_eq!(of(&["-k", "auto"]), (300.0, Some(30.0), false), "only the worker knows");
    assert_eq!(of(&["-k", "auto", "--threads", "2"]), (300.0, None, true), "never sync");
    assert_eq!(of(&["-k", "auto", "-t", "5"]), (5.0, None, true));
}

#[test]
fn an_application_may_be_called_explain_or_exec() {
    use super::command_line::{Question, question};
    let ask = |arguments: &[&str]| {
        question(&arguments.iter().map(OsString::from).collect::<Vec<_>>()).map_err(|fault| fault.to_string())
    };
    assert_eq!(ask(&["explain"]), Ok(Question::Serve));
    assert_eq!(ask(&["exec"]), Ok(Question::Serve));
    assert_eq!(ask(&["-w", "3", "exec"]), Ok(Question::Serve));
    assert_eq!(ask(&["explain", "-w", "3"]), Ok(Question::Serve));
    assert_eq!(ask(&["exec:app"]), Ok(Question::Serve));
    assert_eq!(ask(&["explain", "workers"]), Ok(Question::Explain("workers".to_owned())));
    assert_eq!(ask(&["explain", "--bind"]), Ok(Question::Explain("--bind".to_owned())));
    assert_eq!(
        ask(&["exec", "shop", "--", "python", "-c", "1"]),
        Ok(Question::Exec { instance: "shop".to_owned(), command: vec!["python".into(), "-c".into(), "1".into()] })
    );
    let usage = "Usage: rgunicorn exec INSTANCE -- COMMAND [ARGUMENTS]";
    assert_eq!(
        ask(&["exec", "shop", "ls"]),
        Err(format!("command line: exec: a -- must stand before the command. {usage}"))
    );
    assert_eq!(ask(&["exec", "shop"]), Err(format!("command line: exec: the command is missing. {usage}")));
    assert_eq!(ask(&["app:app", "--help"]), Ok(Question::Help));
    assert_eq!(ask(&["-v"]), Ok(Question::Version));
}

#[test]
fn every_setting_can_be_explained_by_name_flag_and_variable() {
    for setting in table::SETTINGS {
        let by_name = explain::explain(setting.name).unwrap();
        assert!(by_name.starts_with(&format!("{}: ", setting.name)), "{by_name}");
        for word in setting.flags.iter().chain(setting.env).chain(setting.aliases) {
            assert_eq!(explain::explain(word).unwrap(), by_name, "{word}");
        }
        assert_eq!(explain::explain(&setting.variable()).unwrap(), by_name);
        assert!(by_name.lines().all(|line| line.len() <= 130), "{by_name}");
    }
    assert_eq!(
        explain::explain("wrkers").unwrap_err().to_string(),
        "command line explain: wrkers is not a setting. Did you mean workers?"
    );
    assert!(explain::explain("exit").unwrap().contains("  3  The application could not be booted"));
}

#[test]
fn help_is_grouped_and_fits_a_terminal() {
    let help = explain::help();
    assert!(help.contains("\nWorkers:\n  -w, --workers NUMBER               Number of worker processes\n"), "{help}");
    assert!(help.lines().all(|line| line.len() <= 110), "{help}");
}

#[test]
fn workers_follow_the_processors_unless_somebody_says_otherwise() {
    let settings = World::new().settings(&["a:b"]);
    let cpus = super::cpus::Cpus::of_this_process(Path::new("/"));
    assert_eq!(settings.workers, 2 * cpus.number() + 1);
    assert_eq!(settings.workers_origin, format!("{} = 2 x {cpus} + 1", settings.workers));
}

#[test]
fn a_current_link_is_resolved_at_each_reading() {
    let world = World::new();
    let current = world.path("current");
    let chdir = |release: &str| {
        fs::create_dir_all(world.path(release)).unwrap();
        let _ = fs::remove_file(&current);
        std::os::unix::fs::symlink(world.path(release), &current).unwrap();
        world.settings(&["a:b", "--chdir", current.to_str().unwrap()]).chdir
    };
    assert_eq!(chdir("releases/1"), world.path("releases/1"));
    assert_eq!(chdir("releases/2"), world.path("releases/2"));
}

#[test]
fn a_setting_that_waits_for_a_restart_says_so() {
    let world = World::new();
    let (old, new) = (world.settings(&["a:b", "-p", "a.pid"]), world.settings(&["a:b", "-p", "b.pid", "-w", "3"]));
    assert_eq!(new.waiting_for_restart(&old), ["pidfile (the file is written when the program starts)"]);
    assert_eq!(old.waiting_for_restart(&old), Vec::<String>::new());
}

#[test]
fn script_name_comes_from_the_environment_and_raw_env_wins() {
    let mut world = World::new();
    assert_eq!(world.settings(&["a:b"]).script_name, "");
    world.set("SCRIPT_NAME", "/shop");
    assert_eq!(world.settings(&["a:b"]).script_name, "/shop");
    assert_eq!(world.settings(&["a:b", "-e", "SCRIPT_NAME=/other"]).script_name, "/other");
}

proptest::proptest! {
    #[test]
    fn any_toml_value_of_any_setting_is_taken_or_told(
        index in 0..table::SETTINGS.len(),
        value in proptest::prop_oneof![
            "-?[0-9]{1,20}", "\"[^\"\\\\\n]{0,12}\"", "true|false", "\\[[0-9, ]{0,6}\\]", "\\{ a = 1 \\}", "-?[0-9]\\.[0-9]e[0-9]{1,3}",
            "nan|inf", "2026-01-01",
        ],
    ) {
        let name = table::SETTINGS[index].name;
        let file = Path::new("/a.toml");
        if let Ok(givens) = toml_file::parse(&format!("{name} = {value}\n"), file) {
            let (_, faults) = Layers::new(givens);
            for fault in faults {
                let told = fault.to_string();
                proptest::prop_assert!(told.starts_with("/a.toml:1: ") && told.contains(name), "{}", told);
            }
        }
    }
}

#[test]
fn the_shipped_example_is_right_also_where_it_is_commented_out() {
    let text = include_str!("../../../examples/etc/example.toml");
    // A comment that looks like a setting is one that is offered.
    let offered = |line: &str| {
        let line = line.strip_prefix('#').unwrap_or(line).trim_start().to_owned();
        let key = line.split('=').next().unwrap_or_default().trim();
        (line.contains('=') && table::find(key).is_some()).then_some(line)
    };
    let mut lines: BTreeMap<String, String> = BTreeMap::new();
    for line in text.lines().filter_map(offered) {
        lines.insert(line.split('=').next().unwrap_or_default().trim().to_owned(), line);
    }
    for text in [text.to_owned(), lines.into_values().collect::<Vec<_>>().join("\n")] {
        let givens = toml_file::parse(&text, Path::new("example.toml")).unwrap();
        let (_, faults) = Layers::new(givens);
        assert!(faults.is_empty(), "{text}\n{faults:?}");
    }
}
