"""What an application keeps of a request is of no effect afterwards: it raises, and never touches another request."""

import gzip

import pytest
from harness import until

KEEPING = """
import json
kept = {}

def tried(call, *arguments):
    try:
        return repr(call(*arguments))
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/keep":
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        kept.update(start_response=start_response, write=write, input=environ["wsgi.input"],
                    hints=environ["wsgi.early_hints"], socket=environ["gunicorn.socket"], environ=environ)
        return [b"kept"]
    body = json.dumps({
        "start_response": tried(kept["start_response"], "200 Other", [("X-Other", "1")]),
        "write": tried(kept["write"], b"of another request"),
        "read": tried(kept["input"].read),
        "readline": tried(kept["input"].readline),
        "hints": tried(kept["hints"], [("Link", "</other>")]),
        "fileno": tried(kept["socket"].fileno),
        "recv": tried(lambda: kept["socket"].recv(1)),
        "path": kept["environ"]["PATH_INFO"],
    }).encode()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body]
"""


@pytest.mark.parametrize("threads", [1, 3])
def test_what_was_kept_raises_in_the_next_request_and_leaves_it_alone(wsgi, threads):
    server = wsgi(KEEPING, "--threads", threads)
    with server.connect() as client:
        assert client.post("/keep", b"a body").body == b"kept"
        answer = client.get("/try")
    said = answer.json()
    assert answer.interim == [] and answer.header("X-Other") is None
    assert said.pop("path") == "/keep", "the environ is the application's own"
    for name, text in said.items():
        assert "its request had ended" in text, (name, text)


def test_what_was_kept_raises_from_a_thread_while_another_request_runs(wsgi):
    server = wsgi("""
        import threading, queue
        orders, answers = queue.Queue(), queue.Queue()

        def outlive(write, stream):
            orders.get()
            for call in (lambda: write(b"stray"), stream.read):
                try:
                    answers.put(repr(call()))
                except Exception as error:
                    answers.put(str(error))

        def app(environ, start_response):
            if environ["PATH_INFO"] == "/begin":
                write = start_response("200 OK", [("Content-Length", "2")])
                threading.Thread(target=outlive, args=(write, environ["wsgi.input"]), daemon=True).start()
                return [b"ok"]
            orders.put("now")
            body = f"{answers.get()}|{answers.get()}".encode()
            start_response("200 OK", [("Content-Length", str(len(body)))])
            return [body]
    """)
    with server.connect() as client:
        assert client.post("/begin", b"unread").body == b"ok"
        said = client.get("/then").text.split("|")
    assert len(said) == 2 and all("its request had ended" in text for text in said), said


def test_objects_are_used_again_only_if_nobody_keeps_them(wsgi):
    """The same start_response may serve two requests, but not if the first one still has it."""
    server = wsgi("""
        kept = []
        def app(environ, start_response):
            kept.append(start_response)
            body = str(len(set(map(id, kept)))).encode()
            start_response("200 OK", [])
            return [body]
    """)
    with server.connect() as client:
        assert [client.get().body for _ in range(3)] == [b"1", b"2", b"3"]


def test_a_request_leaves_no_object_behind(wsgi):
    server = wsgi("""
        import gc, os, weakref

        class Body:
            def __iter__(self):
                return iter([b"x"])

        alive = weakref.WeakSet()

        def app(environ, start_response):
            if environ["PATH_INFO"] == "/count":
                gc.collect()
                body = f"{len(alive)} {len(os.listdir('/proc/self/fd'))}".encode()
                start_response("200 OK", [])
                return [body]
            body = Body()
            alive.add(body)
            environ["gunicorn.socket"].getpeername()
            if environ["PATH_INFO"] == "/raise":
                raise ValueError("with the body in its frame")
            start_response("200 OK", [])
            return body
    """)
    server.expect("with the body in its frame")
    with server.connect() as client:
        client.get("/")
        before = client.get("/count").text
    for _ in range(5):
        server.get("/raise")
    with server.connect() as client:
        for _ in range(20):
            client.get("/")
        after = client.get("/count").text
    assert before.split()[0] == "0" and after == before


