"""rgunicorn as the first process of a PID namespace, as in a container: signals, reaping, logs."""

import os
import re
import subprocess
from pathlib import Path
from signal import SIGHUP, SIGTERM

import pytest
from harness import processes, until
from harness.requirement import command, require
from harness.server import BINARY

APP = """
import os

def app(environ, start_response):
    if environ["PATH_INFO"] == "/orphan":
        # Its parent ends at once, so it becomes the first process's.
        if os.fork() == 0:
            if os.fork() == 0:
                os.execvp("sleep", ["sleep", "0.2"])
            os._exit(0)
        os.wait()
    body = b"%d\\n" % os.getppid()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.fixture
def contained(serve):
    """A server that is PID 1: `contained.first` is its pid as it is seen from here. No systemd, no HOME, no terminal."""
    require(subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True).returncode == 0, "root, for a PID namespace")
    server = serve("app:app", "--workers", 2, files={"app.py": APP}, wait=False, notify=False,
                   wrapper=(command("unshare"), "--pid", "--fork", "--mount-proc", "--kill-child=TERM", "--"))

    def booted():
        for pid in processes.children(server.pid):
            if Path(f"/proc/{pid}/exe").resolve() == BINARY.resolve():
                return pid
        return None

    server.found("serves", "info", 20)
    server.first = until(booted, "the first process")
    (server.where,) = [address for address in processes.listening(server.first) if not str(address).endswith("control.sock")]
    return server


def test_it_is_pid_1_serves_reaps_reloads_and_stops_as_docker_stop_asks(contained):
    server = contained
    assert re.search(r"NSpid:\s+\d+\s+1\n", Path(f"/proc/{server.first}/status").read_text())
    with server.connect(server.where) as client:
        assert client.get("/").body == b"1\n", "the workers' parent is PID 1"
        assert client.get("/orphan").status == 200

    def nothing_undead():
        states = [Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] for pid in processes.children(server.first)]
        names = [Path(f"/proc/{pid}/comm").read_text().strip() for pid in processes.children(server.first)]
        return "Z" not in states and "sleep" not in names

    until(nothing_undead, "the orphan to be reaped")
    os.kill(server.first, SIGHUP)
    server.found("reloaded|generation 2 serves", "info")
    with server.connect(server.where) as client:
        assert client.get("/").body == b"1\n"
    os.kill(server.first, SIGTERM)
    assert server.wait() == 0
