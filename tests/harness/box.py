"""A real systemd as PID 1 of fresh namespaces: the box.

It sees this machine's files, or those of a tree (tree.py), through an overlay in memory, has a network, a /run, a /tmp
and cgroups of its own, and a journal. Needs root and the systemd, dbus and util-linux packages; nothing of a container
engine. Owns the namespaces' first process and the cgroups; `stop` leaves neither behind. Knows nothing of rgunicorn.
"""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from . import processes
from .http import Connection
from .requirement import command, require
from .waiting import until

INIT = Path(__file__).with_name("box-init.sh")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Joins the cgroups whose directories are in $1 (one per line), then executes the rest. The box's systemd may remove one that
# is still empty between its making and the joining: it is made again.
JOIN = """while read -r d; do
  n=0
  until mkdir -p "$d" && echo $$ >"$d/cgroup.procs"; do n=$((n + 1)); [ $n -lt 20 ] || exit 125; done
done <"$1"; shift; exec "$@\""""


class Box:
    """`with Box() as box: box.run("systemctl", "status")`.

    `root`: the directory whose files it sees; without it this machine's.
    """

    def __init__(self, root=None):
        self.root = Path(root or "/")
        require(os.geteuid() == 0, "root, to boot a systemd in namespaces")
        for name in ("unshare", "nsenter", "setpriv", "pivot_root", "dbus-daemon"):
            command(name)
        require((self.root / "lib/systemd/systemd").exists(), f"{self.root}/lib/systemd/systemd (package systemd)")
        # A short path: names of unix sockets have at most 107 bytes.
        self.state = Path(tempfile.mkdtemp(prefix="box."))
        self.state.chmod(0o755)
        self.leader = None
        self._unshare = None
        self._cgroups = []

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Boots; returns when systemd says that it is up."""
        self._cgroups = [(ctl, path / self.state.name) for ctl, path in own_cgroups()]
        for controllers, path in self._cgroups:
            _make_cgroup(controllers, path)
        (self.state / "cgroups").write_text("".join(f"{ctl} {path}\n" for ctl, path in self._cgroups))
        (self.state / "box.join").write_text("".join(f"{path}\n" for _, path in self._cgroups))
        (self.state / "inside.join").write_text("".join(f"{path}/inside\n" for _, path in self._cgroups))
        console = open(self.state / "console", "ab")
        # Without us the box ends: unshare gets SIGKILL, and passes it on to the box's PID 1.
        self._unshare = subprocess.Popen(
            ["sh", "-c", JOIN, "sh", self.state / "box.join", "setpriv", "--pdeathsig", "KILL",
             "unshare", "--mount", "--uts", "--ipc", "--net", "--cgroup", "--pid", "--fork", "--kill-child",
             "--propagation", "private", INIT, self.state, self.root],
            stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True)
        console.close()

        def booted():
            if self._unshare.poll() is not None:
                raise EOFError(f"the box did not boot:\n{(self.state / 'console').read_text(errors='replace')}")
            for pid in processes.children(self._unshare.pid):
                if Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                    if Path(f"/proc/{pid}/root/run/systemd/private").is_socket():
                        return pid

        self.leader = until(booted, "the box's systemd", 30)

        def up():
            answer = self.run("systemctl", "is-system-running", check=False)
            assert answer.stdout.strip() in ("running", "degraded"), f"{answer.stdout}{answer.stderr}"
            return True

        until(up, "the box to be up", 60)

    def popen(self, *words, **more):
        """Starts a command in the box."""
        for controllers, path in self._cgroups:  # again each time: systemd removes cgroups that are empty
            _make_cgroup(controllers, path / "inside")
        namespaces = ["-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w"]
        env = ["env", "-i", f"PATH={PATH}", "HOME=/root", "TERM=dumb", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive",
               "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0"]
        return subprocess.Popen(["sh", "-c", JOIN, "sh", self.state / "inside.join", "nsenter", "-t", str(self.leader),
                                 *namespaces, *env, *map(str, words)], **more)

    def run(self, *words, check=True, timeout=60, text=None):
        """Runs a command in the box to its end: the finished process, with text."""
        process = self.popen(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            out, err = process.communicate(text or "", timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"{words} did not end within {timeout} s") from None
        if check:
            assert process.returncode == 0, f"{words}: exit status {process.returncode}\n{out}{err}"
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def path(self, inside):
        """A path of the box as it is seen from here."""
        return Path(f"/proc/{self.leader}/root") / str(inside).lstrip("/")

    def outside(self, pid):
        """The pid by which a process of the box is known here."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    lines = (entry / "status").read_text().splitlines()
                    same = os.readlink(entry / "ns/pid") == os.readlink(f"/proc/{self.leader}/ns/pid")
                except OSError:
                    continue
                if same and next(line for line in lines if line.startswith("NSpid:")).split()[-1] == str(pid):
                    return int(entry.name)
        raise AssertionError(f"there is no process {pid} in the box")

    def write(self, inside, text, mode=0o644):
        """Writes a file of the box."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def connect(self, inside, timeout=15.0):
        """A client's connection to a unix socket of the box."""
        return Connection(self.path(inside), timeout)

    def systemctl(self, *words, check=True, timeout=60):
        return self.run("systemctl", *words, check=check, timeout=timeout)

    def show(self, unit, name):
        """A property of a unit."""
        return self.systemctl("show", "--property", name, "--value", unit).stdout.strip()

    def journal(self, *matches):
        """Journal records of this boot as dictionaries: `box.journal("-u", "x.service", "PRIORITY=3")`."""
        self.run("journalctl", "--sync")
        out = self.run("journalctl", "-b", "-o", "json", "--all", "--no-pager", *matches).stdout
        records = [json.loads(line) for line in out.splitlines() if line.strip()]
        for record in records:
            for key, value in record.items():
                if isinstance(value, list) and all(isinstance(item, int) for item in value):
                    record[key] = bytes(value).decode(errors="replace")
        return records

    def stop(self):
        """Powers the box off and removes every trace; killed after 30 seconds."""
        if self.leader is not None:
            # Commands that still run inside would be stopped by systemd-shutdown together with their nsenter, which
            # nobody continues then.
            self._kill_inside()
            os.kill(self.leader, signal.SIGRTMIN + 4)
            try:
                self._unshare.wait(30)
            except subprocess.TimeoutExpired:
                self._unshare.kill()
        if self._unshare is not None:
            if self.leader is None:
                self._unshare.kill()
            self._unshare.wait(30)
        for _, path in self._cgroups:
            until(lambda path=path: _remove_cgroup(path), f"the cgroup {path} to be empty", 10)
        shutil.rmtree(self.state, ignore_errors=True)

    def _kill_inside(self):
        def nobody():
            inside = self._cgroups[0][1] / "inside" / "cgroup.procs"
            pids = inside.read_text().split() if inside.exists() else []
            for pid in pids:
                status = Path(f"/proc/{pid}/status").read_text()
                depth = next(line.split() for line in status.splitlines() if line.startswith("NSpid:"))
                if len(depth) > 2:  # in the box; nsenter itself, outside, then ends by itself
                    os.kill(int(pid), signal.SIGKILL)
            return not pids

        until(nobody, "the commands in the box to be gone", 10)


def own_cgroups():
    """(controllers, directory) of our own cgroup in each mounted hierarchy."""
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        base = Path("/sys/fs/cgroup")
        if controllers:
            base /= controllers.removeprefix("name=")
        elif not (base / "cgroup.controllers").exists():
            base /= "unified"
        if os.path.ismount(base):
            found.append((controllers or "unified", base / path.lstrip("/")))
    return found


def _make_cgroup(controllers, path):
    path.mkdir(exist_ok=True)
    if controllers == "cpuset":  # a cpuset without processors or memory takes no process
        for name in ("cpuset.cpus", "cpuset.mems"):
            (path / name).write_text((path.parent / name).read_text())
        (path / "cgroup.clone_children").write_text("1")


def _remove_cgroup(path):
    if path.exists():
        for directory, _, _ in os.walk(path, topdown=False):
            os.rmdir(directory)
    return True
