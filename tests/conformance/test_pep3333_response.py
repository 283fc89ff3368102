"""PEP 3333, "The start_response() Callable" and what follows: how a response is made, sent and ended."""

import pytest
from harness import Gate, until
from harness.http import ConnectionEnded

OK = 'start_response("200 OK", [("Content-Type", "text/plain")])'


def app(*lines, top=""):
    """The source of an application with this body."""
    return top + "\ndef app(environ, start_response):\n" + "".join(f"    {line}\n" for line in "\n".join(lines).split("\n"))


# What start_response takes


def test_status_and_headers_arrive_as_given(wsgi):
    server = wsgi(app('start_response("201 Made it", [("X-One", "1"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"),'
                      ' ("x-mixed-Case", " v ")])', "return [b'x']"))
    answer = server.get()
    assert (answer.status, answer.reason) == (201, "Made it")
    assert answer.all("Set-Cookie") == ["a=1", "b=2"]
    assert answer.header("X-One") == "1" and answer.header("x-mixed-case") == "v"
    names = [name for name, _ in answer.headers if name.startswith(("X-", "Set-", "x-")) and name != "X-Request-ID"]
    assert names == ["X-One", "Set-Cookie", "Set-Cookie", "x-mixed-Case"]


def test_every_response_has_one_date_and_one_server(wsgi):
    answer = wsgi(app(OK, "return []")).get()
    assert answer.header("Date").endswith("GMT")
    assert answer.header("Server") is not None


def test_it_may_be_called_by_the_first_iteration(wsgi):
    """"it may be called as late as the first yield"."""
    server = wsgi(app("def body():", f"    {OK}", "    yield b'late'", "return body()"))
    assert server.get().body == b"late"


def test_empty_blocks_do_not_send_the_headers(wsgi):
    server = wsgi(app("import sys", OK, "yield b''", "try:", "    raise ValueError('noticed late')", "except ValueError:",
                      "    start_response('503 Later', [], sys.exc_info())", "yield b'sorry'"))
    answer = server.get()
    assert (answer.status, answer.body) == (503, b"sorry")


def test_an_application_that_never_calls_it_is_an_error(wsgi):
    server = wsgi(app("return [b'x']"))
    server.expect("start_response")
    assert server.get().status == 500


def test_calling_it_twice_is_an_error(wsgi):
    server = wsgi(app(OK, OK, "return [b'x']"))
    server.expect("start_response|AssertionError")
    assert server.get().status == 500


def test_calling_it_again_with_exc_info_replaces_what_was_not_sent(wsgi):
    server = wsgi(app("import sys", "start_response('200 OK', [('X-Old', '1')])", "try:", "    1 / 0",
                      "except ZeroDivisionError:",
                      "    start_response('500 Oops', [('X-New', '1')], sys.exc_info())", "return [b'sorry']"))
    answer = server.get()
    assert (answer.status, answer.reason, answer.body) == (500, "Oops", b"sorry")
    assert answer.header("X-New") == "1" and answer.header("X-Old") is None


def test_calling_it_again_with_exc_info_after_sending_raises_that_exception(wsgi):
    server = wsgi(app("import sys", OK, "yield b'begun'", "try:", "    raise ValueError('too late')",
                      "except ValueError:", "    start_response('500 Oops', [], sys.exc_info())", "yield b'never'"))
    server.expect("ValueError: too late")
    with server.connect() as client, pytest.raises(ConnectionEnded):
        client.get()


