"""`timeout` explains itself: which request, where it is, what its client was told; and the worker is replaced."""

import contextlib
import json
import time
from signal import SIGTERM

import pytest
from harness.server import control
from harness.waiting import until

APP = {"app.py": """
import os, re, threading, time

def hang_in_python():
    while True:
        pass

def hang_in_regex():
    re.match("(a+)+$", "a" * 60 + "b")

def hang_in_lock():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()

def hang_in_sleep():
    time.sleep(60)

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/begun":
        def parts():
            yield b"a part"
            hang_in_sleep()
        start_response("200 OK", [("Content-Length", "100")])
        return parts()
    if path != "/":
        globals()[path[1:]]()
    body = b"%d" % os.getpid()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""}
HANGS = ["hang_in_python", "hang_in_regex", "hang_in_lock", "hang_in_sleep"]


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("hang", HANGS)
def test_a_request_that_hangs_is_explained_answered_and_its_worker_replaced(serve, hang, threads):
    server = serve("app:app", "--timeout", 1, "--graceful-timeout", 1, "--threads", threads, "--log-level", "debug", files=APP)
    server.expect(rf"GET /{hang} has been in the application")
    (before,) = server.workers
    with server.connect(timeout=20) as connection:
        connection.request(target=f"/{hang}")
        assert connection.response().status == 504
    server.found(rf"GET /{hang} has been in the application for [\d.]+ s.*timeout = 1")
    assert f"in {hang}" in server.log.text, "the stack names the function"
    server.drains(workers=1)
    assert int(server.get("/").body) != before
    until(lambda: before not in server.children, "the worker that hung to be gone")


@pytest.mark.parametrize("comes_back", [True, False])
def test_what_was_answered_with_504_is_logged_and_counted_as_504_once(serve, tmp_path, comes_back):
    log, gate = tmp_path / "access.log", tmp_path / "gate"
    server = serve("app:app", "--timeout", 1, "--threads", 2, "--access-logfile", log, "--control-socket", tmp_path / "control.sock",
                   files={"app.py": f"""
import os, time
def app(environ, start_response):
    if environ["PATH_INFO"] == "/late":
        while not os.path.exists({str(gate)!r}):
            time.sleep(0.01)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""})
    server.expect("GET /late has been in the application")
    with server.connect(timeout=20) as connection:
        connection.request(target="/late")
        assert connection.response().status == 504
    totals = lambda: json.loads(control("-s", tmp_path / "control.sock", "--json", "status").stdout)["totals"]  # noqa: E731
    if comes_back:
        gate.touch()
        until(lambda: '"GET /late HTTP/1.1" 504 ' in log.read_text(), "its line")
    until(lambda: totals()["responses_5xx"] == 1, "its count")
    assert server.get("/").status == 200
    until(lambda: totals()["requests"] == 2, "the other one's count")
    assert totals()["responses_5xx"] == 1
    gate.touch()


