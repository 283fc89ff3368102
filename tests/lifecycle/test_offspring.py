"""Applications that fork: their children have none of the server's fds, so clients see the ends of their connections."""

import json
import os
from signal import SIGHUP, SIGKILL

import pytest
from harness import processes, until

APP = '''
import json, multiprocessing, os, signal, subprocess

def wait(ready=None):
    if ready is not None:
        ready.send_bytes(b"ready")
    while True:
        signal.pause()

def fork():
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        os.write(theirs, b"x")
        os.close(theirs)
        wait()
    os.close(theirs)
    os.read(ours, 1)  # The child has run its fork hooks.
    os.close(ours)
    return pid

def start(method):
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    process = context.Process(target=wait, args=(theirs,), daemon=True)
    process.start()
    assert ours.recv_bytes() == b"ready"
    return process.pid

def come_back():
    """Forks a child that goes on as if it were the worker."""
    return os.fork() or os.getpid()

STARTS = {
    "fork": fork,
    "fork and come back": come_back,
    "multiprocessing": lambda: start("fork"),
    "subprocess": lambda: subprocess.Popen(["sleep", "1000"]).pid,
    "subprocess with all fds": lambda: subprocess.Popen(["sleep", "1000"], close_fds=False).pid,
}

def app(environ, start_response):
    name = environ["HTTP_X_START"] if "HTTP_X_START" in environ else None
    body = b"%d" % (STARTS[name]() if name else os.getpid())
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
'''
AT_IMPORT = """
import multiprocessing, os, signal, time

def wait():
    while True:
        time.sleep(1)

child = multiprocessing.get_context("fork").Process(target=wait, daemon=True)
child.start()

def app(environ, start_response):
    body = b"%d" % child.pid
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
STARTS = ["fork", "multiprocessing", "subprocess", "subprocess with all fds"]


@pytest.fixture
def children():
    """Pids of what a test has left behind; ended with it."""
    pids = []
    yield pids
    for pid in pids:
        try:
            os.kill(pid, SIGKILL)
        except ProcessLookupError:
            pass


def identities(pid):
    """What of a process nobody else may have: its sockets, and its epoll sets and eventfds by their numbers."""
    return {(number, target) for number, target in processes.open_files(pid).items()
            if target.startswith(("socket:", "anon_inode:[event"))}


@pytest.mark.parametrize("threads", [1, 4], ids=["sync", "gthread"])
@pytest.mark.parametrize("start", STARTS)
def test_clients_of_an_application_that_forks_see_their_ends_and_its_children_have_no_fd_of_the_server(
        serve, children, start, threads):
    server = serve("forks:app", "--threads", threads, files={"forks.py": APP})
    with server.connect() as idle, server.connect() as asking:
        worker = int(idle.get("/").text)
        before = identities(worker)
        children.append(int(asking.get("/", [("X-Start", start), ("Connection", "close")]).text))
        child = children[0]
        # A child that is about to execute has its parent's fds until then.
        until(lambda: not before & identities(child), f"the child without {before & identities(child)}", 5)
        assert processes.alive(child)
        assert asking.socket.recv(1) == b"", "the connection that forked ends for its client"
        assert int(idle.get("/", [("Connection", "close")]).text) == worker
        assert idle.socket.recv(1) == b"", "and so does one that was open at the fork"
        assert processes.alive(child)
    with server.connect() as later:
        for _ in range(20):
            assert int(later.get("/").text) == worker


@pytest.mark.parametrize("threads", [1, 4], ids=["sync", "gthread"])
def test_a_child_that_comes_back_from_the_request_is_ended_and_answers_nothing(serve, threads):
    server = serve("forks:app", "--threads", threads, files={"forks.py": APP})
    with server.connect() as client, server.connect() as idle:
        worker = int(idle.get("/").text)
        for _ in range(20):
            child = int(client.get("/", [("X-Start", "fork and come back")]).text)
            assert child != worker, "the answer is the worker's, which knows its child"
            until(lambda: not processes.alive(child), f"the end of the child {child}", 5)  # noqa: B023
            assert int(client.get("/").text) == int(idle.get("/").text) == worker
    server.found("has come back from the request that forked it")


TERMINATES = """
import os, signal, time
def app(environ, start_response):
    lost = 0
    for _ in range(100):
        pid = os.fork()
        if pid == 0:
            while True:
                signal.pause()
        os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + 5
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > end:
                lost += 1
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                break
            time.sleep(0.001)
    start_response("200 OK", [])
    return [b"%d" % lost]
