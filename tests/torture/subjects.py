"""Whom the torture is for: rgunicorn, and Gunicorn for comparison, behind the same few words.

A subject owns its processes, its application's folder and its settings file. It knows no load and no order of events.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from harness import processes
from harness.broken import CODE, SETTINGS
from harness.deployed import free_port
from harness.log import Log
from harness.server import Server, clean_environment, control
from harness.waiting import until

HERE = Path(__file__).resolve().parent


class _Subject:
    """What both have in common: a folder with the application, in which releases are swapped."""

    def __init__(self, directory, notes):
        self.directory = Path(directory)
        self.folder = self.directory / "app"
        self.folder.mkdir()
        self.module = self.folder / "app.py"
        shutil.copy(HERE / "app.py", self.module)
        # Python takes a .pyc for current if the source's time in seconds and its length agree; releases change quickly here.
        self.environment = {"TORTURE_NOTES": str(notes), "PYTHONDONTWRITEBYTECODE": "1"}

    def _release(self, text):
        new = self.module.with_suffix(".new")
        new.write_text(text)
        new.rename(self.module)

    def repair(self):
        self._release((HERE / "app.py").read_text())


class Rgunicorn(_Subject):
    """RGUNICORN, or the one in target/release."""

    name = "rgunicorn"
    events = ("kill", "more", "less", "reload", "break", "upgrade")
    broken = CODE | SETTINGS

    def __init__(self, directory, notes, *, pool, workers, unix, arguments):
        super().__init__(directory, notes)
        self.settings = self.directory / "settings.toml"
        self.settings.write_text("")
        self.control = self.directory / "control.sock"
        # An address that a broken release wants to listen on.
        self.taken = socket.create_server(("127.0.0.1", 0))
        words = ["-c", self.settings, "--control-socket", self.control, "--workers", workers,
                 *(["-k", pool] if pool in ("asgi", "gevent") else ["--threads", 1 if pool == "sync" else 4]),
                 "--chdir", self.folder, *arguments, "app:asgi" if pool == "asgi" else "app:app"]
        self._own = {"python": sys.executable,
                     "bind": f"unix:{directory}/torture.sock" if unix else "127.0.0.1:%d" % free_port()}
        self.repair()
        self.server = Server(directory, words, env=self.environment)

    def start(self):
        self.server.start()
        self.server.ready()
        self.address = self.server.address

    @property
    def pid(self):
        return self.server.pid

    @property
    def log(self):
        return self.server.log.text

    def workers(self):
        return self.server.workers

    def running(self):
        return self.server.running()

    def signal(self, number):
        self.server.signal(number)

    def reload(self):
        """Reloads and waits: whether it worked, and what was said."""
        done = control("-s", self.control, "reload", timeout=120)
        return done.returncode == 0, done.stdout + done.stderr

    def can_upgrade(self):
        return "\n  upgrade" in control("--help").stdout

    def upgrade(self):
        done = control("-s", self.control, "upgrade", timeout=120)
        return done.returncode == 0, done.stdout + done.stderr

    def broken_down(self, name):
        """Deploys a release that does not work; returns what must be said of it."""
        broken = self.broken[name]
        if broken.code is not None:
            self._release(broken.code)
        else:
            taken = "127.0.0.1:%d" % self.taken.getsockname()[1]
            lines = broken.settings.replace("{taken}", taken)
            own = {key: value for key, value in self._own.items() if not lines.startswith(key)}
            self._write(own, lines)
        return broken.reason.replace(r"\{taken\}", "127.0.0.1:%d" % self.taken.getsockname()[1])

    def repair(self):
        super().repair()
        self._write(self._own)

    def _write(self, own, more=""):
        new = self.settings.with_suffix(".new")
        new.write_text("".join(f'{name} = "{value}"\n' for name, value in own.items()) + more)
        new.rename(self.settings)

    def expect(self, pattern):
        self.server.expect(pattern)

    def finish(self):
        self.taken.close()
        self.server.finish()

    def abandon(self):
        self.taken.close()
        self.server.abandon()


class Gunicorn(_Subject):
    """The gunicorn of this virtual environment. No broken releases: one ends it (its documentation calls that a halt)."""

    name = "gunicorn"
    events = ("kill", "more", "less", "reload")

    def __init__(self, directory, notes, *, pool, workers, unix, arguments):
        super().__init__(directory, notes)
        bind = f"unix:{directory}/torture.sock" if unix else "127.0.0.1:0"
        self.command = [sys.executable, "-m", "gunicorn", "--bind", bind, "--workers", workers,
                        "--worker-class", pool, "--threads", 1 if pool == "sync" else 4, "--chdir", self.folder,
                        "--no-control-socket", *arguments, "app:app"]
        self.process = None

    def start(self):
        env = clean_environment() | self.environment
        self.process = subprocess.Popen([str(word) for word in self.command], cwd=self.directory, env=env,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._log = Log(self.process.stdout)
        self.address = until(lambda: processes.listening(self.pid), "gunicorn to listen", 20)[0]
        until(lambda: "Booting worker" in self._log.text, "gunicorn's workers", 20)

    @property
    def pid(self):
        return self.process.pid

    @property
    def log(self):
        return self._log.text

    def workers(self):
        return processes.children(self.pid)

    def running(self):
        return self.process.poll() is None

    def signal(self, number):
        os.kill(self.pid, number)

    def reload(self):
        """HUP, and waits until the workers are others. Gunicorn does not say when, or whether, a reload has worked."""
        before = set(self.workers())
        self.signal(signal.SIGHUP)
        try:
            until(lambda: self.workers() and not before & set(self.workers()), "other workers", 60)
        except AssertionError as error:
            return False, str(error)
        return True, ""

    def can_upgrade(self):
        return False

    def expect(self, pattern):
        pass

    def finish(self):
        self.process.terminate()
        try:
            self.process.wait(40)
        finally:
            self.abandon()

    def abandon(self):
        if self.process is None:
            return
        for pid in {self.pid, *processes.with_environment(f"TORTURE_NOTES={self.environment['TORTURE_NOTES']}")}:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()


SUBJECTS = {subject.name: subject for subject in (Rgunicorn, Gunicorn)}
