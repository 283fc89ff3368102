"""A running rgunicorn, and the checks that every test of the whole ends with.

Owns the process, its log, its notification socket. Invariant: `finish` leaves no process behind, and fails the test if
the server did not end cleanly, complained unexpectedly, or killed something that the test did not ask for.
"""

import json
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from signal import SIGKILL, SIGTERM

from . import processes
from .http import Connection
from .log import Log
from .waiting import until

ROOT = Path(__file__).resolve().parents[2]
APPS = ROOT / "tests" / "apps"
BINARY = Path(
    os.environ.get("RGUNICORN") or Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "rgunicorn"
)
# What a test machine may have set and what would change the meaning of a command line.
_FOREIGN = ("RGUNICORN", "GUNICORN_CMD_ARGS", "WEB_CONCURRENCY", "PORT", "NOTIFY_SOCKET", "LISTEN_", "JOURNAL_STREAM",
            "FORWARDED_ALLOW_IPS", "SENDFILE", "VIRTUAL_ENV", "INVOCATION_ID", "PYTHON")


def clean_environment():
    """The tests' environment without what rgunicorn would take for settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}


def run(*arguments, cwd=None, env=None, timeout=30):
    """Runs rgunicorn to its end (`--check-config`, `--help`, a start that fails): the finished process, with text."""
    return subprocess.run([BINARY, *map(str, arguments)], cwd=cwd, env=clean_environment() | (env or {}), text=True,
                          capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL)


def control(*words, timeout=30, **more):
    """Runs rgunicornctl to its end: the finished process, with text."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.run([BINARY.with_name("rgunicornctl"), *map(str, words)], text=True, timeout=timeout,
                          **streams | more)


def in_application(control_socket):
    """The requests that lanes have now. A lane has its request until shortly after the response was sent."""
    return json.loads(control("-s", control_socket, "--json", "requests").stdout)["requests"]


class Notifications:
    """The receiving end of NOTIFY_SOCKET: what systemd would be told. Reads at once, as systemd does; what was sent before
    a question is known to the answer."""

    def __init__(self, path):
        self.path = str(path)
        self._lines = []
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(self.path)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        goes_on = True
        while goes_on:
            select.select([self._socket], [], [])
            with self._lock:
                goes_on = self._take()

    def _take(self):
        """Takes what is there. Whether more may come. With the lock."""
        while True:
            try:
                message = self._socket.recv(65536)
            except BlockingIOError:
                return True
            if not message:
                return False
            self._lines += message.decode().strip().split("\n")

    @property
    def lines(self):
        """All assignments so far, in order."""
        with self._lock:
            self._take()
            return list(self._lines)

    @property
    def status(self):
        """The last STATUS=, or ''."""
        return next((line[7:] for line in reversed(self.lines) if line.startswith("STATUS=")), "")

    def close(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"", self.path)
        self._thread.join(5)
        self._socket.close()


