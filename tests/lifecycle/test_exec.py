"""rgunicorn exec INSTANCE -- COMMAND: a command runs as the instance runs its application.

Each test has an /etc of its own, mounted in a mount namespace, with the settings and the users that it needs.
"""

import json
import os
import shutil
import subprocess

import pytest
from harness.requirement import command
from harness.server import BINARY, clean_environment, write
from harness.waiting import until

# What the command sees, as JSON.
SEE = ("import json, os, sys; print(json.dumps({'prefix': sys.prefix, 'cwd': os.getcwd(), 'uid': os.getuid(), "
       "'gid': os.getgid(), 'groups': os.getgroups(), 'env': dict(os.environ), 'path': sys.path}))")


@pytest.fixture
def instance(tmp_path, needs):
    """instance(toml) -> run(*command): the finished `rgunicorn exec shop -- command`."""
    needs(os.geteuid() == 0, "root, for a mount namespace")
    unshare = command("unshare")
    for directory in [tmp_path, *tmp_path.parents][:3]:
        directory.chmod(0o755)
    etc, app, venv = tmp_path / "etc", tmp_path / "app", tmp_path / "venv"
    # The tests' own interpreter may be where other users cannot go.
    system = "/usr/bin/python3"
    needs(os.path.exists(system), system)
    subprocess.run([system, "-m", "venv", "--without-pip", venv], check=True)
    (etc / "rgunicorn").mkdir(parents=True)
    app.mkdir()
    for name in ("passwd", "group", "nsswitch.conf", "ld.so.cache"):
        if os.path.exists(f"/etc/{name}"):
            shutil.copy(f"/etc/{name}", etc / name)
    with open(etc / "passwd", "a") as passwd, open(etc / "group", "a") as group:
        passwd.write("webuser:x:64001:64001::/nonexistent:/bin/sh\n")
        group.write("webuser:x:64001:\nmedia:x:64002:webuser\n")

    def make(settings, users=""):
        with open(etc / "passwd", "a") as passwd:
            passwd.write(users)
        write(etc / "rgunicorn", {"shop.toml": f"chdir = '{app}'\npython = '{venv}/bin/python'\n{settings}"})
        write(app, {"instance.env": "FROM_FILE='a file'\nBOTH=file\n"})

        def run(*words, env=None, instance="shop"):
            script = 'mount --bind "$0" /etc && exec "$@"'
            return subprocess.run([unshare, "--mount", "sh", "-c", script, etc, BINARY, "exec", instance, "--", *words],
                                  text=True, capture_output=True, timeout=30, cwd="/",
                                  env=clean_environment() | (env or {}))

        run.app, run.venv = app, venv
        return run

    return make


def seen(ended):
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_python_is_the_instances_interpreter_in_its_folder_with_its_environment(instance):
    run = instance("user = 'webuser'\nenv_file = 'instance.env'\nraw_env = { BOTH = 'setting' }\npythonpath = 'lib'\n")
    found = seen(run("python", "-c", SEE, env={"CALLER": "kept", "RGUNICORN_CHDIR": "/", "VIRTUAL_ENV": "/other"}))
    assert found["prefix"] == found["env"]["VIRTUAL_ENV"] == str(run.venv)
    assert found["cwd"] == str(run.app)
    assert found["env"]["FROM_FILE"] == "a file" and found["env"]["BOTH"] == "setting"
    assert found["env"]["PATH"].split(":")[0] == f"{run.venv}/bin"
    assert found["env"]["CALLER"] == "kept" and "RGUNICORN_CHDIR" not in found["env"]
    assert str(run.app / "lib") in found["path"]


def test_it_runs_as_the_user_of_the_settings(instance):
    found = seen(instance("user = 'webuser'\ninitgroups = true\n")("/usr/bin/env", "python", "-c", SEE))
    assert (found["uid"], found["gid"]) == (64001, 64001)
    assert sorted(found["groups"]) == [64001, 64002]
    assert found["env"]["USER"] == found["env"]["LOGNAME"] == "webuser"


def test_it_runs_as_the_units_user_if_that_exists(instance):
    run = instance("", users="rgunicorn-shop:x:64003:64002::/nonexistent:/bin/sh\n")
    found = seen(run("python3", "-c", SEE))
    assert (found["uid"], found["gid"]) == (64003, 64002)
    assert 0 not in found["groups"]


def test_a_dynamic_user_that_does_not_exist_now_is_explained(instance):
    ended = instance("")("true")
    assert ended.returncode == 1
    assert "there is no user rgunicorn-shop" in ended.stderr
    assert "systemctl start rgunicorn@shop.service" in ended.stderr


def test_the_exit_status_is_the_commands(instance):
    run = instance("user = 'webuser'\n")
    assert run("python", "-c", "raise SystemExit(7)").returncode == 7
    ended = run("no-such-command")
    assert ended.returncode == 127
    assert "there is no no-such-command on the instance's PATH" in ended.stderr
    write(run.app, {"text": "not a program\n"})
    ended = run("./text")
    assert ended.returncode == 126
    assert f"{run.app}/text is not executable (its mode is 0644)" in ended.stderr


def test_an_instance_without_settings_is_named(instance):
    ended = instance("")("true", instance="shpo")
    assert ended.returncode == 1
    assert "/etc/rgunicorn/shpo.toml does not exist. There are: shop" in ended.stderr


def test_a_running_service_lends_its_user_environment_and_mounts(instance, tmp_path):
    """As with DynamicUser=yes: the user has no name, and the state folder is mounted for the service alone."""
    setpriv = command("setpriv")
    run = instance("")
    state = tmp_path / "state"
    state.mkdir()
    script = ('mount -t tmpfs tmpfs "$0" && touch "$0/inside" && echo ready && '
              f'exec {setpriv} --reuid=64009 --regid=64009 --groups=64002 sleep 60')
    service = subprocess.Popen([command("unshare"), "--mount", "sh", "-c", script, state], stdout=subprocess.PIPE,
                               env=clean_environment() | {"STATE_DIRECTORY": str(state), "NOTIFY_SOCKET": "/no"})
    try:
        assert service.stdout.readline() == b"ready\n"
        until(lambda: "Uid:\t64009" in open(f"/proc/{service.pid}/status").read(), "the service to become its user")
        fake = tmp_path / "fake"
        write(fake, {"systemctl": f"#!/bin/sh\n[ \"$4\" = rgunicorn@shop.service ] && echo {service.pid}\n"})
        (fake / "systemctl").chmod(0o755)
        see = f"import os; assert os.path.exists('{state}/inside'); {SEE}"
        found = seen(run("python", "-c", see, env={"PATH": f"{fake}:{os.environ['PATH']}", "CALLER": "no"}))
    finally:
        service.kill()
        service.wait()
    assert (found["uid"], found["gid"], found["groups"]) == (64009, 64009, [64002])
    assert found["env"]["STATE_DIRECTORY"] == str(state)
    assert "NOTIFY_SOCKET" not in found["env"] and "CALLER" not in found["env"]
    assert not (state / "inside").exists()
