"""The unit's sandbox: what it scores, and that applications and rgunicorn itself work inside, the sealed one too."""

import contextlib
import hashlib
import os
import re
import shutil

import pytest
from harness import Browser, until
from harness.instance import VENV
from harness.server import APPS
from harness.systems import on_both

# What is promised; Gunicorn's documented unit has 8.8 (test below).
DEFAULT, SEALED = 1.5, 0.6

# The unit of Gunicorn's documentation (docs/source/deploy.rst), as it stands there.
GUNICORN = """\
[Unit]
Description=gunicorn daemon
Requires=gunicorn.socket
After=network.target
[Service]
Type=notify
NotifyAccess=main
User=someuser
Group=someuser
RuntimeDirectory=gunicorn
WorkingDirectory=/home/someuser/applicationroot
ExecStart=/usr/bin/true
ExecReload=/bin/kill -s HUP $MAINPID
KillMode=mixed
TimeoutStopSec=5
PrivateTmp=true
[Install]
WantedBy=multi-user.target
"""

# Each function does what an application or a library ordinarily does.
TRIES = '''
import json, multiprocessing, mmap, os, resource, socket, sqlite3, subprocess, tempfile, threading, uuid

def memory_file():
    fd = os.memfd_create("x")
    os.write(fd, b"x")
    mmap.mmap(fd, 1).close()

def unnamed_file():
    os.close(os.open("/var/tmp", os.O_TMPFILE | os.O_RDWR, 0o600))

def temporary_file():
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"x")

def process():
    assert subprocess.run(["sh", "-c", "echo $((1 + 1))"], capture_output=True).stdout == b"2\\n"

def process_handle():
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    os.close(os.pidfd_open(child.pid))
    child.communicate()

def thread():
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()

def shared_lock():
    with multiprocessing.get_context("fork").Lock():
        pass

def shared_memory():
    from multiprocessing.shared_memory import SharedMemory
    memory = SharedMemory(create=True, size=4096)
    memory.close()
    memory.unlink()

def own_process():
    assert "VmRSS" in open("/proc/self/status").read()

def random():
    uuid.uuid4()

def names():
    socket.getaddrinfo("localhost", 80)

def pair():
    for end in socket.socketpair():
        end.close()

def state():
    with sqlite3.connect(os.environ["STATE_DIRECTORY"] + "/db.sqlite3") as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE IF NOT EXISTS t (x)")
        database.execute("INSERT INTO t VALUES (1)")

def cache():
    with open(os.environ["CACHE_DIRECTORY"] + "/file", "w") as file:
        file.write("x")

def limit():
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 1024
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))

TRIES = [memory_file, unnamed_file, temporary_file, process, process_handle, thread, shared_lock, shared_memory,
         own_process, random, names, pair, state, cache, limit]

def elsewhere():
    open(os.path.dirname(__file__) + "/file", "w")

def others():
    os.stat("/proc/1/exe")
    raise FileExistsError("/proc/1 is there")

def owner():
    os.chown(os.environ["STATE_DIRECTORY"], 0, 0)

def priority():
    os.setpriority(os.PRIO_PROCESS, 0, 5)

def raw_socket():
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)

def namespace():
    import ctypes
    if ctypes.CDLL(None, use_errno=True).unshare(0x10000000):
        raise OSError(ctypes.get_errno(), "unshare")

REFUSED = [elsewhere, others, owner, priority, raw_socket, namespace]

def outcome(attempt):
    try:
        attempt()
        return "done"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"

def app(environ, start_response):
    import time
    if environ["PATH_INFO"] == "/hang":
        while True:
            time.sleep(60)
    which = TRIES if environ["PATH_INFO"] == "/tries" else REFUSED
    body = json.dumps({attempt.__name__: outcome(attempt) for attempt in which}).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
'''


@pytest.fixture(params=["default", "sealed"])
def sandbox(request):
    return request.param


def score(box, unit):
    table = box.run("systemd-analyze", "security", "--no-pager", unit).stdout
    return float(re.search(r"exposure level for .*: ([\d.]+)", table)[1]), table


@on_both
def test_the_units_are_without_a_fault(box):
    # A box has no man(1) to show the pages that Documentation= names; that they are there is the package's test.
    for kind in ("service", "socket"):
        ended = box.run("systemd-analyze", "verify", "--man=no", f"rgunicorn@app.{kind}", check=False)
        assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")


@on_both
def test_the_shipped_drop_ins_are_without_a_fault(instance):
    one = instance("verified")
    for name in ("sealed", "network-database"):
        one.drop_in(link=name)
    ended = one.box.run("systemd-analyze", "verify", "--man=no", one.service, check=False)
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")
    one.box.systemctl("show", one.service)


@on_both
def test_the_unit_exposes_little_and_the_sealed_one_next_to_nothing(instance, record_property):
    one = instance("scored").open()
    assert one.get("/").status == 200
    default, table = score(one.box, one.service)
    assert default <= DEFAULT, table
    one.drop_in(link="sealed")
    sealed, table = score(one.box, one.service)
    assert sealed <= SEALED, table
    one.box.write("/etc/systemd/system/gunicorn.service", GUNICORN)
    one.box.systemctl("daemon-reload")
    gunicorn, _ = score(one.box, "gunicorn.service")
    print(f"systemd-analyze security: {default}, sealed {sealed}, Gunicorn's documented unit {gunicorn}")
    assert gunicorn > 8