@pytest.mark.parametrize("signals", ["blocked", "ignored"])
def test_a_hundred_requests_that_hang_are_all_answered_in_time_though_no_stack_can_be_taken(serve, signals):
    server = serve("app:app", "--timeout", 1, "--graceful-timeout", 5, "--threads", 100, files={"app.py": f"""
import signal, threading, time
hung = threading.Event()
if {signals!r} == "ignored":
    for number in signal.valid_signals() - {{signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}}:
        signal.signal(number, signal.SIG_IGN)
def app(environ, start_response):
    if environ["PATH_INFO"] == "/hangs":
        if {signals!r} == "blocked":
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        hung.wait(120)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""})
    server.expect("GET /hangs has been in the application")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect(timeout=60)) for _ in range(100)]
        for client in clients:
            client.request(target="/hangs")
        begun = time.monotonic()
        assert {client.response().status for client in clients} == {504}
        assert time.monotonic() - begun < 25, "waiting 500 ms for each stack takes 50 s"
    if signals == "blocked":
        server.found("GET /hangs has been in the application .*No stack could be taken")
    assert server.get("/").status == 200


def test_a_worker_that_hangs_leaves_once_its_other_requests_are_finished(serve, tmp_path):
    gate = tmp_path / "gate"
    server = serve("app:app", "--timeout", 1, "--graceful-timeout", 300, "--threads", 3, files={"app.py": f"""
import os, time
def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/hangs":
        time.sleep(1000)
    start_response("200 OK", [])
    if path == "/feed":
        while not os.path.exists({str(gate)!r}):
            yield b"."
            time.sleep(0.05)
        yield b"end"
"""})
    server.expect("GET /hangs has been in the application")
    (before,) = server.workers
    with server.connect() as feed, server.connect(timeout=20) as client:
        feed.request(target="/feed", headers=[("Connection", "close")])
        client.request(target="/hangs")
        assert client.response().status == 504
        until(lambda: set(server.workers) - {before}, "the replacement")
        feed.received(40 * len("1\r\n.\r\n"))  # two seconds
        assert before in server.workers, "somebody is served there"
        gate.touch()
        assert feed.ended().endswith(b"end\r\n0\r\n\r\n")
    until(lambda: before not in server.children, "the worker that hung to be gone")
    server.found("GET /hangs is cut off after", "warning")


def test_a_stop_does_not_wait_for_requests_that_have_timed_out(serve):
    server = serve("app:app", "--workers", 2, "--timeout", 1, "--graceful-timeout", 300, files=APP)
    server.expect("GET /hang_in_sleep has been in the application")
    with server.connect(timeout=20) as client:
        client.request(target="/hang_in_sleep")
        assert client.response().status == 504
        server.signal(SIGTERM)
        assert server.wait() == 0


def test_a_request_that_made_progress_is_told_with_the_time_since(serve, tmp_path):
    entered = tmp_path / "entered"
    server = serve("app:app", "--timeout", 2, "--graceful-timeout", 1, "--threads", 2, "--no-request-buffering",
                   files={"app.py": f"""
import time
from pathlib import Path
def app(environ, start_response):
    environ["wsgi.input"].read(5)
    time.sleep(0.5)
    Path({str(entered)!r}).touch()
    environ["wsgi.input"].read(5)
    time.sleep(60)
"""})
    server.expect("POST / has been in the application")
    with server.connect(timeout=20) as client:
        client.request("POST", "/", [("Content-Length", "10")])
        client.send(b"first")
        until(entered.exists, "the rest to be wanted")
        client.send(b"later")
        assert client.response().status == 504
    server.found(r"POST / has been in the application for (2\.[5-9]|[3-9]|\d\d)\S* s, the last ([2-9]|\d\d)\S* s without progress "
                 r"\(timeout = 2 s\)")


def test_a_response_that_was_begun_is_cut_so_that_the_client_notices(serve):
    server = serve("app:app", "--timeout", 1, "--graceful-timeout", 1, files=APP)
    server.expect("GET /begun has been in the application")
    with server.connect(timeout=20) as connection:
        connection.send(b"GET /begun HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        while data := connection.socket.recv(4096):
            received += data
        assert received.endswith(b"a part"), "nothing that could be taken for the rest"
    server.found("the response had begun")


def test_timeout_zero_lets_a_request_take_its_time(serve, tmp_path):
    server = serve("plain:app", "--timeout", 0)
    gate = tmp_path / "gate"
    with server.connect() as connection:
        connection.send(b"GET /gate?%s HTTP/1.1\r\nHost: x\r\n\r\n" % str(gate).encode())
        until((tmp_path / "gate.entered").exists, "the application is entered")
        gate.touch()
        assert connection.response().status == 200



@pytest.mark.parametrize("pool", ["gthread", "gevent"])
def test_a_close_that_hangs_does_not_touch_the_next_request_of_its_connection(serve, tmp_path, pool):
    gate = tmp_path / "gate"
    server = serve("app:app", "-k", pool, "--threads", 2, "--timeout", 3, "--graceful-timeout", 10, files={"app.py": f"""
import time
from pathlib import Path
gate = Path({str(gate)!r})

def wait():
    while not gate.exists():
        time.sleep(0.01)

class Hanging:
    def __iter__(self):
        return iter([b"hanging"])
    def close(self):
        wait()

def app(environ, start_response):
    path = environ["PATH_INFO"]
    start_response("200 OK", [("Content-Length", str(len(path) - 1))])
    if path == "/hanging":
        return Hanging()
    if path == "/next":
        gate.with_name("entered").touch()
        wait()
    return [path[1:].encode()]
"""})
    server.expect("GET /hanging has been in the application")
    with server.connect(timeout=20) as client:
        assert client.get("/hanging").text == "hanging"
        begun = time.monotonic()
        while time.monotonic() - begun < 1.5:  # so that the time of the next one is over much later
            assert client.get("/quick").text == "quick"
        client.request(target="/next")
        server.found("GET /hanging has been in the application .* its client has its answer.*wait")
        gate.touch()
        answer = client.response()
        assert (answer.status, answer.text) == (200, "next")