BAD = {
    "a status that is no text": ("200", "[]"),
    "a status without a number": ("'OK'", "[]"),
    "a status with two digits": ("'20 OK'", "[]"),
    "an interim status": ("'101 Switching Protocols'", "[]"),
    "a status with a line break": ("'200 OK\\r\\nX-Split: 1'", "[]"),
    "a header name with a line break": ("'200 OK'", "[('X\\r\\nX-Split', '1')]"),
    "a header name with a space": ("'200 OK'", "[('X Y', '1')]"),
    "a header name with a colon": ("'200 OK'", "[('X:', '1')]"),
    "an empty header name": ("'200 OK'", "[('', '1')]"),
    "a header value with a line break": ("'200 OK'", "[('X-A', 'a\\r\\nX-Split: 1')]"),
    "a header value with a bare LF": ("'200 OK'", "[('X-A', 'a\\nX-Split: 1')]"),
    "a header value with a NUL": ("'200 OK'", "[('X-A', 'a\\0b')]"),
    "a header value that is no text": ("'200 OK'", "[('X-A', 1)]"),
    "a header value in bytes": ("'200 OK'", "[('X-A', b'1')]"),
    "a header value beyond latin-1": ("'200 OK'", "[('X-A', '\\u20ac')]"),
    "a header that is no pair": ("'200 OK'", "['X-A: 1']"),
    "two lengths": ("'200 OK'", "[('Content-Length', '1'), ('Content-Length', '2')]"),
    "a length that is no number": ("'200 OK'", "[('Content-Length', 'x')]"),
    "a negative length": ("'200 OK'", "[('Content-Length', '-1')]"),
}


@pytest.mark.parametrize("what", BAD)
def test_refused_as_an_error_of_the_application_is(wsgi, what):
    status, headers = BAD[what]
    server = wsgi(app(f"start_response({status}, {headers})", "return [b'x']"))
    server.expect("Traceback|start_response|header|status|Content-Length")
    answer = server.get()
    assert answer.status == 500
    assert answer.header("X-Split") is None


@pytest.mark.parametrize("name, value", [("Connection", "upgrade"), ("Keep-Alive", "timeout=1"), ("Upgrade", "h2c"),
                                         ("Transfer-Encoding", "chunked"), ("TE", "trailers"),
                                         ("Proxy-Authenticate", "Basic")])
def test_hop_by_hop_headers_of_the_application_are_dropped(wsgi, name, value):
    server = wsgi(app(f"start_response('200 OK', [({name!r}, {value!r}), ('Content-Length', '2')])", "return [b'ok']"))
    with server.connect() as client:
        answer = client.get()
        assert answer.body == b"ok" and value not in answer.all(name)
        assert client.get().body == b"ok"


def test_the_application_can_ask_for_the_end_of_the_connection(wsgi):
    server = wsgi(app("start_response('200 OK', [('Connection', 'close'), ('Content-Length', '2')])", "return [b'ok']"))
    with server.connect() as client:
        assert client.get().header("Connection") == "close"
        assert client.ended() == b""


# What an iterable may be


@pytest.mark.parametrize("returned", [
    "[b'a', b'b', b'c']", "(b'a', b'b', b'c')", "iter([b'a', b'b', b'c'])", "[b'abc']", "(b for b in (b'ab', b'c'))",
    "[b'', b'abc', b'']", "io.BytesIO(b'abc')", "{b'abc': 1}", "map(bytes, ([97], [98], [99]))",
])
def test_any_iterable_of_bytes_is_a_body(wsgi, returned):
    server = wsgi(app(OK, f"return {returned}", top="import io"))
    with server.connect() as client:
        assert client.get().body == b"abc"
        assert client.get().body == b"abc", "the connection is kept"


@pytest.mark.parametrize("returned", ["[]", "()", "iter(())", "[b'']", "[b'', b'']"])
def test_an_empty_body_is_a_response(wsgi, returned):
    server = wsgi(app(OK, f"return {returned}"))
    with server.connect() as client:
        for _ in range(2):
            answer = client.get()
            assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize("returned", ["['text']", "[1]", "[None]", "[bytearray(b'x')]", "None", "7"])
def test_anything_but_bytes_is_an_error_of_the_application(wsgi, returned):
    server = wsgi(app(OK, f"return {returned}"))
    if "bytearray" in returned:  # PEP 3333 says bytes; what is like bytes may be let through
        assert server.get().status in (200, 500)
        if server.log.find("bytearray", "error"):
            server.expect("bytearray")
        return
    server.expect("bytes|iter")
    assert server.get().status == 500


