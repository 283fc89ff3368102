"""Slow clients cost no lane: one sync worker, thousands of clients that take their time, one that does not."""

import time

import pytest
from harness.crowd import Crowd, raise_fd_limit
from harness.waiting import until

APP = {"app.py": """
called = []

def app(environ, start_response):
    path = environ["PATH_INFO"]
    called.append(path)
    body = {"/large": b"x" * 1_000_000, "/huge": b"x" * 20_000_000, "/calls": b"%d" % called.count("/never")}.get(path, b"hello")
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""}


@pytest.fixture
def server(serve):
    raise_fd_limit(8192)
    return serve("app:app", "--workers", 1, files=APP)


def slowest(server, requests=300):
    """The longest of so many requests on one connection, in seconds."""
    longest = 0.0
    with server.connect() as connection:
        for _ in range(requests):
            begun = time.monotonic()
            assert connection.get("/").body == b"hello"
            longest = max(longest, time.monotonic() - begun)
    return longest


def test_three_thousand_slow_clients_do_not_delay_a_quick_one(server):
    with Crowd(server.address) as crowd:
        crowd.half_open(1000)
        crowd.uploads(1000, every=0.1)
        crowd.readers(1000, b"/large")
        # A request of one's own comes after those: the readers have been served when it is answered.
        assert server.get("/").body == b"hello"
        # A bound far above what a loaded machine needs; a worker that any of these clients held would make the
        # quick one wait for a timeout of 30 s.
        assert slowest(server) < 10
        assert crowd.ended() == 0
        assert server.get("/calls").body == b"0", "the application was called for an incomplete request"


def test_a_response_that_nobody_reads_leaves_the_lane_and_is_complete_when_it_is_read(server):
    with server.connect() as reader:
        for _ in range(3):
            reader.send(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        assert slowest(server, 10) < 10
        for _ in range(3):
            assert len(reader.response().body) == 1_000_000


def test_a_head_that_takes_too_long_is_answered_408(serve):
    server = serve("app:app", files={**APP, "rgunicorn.toml": "header_timeout = 1\nbody_timeout = 1\n"},
                   env={"RGUNICORN_HEADER_TIMEOUT": "1", "RGUNICORN_BODY_TIMEOUT": "1"})
    with server.connect() as connection:
        connection.send(b"GET / HTTP/1.1\r\nHost:")
        assert connection.response().status == 408
    with server.connect() as connection:
        connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
        assert connection.response().status == 408
    server.found("header_timeout|too long|head")


def test_a_client_that_stops_reading_is_disconnected_after_send_timeout(serve):
    server = serve("app:app", files=APP, env={"RGUNICORN_SEND_TIMEOUT": "0.3", "RGUNICORN_RESPONSE_BUFFER": "32M"})
    raise_fd_limit(2048)
    with Crowd(server.address) as crowd:
        crowd.readers(3, b"/huge")
        server.found("stopped reading its response")
        until(lambda: len(server.log.find("stopped reading its response")) == 3, "all three are disconnected")


def test_health_is_answered_while_the_lane_is_in_the_application(serve, tmp_path):
    server = serve("plain:app", env={"RGUNICORN_HEALTH_PATH": "/healthz"})
    gate = tmp_path / "gate"
    with server.connect() as busy:
        busy.send(b"GET /gate?%s HTTP/1.1\r\nHost: x\r\n\r\n" % str(gate).encode())
        until((tmp_path / "gate.entered").exists, "the application is entered")
        health = server.get("/healthz")
        assert (health.status, health.body) == (200, b"ok\n")
        gate.touch()
        assert busy.response().status == 200
