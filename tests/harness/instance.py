"""An instance of rgunicorn in a box: rgunicorn@NAME, its files, its units, its records."""

import json

from .gate import Gate
from .waiting import until

# Interpreters in the box: the system's, and that of a virtual environment with Flask and Django.
PYTHON = "/usr/bin/python3"
VENV = "/opt/venv/bin/python"


class Instance:
    """rgunicorn@NAME in the box: its files, its units, its records."""

    def __init__(self, box, name):
        self.box = box
        self.name = name
        self.service = f"rgunicorn@{name}.service"
        self.socket = f"rgunicorn@{name}.socket"
        self.path = f"/run/rgunicorn/{name}.sock"
        self.directory = f"/srv/{name}"
        self.may_fail = False

    def write(self, files, **settings):
        """The application's files, and /etc/rgunicorn/NAME.toml."""
        for name, text in files.items():
            self.box.write(f"{self.directory}/{name}", text)
        values = {"chdir": self.directory, "python": PYTHON, "workers": 2} | settings
        lines = [f"{name} = {str(value).lower() if isinstance(value, bool) else repr(value)}\n"
                 for name, value in values.items()]
        self.box.write(f"/etc/rgunicorn/{self.name}.toml", "".join(lines))
        return self

    def drop_in(self, text=None, name="test", link=None):
        """A drop-in of the service: lines of its [Service] section, or a link to a shipped one ("sealed")."""
        folder = f"/etc/systemd/system/{self.service}.d"
        if link:
            self.box.run("mkdir", "-p", folder)
            self.box.run("ln", "-s", f"/usr/share/rgunicorn/drop-ins/{link}.conf", folder)
        else:
            self.box.write(f"{folder}/{name}.conf", f"[Service]\n{text}\n")
        self.box.systemctl("daemon-reload")
        return self

    def open(self):
        """Opens the socket; the service starts with the first connection."""
        self.box.systemctl("start", self.socket)
        return self

    def connect(self, timeout=15.0):
        return self.box.connect(self.path, timeout)

    def get(self, target="/", headers=()):
        with self.connect() as client:
            return client.get(target, headers)

    def show(self, name):
        return self.box.show(self.service, name)

    @property
    def state(self):
        return self.show("ActiveState") + "/" + self.show("SubState")

    @property
    def arbiter(self):
        """The arbiter's pid in the box."""
        return int(self.show("MainPID"))

    def records(self, *matches):
        """What `journalctl -u` shows."""
        return self.box.journal("-u", self.service, *matches)

    def found(self, text, *matches, within=10.0):
        """Waits for a record that contains `text`."""
        return until(lambda: [r for r in self.records(*matches) if text in str(r.get("MESSAGE"))],
                     f"a record with {text!r} of {self.name}", within)[0]

    @property
    def status(self):
        """What rgunicornctl tells of it."""
        return json.loads(self.box.run("rgunicornctl", "-i", self.name, "--json", "status").stdout)

    @property
    def totals(self):
        """What the scoreboard has counted. A worker counts what it has done shortly after it was seen."""
        return self.status["totals"]

    def kill_arbiter(self):
        """SIGKILL; the pid that it had, once the workers, which may still accept and serve until then, are gone."""
        before = self.arbiter
        self.box.run("kill", "-KILL", str(before))
        until(lambda: self.show("SubState") == "auto-restart" or self.arbiter not in (0, before),
              "systemd to have killed the rest")
        return before

    def gate(self, name="gate"):
        """A gate in the one directory that the service may write to."""
        return Gate(self.box.path(f"/var/lib/private/rgunicorn/{self.name}"), name, f"/var/lib/rgunicorn/{self.name}")

    def close(self):
        self.box.systemctl("stop", self.socket, self.service, check=False, timeout=90)
        result = self.show("Result")
        self.box.systemctl("reset-failed", self.socket, self.service, check=False)
        if not self.may_fail:
            assert result == "success", f"{self.service} ended with {result}"
            bad = [r["MESSAGE"] for r in self.records("PRIORITY=0", "PRIORITY=1", "PRIORITY=2", "PRIORITY=3")]
            assert not bad, bad