def test_each_block_is_sent_before_the_next_is_asked_for(wsgi, tmp_path):
    """"must transmit each block before asking for the next"."""
    gate = tmp_path / "go"
    server = wsgi(app("import os, time", OK, "yield b'first'", f"while not os.path.exists({str(gate)!r}):",
                      "    time.sleep(0.005)", "yield b'second'"))
    with server.connect() as client:
        client.request()
        received = b""
        while b"first" not in received:
            received += client.socket.recv(100)
        assert b"second" not in received
        gate.touch()
        while b"second" not in received:
            received += client.socket.recv(100)


def test_write_sends_and_the_iterable_follows(wsgi):
    server = wsgi(app(f"write = {OK}", "write(b'one ')", "write(b'')", "write(b'two ')", "return [b'three']"))
    with server.connect() as client:
        assert client.get().body == b"one two three"
        assert client.get().body == b"one two three"


def test_write_sends_at_once(wsgi, tmp_path):
    gate = tmp_path / "go"
    server = wsgi(app("import os, time", f"write = {OK}", "write(b'first')", f"while not os.path.exists({str(gate)!r}):",
                      "    time.sleep(0.005)", "return [b'second']"))
    with server.connect() as client:
        client.request()
        received = b""
        while b"first" not in received:
            received += client.socket.recv(1000)
        gate.touch()
        while b"second" not in received:
            received += client.socket.recv(1000)


# close()

CLOSES = """
class Body:
    def __init__(self, blocks, fail=False):
        self.blocks, self.fail = iter(blocks), fail
    def __iter__(self):
        return self
    def __next__(self):
        if self.fail:
            raise ValueError("while iterating")
        return next(self.blocks)
    def close(self):
        print("close was called")
"""


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_close_is_called_once_at_the_end(wsgi, method):
    server = wsgi(app(OK, "return Body([b'a', b'b'])", top=CLOSES))
    with server.connect() as client:
        client.exchange(method)
        client.get()
    until(lambda: len(server.log.find("close was called")) == 2, "one call for each request")


def test_close_is_called_after_an_error(wsgi):
    server = wsgi(app(OK, "return Body([], fail=True)", top=CLOSES))
    server.expect("ValueError: while iterating")
    assert server.get().status == 500
    server.found("close was called")


def test_close_is_called_when_start_response_was_forgotten(wsgi):
    server = wsgi(app("return Body([b'x'])", top=CLOSES))
    server.expect("start_response")
    assert server.get().status == 500
    server.found("close was called")


def test_close_is_called_when_the_client_has_left(wsgi):
    server = wsgi(app(OK, "return Body(b'x' * 65536 for _ in range(100000))", top=CLOSES))
    with server.connect() as client:
        client.request()
        client.socket.recv(10)
    server.found("close was called")


def test_a_client_that_leaves_is_no_error(wsgi):
    server = wsgi(app(OK, "return (b'x' * 65536 for _ in range(1000))"))
    for _ in range(3):
        with server.connect() as client:
            client.request()
            client.socket.recv(10)
    with server.connect() as client:
        client.request()
        assert client._head().status == 200


def test_an_error_in_close_is_logged_and_the_response_stays(wsgi):
    top = CLOSES.replace('print("close was called")', 'raise ValueError("in close")')
    server = wsgi(app(OK, "return Body([b'fine'])", top=top))
    server.expect("ValueError: in close")
    assert server.get().body == b"fine"


def test_a_generator_is_closed(wsgi):
    server = wsgi(app(OK, "try:", "    for _ in range(100000):", "        yield b'x' * 65536", "finally:",
                      "    print('the generator was closed')"))
    with server.connect() as client:
        client.request()
        client.socket.recv(10)
    server.found("the generator was closed")


# Lengths


