"""The life of the package on a bare Debian 12 and 13: installed, upgraded under load, removed, purged."""

import json
import shutil
import subprocess
import time

import pytest
from harness import until
from harness.requirement import require
from harness.server import BINARY, ROOT
from harness.systems import boot
from torture import drive

NEXT = ROOT / ".cache" / "next"


@pytest.fixture(scope="module")
def packages(deb, tmp_path_factory):
    """The package, and one of a later version, whose programs say so."""
    require((NEXT / "rgunicorn").exists(), "a build with another version (make next)")
    directory = tmp_path_factory.mktemp("later")
    subprocess.run([ROOT / "packaging/deb/build", NEXT, directory, version(NEXT)], check=True, stdout=subprocess.DEVNULL)
    (later,) = directory.glob("rgunicorn_*.deb")
    return {"first.deb": deb, "later.deb": later}


@pytest.fixture(scope="module")
def generator():
    """The load generator is built before the clock of a test runs."""
    return drive.generator()


def version(release):
    return subprocess.run([release / "rgunicorn", "--version"], check=True, capture_output=True, text=True).stdout.split()[1]


@pytest.fixture(params=["debian12", "debian13"])
def box(request, packages, generator):
    with boot(request.param) as box:
        for name, package in packages.items():
            shutil.copy(package, box.state / name)
        # A virtual environment of the tree's own Python.
        box.run("python3", "-m", "venv", "--without-pip", "/srv/app/venv")
        box.write("/srv/app/app.py", (ROOT / "tests/torture/app.py").read_text())
        yield box


def apt(box, *words):
    return box.run("apt-get", "-y", "-q", *words, timeout=120)


def files(box):
    """Every file of the box outside of what changes by itself, and of apt's and dpkg's own books."""
    places = ["/etc", "/usr", "/var/lib/private", "/var/cache/private", "/var/log/private", "/var/lib/systemd", "/run/rgunicorn"]
    found = box.run("find", *places, "-xdev", check=False).stdout.splitlines()
    noise = ("/etc/ld.so.cache", "/etc/.pwd.lock", "/var/lib/systemd/", "/usr/lib/python3", "/etc/.updated")
    return {path for path in found if not path.startswith(noise) or "rgunicorn" in path}


def accounts(box):
    return {name: box.path(f"/etc/{name}").read_text() for name in ("passwd", "group", "shadow", "gshadow")}


def inode(box, path):
    return box.run("stat", "-Lc", "%d %i", path).stdout


