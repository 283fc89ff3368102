"""`request_buffering = false`: the application reads the body while it arrives. And readers in threads of their own."""

import pytest

STREAMING = ("--no-request-buffering",)

ECHO = """
def app(environ, start_response):
    stream = environ["wsgi.input"]
    start_response("200 OK", [])
    while data := stream.read(5):
        yield data
"""


def test_the_application_answers_a_body_that_is_still_arriving(wsgi):
    with wsgi(ECHO, *STREAMING).connect() as client:
        client.request("POST", "/", [("Content-Length", "15")])
        client.send(b"first")
        answered = b""
        while b"first" not in answered:
            answered += client.socket.recv(1000)
        assert b"200 OK" in answered
        client.send(b"secondthir")
        while not answered.endswith(b"0\r\n\r\n"):
            answered += client.socket.recv(1000)
        assert b"secon" in answered and b"dthir" in answered
        assert client.get().body == b"", "the connection goes on"


@pytest.mark.parametrize("call, result", [
    ("stream.read()", b"first line\nsecond line\nno end"),
    ("b'|'.join(stream)", b"first line\n|second line\n|no end"),
    ("b'|'.join(stream.readlines())", b"first line\n|second line\n|no end"),
    ("stream.readline(3) + b'|' + stream.readline() + b'|' + stream.read(4) + b'|' + stream.readline()",
     b"fir|st line\n|seco|nd line\n"),
])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_streamed_body_is_read_in_any_way(wsgi, framing, call, result):
    server = wsgi(f"""
        def app(environ, start_response):
            stream = environ["wsgi.input"]
            body = {call}
            start_response("200 OK", [])
            return [body]
    """, *STREAMING)
    body = b"first line\nsecond line\nno end"
    with server.connect() as client:
        if framing == "length":
            answer = client.post("/", body)
        else:
            client.request("POST", "/", [("Transfer-Encoding", "chunked")])
            for start in range(0, len(body), 5):
                part = body[start : start + 5]
                client.send(b"%x\r\n%s\r\n" % (len(part), part))
            client.send(b"0\r\n\r\n")
            answer = client.response()
        assert answer.body == result
        assert client.post("/", body).body == result, "the connection goes on"


@pytest.mark.parametrize("chunk", [1, 4000, 70000])
def test_a_long_line_is_one_line(wsgi, chunk):
    line = b"x" * 200_000 + b"\n"
    server = wsgi("""
        def app(environ, start_response):
            lengths = [len(line) for line in environ["wsgi.input"]]
            start_response("200 OK", [])
            return [repr(lengths).encode()]
    """, *STREAMING)
    with server.connect() as client:
        client.request("POST", "/", [("Transfer-Encoding", "chunked")])
        body = line + b"short\n"
        if chunk == 1:
            body = body[-1006:]
            line = body[:1000]
        for start in range(0, len(body), chunk):
            part = body[start : start + chunk]
            client.send(b"%x\r\n%s\r\n" % (len(part), part))
        client.send(b"0\r\n\r\n")
        assert client.response().text == repr([len(line), 6])


def test_100_continue_is_sent_when_the_application_reads(wsgi):
    server = wsgi("""
        def app(environ, start_response):
            body = environ["wsgi.input"].read() if environ["PATH_INFO"] == "/read" else b"refused"
            start_response("200 OK", [])
            return [body]
    """, *STREAMING)
    expect = [("Expect", "100-continue"), ("Content-Length", "4")]
    with server.connect() as client:
        client.request("POST", "/read", expect)
        assert client.socket.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"body")
        assert client.response().body == b"body"
    with server.connect() as client:
        client.request("POST", "/refuse", expect)
        answer = client.response()
        assert answer.interim == [] and answer.body == b"refused"


@pytest.mark.parametrize("sent", [b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nshort",
                                  b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nshort"],
                         ids=["length", "chunked"])
def test_a_truncated_body_raises_and_goes_on_raising(wsgi, sent):
    """It must not be taken for a complete one; OSError is what frameworks expect of a client that leaves."""
    server = wsgi("""
        def app(environ, start_response):
            stream, said = environ["wsgi.input"], []
            for _ in range(2):
                try:
                    said.append(repr(stream.read()))
                except OSError as error:
                    said.append(type(error).__name__)
            start_response("200 OK", [])
            return [" ".join(said).encode()]
    """, *STREAMING)
    with server.connect() as client:
        client.send(sent)
        client.shut()
        assert client.response().body == b"ConnectionResetError ConnectionResetError"


def test_an_application_that_lets_the_clients_leaving_pass_has_no_fault(wsgi):
    server = wsgi("""
        def app(environ, start_response):
            body = environ["wsgi.input"].read()
            start_response("200 OK", [])
            return [body]
    """, *STREAMING, "--log-level", "debug")
    with server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nshort")
        client.shut()
        client.ended()
    server.found("a client left before its response was complete", "debug")


def test_a_client_that_stops_sending_is_a_timeout(wsgi):
    server = wsgi("""
        def app(environ, start_response):
            try:
                environ["wsgi.input"].read()
            except TimeoutError as error:
                body = str(error).encode()
            start_response("200 OK", [])
            return [body]
    """, *STREAMING, "--body-timeout", "0.3")
    with server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nshort")
        answer = client.response()
        assert b"body_timeout" in answer.body and answer.header("Connection") == "close"


@pytest.mark.parametrize(("rest", "status"), [(b"Content-Length: 10\r\n\r\nshort", 408),
                                              (b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n", 400)])
def test_an_application_that_does_not_mind_the_error_leaves_the_blame_with_the_client(wsgi, rest, status):
    server = wsgi("""
        def app(environ, start_response):
            body = environ["wsgi.input"].read()
            start_response("200 OK", [])
            return [body]
    """, *STREAMING, "--body-timeout", "0.3")
    with server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\n" + rest)
        assert client.response().status == status
    assert not server.log.find("Error handling request")


def test_what_is_left_unread_is_not_the_next_request(wsgi):
    server = wsgi("""
        def app(environ, start_response):
            environ["wsgi.input"].read(3)
            start_response("200 OK", [("Content-Length", "2")])
            return [b"ok"]
    """, *STREAMING)
    poison = b"abcGET /poison HTTP/1.1\r\nHost: x\r\n\r\n"
    with server.connect() as client:
        assert client.post("/", poison).body == b"ok"
        client.shut()
        assert client.ended() == b""


def test_a_thread_may_read_while_the_lane_waits_without_the_interpreter_lock(wsgi):
    """A reader that held the interpreter lock while it waits for the client would stop the whole worker."""
    server = wsgi("""
        import threading
        def app(environ, start_response):
            read = []
            reader = threading.Thread(target=lambda: read.append(environ["wsgi.input"].read()))
            reader.start()
            while reader.is_alive():
                reader.join(0.001)
            start_response("200 OK", [])
            return read
    """, *STREAMING)
    with server.connect() as client:
        client.request("POST", "/", [("Content-Length", "6")])
        client.send(b"abc")
        client.send(b"def")
        assert client.response().body == b"abcdef"


def test_several_threads_read_each_byte_once(wsgi):
    server = wsgi("""
        import threading
        def app(environ, start_response):
            stream, read = environ["wsgi.input"], []
            def reader():
                while data := stream.read(7):
                    read.append(data)
            threads = [threading.Thread(target=reader) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            body = b"".join(sorted(read))
            start_response("200 OK", [])
            return [body]
    """)
    body = b"".join(b"%06d\n" % n for n in range(3000))
    assert server.post("/", body).body == body
