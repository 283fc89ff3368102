"""PEP 3333, "Input and Error Streams": how the application reads a request's body."""

import hashlib
import os

import pytest
from harness.http import ConnectionEnded


def reader(expression):
    """An application that answers with the repr of what `expression` makes of `stream`."""
    return f"""
        def app(environ, start_response):
            stream = environ["wsgi.input"]
            value = {expression}
            body = repr(value).encode()
            start_response("200 OK", [("Content-Length", str(len(body)))])
            return [body]
    """


LINES = b"first\nsecond\n\nlast without end"
READS = [
    ("stream.read()", LINES),
    ("stream.read(-1)", LINES),
    ("stream.read(5), stream.read(1), stream.read(0), stream.read(3)", (b"first", b"\n", b"", b"sec")),
    ("stream.read(1000), stream.read(1000), stream.read()", (LINES, b"", b"")),
    ("[stream.readline() for _ in range(5)]", [b"first\n", b"second\n", b"\n", b"last without end", b""]),
    ("stream.readline(3), stream.readline(-1), stream.readline(100)", (b"fir", b"st\n", b"second\n")),
    ("stream.readlines()", [b"first\n", b"second\n", b"\n", b"last without end"]),
    ("stream.readline(), stream.read()", (b"first\n", LINES[6:])),
    ("list(stream)", [b"first\n", b"second\n", b"\n", b"last without end"]),
]


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("calls, result", READS, ids=[calls for calls, _ in READS])
def test_the_body_is_read_by(wsgi, calls, result, framing):
    server = wsgi(reader(calls))
    with server.connect() as client:
        if framing == "length":
            answer = client.post("/", LINES)
        else:
            client.request("POST", "/", [("Transfer-Encoding", "chunked")])
            for start in range(0, len(LINES), 7):
                part = LINES[start : start + 7]
                client.send(b"%x\r\n%s\r\n" % (len(part), part))
            client.send(b"0\r\n\r\n")
            answer = client.response()
    assert answer.text == repr(result)


def test_readlines_takes_a_hint(wsgi):
    answer = wsgi(reader("stream.readlines(1)")).post("/", LINES)
    assert answer.text.startswith("[b'first\\n'")


def test_without_a_body_reading_ends_at_once(wsgi):
    server = wsgi(reader("[stream.read(), stream.read(10), stream.readline(), stream.readlines(), list(stream)]"))
    assert server.get().text == repr([b"", b"", b"", [], []])


def test_an_empty_body_is_empty(wsgi):
    assert wsgi(reader("stream.read()")).post("/", b"").text == "b''"


def test_a_body_can_be_read_after_the_response_has_begun(wsgi):
    server = wsgi("""
        def app(environ, start_response):
            start_response("200 OK", [])
            yield b"got "
            yield environ["wsgi.input"].read()
    """)
    assert server.post("/", b"it").body == b"got it"


@pytest.mark.parametrize("size", [1, 1 << 16, (1 << 16) + 1, 5 << 20])
def test_bodies_of_any_size_arrive_whole(wsgi, size):
    server = wsgi("""
        import hashlib
        def app(environ, start_response):
            data = environ["wsgi.input"].read()
            body = f"{len(data)} {hashlib.sha256(data).hexdigest()}".encode()
            start_response("200 OK", [("Content-Length", str(len(body)))])
            return [body]
    """)
    data = os.urandom(size)
    assert server.post("/", data).text == f"{size} {hashlib.sha256(data).hexdigest()}"


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_what_the_application_does_not_read_is_not_the_next_request(wsgi, framing):
    server = wsgi("""
        def app(environ, start_response):
            start_response("200 OK", [("Content-Length", "2")])
            return [b"ok"]
    """)
    poison = b"GET /poison HTTP/1.1\r\nHost: x\r\n\r\n"
    with server.connect() as client:
        if framing == "length":
            first = client.post("/", poison)
        else:
            client.request("POST", "/", [("Transfer-Encoding", "chunked")])
            client.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(poison), poison))
            first = client.response()
        assert first.body == b"ok"
        client.shut()
        assert client.ended() == b"", "exactly one response"


@pytest.mark.parametrize("sent", [
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nshort",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nsho",
], ids=["length", "between chunks", "inside a chunk"])
def test_an_application_is_not_called_with_half_a_body(wsgi, sent):
    """Gunicorn hands it over as if it were whole."""
    server = wsgi("""
        def app(environ, start_response):
            print("the application was called")
            start_response("200 OK", [("Content-Length", "0")])
            return []
    """)
    with server.connect() as client:
        client.send(sent)
        client.shut()
        assert not client.ended().startswith(b"HTTP/1.1 200")
    server.get()
    server.found("the application was called")
    server.stop()
    assert len(server.log.find("the application was called")) == 1


def test_a_client_that_expects_it_gets_100_continue(wsgi):
    server = wsgi(reader("stream.read()"))
    with server.connect() as client:
        client.request("POST", "/", [("Expect", "100-continue"), ("Content-Length", "2")])
        head = client._head()
        assert head.status == 100
        client.send(b"hi")
        assert client.response().text == "b'hi'"


def test_a_client_that_expects_100_continue_and_does_not_wait_is_served_as_well(wsgi):
    server = wsgi(reader("stream.read()"))
    with server.connect() as client:
        answer = client.exchange("POST", "/", [("Expect", "100-continue")], b"hi")
        assert answer.text == "b'hi'"
        assert [interim.status for interim in answer.interim] in ([], [100])


def test_the_connection_can_be_used_again_after_a_body(wsgi):
    server = wsgi(reader("stream.read()"))
    with server.connect() as client:
        for number in range(20):
            assert client.post("/", b"%d" % number).text == repr(b"%d" % number)


def test_a_body_over_the_limit_is_refused_without_calling_the_application(wsgi):
    server = wsgi("""
        def app(environ, start_response):
            raise AssertionError("must not be called")
    """, "--limit-request-body", 10)
    with server.connect() as client:
        client.request("POST", "/", [("Content-Length", "11")])
        try:
            assert client.response().status == 413
        except ConnectionEnded as error:
            raise AssertionError("no answer at all") from error