def test_it_is_installed_serves_is_upgraded_under_load_is_removed_and_leaves_nothing(box, packages):
    before, users = files(box), accounts(box)

    # Installing starts nothing.
    units = box.systemctl("list-units", "--all", "--plain", "--no-legend", "rgunicorn*").stdout
    began = time.monotonic()
    apt(box, "install", "/run/outside/first.deb")
    took = time.monotonic() - began
    assert box.systemctl("list-units", "--all", "--plain", "--no-legend", "rgunicorn*").stdout == units == ""
    assert box.path("/run/rgunicorn").is_dir() and box.run("getent", "group", "rgunicorn").returncode == 0
    assert "rgunicorn instance" in box.run("journalctl", "--dump-catalog", "bd59d98bb4b2414494332f5b8a49ad4d").stdout

    box.write("/etc/rgunicorn/app.toml", 'app = "app:app"\nchdir = "/srv/app"\nworkers = 2\n')
    box.systemctl("enable", "rgunicorn@app.socket")
    box.systemctl("start", "rgunicorn@app.socket")
    socket = "/run/rgunicorn/app.sock"
    assert box.run("curl", "-sS", "--unix-socket", socket, "http://localhost/?token=a-1").stdout.startswith("a-1 GET")
    python = box.run("python3", "-c", "import sys; print(sys.version.split()[0])").stdout.strip()
    assert f"CPython {python} /srv/app/venv/bin/python" in box.run("journalctl", "-u", "rgunicorn@app", "-o", "cat").stdout

    # One whose arbiter cannot be reached: it is told of, and the upgrade goes on.
    box.write("/etc/rgunicorn/deaf.toml", 'app = "app:app"\nchdir = "/srv/app"\nworkers = 1\ncontrol_socket_disable = true\n')
    box.systemctl("start", "rgunicorn@deaf.service")

    # An upgrade under load: the same process runs the new program, and every request is answered.
    pid = box.show("rgunicorn@app.service", "MainPID")
    deaf = box.show("rgunicorn@deaf.service", "MainPID")
    load = drive.Load(str(box.path(socket)), int(6 + 3 * took), 40, 5)
    load.announce("upgrade")
    said = apt(box, "install", "/run/outside/later.deb").stdout
    assert load.process.poll() is None, "the load has ended before the upgrade"
    load.announce("over upgrade")
    result = load.result(within=60)
    assert not result["lost_in_all"] and result["answered"] > 500, json.dumps(result, indent=1)
    assert box.show("rgunicorn@app.service", "MainPID") == pid
    assert box.show("rgunicorn@app.service", "NRestarts") == "0"
    assert inode(box, f"/proc/{pid}/exe") == inode(box, "/usr/bin/rgunicorn")
    assert version(NEXT) in box.run("rgunicornctl", "-i", "app", "--version").stdout
    assert "rgunicorn@app.service goes on with" not in said, said
    assert "rgunicorn@deaf.service goes on with" in said and "systemctl restart rgunicorn@deaf.service" in said, said
    assert box.show("rgunicorn@deaf.service", "MainPID") == deaf
    # The workers that come from now on are the new version's.
    box.systemctl("reload", "rgunicorn@app.service")
    assert box.run("curl", "-sS", "--unix-socket", socket, "http://localhost/?token=a-2").stdout.startswith("a-2 GET")

    # Removing stops; what the operator wrote stays until he removes it himself.
    apt(box, "remove", "rgunicorn")
    for unit in ("rgunicorn@app.service", "rgunicorn@app.socket", "rgunicorn@deaf.service"):
        assert box.show(unit, "ActiveState") == "inactive", unit
    assert not box.path("/usr/bin/rgunicorn").exists()
    assert box.path("/etc/rgunicorn/app.toml").exists()
    apt(box, "install", "/run/outside/first.deb")
    box.systemctl("start", "rgunicorn@app.socket")
    assert box.run("curl", "-sS", "--unix-socket", socket, "http://localhost/?token=a-3").stdout.startswith("a-3 GET")

    # A purge leaves the operator's own files alone.
    apt(box, "purge", "rgunicorn")
    left = {"/etc/rgunicorn", "/etc/rgunicorn/app.toml", "/etc/rgunicorn/deaf.toml"}
    assert files(box) - before == left | {path for path in files(box) - before if path in ("/var/lib/private", "/var/cache/private")}
    assert accounts(box) == users
    assert box.systemctl("list-unit-files", "rgunicorn*", check=False).stdout.count("rgunicorn") == 0
    assert "rgunicorn" not in box.run("journalctl", "--list-catalog", check=False).stdout
    bad = box.journal("-p", "err", "-u", "rgunicorn@app")
    assert not bad, bad


def test_an_applications_data_survives_a_purge_and_is_told_of(box):
    apt(box, "install", "/run/outside/first.deb")
    box.write("/etc/rgunicorn/app.toml", 'app = "app:app"\nchdir = "/srv/app"\nworkers = 1\n')
    box.systemctl("start", "rgunicorn@app.service")
    box.write("/var/lib/private/rgunicorn/app/db.sqlite3", "precious")
    said = apt(box, "purge", "rgunicorn").stdout
    assert "/var/lib/rgunicorn is not empty and stays" in said
    assert box.path("/var/lib/private/rgunicorn/app/db.sqlite3").read_text() == "precious"


def instance(box, name, more=""):
    box.write(f"/etc/rgunicorn/{name}.toml", f'app = "app:app"\nchdir = "/srv/{name}"\npython = "/srv/app/venv/bin/python"\n{more}')
    box.write(f"/srv/{name}/app.py", (ROOT / "tests/torture/app.py").read_text())