class Server:
    """rgunicorn in a directory of its own. Tests make it with the `serve` fixture."""

    def __init__(self, directory, arguments, *, cwd=None, env=None, wrapper=(), fds=(), notify=True, binary=BINARY):
        self.directory = Path(directory)
        self.arguments = [str(argument) for argument in arguments]
        self.cwd = cwd or self.directory
        self.env = env or {}
        self.wrapper = [str(word) for word in wrapper]
        self.binary = Path(binary)
        self.fds = tuple(fds)
        self.mark = f"TEST_RUN={uuid.uuid4().hex}"
        self.notify = Notifications(self.directory / "notify.sock") if notify else None
        self.process = None
        self.log = None
        self._expected = []
        self._expected_status = (0,)
        self._finished = False

    # Starting

    def start(self):
        """Starts the process and does not wait for anything."""
        env = clean_environment() | dict([self.mark.split("=")]) | self.env
        if self.notify:
            env["NOTIFY_SOCKET"] = self.notify.path
        command = [str(self.binary), *self.arguments]
        if self.wrapper:
            # systemd-socket-activate passes only what it is told to.
            passed = [word for name in env if self.wrapper[0].endswith("socket-activate") for word in ("-E", name)]
            command = [*self.wrapper, *passed, *command]
        self.process = subprocess.Popen(command, cwd=self.cwd, env=env, stdin=subprocess.DEVNULL, pass_fds=self.fds,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        self.log = Log(self.process.stdout)
        return self

    def ready(self, within=20.0):
        """Waits until the server says that it is ready; fails at once if it ends instead."""

        def said():
            if self.process.poll() is not None:
                self.log.ended(2)
                raise EOFError(f"rgunicorn ended with {self.process.returncode} instead of serving:\n{self.log.text}")
            return "READY=1" in self.notify.lines

        until(said, lambda: f"READY=1; the log:\n{self.log.text}", within)
        return self

    # Facts

    @property
    def pid(self):
        """The arbiter's pid."""
        return self.process.pid

    @property
    def addresses(self):
        """Where the server listens for its application, in the order of its listeners."""
        return [address for address in processes.listening(self.pid) if not str(address).endswith("/control.sock")]

    @property
    def address(self):
        return self.addresses[0]

    @property
    def children(self):
        """Pids of the arbiter's living children: molds and workers."""
        return processes.children(self.pid)

    @property
    def molds(self):
        """Children that the arbiter executed itself: they have the channel's end, and no worker has their age."""
        return [pid for pid in self.children if _role(pid) == "mold"]

    @property
    def workers(self):
        """Children that a mold forked, oldest first."""
        return [pid for pid in self.children if _role(pid) == "worker"]

    def running(self):
        return self.process.poll() is None

    def found(self, pattern, level=None, within=10.0):
        """Waits for a record that matches; returns the first."""
        return until(lambda: self.log.find(pattern, level),
                     lambda: f"a record like {pattern!r}; the log:\n{self.log.text}", within)[0]

    def drains(self, workers, within=10.0):
        """Waits until so many workers know that they retire; the arbiter's "Stopping" is only that they will be told.
        Needs `--log-level debug`."""
        def told():
            records = self.log.find(r"worker .* finishes \d+ requests?", "debug")
            return {re.search(r"pid (\d+)", record.text)[1] for record in records}

        until(lambda: len(told()) >= workers,
              lambda: f"{workers} workers to say that they retire; the log:\n{self.log.text}", within)

    # Acting

    def connect(self, address=None, timeout=10.0):
        """A new connection to the first (or the given) address."""
        return Connection(address or self.address, timeout)

    def get(self, target="/", headers=(), **more):
        """One GET on a connection of its own."""
        with self.connect() as connection:
            return connection.get(target, headers, **more)

    def post(self, target, body, headers=()):
        with self.connect() as connection:
            return connection.post(target, body, headers)

    def signal(self, number):
        """Sends a signal to the arbiter."""
        os.kill(self.pid, number)

    def expect(self, pattern):
        """This test provokes an error record like this, so it is no fault; that it comes is checked at the end."""
        self._expected.append(pattern)

    def expect_status(self, *statuses):
        """The exit statuses that are right in this test; negative: killed by that signal."""
        self._expected_status = statuses

    # Ending

    def wait(self, within=20.0):
        """Waits until the arbiter has ended; returns its exit status."""
        try:
            status = self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"rgunicorn did not end within {within:g} s; the log:\n{self.log.text}") from None
        self.log.ended(5)
        return status

    def stop(self, number=SIGTERM, within=20.0):
        """Sends a signal, by default TERM, and waits for the end."""
        if self.running():
            self.signal(number)
        return self.wait(within)

    def finish(self):
        """Stops what still runs and checks that all went well. Once only."""
        if self._finished or self.process is None:
            return
        self._finished = True
        try:
            status = self.stop()
            left = lambda: not processes.with_environment(self.mark)  # noqa: E731
            until(left, "all processes of the server to be gone", 5)
        except AssertionError as error:
            where = self._remains()
            self._kill()
            raise AssertionError(f"{error}\n{where}") from None
        finally:
            if self.notify:
                self.notify.close()
        assert status in self._expected_status, f"exit status {status}, not {self._expected_status}:\n{self.log.text}"
        assert self.log.ended(5), "somebody still holds the server's stderr"
        self._check_log()

    def abandon(self):
        """Ends everything without any check: the test has already failed."""
        if self.process is not None and not self._finished:
            self._finished = True
            self._kill()
            if self.notify:
                self.notify.close()

    def _check_log(self):
        text = self.log.text
        for record in self.log.records:
            if record.level in ("error", "critical") or "panicked at" in record.text:
                assert any(re.search(pattern, record.text, re.DOTALL | re.IGNORECASE) for pattern in self._expected), (
                    f"unexpected {record.level} record: {record.raw}\nthe log:\n{text}")
            elif re.search(r"SIGKILL|was killed", record.text):
                assert any(re.search(pattern, record.text, re.DOTALL | re.IGNORECASE) for pattern in self._expected), (
                    f"something was killed: {record.raw}\nthe log:\n{text}")
        for pattern in self._expected:
            assert self.log.find(pattern), f"no record like {pattern!r}; the log:\n{text}"

    def _remains(self):
        lines = [f"  {pid}: {' '.join(processes.command_line(pid))}" for pid in processes.with_environment(self.mark)]
        return "still running:\n" + "\n".join(lines) if lines else "nothing of it runs any more"

    def _kill(self):
        for pid in {self.pid, *processes.with_environment(self.mark)}:
            try:
                os.kill(pid, SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()


def _role(pid):
    # A mold leads no one and was executed; a worker was forked by its mold and so has the mold's command line.
    # What tells them apart is the name that the worker module gives to its process.
    title = " ".join(processes.command_line(pid))
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return "gone"
    if not title:  # one that was killed has lost its memory, and is about to be a zombie
        return "gone"
    return "mold" if "mold" in title or "mold" in name else "worker"


def write(directory, files):
    """Writes {relative path: text} below a directory. Whoever imports one meanwhile finds the old one or the new one."""
    for name, text in files.items():
        path = Path(directory) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.new")
        beside.write_text(text)
        beside.rename(path)


def interpreters():
    """The CPythons of this machine from 3.10 on: version -> path, one for each version."""
    found = {}
    candidates = [Path(sys.executable), *Path.home().glob(".pyenv/versions/*/bin/python3")]
    candidates += [Path(path) for n in range(10, 16) if (path := shutil.which(f"python3.{n}", path="/usr/bin"))]
    for path in candidates:
        asked = subprocess.run(
            [path, "-c", "import sys, sysconfig; print('%d.%d' % sys.version_info[:2], sys.implementation.name,"
             " sysconfig.get_config_var('Py_GIL_DISABLED') or 0)"], capture_output=True, text=True)
        version, name, free = (asked.stdout.split() + ["", "", ""])[:3]
        if asked.returncode == 0 and name == "cpython" and free == "0" and int(version.split(".")[1]) >= 10:
            found.setdefault(version, path)
    return found


def interpreter_at(version):
    """The interpreter of pyenv with this version prefix, or None."""
    for path in sorted(Path.home().glob(f".pyenv/versions/{version}*/bin/python")):
        return path
    return None
