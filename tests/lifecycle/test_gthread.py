"""gthread: many lanes in one worker, each a real Python thread."""

import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness.waiting import until

APP = {"app.py": """
import json, os, sys, threading, time
from pathlib import Path

local = threading.local()
traced = set()

def trace(frame, event, arg):
    traced.add(threading.current_thread().name)

def app(environ, start_response):
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    local.count = getattr(local, "count", 0) + 1
    if path == "/enter":
        mine = Path(query) / f"{threading.get_ident()}-{time.monotonic_ns()}"
        mine.touch()
        gate = Path(query) / "gate"
        while not gate.exists():
            time.sleep(0.005)
        mine.unlink()
    elif path == "/sleep":
        time.sleep(1)
    elif path == "/trace":
        threading.settrace(trace)
        sys.settrace(trace)
        (lambda: None)()
        sys.settrace(None)
    thread = threading.current_thread()
    body = json.dumps({
        "name": thread.name, "main": thread is threading.main_thread(), "native": thread.native_id,
        "listed": thread in threading.enumerate(), "count": local.count, "pid": os.getpid(),
        "multithread": environ["wsgi.multithread"], "traced": sorted(traced),
    }).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""}


@pytest.fixture
def server(serve):
    return serve("app:app", "--workers", 1, "--threads", 4, files=APP)


def ask_at_once(server, target, count):
    """So many requests on connections of their own; the answers, and how long all of them took."""
    connections = [server.connect(timeout=20) for _ in range(count)]
    begun = time.monotonic()
    for connection in connections:
        connection.request(target=target)
    answers = [connection.response().json() for connection in connections]
    took = time.monotonic() - begun
    for connection in connections:
        connection.close()
    return answers, took


def test_threads_with_sync_mean_gthread_as_in_gunicorn(server):
    assert server.get("/").json()["multithread"] is True


def test_lanes_are_real_python_threads_with_names_of_their_own(server, tmp_path):
    entered = tmp_path / "entered"
    entered.mkdir()
    connections = [server.connect(timeout=20) for _ in range(4)]
    for connection in connections:
        connection.request(target=f"/enter?{entered}")
    until(lambda: len(list(entered.iterdir())) == 4, "four requests inside at once")
    (entered / "gate").touch()
    answers = [connection.response().json() for connection in connections]
    assert len({answer["name"] for answer in answers}) == 4
    assert len({answer["native"] for answer in answers}) == 4
    assert all(answer["listed"] and not answer["main"] for answer in answers)
    assert {answer["count"] for answer in answers} == {1}, "each has its own threading.local"


def test_tracers_work_in_lanes(server):
    assert server.get("/trace").json()["traced"]


def test_a_fifth_request_waits_for_a_lane_and_not_for_a_timeout(server, tmp_path):
    entered = tmp_path / "entered"
    entered.mkdir()
    connections = [server.connect(timeout=20) for _ in range(5)]
    for connection in connections:
        connection.request(target=f"/enter?{entered}")
    until(lambda: len(list(entered.iterdir())) == 4, "four requests inside at once")
    (entered / "gate").touch()
    assert [connection.response().status for connection in connections] == [200] * 5


def test_eight_blocking_requests_take_two_rounds(server):
    _, one = ask_at_once(server, "/sleep", 4)
    _, two = ask_at_once(server, "/sleep", 8)
    # One after the other they would take 4 and 8 s.
    assert 1 <= one < 3.5
    assert 2 <= two < 7


def test_a_quick_request_does_not_wait_for_a_blocked_one(server, tmp_path):
    entered = tmp_path / "entered"
    entered.mkdir()
    with server.connect(timeout=20) as blocked:
        blocked.request(target=f"/enter?{entered}")
        until(lambda: list(entered.iterdir()), "one request inside")
        with server.connect() as quick:
            for _ in range(100):
                assert quick.get("/").status == 200
        (entered / "gate").touch()
        assert blocked.response().status == 200


OTHERS = """
import os, signal, sys, time

class Late(Exception):
    pass

def late(number, frame):
    raise Late("a handler of the application")

signal.signal(signal.SIGUSR2, late)

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/exit":
        sys.exit(7)
    if path == "/signal":
        os.kill(os.getpid(), signal.SIGUSR2)
    if path == "/wait":
        open(GATE + ".in", "a").write("x")
        while not os.path.exists(GATE):
            time.sleep(0.01)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


@pytest.mark.parametrize("path, said, goes_on", [("/exit", "SystemExit: 7", False),
                                                 ("/signal", "Late: a handler of the application", True)])
def test_what_one_lane_raises_for_the_interpreter_leaves_the_requests_of_others_alone(serve, tmp_path, path, said, goes_on):
    gate = tmp_path / "gate"
    server = serve("app:app", "--threads", 4, files={"app.py": OTHERS.replace("GATE", repr(str(gate)))})
    server.expect(said)
    (before,) = server.workers
    with ExitStack() as stack:
        waiting = [stack.enter_context(server.connect()) for _ in range(3)]
        for connection in waiting:
            connection.request(target="/wait")
        until(lambda: Path(f"{gate}.in").exists() and len(Path(f"{gate}.in").read_text()) == 3, "three to wait")
        assert server.get(path).status == (200 if goes_on else 500)
        server.found(said)
        assert server.get("/").status == 200
        gate.touch()
        assert [connection.response().status for connection in waiting] == [200] * 3
    if goes_on:
        assert server.workers == [before]
    else:
        until(lambda: before not in server.children, "the worker to leave")


EXITS = {"wsgi.py": """
import os, sys, time
def app(environ, start_response):
    if environ["PATH_INFO"] == "/exit":
        open(GATE + ".in", "w").close()
        while not os.path.exists(GATE):
            time.sleep(0.01)
        sys.exit(3)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
""", "asgi.py": """
import os, sys, time
async def app(scope, receive, send):
    if scope["path"] == "/exit":
        open(GATE + ".in", "w").close()
        while not os.path.exists(GATE):
            time.sleep(0.01)
        sys.exit(3)
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"ok"})
"""}


@pytest.mark.parametrize("pool", ["sync", "gthread", "asgi"])
def test_sys_exit_in_a_request_costs_no_other_client_anything(serve, tmp_path, pool):
    gate = tmp_path / "gate"
    files = {name: text.replace("GATE", repr(str(gate))) for name, text in EXITS.items()}
    server = serve("asgi:app" if pool == "asgi" else "wsgi:app", "-k", pool, files=files)
    server.expect("SystemExit: 3")
    (before,) = server.workers
    with ExitStack() as stack:
        kept, waiting = ([stack.enter_context(server.connect()) for _ in range(4)] for _ in range(2))
        for client in kept + waiting:
            assert client.get("/").text == "ok"
        exits = stack.enter_context(server.connect())
        exits.request(target="/exit")
        until(Path(f"{gate}.in").exists, "the request to be in the application")
        for client in waiting:
            client.request(target="/")
        gate.touch()
        assert exits.response().status == 500
        assert [client.response().text for client in waiting] == ["ok"] * 4
        until(lambda: before not in server.children, "the worker to leave")
        assert [client.get("/").text for client in kept + waiting] == ["ok"] * 8
    server.found("will be replaced: the application called sys.exit")
    assert not server.log.find("exited with status")


def test_an_idle_worker_with_threads_does_not_wake_up(server):
    server.get("/")
    (worker,) = server.workers

    def wakeups():
        text = [(task / "status").read_text() for task in Path(f"/proc/{worker}/task").iterdir()]
        return sum(int(line.split()[1]) for status in text for line in status.splitlines() if "ctxt_switches" in line)

    # Two looks in a row that agree: nothing has run in between. The first ones may still see the last request's end.
    def quiet():
        before = wakeups()
        threading.Event().wait(0.5)
        return wakeups() == before

    until(quiet, "half a second without a wake-up", 10)
