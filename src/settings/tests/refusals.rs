//! What is not built, not planned, or without effect says so by name; nothing is taken silently.

use super::setting::{Default, Kind, Status};
use super::*;

/// A TOML value that is not the setting's default.
fn other(setting: &setting::Setting) -> &'static str {
    match setting.kind {
        Kind::Text | Kind::Path { .. } => "'/other'",
        Kind::Integer { .. } | Kind::Size => {
            if setting.default == Default::Is("1") {
                "2"
            } else {
                "20000"
            }
        }
        Kind::Seconds { .. } => "7",
        Kind::Mode => "0o640",
        Kind::Switch if setting.default == Default::Is("true") => "false",
        Kind::Switch => "true",
        Kind::Choice(choices) => match (choices, setting.name) {
            (_, "asgi_loop") => "'uvloop'",
            (_, "asgi_lifespan") => "'off'",
            (_, "reload_engine") => "'poll'",
            (_, "protocol") => "'uwsgi'",
            (_, "http_parser") => "'fast'",
            (choices, name) => panic!("{name}: which of {choices:?}?"),
        },
        Kind::ChoiceOrSwitch { .. } => "true",
        Kind::List => "['h2']",
        Kind::Networks => "'10.0.0.1'",
        Kind::Pairs => "['A=b']",
        Kind::Hook => "'shop.hooks:start'",
        Kind::Table => "{ version = 1 }",
        Kind::Pool | Kind::Addresses | Kind::UrlPath | Kind::Headers | Kind::LogTemplate => panic!("{}", setting.name),
    }
}

#[test]
fn what_is_not_built_yet_is_refused_by_name_and_its_default_is_taken() {
    let world = World::new();
    for setting in table::SETTINGS.iter().filter(|setting| setting.status == Status::NotYet) {
        world.file("app/a.toml", &format!("{} = {}\n", setting.name, other(setting)));
        let error = world.error(&["a:b", "-c", "a.toml"]);
        let start = format!("~/app/a.toml:1: {} = ", setting.name);
        assert!(error.starts_with(&start) && error.contains(" is not supported yet; its value is "), "{error}");
        if let Default::Is(text) = setting.default {
            world.file("app/a.toml", &format!("{} = {text:?}\n", setting.name));
            assert_eq!(world.settings(&["a:b", "-c", "a.toml"]).warnings, Vec::<String>::new());
        }
    }
}

#[test]
fn what_is_not_planned_is_refused_with_its_reason() {
    let world = World::new();
    for setting in table::SETTINGS {
        if let Status::Refused(reason) = setting.status {
            world.file("app/a.toml", &format!("{} = {}\n", setting.name, other(setting)));
            let error = world.error(&["a:b", "-c", "a.toml"]);
            let start = format!("~/app/a.toml:1: {} = ", setting.name);
            assert!(error.starts_with(&start) && error.ends_with(&format!(" is not supported: {reason}")), "{error}");
        }
    }
}

#[test]
fn what_has_no_effect_is_warned_about() {
    let world = World::new();
    for setting in table::SETTINGS {
        if let Status::NoEffect(reason) = setting.status {
            world.file("app/a.toml", &format!("{} = {}\n", setting.name, other(setting)));
            let warnings = world.settings(&["a:b", "-c", "a.toml"]).warnings;
            assert_eq!(
                warnings.iter().map(|warning| world.tidy(warning)).collect::<Vec<_>>(),
                [format!("~/app/a.toml:1: {} has no effect: {reason}", setting.name)]
            );
        }
    }
}

#[test]
fn hooks_are_refused_with_an_explanation() {
    let world = World::new();
    world.file("app/a.toml", "post_fork = 'shop.hooks:post_fork'\n");
    assert_eq!(
        world.error(&["a:b", "-c", "a.toml"]),
        "~/app/a.toml:1: post_fork = \"shop.hooks:post_fork\" is not supported: hooks are Python functions of Gunicorn's \
         configuration file, and rgunicorn's arbiter runs no Python: move what it does into the application, or into the \
         unit (ExecStartPre=, ExecStopPost=)"
    );
}

#[test]
fn pools_that_are_not_built_are_refused_by_name() {
    let world = World::new();
    let built = table::POOLS.iter().map(|class| class.name()).collect::<Vec<_>>().join(", ");
    for class in [WorkerClass::Gthread, WorkerClass::Gevent, WorkerClass::Asgi] {
        if !table::POOLS.contains(&class) {
            assert_eq!(
                world.error(&["a:b", "-k", class.name()]),
                format!(
                    "command line -k: worker_class = {:?}: this pool is not supported yet. Built: {built}",
                    class.name()
                )
            );
        }
    }
    for (name, what) in [
        ("eventlet", "was removed from Gunicorn 26; gevent is the nearest pool"),
        (
            "meinheld.gmeinheld.MeinheldWorker",
            "is a Python worker class; rgunicorn brings its own pools in their place",
        ),
        ("threads", "is no pool"),
    ] {
        assert_eq!(
            world.error(&["a:b", "-k", name]),
            format!(
                "command line -k: worker_class = {name:?} {what}. Allowed: sync, gthread, gevent, asgi, auto. More: rgunicorn \
                 explain worker_class"
            )
        );
    }
}
