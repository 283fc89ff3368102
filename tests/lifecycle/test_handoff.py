"""No request waits behind another one's lane while a worker is free: what a busy worker holds goes to whoever can serve it."""

import os
from signal import SIGHUP, SIGTTIN

import pytest
from harness import Gate, until
from harness.http import ConnectionEnded
from harness.server import control, in_application

CONNECTIONS = 40

HANGS = {"app.py": """
import os, time

def app(environ, start_response):
    if environ["PATH_INFO"] == "/hang":
        time.sleep(60)
    body = b"%d" % os.getpid()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""}


# A call of C code that keeps the interpreter lock, until somebody writes to the FIFO.
HOLDS = {"app.py": """
import ctypes, os, threading

read = ctypes.PyDLL(None).read

def hold(fifo):
    read(os.open(fifo, os.O_RDONLY), ctypes.create_string_buffer(1), 1)

def app(environ, start_response):
    if environ["PATH_INFO"] == "/hold":
        hold(environ["QUERY_STRING"])
    if environ["PATH_INFO"] == "/later":
        threading.Thread(target=hold, args=[environ["QUERY_STRING"]]).start()
    body = b"%d" % os.getpid()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""}


def connections_of_one_worker(server, count=CONNECTIONS):
    """Keep-alive connections that the only worker has accepted; its pid."""
    connections = [server.connect(timeout=20) for _ in range(count)]
    (worker,) = {int(connection.get("/pid").text) for connection in connections}
    return connections, worker


def ask_all_at_once(connections):
    """One request on each: the answers."""
    for connection in connections:
        connection.request(target="/pid")
    return [int(connection.response().text) for connection in connections]


def test_a_request_that_waits_in_one_of_four_workers_keeps_no_other_connection_of_it_waiting(serve, tmp_path):
    socket = tmp_path / "control.sock"
    server = serve("plain:app", "--workers", 1, "--control-socket", socket)
    connections, worker = connections_of_one_worker(server)
    # The others come later, so all connections are the first one's.
    for count in (2, 3, 4):
        server.signal(SIGTTIN)
        # Signals that are not read yet are one (signal(7)).
        server.found(f"From now on {count} workers")
    until(lambda: len({server.get("/pid").text for _ in range(8)}) == 4, "four workers that serve")
    until(lambda: in_application(socket) == [], "all lanes to be free")
    gate = Gate(tmp_path)
    blocked, *others = connections
    blocked.request(target=gate.target)
    assert gate.entered() == worker
    answers = ask_all_at_once(others)
    # The gate is still closed: without the handoff none of them would have been answered. `benches/run line` has the
    # figures, a few milliseconds.
    assert worker not in answers
    gate.open()
    assert blocked.response().status == 200
    for connection in connections:
        assert connection.get("/pid").status == 200


def test_a_worker_that_has_become_the_only_one_again_keeps_its_requests(serve, tmp_path):
    server = serve("plain:app", "--workers", 1, "--control-socket", tmp_path / "control.sock")
    for count in (2, 1):
        assert control("-s", tmp_path / "control.sock", "scale", count).returncode == 0
        until(lambda count=count: len(server.workers) == count, f"{count} workers")  # noqa: B023
    gate = Gate(tmp_path)
    with server.connect() as blocked, server.connect() as waiting:
        assert blocked.get("/").status == waiting.get("/").status == 200
        blocked.request(target=gate.target)
        gate.entered()
        waiting.request()
        gate.open()
        assert blocked.response().body == b"through the gate\n"
        assert waiting.response().body == b"hello\n"


@pytest.mark.parametrize("threads", [1, 4])
def test_requests_behind_one_that_hangs_are_answered_by_the_worker_that_replaces_the_only_one(serve, threads):
    server = serve("app:app", "--workers", 1, "--threads", threads, "--timeout", 1, "--graceful-timeout", 1, files=HANGS)
    server.expect("GET /hang has been in the application")
    (before,) = server.workers
    hanging = [server.connect(timeout=20) for _ in range(threads)]
    waiting = [server.connect(timeout=20) for _ in range(5)]
    for connection in waiting:
        assert int(connection.get("/").text) == before
    for connection in hanging:
        connection.request(target="/hang")
    for connection in waiting:
        connection.request()
    for connection in hanging:
        assert connection.response().status == 504
    answers = [int(connection.response().text) for connection in waiting]
    assert before not in answers
    until(lambda: before not in server.children, "the worker that hung to be gone")


@pytest.mark.parametrize("path, threads", [("/hold", 4), ("/later", 4), ("/later", 1)],
                         ids=["of a lane", "of another thread", "of another thread than the only lane"])
def test_a_call_that_keeps_the_interpreter_lock_keeps_no_other_request_waiting(serve, tmp_path, path, threads):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    server = serve("app:app", "--workers", 2, "--threads", threads, files=HOLDS)
    with server.connect() as holds:
        worker = int(holds.get("/").text)
        others = []
        while len(others) < 6:
            others.append(server.connect())
            if int(others[-1].get("/").text) != worker:
                others.pop().close()
        holds.request(target=f"{path}?{fifo}")
        with open(fifo, "wb", buffering=0) as end:
            ask_all_at_once(others)
            for _ in range(20):
                assert server.get("/").status == 200
            end.write(b"x")
        assert int(holds.response().text) == worker


def test_requests_behind_a_lock_that_is_never_given_up_are_answered_by_the_worker_that_replaces_the_only_one(serve, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    server = serve("app:app", "--workers", 1, "--threads", 4, "--timeout", 1, "--graceful-timeout", 1, files=HOLDS)
    server.expect(r"GET /hold\S* has been in the application")
    with server.connect(timeout=20) as holds:
        before = int(holds.get("/").text)
        waiting = [server.connect(timeout=20) for _ in range(5)]
        for connection in waiting:
            assert int(connection.get("/").text) == before
        holds.request(target=f"/hold?{fifo}")
        with open(fifo, "wb", buffering=0):
            for connection in waiting:
                connection.request()
            assert holds.response().status == 504
            assert before not in [int(connection.response().text) for connection in waiting]
            until(lambda: before not in server.children, "the worker whose lock was held to be gone")


def test_requests_behind_a_long_one_of_the_old_generation_are_answered_by_the_new_one(serve, tmp_path):
    server = serve("plain:app", "--workers", 1)
    connections, worker = connections_of_one_worker(server, 5)
    gate = Gate(tmp_path)
    blocked, *others = connections
    blocked.request(target=gate.target)
    gate.entered()
    server.signal(SIGHUP)
    server.found("generation 2 serves")
    answers = ask_all_at_once(others)
    assert worker not in answers
    gate.open()
    assert blocked.response().status == 200


def test_only_the_requests_that_a_killed_worker_was_in_fail_and_its_record_names_them(serve, tmp_path):
    server = serve("plain:app", "--workers", 2, "--threads", 2)
    server.expect("was killed by SIGKILL")
    gates = [Gate(tmp_path, f"gate{number}") for number in range(4)]
    connections = [server.connect() for _ in gates]
    for connection, gate in zip(connections, gates):
        connection.request(target=gate.target)
    inside = [gate.entered() for gate in gates]
    victim = inside[0]
    os.kill(victim, 9)
    record = server.found(f"pid {victim}.* was killed by SIGKILL")
    assert record.text.count("GET /gate") == inside.count(victim), record.text
    for connection, gate, worker in zip(connections, gates, inside):
        gate.open()
        if worker == victim:
            with pytest.raises(ConnectionEnded):
                connection.response()
        else:
            assert connection.response().status == 200
