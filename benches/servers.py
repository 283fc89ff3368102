"""The servers that are compared: how each is started, and what of it can be asked for.

One entry per server. Each gets what its own documentation recommends for the question; none is handicapped, and where
one cannot do a thing (keep-alive in gunicorn's sync worker) that is part of the answer.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
APPS = HERE / "apps"


class Unusable(Exception):
    """A server that cannot be measured here, with the reason."""


def binary():
    """The rgunicorn to measure: $RGUNICORN, or the release build of this checkout."""
    target = Path(os.environ.get("CARGO_TARGET_DIR") or HERE.parent / "target")
    return Path(os.environ.get("RGUNICORN") or target / "release" / "rgunicorn").absolute()


def _rgunicorn(tools, port, app, *, threads=1, workers=1, preload=False, access=False, pool=None):
    if not binary().exists():
        raise Unusable(f"{binary()} is not built")
    kind = ["-k", "gthread", "--threads", str(threads)] if threads > 1 else ["-k", pool or "sync"]
    return [str(binary()), "--python", str(tools.python), "--chdir", str(APPS), "--bind", f"127.0.0.1:{port}",
            "--workers", str(workers), *kind, *(["--preload"] if preload else []), "--log-level", "warning",
            *(["--access-logfile", str(tools.logs / "access")] if access else []), app]


def _rgunicorn_gevent(tools, port, app, *, threads=1, **shape):
    if threads > 1:
        raise Unusable("a hub has one thread")
    return _rgunicorn(tools, port, app, pool="gevent", **shape)


def _gunicorn(kind):
    def command(tools, port, app, *, threads=1, workers=1, preload=False, access=False):
        if kind == "sync" and threads > 1:
            raise Unusable("the sync worker has no threads")
        return [str(tools.python), "-m", "gunicorn", "--chdir", str(APPS), "--bind", f"127.0.0.1:{port}", "--workers",
                str(workers), "-k", kind, *(["--threads", str(threads)] if kind == "gthread" else []),
                "--keep-alive", "75", "--worker-connections", "20000", *(["--preload"] if preload else []), "--log-level", "warning",
                "--no-control-socket", *(["--access-logfile", str(tools.logs / "access")] if access else []), app]

    return command


def _granian(tools, port, app, *, threads=1, workers=1, preload=False, access=False):
    if preload:
        raise Unusable("granian does not preload")
    return [str(tools.python), "-m", "granian", "--interface", "wsgi", "--host", "127.0.0.1", "--port", str(port),
            "--workers", str(workers), "--blocking-threads", str(threads), "--working-dir", str(APPS), "--no-ws",
            "--log-level", "info" if access else "warning", *(["--access-log"] if access else []), app]


def _alone(script):
    def command(tools, port, app, *, threads=1, workers=1, preload=False, access=False):
        if threads > 1 or workers > 1:
            raise Unusable("one thread in one process is all there is")
        if access:
            raise Unusable("it has no access log")
        return [str(tools.python), str(APPS / script), str(port), app.partition(":")[2]]

    return command


def _floor(tools, port, app, *, threads=1, workers=1, preload=False, access=False):
    if threads > 1 or workers > 1 or not app.endswith(":hello") or app.startswith("heavy"):
        raise Unusable("the floor knows one answer")
    return [str(tools.floor), str(port)]


def _rgunicorn_threads(tools, port, app, *, threads=1, **shape):
    return _rgunicorn(tools, port, app, threads=max(threads, 4), **shape)


def _rgunicorn_asgi(tools, port, app, *, threads=1, workers=1, preload=False, access=False):
    if not binary().exists():
        raise Unusable(f"{binary()} is not built")
    return [str(binary()), "--python", str(tools.python), "--chdir", str(APPS), "--bind", f"127.0.0.1:{port}",
            "--workers", str(workers), "-k", "asgi", "--worker-connections", "11000", "--log-level", "warning", app]


def _granian_asgi(tools, port, app, *, threads=1, workers=1, preload=False, access=False):
    return [str(tools.python), "-m", "granian", "--interface", "asgi", "--host", "127.0.0.1", "--port", str(port),
            "--workers", str(workers), "--working-dir", str(APPS), "--loop", "uvloop", "--log-level", "warning", app]


def _uvicorn(tools, port, app, *, threads=1, workers=1, preload=False, access=False):
    return [str(tools.python), "-m", "uvicorn", "--app-dir", str(APPS), "--host", "127.0.0.1", "--port", str(port),
            "--workers", str(workers), "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level",
            "warning", app]


SERVERS = {
    "rgunicorn": _rgunicorn,
    "rgunicorn-gevent": _rgunicorn_gevent,
    "rgunicorn-4-threads": _rgunicorn_threads,
    "floor": _floor,
    "fastwsgi": _alone("serve_fastwsgi.py"),
    "bjoern": _alone("serve_bjoern.py"),
    "granian": _granian,
    "gunicorn-gevent": _gunicorn("gevent"),
    "gunicorn-gthread": _gunicorn("gthread"),
    "gunicorn-sync": _gunicorn("sync"),
    "rgunicorn-asgi": _rgunicorn_asgi,
    "granian-asgi": _granian_asgi,
    "uvicorn": _uvicorn,
    "gunicorn-asgi": _gunicorn("asgi"),
}

#: Those that serve ASGI.
ASGI = ("rgunicorn-asgi", "granian-asgi", "uvicorn", "gunicorn-asgi")


class Running:
    """A server that runs, pinned to the processors `cpus`; used in a `with`."""

    def __init__(self, name, tools, app, *, cpus, path="/", **shape):
        self.name = name
        self.port = _free_port()
        self.path = path
        self._cpus = cpus
        self._command = SERVERS[name](tools, self.port, app, **shape)
        self._log = tools.logs / f"{name}.log"
        self._access = tools.logs / "access"

    def __enter__(self):
        environment = {name: value for name, value in os.environ.items()
                       if not name.startswith(("RGUNICORN", "GUNICORN", "NOTIFY_SOCKET", "LISTEN_", "PYTHON"))}
        with open(self._log, "wb") as log:
            self.process = subprocess.Popen(
                self._command, cwd=APPS, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=lambda: os.sched_setaffinity(0, self._cpus))
        try:
            self._wait_until_it_answers(30.0)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            pass
        # The session is ours alone: what a server leaves behind must not disturb the next one.
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        # It grows by a hundred bytes per request.
        self._access.unlink(missing_ok=True)

    def get(self):
        """One request on a connection of its own; the whole response."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as client:
            client.sendall(f"GET {self.path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            client.settimeout(5)
            answer = b""
            # The floor and others may keep the connection: the body's end is known.
            while b"\r\n\r\n" not in answer or (b"Hello, World!" not in answer and b"\r\n\r\n0" not in answer):
                part = client.recv(65536)
                if not part:
                    break
                answer += part
            return answer

    def _wait_until_it_answers(self, within):
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                if self.get().startswith(b"HTTP/1.1 200"):
                    return
            except OSError:
                pass
            time.sleep(0.02)
        raise Unusable(f"it does not answer; {self._log} says: {self._log.read_text(errors='replace')[-400:].strip()}")


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Tools:
    """What the measurements need and the machine may not have: made once, kept in `.cache/bench`."""

    def __init__(self, cache):
        self.cache = Path(cache).absolute()
        self.logs = self.cache / "logs"
        self.floor = self.cache / "floor"
        self.python = self.cache / "venv" / "bin" / "python"

    def make(self, wanted):
        """Installs the peers and builds the floor. A peer that cannot be installed here is left out, by name."""
        self.logs.mkdir(parents=True, exist_ok=True)
        require = HERE.parent / ".ci" / "require"
        subprocess.run([require, "wrk=wrk", "gcc=gcc", "python3:venv=python3-venv"], check=True)
        source = HERE / "floor.c"
        if not self.floor.exists() or self.floor.stat().st_mtime < source.stat().st_mtime:
            subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-o", self.floor, source], check=True)
        if not self.python.exists():
            subprocess.run([sys.executable, "-m", "venv", self.cache / "venv"], check=True)
        left_out = {}
        for line in (HERE / "peers.txt").read_text().split():
            package = line.partition("==")[0]
            stamp = self.cache / f"{line}.installed"
            # gunicorn imports `packaging` for its gevent pool and does not ask for it.
            needed = package in ("django", "gunicorn", "packaging", "uvloop", "httptools", "websockets") or any(
                name.startswith(package) or name.endswith(package) for name in wanted)
            if stamp.exists() or not needed:
                continue
            if package == "bjoern":
                subprocess.run([require, "/usr/include/ev.h=libev-dev"], check=True)
            pip = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", line]
            if subprocess.run(pip).returncode == 0:
                stamp.touch()
            else:
                left_out[package] = f"pip cannot install {line}"
        return left_out
