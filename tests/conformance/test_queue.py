"""Complete requests that wait for a lane: queue_timeout on time, nothing done for clients that have left, health_path."""

import threading
import time

import pytest
from harness import Gate
from harness.waiting import until

LATE = r"waited too long for a lane and was answered with 503"


def blocked(server, gate):
    """A connection whose request is in the application and stays there."""
    client = server.connect()
    client.request(target=gate.target)
    gate.entered()
    return client


@pytest.mark.parametrize("workers", [1, 2])
def test_queue_timeout_refuses_on_time_though_every_lane_is_stuck(serve, tmp_path, workers):
    server = serve("plain:app", "--workers", workers, "--queue-timeout", 2)
    gates = [Gate(tmp_path, f"gate{n}") for n in range(workers)]
    stuck = [blocked(server, gate) for gate in gates]
    begun, address = time.monotonic(), server.address
    waiting = [server.connect(address) for _ in range(20)]
    for client in waiting:
        client.request(target="/")
    with server.connect() as upload:
        # Too long to be handed over: it waits with one worker.
        upload.request("POST", "/", body=b"x" * 100_000)
        for client in [*waiting, upload]:
            response = client.response()
            assert (response.status, response.header("Retry-After")) == (503, "1")
            client.close()
    assert time.monotonic() - begun >= 2
    # The lanes are as stuck as before: it was not they who refused.
    for gate, client in zip(gates, stuck, strict=True):
        gate.open()
        assert client.response().status == 200
        client.close()
    until(lambda: len(server.log.find(LATE, "warning")) == 21, "a record of each refusal")
    assert server.get("/").status == 200


def test_without_queue_timeout_requests_wait(serve, tmp_path):
    server = serve("plain:app", "--workers", 1)
    gate = Gate(tmp_path)
    with blocked(server, gate) as stuck, server.connect() as waiting:
        waiting.request(target="/")
        gate.open()
        assert (stuck.response().status, waiting.response().status) == (200, 200)


def test_clients_that_ask_without_a_pause_keep_no_new_one_waiting(serve):
    """The queue of the only lane is never empty, and each call is shorter than the standby's patience."""
    server = serve("m:app", "--workers", 1, files={"m.py": """
import time

def app(environ, start_response):
    time.sleep(0.002)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""})
    over, answers = threading.Event(), []

    def ask():
        with server.connect() as client:
            while not over.is_set():
                answers.append(client.get("/").status)

    threads = [threading.Thread(target=ask) for _ in range(10)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            until(lambda known=len(answers): len(answers) > known + 20, "them to be answered")
            assert server.get("/").status == 200
    finally:
        over.set()
        for thread in threads:
            thread.join(20)
    assert set(answers) == {200}


COUNTING = {"m.py": """
import pathlib, time

calls = []

def app(environ, start_response):
    path = environ["PATH_INFO"]
    calls.append(path)
    if path == "/gate":
        directory = pathlib.Path(environ["QUERY_STRING"])
        directory.with_suffix(".entered").write_text("1")
        while not directory.exists():
            time.sleep(0.005)
    body = " ".join(calls).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""}


def _ends_its_side_once_its_request_is_read(server):
    """A client whose FIN comes after its request was read, and so soon that it does not count as leaving (200 ms)."""
    with server.connect() as probe:
        while True:
            client, begun = server.connect(), time.monotonic()
            client.request(target="/half_closed")
            assert probe.get("/healthz").text == "ok\n"  # the request came before this one, and was read before it
            client.shut()
            assert probe.get("/healthz").text == "ok\n"  # and so was its end
            if time.monotonic() - begun < 0.1:
                return client
            client.close()


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "unix:{}/s.sock"])
def test_a_request_whose_client_has_left_while_it_waited_is_not_run(serve, tmp_path, bind):
    server = serve("m:app", "--health-path", "/healthz", files=COUNTING, bind=[bind.format(tmp_path)])
    gate = Gate(tmp_path)
    with server.connect() as stuck, server.connect() as patient:
        stuck.request(target=gate.target)
        gate.entered()
        half_closed = _ends_its_side_once_its_request_is_read(server)
        leaving = [server.connect() for _ in range(10)]
        for client in leaving:
            client.request(target="/left")
        patient.request(target="/patient")
        with server.connect() as probe:
            assert probe.get("/healthz").status == 200  # it came last: all the others' requests have been read
        # A FIN counts as leaving when it comes a while after the request; that while has to pass.
        begun = time.monotonic()
        until(lambda: time.monotonic() - begun > 0.3, "the requests to have waited")
        for client in leaving:
            client.close()
        gate.open()
        assert stuck.response().status == 200
        # Who only ends his own side is answered.
        if bind.startswith("127"):
            assert half_closed.response().status == 200
        half_closed.close()
        assert "/left" not in patient.response().text


def test_health_path_is_answered_by_a_busy_worker_and_says_when_it_drains(serve, tmp_path):
    server = serve("plain:app", "--workers", 1, "--health-path", "/healthz", "--log-level", "debug")
    gate = Gate(tmp_path)
    stuck, probe = blocked(server, gate), server.connect()
    assert (probe.get("/healthz").status, probe.exchange("HEAD", "/healthz?probe=1").status) == (200, 200)
    half_open = server.connect()
    half_open.send(b"GET /healthz HTTP/1.1\r\n")
    assert probe.get("/healthz").status == 200
    server.signal(15)
    server.drains(workers=1)
    half_open.send(b"Host: h\r\n\r\n")
    response = half_open.response()
    assert (response.status, response.header("Connection")) == (503, "close")
    gate.open()
    assert stuck.response().status == 200
    for client in (stuck, probe, half_open):
        client.close()
    assert server.wait() == 0