def test_a_body_of_one_block_gets_its_length(wsgi):
    answer = wsgi(app(OK, "return [b'abc']")).get()
    assert (answer.framing, answer.header("Content-Length")) == ("length", "3")


def test_a_body_of_unknown_length_is_chunked_on_http_1_1(wsgi):
    server = wsgi(app(OK, "yield b'a'", "yield b'bc'"))
    with server.connect() as client:
        assert client.get().framing == "chunked"
        assert client.get().body == b"abc"


def test_a_body_of_unknown_length_ends_with_the_connection_on_http_1_0(wsgi):
    server = wsgi(app(OK, "yield b'a'", "yield b'bc'"))
    with server.connect() as client:
        answer = client.get(version="HTTP/1.0", headers=[("Connection", "keep-alive")])
    assert (answer.framing, answer.body) == ("close", b"abc")
    assert answer.header("Transfer-Encoding") is None


def test_more_than_the_announced_length_is_not_sent(wsgi):
    server = wsgi(app("start_response('200 OK', [('Content-Length', '3')])", "yield b'ab'", "yield b'cdef'",
                      "yield b'ghi'"))
    with server.connect() as client:
        assert client.get().body == b"abc"
        try:
            assert client.get().body == b"abc", "if the connection is kept it is in step"
        except (ConnectionEnded, BrokenPipeError):
            pass


def test_less_than_the_announced_length_ends_the_connection(wsgi):
    """Gunicorn keeps it, and the next response completes this one."""
    server = wsgi(app("start_response('200 OK', [('Content-Length', '10')])", "return [b'short']"))
    with server.connect() as client:
        with pytest.raises(ConnectionEnded):
            client.get()
    server.expect("5 bytes shorter than its Content-Length")


# Statuses and methods without a body


def test_head_is_answered_like_get_without_the_body(wsgi):
    server = wsgi(app("start_response('200 OK', [('Content-Length', '3'), ('X-A', '1')])", "return [b'abc']"))
    with server.connect() as client:
        head = client.exchange("HEAD")
        assert (head.header("Content-Length"), head.header("X-A"), head.body) == ("3", "1", b"")
        assert client.get().body == b"abc"


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_a_status_without_body_has_none(wsgi, status):
    server = wsgi(app(f"start_response({status!r}, [('ETag', 'x')])", "return [b'ignored']"))
    with server.connect() as client:
        for _ in range(2):
            answer = client.get()
            assert (answer.status, answer.body) == (int(status[:3]), b"")
            assert answer.header("Transfer-Encoding") is None
        client.shut()
        assert client.ended() == b""


# Errors of the application


def test_an_error_before_the_response_is_a_500_with_one_traceback(wsgi):
    server = wsgi(app("raise ValueError('before')"))
    server.expect("Traceback.*ValueError: before")
    with server.connect() as client:
        assert client.get().status == 500
    until(lambda: server.log.find("ValueError: before"), "the record")
    assert len(server.log.find("ValueError: before")) == 1


def test_an_error_after_start_response_but_before_any_byte_is_a_500(wsgi):
    server = wsgi(app("start_response('200 OK', [('X-A', '1')])", "raise ValueError('in between')"))
    server.expect("ValueError: in between")
    answer = server.get()
    assert answer.status == 500 and answer.header("X-A") is None


@pytest.mark.parametrize("headers", ["[]", "[('Content-Length', '100')]"], ids=["chunked", "length"])
def test_an_error_in_the_middle_ends_the_connection_without_a_proper_end(wsgi, headers):
    server = wsgi(app(f"start_response('200 OK', {headers})", "yield b'begun'", "raise ValueError('in the middle')"))
    server.expect("ValueError: in the middle")
    with server.connect() as client, pytest.raises(ConnectionEnded):
        client.get()


@pytest.mark.parametrize("raised, leaves", [("SystemExit('leaving')", True), ("SystemExit(7)", True),
                                            ("KeyboardInterrupt()", True), ("GeneratorExit()", False)])
