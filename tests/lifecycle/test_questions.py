"""Questions and their answers: --check-config, --print-config, --help, --version, and settings that are wrong."""

import sys

import pytest
from harness.server import APPS, run, write


def check(*arguments, chdir=APPS, **more):
    return run("--check-config", "--chdir", chdir, "--python", sys.executable, *arguments, **more)


def test_check_config_is_content_with_an_application_that_imports():
    ended = check("plain:app")
    assert ended.returncode == 0, ended.stderr


def test_check_config_shows_why_an_application_does_not_import(tmp_path):
    write(tmp_path, {"m.py": "raise RuntimeError('not today')\n"})
    ended = check("m:app", chdir=tmp_path)
    assert ended.returncode == 3
    assert "Traceback" in ended.stderr and "not today" in ended.stderr


def test_check_config_names_what_is_not_there():
    ended = check("plain:nothing")
    assert ended.returncode == 4
    assert "nothing" in ended.stderr


def test_check_config_tells_what_it_would_warn_of_at_a_start():
    ended = check("--worker-tmp-dir", "/dev/shm", "plain:app")
    assert ended.returncode == 0 and "worker_tmp_dir has no effect" in ended.stderr, ended.stderr


def test_check_config_opens_no_listener(tmp_path):
    ended = check("--bind", f"unix:{tmp_path}/app.sock", "plain:app")
    assert ended.returncode == 0, ended.stderr
    assert not (tmp_path / "app.sock").exists()


def test_print_config_says_where_each_value_comes_from(tmp_path):
    write(tmp_path, {"settings.toml": "workers = 3\nkeepalive = 7\n"})
    ended = run("--print-config", "-c", tmp_path / "settings.toml", "--chdir", APPS, "--timeout", 11, "plain:app",
                "--python", sys.executable, env={"RGUNICORN_LOGLEVEL": "debug"})
    assert ended.returncode == 0, ended.stderr
    lines = {line.split()[0]: line for line in ended.stdout.splitlines() if line.strip()}
    assert "3" in lines["workers"] and "settings.toml" in lines["workers"]
    assert "7" in lines["keepalive"] and "settings.toml" in lines["keepalive"]
    assert "11" in lines["timeout"] and "--timeout" in lines["timeout"]
    assert "debug" in lines["loglevel"] and "RGUNICORN_LOGLEVEL" in lines["loglevel"]
    assert "default" in lines["graceful_timeout"]


def test_layers_go_from_defaults_over_file_and_environment_to_the_command_line(tmp_path):
    write(tmp_path, {"settings.toml": "workers = 3\n"})

    def workers(*arguments, **env):
        out = run("--print-config", "--chdir", APPS, "--python", sys.executable, *arguments, "plain:app", env=env).stdout
        line = next(line for line in out.splitlines() if line.startswith("workers"))
        return line

    assert "default" in workers()
    assert "3" in workers("-c", tmp_path / "settings.toml")
    assert "4" in workers("-c", tmp_path / "settings.toml", RGUNICORN_WORKERS="4")
    assert "5" in workers("-c", tmp_path / "settings.toml", "-w", 5, RGUNICORN_WORKERS="4")


WRONG = [
    (["--workers", "none"], {}, "workers", "none"),
    (["--workers", "0"], {}, "workers", "0"),
    (["--timeout", "soon"], {}, "timeout", "soon"),
    (["--log-level", "loud"], {}, "log-?level", "loud"),
    (["-k", "tornado"], {}, "worker.class|-k", "tornado"),
    ([], {"RGUNICORN_KEEPALIVE": "long"}, "RGUNICORN_KEEPALIVE", "long"),
    ([], {"RGUNICORN_WORKERS": "-1"}, "RGUNICORN_WORKERS", "-1"),
    (["--chdir", "/does/not/exist"], {}, "chdir", "/does/not/exist"),
    (["--no-such-option"], {}, "no-such-option", "no-such-option"),
]


@pytest.mark.parametrize("arguments, env, names, value", WRONG, ids=lambda value: str(value)[:30])
def test_a_wrong_setting_is_named_with_value_and_source(arguments, env, names, value):
    import re

    ended = run("--python", sys.executable, *arguments, "plain:app", cwd=APPS, env=env)
    assert ended.returncode in (1, 2), ended.stderr
    assert re.search(names, ended.stderr, re.IGNORECASE), ended.stderr
    assert value in ended.stderr, ended.stderr
    assert "panicked" not in ended.stderr


@pytest.mark.parametrize("text, line, says", [
    ("app = 'plain:app'\nworkers = 'many'\n", 2, "workers"),
    ("app = 'plain:app'\n\nno_such_setting = 1\n", 3, "no_such_setting"),
    ("app = 'plain:app'\nworkers = [\n", 2, ""),
    ("app = 'plain:app'\ntimeout = -4\n", 2, "timeout"),
])
def test_a_wrong_line_of_the_file_is_named_by_file_and_number(tmp_path, text, line, says):
    write(tmp_path, {"settings.toml": text})
    ended = run("-c", tmp_path / "settings.toml", "--chdir", APPS, "--python", sys.executable)
    assert ended.returncode == 1, ended.stderr
    assert "settings.toml" in ended.stderr and says in ended.stderr, ended.stderr
    assert f":{line}" in ended.stderr or f"line {line}" in ended.stderr, ended.stderr


def test_a_missing_settings_file_is_named(tmp_path):
    ended = run("-c", tmp_path / "absent.toml")
    assert ended.returncode == 1
    assert str(tmp_path / "absent.toml") in ended.stderr


def test_an_unknown_instance_names_the_file_that_is_missing():
    ended = run("--instance", "there-is-none")
    assert ended.returncode == 1
    assert "/etc/rgunicorn/there-is-none.toml" in ended.stderr


def test_a_gunicorn_conf_py_is_refused_and_not_executed(tmp_path):
    write(tmp_path, {"gunicorn.conf.py": "open('executed', 'w')\n"})
    ended = run("-c", "gunicorn.conf.py", "plain:app", cwd=tmp_path)
    assert ended.returncode in (1, 2)
    assert "toml" in ended.stderr.lower()
    assert not (tmp_path / "executed").exists()


def test_help_lists_the_settings():
    ended = run("--help")
    assert ended.returncode == 0
    for flag in ("--bind", "--workers", "--worker-class", "--chdir", "--python", "--preload", "--timeout",
                 "--graceful-timeout", "--keep-alive", "--log-level", "--access-logfile", "--error-logfile",
                 "--instance", "--check-config", "--print-config"):
        assert flag in ended.stdout, flag


def test_version_says_the_version():
    from harness.server import ROOT

    ended = run("--version")
    assert ended.returncode == 0
    version = next(line for line in (ROOT / "Cargo.toml").read_text().splitlines() if line.startswith("version = "))
    assert version.split('"')[1] in ended.stdout
