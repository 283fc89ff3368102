"""An instance whose settings and application a test changes while it serves, and a visitor who notices everything.

Owns the settings file and the application's folder. Knows no reload but `rgunicornctl reload`.
"""

import contextlib
import json
import random
import socket
import sys
import threading
from pathlib import Path

import pytest

from .processes import open_files
from .server import control, write
from .waiting import until

APP = """
import os, sys

def app(environ, start_response):
    path = environ["PATH_INFO"]
    text = {text}
    start_response("200 OK", [])
    return [str(text).encode()]
"""
PATHS = APP.format(text='{"/pid": os.getpid(), "/prefix": sys.prefix, "/env": os.environ.get("GREETING"), '
                        '"/multithread": environ["wsgi.multithread"], "/folder": os.getcwd(), '
                        '"/file": __file__}.get(path, "hello")')


class Instance:
    """A server with a control socket, and all its settings in a file: a command line would outrank what a reload reads."""

    def __init__(self, serve, directory, settings, files, words=(), **more):
        self.file = directory / "settings.toml"
        self.socket = directory / "control.sock"
        self.port = free_port()
        self.configure(**settings)
        self.server = serve("app:app", "-c", self.file, "--control-socket", self.socket, *words, bind=[], python=None,
                            workers=None, files={"app.py": PATHS} | (files or {}),
                            env={"PYTHONDONTWRITEBYTECODE": "1"}, **more)
        self.folder = self.server.app_directory

    @property
    def bind(self):
        return f"127.0.0.1:{self.port}"

    def configure(self, lines="", **settings):
        """Writes the file: `settings` above what each test has, then `lines` as they are."""
        usual = {"bind": self.bind, "python": sys.executable, "workers": 2}
        named = {name: value for name, value in (usual | settings).items() if not lines.startswith(name)}
        text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in named.items() if value is not None)
        self.file.write_text(text + lines)

    def deploy(self, **files):
        write(self.folder, {name.replace("__", "/") + ".py": text for name, text in files.items()})

    def ctl(self, *words):
        return control("-s", self.socket, *words, timeout=60)

    def reload(self):
        """A reload that works: what was said."""
        done = self.ctl("reload")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def get(self, target, address=None):
        with self.server.connect(address) as client:
            return client.get(target).text

    def gone(self, pids):
        until(lambda: not set(pids) & set(self.server.children), "the old generation to be gone")

    @property
    def listeners(self):
        """Address -> inode of the sockets that the arbiter listens on."""
        held = [target for _, target in sorted(open_files(self.server.pid).items())]
        sockets = [int(target[8:-1]) for target in held if target.startswith("socket:[")]
        names = _listening_inodes()
        return {names[inode]: inode for inode in sockets if inode in names and "control" not in str(names[inode])}


def _listening_inodes():
    found = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        columns = line.split()
        if columns[3] == "0A":
            found[int(columns[9])] = int(columns[1].split(":")[1], 16)
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        columns = line.split(maxsplit=7)
        if int(columns[3], 16) & 0x10000 and len(columns) == 8:
            found[int(columns[6])] = columns[7]
    return found


@pytest.fixture
def instance(serve, tmp_path):
    """instance(name=value, files=..., words=...): see Instance."""

    def start(files=None, words=(), wait=True, wrapper=(), **settings):
        return Instance(serve, tmp_path, settings, files, words, wait=wait, wrapper=wrapper)

    return start


def free_port():
    """One that no client gets by chance meanwhile: below those that the kernel gives (ip(7), ip_local_port_range)."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            port = random.randrange(20000, 32000)
            probe.bind(("127.0.0.1", port))
            return port


class Visitor:
    """Asks without a pause, each time on a new connection and on a kept one, until `leave`; every answer must be right."""

    def __init__(self, server):
        self.server, self.answers, self.wrong = server, 0, []
        self._go_on = True
        self._thread = threading.Thread(target=self._visit, daemon=True)
        self._thread.start()
        until(lambda: self.answers > 2 or self.wrong, "answers")
        self.before = self.answers

    def _visit(self):
        with self.server.connect() as kept:
            while self._go_on:
                try:
                    texts = [self.server.get("/").text, kept.get("/").text]
                except Exception as error:  # noqa: BLE001
                    self.wrong.append(repr(error))
                    return
                self.answers += 2
                self.wrong += [text for text in texts if text != "hello"]

    def leave(self):
        until(lambda: self.answers > self.before + 2 or self.wrong, "answers")
        self._go_on = False
        self._thread.join(20)
        assert not self.wrong, self.wrong