def test_what_is_no_ordinary_exception_does_not_end_the_server(wsgi, raised, leaves):
    """What would end an interpreter has the worker replaced, after all its clients have got their answers."""
    server = wsgi(app("if environ['PATH_INFO'] == '/raise':", f"    raise {raised}", OK, "return [b'alive']"))
    server.expect(raised.split("(")[0])
    (before,) = server.workers
    assert server.get("/raise").status == 500
    assert server.get("/").body == b"alive"
    if leaves:
        server.found("will be replaced: the application called sys.exit")
        until(lambda: before not in server.children, "the worker to leave")
        assert server.get("/").body == b"alive"
    assert not server.log.find("exited with status")


def test_the_server_goes_on_after_errors(wsgi):
    server = wsgi(app("if environ['PATH_INFO'] == '/raise':", "    raise ValueError('again')", OK, "return [b'alive']"))
    server.expect("ValueError: again")
    for _ in range(20):
        assert server.get("/raise").status == 500
        assert server.get("/").body == b"alive"


# Optional parts


WRAPPED = """
import io, os
class Recorded(io.BytesIO):
    def close(self):
        print("the file was closed")
        super().close()
"""


def test_a_wrapped_file_is_sent_whole(wsgi, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 5000)
    server = wsgi(app(OK, f"return environ['wsgi.file_wrapper'](open({str(path)!r}, 'rb'), 4096)"))
    with server.connect() as client:
        for _ in range(2):
            assert client.get().body == path.read_bytes()


def test_a_wrapped_file_is_sent_from_where_it_stands_and_as_far_as_announced(wsgi, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789" * 1000)
    server = wsgi(app("start_response('206 Partial', [('Content-Length', '20')])", f"file = open({str(path)!r}, 'rb')",
                      "file.seek(5)", "return environ['wsgi.file_wrapper'](file)"))
    with server.connect() as client:
        assert client.get().body == b"56789012345678901234"
        assert client.get().body == b"56789012345678901234"


def test_a_wrapped_object_that_is_no_file_is_read_and_closed(wsgi):
    server = wsgi(app(OK, "return environ['wsgi.file_wrapper'](Recorded(b'x' * 100000))", top=WRAPPED))
    assert server.get().body == b"x" * 100000
    server.found("the file was closed")


def test_a_wrapper_can_be_iterated_by_a_middleware(wsgi):
    server = wsgi(app(OK, "wrapper = environ['wsgi.file_wrapper'](io.BytesIO(b'abcdef'), 2)",
                      "return [block.upper() for block in wrapper]", top=WRAPPED))
    assert server.get().body == b"ABCDEF"


def test_a_wrapped_file_that_shrinks_ends_the_connection(wsgi, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    server = wsgi(app("start_response('200 OK', [('Content-Length', '200')])",
                      f"return environ['wsgi.file_wrapper'](open({str(path)!r}, 'rb'))"))
    server.expect("100 bytes shorter than its Content-Length")
    with server.connect() as client, pytest.raises(ConnectionEnded):
        client.get()


def test_early_hints_are_sent_before_the_response(wsgi):
    server = wsgi(app("environ['wsgi.early_hints']([('Link', '</style.css>; rel=preload')])", OK, "return [b'x']"))
    answer = server.get()
    assert [(hint.status, hint.header("Link")) for hint in answer.interim] == [(103, "</style.css>; rel=preload")]
    assert answer.body == b"x"
    with server.connect() as client:
        assert client.get(version="HTTP/1.0").interim == [], "an old client would not understand them"


def test_requests_are_served_while_another_is_in_the_application(serve, tmp_path):
    server = serve("plain:app", "--workers", 2)
    gate = Gate(tmp_path)
    with server.connect() as client:
        client.request(target=gate.target)
        gate.entered()
        for _ in range(5):
            assert server.get("/").body == b"hello\n"
        gate.open()
        assert client.response().status == 200