@on_both
def test_a_django_project_serves_inside(instance, sandbox):
    name = f"django-{sandbox}"
    one = instance(name, {"unused": ""}, app="mysite.wsgi:application", python=VENV)
    shutil.copytree(APPS / "django_project", one.box.path(one.directory), dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("__pycache__"))
    if sandbox == "sealed":
        one.drop_in(link="sealed")
    one.drop_in(f"Environment=PROJECT_STATE=%S/rgunicorn/%i\nExecStartPre={VENV} {one.directory}/manage.py migrate -v0")
    one.open()
    with contextlib.closing(Browser(one.connect)) as browser:
        assert browser.get("/").body == b"<h1>Hello from Django</h1>"
        assert [browser.get("/visits/").json()["visits"] for _ in range(3)] == [1, 2, 3]
        token = browser.get("/upload/").json()["csrf"]
        data = os.urandom(1 << 20)
        referer = [("Referer", f"http://{browser.get('/seen/').json()['host']}/")]
        answer = browser.post_file("/upload/", "big.bin", data, [("csrfmiddlewaretoken", token)], referer)
        assert answer.json() == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        assert browser.get("/file/").body == (APPS / "django_project/pages/views.py").read_bytes()
        assert browser.get("/stream/").text == "".join(f"{number}\n" for number in range(1000))


@on_both
def test_what_applications_and_libraries_do_works_inside(instance, sandbox):
    one = instance(f"tries-{sandbox}", {"tries.py": TRIES}, app="tries:app", workers=1)
    if sandbox == "sealed":
        one.drop_in(link="sealed")
    one.open()
    outcomes = one.get("/tries").json()
    assert {name: outcome for name, outcome in outcomes.items() if outcome != "done"} == {}


@on_both
def test_what_an_application_has_no_business_with_fails_and_kills_nothing(instance):
    one = instance("no-business", {"tries.py": TRIES}, app="tries:app", workers=1).open()
    outcomes = one.get("/refused").json()
    assert outcomes.pop("elsewhere").startswith("OSError: [Errno 30]")
    assert outcomes.pop("others").startswith("FileNotFoundError")
    assert outcomes.pop("raw_socket").startswith("OSError: [Errno 97]")
    for name, outcome in outcomes.items():
        assert outcome.startswith(("PermissionError: [Errno 1]", "OSError: [Errno 38]")), (name, outcome)


@on_both
def test_rgunicorns_own_means_work_inside_the_sealed_unit(instance):
    """The stack of a request that hangs, rgunicornctl with DynamicUser, the spool, the memory of workers."""
    one = instance("means", {"tries.py": TRIES}, app="tries:app", workers=1, timeout=1, graceful_timeout=1,
                   request_buffer=1024)
    one.may_fail = True
    one.drop_in(link="sealed").open()
    with one.connect() as client:
        client.request(target="/hang")
        assert client.response().status == 504
    stack = one.found("/hang", "PRIORITY=3")
    assert "in app" in str(stack) and "tries.py" in str(stack), stack
    one.found("is cut off")
    until(lambda: len(one.status["workers"]) == 1, "its worker to be replaced")
    with one.connect() as client:
        assert client.post("/tries", b"x" * 100_000).status == 200
    status = one.status
    assert status["pid"] == one.arbiter
    assert status["memory"][str(status["workers"][0])]["pss"] > 0
    assert "/tries" not in one.box.run("rgunicornctl", "-i", "means", "requests").stdout
    assert "cannot" not in " ".join(str(record["MESSAGE"]) for record in one.records())


@on_both
def test_network_interfaces_are_hidden_until_a_drop_in_allows_to_ask_for_them(instance):
    app = """
import socket

def app(environ, start_response):
    try:
        body = b"asked" if socket.if_nameindex() else b"none"
    except OSError as error:
        body = str(error).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
    one = instance("interfaces", {"plain.py": app}, workers=1).open()
    assert "Address family not supported" in one.get("/").text
    one.drop_in("RestrictAddressFamilies=AF_NETLINK")
    one.box.systemctl("restart", one.service)
    assert one.get("/").text == "asked"


@on_both
@pytest.mark.parametrize("shipped", ["sealed", "network-database"])
def test_address_filters_bind_what_the_service_makes_and_a_socket_units_own_bind_its_clients(instance, shipped):
    app = """
import socket

def app(environ, start_response):
    body = b"reached"
    try:
        socket.create_connection((environ["PATH_INFO"][1:], 9), 2)
    except OSError as error:
        body = b"refused" if isinstance(error, ConnectionRefusedError) else str(error).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
    port = {"sealed": 8221, "network-database": 8222}[shipped]
    one = instance(f"filter-{shipped[:6]}", {"plain.py": app}, workers=1).drop_in(link=shipped)
    unit = f"/etc/systemd/system/{one.socket}.d/tcp.conf"
    listens = f"[Socket]\nListenStream=127.0.0.1:{port}\n"
    curl = ["curl", "-sS", "--max-time", "20", f"http://127.0.0.1:{port}/"]
    try:
        # 198.51.100.1 is this machine, too, and no loopback address: the drop-ins do not name it.
        one.box.run("ip", "address", "add", "198.51.100.1/32", "dev", "lo")
        one.box.write(unit, listens)
        one.box.systemctl("daemon-reload")
        one.open()
        assert one.box.run(*curl[:-1], curl[-1] + "198.51.100.1").stdout not in ("", "reached", "refused")
        home = {"sealed": "Address family not supported", "network-database": "refused"}[shipped]
        assert home in one.box.run(*curl[:-1], curl[-1] + "127.0.0.1").stdout
        one.box.systemctl("stop", one.service)
        one.box.write(unit, f"{listens}IPAddressDeny=any\n")
        one.box.systemctl("daemon-reload")
        one.box.systemctl("restart", one.socket)
        assert one.box.run(*curl[:2], "--max-time", "2", curl[-1], check=False).returncode == 28
    finally:
        one.box.run("ip", "address", "delete", "198.51.100.1/32", "dev", "lo")