def answer(box, name):
    """The instance's answer, over its socket."""
    return box.run("curl", "-sS", "--max-time", "20", "--unix-socket", f"/run/rgunicorn/{name}.sock", "http://localhost/?token=a").stdout


def runs(box, name):
    """The version that the arbiter of an instance runs."""
    pid = box.show(f"rgunicorn@{name}.service", "MainPID")
    return box.run(f"/proc/{pid}/exe", "--version").stdout.split()[1]


def test_an_upgrade_and_a_downgrade_find_every_instance_as_it_is(box, packages):
    """Running, with an application that is broken meanwhile, stopped behind its socket, stopped altogether."""
    first = version(BINARY.parent)
    apt(box, "install", "/run/outside/first.deb")
    for name in ("good", "broken", "asleep", "off"):
        instance(box, name, "workers = 1\n")
        box.systemctl("start", f"rgunicorn@{name}.socket")
    pids = {}
    for name in ("good", "broken"):
        assert answer(box, name).startswith("a GET")
        pids[name] = box.show(f"rgunicorn@{name}.service", "MainPID")
    box.systemctl("stop", "rgunicorn@off.socket")
    box.write("/srv/broken/app.py", "import nothing_of_that_name\n")

    for package, now, options in (("later", version(NEXT), []), ("first", first, ["--allow-downgrades"])):
        said = apt(box, "install", *options, f"/run/outside/{package}.deb").stdout
        assert "rgunicorn@good.service" not in said and "rgunicorn@off" not in said, said
        for name, pid in pids.items():
            assert box.show(f"rgunicorn@{name}.service", "MainPID") == pid, f"{name} after {package}"
            assert box.show(f"rgunicorn@{name}.service", "NRestarts") == "0"
            assert answer(box, name).startswith("a GET"), f"{name} serves after {package}"
            assert runs(box, name) == now, f"{name} after {package}"
        if package == "later":
            assert box.show("rgunicorn@asleep.service", "ActiveState") == "inactive", "nothing starts that did not run"
            assert answer(box, "asleep").startswith("a GET") and runs(box, "asleep") == now
        assert box.show("rgunicorn@off.socket", "ActiveState") == box.show("rgunicorn@off.service", "ActiveState") == "inactive"
    assert "nothing_of_that_name" in box.run("journalctl", "-u", "rgunicorn@broken", "-o", "cat").stdout


def test_logs_are_rotated_and_the_instance_writes_on_in_new_ones(box):
    """The snippet that the package installs, obeyed by the logrotate of the system."""
    apt(box, "install", "/run/outside/first.deb")
    instance(box, "app", 'workers = 1\naccesslog = "/var/log/rgunicorn/app/access.log"\nerrorlog = "/var/log/rgunicorn/app/error.log"\n')
    box.write("/etc/systemd/system/rgunicorn@app.service.d/logs.conf", "[Service]\nLogsDirectory=rgunicorn/app\n")
    box.systemctl("daemon-reload")
    box.systemctl("start", "rgunicorn@app.socket")
    logs = "/var/log/private/rgunicorn/app"

    def lines(name):
        path = box.path(f"{logs}/{name}")
        return path.read_text().count("?token=a ") if path.exists() else -1

    for round in (1, 2):
        assert answer(box, "app").startswith("a GET")
        until(lambda: lines("access.log") == 1, "the request to be written")
        ended = box.run("logrotate", "--force", "/etc/logrotate.d/rgunicorn")
        assert not ended.stderr, ended.stderr
        until(lambda: lines("access.log") == 0 and lines("access.log.1") == 1, f"the logs to be rotated, round {round}")
        assert box.path(f"{logs}/error.log").exists()
    assert box.path(f"{logs}/access.log.2.gz").exists()
    owner = box.run("stat", "-c", "%U", f"{logs}/access.log", f"{logs}/access.log.1").stdout.split()
    assert owner[0] == owner[1] != "root"