# Files


def test_a_file_that_translates_what_it_reads_is_not_sent_raw(wsgi, tmp_path):
    """gzip's files have a fileno, of the compressed file: Gunicorn sends that."""
    path = tmp_path / "text.gz"
    path.write_bytes(gzip.compress(b"the text\n" * 1000))
    server = wsgi(f"""
        import gzip
        def app(environ, start_response):
            start_response("200 OK", [])
            return environ["wsgi.file_wrapper"](gzip.open({str(path)!r}))
    """)
    assert server.get().body == b"the text\n" * 1000


def test_a_file_goes_on_where_the_application_has_stopped_reading(wsgi, tmp_path):
    """A buffered reader's descriptor stands further on: Gunicorn sends from there."""
    path = tmp_path / "text"
    path.write_bytes(b"0123456789" * 5000)
    server = wsgi(f"""
        def app(environ, start_response):
            file = open({str(path)!r}, "rb")
            file.read(3)
            start_response("200 OK", [])
            return environ["wsgi.file_wrapper"](file)
    """)
    answer = server.get()
    assert answer.body == (b"0123456789" * 5000)[3:]
    assert answer.header("Content-Length") == str(50000 - 3)


def test_an_unflushed_temporary_file_is_sent_whole(wsgi):
    server = wsgi("""
        import tempfile
        def app(environ, start_response):
            file = tempfile.TemporaryFile()
            file.write(b"not yet written")
            file.seek(4)
            start_response("200 OK", [])
            return environ["wsgi.file_wrapper"](file)
    """)
    assert server.get().body == b"yet written"


def test_a_lane_is_free_while_a_slow_client_gets_a_file(wsgi, tmp_path):
    path = tmp_path / "large"
    path.write_bytes(bytes(range(256)) * (1 << 16))
    server = wsgi(f"""
        def app(environ, start_response):
            if environ["PATH_INFO"] == "/file":
                start_response("200 OK", [])
                return environ["wsgi.file_wrapper"](open({str(path)!r}, "rb"))
            start_response("200 OK", [])
            return [b"free"]
    """)
    with server.connect() as slow:
        slow.request("GET", "/file")
        assert server.get("/").body == b"free", "the only lane serves others"
        assert slow.response().body == path.read_bytes()


# Clients that leave


def test_a_client_that_leaves_a_stream_stops_it_with_one_debug_record(wsgi, tmp_path):
    closed = tmp_path / "closed"
    server = wsgi(f"""
        import pathlib
        def app(environ, start_response):
            start_response("200 OK", [])
            try:
                while True:
                    yield b"x" * 10000
            finally:
                pathlib.Path({str(closed)!r}).touch()
    """, "--log-level", "debug")
    with server.connect() as client:
        client.request()
        client.socket.recv(1000)
    until(closed.exists, "the generator to be closed")
    server.found("a client left before its response was complete", "debug")


def test_write_raises_when_the_client_has_left_and_that_is_no_fault(wsgi):
    server = wsgi("""
        def app(environ, start_response):
            write = start_response("200 OK", [])
            if environ["PATH_INFO"] == "/stream":
                while True:
                    write(b"x" * 100000)
            return [b"fine"]
    """, "--log-level", "debug")
    with server.connect() as client:
        client.request("GET", "/stream")
        client.socket.recv(1000)
    server.found("a client left before its response was complete", "debug")
    assert server.get("/").body == b"fine"


def test_a_forked_child_that_returns_from_the_application_does_not_go_on_as_a_worker(wsgi):
    server = wsgi("""
        import os

        def app(environ, start_response):
            if environ["PATH_INFO"] == "/fork":
                os.fork()
            start_response("200 OK", [])
            return [b"%d" % os.getpid()]
    """)
    with server.connect() as client:
        (worker,) = server.workers
        for _ in range(20):
            assert client.get("/fork").body == b"%d" % worker
    for _ in range(20):
        assert server.get().body == b"%d" % worker
    until(lambda: server.workers == [worker], "the children to be gone")
