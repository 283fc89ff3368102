//! Command lines of public deployment guides, `gunicorn` replaced by `rgunicorn`: each is read, or refused with one line
//! that says why.

use super::*;

/// What becomes of a guide's command line.
enum Outcome {
    /// It is read; this must be true of the settings.
    Read(fn(&Settings) -> bool),
    /// Its pool decides: read once that is built, until then refused with a line that contains the setting's name.
    Pool(WorkerClass),
    /// It is refused with a line that contains this.
    Refused(&'static str),
}

use Outcome::{Pool, Read, Refused};

struct Guide {
    source: &'static str,
    command: &'static str,
    environment: &'static [(&'static str, &'static str)],
    outcome: Outcome,
}

const fn guide(source: &'static str, command: &'static str, outcome: Outcome) -> Guide {
    Guide { source, command, environment: &[], outcome }
}

static GUIDES: &[Guide] = &[
    guide(
        "docs.djangoproject.com/en/stable/howto/deployment/wsgi/gunicorn",
        "gunicorn myproject.wsgi",
        Read(|s| s.app == "myproject.wsgi"),
    ),
    guide(
        "flask.palletsprojects.com/en/stable/deploying/gunicorn",
        "gunicorn -w 4 -b 0.0.0.0 'hello:create_app()'",
        Read(|s| s.app == "hello:create_app()" && s.workers == 4 && s.bind[0].to_string() == "0.0.0.0:8000"),
    ),
    guide(
        "flask.palletsprojects.com/en/stable/deploying/gunicorn",
        "gunicorn -k gevent 'hello:create_app()'",
        Pool(WorkerClass::Gevent),
    ),
    Guide {
        source: "devcenter.heroku.com/articles/python-gunicorn",
        command: "gunicorn gettingstarted.wsgi",
        environment: &[("PORT", "31337"), ("WEB_CONCURRENCY", "2")],
        outcome: Read(|s| s.workers == 2 && s.bind[0].to_string() == "0.0.0.0:31337"),
    },
    guide(
        "interactive-ebooks.herokuapp.com, Procfile",
        "gunicorn --chdir build/Flask --log-file - --error-logfile - book_webapp:app",
        Read(|s| s.chdir.ends_with("build/Flask") && s.log.errorlog == "-"),
    ),
    guide(
        "stackoverflow.com/questions/16416172",
        "gunicorn --pythonpath app app.wsgi",
        Read(|s| s.pythonpath == [s.chdir.join("app")]),
    ),
    guide(
        "digitalocean.com, Django with Postgres, nginx and Gunicorn (systemd unit)",
        "gunicorn --access-logfile - --workers 3 --bind unix:/run/gunicorn.sock myproject.wsgi:application",
        Read(|s| s.workers == 3 && s.bind == [Bind::Unix("/run/gunicorn.sock".into())]),
    ),
    guide(
        "djangodeployment.readthedocs.io, chapter 6 (systemd unit)",
        "gunicorn --workers=4 --log-file=/var/log/shop/gunicorn.log --bind=127.0.0.1:8000 --bind=[::1]:8000 shop.wsgi:application",
        Read(|s| s.bind.len() == 2 && s.log.errorlog == "/var/log/shop/gunicorn.log"),
    ),
    guide(
        "blog.miguelgrinberg.com, The Flask Mega-Tutorial, containers",
        "gunicorn -b :5000 --access-logfile - --error-logfile - microblog:app",
        Read(|s| s.bind[0].to_string() == ":5000" && s.log.accesslog.as_deref() == Some("-")),
    ),
    guide(
        "codartium.com/gunicorn-runtime-in-docker (Docker CMD)",
        "gunicorn --bind 0.0.0.0:8000 --workers 4 app:app",
        Read(|s| s.workers == 4),
    ),
    guide(
        "pythonspeed.com/articles/gunicorn-in-docker",
        "gunicorn --worker-tmp-dir /dev/shm --workers=2 --threads=4 --worker-class=gthread --log-file=- app:app",
        Pool(WorkerClass::Gthread),
    ),
    guide(
        "ocp-software-handbook.readthedocs.io, Docker (CMD)",
        "gunicorn core.wsgi --bind 0.0.0.0:8000 --worker-tmp-dir /dev/shm --threads 2 --name shop",
        Pool(WorkerClass::Gthread),
    ),
    guide(
        "fastapi.tiangolo.com, server workers with Gunicorn",
        "gunicorn main:app --workers 4 --worker-class uvicorn.workers.UvicornWorker --bind 0.0.0.0:80",
        Pool(WorkerClass::Asgi),
    ),
    guide(
        "docs.gunicorn.org/en/stable/settings.html (TLS)",
        "gunicorn --certfile=server.crt --keyfile=server.key -b 0.0.0.0:443 test:app",
        Refused("TLS is terminated in front of rgunicorn"),
    ),
    guide(
        "docs.gunicorn.org/en/stable/configure.html",
        "gunicorn -c gunicorn.conf.py -D app:app",
        Refused("is Python, and rgunicorn reads TOML"),
    ),
];

#[test]
fn a_guides_command_line_is_read_or_refused_with_a_line_that_says_why() {
    for guide in GUIDES {
        let mut world = World::new();
        fs::create_dir_all(world.path("app/build/Flask")).unwrap();
        for (name, value) in guide.environment {
            world.set(name, value);
        }
        let words = words::split(guide.command).unwrap();
        let arguments: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
        let refusal = |what: &str| {
            let error = world.error(&arguments);
            assert!(error.contains(what), "{}: {error}", guide.source);
            // One line for each thing that is refused.
            assert!(error.lines().all(|line| line.starts_with("command line ")), "{}: {error}", guide.source);
        };
        match &guide.outcome {
            Read(effect) => assert!(effect(&world.settings(&arguments)), "{}: {}", guide.source, guide.command),
            Pool(class) if table::POOLS.contains(class) => assert_eq!(world.settings(&arguments).worker_class, *class),
            Pool(WorkerClass::Gthread) => refusal("gthread"),
            Pool(WorkerClass::Gevent | WorkerClass::Asgi | WorkerClass::Auto | WorkerClass::Sync) => {
                refusal("this pool is not supported yet")
            }
            Refused(what) => refusal(what),
        }
    }
}