"""


@pytest.mark.parametrize("threads", [1, 4])
def test_a_child_that_is_terminated_right_after_the_fork_ends(serve, threads):
    server = serve("app:app", "--threads", threads, files={"app.py": TERMINATES})
    with server.connect(timeout=60) as client:
        assert client.get("/").text == "0"


IMPORTED = """
import os, sys
statuses = []
for child in (lambda: sys.exit(), lambda: sys.exit(7), lambda: 1 / 0):
    pid = os.fork()
    if pid == 0:
        child()
    statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
os.fork()
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"%r " % statuses]
"""


@pytest.mark.parametrize("more", [(), ("--preload",)], ids=["in the worker", "preloaded"])
def test_children_that_are_forked_while_the_application_is_imported_end_as_children(serve, more):
    server = serve("app:app", "--workers", 1, *more, files={"app.py": IMPORTED})
    assert server.get("/").text.startswith("[0, 7, 1] ")
    server.found("A process that the application forked while it was imported has come back from there")
    assert len(server.workers) == 1
    server.signal(SIGHUP)
    server.found("Generation 2 serves")
    assert server.get("/").text.startswith("[0, 7, 1] ")


def test_an_idle_worker_whose_application_has_forked_goes_on_sleeping(serve, children):
    server = serve("forks:app", files={"forks.py": APP})
    with server.connect() as kept:
        for _ in range(5):
            with server.connect() as asking:
                children.append(int(asking.get("/", [("X-Start", "fork")]).text))
        worker = int(kept.get("/").text)
        times = lambda: json.loads(  # noqa: E731
            "[%s]" % ",".join(open(f"/proc/{worker}/stat").read().rpartition(")")[2].split()[11:13]))
        last = []

        def calm():
            last.append(processes.switches(worker))
            return len(last) > 5 and last[-1] == last[-5]

        # An end that the epoll set goes on reporting would keep it awake.
        until(calm, "the worker to sleep", 10)
        begun = sum(times())
        assert int(kept.get("/").text) == worker
        assert sum(times()) - begun < 20, "ticks of processor time for one request"


MASKS = '''
import json, multiprocessing, os, subprocess, threading

def blocked(pid="self"):
    with open(f"/proc/{pid}/status") as status:
        return next(line.split()[1] for line in status if line.startswith("SigBlk"))

def put_mask(queue):
    queue.put(blocked())

def terminated():
    process = subprocess.Popen(["sleep", "1000"])
    process.terminate()
    return process.wait(10)

def through(method):
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=put_mask, args=(queue,), daemon=True)
    process.start()
    found = queue.get()
    process.join(10)  # The fork server hears of the end by SIGCHLD.
    return [found, process.exitcode]

def in_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(blocked("thread-self")))
    thread.start()
    thread.join()
    return found[0]

def app(environ, start_response):
    found = {"subprocess": subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout,
             "terminated": terminated(), "thread": in_thread()}
    found |= {method: through(method) for method in ("fork", "spawn", "forkserver")}
    body = json.dumps(found).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
'''


@pytest.mark.parametrize("threads", [1, 4], ids=["sync", "gthread"])
def test_what_the_application_starts_has_no_signal_blocked_and_can_be_terminated(serve, threads):
    server = serve("app:app", "--threads", threads, files={"app.py": MASKS})
    found = json.loads(server.get("/").body)
    none = "0" * 16
    assert f"SigBlk:\t{none}\n" in found.pop("subprocess")
    assert found == {"terminated": -15, "thread": none, "fork": [none, 0], "spawn": [none, 0], "forkserver": [none, 0]}


@pytest.mark.parametrize("more", [(), ("--preload",)], ids=["in the worker", "preloaded"])
@pytest.mark.parametrize("pool", ["sync", "gevent"])
def test_a_process_that_is_forked_at_import_has_none_of_the_servers_fds_and_can_be_terminated(serve, pool, more):
    """multiprocessing ends it by SIGTERM at exit, and waits for it."""
    server = serve("app:app", "-k", pool, "--workers", 1, *more, files={"app.py": AT_IMPORT})
    child = int(server.get("/").text)
    held = {target for target in processes.open_files(child).values() if target.startswith(("socket:", "/memfd:rgunicorn-scoreboard"))}
    ours = {target for pid in (server.pid, *server.workers) for target in processes.open_files(pid).values()}
    assert not held & ours, held & ours
    assert server.stop(within=10) == 0
    until(lambda: not processes.alive(child), "the child to be gone")
