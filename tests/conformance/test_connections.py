"""RFC 9112 section 9: how long a connection lives, and what becomes of clients who do not keep the rules."""

import os
import socket
from signal import SIGCONT, SIGSTOP

import pytest
from harness import Gate, until


def test_a_connection_is_kept(serve):
    with serve("plain:app").connect() as client:
        pids = {client.get("/pid").body for _ in range(50)}
    assert len(pids) == 1


def test_a_connection_is_closed_when_the_client_asks_for_it(serve):
    with serve("plain:app").connect() as client:
        answer = client.get("/", [("Connection", "close")])
        assert answer.header("Connection").lower() == "close"
        assert client.ended() == b""


def test_close_is_heeded_among_other_options(serve):
    with serve("plain:app").connect() as client:
        client.get("/", [("Connection", "foo, Close")])
        assert client.ended() == b""


def test_an_old_client_is_not_kept_unless_it_asks(serve):
    server = serve("plain:app")
    with server.connect() as client:
        client.get("/", version="HTTP/1.0")
        assert client.ended() == b""
    with server.connect() as client:
        answer = client.get("/", [("Connection", "keep-alive")], version="HTTP/1.0")
        assert answer.header("Connection").lower() == "keep-alive"
        assert client.get("/", [("Connection", "keep-alive")], version="HTTP/1.0").body == b"hello\n"


def test_an_idle_connection_is_closed_after_keep_alive(serve):
    server = serve("plain:app", "--keep-alive", 1)
    with server.connect() as client:
        client.get("/")
        assert client.ended() == b""


def test_keep_alive_zero_closes_after_each_response(serve):
    with serve("plain:app", "--keep-alive", 0).connect() as client:
        assert client.get("/").header("Connection").lower() == "close"
        assert client.ended() == b""


def test_idle_connections_keep_nobody_from_being_served(serve):
    server = serve("plain:app", "--workers", 1)
    idle = [server.connect() for _ in range(50)]
    for client in idle[::2]:
        client.get("/")
    assert server.get("/").body == b"hello\n"
    for client in idle:
        assert client.get("/").body == b"hello\n"
        client.close()


def test_half_a_head_keeps_nobody_from_being_served(serve):
    server = serve("plain:app", "--workers", 1)
    slow = [server.connect() for _ in range(20)]
    for client in slow:
        client.send("GET / HTTP/1.1\r\nHo")
    assert server.get("/").body == b"hello\n"
    for client in slow:
        client.send("st: x\r\n\r\n")
        assert client.response().body == b"hello\n"
        client.close()


def test_half_a_body_keeps_nobody_from_being_served(serve):
    server = serve("plain:app", "--workers", 1)
    slow = [server.connect() for _ in range(20)]
    for client in slow:
        client.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab")
    assert server.get("/").body == b"hello\n"
    for client in slow:
        client.send("cd")
        assert client.response().body == b"abcd"
        client.close()


def test_pipelined_requests_are_answered_in_order(serve):
    with serve("plain:app").connect() as client:
        client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\nPOST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
                    "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")
        assert [client.response().status for _ in range(3)] == [200, 200, 404]


def test_a_request_can_come_byte_by_byte(serve):
    with serve("plain:app").connect() as client:
        for byte in b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc":
            client.send(bytes([byte]))
        assert client.response().body == b"abc"


@pytest.mark.parametrize("sent", [
    b"nonsense\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nBad Name: 1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nName : 1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n folded: 1\r\n\r\n",
    b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\na",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
], ids=lambda sent: ascii(sent)[2:60])
def test_a_malformed_request_is_refused_and_the_connection_closed(serve, sent):
    server = serve("plain:app")
    with server.connect() as client:
        client.send(sent)
        answer = client.response()
        assert answer.status in (400, 501), answer
        assert client.ended() == b""
    assert server.get("/").body == b"hello\n"


def test_a_request_without_host_is_refused_on_http_1_1(serve):
    """RFC 9112 section 3.2; Gunicorn lets it through."""
    with serve("plain:app").connect() as client:
        client.send("GET / HTTP/1.1\r\n\r\n")
        assert client.response().status == 400


def test_limits_have_their_own_statuses(serve):
    server = serve("plain:app", "--limit-request-line", 100, "--limit-request-fields", 5,
                   "--limit-request-field_size", 200)
    for headers, target, status in [([], "/" + "x" * 200, 414), ([(f"X-{n}", "1") for n in range(9)], "/", 431),
                                    ([("X-Long", "x" * 300)], "/", 431)]:
        with server.connect() as client:
            assert client.get(target, headers).status == status


def test_clients_that_connect_while_all_workers_are_busy_are_served_in_turn(serve, tmp_path):
    server = serve("plain:app", "--workers", 1)
    gate = Gate(tmp_path)
    with server.connect() as client:
        client.request(target=gate.target)
        gate.entered()
        waiting = [server.connect() for _ in range(10)]
        for other in waiting:
            other.request(target="/")
        gate.open()
        assert client.response().status == 200
        for other in waiting:
            assert other.response().body == b"hello\n"
            other.close()


def test_a_slow_reader_keeps_nobody_from_being_served(serve):
    """The response fits the response buffer, so the worker is free although the client does not read."""
    files = {"m.py": "def app(environ, start_response):\n"
                     "    big = environ['PATH_INFO'] == '/big'\n"
                     "    body = b'x' * (400_000 if big else 5)\n"
                     "    start_response('200 OK', [('Content-Length', str(len(body)))])\n"
                     "    return [body]\n"}
    server = serve("m:app", "--workers", 1, files=files)
    slow = [server.connect() for _ in range(5)]
    for client in slow:
        client.request(target="/big")
    assert server.get("/").body == b"xxxxx"
    for client in slow:
        assert len(client.response().body) == 400_000
        client.close()
    until(lambda: server.get("/").status == 200, "an answer")


# A worker reads sixteen times 16 KiB of one connection before others have their turn.
@pytest.mark.parametrize("total", [15 * 16384 + 1, 16 * 16384 - 1, 16 * 16384, 16 * 16384 + 1])
def test_a_request_that_ends_with_the_last_read_of_a_turn_is_answered(serve, tmp_path, total):
    server = serve("app:app", bind=[f"unix:{tmp_path}/app.sock"], files={"app.py": """
        def app(environ, start_response):
            length = len(environ["wsgi.input"].read())
            start_response("200 OK", [])
            return [str(length).encode()]
    """.replace("\n        ", "\n")})
    (worker,) = server.workers
    with server.connect(f"{tmp_path}/app.sock") as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %06d\r\n\r\n"
        body = b"x" * (total - len(head % 0))
        # All of it lies in the socket when the worker begins to read.
        os.kill(worker, SIGSTOP)
        client.send(head % len(body) + body)
        os.kill(worker, SIGCONT)
        assert client.response().body == b"%d" % len(body)
